import Glibc
import RPC

/// Protobuf's delimited form on a file descriptor: each message behind its length as a varint.
package enum MessageFrames {
  /// The largest message either side takes: room for a build's record with thousands of jobs, and
  /// a bound on what a babbling plugin can make the runner hold.
  package static let maximumMessageBytes = 4 << 20

  /// What is wrong with the bytes that came in.
  package enum FrameError: Error, Hashable, Sendable, CustomStringConvertible {
    case tooLarge(Int)
    /// Ten bytes or more that claim to be a length.
    case badLength
    /// The stream ended inside a message.
    case truncated
    case undecodable(String)
    case system(String)

    package var description: String {
      switch self {
      case .tooLarge(let size):
        "a message of \(size) bytes; at most \(MessageFrames.maximumMessageBytes) are allowed"
      case .badLength: "bytes that are no length of a message"
      case .truncated: "the stream ended inside a message"
      case .undecodable(let why): "bytes that are no message: \(why)"
      case .system(let why): why
      }
    }
  }

  /// A message with its length before it.
  package static func frame(_ message: some RPCMessage) -> [UInt8] {
    let body = message.encoded()
    var bytes: [UInt8] = []
    bytes.reserveCapacity(body.count + 5)
    var length = UInt64(body.count)
    while length >= 0x80 {
      bytes.append(UInt8(truncatingIfNeeded: length) | 0x80)
      length >>= 7
    }
    bytes.append(UInt8(length))
    bytes += body
    return bytes
  }

  /// Writes all of `bytes`, waiting where the reader is slow.
  package static func write(_ bytes: [UInt8], to descriptor: Int32) throws(FrameError) {
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes { buffer in
        Glibc.write(descriptor, buffer.baseAddress! + done, buffer.count - done)
      }
      if count < 0 {
        if errno == EINTR { continue }
        throw .system("write: \(String(cString: strerror(errno)))")
      }
      done += count
    }
  }

  /// Takes messages off a file descriptor, one at a time. Blocks; belongs on a thread of its own.
  package struct Reader {
    private let descriptor: Int32
    private var buffer: [UInt8] = []
    private var position = 0
    private var chunk = [UInt8](repeating: 0, count: 64 << 10)

    package init(_ descriptor: Int32) {
      self.descriptor = descriptor
    }

    /// The next message; nil at the end of the stream.
    package mutating func next<Message: RPCMessage>(
      _ type: Message.Type
    ) throws(FrameError) -> Message? {
      // What was handed out goes, so that the buffer holds one message and one read at most.
      if self.position == self.buffer.count {
        self.buffer.removeAll(keepingCapacity: true)
        self.position = 0
      } else if self.position > MessageFrames.maximumMessageBytes / 4 {
        self.buffer.removeFirst(self.position)
        self.position = 0
      }
      var length: UInt64 = 0
      var shift: UInt64 = 0
      while true {
        guard let byte = try self.byte() else {
          if shift > 0 { throw .truncated }
          return nil
        }
        length |= UInt64(byte & 0x7F) << shift
        if byte & 0x80 == 0 { break }
        shift += 7
        if shift > 56 { throw .badLength }
      }
      guard length <= UInt64(MessageFrames.maximumMessageBytes) else {
        throw .tooLarge(Int(clamping: length))
      }
      let end = self.position + Int(length)
      while self.buffer.count < end {
        guard try self.fill() else { throw .truncated }
      }
      let body = Array(self.buffer[self.position..<end])
      self.position = end
      do {
        return try Message(decoding: body)
      } catch {
        throw .undecodable("\(error)")
      }
    }

    private mutating func byte() throws(FrameError) -> UInt8? {
      if self.position == self.buffer.count, try !self.fill() { return nil }
      defer { self.position += 1 }
      return self.buffer[self.position]
    }

    /// Reads more bytes; false at the end.
    private mutating func fill() throws(FrameError) -> Bool {
      let descriptor = self.descriptor
      while true {
        let count = self.chunk.withUnsafeMutableBytes {
          Glibc.read(descriptor, $0.baseAddress, $0.count)
        }
        if count > 0 {
          self.buffer += self.chunk[..<count]
          return true
        }
        if count == 0 { return false }
        if errno != EINTR { throw .system("read: \(String(cString: strerror(errno)))") }
      }
    }
  }
}
