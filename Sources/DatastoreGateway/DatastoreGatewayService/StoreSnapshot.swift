import BuildProtos
import DatastoreGatewayCore
import Domain

/// All that a store has at one moment, for whoever reads the whole of it: a check, a dump.
///
/// Calls block; they are made on a thread that may, one after the other.
protocol StoreSnapshot: AnyObject {
  /// Named in messages.
  var place: String { get }
  /// The store's version at the moment.
  var version: Int64 { get }
  /// The counter of ids.
  func nextID() throws(StoreFailure) -> Int64
  /// What the store's own means find to be wrong, a sentence each.
  func ownFaults() throws(StoreFailure) -> [String]
  func forEachEntity(
    _ body: (SnapshotEntity) throws(StoreFailure) -> Void
  ) throws(StoreFailure)
  /// Each row of the indexes of properties.
  func forEachIndexRow(
    _ body: (SnapshotIndexRow) throws(StoreFailure) -> Void
  ) throws(StoreFailure)
  /// Each key whose id must not be allocated.
  func forEachReservation(
    _ body: (EntityAddress) throws(StoreFailure) -> Void
  ) throws(StoreFailure)
}

/// An entity as it stands in a store, right or wrong.
struct SnapshotEntity {
  /// The store's own name for it, 0 where it has none.
  var row: Int64
  /// The number of its collection, and the name that has that number.
  var collection: Int64
  var collectionName: [UInt8]?
  var path: [UInt8]
  var version: Int64
  var created: Int64
  /// As ``StoredContent`` has it.
  var content: [UInt8]

  /// For messages: "entity 7", or by its path where it has no other name.
  var name: String { SnapshotIndexRow.name(row: self.row, path: self.path) }
}

/// An index row as it stands in a store, right or wrong.
struct SnapshotIndexRow: Hashable {
  /// The property's, `nil` where the row is of none.
  var collection: Int64?
  var property: Name?
  var value: [UInt8]
  var path: [UInt8]
  /// The store's own name for the entity, 0 where it has none.
  var entity: Int64
  var isRepeated: Bool

  var entityName: String { Self.name(row: self.entity, path: self.path) }

  fileprivate static func name(row: Int64, path: [UInt8]) -> String {
    if row != 0 { return "entity \(row)" }
    return "entity " + (PathBytes(bytes: path).text ?? "of an unreadable path")
  }
}
