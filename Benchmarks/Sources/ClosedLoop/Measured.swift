import Glibc

/// What the calls of a closed loop took. `@unchecked Sendable`: all tasks run on one event loop.
package final class Measured: @unchecked Sendable {
  private let warm: ContinuousClock.Instant
  package let end: ContinuousClock.Instant
  private let seconds: Double
  /// Tenths of a microsecond.
  private var latencies: [UInt32] = []
  private var errors = 0
  private var lastError = ""

  /// - Parameter seconds: Measured, after one that is not.
  package init(seconds: Double) {
    self.warm = .now + .seconds(1)
    self.end = self.warm + .seconds(seconds)
    self.seconds = seconds
    self.latencies.reserveCapacity(4_000_000)
  }

  package func record(from began: ContinuousClock.Instant, to now: ContinuousClock.Instant) {
    guard now >= self.warm, now < self.end else { return }
    let (seconds, attoseconds) = began.duration(to: now).components
    self.latencies.append(
      UInt32(clamping: seconds * 10_000_000 + attoseconds / 100_000_000_000))
  }

  package func fail(_ error: any Error) {
    self.errors += 1
    self.lastError = "\(error)"
  }

  /// One line, for the script that compares.
  package func json(load: String, concurrency: Int, bytes: Int) -> String {
    let sorted = self.latencies.sorted()
    func quantile(_ share: Double) -> Double {
      sorted.isEmpty
        ? 0 : Double(sorted[min(sorted.count - 1, Int(share * Double(sorted.count)))]) / 10
    }
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    let cpu =
      Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
      + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
    return "{\"mode\":\"\(load)\",\"conc\":\(concurrency),\"bytes\":\(bytes),"
      + "\"rps\":\(Int(Double(sorted.count) / self.seconds)),\"p50_us\":\(quantile(0.5)),"
      + "\"p99_us\":\(quantile(0.99)),\"errs\":\(self.errors),\"cli_cpu_s\":\(cpu)"
      + (self.lastError.isEmpty ? "}" : ",\"error\":\"\(self.lastError)\"}")
  }
}
