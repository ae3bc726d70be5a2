import NIOCore
import NIOPosix
import RPCCore
import RPCTransport
import Testing

@Suite struct ConnectionTests {
  @Test func aRefusedConnectionNamesTheAddressAndTheReason() async throws {
    let channel = try RPCChannel(to: "127.0.0.1:1")
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(Methods.unary, Blob())
    }
    #expect(
      error == RPCError(.unavailable, "cannot connect to 127.0.0.1:1: connection refused"))
    await channel.close()
  }

  @Test func aCallThatWaitsForReadyIsServedOnceThereIsAServer() async throws {
    let first = RPCServer(services: [TestService()])
    let address = try await first.listen(on: .tcp(host: "127.0.0.1", port: 0))
    await first.shutdown(grace: .zero)
    let channel = RPCChannel(to: address)
    await #expect(throws: RPCError.self) { try await channel.unary(Methods.unary, Blob()) }
    async let answer = channel.unary(
      Methods.unary, Blob("late"), options: CallOptions(waitForReady: true))
    let second = RPCServer(services: [TestService()])
    _ = try await second.listen(on: address)
    #expect(try await answer.text == "late")
    await channel.close()
    await second.shutdown(grace: .seconds(1))
  }

  @Test func shuttingDownLetsOpenCallsEnd() async throws {
    let started = Signal()
    let release = Signal()
    var service = TestService()
    service.unary = { request, _ in
      await started.set()
      await release.wait()
      return request
    }
    try await withServer(service) { channel, server in
      async let answer = channel.unary(Methods.unary, Blob("slow"))
      await started.wait()
      async let down: Void = server.shutdown(grace: .seconds(10))
      await release.set()
      let text = try await answer.text
      #expect(text == "slow")
      await down
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(error?.code == .unavailable)
    }
  }

  @Test func aCallThatOutlivesTheGraceIsCancelled() async throws {
    let started = Signal()
    var service = TestService()
    service.both = { requests, _, _ in
      await started.set()
      for try await _ in requests {}
    }
    try await withServer(service) { channel, server in
      let call: BidirectionalCall<Blob, Blob> = try await channel.bidirectional(Methods.both)
      try await call.send(Blob("x"))
      await started.wait()
      await server.shutdown(grace: .milliseconds(20))
      let error = await #expect(throws: RPCError.self) {
        for try await _ in call.responses {}
      }
      #expect(error?.code == .unavailable)
    }
  }

  @Test func garbageClosesItsConnectionOnly() async throws {
    try await withServer { channel, _ in
      guard case .tcp(let host, let port) = channel.target else { return }
      let garbage = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .connect(host: host, port: port).get()
      try await garbage.writeAndFlush(ByteBuffer(string: "GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
      try await garbage.closeFuture.get()
      let answer = try await channel.unary(Methods.unary, Blob("fine"))
      #expect(answer.text == "fine")
    }
  }

  @Test(arguments: ["220 mail.example ESMTP ready\r\n", ""])
  func aServerThatIsNoneIsToldApart(greeting: String) async throws {
    let other = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(Greeter(greeting))
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    var configuration = RPCChannel.Configuration()
    configuration.connectTimeout = .milliseconds(300)
    let channel = RPCChannel(
      to: .tcp(host: "127.0.0.1", port: other.localAddress!.port!), configuration: configuration)
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(Methods.unary, Blob())
    }
    #expect(error?.code == .unavailable)
    #expect(error?.message.contains("does not speak HTTP/2") == true)
    await channel.close()
    try await other.close()
  }
}

/// Says something that is not HTTP/2, or nothing, and keeps the connection.
private final class Greeter: ChannelInboundHandler, Sendable {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer
  private let greeting: String

  init(_ greeting: String) { self.greeting = greeting }

  func channelActive(context: ChannelHandlerContext) {
    guard !self.greeting.isEmpty else { return }
    context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: self.greeting)), promise: nil)
  }
}
