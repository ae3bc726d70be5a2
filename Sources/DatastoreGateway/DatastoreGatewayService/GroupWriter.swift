import DatastoreGatewayCore
import Logging
import NIOPosix
import ServiceRuntime
import Synchronization

/// One caller's work for a writer.
enum WriterWork: Sendable {
  case commit(Commit)
  /// Takes so many places of the counter of ids.
  case idBlock(count: Int64)
  case reserve([EntityAddress])
  /// Writes a new greatest version, to see whether writing works.
  case probe
  /// Gives no version up to this one any more.
  case settle(Int64)

  var isForRead: Bool { if case .settle = self { true } else { false } }
}

/// What became of it.
enum WriterOutcome: Sendable {
  case committed(CommitAnswer)
  /// The block begins here.
  case idBlock(first: Int64)
  case reserved
  case probed
  case settled
  case refused(GatewayError)
  case idTaken
  /// Of this work alone.
  case failed(StoreFailure)
}

/// What became of a batch.
struct WrittenBatch: Sendable {
  /// Of each piece of work, in their order.
  var outcomes: [WriterOutcome]
  /// Whether the store took a write: refused commits alone need none.
  var hasWritten: Bool
}

/// What writes to a store. One thread at a time has it, which it may block.
protocol BatchWriter: AnyObject {
  /// Does all of a batch's work in one transaction. When this returns, all of it is durable.
  ///
  /// - Throws: What ails the store; then nothing of the batch was done, unless the failure says that
  ///   this is not known.
  func write(_ batch: [WriterWork]) throws(StoreFailure) -> WrittenBatch
}

/// Bounds of what waits for a store.
package struct StoreLimits: Sendable, Hashable {
  package var batchCommits = 1_024
  package var batchBytes = 8 << 20
  package var queuedCommits = 8_192
  package var queuedBytes = 128 << 20
  /// Reads that may wait for a thread. Each holds a call open.
  package var queuedReads = 8_192

  package init() {}

  fileprivate func machine<Element>() -> GroupCommitMachine<Element>.Limits {
    var limits = GroupCommitMachine<Element>.Limits()
    limits.batchCommits = self.batchCommits
    limits.batchBytes = self.batchBytes
    limits.queuedCommits = self.queuedCommits
    limits.queuedBytes = self.queuedBytes
    return limits
  }
}

/// A connection on its way between threads; `@unchecked`: one has it at a time, whoever took it out of
/// the list of idle ones, or the only thread of a writer.
struct Held<Connection>: @unchecked Sendable {
  let connection: Connection
}

/// Many callers' writes, on one thread, many of them in one transaction of the store.
package final class GroupWriter: Sendable {
  /// What waits and what is under way.
  package struct Load: Hashable, Sendable {
    package var queuedCommits: Int
    /// Nothing waits and nothing is being written.
    package var isIdle: Bool
  }

  private struct Waiting: Sendable {
    var work: WriterWork
    var continuation: CheckedContinuation<WriterOutcome, any Error>
  }

  /// Who waits for a load.
  private struct Watcher: Sendable {
    var isReached: @Sendable (Load) -> Bool
    var continuation: CheckedContinuation<Void, Never>
  }

  private struct State: ~Copyable {
    var machine: GroupCommitMachine<Waiting>
    var watchers: [Watcher] = []

    var load: Load {
      Load(queuedCommits: self.machine.queuedCommits, isIdle: self.machine.isIdle)
    }

    /// Those whose load it is now.
    mutating func reached() -> [Watcher] {
      if self.watchers.isEmpty { return [] }
      let load = self.load
      let reached = self.watchers.filter { $0.isReached(load) }
      self.watchers.removeAll { $0.isReached(load) }
      return reached
    }
  }

  private let writer: Held<any BatchWriter>
  private let thread = NIOThreadPool(numberOfThreads: 1)
  private let state: Mutex<State>
  private let ids = Mutex(IDSequence())
  private let lastTrouble: Mutex<StoreFailure?>
  private let metrics: Metrics
  private let logger: Logger

  /// - Parameter trouble: What is known to ail the store already.
  init(
    _ writer: any BatchWriter, limits: StoreLimits, trouble: StoreFailure?, metrics: Metrics,
    logger: Logger
  ) {
    self.writer = Held(connection: writer)
    self.state = Mutex(State(machine: GroupCommitMachine(limits: limits.machine())))
    self.lastTrouble = Mutex(trouble)
    self.metrics = metrics
    self.logger = logger
    self.thread.start()
  }

  deinit { self.thread.shutdownGracefully { _ in } }

  package var trouble: StoreFailure? { self.lastTrouble.withLock { $0 } }
  package var load: Load { self.state.withLock { $0.load } }

  /// Returns when what waits and what is under way is as a condition has it.
  package func reaches(_ isReached: @escaping @Sendable (Load) -> Bool) async {
    await withCheckedContinuation { continuation in
      let isSo = self.state.withLock { state in
        if isReached(state.load) { return true }
        state.watchers.append(Watcher(isReached: isReached, continuation: continuation))
        return false
      }
      if isSo { continuation.resume() }
    }
  }

  /// Takes no more work; returns when what waits is answered.
  package func drain() async {
    self.change { $0.machine.drainBegan() }
    await self.reaches(\.isIdle)
  }

  // MARK: - Work

  package func commit(_ commit: Commit) async throws -> CommitAnswer {
    switch try await self.write(.commit(commit), bytes: commit.byteCount) {
    case .committed(let answer): return answer
    case .refused(let error): throw error
    case .idTaken: throw AllocatedIDTaken()
    case .failed(let failure): throw failure
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

  /// Returns when no commit gets a version up to this one any more.
  func settle(_ moment: Int64) async throws {
    _ = try await self.write(.settle(moment), bytes: 256)
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
      let first = try await self.idBlock(block)
      self.ids.withLock { $0.blockStored(from: first, count: block) }
    }
  }

  package func skipIDs(below place: Int64) async throws {
    let count = place - (try await self.idBlock(0))
    if count > 0 { _ = try await self.idBlock(count) }
  }

  /// - Returns: Where the block begins.
  private func idBlock(_ count: Int64) async throws -> Int64 {
    guard case .idBlock(let first) = try await self.write(.idBlock(count: count), bytes: 256)
    else { preconditionFailure("A block of ids was answered with something else") }
    return first
  }

  // MARK: - Batches

  /// Changes the state, and tells those who wait for it.
  private func change<Result: Sendable>(_ body: (inout State) -> sending Result) -> Result {
    let (result, reached) = self.state.withLock { state in
      let result = body(&state)
      return (result, state.reached())
    }
    for watcher in reached { watcher.continuation.resume() }
    return result
  }

  private func write(_ work: WriterWork, bytes: Int) async throws -> WriterOutcome {
    try await withCheckedThrowingContinuation { continuation in
      let waiting = Waiting(work: work, continuation: continuation)
      let effect = self.change {
        $0.machine.commitQueued(waiting, bytes: bytes, isForRead: work.isForRead)
      }
      switch effect {
      case .none: break
      case .wakeWriter: self.wake()
      case .refuse(let error): continuation.resume(throwing: error)
      }
    }
  }

  private func wake() {
    self.thread.submit { state in
      // Cancelled: the pool ends, which it does only when nobody holds the store.
      guard state == .active else { return }
      while let batch = self.change({ $0.machine.batchTaken() }) {
        // Before its callers are answered: who was answered finds its batch counted.
        self.metrics.batchSize.observe(seconds: Double(batch.count))
        let clock = ContinuousClock()
        let begin = clock.now
        self.write(batch)
        let duration = clock.now - begin
        self.change { $0.machine.batchEnded(after: duration) }
        self.metrics.batchDuration.observe(duration)
      }
    }
  }

  /// Writes a batch and answers everybody in it.
  private func write(_ batch: [Waiting]) {
    do throws(StoreFailure) {
      let written = try self.writer.connection.write(batch.map(\.work))
      if written.hasWritten { self.writesWork() }
      for (waiting, outcome) in zip(batch, written.outcomes) {
        waiting.continuation.resume(returning: outcome)
      }
    } catch {
      self.writesFail(error)
      // One large commit must not take the room from many small ones, and only who touches a damaged
      // entity suffers for it.
      if [.full, .corrupt].contains(error.kind) && batch.count > 1 {
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
}

/// A store whose writes go through a ``GroupWriter``.
package protocol GroupWrittenStore: EntityStore {
  var writer: GroupWriter { get }
  /// Whether other gateways write to the same: what this one cannot write, another may.
  var isShared: Bool { get }
}

extension GroupWrittenStore {
  package var trouble: StoreFailure? { self.writer.trouble }
  package var queuedCommits: Int { self.writer.load.queuedCommits }

  package func commit(_ commit: Commit) async throws -> CommitAnswer {
    try await self.writer.commit(commit)
  }

  package func reserve(_ addresses: [EntityAddress]) async throws {
    try await self.writer.reserve(addresses)
  }

  package func allocateIDs(_ count: Int) async throws -> [Int64] {
    try await self.writer.allocateIDs(count)
  }

  package func skipIDs(below place: Int64) async throws {
    try await self.writer.skipIDs(below: place)
  }

  package func probe() async { await self.writer.probe() }
  package func drain() async { await self.writer.drain() }

  /// Reads at a moment; where a commit under way may still get a version up to it, once more behind
  /// that commit.
  ///
  /// - Parameter body: Throws ``UnsettledMoment`` for a moment beyond the version that it sees, if it
  ///   is not told that nothing comes between the two any more.
  func settled<Answer>(
    _ moment: Int64, _ body: (_ isSettled: Bool) async throws -> Answer
  ) async throws -> Answer {
    do {
      return try await body(false)
    } catch is UnsettledMoment {
      do {
        try await self.writer.settle(moment)
      } catch let failure as StoreFailure where !self.isShared || failure.kind == .full {
        // Nothing can be written now.
      }
      return try await body(true)
    }
  }
}

/// A commit that is under way may still get a version up to the moment that was to be read.
struct UnsettledMoment: Error {}
