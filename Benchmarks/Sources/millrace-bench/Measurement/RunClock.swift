import Glibc
import RPC

/// Moments of a measurement, each as the time since it began.
///
/// The client's own moments are of the monotonic clock. Those of the scheduler's records are of the
/// wall clock, which the stack's processes and this one share; it is read once, at the beginning.
struct RunClock: Sendable {
  private let begin: ContinuousClock.Instant
  /// The beginning, as the time since 1970.
  private let wallBegin: Duration

  init() {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    self.begin = .now
    self.wallBegin = .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
  }

  var now: Duration { self.begin.duration(to: .now) }

  /// The moment that a record names.
  func moment(_ timestamp: GoogleProtobuf.Timestamp) -> Duration {
    .seconds(timestamp.seconds) + .nanoseconds(Int64(timestamp.nanos)) - self.wallBegin
  }

  /// Waits for a moment; returns at once if it has passed.
  func wait(until moment: Duration) async throws {
    guard moment > self.now else { return }
    try await Task.sleep(
      until: self.begin.advanced(by: moment), tolerance: .zero, clock: .continuous)
  }
}
