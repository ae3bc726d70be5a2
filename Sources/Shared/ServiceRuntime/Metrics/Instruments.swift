import Synchronization

/// A number that only grows.
package final class Counter: Sendable {
  private let count = Atomic<Int64>(0)

  package init() {}

  package var value: Int64 { self.count.load(ordering: .relaxed) }

  /// - Precondition: `amount` is not negative.
  package func increment(by amount: Int64 = 1) {
    precondition(amount >= 0, "a counter was decremented by \(-amount)")
    self.count.wrappingAdd(amount, ordering: .relaxed)
  }
}

/// A number that goes up and down.
package final class Gauge: Sendable {
  private let bits = Atomic<UInt64>(Double(0).bitPattern)

  package init() {}

  package var value: Double { Double(bitPattern: self.bits.load(ordering: .relaxed)) }

  package func set(_ value: Double) {
    self.bits.store(value.bitPattern, ordering: .relaxed)
  }

  package func set(_ value: Int) { self.set(Double(value)) }

  package func add(_ amount: Double) {
    var old = self.bits.load(ordering: .relaxed)
    while true {
      let new = (Double(bitPattern: old) + amount).bitPattern
      let result = self.bits.weakCompareExchange(expected: old, desired: new, ordering: .relaxed)
      if result.exchanged { return }
      old = result.original
    }
  }
}

/// How long things take, counted in buckets.
package final class Histogram: Sendable {
  /// From a millisecond, a warm step, to a minute, a slow build's first step.
  package static let defaultBuckets: [Double] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
  ]

  struct State: Sendable {
    /// Observations at or below each bound; the last one counts those above all bounds.
    var counts: [UInt64]
    var sum = 0.0
  }

  let buckets: [Double]
  let state: Mutex<State>

  /// - Precondition: The bounds grow.
  package init(buckets: [Double] = Histogram.defaultBuckets) {
    precondition(
      zip(buckets, buckets.dropFirst()).allSatisfy { $0 < $1 },
      "a histogram's bounds must grow: \(buckets)")
    self.buckets = buckets
    self.state = Mutex(State(counts: Array(repeating: 0, count: buckets.count + 1)))
  }

  package func observe(_ duration: Duration) {
    let parts = duration.components
    self.observe(seconds: Double(parts.seconds) + Double(parts.attoseconds) / 1e18)
  }

  package func observe(seconds: Double) {
    let index = self.buckets.firstIndex { seconds <= $0 } ?? self.buckets.count
    self.state.withLock { state in
      state.counts[index] += 1
      state.sum += seconds
    }
  }

  /// How many were observed.
  package var count: UInt64 { self.state.withLock { $0.counts.reduce(0, +) } }
}
