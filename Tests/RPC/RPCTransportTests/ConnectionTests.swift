import NIOCore
import NIOPosix
import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
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
    let address = try await first.listen(on: ownAddress())
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

  @Test(.timeLimit(.minutes(1))) func aServerThatEndsWhileConnectionsComeInDoesEnd() async throws {
    for _ in 0..<100 {
      let server = RPCServer(services: [TestService()])
      guard
        case .tcp(let host, let port) = try await server.listen(on: ListenAddress("127.0.0.1:0"))
      else { return }
      let clients = (0..<4).map { _ in
        ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton).connect(
          host: host, port: port)
      }
      await server.shutdown(grace: .zero)
      for client in clients { try? await client.get().close() }
    }
  }

  @Test(.timeLimit(.minutes(1))) func aPeerWithoutCallsThatDoesNotAnswerIsNotWaitedFor()
    async throws
  {
    var configuration = RPCServer.Configuration()
    configuration.closeTimeout = .milliseconds(20)
    let server = RPCServer(services: [TestService()], configuration: configuration)
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: 0))
    let client = try await ScriptedPeer.client(of: address)
    try await client.begin(Methods.unary)
    try await client.send(data: [0, 0, 0, 0, 0], ends: true)
    #expect(try await client.frame(.headers) { $0.endsStream } != nil)
    // Its ping stays without an answer.
    await server.shutdown(grace: .seconds(3_600))
    await client.close()
  }

  /// What it sends says that it reads, but it has had all that there was long ago.
  @Test(.timeLimit(.minutes(1))) func aPeerThatTricklesOnBehindTheEndIsLeft() async throws {
    var configuration = RPCServer.Configuration()
    configuration.stalledCallTimeout = .seconds(2)
    let server = RPCServer(services: [TestService()], configuration: configuration)
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: 0))
    let client = try await ScriptedPeer.client(of: address, staysBehindEnd: true)
    try await client.begin(Methods.unary)
    try await client.send(data: [0, 0, 0, 0, 0], ends: true)
    #expect(try await client.frame(.headers) { $0.endsStream } != nil)
    let trickle = Task {
      while !Task.isCancelled {
        try await client.send(.ping, flags: 1, body: [UInt8](repeating: 7, count: 8))
        try await Task.sleep(for: .milliseconds(200))
      }
    }
    let began = ContinuousClock.now
    await server.shutdown(grace: .seconds(40))
    #expect(began.duration(to: .now) < .seconds(30))
    trickle.cancel()
    await client.close()
  }

  /// However short the time for peers that do not go: these read, and say so.
  @Test(.timeLimit(.minutes(1)), arguments: [Duration.seconds(60), .milliseconds(20)])
  func anAnswerThatTheSocketHasNoRoomForIsSentBeforeTheEnd(closeTimeout: Duration) async throws {
    let arrived = Atomic(0)
    let release = Signal()
    var service = TestService()
    service.unary = { request, _ in
      arrived.add(1, ordering: .relaxed)
      await release.wait()
      return Blob([UInt8](repeating: 1, count: Int(request.text) ?? 0))
    }
    var configuration = RPCServer.Configuration()
    configuration.closeTimeout = closeTimeout
    let server = RPCServer(services: [service], configuration: configuration)
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: 0))
    // How much the system takes is not known: one of these ends within what waits for it.
    let sizes = stride(from: 256 << 10, through: 4 << 20, by: 320 << 10)
    var clients: [(client: ScriptedPeer, size: Int)] = []
    for size in sizes {
      let client = try await ScriptedPeer.client(of: address, receiveBuffer: 32 << 10)
      try await client.begin(Methods.unary)
      let text = Array("\(size)".utf8)
      try await client.send(data: [0, 0, 0, 0, UInt8(text.count)] + text, ends: true)
      clients.append((client, size))
    }
    while arrived.load(ordering: .relaxed) < clients.count { await Task.yield() }
    async let down: Void = server.shutdown(grace: .seconds(60))
    for (client, _) in clients {
      let ping = try await client.frame(.ping)
      try await client.send(.ping, flags: 1, body: ping?.body ?? [])
      // Once this one is answered, so is the server's.
      try await client.send(.ping, body: [UInt8](repeating: 7, count: 8))
      let answer = try await client.frame(.ping, where: { $0.isAcknowledgement })
      #expect(answer != nil)
    }
    await release.set()
    for (client, size) in clients {
      // Each has been waiting longer than the one before.
      try await Task.sleep(for: .milliseconds(30))
      var received = 0
      var hasEnded = false
      while let frame = try await client.frame() {
        if frame.kind == .data {
          received += frame.body.count
          try? await client.send(
            .windowUpdate, body: ScriptedPeer.bytes(UInt32(frame.body.count)))
        }
        if frame.endsStream { hasEnded = true }
      }
      #expect(received == size + 5)
      #expect(hasEnded)
    }
    await down
  }

  /// Where the system does not tell what has arrived, what the socket takes tells that it is read.
  @Test(.timeLimit(.minutes(1))) func aSlowReaderOfALocalSocketIsNoStalledOne() async throws {
    let began = Signal()
    var service = TestService()
    service.unary = { request, _ in
      await began.set()
      return Blob([UInt8](repeating: 1, count: Int(request.text) ?? 0))
    }
    var configuration = RPCServer.Configuration()
    configuration.closeTimeout = .milliseconds(50)
    configuration.stalledCallTimeout = .seconds(8)
    let server = RPCServer(services: [service], configuration: configuration)
    let address = try await server.listen(on: ownAddress())
    let client = try await ScriptedPeer.client(of: address, receiveBuffer: 16 << 10)
    try await client.begin(Methods.unary)
    try await client.send(message: Array("450000".utf8), ends: true)
    await began.wait()
    async let down: Void = server.shutdown(grace: .seconds(60))
    var received = 0
    while let frame = try await client.frame() {
      let before = received
      if frame.kind == .data { received += frame.body.count }
      // In all longer than a stalled one may take: twice, before the socket has room again.
      if (received + 100_000) / 200_000 > (before + 100_000) / 200_000 {
        try await Task.sleep(for: .seconds(5))
      }
    }
    #expect(received == 450_005)
    await down
  }

  /// Its GOAWAY may have been made before a call comes, and wait for room: such a call must not have run.
  @Test(.timeLimit(.minutes(1))) func whatAGoawayDoesNotNameHasNotRun() async throws {
    let ran = Mutex<[UInt32]>([])
    let began = Signal()
    var service = TestService()
    service.unary = { request, _ in
      ran.withLock { $0.append(UInt32(request.text) ?? 0) }
      await began.set()
      return Blob([UInt8](repeating: 1, count: request.text == "1" ? 8_000_000 : 1))
    }
    var configuration = RPCServer.Configuration()
    configuration.closeTimeout = .milliseconds(100)
    let server = RPCServer(services: [service], configuration: configuration)
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: 0))
    let client = try await ScriptedPeer.client(of: address, receiveBuffer: 32 << 10)
    try await client.begin(Methods.unary, stream: 1)
    try await client.send(message: Array("1".utf8), stream: 1, ends: true)
    await began.wait()
    async let down: Void = server.shutdown(grace: .seconds(60))
    // Before and behind that its last GOAWAY is made.
    for number: UInt32 in stride(from: 3, through: 61, by: 2) {
      try await client.begin(Methods.unary, stream: number)
      try await client.send(message: Array("\(number)".utf8), stream: number, ends: true)
      try await Task.sleep(for: .milliseconds(20))
    }
    var last: UInt32 = 0
    while let frame = try await client.frame() {
      if frame.kind == .goAway { last = frame.number(at: 0) }
    }
    #expect(ran.withLock { $0.allSatisfy { $0 <= last } })
    #expect(last < 61)
    await down
  }

  @Test(.timeLimit(.minutes(1))) func aServerLeavesAConnectionThatIsIdle() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumConnectionIdle = .milliseconds(50)
    configuration.closeTimeout = .seconds(60)
    try await withServer(configuration: configuration) { channel, _ in
      let peer = try await ScriptedPeer.client(of: try ListenAddress("\(channel.target)"))
      let notice = try #require(try await peer.frame(.goAway))
      #expect(notice.number(at: 4) == 0)
      // What is on its way is taken until this ping is answered.
      let ping = try #require(try await peer.frame(.ping) { !$0.isAcknowledgement })
      try await peer.send(.ping, flags: 1, body: ping.body)
      let last = try #require(try await peer.frame(.goAway))
      #expect(last.number(at: 0) == 0)
      #expect(last.number(at: 4) == 0)
      #expect(try await peer.frame() == nil)
      await peer.close()
    }
  }

  @Test(.timeLimit(.minutes(1))) func callsThatOutliveTheGraceOfAnOldConnectionEndWithIt()
    async throws
  {
    var configuration = RPCServer.Configuration()
    configuration.maximumConnectionAge = .milliseconds(20)
    configuration.maximumConnectionAgeGrace = .milliseconds(50)
    let began = Signal()
    let cancelled = Signal()
    var service = TestService()
    service.unary = { request, _ in
      await began.set()
      do {
        try await Task.sleep(for: .seconds(60))
      } catch {
        await cancelled.set()
        throw error
      }
      return request
    }
    try await withServer(service, configuration: configuration) { channel, _ in
      // On a busy machine a connection may be too old before the server has read the call.
      repeat {
        let error = await #expect(throws: RPCError.self) {
          try await channel.unary(Methods.unary, Blob("slow"))
        }
        #expect(error?.code == .unavailable)
      } while await !began.isSet
      await cancelled.wait()
    }
  }

  @Test func garbageClosesItsConnectionOnly() async throws {
    try await withServer { channel, _ in
      guard case .tcp(let host, let port) = try ListenAddress("\(channel.target)") else { return }
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
    configuration.connectTimeout = .seconds(2)
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
