import NIOCore
import NIOPosix
import RPCCore
import RPCHTTP2
import RPCTesting
import Synchronization
import Testing

@testable import RPCTransport

@Suite(.timeLimit(.minutes(1))) struct ChannelTests {
  /// A service that says which of several servers it is.
  private static func named(_ name: String) -> TestService {
    var service = TestService()
    service.unary = { _, _ in Blob(name) }
    return service
  }

  private static func servers(_ count: Int) async throws -> [(RPCServer, ListenAddress)] {
    var servers: [(RPCServer, ListenAddress)] = []
    for index in 0..<count {
      let server = RPCServer(services: [Self.named("\(index)")])
      servers.append((server, try await server.listen(on: ListenAddress("127.0.0.1:0"))))
    }
    return servers
  }

  private static func target(_ servers: [(RPCServer, ListenAddress)]) throws -> ChannelTarget {
    try ChannelTarget("ipv4:" + servers.map { "\($0.1)" }.joined(separator: ","))
  }

  @Test func callsGoRoundAllServersAndLeaveOutTheOneThatEnded() async throws {
    let servers = try await Self.servers(3)
    var configuration = RPCChannel.Configuration()
    configuration.loadBalancing = .roundRobin
    let channel = RPCChannel(to: try Self.target(servers), configuration: configuration)
    var seen: [String: Int] = [:]
    // The others are connected to while the first takes calls already.
    while seen.count < 3 {
      seen[try await channel.unary(Methods.unary, Blob()).text, default: 0] += 1
    }
    seen = [:]
    for _ in 0..<30 {
      seen[try await channel.unary(Methods.unary, Blob()).text, default: 0] += 1
    }
    #expect(seen == ["0": 10, "1": 10, "2": 10])
    await servers[1].0.shutdown(grace: .seconds(1))
    seen = [:]
    for _ in 0..<30 {
      seen[try await channel.unary(Methods.unary, Blob()).text, default: 0] += 1
    }
    #expect(seen.keys.sorted() == ["0", "2"])
    await channel.close()
    for (server, _) in servers { await server.shutdown(grace: .zero) }
  }

  /// Answers with one address at first, and with another from then on.
  private final class MovingDialer: Dialer {
    private let addresses: [ListenAddress]
    private let asked = Atomic(0)
    private let sockets: SocketDialer

    init(_ addresses: [ListenAddress], target: ChannelTarget) {
      self.addresses = addresses
      self.sockets = SocketDialer(target: target, configuration: RPCChannel.Configuration())
    }

    func resolve(
      _ target: ChannelTarget, on eventLoop: any EventLoop,
      _ done: @escaping (Result<[ListenAddress], DialError>) -> Void
    ) {
      let time = self.asked.add(1, ordering: .relaxed).oldValue
      done(.success([self.addresses[min(time, self.addresses.count - 1)]]))
    }

    func connect(
      to address: ListenAddress, _ handler: any ChannelHandler & Sendable,
      on eventLoop: any EventLoop, _ done: @escaping (DialError?) -> Void
    ) {
      self.sockets.connect(to: address, handler, on: eventLoop, done)
    }
  }

  @Test(arguments: [LoadBalancing.pickFirst, .roundRobin])
  func aNameThatMovesFromADeadServerToALivingOneTakesCallsThere(
    balancing: LoadBalancing
  ) async throws {
    let servers = try await Self.servers(1)
    let target = try ChannelTarget("moving.test:1")
    var configuration = RPCChannel.Configuration()
    configuration.loadBalancing = balancing
    // Time alone does not heal it within the test.
    configuration.initialBackoff = .seconds(3_600)
    configuration.maximumBackoff = .seconds(3_600)
    let channel = RPCChannel(
      to: target, configuration: configuration,
      dialer: MovingDialer([try ListenAddress("127.0.0.1:1"), servers[0].1], target: target),
      group: NIOSingletons.posixEventLoopGroup)
    let first = await #expect(throws: RPCError.self) {
      try await channel.unary(Methods.unary, Blob())
    }
    #expect(first?.code == .unavailable)
    // The name is asked for again after a second.
    var answer: Blob?
    while answer == nil { answer = try? await channel.unary(Methods.unary, Blob()) }
    #expect(answer?.text == "0")
    await channel.close()
    await servers[0].0.shutdown(grace: .zero)
  }

  @Test func theFirstThatAnswersIsKeptUntilItIsLost() async throws {
    let servers = try await Self.servers(2)
    let dead = try ListenAddress("127.0.0.1:1")
    let target = try ChannelTarget("ipv4:\(dead),\(servers[0].1),\(servers[1].1)")
    let channel = RPCChannel(to: target)
    // The first, unless it is slow to answer.
    let first = try await channel.unary(Methods.unary, Blob()).text
    for _ in 0..<5 { #expect(try await channel.unary(Methods.unary, Blob()).text == first) }
    await servers[first == "0" ? 0 : 1].0.shutdown(grace: .seconds(1))
    let second = try await channel.unary(
      Methods.unary, Blob(), options: CallOptions(waitForReady: true)
    ).text
    #expect(second == (first == "0" ? "1" : "0"))
    await channel.close()
    for (server, _) in servers { await server.shutdown(grace: .zero) }
  }

  @Test func aNameIsResolvedAndAWrongOneIsNamed() async throws {
    let servers = try await Self.servers(1)
    guard case .tcp(_, let port) = servers[0].1 else { return }
    let channel = try RPCChannel(to: "dns:///localhost:\(port)")
    #expect(try await channel.unary(Methods.unary, Blob()).text == "0")
    await channel.close()
    let wrong = try RPCChannel(to: "dns:no-such-host.invalid:1")
    let error = await #expect(throws: RPCError.self) {
      try await wrong.unary(Methods.unary, Blob())
    }
    #expect(error?.code == .unavailable)
    #expect(error?.message.contains("no-such-host.invalid") == true)
    await wrong.close()
    await servers[0].0.shutdown(grace: .zero)
  }

  @Test func thousandsOfCallsAtOnceQueueBehindAStreamLimit() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumConcurrentCallsPerConnection = 100
    var service = TestService()
    service.unary = { request, _ in
      try await Task.sleep(for: .milliseconds(1))
      return request
    }
    try await withServer(service, configuration: configuration) { channel, _ in
      try await withThrowingTaskGroup(of: Void.self) { group in
        for index in 0..<5_000 {
          group.addTask {
            let answer = try await channel.unary(Methods.unary, Blob("\(index)"))
            #expect(answer.text == "\(index)")
          }
        }
        try await group.waitForAll()
      }
    }
  }

  @Test func noMoreCallsWaitForAConnectionThanMay() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.maximumWaitingCalls = 2
    // It connects and is not greeted.
    let (channel, _) = ScriptedPeer.server(configuration: configuration, greets: false)
    let calls = (0..<2).map { _ in Task { try await channel.unary(Methods.unary, Blob()) } }
    try await waitUntil { try await waitingCalls(of: channel) == 2 }
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(Methods.unary, Blob())
    }
    #expect(error?.code == .resourceExhausted)
    // One that goes makes room for another.
    calls[0].cancel()
    _ = try? await calls[0].value
    let next = Task { try await channel.unary(Methods.unary, Blob()) }
    try await waitUntil { try await waitingCalls(of: channel) == 2 }
    await channel.close()
    for call in calls + [next] {
      await #expect(throws: RPCError.self) { try await call.value }
    }
  }

  @Test func callsBehindAStreamLimitAreCountedAmongThoseThatWait() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.maximumWaitingCalls = 2
    let (channel, peers) = ScriptedPeer.server(configuration: configuration, greets: false)
    let first = Task { try await channel.unary(Methods.unary, Blob("first")) }
    let peer = try await peers.next()
    // One stream at a time.
    try await peer.send(.settings, body: [0, 3] + ScriptedPeer.bytes(1))
    let head = try #require(try await peer.frame(.headers))
    let queued = (0..<2).map { _ in Task { try await channel.unary(Methods.unary, Blob("next")) } }
    try await waitUntil { try await waitingCalls(of: channel) == 2 }
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(Methods.unary, Blob("one too many"))
    }
    #expect(error?.code == .resourceExhausted)
    var stream = head.stream
    for left in [2, 1, 0] {
      try await peer.respond(stream: stream)
      try await peer.send(message: [], stream: stream)
      try await peer.end(stream: stream)
      if left > 0 { stream = try #require(try await peer.frame(.headers)).stream }
    }
    _ = try await first.value
    for call in queued { _ = try await call.value }
    await channel.close()
  }

  // However busy the server is, and for how long.
  @Test func callsThatWereGivenUpBehindAStreamLimitWaitNoMore() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.maximumWaitingCalls = 3
    let (channel, peers) = ScriptedPeer.server(configuration: configuration, greets: false)
    let first = Task { try await channel.unary(Methods.unary, Blob("first")) }
    let peer = try await peers.next()
    try await peer.send(.settings, body: [0, 3] + ScriptedPeer.bytes(1))
    let head = try #require(try await peer.frame(.headers))
    for _ in 0..<5 {
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<3 {
          group.addTask {
            let error = await #expect(throws: RPCError.self) {
              try await channel.unary(
                Methods.unary, Blob("in vain"), options: CallOptions(timeout: .milliseconds(20)))
            }
            #expect(error?.code == .deadlineExceeded)
          }
        }
        try await group.waitForAll()
      }
      #expect(try await waitingCalls(of: channel) == 0)
    }
    let last = Task { try await channel.unary(Methods.unary, Blob("last")) }
    try await waitUntil { try await waitingCalls(of: channel) == 1 }
    try await peer.respond(stream: head.stream)
    try await peer.send(message: [], stream: head.stream)
    try await peer.end(stream: head.stream)
    _ = try await first.value
    // Nothing of the others was sent.
    let next = try #require(try await peer.frame(.headers))
    let data = try await peer.frame(.data) { $0.stream == next.stream }
    #expect(data?.body.suffix(4) == Array("last".utf8)[...])
    try await peer.respond(stream: next.stream)
    try await peer.send(message: [], stream: next.stream)
    try await peer.end(stream: next.stream)
    _ = try await last.value
    await channel.close()
  }

  @Test func aServerThatGreetsAndLeavesIsNotConnectedToAllTheTime() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.loadBalancing = .roundRobin
    configuration.initialBackoff = .seconds(60)
    configuration.maximumBackoff = .seconds(60)
    let connections = Atomic(0)
    let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        connections.add(1, ordering: .relaxed)
        return channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(GreetsAndLeaves())
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    let channel = RPCChannel(
      to: .tcp(host: "127.0.0.1", port: server.localAddress!.port!), configuration: configuration)
    for _ in 0..<3 {
      await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob(), options: CallOptions(timeout: .milliseconds(100)))
      }
    }
    #expect(connections.load(ordering: .relaxed) <= 1)
    await channel.close()
    try await server.close()
  }

  @Test func aServerThatDoesNotAnswerPingsIsGivenUp() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.keepalive = Keepalive(
      interval: .milliseconds(30), timeout: .milliseconds(500))
    let (channel, peers) = ScriptedPeer.server(configuration: configuration)
    let task = Task { try await channel.unary(Methods.unary, Blob()) }
    let peer = try await peers.next()
    _ = try await peer.frame(.headers)
    #expect(try await peer.frame(.ping) != nil)
    let error = await #expect(throws: RPCError.self) { try await task.value }
    #expect(error?.code == .unavailable)
    #expect(error?.message.contains("keepalive") == true)
    await channel.close()
  }

  @Test func aServerThatWantsFewerPingsGetsFewer() async throws {
    var configuration = RPCServer.Configuration()
    configuration.minimumPingInterval = .seconds(3_600)
    var service = TestService()
    let release = Signal()
    service.unary = { request, _ in
      await release.wait()
      return request
    }
    var channelConfiguration = RPCChannel.Configuration()
    channelConfiguration.keepalive = Keepalive(interval: .milliseconds(10))
    try await withServer(
      service, configuration: configuration, channelConfiguration: channelConfiguration
    ) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(error?.code == .unavailable)
      #expect(error?.message.contains("too_many_pings") == true)
      await release.set()
    }
  }

  @Test func anOldConnectionIsLeftAndNoCallIsLost() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumConnectionAge = .milliseconds(20)
    var service = TestService()
    service.unary = { request, _ in
      try await Task.sleep(for: .milliseconds(3))
      return request
    }
    let peers = Mutex<Set<String>>([])
    service.server = { _, _, context in peers.withLock { _ = $0.insert(context.peer) } }
    try await withServer(service, configuration: configuration) { channel, _ in
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<8 {
          group.addTask {
            for index in 0..<50 {
              let answer = try await channel.unary(Methods.unary, Blob("\(index)"))
              #expect(answer.text == "\(index)")
              let responses: ResponseStream<Blob> = try await channel.serverStreaming(
                Methods.server, Blob())
              for try await _ in responses {}
            }
          }
        }
        try await group.waitForAll()
      }
    }
    #expect(peers.withLock { $0.count } > 2)
  }

  // RFC 9113, section 5.1.1: a connection has 2^30 of them.
  @Test func streamNumbersThatRunOutCostNoCall() async throws {
    let peers = Mutex<[String]>([])
    var service = TestService()
    service.unary = { request, context in
      peers.withLock { $0.append(context.peer) }
      return request
    }
    try await withServer(service) { channel, _ in
      _ = try await channel.unary(Methods.unary, Blob())
      let core = channel.core
      // Three are left.
      try await core.executor.eventLoop.submit {
        for connection in core.connections.values {
          connection.session?.skipStreamNumbers(to: .max - 4)
        }
      }.get()
      let open: BidirectionalCall<Blob, Blob> = try await channel.bidirectional(Methods.both)
      for index in 0..<5 {
        #expect(try await channel.unary(Methods.unary, Blob("\(index)")).text == "\(index)")
      }
      // The one that is open goes on where it is.
      try await open.send(Blob("late"))
      await open.finishSending()
      var answers: [String] = []
      for try await answer in open.responses { answers.append(answer.text) }
      #expect(answers == ["late"])
    }
    let seen = peers.withLock { $0 }
    #expect(seen.count == 6 && Set(seen[0...2]).count == 1 && Set(seen[3...]).count == 1)
    #expect(seen[2] != seen[3])
  }

  @Test func anIdleConnectionIsClosedAndMadeAgain() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.idleTimeout = .milliseconds(20)
    let peers = Mutex<Set<String>>([])
    var service = TestService()
    service.unary = { request, context in
      peers.withLock { _ = $0.insert(context.peer) }
      return request
    }
    try await withServer(service, channelConfiguration: configuration) { channel, _ in
      while peers.withLock({ $0.count }) < 2 {
        _ = try await channel.unary(Methods.unary, Blob())
        try await Task.sleep(for: .milliseconds(40))
      }
    }
  }

  @Test func callsThatAServedCallMakesEndByItsDeadline() async throws {
    let inner = Mutex<RPCError?>(nil)
    let entered = Signal()
    try await withInMemoryServer([Self.slow]) { backend in
      var front = TestService()
      front.unary = { request, _ in
        await entered.set()
        do {
          return try await backend.unary(Methods.unary, request)
        } catch let error as RPCError {
          inner.withLock { $0 = error }
          throw error
        }
      }
      try await withInMemoryServer([front]) { channel in
        let task = Task {
          try await channel.unary(
            Methods.unary, Blob(), options: CallOptions(timeout: .seconds(3)))
        }
        await entered.wait()
        let error = await #expect(throws: RPCError.self) { try await task.value }
        #expect(error?.code == .deadlineExceeded)
      }
      while inner.withLock({ $0 == nil }) { await Task.yield() }
    }
    let code = inner.withLock { $0?.code }
    #expect(code == .deadlineExceeded || code == .cancelled)
  }

  private static var slow: TestService {
    var service = TestService()
    service.unary = { request, _ in
      try await Task.sleep(for: .seconds(60))
      return request
    }
    return service
  }

  @Test func whoWaitsForTheInitialMetadataCanBeCancelled() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let responses: ResponseStream<Blob> = try await channel.serverStreaming(Methods.server, Blob())
    let task = Task { _ = try await responses.initialMetadata }
    _ = try await peers.next().frame(.headers)
    task.cancel()
    let error = await #expect(throws: RPCError.self) { try await task.value }
    #expect(error?.code == .cancelled)
    await channel.close()
  }
}

/// Answers a client's greeting with its own, and closes.
private final class GreetsAndLeaves: ChannelInboundHandler, Sendable {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let settings = ByteBuffer(bytes: ScriptedPeer.frame(.settings))
    context.writeAndFlush(self.wrapOutboundOut(settings), promise: nil)
    context.close(promise: nil)
  }
}

/// Names whose servers move.
@Suite(.timeLimit(.minutes(1))) struct MovingTargetTests {
  /// Nobody and then one server, the first time; another one ever after.
  private final class MovingDialer: Dialer {
    let inner: SocketDialer
    let (first, later): ([ListenAddress], [ListenAddress])
    let resolutions = Atomic(0)

    init(_ inner: SocketDialer, first: [ListenAddress], later: [ListenAddress]) {
      self.inner = inner
      (self.first, self.later) = (first, later)
    }

    func resolve(
      _ target: ChannelTarget, on eventLoop: any EventLoop,
      _ done: @escaping (Result<[ListenAddress], DialError>) -> Void
    ) {
      let number = self.resolutions.add(1, ordering: .relaxed).newValue
      done(.success(number == 1 ? self.first : self.later))
    }

    func connect(
      to address: ListenAddress, _ handler: any ChannelHandler & Sendable,
      on eventLoop: any EventLoop, _ done: @escaping (DialError?) -> Void
    ) {
      self.inner.connect(to: address, handler, on: eventLoop, done)
    }
  }

  /// A channel whose first server takes one call at a time, each for so long, and moves away meanwhile.
  private static func withMovingServer(
    _ pause: Duration, _ configuration: RPCChannel.Configuration = RPCChannel.Configuration(),
    _ body: (RPCChannel) async throws -> Void
  ) async throws {
    var service = TestService()
    service.unary = { request, _ in
      try await Task.sleep(for: pause)
      return request
    }
    var limits = RPCServer.Configuration()
    limits.maximumConcurrentCallsPerConnection = 1
    let first = RPCServer(services: [service], configuration: limits)
    let second = RPCServer(services: [TestService()])
    let there = try await first.listen(on: .tcp(host: "127.0.0.1", port: 0))
    let elsewhere = try await second.listen(on: .tcp(host: "127.0.0.1", port: 0))
    let target = try ChannelTarget("dns:///moving.test:1")
    let channel = RPCChannel(
      to: target, configuration: configuration,
      dialer: MovingDialer(
        SocketDialer(target: target, configuration: configuration),
        first: [ownAddress(), there], later: [elsewhere]),
      group: MultiThreadedEventLoopGroup.singleton)
    try await body(channel)
    await channel.close()
    await first.shutdown(grace: .zero)
    await second.shutdown(grace: .zero)
  }

  @Test func noCallIsLostThatWaitsOnAnAddressThatIsDropped() async throws {
    try await Self.withMovingServer(.milliseconds(150)) { channel in
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<20 {
          group.addTask {
            let answer = try await channel.unary(Methods.unary, Blob("\(number)"))
            #expect(answer.text == "\(number)")
          }
        }
        try await group.waitForAll()
      }
    }
  }

  /// The call that has a link made finds too many that wait: the link is made all the same.
  @Test func aCallThatMayNotWaitKeepsNoOtherFromItsConnection() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.maximumWaitingCalls = 4
    try await Self.withMovingServer(.milliseconds(500), configuration) { channel in
      let options = CallOptions(timeout: .seconds(30))
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<200 {
          group.addTask { _ = try? await channel.unary(Methods.unary, Blob(), options: options) }
          try await Task.sleep(for: .milliseconds(10))
        }
        try await group.waitForAll()
      }
      #expect(try await channel.unary(Methods.unary, Blob("x"), options: options).text == "x")
    }
  }
}
