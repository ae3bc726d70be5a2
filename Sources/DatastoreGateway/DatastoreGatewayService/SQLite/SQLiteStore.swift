import DatastoreGatewayCore
import Domain
import Logging
import NIOPosix
import RPC
import ServiceRuntime
import Synchronization

/// Entities in one SQLite file: one thread writes, many callers' commits at a time; a few threads
/// read, each on a connection of its own.
///
/// A commit is answered when the file's log that holds it is on the disk. Reads see every answered
/// commit, for they begin after it.
package final class SQLiteStore: EntityStore {
  /// What can be set of it.
  package struct Configuration: Sendable {
    package var path: String
    package var readers = 4
    package var limits = Limits()
    package var policy = Policy()
    /// Pages of 4 KiB that the log takes before it is moved into the file: 16 MiB. More makes
    /// moving rarer, restarts longer and the pause larger.
    package var checkpointPages = 4_096
    /// How long a call waits for another process that holds the file.
    package var lockPatience = Duration.seconds(2)
    /// What entities were before they were changed is kept in memory, so much of it and so long.
    package var pastBytes = 32 << 20
    package var pastAge = Duration.seconds(3_600)
    /// Pages that the file may have; `nil` for as many as the disk takes.
    package var maximumPages: Int?

    package init(path: String) {
      self.path = path
    }
  }

  /// Bounds of what waits.
  package struct Limits: Sendable, Hashable {
    package var batchCommits = 1_024
    package var batchBytes = 8 << 20
    package var queuedCommits = 8_192
    package var queuedBytes = 128 << 20
    /// Reads that may wait for a thread. Each holds a call open.
    package var queuedReads = 8_192

    package init() {}

    func machine<Element>() -> GroupCommitMachine<Element>.Limits {
      var limits = GroupCommitMachine<Element>.Limits()
      limits.batchCommits = self.batchCommits
      limits.batchBytes = self.batchBytes
      limits.queuedCommits = self.queuedCommits
      limits.queuedBytes = self.queuedBytes
      return limits
    }
  }

  fileprivate struct Waiting: Sendable {
    var work: SQLiteWriter.Work
    var continuation: CheckedContinuation<SQLiteWriter.Outcome, any Error>
  }

  /// A connection on its way between threads; `@unchecked`: one has it at a time, either the list
  /// of idle ones or the thread that took it out.
  private struct Held<Connection>: @unchecked Sendable {
    let connection: Connection
  }

  private let configuration: Configuration
  private let logger: Logger
  private let metrics: Metrics
  private let clock: @Sendable () -> Timestamp
  private let writing = NIOThreadPool(numberOfThreads: 1)
  private let reading: NIOThreadPool
  private let writer: Held<SQLiteWriter>
  private let past: SQLitePast
  private let idleReaders: Mutex<[Held<SQLiteReader>]>
  private let waitingReads = Atomic(0)
  private let group: Mutex<GroupCommitMachine<Waiting>>
  private let ids = Mutex(IDSequence())
  private let lastTrouble = Mutex<StoreFailure?>(nil)
  private let drained = Mutex<[CheckedContinuation<Void, Never>]>([])

  /// How long a refused read should wait: some reads' time.
  private static let readRetryDelay = Duration.milliseconds(50)

  /// Opens the file, or makes it.
  ///
  /// - Throws: `StoreFailure` with one clear line. A full disk is no error here: what is stored can
  ///   be read, and ``trouble`` tells it.
  package init(
    _ configuration: Configuration, metrics: Metrics, logger: Logger,
    clock: @escaping @Sendable () -> Timestamp = { .now }
  ) throws(StoreFailure) {
    self.configuration = configuration
    self.logger = logger
    self.metrics = metrics
    self.clock = clock
    let past = SQLitePast(
      maximumBytes: configuration.pastBytes, maximumAge: configuration.pastAge)
    self.past = past
    let writer = try SQLiteWriter(configuration, past: past, clock: clock)
    do throws(StoreFailure) {
      _ = try writer.write([.probe])
    } catch  where error.kind == .full {
      self.lastTrouble.withLock { $0 = error }
    }
    self.writer = Held(connection: writer)
    var readers: [Held<SQLiteReader>] = []
    for _ in 0..<configuration.readers {
      readers.append(
        Held(
          connection: try SQLiteReader(configuration, past: past)))
    }
    self.idleReaders = Mutex(readers)
    self.reading = NIOThreadPool(numberOfThreads: configuration.readers)
    self.group = Mutex(GroupCommitMachine(limits: configuration.limits.machine()))
    self.writing.start()
    self.reading.start()
  }

  deinit {
    self.writing.shutdownGracefully { _ in }
    self.reading.shutdownGracefully { _ in }
  }

  package var trouble: StoreFailure? { self.lastTrouble.withLock { $0 } }
  package var queuedCommits: Int { self.group.withLock { $0.queuedCommits } }
  /// Whether nothing waits and nothing is being written.
  package var isIdle: Bool { self.group.withLock { $0.isIdle } }
  package var pastBytes: Int { self.past.bytes }
  package var queuedReads: Int { self.waitingReads.load(ordering: .relaxed) }

  // MARK: - Reading

  package func lookup(_ addresses: [EntityAddress]) async throws -> LookupAnswer {
    try await self.read { reader in try reader.lookup(addresses) }
  }

  package func areTaken(_ addresses: [EntityAddress]) async throws -> [Bool] {
    try await self.read { reader in try reader.areTaken(addresses) }
  }

  package func run(_ query: ResolvedQuery) async throws -> QueryAnswer {
    try await self.readCancellably { try $0.run(query, isCancelled: $1) }
  }

  package func run(_ aggregation: ResolvedAggregation) async throws -> AggregationAnswer {
    try await self.readCancellably { try $0.run(aggregation, isCancelled: $1) }
  }

  package func plan(_ query: ResolvedQuery) async throws -> QueryPlan {
    try await self.read { reader in try reader.plan(query) }
  }

  package var keepsPast: Bool { true }

  package func lookup(
    _ addresses: [EntityAddress], at moment: Int64
  ) async throws -> LookupAnswer {
    try await self.settled(moment) { isSettled in
      try await self.read { try $0.lookup(addresses, at: moment, isSettled: isSettled) }
    }
  }

  package func run(_ query: ResolvedQuery, at moment: Int64) async throws -> QueryAnswer {
    try await self.settled(moment) { isSettled in
      try await self.readCancellably {
        try $0.run(query, at: moment, isSettled: isSettled, isCancelled: $1)
      }
    }
  }

  package func run(
    _ aggregation: ResolvedAggregation, at moment: Int64
  ) async throws -> AggregationAnswer {
    try await self.settled(moment) { isSettled in
      try await self.readCancellably {
        try $0.run(aggregation, at: moment, isSettled: isSettled, isCancelled: $1)
      }
    }
  }

  /// Reads at a moment; where a commit under way may still get a version up to it, once more behind
  /// that commit.
  private func settled<Answer>(
    _ moment: Int64, _ body: (_ isSettled: Bool) async throws -> Answer
  ) async throws -> Answer {
    do {
      return try await body(false)
    } catch is SQLiteReader.Unsettled {
      do {
        _ = try await self.write(.settle(moment), bytes: 256)
      } catch GatewayError.draining {
        // Reads go on; no commit that comes later is taken.
      } catch is StoreFailure {
        // Nothing can be written now.
      }
      return try await body(true)
    }
  }

  private func readCancellably<Answer: Sendable>(
    _ body: @escaping @Sendable (SQLiteReader, @escaping () -> Bool) throws -> Answer
  ) async throws -> Answer {
    let isCancelled = Flag()
    return try await withTaskCancellationHandler {
      try await self.read { reader in try body(reader) { isCancelled.isSet } }
    } onCancel: {
      isCancelled.set()
    }
  }

  private final class Flag: Sendable {
    private let flag = Atomic(false)

    var isSet: Bool { self.flag.load(ordering: .relaxed) }
    func set() { self.flag.store(true, ordering: .relaxed) }
  }

  private func read<Answer: Sendable>(
    _ body: @escaping @Sendable (SQLiteReader) throws -> Answer
  ) async throws -> Answer {
    let waiting = self.waitingReads.add(1, ordering: .relaxed).oldValue
    defer { self.waitingReads.subtract(1, ordering: .relaxed) }
    if waiting >= self.configuration.limits.queuedReads {
      throw GatewayError.overloaded(
        what: "reads", limit: "\(self.configuration.limits.queuedReads) reads",
        retryDelay: Self.readRetryDelay)
    }
    return try await self.reading.runIfActive {
      guard let held = self.idleReaders.withLock({ $0.popLast() }) else {
        preconditionFailure("More threads read than there are connections")
      }
      defer { self.idleReaders.withLock { $0.append(held) } }
      return try body(held.connection)
    }
  }

  // MARK: - Writing

  package func commit(_ commit: Commit) async throws -> CommitAnswer {
    switch try await self.write(.commit(commit), bytes: commit.byteCount) {
    case .committed(let answer): return answer
    case .refused(let error): throw error
    case .idTaken: throw AllocatedIDTaken()
    case .idBlock, .reserved, .probed, .settled:
      preconditionFailure("A commit was answered with something else")
    }
  }

  package func reserve(_ addresses: [EntityAddress]) async throws {
    _ = try await self.write(.reserve(addresses), bytes: addresses.count * 256)
  }

  package func probe() async {
    _ = try? await self.write(.probe, bytes: 0)
  }

  package func allocateIDs(_ count: Int) async throws -> [Int64] {
    var ids: [Int64] = []
    ids.reserveCapacity(count)
    while true {
      self.ids.withLock { sequence in
        while ids.count < count, let id = sequence.take() { ids.append(id) }
      }
      if ids.count == count { return ids }
      let block = max(IDSequence.blockCount, Int64(count))
      guard
        case .idBlock(let first) = try await self.write(.idBlock(count: block), bytes: 256)
      else { preconditionFailure("A block of ids was answered with something else") }
      self.ids.withLock { $0.blockStored(from: first, count: block) }
    }
  }

  private func write(
    _ work: SQLiteWriter.Work, bytes: Int
  ) async throws -> SQLiteWriter.Outcome {
    try await withCheckedThrowingContinuation { continuation in
      let effect = self.group.withLock {
        $0.commitQueued(Waiting(work: work, continuation: continuation), bytes: bytes)
      }
      switch effect {
      case .none: break
      case .wakeWriter: self.wakeWriter()
      case .refuse(let error): continuation.resume(throwing: error)
      }
    }
  }

  private func wakeWriter() {
    self.writing.submit { state in
      // Cancelled: the pool ends, which it does only when nobody holds the store.
      guard state == .active else { return }
      while let batch = self.group.withLock({ $0.batchTaken() }) {
        let clock = ContinuousClock()
        let begin = clock.now
        self.write(batch)
        let duration = clock.now - begin
        self.group.withLock { $0.batchEnded(after: duration) }
        self.metrics.batchSize.observe(seconds: Double(batch.count))
        self.metrics.batchDuration.observe(duration)
      }
      for waiter in self.drained.withLock({ waiters in
        defer { waiters.removeAll() }
        return waiters
      }) {
        waiter.resume()
      }
    }
  }

  /// Writes a batch and answers everybody in it.
  private func write(_ batch: [Waiting]) {
    do throws(StoreFailure) {
      let outcomes = try self.writer.connection.write(batch.map(\.work))
      self.writesWork()
      for (waiting, outcome) in zip(batch, outcomes) {
        waiting.continuation.resume(returning: outcome)
      }
    } catch {
      self.writesFail(error)
      // One large commit must not take the room from many small ones.
      if error.kind == .full && batch.count > 1 {
        for waiting in batch { self.write([waiting]) }
      } else {
        for waiting in batch { waiting.continuation.resume(throwing: error) }
      }
    }
  }

  private func writesWork() {
    let before = self.lastTrouble.withLock { trouble in
      defer { trouble = nil }
      return trouble
    }
    if before != nil { self.logger.notice("the store takes writes again") }
  }

  private func writesFail(_ failure: StoreFailure) {
    let before = self.lastTrouble.withLock { trouble in
      defer { trouble = failure }
      return trouble
    }
    // Once for each kind of trouble: under load there is one for each batch.
    if before?.kind != failure.kind {
      self.logger.error("the store refuses writes", metadata: ["error": "\(failure)"])
    }
  }

  package func drain() async {
    let isIdle = self.group.withLock { group in
      group.drainBegan()
      return group.isIdle
    }
    if isIdle { return }
    await withCheckedContinuation { continuation in
      // The writer sleeps only after it has looked at the list, below this lock.
      self.drained.withLock { $0.append(continuation) }
      let isIdle = self.group.withLock { $0.isIdle }
      guard isIdle else { return }
      for waiter in self.drained.withLock({ waiters in
        defer { waiters.removeAll() }
        return waiters
      }) {
        waiter.resume()
      }
    }
  }
}
