import Dispatch
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
    var dropped = 0
    var isWriting = false
  }

  private let state = Mutex(State())
  private let queue = DispatchQueue(label: "millrace.log")
  private let descriptor: Int32

  package init(descriptor: Int32) {
    self.descriptor = descriptor
  }

  /// Takes a line, which ends with a newline.
  package func write(_ line: String) {
    let mustStart = self.state.withLock { state in
      guard state.bytes.count + line.utf8.count <= Self.maximumBytes else {
        state.dropped += 1
        return false
      }
      state.bytes += line.utf8
      defer { state.isWriting = true }
      return !state.isWriting
    }
    if mustStart { self.queue.async { self.drain() } }
  }

  /// Waits until what was taken is written, but no longer than `seconds`.
  package func flush(seconds: Double = 1) {
    let done = DispatchSemaphore(value: 0)
    self.queue.async { done.signal() }
    _ = done.wait(timeout: .now() + seconds)
  }

  private func drain() {
    while true {
      let (bytes, dropped) = self.state.withLock { state in
        defer {
          state.bytes = []
          state.dropped = 0
        }
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
