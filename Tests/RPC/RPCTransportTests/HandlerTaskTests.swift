import RPCCore
import RPCTesting
import Synchronization
import Testing

@testable import RPCTransport

/// Tasks that serve one call after the other.
@Suite(.timeLimit(.minutes(1))) struct HandlerTaskTests {
  /// Whatever waits holds up none of those that are due with it.
  @Test func handlersThatWaitHoldUpNoOthers() async throws {
    let count = 300
    let begun = Mutex(0)
    var service = TestService()
    service.unary = { request, _ in
      begun.withLock { $0 += 1 }
      // Until all have begun: those that came in one read, too.
      if request.text != "short" {
        while begun.withLock({ $0 }) < count { try await Task.sleep(for: .milliseconds(5)) }
      }
      return request
    }
    try await withServer(service) { channel, _ in
      let answers = try await withThrowingTaskGroup(of: String.self) { group in
        for number in 0..<count {
          let request = Blob(number % 3 == 0 ? "short" : "\(number)")
          group.addTask { try await channel.unary(Methods.unary, request).text }
        }
        return try await group.reduce(into: [String: Int]()) { $0[$1, default: 0] += 1 }
      }
      #expect(answers["short"] == count / 3)
      #expect(answers.count == count - count / 3 + 1)
    }
  }

  /// The frames of some calls in one write, of which some are reset behind their request.
  @Test func aCallThatEndsBeforeItsHandlerBeginsIsCancelledAndNoOther() async throws {
    let cancelled = Mutex<[String: Bool]>([:])
    var service = TestService()
    service.unary = { request, _ in
      cancelled.withLock { $0[request.text] = Task.isCancelled }
      return request
    }
    try await withPeer(service) { peer in
      var bytes: [UInt8] = []
      for number in 0..<40 {
        let stream = UInt32(2 * number + 1)
        let message = Array("\(number)".utf8)
        bytes += ScriptedPeer.frame(
          .headers, flags: 4, stream: stream,
          body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path)))
        bytes += ScriptedPeer.frame(
          .data, flags: 1, stream: stream,
          body: [0] + ScriptedPeer.bytes(UInt32(message.count)) + message)
        if number % 4 == 1 {
          bytes += ScriptedPeer.frame(.reset, stream: stream, body: ScriptedPeer.bytes(8))
        }
      }
      try await peer.send(bytes: bytes)
      try await waitUntil { cancelled.withLock { $0.count } == 40 }
      // The same tasks, and the same streams, serve what comes then.
      for number in 40..<60 {
        let stream = UInt32(2 * number + 1)
        try await peer.begin(Methods.unary, stream: stream)
        try await peer.send(message: Array("\(number)".utf8), stream: stream, ends: true)
      }
      try await waitUntil { cancelled.withLock { $0.count } == 60 }
    }
    for (text, wasCancelled) in cancelled.withLock({ $0 }) {
      let number = try #require(Int(text))
      #expect(wasCancelled == (number < 40 && number % 4 == 1), "call \(number)")
    }
  }

  /// A task that was cancelled serves no other call, whoever cancelled it.
  @Test func aHandlerThatCancelsItsTaskCancelsNoOtherCall() async throws {
    var service = TestService()
    service.unary = { request, _ in
      let wasCancelled = Task.isCancelled
      withUnsafeCurrentTask { $0?.cancel() }
      return Blob("\(wasCancelled)")
    }
    try await withServer(service) { channel, _ in
      for _ in 0..<20 {
        let wasCancelled = try await channel.unary(Methods.unary, Blob()).text
        #expect(wasCancelled == "false")
      }
    }
  }
}
