import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC
import RPCCore

/// A connection that reads. One thread at a time has it.
final class SQLiteReader {
  let connection: SQLiteConnection
  fileprivate var names = SQLiteNames()
  private let policy: Policy

  /// Pages that one reader keeps, 16 MiB: four readers and the writer stay far below 200 MB.
  private static let cacheKibibytes = 16_384

  init(_ configuration: SQLiteStore.Configuration) throws(StoreFailure) {
    self.connection = try SQLiteConnection(
      path: configuration.path, mode: .readOnly, lockPatience: configuration.lockPatience)
    self.policy = configuration.policy
    try self.connection.execute("PRAGMA cache_size = -\(Self.cacheKibibytes)")
    try self.connection.execute("PRAGMA temp_store = MEMORY")
    // Opens the file in fact: what is wrong with it is told now.
    _ = try self.connection.integer("SELECT value FROM facts WHERE name = 'last_version'")
  }

  /// Runs `body` on the store as it is at one moment.
  private func atOneMoment<Result>(
    _ body: (_ version: Int64) throws -> Result
  ) throws -> Result {
    try self.connection.execute("BEGIN")
    defer { try? self.connection.execute("COMMIT") }
    // The first read fixes the moment.
    let version = try self.connection.integer(
      "SELECT value FROM facts WHERE name = 'last_version'")
    return try body(version)
  }

  func lookup(_ addresses: [EntityAddress]) throws -> LookupAnswer {
    try self.atOneMoment { version in
      var answer = LookupAnswer(entities: [], count: 0, version: version)
      answer.entities.reserveCapacity(addresses.count)
      var bytes = 0
      for address in addresses {
        if bytes >= self.policy.maximumBatchBytes { break }
        let stored = try self.entity(at: address)
        bytes += stored?.byteCount ?? 0
        answer.entities.append(stored)
        answer.count += 1
      }
      return answer
    }
  }

  private func entity(at address: EntityAddress) throws(StoreFailure) -> StoredEntity? {
    guard
      let collection = try self.names.collection(address.collection, on: self.connection)
    else { return nil }
    return try self.connection.with(
      "SELECT version, created, content FROM entities WHERE collection = ? AND path = ?"
    ) { (statement) throws(StoreFailure) -> StoredEntity? in
      statement.bind(1, collection)
      try statement.bind(2, address.path.bytes)
      return try statement.step() ? try statement.storedEntity(in: self.connection) : nil
    }
  }

  func areTaken(_ addresses: [EntityAddress]) throws -> [Bool] {
    try self.atOneMoment { _ in
      try addresses.map { address in
        guard
          let collection = try self.names.collection(address.collection, on: self.connection)
        else { return false }
        return try self.connection.isTaken(address.path, in: collection)
      }
    }
  }

  func run(
    _ query: ResolvedQuery, isCancelled: @escaping () -> Bool
  ) throws -> QueryAnswer {
    try self.atOneMoment { version in
      let index = SQLiteIndex(
        reader: self,
        collection: try self.names.collection(query.collection, on: self.connection))
      let run = try QueryRun(query, on: index, policy: self.policy, isCancelled: isCancelled)
      let batch = try run.batch()
      return QueryAnswer(
        results: batch.results.map {
          QueryAnswer.Result(position: $0.position, stored: $0.stored?.stored)
        },
        skipped: batch.skipped, skippedPosition: batch.skippedPosition,
        endPosition: batch.endPosition, rest: batch.rest.withoutStored, version: version,
        plan: run.plan, scanned: batch.scanned)
    }
  }
}

extension QueryBatch.Rest {
  /// The same, of batches of stored entities.
  fileprivate var withoutStored: QueryBatch<StoredEntity>.Rest {
    switch self {
    case .notFinished: .notFinished
    case .afterLimit: .afterLimit
    case .afterCursor: .afterCursor
    case .nothing: .nothing
    }
  }
}

extension SQLiteConnection {
  /// Whether an id must not be given again.
  func isTaken(_ path: PathBytes, in collection: Int64) throws(StoreFailure) -> Bool {
    try self.with(
      """
      SELECT EXISTS (SELECT 1 FROM entities WHERE collection = ?1 AND path = ?2)
        OR EXISTS (SELECT 1 FROM reserved_ids WHERE collection = ?1 AND path = ?2)
      """
    ) { (statement) throws(StoreFailure) -> Bool in
      statement.bind(1, collection)
      try statement.bind(2, path.bytes)
      return try statement.step() && statement.integer(0) != 0
    }
  }
}

extension SQLiteStatement {
  /// The entity in a row of version, time of creation and content.
  func storedEntity(in connection: SQLiteConnection) throws(StoreFailure) -> StoredEntity {
    let content = self.bytes(2)
    return StoredEntity(
      entity: try DatastoreV1.Entity(stored: content, in: connection.path),
      version: StoredVersion(
        version: self.integer(0), createTime: Timestamp(microseconds: self.integer(1))),
      byteCount: content.count)
  }
}

extension DatastoreV1.Entity {
  /// Reads what a store has.
  init(stored content: [UInt8], in file: String) throws(StoreFailure) {
    do throws(MessageDecodingError) {
      self = try Self(decoding: content)
    } catch {
      throw StoreFailure(.corrupt, "\(file): a stored entity cannot be read: \(error)")
    }
  }

  /// The rows that indexes hold of it.
  func indexEntries(in file: String) throws(StoreFailure) -> [IndexEntry] {
    do throws(GatewayError) {
      let key = self.key ?? DatastoreV1.Key()
      let scope = try EntityCodec.Scope(
        project: key.partitionID?.projectID ?? "", database: key.partitionID?.databaseID ?? "")
      return try EntityCodec.entity(self, key: EntityCodec.key(key, in: scope)).indexEntries
    } catch {
      throw StoreFailure(.corrupt, "\(file): a stored entity is not valid: \(error)")
    }
  }
}

/// One collection's indexes at one moment.
struct SQLiteIndex: EntityIndex {
  struct Stored: StoredEntityFacts {
    var stored: StoredEntity
    var file: String

    var byteCount: Int { self.stored.byteCount }

    func indexEntries() throws(StoreFailure) -> [IndexEntry] {
      try self.stored.entity.indexEntries(in: self.file)
    }
  }

  let reader: SQLiteReader
  /// `nil` if nothing was ever stored there.
  let collection: Int64?

  func rows(of index: IndexName, _ range: RowRange) throws(StoreFailure) -> SQLiteRows {
    guard let collection = self.collection else { return SQLiteRows() }
    switch index {
    case .kind:
      return try SQLiteRows(self.reader.connection, kind: collection, range)
    case .property(let name):
      guard
        let property = try self.reader.names.property(
          name, of: collection, on: self.reader.connection)
      else { return SQLiteRows() }
      return try SQLiteRows(self.reader.connection, property: property, range)
    }
  }

  func row(at path: PathBytes) throws(StoreFailure) -> IndexRow? {
    guard let collection = self.collection else { return nil }
    return try self.reader.connection.with(
      "SELECT id FROM entities WHERE collection = ? AND path = ?"
    ) { (statement) throws(StoreFailure) -> IndexRow? in
      statement.bind(1, collection)
      try statement.bind(2, path.bytes)
      guard try statement.step() else { return nil }
      return IndexRow(value: [], path: path, entity: statement.integer(0), isRepeated: false)
    }
  }

  func row(
    of property: Name, value: [UInt8], at path: PathBytes
  ) throws(StoreFailure) -> IndexRow? {
    guard let collection = self.collection,
      let property = try self.reader.names.property(
        property, of: collection, on: self.reader.connection)
    else { return nil }
    return try self.reader.connection.with(
      """
      SELECT entity, repeated FROM property_rows WHERE property = ? AND value = ? AND path = ?
      """
    ) { (statement) throws(StoreFailure) -> IndexRow? in
      statement.bind(1, property)
      try statement.bind(2, value)
      try statement.bind(3, path.bytes)
      guard try statement.step() else { return nil }
      return IndexRow(
        value: value, path: path, entity: statement.integer(0),
        isRepeated: statement.integer(1) != 0)
    }
  }

  func load(_ row: IndexRow) throws(StoreFailure) -> Stored {
    let connection = self.reader.connection
    return try connection.with("SELECT version, created, content FROM entities WHERE id = ?") {
      (statement) throws(StoreFailure) -> Stored in
      statement.bind(1, row.entity)
      guard try statement.step() else {
        throw StoreFailure(
          .corrupt, "\(connection.path): an index row names entity \(row.entity), which is missing")
      }
      return Stored(
        stored: try statement.storedEntity(in: connection), file: connection.path)
    }
  }
}

/// A scan of index rows: a statement that is being stepped.
final class SQLiteRows: IndexRows {
  private let connection: SQLiteConnection?
  private var statement: SQLiteStatement?
  private let hasValues: Bool

  /// No rows.
  init() {
    self.connection = nil
    self.statement = nil
    self.hasValues = false
  }

  convenience init(
    _ connection: SQLiteConnection, kind: Int64, _ range: RowRange
  ) throws(StoreFailure) {
    try self.init(connection, Self.kindScan(range), of: kind)
  }

  convenience init(
    _ connection: SQLiteConnection, property: Int64, _ range: RowRange
  ) throws(StoreFailure) {
    try self.init(connection, Self.propertyScan(range), of: property)
  }

  private init(
    _ connection: SQLiteConnection, _ scan: Scan, of index: Int64
  ) throws(StoreFailure) {
    let statement = try connection.take(scan.text)
    self.connection = connection
    self.statement = statement
    self.hasValues = scan.hasValues
    statement.bind(1, index)
    for (number, value) in scan.values.enumerated() {
      try statement.bind(Int32(number) + 2, value)
    }
  }

  /// A scan's statement, and the values of its parameters behind the index' number.
  struct Scan {
    var text: String
    var values: [[UInt8]] = []
    var hasValues: Bool
  }

  static func kindScan(_ range: RowRange) -> Scan {
    var scan = Scan(
      text: "SELECT path, id, 0 FROM entities WHERE collection = ?", hasValues: false)
    Self.add(range.lower, ">", column: "path", &scan.text, &scan.values)
    Self.add(range.upper, "<", column: "path", &scan.text, &scan.values)
    scan.text += range.isReversed ? " ORDER BY path DESC" : " ORDER BY path"
    return scan
  }

  static func propertyScan(_ range: RowRange) -> Scan {
    var scan = Scan(
      text: "SELECT path, entity, repeated, value FROM property_rows WHERE property = ?",
      hasValues: true)
    if let value = range.onlyValue {
      // Rows of one value: they stand by path.
      scan.text += " AND value = ?"
      scan.values.append(value)
      Self.add(range.lower, ">", column: "path", &scan.text, &scan.values)
      Self.add(range.upper, "<", column: "path", &scan.text, &scan.values)
    } else {
      Self.add(range.lower, ">", &scan.text, &scan.values)
      Self.add(range.upper, "<", &scan.text, &scan.values)
    }
    scan.text += range.isReversed ? " ORDER BY value DESC, path DESC" : " ORDER BY value, path"
    return scan
  }

  deinit {
    if let statement = self.statement { self.connection?.giveBack(statement) }
  }

  func next() throws(StoreFailure) -> IndexRow? {
    guard let statement = self.statement else { return nil }
    guard try statement.step() else {
      // Stepped again, it would begin anew.
      self.statement = nil
      self.connection?.giveBack(statement)
      return nil
    }
    return IndexRow(
      value: self.hasValues ? statement.bytes(3) : [],
      path: PathBytes(bytes: statement.bytes(0)), entity: statement.integer(1),
      isRepeated: statement.integer(2) != 0)
  }

  /// A bound on paths; one on values alone bounds no path.
  private static func add(
    _ bound: RowBound, _ sign: String, column: String, _ text: inout String,
    _ values: inout [[UInt8]]
  ) {
    guard case .row(_, let path, let isIncluded) = bound else { return }
    text += " AND \(column) \(sign)\(isIncluded ? "=" : "") ?"
    values.append(path)
  }

  /// A bound on values, and on paths below one of them.
  private static func add(
    _ bound: RowBound, _ sign: String, _ text: inout String, _ values: inout [[UInt8]]
  ) {
    switch bound {
    case .none: break
    case .value(let value, let isIncluded):
      text += " AND value \(sign)\(isIncluded ? "=" : "") ?"
      values.append(value)
    case .row(let value, let path, let isIncluded):
      text += " AND (value, path) \(sign)\(isIncluded ? "=" : "") (?, ?)"
      values.append(value)
      values.append(path)
    }
  }
}

extension RowRange {
  /// The value that all rows of the range have, if its bounds say so.
  fileprivate var onlyValue: [UInt8]? {
    func value(_ bound: RowBound) -> [UInt8]? {
      switch bound {
      case .value(let value, isIncluded: true), .row(let value, _, _): value
      case .none, .value(_, isIncluded: false): nil
      }
    }
    guard let lower = value(self.lower), lower == value(self.upper) else { return nil }
    return lower
  }
}
