import CZlib
import RPCCore
import Synchronization

/// Makes single messages smaller, and whole again.
///
/// Safe to use from any thread. zlib's states are large and slow to make, so a few are kept.
package enum MessageCodec {
  /// Why bytes cannot be made whole again. The sender's fault.
  package enum Failure: Error, Hashable, Sendable {
    /// They are not what the encoding says.
    case malformed(Compression)
    /// The message is larger than the limit; how much larger nobody looked.
    case tooLarge(limit: Int)
  }

  /// The compressed form of a message.
  package static func compress(
    _ message: UnsafeRawBufferPointer, _ compression: Compression
  ) -> [UInt8] {
    guard compression != .identity else { return [UInt8](message) }
    let deflater = Pool.shared.takeDeflater(compression)
    defer { Pool.shared.giveBack(deflater) }
    return deflater.compress(message)
  }

  /// The message that was compressed.
  ///
  /// - Parameter limit: The largest message that is accepted, in bytes: memory never grows beyond
  ///   it, whatever the compressed bytes claim.
  package static func decompress(
    _ bytes: UnsafeRawBufferPointer, _ compression: Compression, limit: Int
  ) throws(Failure) -> [UInt8] {
    guard compression != .identity else { return [UInt8](bytes) }
    let inflater = Pool.shared.takeInflater(compression)
    defer { Pool.shared.giveBack(inflater) }
    return try inflater.decompress(bytes, limit: limit)
  }
}

/// zlib states that nobody uses at the moment.
private final class Pool: Sendable {
  static let shared = Pool()
  /// Of each kind; what is given back beyond that is freed.
  private static let maximumIdle = 8

  private struct Idle: @unchecked Sendable {
    // Safe: who takes one out is its only user.
    var deflaters: [Deflater] = []
    var inflaters: [Inflater] = []
  }

  private let idle = Mutex(Idle())

  func takeDeflater(_ compression: Compression) -> Deflater {
    self.idle.withLock { idle in
      idle.deflaters.lastIndex { $0.compression == compression }
        .map { idle.deflaters.remove(at: $0) }
    } ?? Deflater(compression)
  }

  func takeInflater(_ compression: Compression) -> Inflater {
    self.idle.withLock { idle in
      idle.inflaters.lastIndex { $0.compression == compression }
        .map { idle.inflaters.remove(at: $0) }
    } ?? Inflater(compression)
  }

  func giveBack(_ deflater: Deflater) {
    self.idle.withLock { idle in
      if idle.deflaters.count < Self.maximumIdle { idle.deflaters.append(deflater) }
    }
  }

  func giveBack(_ inflater: Inflater) {
    self.idle.withLock { idle in
      if idle.inflaters.count < Self.maximumIdle { idle.inflaters.append(inflater) }
    }
  }
}

extension Compression {
  /// zlib's `windowBits`: the largest window, and 16 more for gzip's header.
  fileprivate var windowBits: Int32 { self == .gzip ? 15 + 16 : 15 }
}

/// `@unchecked Sendable`: used by one thread at a time, see ``Pool``.
private final class Deflater: @unchecked Sendable {
  let compression: Compression
  private let stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)

  init(_ compression: Compression) {
    self.compression = compression
    self.stream.initialize(to: z_stream())
    let result = deflateInit2_(
      self.stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, compression.windowBits, 8,
      Z_DEFAULT_STRATEGY, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
    precondition(result == Z_OK, "zlib: \(result) from deflateInit2")
  }

  deinit {
    deflateEnd(self.stream)
    self.stream.deallocate()
  }

  func compress(_ message: UnsafeRawBufferPointer) -> [UInt8] {
    deflateReset(self.stream)
    // Enough for all of it, so that one call does it.
    let bound = Int(deflateBound(self.stream, UInt(message.count)))
    return [UInt8](unsafeUninitializedCapacity: bound) { target, count in
      self.stream.pointee.next_in = UnsafeMutablePointer(
        mutating: message.bindMemory(to: UInt8.self).baseAddress)
      self.stream.pointee.avail_in = UInt32(message.count)
      self.stream.pointee.next_out = target.baseAddress
      self.stream.pointee.avail_out = UInt32(bound)
      let result = deflate(self.stream, Z_FINISH)
      precondition(result == Z_STREAM_END, "zlib: \(result) from deflate with room for all")
      count = bound - Int(self.stream.pointee.avail_out)
    }
  }
}

/// `@unchecked Sendable`: used by one thread at a time, see ``Pool``.
private final class Inflater: @unchecked Sendable {
  /// Room for the first part; each further part doubles what there is.
  private static let firstBytes = 4 << 10

  let compression: Compression
  private let stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)

  init(_ compression: Compression) {
    self.compression = compression
    self.stream.initialize(to: z_stream())
    let result = inflateInit2_(
      self.stream, compression.windowBits, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
    precondition(result == Z_OK, "zlib: \(result) from inflateInit2")
  }

  deinit {
    inflateEnd(self.stream)
    self.stream.deallocate()
  }

  func decompress(
    _ bytes: UnsafeRawBufferPointer, limit: Int
  ) throws(MessageCodec.Failure) -> [UInt8] {
    // What is beyond is no message, whatever limit is set, and zlib counts in 32 bits.
    let limit = min(limit, Int(Int32.max))
    inflateReset(self.stream)
    self.stream.pointee.next_in = UnsafeMutablePointer(
      mutating: bytes.bindMemory(to: UInt8.self).baseAddress)
    self.stream.pointee.avail_in = UInt32(bytes.count)
    var message: [UInt8] = []
    while true {
      // One byte beyond the limit shows that it is passed.
      let room = min(max(Self.firstBytes, message.count), limit - message.count + 1)
      let held = message.count
      message.append(contentsOf: repeatElement(0, count: room))
      let result = message.withUnsafeMutableBufferPointer { target in
        self.stream.pointee.next_out = target.baseAddress! + held
        self.stream.pointee.avail_out = UInt32(room)
        return inflate(self.stream, Z_NO_FLUSH)
      }
      let filled = room - Int(self.stream.pointee.avail_out)
      message.removeLast(room - filled)
      guard message.count <= limit else { throw .tooLarge(limit: limit) }
      switch result {
      case Z_STREAM_END:
        // What follows the end is no part of any message.
        guard self.stream.pointee.avail_in == 0 else { throw .malformed(self.compression) }
        return message
      case Z_OK where filled > 0 || self.stream.pointee.avail_in > 0:
        continue
      default:
        throw .malformed(self.compression)
      }
    }
  }
}
