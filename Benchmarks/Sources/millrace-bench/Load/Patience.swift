import RPC

/// Tries again after errors that pass, for a limited time, and counts them.
struct Patience {
  private static let shortestDelay = Duration.milliseconds(50)
  private static let longestDelay = Duration.seconds(2)

  private let end: ContinuousClock.Instant
  private var delay = Self.shortestDelay
  /// The server was full.
  private(set) var refusals = 0
  /// The server, or its answer, was lost.
  private(set) var repetitions = 0

  init(limit: Duration) {
    self.end = .now + limit
  }

  /// What is left of the time.
  var left: Duration { ContinuousClock.now.duration(to: self.end) }

  /// Waits before the call is made again, as long as the server said.
  ///
  /// - Throws: The error itself: it does not pass, or the time is up.
  mutating func wait(after error: RPCError) async throws {
    // The call of a cancelled task fails for that reason alone.
    try Task.checkCancellation()
    switch error.code {
    case .resourceExhausted: self.refusals += 1
    case .unavailable, .deadlineExceeded: self.repetitions += 1
    default: throw error
    }
    let pause = error.retryDelay ?? self.delay
    guard pause < self.left else { throw error }
    try await Task.sleep(for: pause)
    self.delay = min(self.delay * 2, Self.longestDelay)
  }
}
