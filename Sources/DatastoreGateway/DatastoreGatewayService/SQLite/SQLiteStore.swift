import DatastoreGatewayCore
import Domain
import Logging
import RPC
import ServiceRuntime

/// Entities in one SQLite file: one thread writes, many callers' commits at a time; a few threads
/// read, each on a connection of its own.
///
/// A commit is answered when the file's log that holds it is on the disk. Reads see every answered
/// commit, for they begin after it.
package final class SQLiteStore: GroupWrittenStore {
  /// What can be set of it.
  package struct Configuration: Sendable {
    package var path: String
    package var readers = 4
    package var limits = StoreLimits()
    package var policy = Policy()
    /// Pages of 4 KiB that the log takes before it begins to be moved into the file: 64 MiB. A page that was
    /// written many times is moved once. More makes moving rarer, and restarts longer.
    package var checkpointPages = 16_384
    /// How long a call waits for another process that holds the file.
    package var lockPatience = Duration.seconds(2)
    /// What entities were before they were changed is kept in memory, so much of it and so long.
    package var pastBytes = 32 << 20
    package var pastAge = Duration.seconds(3_600)
    /// Memory for what lookups found.
    package var cacheBytes = 32 << 20
    /// Pages that the file may have; `nil` for as many as the disk takes.
    package var maximumPages: Int?

    package init(path: String) {
      self.path = path
    }
  }

  /// Keys of a lookup that shares a transaction with others, and how many do.
  private static let sharedLookupKeys = 16
  private static let sharedLookups = 32

  package let writer: GroupWriter
  package var isShared: Bool { false }
  private let readers: ReaderPool<SQLiteReader>
  private let past: SQLitePast
  private let cache: SQLiteCache
  private let maximumAnswerBytes: Int
  private let lookups: SharedLookups<SQLiteReader>

  /// Opens the file, or makes it.
  ///
  /// - Throws: `StoreFailure` with one clear line. A disk that is full or takes no writes is no error
  ///   here: what is stored can be read, and ``trouble`` tells it.
  package init(
    _ configuration: Configuration, metrics: Metrics, logger: Logger,
    clock: @escaping @Sendable () -> Timestamp = { .now }
  ) throws(StoreFailure) {
    let past = SQLitePast(
      maximumBytes: configuration.pastBytes, maximumAge: configuration.pastAge)
    self.past = past
    let cache = SQLiteCache(maximumBytes: configuration.cacheBytes, file: configuration.path)
    self.cache = cache
    self.maximumAnswerBytes = configuration.policy.maximumBatchBytes
    let (writer, trouble) = try Self.writer(configuration, past: past, cache: cache, clock: clock)
    self.writer = GroupWriter(
      writer, limits: configuration.limits, trouble: trouble, metrics: metrics, logger: logger)
    var readers: [SQLiteReader] = []
    for _ in 0..<configuration.readers {
      readers.append(try SQLiteReader(configuration, past: past, cache: cache))
    }
    if writer is RefusingWriter, let reader = readers.first {
      try SQLiteSchema.expect(reader.connection)
      past.opened(at: try reader.lastVersion)
    }
    self.readers = ReaderPool(readers, limit: configuration.limits.queuedReads)
    self.lookups = SharedLookups(
      self.readers, threads: configuration.readers, batchCount: Self.sharedLookups)
  }

  /// What writes, and what is known to ail the file.
  private static func writer(
    _ configuration: Configuration, past: SQLitePast, cache: SQLiteCache,
    clock: @escaping @Sendable () -> Timestamp
  ) throws(StoreFailure) -> (any BatchWriter, StoreFailure?) {
    do throws(StoreFailure) {
      let writer = try SQLiteWriter(configuration, past: past, cache: cache, clock: clock)
      do throws(StoreFailure) {
        _ = try writer.write([.probe])
        return (writer, nil)
      } catch  where error.kind == .full {
        return (writer, error)
      }
    } catch  where error.kind == .readOnly {
      let failure = StoreFailure(
        .readOnly, "\(error); when that can be written again, start the gateway again")
      return (RefusingWriter(failure), failure)
    }
  }

  /// Of a file that cannot be written.
  private final class RefusingWriter: BatchWriter {
    private let failure: StoreFailure

    init(_ failure: StoreFailure) { self.failure = failure }

    func write(_ batch: [WriterWork]) throws(StoreFailure) -> WrittenBatch { throw self.failure }
  }

  package var pastBytes: Int { self.past.bytes }
  package var cachedBytes: Int? { self.cache.bytes }
  package var queuedReads: Int { self.readers.openReads }

  // MARK: - Reading

  package func lookup(_ addresses: [EntityAddress]) async throws -> LookupAnswer {
    // It would keep others waiting.
    if addresses.count > Self.sharedLookupKeys {
      return try await self.readers.read { reader in try reader.lookup(addresses) }
    }
    if let answer = self.cache.answer(addresses, maximumBytes: self.maximumAnswerBytes) {
      return answer
    }
    return try await self.lookups.lookup(addresses)
  }

  package func areTaken(_ addresses: [EntityAddress]) async throws -> [Bool] {
    try await self.readers.read { reader in try reader.areTaken(addresses) }
  }

  package func run(_ query: ResolvedQuery) async throws -> QueryAnswer {
    try await self.readers.scan { try $0.run(query, isCancelled: $1) }
  }

  package func run(_ aggregation: ResolvedAggregation) async throws -> AggregationAnswer {
    try await self.readers.scan { try $0.run(aggregation, isCancelled: $1) }
  }

  package func plan(_ query: ResolvedQuery) async throws -> QueryPlan {
    try await self.readers.read { reader in try reader.plan(query) }
  }

  package func hold() async throws -> Int64 { try await self.lookup([]).version }
  package func release(_ moment: Int64) {}

  package func lookup(
    _ addresses: [EntityAddress], at moment: Int64
  ) async throws -> LookupAnswer {
    try await self.settled(moment) { isSettled in
      try await self.readers.read { try $0.lookup(addresses, at: moment, isSettled: isSettled) }
    }
  }

  package func run(_ query: ResolvedQuery, at moment: Int64) async throws -> QueryAnswer {
    try await self.settled(moment) { isSettled in
      try await self.readers.scan {
        try $0.run(query, at: moment, isSettled: isSettled, isCancelled: $1)
      }
    }
  }

  package func run(
    _ aggregation: ResolvedAggregation, at moment: Int64
  ) async throws -> AggregationAnswer {
    try await self.settled(moment) { isSettled in
      try await self.readers.scan {
        try $0.run(aggregation, at: moment, isSettled: isSettled, isCancelled: $1)
      }
    }
  }
}
