import RPC
import RPCCore
import RPCProtobuf
import Testing

/// Messages with large `bytes` in them, which are handed over as they are.
@Suite struct PartsTests {
  private final class Sink: MessageSink {
    var bytes: [UInt8] = []
    var arrays: [[UInt8]] = []

    func take(_ bytes: UnsafeRawBufferPointer) { self.bytes += bytes }
    func take(_ array: [UInt8]) {
      self.bytes += array
      self.arrays.append(array)
    }
  }

  /// What a message is in parts; nil if it comes in one piece.
  private func parts(of message: some RPCMessage) -> Sink? {
    var sink: Sink?
    var bytes: [UInt8] = []
    message.encode(
      reserving: { size in
        bytes = [UInt8](repeating: 0, count: size)
        return bytes.withUnsafeMutableBytes { $0.baseAddress! }
      },
      parting: { _ in
        sink = Sink()
        return sink!
      })
    if sink == nil { #expect(bytes == message.encoded()) }
    return sink
  }

  private static func large(_ seed: UInt8, _ count: Int = 20_000) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0) &* seed }
  }

  @Test func aSmallMessageIsOnePiece() {
    var message = EverythingV1.Everything()
    message.someBytes = Self.large(3, 16_383)
    message.aString = String(repeating: "x", count: 100_000)
    #expect(self.parts(of: message) == nil)
  }

  @Test func partsAreTogetherTheMessage() throws {
    var message = EverythingV1.Everything()
    message.aDouble = -0.0
    message.someBytes = Self.large(3)
    message.strings = ["a", String(repeating: "long", count: 10_000)]
    // The same array twice, and one that begins as another does.
    message.byteStrings = [Self.large(5), [], Self.large(5, 16_384), message.someBytes, [1, 2]]
    message.maybeBytes = Self.large(7)
    message.last = "end"
    let sink = try #require(self.parts(of: message))
    #expect(sink.bytes == message.encoded())
    #expect(sink.arrays.count == 5)
    // They are the message's own.
    let kept = sink.arrays.map { $0.withUnsafeBytes { $0.baseAddress } }
    for array in [message.someBytes, message.byteStrings[0], message.byteStrings[2]] {
      #expect(kept.contains(array.withUnsafeBytes { $0.baseAddress }))
    }
    #expect(try EverythingV1.Everything(decoding: sink.bytes) == message)
  }

  @Test func unknownFieldsAreAmongTheParts() throws {
    var message = try EverythingV1.Everything(
      decoding: [0xfa, 0xff, 0x7f, 3, 1, 2, 3])
    #expect(!message.unknownFields.isEmpty)
    message.someBytes = Self.large(9)
    let sink = try #require(self.parts(of: message))
    #expect(sink.bytes == message.encoded())
  }

  @Test func whatAPartRefusesIsNotWritten() {
    struct Refused: Error {}
    var message = EverythingV1.Everything()
    message.someBytes = Self.large(9)
    #expect(throws: Refused.self) {
      try message.encode(
        reserving: { _ throws(Refused) in throw Refused() },
        parting: { _ throws(Refused) in throw Refused() })
    }
    // The arena is as good as new.
    #expect(self.parts(of: message)?.bytes == message.encoded())
  }
}
