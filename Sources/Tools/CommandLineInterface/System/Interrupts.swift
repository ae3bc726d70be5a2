import Glibc
import Synchronization

/// Where the signal handler writes. Set once, before the handler is installed.
private nonisolated(unsafe) var pipeEnd: CInt = -1

/// Ctrl-C, SIGTERM and SIGHUP: how often they have come.
package final class Interrupts: Sendable {
  private struct State {
    var count = 0
    var waiters: [Int: (number: Int, continuation: CheckedContinuation<Bool, Never>)] = [:]
    var nextWaiter = 0
  }

  /// This process'. Its first use installs the handler, for the rest of the process.
  package static let shared = Interrupts()

  private let state = Mutex(State())

  private init() {
    var ends: [CInt] = [-1, -1]
    guard pipe(&ends) == 0 else { return }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    pipeEnd = ends[1]
    for number in [SIGINT, SIGTERM, SIGHUP] {
      var action = sigaction()
      action.__sigaction_handler.sa_handler = { number in
        let saved = errno
        var byte = UInt8(truncatingIfNeeded: number)
        _ = write(pipeEnd, &byte, 1)
        errno = saved
      }
      action.sa_flags = SA_RESTART
      sigaction(number, &action, nil)
    }
    let readEnd = ends[0]
    startThread { [self] in
      var byte: UInt8 = 0
      while true {
        let count = read(readEnd, &byte, 1)
        if count == 1 { self.received() }
        if count == 0 || (count < 0 && errno != EINTR) { return }
      }
    }
  }

  /// Suspends until that many have come; false if the task was cancelled before.
  package func reached(_ number: Int) async -> Bool {
    let id = self.state.withLock { state in
      state.nextWaiter += 1
      return state.nextWaiter
    }
    return await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let answer = self.state.withLock { state -> Bool? in
          if state.count >= number { return true }
          if Task.isCancelled { return false }
          state.waiters[id] = (number, continuation)
          return nil
        }
        if let answer { continuation.resume(returning: answer) }
      }
    } onCancel: {
      let waiter = self.state.withLock { $0.waiters.removeValue(forKey: id) }
      waiter?.continuation.resume(returning: false)
    }
  }

  private func received() {
    let woken = self.state.withLock { state in
      state.count += 1
      let ids = state.waiters.filter { $0.value.number <= state.count }.keys
      return ids.compactMap { state.waiters.removeValue(forKey: $0) }
    }
    for waiter in woken { waiter.continuation.resume(returning: true) }
  }
}
