import RPCCore
import RPCTesting
import RPCTransport
import Testing

/// What a client's error says of who ended a call, and why.
@Suite(.timeLimit(.minutes(1))) struct DiagnosticsTests {
  /// How a unary call fails whose server does what `script` says.
  private static func error(
    _ script: @escaping (ScriptedPeer, UInt32) async throws -> Void
  ) async throws -> RPCError {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { try await channel.unary(Methods.unary, Blob()) }
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    try await script(peer, head.stream)
    let error = await #expect(throws: RPCError.self) { try await call.value }
    await channel.close()
    return try #require(error)
  }

  private static func goAway(last: UInt32, code: UInt32, _ text: String) -> [UInt8] {
    ScriptedPeer.bytes(last) + ScriptedPeer.bytes(code) + Array(text.utf8)
  }

  @Test func aResetIsTheServersAndHasItsName() async throws {
    let error = try await Self.error { peer, stream in
      try await peer.send(.reset, stream: stream, body: ScriptedPeer.bytes(2))
    }
    #expect(error.message == "the server reset the stream with INTERNAL_ERROR")
    let unknown = try await Self.error { peer, stream in
      try await peer.send(.reset, stream: stream, body: ScriptedPeer.bytes(0x77))
    }
    #expect(unknown.message == "the server reset the stream with error 119")
  }

  /// Refused as often as a call is tried again.
  @Test func aCallThatGoAwayRefusesSaysSoWithTheServersWords() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { try await channel.unary(Methods.unary, Blob()) }
    for _ in 0...10 {
      let peer = try await peers.next()
      _ = try #require(try await peer.frame(.headers))
      try await peer.send(.goAway, body: Self.goAway(last: 0, code: 0xb, "calm\r\ndown please"))
    }
    let error = await #expect(throws: RPCError.self) { try await call.value }
    #expect(error?.code == .unavailable)
    #expect(
      error?.message
        == "the server refused the call with GOAWAY, ENHANCE_YOUR_CALM (calm\u{fffd}\u{fffd}down please)"
    )
    await channel.close()
  }

  @Test func aConnectionThatGoAwayEndsIsLostWithTheServersWords() async throws {
    let error = try await Self.error { peer, stream in
      try await peer.send(.goAway, body: Self.goAway(last: stream, code: 0xb, "enough"))
      await peer.close()
    }
    #expect(error.code == .unavailable)
    #expect(
      error.message
        == "the connection was lost: the server ended it with GOAWAY, ENHANCE_YOUR_CALM (enough)")
  }

  @Test func aMalformedResponseNamesTheFieldAndWhoResetIt() async throws {
    let error = try await Self.error { peer, stream in
      try await peer.sendHeaders(
        [(":status", "200"), ("content-type", "application/grpc"), ("Upper", "case")],
        stream: stream)
    }
    #expect(error.code == .internalError)
    #expect(error.message.hasPrefix("the response is malformed, and this side reset the stream"))
    #expect(error.message.contains("PROTOCOL_ERROR"))
    #expect(error.message.contains("name: [Upper], value: [case]"))
  }

  @Test func aResponseWithoutAStatusIsMalformed() async throws {
    let error = try await Self.error { peer, stream in
      try await peer.sendHeaders([("content-type", "application/grpc")], stream: stream)
    }
    #expect(error.code == .internalError)
    #expect(error.message.contains("this side reset the stream with PROTOCOL_ERROR: Violation in"))
  }

  @Test func aBodyThatIsNotAsLongAsItSaysIsMalformed() async throws {
    let error = try await Self.error { peer, stream in
      try await peer.respond(stream: stream, more: [("content-length", "3")])
      try await peer.send(message: [], stream: stream)
    }
    #expect(error.code == .internalError)
    #expect(error.message.contains("this side reset the stream with PROTOCOL_ERROR"))
  }

  @Test func aConnectionThatThisSideEndsIsNotSaidToBeClosedByThePeer() async throws {
    let error = try await Self.error { peer, _ in
      // A response to a request that was never made.
      try await peer.sendHeaders([(":status", "200")], stream: 2, endsStream: true)
    }
    #expect(error.code == .unavailable)
    #expect(
      error.message.hasPrefix(
        "the connection was lost: this side ended it with GOAWAY, PROTOCOL_ERROR ("))
  }

  // Not with NIO's names of types, nor with lines of BoringSSL's source.
  @Test func whatCannotBeListenedOnOrTalkedToIsToldInWords() async throws {
    let server = RPCServer(services: [TestService()])
    let file = "\(#filePath)"
    let noSocket = await #expect(throws: RPCServer.ListenError.self) {
      try await server.listen(on: .unix(path: file))
    }
    #expect(noSocket?.reason == "the file of that name is no socket")
    let nowhere = await #expect(throws: RPCServer.ListenError.self) {
      try await server.listen(on: .tcp(host: "no-such-host.invalid", port: 0))
    }
    #expect(
      nowhere?.reason.hasPrefix("the host \"no-such-host.invalid\" cannot be resolved: ") == true,
      "\(String(describing: nowhere))")
    // TLS to a server without.
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: 0))
    var configuration = RPCChannel.Configuration()
    configuration.tls = ClientTLS()
    let channel = RPCChannel(to: address, configuration: configuration)
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(Methods.unary, Blob())
    }
    #expect(error?.message.contains("the TLS handshake failed: WRONG_VERSION_NUMBER") == true)
    #expect(error?.message.contains("boringssl") == false, "\(String(describing: error))")
    await channel.close()
    await server.shutdown(grace: .zero)
  }
}
