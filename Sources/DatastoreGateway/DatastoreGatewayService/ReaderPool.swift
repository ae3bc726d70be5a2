import DatastoreGatewayCore
import NIOPosix
import Synchronization

/// Threads that read a store, each on a connection of its own, and those who wait for one.
final class ReaderPool<Reader>: Sendable {
  private let threads: NIOThreadPool
  private let idle: Mutex<[Held<Reader>]>
  private let count = Atomic(0)
  private let limit: Int

  /// How long a refused read should wait: some reads' time.
  private static var retryDelay: Duration { .milliseconds(50) }

  /// - Parameter limit: Reads that may run or wait.
  init(_ readers: [Reader], limit: Int) {
    self.idle = Mutex(readers.map { Held(connection: $0) })
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

  /// - Parameter body: With what tells whether anybody still waits.
  func readCancellably<Answer: Sendable>(
    _ body: @escaping @Sendable (Reader, @escaping () -> Bool) throws -> Answer
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
}
