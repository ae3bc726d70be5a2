import CProtobufC
import RPCCore

// C structs to bytes, by libprotobuf-c.

extension Arena {
  /// Packs a message of that size.
  @inlinable
  func pack(
    _ message: UnsafeMutablePointer<ProtobufCMessage>, _ size: Int,
    to place: UnsafeMutableRawPointer
  ) {
    Self.check(size)
    protobuf_c_message_pack(message, place.assumingMemoryBound(to: UInt8.self))
  }

  /// Packs a message of that size in parts, of which the arrays that are kept here are some.
  @usableFromInline
  @inline(never)
  func pack(
    _ message: UnsafeMutablePointer<ProtobufCMessage>, _ size: Int, to sink: any MessageSink
  ) {
    Self.check(size)
    var parts = Parts(
      buffer: ProtobufCBuffer(append: { buffer, count, bytes in
        UnsafeMutableRawPointer(buffer!).assumingMemoryBound(to: Parts.self).pointee
          .append(UnsafeRawBufferPointer(start: bytes, count: count))
      }),
      sink: sink, arrays: self.state.pointee.arrays)
    withUnsafeMutablePointer(to: &parts) { parts in
      let packed = protobuf_c_message_pack_to_buffer(
        message, UnsafeMutableRawPointer(parts).assumingMemoryBound(to: ProtobufCBuffer.self))
      // Behind it comes another message of the stream.
      precondition(packed == size, "A message of \(size) bytes was packed as \(packed)")
    }
  }

  /// Where libprotobuf-c appends what it packs.
  private struct Parts {
    /// Comes first: it is all that libprotobuf-c knows.
    var buffer: ProtobufCBuffer
    let sink: any MessageSink
    let arrays: [[UInt8]]
    /// The one that is expected: mostly they are packed in the order in which they were placed.
    var next = 0

    mutating func append(_ bytes: UnsafeRawBufferPointer) {
      guard bytes.count >= Arena.largeArrayBytes else { return self.sink.take(bytes) }
      for index in [self.next..<self.arrays.count, 0..<self.next].joined() {
        let isIt = self.arrays[index].withUnsafeBytes {
          $0.baseAddress == bytes.baseAddress && $0.count == bytes.count
        }
        guard isIt else { continue }
        self.next = index + 1
        return self.sink.take(self.arrays[index])
      }
      self.sink.take(bytes)
    }
  }

  /// Beyond it is our bug: lengths on the wire would wrap. A transport refuses such a message when it is
  /// told the size.
  @inlinable
  static func check(_ size: Int) {
    precondition(
      size <= Int(Int32.max), "A message of \(size) bytes is beyond protobuf's limit of 2 GiB")
  }
}
