import CProcess
import Glibc
import Synchronization

/// A file descriptor that is closed with its last owner, or before.
package final class Descriptor: Sendable {
  private let number: Mutex<Int32>

  init(_ number: Int32) {
    self.number = Mutex(number)
  }

  deinit {
    self.close()
  }

  /// -1 once closed.
  package var raw: Int32 { self.number.withLock { $0 } }

  /// Uses it, while nobody closes it: a number that is closed may be another file's at once. For
  /// calls that do not wait.
  func use<Value>(_ body: (Int32) -> Value) -> Value { self.number.withLock { body($0) } }

  package func close() {
    self.number.withLock { number in
      if number >= 0 { _ = Glibc.close(number) }
      number = -1
    }
  }

  /// A pipe that no other program inherits.
  /// A larger one than usual means fewer wake-ups; where that is not allowed it is as usual.
  static func pipe(
    bytes: Int32 = 0
  ) throws(SystemError) -> (read: Descriptor, write: Descriptor) {
    var ends: [Int32] = [-1, -1]
    let result = millrace_pipe(&ends, bytes)
    guard result == 0 else { throw SystemError("make", "a pipe", code: result) }
    return (Descriptor(ends[0]), Descriptor(ends[1]))
  }

  /// Two connected stream sockets that no other program inherits.
  static func socketPair() throws(SystemError) -> (Descriptor, Descriptor) {
    var ends: [Int32] = [-1, -1]
    let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else {
      throw SystemError("make", "a pair of sockets")
    }
    return (Descriptor(ends[0]), Descriptor(ends[1]))
  }

  /// A file in memory with these bytes, which no other program inherits.
  static func memory(_ name: String, _ bytes: [UInt8]) throws(SystemError) -> Descriptor {
    let number = millrace_memory_file(name)
    guard number >= 0 else { throw SystemError("make", "a file in memory", code: -number) }
    let file = Descriptor(number)
    try writeAll(bytes, to: file, path: name)
    return file
  }

  static func open(_ path: String, _ flags: Int32, mode: mode_t = 0o644) throws(SystemError)
    -> Descriptor
  {
    let number = Glibc.open(path, flags | O_CLOEXEC, mode)
    guard number >= 0 else { throw SystemError("open", path) }
    return Descriptor(number)
  }
}
