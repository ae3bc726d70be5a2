import DatastoreGatewayCore

/// A database's content at one moment; gateways may go on writing it meanwhile.
final class PostgresSnapshot: StoreSnapshot {
  private let connection: PostgresConnection
  let version: Int64

  /// Rows that come in one go: each may have a megabyte.
  private static let pageRows = 100

  /// - Throws: The database cannot be reached or read, or is no store.
  init(_ address: PostgresAddress) throws(StoreFailure) {
    self.connection = try PostgresConnection(address, patience: .seconds(10))
    guard try PostgresSchema.isReady(self.connection) else {
      throw StoreFailure(.other, "\(address): there is no store in this database")
    }
    let rows = try self.connection.run([
      // The whole of each table is read, in any order.
      PostgresQuery("SET enable_seqscan = on"), PostgresQuery("SET enable_hashjoin = on"),
      // Whoever reads may take a while over what it was given.
      PostgresQuery("SET idle_in_transaction_session_timeout = 0"),
      PostgresQuery("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
      PostgresQuery("SELECT value FROM facts WHERE name = 'last_version'"),
    ])
    self.version = try rows[4].onlyInteger("the greatest version", in: address.description)
  }

  var place: String { self.connection.address.description }

  func nextID() throws(StoreFailure) -> Int64 {
    let rows = try self.connection.run(
      PostgresQuery("SELECT value FROM facts WHERE name = 'next_id'"))
    return try rows.onlyInteger("the counter of ids", in: self.place)
  }

  /// PostgreSQL's own checks (`pg_amcheck`, checksums of pages) are the server's.
  func ownFaults() throws(StoreFailure) -> [String] { [] }

  func forEachEntity(
    _ body: (SnapshotEntity) throws(StoreFailure) -> Void
  ) throws(StoreFailure) {
    try self.forEachRow(
      "entities",
      """
      SELECT collection, path, long_path, version, created, content, name
        FROM entities LEFT JOIN collections ON collections.id = collection
      """
    ) { (rows, row) throws(StoreFailure) in
      try body(
        SnapshotEntity(
          row: 0, collection: rows.integer(row, 0), collectionName: rows.optionalBytes(row, 6),
          path: Self.whole(rows.bytes(row, 1), rows.optionalBytes(row, 2), .path),
          version: rows.integer(row, 3), created: rows.integer(row, 4),
          content: rows.bytes(row, 5)))
    }
  }

  func forEachIndexRow(
    _ body: (SnapshotIndexRow) throws(StoreFailure) -> Void
  ) throws(StoreFailure) {
    try self.forEachRow(
      "property_rows",
      """
      SELECT collection, name, value, long_value, path, long_path, repeated
        FROM property_rows LEFT JOIN properties ON properties.id = property
      """
    ) { (rows, row) throws(StoreFailure) in
      let isKnown = !rows.isNull(row, 0)
      try body(
        SnapshotIndexRow(
          collection: isKnown ? rows.integer(row, 0) : nil,
          property: isKnown ? Name(rows.text(row, 1)) : nil,
          value: Self.whole(rows.bytes(row, 2), rows.optionalBytes(row, 3), .value),
          path: Self.whole(rows.bytes(row, 4), rows.optionalBytes(row, 5), .path), entity: 0,
          isRepeated: rows.flag(row, 6)))
    }
  }

  func forEachReservation(
    _ body: (EntityAddress) throws(StoreFailure) -> Void
  ) throws(StoreFailure) {
    try self.forEachRow(
      "reserved_ids",
      "SELECT name, path FROM reserved_ids JOIN collections ON id = collection"
    ) { (rows, row) throws(StoreFailure) in
      let path = PathBytes(bytes: rows.bytes(row, 1))
      // Of one that was cut only a digest is left.
      guard (try? path.elements()) != nil, path.bytes.count <= CutKey.Limit.path.rawValue else {
        return
      }
      try body(EntityAddress(collection: CollectionName(bytes: rows.bytes(row, 0)), path: path))
    }
  }

  /// A key that was cut, whole; as it is stored where the two do not belong together, so that it is
  /// found to be no entity's.
  private static func whole(
    _ stored: [UInt8], _ long: [UInt8]?, _ limit: CutKey.Limit
  ) -> [UInt8] {
    guard let long, CutKey(long, limit).stored == stored else { return stored }
    return long
  }

  private func forEachRow(
    _ table: String, _ text: String,
    _ body: (PostgresRows, Int) throws(StoreFailure) -> Void
  ) throws(StoreFailure) {
    let cursor = "all_\(table)"
    _ = try self.connection.run(PostgresQuery("DECLARE \(cursor) NO SCROLL CURSOR FOR \(text)"))
    while true {
      let rows = try self.connection.run(PostgresQuery("FETCH \(Self.pageRows) FROM \(cursor)"))
      for row in 0..<rows.count { try body(rows, row) }
      if rows.count < Self.pageRows { break }
    }
    _ = try self.connection.run(PostgresQuery("CLOSE \(cursor)"))
  }
}
