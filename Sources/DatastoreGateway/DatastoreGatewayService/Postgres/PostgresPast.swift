import DatastoreGatewayCore
import Domain
import Logging
import Synchronization

/// What entities were before they changed, in tables that all gateways over a database fill with their
/// commits: as much of it as was given room, and not older than an age. Here is what takes care of the
/// room; one thread at a time has the session. Why it is done so is in decision 13.
final class PostgresPast: Sendable {
  private struct State {
    /// What there was when it was last looked at, and what this gateway has added since.
    var measured = 0
    var added = 0
    var nextLook: ContinuousClock.Instant?
    var isLooking = false
  }

  private let state = Mutex(State())
  private let session: Mutex<Held<PostgresSession>>
  private let maximumBytes: Int
  private let maximumAge: Duration
  private let logger: Logger
  private let clock: @Sendable () -> Timestamp

  /// Bytes that a row has besides its content, about, its places in the indexes too.
  private static let rowBytes = 256
  /// What is too old stays so long at most while something is written.
  private static let pause = Duration.seconds(30)

  init(
    _ session: PostgresSession, maximumBytes: Int, maximumAge: Duration, logger: Logger,
    clock: @escaping @Sendable () -> Timestamp
  ) {
    self.session = Mutex(Held(connection: session))
    self.maximumBytes = maximumBytes
    self.maximumAge = maximumAge
    self.logger = logger
    self.clock = clock
  }

  /// Whether this gateway keeps what its commits replace.
  var isKept: Bool { self.maximumBytes > 0 }

  /// What there is of it in the database, about.
  var bytes: Int { self.state.withLock { $0.measured + $0.added } }

  // MARK: - Room

  /// A batch has replaced so many entities.
  ///
  /// - Returns: Whether it is time for ``makeRoom()``, which the caller then calls, from a thread that
  ///   may wait.
  func replaced(_ count: Int, contentBytes: Int) -> Bool {
    if count == 0 || !self.isKept { return false }
    let now = ContinuousClock.now
    return self.state.withLock { state in
      state.added += contentBytes + count * Self.rowBytes
      if state.isLooking { return false }
      let isDue = state.nextLook.map { $0 <= now } ?? false
      if state.nextLook == nil { state.nextLook = now + Self.pause }
      state.isLooking = isDue || state.added > self.maximumBytes / 8
      return state.isLooking
    }
  }

  /// Removes what is too old, and the oldest of what has no room.
  func makeRoom() {
    let before = self.state.withLock { $0.added }
    let left = self.session.withLock { session -> Int? in
      let session = session.connection
      do throws(StoreFailure) {
        return try self.makeRoom(try session.connection())
      } catch {
        // No harm is done before the next time; but nothing may grow without anybody knowing why.
        self.logger.warning(
          "what entities were is not given room", metadata: ["error": "\(error)"])
        session.rollBack()
        return nil
      }
    }
    self.state.withLock { state in
      state.isLooking = false
      state.nextLook = ContinuousClock.now + Self.pause
      guard let left else { return }
      state.measured = left
      state.added -= before
    }
  }

  /// - Returns: The bytes that are left.
  private func makeRoom(_ connection: PostgresConnection) throws(StoreFailure) -> Int {
    let rows = try connection.run(
      PostgresQuery(
        """
        SELECT coalesce(max(until) FILTER (WHERE total > $1 OR until <= $2), 0),
          coalesce(max(total) FILTER (WHERE total <= $1 AND until > $2), 0)
        FROM (
          SELECT until, sum(octet_length(content) + \(Self.rowBytes)) OVER (ORDER BY until DESC)
            AS total
          FROM past) AS sized
        """, .integer(Int64(self.maximumBytes)),
        .integer((self.clock() - self.maximumAge).microseconds)))
    let end = rows.integer(0, 0)
    if end > 0 {
      _ = try connection.run([
        PostgresQuery("BEGIN"),
        PostgresQuery(
          "UPDATE past_begin SET version = $1 WHERE version < $1", .integer(end)),
        PostgresQuery("DELETE FROM past WHERE until <= $1", .integer(end)),
        PostgresQuery("COMMIT"),
      ])
      // So that the tables stay as large as they are, however fast things change.
      _ = try connection.run(PostgresQuery("VACUUM (SKIP_LOCKED) past"))
    }
    return Int(rows.integer(0, 1))
  }

  // MARK: - Statements

  /// The past is whole from a version on, unless it was so before.
  static func begins(at version: Int64) -> PostgresQuery {
    PostgresQuery(
      "INSERT INTO past_begin (version) VALUES ($1) ON CONFLICT DO NOTHING", .integer(version))
  }

  /// The earliest moment that can be read: nothing was forgotten since, and nobody wrote who keeps no
  /// past.
  static let begin = PostgresQuery(
    """
    SELECT greatest(
      coalesce(
        (SELECT version FROM past_begin), (SELECT value FROM facts WHERE name = 'last_version')),
      (SELECT max(value) FROM facts WHERE name LIKE 'writer:%'))
    """)

  /// Remembers when the last one wrote who keeps no past, for when it is forgotten.
  static let rememberOthers = PostgresQuery(
    """
    UPDATE past_begin
      SET version = (SELECT max(value) FROM facts WHERE name LIKE 'writer:%')
      WHERE version < (SELECT max(value) FROM facts WHERE name LIKE 'writer:%')
    """)

  /// The table `entities` as it was at a moment.
  ///
  /// - Parameter moment: What stands for it in the statement.
  static func entities(at moment: String) -> String {
    """
    (SELECT collection, path, version, created, content FROM entities WHERE version <= \(moment)
      UNION ALL
      SELECT collection, path, version, created, content FROM past
        WHERE version <= \(moment) AND until > \(moment))
    """
  }
}

// MARK: - Reading

extension PostgresReader {
  /// As ``atOneMoment(_:)``, for a moment that may be over.
  ///
  /// - Parameters:
  ///   - isSettled: Whether no commit can get a version up to the moment any more, which is so of
  ///     versions that can be seen.
  ///   - body: Told whether the moment is over; else what is stored is what was at the moment.
  private func at<Result>(
    _ moment: Int64, isSettled: Bool, _ body: (_ isOver: Bool) throws -> Result
  ) throws -> Result {
    try self.atOneMoment {
      let version = try self.currentVersion()
      if version <= moment {
        if version < moment && !isSettled { throw UnsettledMoment() }
        return try body(false)
      }
      let begin = try self.run(PostgresPast.begin).integer(0, 0)
      if begin > moment {
        throw GatewayError.past(
          "The requested 'read_time' is too old: it is \(begin - moment) microseconds before "
            + "the earliest that is kept.")
      }
      return try body(true)
    }
  }

  func lookup(
    _ addresses: [EntityAddress], at moment: Int64, isSettled: Bool
  ) throws -> LookupAnswer {
    var answer = try self.at(moment, isSettled: isSettled) { isOver in
      let ids = try self.collections(Set(addresses.map(\.collection)))
      return try self.lookup([addresses], ids, at: isOver ? moment : nil) {
        (query) throws(StoreFailure) in try self.run(query)
      }[0]
    }
    answer.version = moment
    return answer
  }

  func run(
    _ query: ResolvedQuery, at moment: Int64, isSettled: Bool,
    isCancelled: @escaping () -> Bool
  ) throws -> QueryAnswer {
    try self.at(moment, isSettled: isSettled) { isOver in
      let present = PostgresIndexes(reader: self)
      func answer<Indexes: EntityIndexes>(_ indexes: Indexes) throws -> QueryAnswer
      where Indexes.Index.Stored == IndexedEntity {
        try QueryAnswer(
          query, on: indexes, policy: self.policy, version: moment, isCancelled: isCancelled)
      }
      return try isOver ? answer(self.past(of: present, at: moment)) : answer(present)
    }
  }

  func run(
    _ aggregation: ResolvedAggregation, at moment: Int64, isSettled: Bool,
    isCancelled: @escaping () -> Bool
  ) throws -> AggregationAnswer {
    try self.at(moment, isSettled: isSettled) { isOver in
      let present = PostgresIndexes(reader: self)
      func answer<Indexes: EntityIndexes>(_ indexes: Indexes) throws -> AggregationAnswer
      where Indexes.Index.Stored == IndexedEntity {
        try AggregationAnswer(
          aggregation, on: indexes, policy: self.policy, version: moment, isCancelled: isCancelled)
      }
      return try isOver ? answer(self.past(of: present, at: moment)) : answer(present)
    }
  }

  private func past(
    of indexes: PostgresIndexes, at moment: Int64
  ) -> PastIndexes<PostgresIndexes> {
    PastIndexes(indexes, moment: moment) { (collection) throws(StoreFailure) in
      guard let id = try self.collections([collection])[collection] else { return [] }
      let rows = try self.run(
        PostgresQuery(
          """
          SELECT coalesce(long_path, path), version, created, content FROM past
            WHERE collection = $1 AND until > $2 AND version <= $2
          """, .integer(id), .integer(moment)))
      var entities: [PastEntity<IndexedEntity>] = []
      for row in 0..<rows.count {
        let stored = try StoredEntity(
          rows.bytes(row, 3), version: rows.integer(row, 1), created: rows.integer(row, 2),
          in: self.place)
        entities.append(try PastEntity(path: PathBytes(bytes: rows.bytes(row, 0)), stored))
      }
      return entities
    }
  }
}
