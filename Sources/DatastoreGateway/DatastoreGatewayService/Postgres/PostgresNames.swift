import DatastoreGatewayCore
import Synchronization

/// The numbers of collections and properties in one database, as this process has come to know them.
/// They never change once they are committed, so all connections share them.
final class PostgresNames: Sendable {
  struct Property: Hashable {
    var collection: Int64
    var name: Name
  }

  private struct Known {
    var collections: [CollectionName: Int64] = [:]
    var properties: [Property: Int64] = [:]
  }

  private let known = Mutex(Known())

  /// Names that are kept in memory; with more, all are forgotten and learnt again.
  private static let maximumNames = 100_000

  func collection(_ name: CollectionName) -> Int64? {
    self.known.withLock { $0.collections[name] }
  }

  func property(_ name: Name, of collection: Int64) -> Int64? {
    self.known.withLock { $0.properties[Property(collection: collection, name: name)] }
  }

  /// Another server may have taken the first one's place, without what was last committed there.
  func forget() { self.known.withLock { $0 = Known() } }

  /// - Parameter collections: As committed transactions left them.
  func learn(_ collections: [CollectionName: Int64], _ properties: [Property: Int64]) {
    if collections.isEmpty && properties.isEmpty { return }
    self.known.withLock { known in
      if known.collections.count + collections.count > Self.maximumNames {
        known.collections.removeAll()
      }
      if known.properties.count + properties.count > Self.maximumNames {
        known.properties.removeAll()
      }
      known.collections.merge(collections) { $1 }
      known.properties.merge(properties) { $1 }
    }
  }
}

extension CollectionName {
  var cutName: CutKey { CutKey(self.bytes, .name) }
}

extension Name {
  var cutName: CutKey { CutKey(Array(self.text.utf8), .name) }
}
