import DatastoreGatewayCore
import Domain
import Logging
import NIOPosix
import RPC
import ServiceRuntime
import Synchronization

/// Entities in a PostgreSQL database, which several gateways may share: one thread writes many
/// callers' commits at a time, a few threads read; each has a connection of its own.
///
/// A commit is answered when the server has it on its disk. Reads see every answered commit,
/// whichever gateway answered it.
package final class PostgresStore: EntityStore {
  /// What can be set of it.
  package struct Configuration: Sendable {
    package var address: PostgresAddress
    package var readers = 4
    package var limits = SQLiteStore.Limits()
    package var policy = Policy()
    /// How long the server may take to let one connection in.
    package var connectPatience = Duration.seconds(5)
    /// How long a batch of commits waits for a server that has gone away to come back, and a gateway
    /// that starts for one that is not there yet.
    package var patience = Duration.seconds(15)

    package init(_ address: PostgresAddress) {
      self.address = address
    }
  }

  private struct Waiting: Sendable {
    var work: PostgresWriter.Work
    var continuation: CheckedContinuation<PostgresWriter.Outcome, any Error>
  }

  private struct Lookup: Sendable {
    var addresses: [EntityAddress]
    var continuation: CheckedContinuation<LookupAnswer, any Error>
  }

  /// A connection on its way between threads; `@unchecked`: one has it at a time, either the list
  /// of idle ones or the thread that took it out.
  private struct Held<Connection>: @unchecked Sendable {
    let connection: Connection
  }

  private let configuration: Configuration
  private let logger: Logger
  private let metrics: Metrics
  private let writing = NIOThreadPool(numberOfThreads: 1)
  private let reading: NIOThreadPool
  private let writer: Held<PostgresWriter>
  private let idleReaders: Mutex<[Held<PostgresReader>]>
  private let holds: PostgresHolds
  private let waitingReads = Atomic(0)
  /// Lookups of few keys, which wait for a thread that does several of them in one statement.
  private let lookups = Mutex<[Lookup]>([])
  private let group: Mutex<GroupCommitMachine<Waiting>>
  private let ids = Mutex(IDSequence())
  private let lastTrouble = Mutex<StoreFailure?>(nil)
  private let drained = Mutex<[CheckedContinuation<Void, Never>]>([])

  /// How long a refused read should wait: some reads' time.
  private static let readRetryDelay = Duration.milliseconds(50)
  /// Keys of a lookup that others share a statement with: two entities of the greatest size are
  /// below what one answer may hold.
  private static let sharedLookupKeys = 2
  /// Lookups in one statement: at most 64 MiB.
  private static let sharedLookups = 32

  /// Connects, and makes the database a store if it is new.
  ///
  /// - Throws: `StoreFailure` with one clear line. A full disk or a server that only reads is no error
  ///   here: what is stored can be read, and ``trouble`` tells it.
  package init(
    _ configuration: Configuration, metrics: Metrics, logger: Logger,
    clock: @escaping @Sendable () -> Timestamp = { .now }
  ) throws(StoreFailure) {
    self.configuration = configuration
    self.logger = logger
    self.metrics = metrics
    let names = PostgresNames()
    let writer = PostgresWriter(
      configuration.address, names: names, connectPatience: configuration.connectPatience,
      patience: configuration.patience, policy: configuration.policy, clock: clock)
    try writer.prepare(within: configuration.patience)
    do throws(StoreFailure) {
      _ = try writer.write([.probe])
      try writer.forgetOldWriters()
    } catch  where error.kind == .full || error.kind == .readOnly {
      self.lastTrouble.withLock { $0 = error }
    }
    self.writer = Held(connection: writer)
    self.idleReaders = Mutex(
      (0..<configuration.readers).map { _ in
        Held(
          connection: PostgresReader(
            PostgresSession(configuration.address, patience: configuration.connectPatience),
            names: names, policy: configuration.policy))
      })
    self.holds = PostgresHolds(life: configuration.policy.transactionLife) {
      PostgresReader(
        PostgresSession(configuration.address, patience: configuration.connectPatience),
        names: names, policy: configuration.policy)
    }
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
  package var queuedReads: Int { self.waitingReads.load(ordering: .relaxed) }

  // MARK: - Reading

  package func lookup(_ addresses: [EntityAddress]) async throws -> LookupAnswer {
    if addresses.count > Self.sharedLookupKeys {
      return try await self.read { reader in try reader.lookup([addresses])[0] }
    }
    try self.admitRead()
    defer { self.waitingReads.subtract(1, ordering: .relaxed) }
    return try await withCheckedThrowingContinuation { continuation in
      self.lookups.withLock {
        $0.append(Lookup(addresses: addresses, continuation: continuation))
      }
      self.reading.submit { state in
        // Cancelled: the pool ends, which it does only when nobody holds the store.
        guard state == .active else { return }
        self.answerLookups()
      }
    }
  }

  /// Answers those that wait, if no other thread has done so already.
  private func answerLookups() {
    let taken = self.lookups.withLock { lookups in
      let count = min(lookups.count, Self.sharedLookups)
      defer { lookups.removeFirst(count) }
      return Array(lookups.prefix(count))
    }
    if taken.isEmpty { return }
    do {
      let answers = try self.withReader { try $0.lookup(taken.map(\.addresses)) }
      for (lookup, answer) in zip(taken, answers) { lookup.continuation.resume(returning: answer) }
    } catch let error as StoreFailure where error.kind == .corrupt && taken.count > 1 {
      // Only who asks for a damaged entity suffers for it.
      for lookup in taken {
        lookup.continuation.resume(
          with: Result { try self.withReader { try $0.lookup([lookup.addresses])[0] } })
      }
    } catch {
      for lookup in taken { lookup.continuation.resume(throwing: error) }
    }
  }

  // MARK: - Read-only transactions

  package func hold() async throws -> Int64? {
    try await self.admitted { try self.holds.hold() }
  }

  package func release(_ moment: Int64) {
    guard let hold = self.holds.released(moment) else { return }
    self.reading.submit { state in
      if state == .active { try? self.holds.giveBack(hold) }
    }
  }

  package func lookup(
    _ addresses: [EntityAddress], at moment: Int64
  ) async throws -> LookupAnswer {
    if let hold = self.holds.find(moment) {
      return try await self.admitted { try hold.withReader { try $0.lookup([addresses])[0] } }
    }
    var answer = try await self.lookup(addresses)
    try self.check(moment, answer.version)
    answer.version = moment
    return answer
  }

  package func run(_ query: ResolvedQuery, at moment: Int64) async throws -> QueryAnswer {
    if let hold = self.holds.find(moment) {
      return try await self.admitted {
        try hold.withReader { try $0.run(query, isCancelled: { false }) }
      }
    }
    var answer = try await self.run(query)
    try self.check(moment, answer.version)
    answer.version = moment
    return answer
  }

  package func run(
    _ aggregation: ResolvedAggregation, at moment: Int64
  ) async throws -> AggregationAnswer {
    if let hold = self.holds.find(moment) {
      return try await self.admitted {
        try hold.withReader { try $0.run(aggregation, isCancelled: { false }) }
      }
    }
    var answer = try await self.run(aggregation)
    try self.check(moment, answer.version)
    answer.version = moment
    return answer
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

  private func readCancellably<Answer: Sendable>(
    _ body: @escaping @Sendable (PostgresReader, @escaping () -> Bool) throws -> Answer
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

  /// Counts a read, or refuses it; who is let in counts it out.
  private func admitRead() throws(GatewayError) {
    let waiting = self.waitingReads.add(1, ordering: .relaxed).oldValue
    if waiting >= self.configuration.limits.queuedReads {
      self.waitingReads.subtract(1, ordering: .relaxed)
      throw .overloaded(
        what: "reads", limit: "\(self.configuration.limits.queuedReads) reads",
        retryDelay: Self.readRetryDelay)
    }
  }

  private func read<Answer: Sendable>(
    _ body: @escaping @Sendable (PostgresReader) throws -> Answer
  ) async throws -> Answer {
    try await self.admitted { try self.withReader(body) }
  }

  /// Runs what waits on a thread of the readers'.
  private func admitted<Answer: Sendable>(
    _ body: @escaping @Sendable () throws -> Answer
  ) async throws -> Answer {
    try self.admitRead()
    defer { self.waitingReads.subtract(1, ordering: .relaxed) }
    return try await self.reading.runIfActive(body)
  }

  private func withReader<Answer>(
    _ body: (PostgresReader) throws -> Answer
  ) throws -> Answer {
    guard let held = self.idleReaders.withLock({ $0.popLast() }) else {
      preconditionFailure("More threads read than there are connections")
    }
    defer { self.idleReaders.withLock { $0.append(held) } }
    return try body(held.connection)
  }

  // MARK: - Writing

  package func commit(_ commit: Commit) async throws -> CommitAnswer {
    switch try await self.write(.commit(commit), bytes: commit.byteCount) {
    case .committed(let answer): return answer
    case .refused(let error): throw error
    case .idTaken: throw AllocatedIDTaken()
    case .failed(let failure): throw failure
    case .idBlock, .reserved, .probed:
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
    _ work: PostgresWriter.Work, bytes: Int
  ) async throws -> PostgresWriter.Outcome {
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
      self.resumeDrained()
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

  private func resumeDrained() {
    let waiters = self.drained.withLock { waiters in
      defer { waiters.removeAll() }
      return waiters
    }
    for waiter in waiters { waiter.resume() }
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
      if self.group.withLock({ $0.isIdle }) { self.resumeDrained() }
    }
  }
}
