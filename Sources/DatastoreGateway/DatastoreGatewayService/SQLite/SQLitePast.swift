import DatastoreGatewayCore
import Synchronization

/// What the writer replaced, for the threads that read.
final class SQLitePast: Sendable {
  private let table: Mutex<PastTable>

  init(maximumBytes: Int, maximumAge: Duration) {
    self.table = Mutex(
      PastTable(version: 0, maximumBytes: maximumBytes, maximumAge: maximumAge))
  }

  var bytes: Int { self.table.withLock { $0.bytes } }

  // MARK: - The writer

  /// Nothing earlier than the file's last version is known.
  func opened(at version: Int64) { self.lost(upTo: version) }

  func lost(upTo version: Int64) { self.table.withLock { $0.lost(upTo: version) } }

  func undone(after version: Int64) { self.table.withLock { $0.undone(after: version) } }

  func replaced(
    at address: EntityAddress, version: StoredVersion, content: [UInt8], until: Int64
  ) {
    self.table.withLock {
      $0.replaced(at: address, version: version, content: content, until: until)
    }
  }

  // MARK: - Readers

  /// What each of these was at a moment; `nil` where the reader sees the same still.
  func entities(
    at addresses: [EntityAddress], moment: Int64, visible: Int64
  ) throws(GatewayError) -> [PastTable.Past?] {
    try self.table.withLock { (table) throws(GatewayError) in
      try self.check(moment, in: table)
      return addresses.map { table.entity(at: $0, moment: moment, visible: visible) }
    }
  }

  func entities(
    of collection: CollectionName, moment: Int64, visible: Int64
  ) throws(GatewayError) -> [(path: PathBytes, past: PastTable.Past)] {
    try self.table.withLock { (table) throws(GatewayError) in
      try self.check(moment, in: table)
      return table.entities(of: collection, moment: moment, visible: visible)
    }
  }

  private func check(_ moment: Int64, in table: borrowing PastTable) throws(GatewayError) {
    if table.isKept(moment) { return }
    throw .past(
      "The requested 'read_time' is too old: it is \(table.first - moment) microseconds before "
        + "the earliest that is kept.")
  }
}
