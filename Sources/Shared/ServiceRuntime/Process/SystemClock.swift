import Domain
import Glibc
import Synchronization

extension Timestamp {
  /// The wall clock, for a core that never asks it.
  package static var now: Timestamp {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Timestamp(microseconds: Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000)
  }

  /// The same without jumps (``SteadyTime``), for what waits, is timed or ordered within one process.
  package static var steady: Timestamp {
    let (wall, steady) = (Timestamp.now, SystemClock.uptime)
    return SystemClock.steady.withLock { $0.time(wall: wall, steady: steady) }
  }
}

private enum SystemClock {
  static let steady = Mutex(SteadyTime(wall: .now, steady: Self.uptime))

  static var uptime: Duration {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
  }
}
