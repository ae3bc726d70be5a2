/// Says when something happens too often: each time takes a token, and time brings tokens back.
package struct TokenBucket: Sendable, Hashable {
  /// How many times at once, and how many more with each second.
  package struct Limit: Sendable, Hashable {
    package var burst: Int
    package var perSecond: Int

    package init(burst: Int, perSecond: Int) {
      self.burst = burst
      self.perSecond = perSecond
    }
  }

  private let limit: Limit
  private var tokens: Int
  /// Up to when tokens were brought back, in seconds.
  private var filledAt: Int64?

  package init(_ limit: Limit) {
    self.limit = limit
    self.tokens = limit.burst
  }

  /// It happened once more; false when that is too often.
  ///
  /// - Parameter second: The time in whole seconds, of any clock that only grows.
  package mutating func take(at second: Int64) -> Bool {
    let passed = second - (self.filledAt ?? second)
    self.filledAt = second
    if passed > 0 {
      let (brought, isMore) = Int(passed).multipliedReportingOverflow(by: self.limit.perSecond)
      self.putBack(isMore ? self.limit.burst : brought)
    }
    guard self.tokens > 0 else { return false }
    self.tokens -= 1
    return true
  }

  /// Something happened that makes up for it.
  package mutating func putBack(_ count: Int = 1) {
    self.tokens += min(count, self.limit.burst - self.tokens)
  }
}
