/// When a child that ended is started again.
package struct RestartPolicy: Hashable, Sendable {
  /// The first delay; a service that ended by accident is back before anybody asks.
  package static let shortestDelay = Duration.milliseconds(200)
  /// No delay is longer, so that a repaired cause is noticed soon.
  package static let longestDelay = Duration.seconds(10)
  /// A child that lived for so long was well.
  package static let wellAfter = Duration.seconds(30)

  private var failures = 0

  package init() {}

  /// A child has ended after `uptime`; how long to wait before the next one.
  package mutating func ended(after uptime: Duration) -> Duration {
    if uptime >= Self.wellAfter { self.failures = 0 }
    defer { self.failures += 1 }
    // Doubling stops well before it could overflow.
    return min(Self.shortestDelay * (1 << min(self.failures, 10)), Self.longestDelay)
  }
}
