import BuildProtos
import Glibc
import PluginKit
import RPC
import Testing

@Suite struct MessageFramesTests {
  /// What a reader says to these bytes.
  func read(_ bytes: [UInt8], count: Int = 1) throws -> [PluginV1.HostMessage?] {
    var ends: [Int32] = [0, 0]
    #expect(pipe(&ends) == 0)
    defer { close(ends[0]) }
    let writing = ends[1]
    Threads.start("writer") {
      try? MessageFrames.write(bytes, to: writing)
      close(writing)
    }
    var reader = MessageFrames.Reader(ends[0])
    return try (0..<count).map { _ in try reader.next(PluginV1.HostMessage.self) }
  }

  func cancel(_ id: UInt64, _ reason: String) -> PluginV1.HostMessage {
    PluginV1.HostMessage(callID: id, call: .cancel(PluginV1.CancelRequest(reason: reason)))
  }

  @Test func messagesComeOutAsTheyWentIn() throws {
    let messages = [
      self.cancel(1, ""), self.cancel(2, String(repeating: "x", count: 3_000_000)),
      self.cancel(3, "y"),
    ]
    let read = try self.read(messages.flatMap { MessageFrames.frame($0) }, count: 4)
    #expect(read == messages + [nil])
  }

  @Test func aMessageBeyondTheLimitIsRefusedByItsLength() {
    #expect(throws: MessageFrames.FrameError.tooLarge(5 << 20)) {
      _ = try self.read([0x80, 0x80, 0xC0, 0x02])
    }
  }

  @Test func anEndInsideAMessageIsAnError() {
    let frame = MessageFrames.frame(self.cancel(1, "abc"))
    #expect(throws: MessageFrames.FrameError.truncated) {
      _ = try self.read(Array(frame.dropLast()))
    }
    #expect(throws: MessageFrames.FrameError.truncated) { _ = try self.read([0x80]) }
  }

  @Test func bytesThatAreNoLengthAreAnError() {
    #expect(throws: MessageFrames.FrameError.badLength) {
      _ = try self.read([UInt8](repeating: 0xFF, count: 20))
    }
  }

  @Test func bytesThatAreNoMessageAreAnError() {
    #expect(throws: MessageFrames.FrameError.self) { _ = try self.read([2, 0xFF, 0xFF]) }
  }
}
