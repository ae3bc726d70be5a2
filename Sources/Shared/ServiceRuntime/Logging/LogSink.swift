import Glibc
import Synchronization

/// Lines on their way to a file descriptor, written by a thread of their own.
///
/// Whoever logs never waits: if the reader of the descriptor is stuck, lines are dropped beyond
/// ``maximumBytes``, and their number is logged once it reads again.
package final class LogSink: Sendable {
  /// Some ten thousand lines.
  package static let maximumBytes = 4 << 20

  private struct State {
    var bytes: [UInt8] = []
    /// Bytes that are being written, and may be stuck.
    var writing = 0
    var dropped = 0
    var isWriting = false
  }

  private let state = Mutex(State())
  private let descriptor: Int32
  /// A byte here wakes the thread.
  private let wake: (readEnd: Int32, writeEnd: Int32)

  package init(descriptor: Int32) {
    self.descriptor = descriptor
    var ends: [Int32] = [-1, -1]
    precondition(pipe(&ends) == 0, "no pipe could be made: \(SystemError.last)")
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    self.wake = (ends[0], ends[1])
    let readEnd = ends[0]
    SystemThread.start { [weak self] in
      var byte: UInt8 = 0
      while true {
        let count = read(readEnd, &byte, 1)
        if count == 1 { self?.drain() }
        if count == 0 || (count < 0 && errno != EINTR) { break }
      }
      close(readEnd)
    }
  }

  deinit { close(self.wake.writeEnd) }

  /// Takes a line, which ends with a newline.
  package func write(_ line: String) {
    let mustWake = self.state.withLock { state in
      guard state.writing + state.bytes.count + line.utf8.count <= Self.maximumBytes else {
        state.dropped += 1
        return false
      }
      state.bytes += line.utf8
      defer { state.isWriting = true }
      return !state.isWriting
    }
    var byte: UInt8 = 1
    if mustWake { _ = Glibc.write(self.wake.writeEnd, &byte, 1) }
  }

  /// Waits until what was taken is written, but no longer than a second; for a process that ends.
  package func flush() {
    var pause = timespec(tv_sec: 0, tv_nsec: 1_000_000)
    for _ in 0..<1_000 where self.state.withLock({ $0.isWriting }) { nanosleep(&pause, nil) }
  }

  private func drain() {
    while true {
      let (bytes, dropped) = self.state.withLock { state in
        defer {
          state.bytes = []
          state.dropped = 0
        }
        state.writing = state.bytes.count
        if state.bytes.isEmpty { state.isWriting = false }
        return (state.bytes, state.dropped)
      }
      if bytes.isEmpty { return }
      self.writeAll(bytes)
      if dropped > 0 {
        self.writeAll(
          Array("{\"level\":\"warning\",\"message\":\"\(dropped) log lines were dropped\"}\n".utf8))
      }
    }
  }

  private func writeAll(_ bytes: [UInt8]) {
    bytes.withUnsafeBytes { buffer in
      var rest = buffer[...]
      while !rest.isEmpty {
        let count = Glibc.write(
          self.descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
        if count > 0 {
          rest = rest.dropFirst(count)
        } else if count < 0, errno == EAGAIN {
          var poll = pollfd(fd: self.descriptor, events: Int16(POLLOUT), revents: 0)
          _ = Glibc.poll(&poll, 1, 1_000)
        } else if count < 0, errno == EINTR {
          continue
        } else {
          // Nobody reads any more; a log line is no reason to end.
          return
        }
      }
    }
  }
}
