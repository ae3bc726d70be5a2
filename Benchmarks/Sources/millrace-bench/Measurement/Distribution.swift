/// How a number of durations are spread.
struct Distribution: Sendable {
  let count: Int
  let p50: Duration
  let p90: Duration
  let p99: Duration
  let maximum: Duration

  /// Nil without any duration.
  init?(_ durations: [Duration]) {
    let sorted = durations.sorted()
    guard let last = sorted.last else { return nil }
    /// The smallest duration that so many percent do not exceed.
    func percentile(_ percent: Int) -> Duration {
      sorted[max(0, (sorted.count * percent + 99) / 100 - 1)]
    }
    self.count = sorted.count
    self.p50 = percentile(50)
    self.p90 = percentile(90)
    self.p99 = percentile(99)
    self.maximum = last
  }
}

extension Duration {
  var seconds: Double {
    let (seconds, attoseconds) = self.components
    return Double(seconds) + Double(attoseconds) / 1e18
  }
}
