import DatastoreGatewayCore

/// A file's content at one moment; a gateway may go on writing it meanwhile.
final class SQLiteSnapshot: StoreSnapshot {
  private let connection: SQLiteConnection
  let version: Int64

  /// - Throws: The file cannot be opened or read, or is no store.
  init(path: String) throws(StoreFailure) {
    self.connection = try SQLiteConnection(
      path: path, mode: .readOnly, lockPatience: .seconds(10))
    try self.connection.execute("BEGIN")
    try SQLiteSchema.expect(self.connection)
    self.version = try self.connection.integer(
      "SELECT value FROM facts WHERE name = 'last_version'")
  }

  var place: String { self.connection.path }

  func nextID() throws(StoreFailure) -> Int64 {
    try self.connection.integer("SELECT value FROM facts WHERE name = 'next_id'")
  }

  func ownFaults() throws(StoreFailure) -> [String] {
    var faults: [String] = []
    try self.forEachRow("PRAGMA integrity_check") { (row) throws(StoreFailure) in
      let line = String(decoding: row.bytes(0), as: UTF8.self)
      if line != "ok" { faults.append("SQLite: \(line)") }
    }
    return faults
  }

  func forEachEntity(
    _ body: (SnapshotEntity) throws(StoreFailure) -> Void
  ) throws(StoreFailure) {
    try self.forEachRow(
      """
      SELECT entities.id, collection, path, version, created, content, name
        FROM entities LEFT JOIN collections ON collections.id = collection ORDER BY entities.id
      """
    ) { (row) throws(StoreFailure) in
      try body(
        SnapshotEntity(
          row: row.integer(0), collection: row.integer(1), collectionName: row.bytes(6),
          path: row.bytes(2), version: row.integer(3), created: row.integer(4),
          content: row.bytes(5)))
    }
  }

  func forEachIndexRow(
    _ body: (SnapshotIndexRow) throws(StoreFailure) -> Void
  ) throws(StoreFailure) {
    try self.forEachRow(
      """
      SELECT properties.id IS NOT NULL, collection, name, value, path, entity, repeated
        FROM property_rows LEFT JOIN properties ON properties.id = property
      """
    ) { (row) throws(StoreFailure) in
      let isKnown = row.integer(0) != 0
      try body(
        SnapshotIndexRow(
          collection: isKnown ? row.integer(1) : nil,
          property: isKnown ? Name(String(decoding: row.bytes(2), as: UTF8.self)) : nil,
          value: row.bytes(3), path: row.bytes(4), entity: row.integer(5),
          isRepeated: row.integer(6) != 0))
    }
  }

  func forEachReservation(
    _ body: (EntityAddress) throws(StoreFailure) -> Void
  ) throws(StoreFailure) {
    try self.forEachRow(
      "SELECT name, path FROM reserved_ids JOIN collections ON id = collection"
    ) { (row) throws(StoreFailure) in
      try body(
        EntityAddress(
          collection: CollectionName(bytes: row.bytes(0)), path: PathBytes(bytes: row.bytes(1))))
    }
  }

  private func forEachRow(
    _ text: StaticString, _ body: (SQLiteStatement) throws(StoreFailure) -> Void
  ) throws(StoreFailure) {
    try self.connection.with(text) { (statement) throws(StoreFailure) in
      while try statement.step() { try body(statement) }
    }
  }
}
