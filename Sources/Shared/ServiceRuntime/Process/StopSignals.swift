import Glibc
import Synchronization

/// Why a process is asked to stop.
package enum StopReason: Sendable, Hashable {
  /// SIGTERM or SIGINT.
  case signal(Int32)
  /// The process that started it is gone.
  case parentEnded

  package var description: String {
    switch self {
    case .signal(SIGTERM): "SIGTERM"
    case .signal(SIGINT): "SIGINT"
    case .signal(let number): "signal \(number)"
    case .parentEnded: "the process that started it has ended"
    }
  }
}

/// Where the handler writes. Set once, before the handler is installed.
private nonisolated(unsafe) var signalPipe: Int32 = -1

/// The requests to stop that a process gets.
///
/// A handler, not a blocked mask and not an ignored signal: both of these a child inherits through
/// `exec`, and a step that cannot be asked to stop would have to be killed. The handler writes one
/// byte to a pipe, which a thread reads.
enum StopSignals {
  /// How often a process that must not outlive its parent looks for it. PR_SET_PDEATHSIG is no way
  /// to do that here: it fires when the *thread* that forked ends, and the parent's threads come
  /// and go.
  static let parentCheckInterval = timespec(tv_sec: 0, tv_nsec: 200_000_000)

  /// Begins to listen; call once in a process.
  ///
  /// - Parameter parent: What `MILLRACE_PARENT_DEATH_SIGNAL` says: a process that must not outlive
  ///   its parent is told so with 1, or with the parent's process id.
  static func listen(parent: String?) -> AsyncStream<StopReason> {
    let (stream, continuation) = AsyncStream.makeStream(of: StopReason.self)
    signal(SIGPIPE, SIG_IGN)
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { return stream }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    signalPipe = ends[1]
    for number in [SIGTERM, SIGINT] {
      var action = sigaction()
      action.__sigaction_handler.sa_handler = { number in
        let saved = errno
        var byte = UInt8(truncatingIfNeeded: number)
        _ = write(signalPipe, &byte, 1)
        errno = saved
      }
      action.sa_flags = SA_RESTART
      sigaction(number, &action, nil)
    }
    let readEnd = ends[0]
    SystemThread.start {
      var byte: UInt8 = 0
      while true {
        let count = read(readEnd, &byte, 1)
        if count == 1 { continuation.yield(.signal(Int32(byte))) }
        if count == 0 || (count < 0 && errno != EINTR) { return }
      }
    }
    if let parent = self.parentProcess(parent) {
      SystemThread.start {
        var pause = self.parentCheckInterval
        while getppid() == parent { nanosleep(&pause, nil) }
        continuation.yield(.parentEnded)
      }
    }
    return stream
  }

  private static func parentProcess(_ text: String?) -> pid_t? {
    guard let text, let number = pid_t(text), number > 0 else { return nil }
    if number > 1 { return number }
    let parent = getppid()
    // As a container's first process: its end is the container's.
    return parent > 1 ? parent : nil
  }
}
