import RPCCore
import RPCTransport
import Testing

@Suite struct CallShapeTests {
  @Test func aUnaryCallIsAnswered() async throws {
    try await withServer { channel, _ in
      let response = try await channel.unary(Methods.unary, Blob("hello"))
      #expect(response.text == "hello")
    }
  }

  @Test func manyCallsAtOnceAreAllAnswered() async throws {
    try await withServer { channel, _ in
      let answers = try await withThrowingTaskGroup(of: Bool.self) { group in
        for index in 0..<3_000 {
          group.addTask {
            try await channel.unary(Methods.unary, Blob("\(index)")).text == "\(index)"
          }
        }
        return try await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
      }
      #expect(answers == 3_000)
    }
  }

  @Test func aServerStreamsInOrder() async throws {
    try await withServer { channel, _ in
      let responses = try await channel.serverStreaming(Methods.server, Blob("1000"))
      var expected = 0
      for try await response in responses {
        #expect(response.text == "\(expected)")
        expected += 1
      }
      #expect(expected == 1_000)
    }
  }

  @Test func aClientStreamsAndGetsOneAnswer() async throws {
    try await withServer { channel, _ in
      let call: ClientStreamingCall<Blob, Blob> = try await channel.clientStreaming(Methods.client)
      for _ in 0..<500 { try await call.send(Blob([UInt8](repeating: 7, count: 1_000))) }
      #expect(try await call.finish().text == "500000")
    }
  }

  @Test func bothSidesStream() async throws {
    try await withServer { channel, _ in
      let call: BidirectionalCall<Blob, Blob> = try await channel.bidirectional(Methods.both)
      var responses = call.responses.makeAsyncIterator()
      for index in 0..<200 {
        try await call.send(Blob("\(index)"))
        #expect(try await responses.next()?.text == "\(index)")
      }
      await call.finishSending()
      #expect(try await responses.next() == nil)
    }
  }

  @Test func aLargeMessageCrossesTheWindowBothWays() async throws {
    try await withServer { channel, _ in
      let bytes = (0..<(4 << 20) - 16).map { UInt8(truncatingIfNeeded: $0 &* 31) & 0x7f }
      let answer = try await channel.unary(Methods.unary, Blob(bytes))
      #expect(answer.bytes == bytes)
    }
  }

  @Test func anUnknownMethodIsUnimplementedAndNamed() async throws {
    try await withServer { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.missing, Blob())
      }
      #expect(error == RPCError(.unimplemented, "there is no method /test.Test/Missing"))
    }
  }

  @Test func aMessageBeyondTheLimitIsRefusedWithItsSize() async throws {
    try await withServer { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob([UInt8](repeating: 1, count: 5 << 20)))
      }
      #expect(error?.code == .resourceExhausted)
      #expect(error?.message.contains("5242880") == true)
      // The connection lives on.
      let answer = try await channel.unary(Methods.unary, Blob("after"))
      #expect(answer.text == "after")
    }
  }

  @Test func bytesThatAreNoMessageFailTheCallOnly() async throws {
    try await withServer { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob([0xff]))
      }
      #expect(error?.code == .internalError)
      let answer = try await channel.unary(Methods.unary, Blob("after"))
      #expect(answer.text == "after")
    }
  }

  @Test func aUnixSocketServesAndALiveOneIsNotReplaced() async throws {
    let server = RPCServer(services: [TestService()])
    let address = try await server.listen(on: ownAddress())
    let channel = RPCChannel(to: address)
    let answer = try await channel.unary(Methods.unary, Blob("x"))
    #expect(answer.text == "x")
    let second = RPCServer(services: [TestService()])
    await #expect(throws: RPCServer.ListenError.self) { try await second.listen(on: address) }
    await channel.close()
    await server.shutdown(grace: .seconds(1))
  }
}
