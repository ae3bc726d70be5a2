import DatastoreGatewayCore
import DequeModule
import NIOPosix
import Synchronization

/// Threads that read a store, each on a connection of its own, and those who wait for one.
///
/// Reads of a bounded number of keys have a thread before long: of scans, which may take seconds, one
/// fewer run at a time than there are threads, where there are several.
final class ReaderPool<Reader>: Sendable {
  private let threads: NIOThreadPool
  private let idle: Mutex<[Held<Reader>]>
  private let scans: Mutex<ScanTurns>
  private let count = Atomic(0)
  private let limit: Int

  /// How long a refused read should wait: some reads' time.
  private static var retryDelay: Duration { .milliseconds(50) }

  /// - Parameter limit: Reads that may run or wait.
  init(_ readers: [Reader], limit: Int) {
    self.idle = Mutex(readers.map { Held(connection: $0) })
    self.scans = Mutex(ScanTurns(limit: max(1, readers.count - 1)))
    self.threads = NIOThreadPool(numberOfThreads: readers.count)
    self.limit = limit
    self.threads.start()
  }

  deinit { self.threads.shutdownGracefully { _ in } }

  /// Reads that run or wait.
  var openReads: Int { self.count.load(ordering: .relaxed) }

  /// Counts a read while it runs or waits, or refuses it.
  func admitted<Answer>(_ body: () async throws -> Answer) async throws -> Answer {
    let before = self.count.add(1, ordering: .relaxed).oldValue
    defer { self.count.subtract(1, ordering: .relaxed) }
    if before >= self.limit {
      throw GatewayError.overloaded(
        what: "reads", limit: "\(self.limit) reads", retryDelay: Self.retryDelay)
    }
    return try await body()
  }

  /// Runs what may wait on a thread of the pool's.
  func onThread<Answer: Sendable>(
    _ body: @escaping @Sendable () throws -> Answer
  ) async throws -> Answer {
    try await self.admitted { try await self.threads.runIfActive(body) }
  }

  /// As ``onThread(_:)``, for what reads as long as it takes: a query, an aggregation.
  ///
  /// - Parameter body: With what tells whether nobody waits any more.
  func scanOnThread<Answer: Sendable>(
    _ body: @escaping @Sendable (_ isCancelled: @escaping () -> Bool) throws -> Answer
  ) async throws -> Answer {
    let isCancelled = Flag()
    return try await withTaskCancellationHandler {
      try await self.admitted {
        await withCheckedContinuation { turn in
          if let turn = self.scans.withLock({ $0.began(turn) }) { turn.resume() }
        }
        defer { self.scans.withLock { $0.ended() }?.resume() }
        return try await self.threads.runIfActive { try body { isCancelled.isSet } }
      }
    } onCancel: {
      isCancelled.set()
    }
  }

  /// As ``onThread(_:)``, for what nobody waits for.
  func submit(_ body: @escaping @Sendable () -> Void) {
    self.threads.submit { state in
      // Cancelled: the pool ends, which it does only when nobody holds the store.
      if state == .active { body() }
    }
  }

  /// On a thread of the pool's.
  func withReader<Answer>(_ body: (Reader) throws -> Answer) rethrows -> Answer {
    guard let held = self.idle.withLock({ $0.popLast() }) else {
      preconditionFailure("More threads read than there are connections")
    }
    defer { self.idle.withLock { $0.append(held) } }
    return try body(held.connection)
  }

  func read<Answer: Sendable>(
    _ body: @escaping @Sendable (Reader) throws -> Answer
  ) async throws -> Answer {
    try await self.onThread { try self.withReader(body) }
  }

  /// - Parameter body: With what tells whether nobody waits any more.
  func scan<Answer: Sendable>(
    _ body: @escaping @Sendable (Reader, @escaping () -> Bool) throws -> Answer
  ) async throws -> Answer {
    try await self.scanOnThread { isCancelled in
      try self.withReader { try body($0, isCancelled) }
    }
  }

  private final class Flag: Sendable {
    private let flag = Atomic(false)

    var isSet: Bool { self.flag.load(ordering: .relaxed) }
    func set() { self.flag.store(true, ordering: .relaxed) }
  }
}

/// Scans that run, and those that wait until one of them ends, in their order.
private struct ScanTurns {
  typealias Turn = CheckedContinuation<Void, Never>

  let limit: Int
  private var running = 0
  private var waiting: Deque<Turn> = []

  init(limit: Int) { self.limit = limit }

  /// - Returns: The same turn, if it is to begin now.
  mutating func began(_ turn: Turn) -> Turn? {
    guard self.running < self.limit else {
      self.waiting.append(turn)
      return nil
    }
    self.running += 1
    return turn
  }

  /// - Returns: Whose turn it is next.
  mutating func ended() -> Turn? {
    if let next = self.waiting.popFirst() { return next }
    self.running -= 1
    return nil
  }
}
