import RPC
import RPCTesting
import Testing

@Suite struct TestingExamples {
  // [docs: in-memory]
  @Test func aGreeterGreets() async throws {
    try await withInMemoryServer([Greeter()]) { channel in
      let reply = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
      #expect(reply.text == "Hello, you")
    }
  }
  // [end]

  @Test func aServerOfOneIsCalledInMemory() async throws {
    // [docs: in-memory-channel]
    let server = RPCServer(services: [Greeter()])
    let channel = server.inMemoryChannel()
    let reply = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
    // [end]
    #expect(reply.text == "Hello, you")
    await channel.close()
    await server.shutdown(grace: .zero)
  }

  // [docs: scripted-server]
  @Test func aProxyThatIsOverloadedIsUnavailable() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task {
      try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
    }
    let peer = try await peers.next()
    let request = try #require(try await peer.frame(.headers))
    #expect(request[":path"] == "/testing.greeter.v1.Greeter/SayHello")
    try await peer.sendHeaders([(":status", "503")], stream: request.stream, endsStream: true)
    let error = await #expect(throws: RPCError.self) { try await call.value }
    #expect(error?.code == .unavailable)
    await channel.close()
  }
  // [end]

  // [docs: scripted-client]
  @Test func aRequestThatIsCutShortFails() async throws {
    let server = RPCServer(services: [Greeter()])
    let address = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    let peer = try await ScriptedPeer.client(of: address)
    try await peer.begin(GreeterV1.GreeterMethods.sayHello)
    // Five bytes are announced, two come.
    try await peer.send(data: [0, 0, 0, 0, 5, 1, 1], ends: true)
    let answer = try await peer.frame(.headers)
    #expect(answer?["grpc-status"] == "13")
    await peer.close()
    await server.shutdown(grace: .zero)
  }
  // [end]
}
