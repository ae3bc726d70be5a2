import BuildProtos
import DatastoreGatewayCore
import Domain

/// A connection that reads, made when it is needed and again when it was lost. One thread at a time
/// has it.
final class PostgresReader {
  let session: PostgresSession
  let names: PostgresNames
  let policy: Policy
  /// What begins a transaction goes out with its first statement.
  private var isBeginDue = false
  /// The store's version in the transaction that is open.
  private var version: Int64 = 0
  /// Whether the transaction stays open for further reads.
  private var isHolding = false

  init(_ session: PostgresSession, names: PostgresNames, policy: Policy) {
    self.session = session
    self.names = names
    self.policy = policy
  }

  var place: String { self.session.address.description }

  // MARK: - Moments

  /// Runs `body` on the store as it is at one moment. What reads can be done again, so it is if the
  /// connection was lost, once.
  func atOneMoment<Result>(_ body: () throws -> Result) throws -> Result {
    if self.isHolding { return try body() }
    return try self.session.retryingOnce {
      self.isBeginDue = true
      defer { self.isBeginDue = false }
      let result = try body()
      if !self.isBeginDue { _ = try self.session.connection().run(PostgresQuery("COMMIT")) }
      return result
    }
  }

  /// Begins a transaction for several reads, each of which then sees this moment.
  ///
  /// - Returns: The store's version.
  func hold() throws -> Int64 {
    precondition(!self.isHolding, "A reader holds one moment at a time")
    return try self.session.retryingOnce {
      let connection = try self.session.connection()
      // The server ends it where nobody ends the transaction: what it holds cannot be cleaned up.
      _ = try connection.run(
        PostgresQuery(
          "SET idle_in_transaction_session_timeout = \(self.policy.transactionIdle.microseconds / 1_000)"
        ))
      self.isBeginDue = true
      let version = try self.currentVersion()
      self.isHolding = true
      return version
    }
  }

  /// Whether it holds this moment; else what is read now is of another.
  func holds(_ moment: Int64) -> Bool { self.isHolding && self.version == moment }

  func release() {
    self.isHolding = false
    self.session.rollBack()
  }

  /// Runs statements at the moment of the transaction that is open.
  func run(_ queries: [PostgresQuery]) throws(StoreFailure) -> [PostgresRows] {
    // Another connection would see another moment.
    if self.isHolding && !self.session.isConnected {
      throw StoreFailure(.unreachable, "\(self.place): the connection of a transaction was lost")
    }
    let connection = try self.session.connection()
    if !self.isBeginDue { return try connection.run(queries) }
    let begin = [
      PostgresQuery("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
      PostgresQuery("SELECT value FROM facts WHERE name = 'last_version'"),
    ]
    let rows = try connection.run(begin + queries)
    self.isBeginDue = false
    self.version = try rows[1].onlyInteger("the greatest version", in: self.place)
    return Array(rows.dropFirst(2))
  }

  func run(_ query: PostgresQuery) throws(StoreFailure) -> PostgresRows {
    try self.run([query])[0]
  }

  /// The store's version at the moment of the transaction that is open.
  func currentVersion() throws(StoreFailure) -> Int64 {
    if self.isBeginDue { _ = try self.run([PostgresQuery]()) }
    return self.version
  }

  // MARK: - Names

  /// The numbers of collections; those of which nothing was ever stored have none.
  func collections(
    _ wanted: Set<CollectionName>
  ) throws(StoreFailure) -> [CollectionName: Int64] {
    var found: [CollectionName: Int64] = [:]
    var unknown: [CollectionName] = []
    for name in wanted {
      if let id = self.names.collection(name) { found[name] = id } else { unknown.append(name) }
    }
    if unknown.isEmpty { return found }
    let rows = try self.run(.collectionNumbers(unknown))
    let learnt = rows.collectionNumbers(of: unknown)
    self.names.learn(learnt, [:])
    return found.merging(learnt) { $1 }
  }

  func property(_ name: Name, of collection: Int64) throws(StoreFailure) -> Int64? {
    if let id = self.names.property(name, of: collection) { return id }
    let rows = try self.run(
      PostgresQuery(
        "SELECT id FROM properties WHERE collection = $1 AND name_key = $2",
        .integer(collection), .bytes(name.cutName.stored)))
    guard rows.count == 1 else { return nil }
    let id = rows.integer(0, 0)
    self.names.learn([:], [PostgresNames.Property(collection: collection, name: name): id])
    return id
  }

  // MARK: - Lookups

  /// Looks up what several callers ask for, each one's answer at one moment, in one statement where
  /// all names are known.
  func lookup(_ calls: [[EntityAddress]]) throws -> [LookupAnswer] {
    let addresses = calls.flatMap { $0 }
    if !self.isHolding, addresses.allSatisfy({ self.names.collection($0.collection) != nil }) {
      return try self.session.retryingOnce {
        let ids = try self.collections(Set(addresses.map(\.collection)))
        return try self.lookup(calls, ids) { (query) throws(StoreFailure) in
          try self.session.connection().run(query)
        }
      }
    }
    return try self.atOneMoment {
      let ids = try self.collections(Set(addresses.map(\.collection)))
      return try self.lookup(calls, ids) { (query) throws(StoreFailure) in try self.run(query) }
    }
  }

  /// - Parameter moment: That of which the entities are read, where it is over.
  func lookup(
    _ calls: [[EntityAddress]], _ ids: [CollectionName: Int64], at moment: Int64? = nil,
    _ run: (PostgresQuery) throws(StoreFailure) -> PostgresRows
  ) throws(StoreFailure) -> [LookupAnswer] {
    var collections: [Int64] = []
    var paths: [[UInt8]?] = []
    for address in calls.joined() {
      // 0 is the number of no collection.
      collections.append(ids[address.collection] ?? 0)
      paths.append(address.cutPath.stored)
    }
    var parameters: [PostgresValue] = [
      .integers(collections), .byteStrings(paths),
      .integer(Int64(self.policy.maximumBatchBytes * calls.count)),
    ]
    var entities = "entities"
    if let moment {
      parameters.append(.integer(moment))
      entities = "\(PostgresPast.entities(at: "$\(parameters.count)")) AS entities"
    }
    // Of entities behind those that fill the answer only the version comes.
    let rows = try run(
      PostgresQuery(
        """
        SELECT 0::bigint, value, 0::bigint, NULL::bytea FROM facts WHERE name = 'last_version'
        UNION ALL
        SELECT found.number, found.version, found.created,
          CASE WHEN found.total - found.size < $3 THEN found.content END
        FROM (
          SELECT wanted.number, entities.version, entities.created, entities.content,
            octet_length(entities.content)::bigint AS size,
            (sum(octet_length(entities.content)) OVER (ORDER BY wanted.number))::bigint AS total
          FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY
            AS wanted (collection, path, number)
          JOIN \(entities) ON entities.collection = wanted.collection
            AND entities.path = wanted.path) AS found
        """, parameters: parameters))
    var version: Int64 = 0
    var found: [StoredEntity?] = Array(repeating: nil, count: collections.count)
    var cutAt = collections.count
    for row in 0..<rows.count {
      let number = Int(rows.integer(row, 0))
      if number == 0 {
        version = rows.integer(row, 1)
      } else if let content = rows.optionalBytes(row, 3) {
        found[number - 1] = try StoredEntity(
          content, version: rows.integer(row, 1), created: rows.integer(row, 2), in: self.place)
      } else {
        cutAt = min(cutAt, number - 1)
      }
    }
    var answers: [LookupAnswer] = []
    var begin = 0
    for call in calls {
      var answer = LookupAnswer(entities: [], count: 0, version: version)
      var bytes = 0
      for number in begin..<(begin + call.count) where number < cutAt {
        if bytes >= self.policy.maximumBatchBytes { break }
        bytes += found[number]?.byteCount ?? 0
        answer.entities.append(found[number])
        answer.count += 1
      }
      begin += call.count
      answers.append(answer)
    }
    return answers
  }

  func areTaken(_ addresses: [EntityAddress]) throws -> [Bool] {
    try self.atOneMoment {
      let ids = try self.collections(Set(addresses.map(\.collection)))
      let rows = try self.run(
        PostgresQuery(
          """
          SELECT EXISTS (SELECT 1 FROM entities WHERE entities.collection = wanted.collection
              AND entities.path = wanted.path)
            OR EXISTS (SELECT 1 FROM reserved_ids WHERE reserved_ids.collection = wanted.collection
              AND reserved_ids.path = wanted.path)
          FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY
            AS wanted (collection, path, number)
          ORDER BY wanted.number
          """, .integers(addresses.map { ids[$0.collection] ?? 0 }),
          .byteStrings(addresses.map(\.cutPath.stored))))
      return addresses.indices.map { rows.flag($0, 0) }
    }
  }

  // MARK: - Queries

  func run(
    _ query: ResolvedQuery, isCancelled: @escaping () -> Bool
  ) throws -> QueryAnswer {
    try self.atOneMoment {
      try QueryAnswer(
        query, on: PostgresIndexes(reader: self), policy: self.policy,
        version: self.currentVersion(), isCancelled: isCancelled)
    }
  }

  func run(
    _ aggregation: ResolvedAggregation, isCancelled: @escaping () -> Bool
  ) throws -> AggregationAnswer {
    try self.atOneMoment {
      try AggregationAnswer(
        aggregation, on: PostgresIndexes(reader: self), policy: self.policy,
        version: self.currentVersion(), isCancelled: isCancelled)
    }
  }

  func plan(_ query: ResolvedQuery) throws -> QueryPlan {
    try self.atOneMoment {
      try QueryPlan(query, on: PostgresIndexes(reader: self), policy: self.policy)
    }
  }
}

extension StoredEntity {
  init(
    _ content: [UInt8], version: Int64, created: Int64, in place: String
  ) throws(StoreFailure) {
    self.init(
      content: try StoredContent.opened(content, in: place),
      version: StoredVersion(version: version, createTime: Timestamp(microseconds: created)),
      place: place)
  }
}

extension PostgresQuery {
  static func collectionNumbers(_ names: [CollectionName]) -> Self {
    Self(
      """
      SELECT wanted.number, collections.id
      FROM unnest($1::bytea[]) WITH ORDINALITY AS wanted (name, number)
      JOIN collections ON collections.name_key = wanted.name
      """, .byteStrings(names.map(\.cutName.stored)))
  }
}

extension PostgresRows {
  /// What ``PostgresQuery/collectionNumbers(_:)`` answered.
  func collectionNumbers(of names: [CollectionName]) -> [CollectionName: Int64] {
    var found: [CollectionName: Int64] = [:]
    for row in 0..<self.count { found[names[Int(self.integer(row, 0)) - 1]] = self.integer(row, 1) }
    return found
  }
}

extension PostgresReader: LookupReader {
  func lookup(
    _ batch: [[EntityAddress]],
    answered: (_ number: Int, Result<LookupAnswer, any Error>) -> Void
  ) {
    do {
      for (number, answer) in try self.lookup(batch).enumerated() {
        answered(number, .success(answer))
      }
    } catch let error as StoreFailure where error.kind == .corrupt && batch.count > 1 {
      // Only who asks for a damaged entity suffers for it.
      for (number, addresses) in batch.enumerated() {
        answered(number, Result { try self.lookup([addresses])[0] })
      }
    } catch {
      for number in batch.indices { answered(number, .failure(error)) }
    }
  }
}
