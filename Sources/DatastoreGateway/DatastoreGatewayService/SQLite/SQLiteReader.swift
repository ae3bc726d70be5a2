import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC
import RPCCore

/// A connection that reads. One thread at a time has it.
final class SQLiteReader: LookupReader {
  let connection: SQLiteConnection
  var names = SQLiteNames()
  private let policy: Policy
  private let past: SQLitePast
  private let cache: SQLiteCache

  /// Pages that one reader keeps, 8 MiB: what is not there is in the page cache of the system, mostly.
  private static let cacheKibibytes = 8_192

  init(
    _ configuration: SQLiteStore.Configuration, past: SQLitePast, cache: SQLiteCache
  ) throws(StoreFailure) {
    self.connection = try SQLiteConnection(
      path: configuration.path, mode: .readOnly, lockPatience: configuration.lockPatience)
    self.policy = configuration.policy
    self.past = past
    self.cache = cache
    try self.connection.execute(text: "PRAGMA cache_size = -\(Self.cacheKibibytes)")
    try self.connection.execute("PRAGMA temp_store = MEMORY")
    // Opens the file in fact: what is wrong with it is told now.
    _ = try self.lastVersion
  }

  /// The greatest version that was given; in a transaction, that of its moment.
  var lastVersion: Int64 {
    get throws(StoreFailure) {
      try self.connection.integer("SELECT value FROM facts WHERE name = 'last_version'")
    }
  }

  /// Runs `body` on the store as it is at one moment.
  private func atOneMoment<Result>(
    _ body: (_ version: Int64) throws -> Result
  ) throws -> Result {
    try self.connection.execute("BEGIN")
    defer { try? self.connection.execute("COMMIT") }
    // The first read fixes the moment.
    return try body(try self.lastVersion)
  }

  func lookup(_ addresses: [EntityAddress]) throws -> LookupAnswer {
    try self.atOneMoment { version in
      try self.lookup(addresses, version: version) { try self.entity(at: addresses[$0]) }
    }
  }

  /// All of them at one moment.
  func lookup(
    _ batch: [[EntityAddress]], answered: (_ number: Int, Result<LookupAnswer, any Error>) -> Void
  ) {
    var count = 0
    do {
      try self.atOneMoment { version in
        for addresses in batch {
          let answer = Result {
            try self.lookup(addresses, version: version) { try self.entity(at: addresses[$0]) }
          }
          // Before the answer: who asks again because of it finds it in memory.
          if case .success(let answer) = answer { self.cache.read(addresses, answer) }
          answered(count, answer)
          count += 1
        }
      }
    } catch {
      for number in count..<batch.count { answered(number, .failure(error)) }
    }
  }

  private func lookup(
    _ addresses: [EntityAddress], version: Int64,
    _ entity: (_ number: Int) throws -> StoredEntity?
  ) throws -> LookupAnswer {
    var answer = LookupAnswer(entities: [], count: 0, version: version)
    answer.entities.reserveCapacity(addresses.count)
    var bytes = 0
    for number in addresses.indices {
      if bytes >= self.policy.maximumBatchBytes { break }
      let stored = try entity(number)
      bytes += stored?.byteCount ?? 0
      answer.entities.append(stored)
      answer.count += 1
    }
    return answer
  }

  // MARK: - The past

  /// As ``atOneMoment(_:)``, for a moment that may be over.
  ///
  /// - Parameter isSettled: Whether no commit can get a version up to the moment any more, which
  ///   is so of versions that can be seen.
  private func at<Result>(
    _ moment: Int64, isSettled: Bool, _ body: (_ visible: Int64) throws -> Result
  ) throws -> Result {
    try self.atOneMoment { visible in
      if visible < moment && !isSettled { throw UnsettledMoment() }
      return try body(visible)
    }
  }

  func lookup(
    _ addresses: [EntityAddress], at moment: Int64, isSettled: Bool
  ) throws -> LookupAnswer {
    try self.at(moment, isSettled: isSettled) { visible in
      let pasts = try self.past.entities(at: addresses, moment: moment, visible: visible)
      return try self.lookup(addresses, version: moment) { number in
        if let past = pasts[number] {
          return StoredEntity(past, in: self.connection.path)
        }
        let stored = try self.entity(at: addresses[number])
        return stored.flatMap { $0.version.version <= moment ? $0 : nil }
      }
    }
  }

  func run(
    _ query: ResolvedQuery, at moment: Int64, isSettled: Bool,
    isCancelled: @escaping () -> Bool
  ) throws -> QueryAnswer {
    try self.at(moment, isSettled: isSettled) { visible in
      try self.withPast(moment, visible) {
        try QueryAnswer(
          query, on: $0, policy: self.policy, version: moment, isCancelled: isCancelled)
      }
    }
  }

  func run(
    _ aggregation: ResolvedAggregation, at moment: Int64, isSettled: Bool,
    isCancelled: @escaping () -> Bool
  ) throws -> AggregationAnswer {
    try self.at(moment, isSettled: isSettled) { visible in
      try self.withPast(moment, visible) {
        try AggregationAnswer(
          aggregation, on: $0, policy: self.policy, version: moment, isCancelled: isCancelled)
      }
    }
  }

  /// The indexes as they were. What they are made of may be forgotten while they are in use: then
  /// there is no answer.
  private func withPast<Answer>(
    _ moment: Int64, _ visible: Int64,
    _ body: (PastIndexes<SQLiteIndexes>) throws -> Answer
  ) throws -> Answer {
    var refusal: GatewayError?
    let file = self.connection.path
    let indexes = PastIndexes(SQLiteIndexes(reader: self), moment: moment) {
      (collection) throws(StoreFailure) in
      var pasts: [(path: PathBytes, past: PastTable.Past)] = []
      do throws(GatewayError) {
        pasts = try self.past.entities(of: collection, moment: moment, visible: visible)
      } catch {
        refusal = error
      }
      return try pasts.map { (path, past) throws(StoreFailure) in
        try PastEntity(path: path, StoredEntity(past, in: file))
      }
    }
    let answer = try body(indexes)
    if let refusal { throw refusal }
    return answer
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
      try QueryAnswer(
        query, on: SQLiteIndexes(reader: self), policy: self.policy, version: version,
        isCancelled: isCancelled)
    }
  }

  func run(
    _ aggregation: ResolvedAggregation, isCancelled: @escaping () -> Bool
  ) throws -> AggregationAnswer {
    try self.atOneMoment { version in
      try AggregationAnswer(
        aggregation, on: SQLiteIndexes(reader: self), policy: self.policy, version: version,
        isCancelled: isCancelled)
    }
  }

  func plan(_ query: ResolvedQuery) throws -> QueryPlan {
    try self.atOneMoment { _ in
      try QueryPlan(query, on: SQLiteIndexes(reader: self), policy: self.policy)
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
  /// What an entity's column of stored bytes holds.
  func content(_ column: Int32, in connection: SQLiteConnection) throws(StoreFailure) -> [UInt8] {
    try self.withBytes(column) { (bytes) throws(StoreFailure) in
      try StoredContent.opened(bytes, in: connection.path)
    }
  }

  /// The entity in a row of version, time of creation and content.
  func storedEntity(in connection: SQLiteConnection) throws(StoreFailure) -> StoredEntity {
    StoredEntity(
      content: try self.content(2, in: connection),
      version: StoredVersion(
        version: self.integer(0), createTime: Timestamp(microseconds: self.integer(1))),
      place: connection.path)
  }
}

extension StoredEntity {
  /// What an entity was.
  init(_ past: PastTable.Past, in file: String) {
    self.init(content: past.content, version: past.version, place: file)
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

  /// The same as the core has it.
  func core(in file: String) throws(StoreFailure) -> Entity {
    do throws(GatewayError) {
      let key = self.key ?? DatastoreV1.Key()
      let scope = try EntityCodec.Scope(
        project: key.partitionID?.projectID ?? "", database: key.partitionID?.databaseID ?? "")
      return try EntityCodec.entity(self, key: EntityCodec.key(key, in: scope))
    } catch {
      throw StoreFailure(.corrupt, "\(file): a stored entity is not valid: \(error)")
    }
  }

  /// The rows that indexes hold of it.
  func indexEntries(in file: String) throws(StoreFailure) -> [IndexEntry] {
    try self.core(in: file).indexEntries
  }
}
