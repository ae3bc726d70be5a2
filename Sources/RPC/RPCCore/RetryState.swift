/// The attempts at one call: which failure is tried again, and when.
///
/// `A6` of the gRPC project's proposals. The shell starts attempts and tells of their ends; what is
/// committed (a response has begun) is not asked any more.
package struct RetryState: Sendable {
  /// What the server said about trying again, in `grpc-retry-pushback-ms`.
  package enum Pushback: Sendable, Hashable {
    case none
    case after(Duration)
    /// A negative number, or no number.
    case never
  }

  package struct Failure: Sendable, Hashable {
    package var code: StatusCode
    package var pushback: Pushback
    /// The server's application has not seen it, for certain.
    package var isUnprocessed: Bool

    package init(code: StatusCode, pushback: Pushback, isUnprocessed: Bool) {
      self.code = code
      self.pushback = pushback
      self.isUnprocessed = isUnprocessed
    }
  }

  package enum Decision: Sendable, Hashable {
    /// Another attempt after the delay.
    case tryAgain(after: Duration)
    /// The same one, elsewhere: it was refused, and does not count.
    case moveOn(after: Duration)
    /// Other attempts are under way or planned: the call is not over.
    case goOn
    case giveUp
  }

  /// Refusals after which a call goes to the next connection, whatever its policy.
  private static let maximumRefusals = 10
  /// How many of those at once: servers that are being replaced. Then they are too busy.
  private static let immediateRefusals = 3

  private let policy: MethodConfig.Resilience
  /// Attempts that were started, but for those that were refused.
  package private(set) var attempts = 0
  /// Attempts that were promised and have not started.
  private var planned = 0
  private var refused = 0
  /// For the exponent: a push-back begins it anew.
  private var failures = 0
  /// A server has said that it wants no more.
  private var isForbidden = false

  package init(_ policy: MethodConfig.Resilience) {
    self.policy = policy
  }

  private var maximumAttempts: Int {
    switch self.policy {
    case .none: 1
    case .retry(let policy): min(policy.maximumAttempts, RetryPolicy.maximumAttemptsOfAny)
    case .hedge(let policy): min(policy.maximumAttempts, RetryPolicy.maximumAttemptsOfAny)
    }
  }

  /// An attempt begins.
  ///
  /// - Returns: When the next hedge is due, unless the call is decided before.
  package mutating func attemptStarted() -> Duration? {
    self.planned = max(0, self.planned - 1)
    self.attempts += 1
    guard case .hedge(let policy) = self.policy, self.hasAttemptsLeft, !self.isForbidden
    else { return nil }
    return policy.delay
  }

  /// An attempt that was planned will not be made: another one that waits stands for it.
  package mutating func plannedAttemptFell() { self.planned = max(0, self.planned - 1) }

  /// The next hedge is due.
  ///
  /// - Returns: Whether it may still be made; then it counts as planned.
  package mutating func hedgeIsDue(_ throttle: RetryThrottle?) -> Bool {
    guard self.hasAttemptsLeft, !self.isForbidden, throttle?.allowsRetries ?? true else {
      return false
    }
    self.planned += 1
    return true
  }

  /// Several attempts may fail before the next one starts: those that are planned count as well.
  private var hasAttemptsLeft: Bool { self.attempts + self.planned < self.maximumAttempts }

  /// An attempt failed before anything of a response came.
  ///
  /// - Parameters:
  ///   - othersAreOpen: Other attempts are under way.
  ///   - canReplay: All that was sent is still at hand.
  ///   - random: From -1 to 1, for the jitter.
  package mutating func failed(
    _ failure: Failure, othersAreOpen: Bool, canReplay: Bool, throttle: inout RetryThrottle?,
    random: Double
  ) -> Decision {
    guard canReplay else { return othersAreOpen ? .goOn : .giveUp }
    if failure.isUnprocessed, self.refused < Self.maximumRefusals {
      self.refused += 1
      self.attempts -= 1
      self.planned += 1
      let further = self.refused - Self.immediateRefusals
      return .moveOn(after: further <= 0 ? .zero : .milliseconds(10 << further))
    }
    switch self.policy {
    case .none:
      return .giveUp
    case .retry(let policy):
      guard policy.retryableCodes.contains(failure.code) || failure.pushback != .none else {
        return .giveUp
      }
      throttle?.failed()
      guard policy.retryableCodes.contains(failure.code), failure.pushback != .never,
        self.hasAttemptsLeft, throttle?.allowsRetries ?? true
      else { return .giveUp }
      self.planned += 1
      if case .after(let delay) = failure.pushback {
        self.failures = 0
        return .tryAgain(after: delay)
      }
      self.failures += 1
      let maximum = min(policy.maximumBackoff, .century)
      var backoff = min(policy.initialBackoff, maximum)
      for _ in 1..<self.failures where backoff < maximum {
        // As a ratio first: the product of two large ones is no duration.
        guard policy.backoffMultiplier < maximum / backoff else {
          backoff = maximum
          break
        }
        backoff = backoff * policy.backoffMultiplier
      }
      return .tryAgain(after: min(backoff, maximum) * (1 + 0.2 * random))
    case .hedge(let policy):
      guard policy.nonFatalCodes.contains(failure.code) else { return .giveUp }
      throttle?.failed()
      if failure.pushback == .never { self.isForbidden = true }
      guard self.hedgeIsDue(throttle) else { return othersAreOpen ? .goOn : .giveUp }
      if case .after(let delay) = failure.pushback { return .tryAgain(after: delay) }
      return .tryAgain(after: .zero)
    }
  }
}

/// How many failures a channel has seen lately, over all its calls: ``RetryThrottling``.
package struct RetryThrottle: Sendable {
  private let policy: RetryThrottling
  private var tokens: Double

  package init(_ policy: RetryThrottling) {
    self.policy = policy
    self.tokens = policy.maximumTokens
  }

  package var allowsRetries: Bool { self.tokens > self.policy.maximumTokens / 2 }

  package mutating func failed() { self.tokens = max(0, self.tokens - 1) }

  package mutating func succeeded() {
    self.tokens = min(self.policy.maximumTokens, self.tokens + self.policy.tokenRatio)
  }
}
