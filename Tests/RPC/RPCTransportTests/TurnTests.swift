import NIOCore
import NIOPosix
import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
import Testing

/// Connections that keep their loop at work share it with the others.
@Suite(.serialized, .timeLimit(.minutes(2))) struct TurnTests {
  /// Keeps the thread busy, as decompression or a handler may.
  private static func work(_ duration: Duration, until isOver: () -> Bool = { false }) {
    let end = ContinuousClock.now + duration
    while ContinuousClock.now < end, !isOver() {}
  }

  /// A server on a loop of its own, and a channel that has made a call.
  private static func withOneLoop(
    _ service: TestService, _ body: (RPCChannel, ListenAddress) async throws -> Void
  ) async throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    try await withServer(service, group: group) { channel, _ in
      _ = try await channel.unary(Methods.unary, Blob())
      try await body(channel, try ListenAddress("\(channel.target)"))
    }
    try await group.shutdownGracefully()
  }

  @Test func aConnectionThatKeepsItsLoopBusyLetsOthersIn() async throws {
    let slow = Mutex(0)
    // How many of the slow ones were over when each of the others' came to its turn.
    let others = Mutex<[Int]>([])
    // Not an actor: a handler comes to one only when its loop does.
    let (begun, begins) = AsyncStream.makeStream(of: Void.self)
    var service = TestService()
    service.unary = { request, _ in
      guard !request.bytes.isEmpty else {
        let count = slow.withLock { $0 }
        others.withLock { $0.append(count) }
        return request
      }
      begins.yield()
      Self.work(.milliseconds(100)) { others.withLock { $0.count } == 2 }
      slow.withLock { $0 += 1 }
      return Blob()
    }
    try await Self.withOneLoop(service) { channel, address in
      let peer = try await ScriptedPeer.client(of: address)
      let count = 60
      let message = [0] + ScriptedPeer.bytes(1_000) + [UInt8](repeating: 1, count: 1_000)
      let head = ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path))
      var calls: [UInt8] = []
      for index in 0..<UInt32(count) {
        calls += ScriptedPeer.frame(.headers, flags: 4, stream: index * 2 + 1, body: head)
        calls += ScriptedPeer.frame(.data, flags: 1, stream: index * 2 + 1, body: message)
      }
      try await peer.send(bytes: calls)
      for await _ in begun { break }
      _ = try await channel.unary(Methods.unary, Blob())
      #expect(others.withLock { $0.last ?? count } < count)
      // None of them is lost.
      for _ in 0..<count {
        let end = try await peer.frame(.headers) { $0.endsStream }
        #expect(end?["grpc-status"] == "0")
      }
      await peer.close()
    }
  }

  /// Quick ones first, then some that work and wait: neither hides the others from the clock.
  @Test func handlersThatWorkAndThenWaitLetOthersIn() async throws {
    let slow = Mutex(0)
    let isOver = Mutex(false)
    let other = Mutex<Int?>(nil)
    let (begun, begins) = AsyncStream.makeStream(of: Void.self)
    var service = TestService()
    service.unary = { request, _ in
      switch request.text.first {
      case "s":
        begins.yield()
        Self.work(.milliseconds(50)) { isOver.withLock { $0 } }
        slow.withLock { $0 += 1 }
        while !isOver.withLock({ $0 }) { try await Task.sleep(for: .milliseconds(5)) }
      case "o":
        let count = slow.withLock { $0 }
        other.withLock { $0 = count }
        isOver.withLock { $0 = true }
      default: break
      }
      return request
    }
    try await Self.withOneLoop(service) { channel, address in
      let peer = try await ScriptedPeer.client(of: address)
      let (quick, count) = (60, 60)
      let head = ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path))
      var calls: [UInt8] = []
      for index in 0..<UInt32(quick + count) {
        let stream = index * 2 + 1
        calls += ScriptedPeer.frame(.headers, flags: 4, stream: stream, body: head)
        calls += ScriptedPeer.frame(
          .data, flags: 1, stream: stream,
          body: [0, 0, 0, 0, 1, UInt8(ascii: index < quick ? "q" : "s")])
      }
      try await peer.send(bytes: calls)
      for await _ in begun { break }
      _ = try await channel.unary(Methods.unary, Blob("o"))
      #expect(other.withLock { $0 ?? count } < count)
      for _ in 0..<quick + count {
        let end = try await peer.frame(.headers) { $0.endsStream }
        #expect(end?["grpc-status"] == "0")
      }
      await peer.close()
    }
  }

  @Test func connectionsThatKeepTheirLoopBusyTogetherLetOthersIn() async throws {
    let slow = Mutex(0)
    // How many of the slow ones were over when the other one came to its turn.
    let other = Mutex<Int?>(nil)
    let allAreSent = Mutex(false)
    let (begun, begins) = AsyncStream.makeStream(of: Void.self)
    var service = TestService()
    service.unary = { request, _ in
      guard !request.bytes.isEmpty else {
        let count = slow.withLock { $0 }
        other.withLock { $0 = count }
        return request
      }
      begins.yield()
      if slow.withLock({ $0 }) == 0 {
        Self.work(.seconds(30)) { allAreSent.withLock { $0 } }
      } else {
        Self.work(.milliseconds(100)) { other.withLock { $0 != nil } }
      }
      slow.withLock { $0 += 1 }
      return Blob()
    }
    try await Self.withOneLoop(service) { channel, address in
      other.withLock { $0 = nil }
      var peers: [ScriptedPeer] = []
      for _ in 0..<40 { peers.append(try await ScriptedPeer.client(of: address)) }
      // While the loop is at work for the first one all others become readable, the good one last.
      let message = [UInt8](repeating: 1, count: 1_000)
      for (index, peer) in peers.enumerated() {
        try await peer.begin(Methods.unary)
        try await peer.send(message: message, ends: true)
        if index == 0 { for await _ in begun { break } }
      }
      let good = Task { try await channel.unary(Methods.unary, Blob()) }
      // Until it has left, too.
      try await Task.sleep(for: .milliseconds(100))
      allAreSent.withLock { $0 = true }
      _ = try await good.value
      #expect(try #require(other.withLock { $0 }) < peers.count / 2)
      // None of them is lost.
      for peer in peers {
        let end = try await peer.frame(.headers) { $0.endsStream }
        #expect(end?["grpc-status"] == "0")
        await peer.close()
      }
    }
  }

  @Test func answersCountThatCameBeforeTheirServerClosed() async throws {
    struct Slow: ClientInterceptor {
      func intercept(_ call: inout OutgoingCall) async throws {
        call.onEnd { _ in TurnTests.work(.milliseconds(2)) }
      }
    }
    var configuration = RPCChannel.Configuration()
    configuration.interceptors = [Slow()]
    let (channel, peers) = ScriptedPeer.server(configuration: configuration)
    let count = 60
    try await withThrowingTaskGroup(of: Blob.self) { group in
      for _ in 0..<count {
        group.addTask { try await channel.unary(Methods.unary, Blob()) }
      }
      let peer = try await peers.next()
      var answers: [UInt8] = []
      let message = [0] + ScriptedPeer.bytes(1_000) + [UInt8](repeating: 1, count: 1_000)
      for _ in 0..<count {
        let stream = try #require(try await peer.frame(.data) { $0.endsStream }).stream
        answers += ScriptedPeer.frame(
          .headers, flags: 4, stream: stream,
          body: ScriptedPeer.block([(":status", "200"), ("content-type", "application/grpc")]))
        answers += ScriptedPeer.frame(.data, stream: stream, body: message)
        answers += ScriptedPeer.frame(
          .headers, flags: 5, stream: stream, body: ScriptedPeer.block([("grpc-status", "0")]))
      }
      try await peer.send(bytes: answers)
      await peer.close()
      for try await answer in group { #expect(answer.bytes.count == 1_000) }
    }
    await channel.close()
  }

  // What the first answers led to goes out before the last ones are looked at, to a server that has gone.
  @Test func answersCountThatWereReadTogetherWithTheEndOfTheConnection() async throws {
    let count = 400
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(Farewell(calls: count))
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    let channel = RPCChannel(
      to: .tcp(host: "127.0.0.1", port: listener.localAddress!.port!), group: loop)
    let answered = await withTaskGroup(of: Bool.self) { group in
      for _ in 0..<count {
        group.addTask(executorPreference: loop.callExecutor) {
          let isAnswered = (try? await channel.unary(Methods.unary, Blob())) != nil
          _ = try? await channel.unary(Methods.unary, Blob())
          return isAnswered
        }
      }
      return await group.reduce(0) { $0 + ($1 ? 1 : 0) }
    }
    #expect(answered == count)
    await channel.close()
    try await listener.closeFuture.get()
  }
}

/// Answers calls when it has so many, all at once, and goes with its listener.
private final class Farewell: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer
  private static let preface = 24
  private let calls: Int
  private var bytes: [UInt8] = []
  /// Where the next frame begins.
  private var position = Farewell.preface
  private var streams: [UInt32] = []

  init(calls: Int) { self.calls = calls }

  func channelActive(context: ChannelHandlerContext) {
    // SETTINGS_MAX_CONCURRENT_STREAMS.
    let settings = [0, 3] + ScriptedPeer.bytes(UInt32(self.calls))
    self.send(ScriptedPeer.frame(.settings, body: settings), context)
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    self.bytes += self.unwrapInboundIn(data).readableBytesView
    while self.position + 9 <= self.bytes.count {
      func number(at offset: Int, bytes: Int) -> Int {
        self.bytes[(self.position + offset)...].prefix(bytes).reduce(0) { $0 << 8 | Int($1) }
      }
      let end = self.position + 9 + number(at: 0, bytes: 3)
      guard end <= self.bytes.count else { return }
      let isLastOfRequest = number(at: 3, bytes: 1) == 0 && number(at: 4, bytes: 1) & 1 == 1
      if isLastOfRequest { self.streams.append(UInt32(number(at: 5, bytes: 4))) }
      self.position = end
    }
    guard self.streams.count == self.calls else { return }
    let head = [(":status", "200"), ("content-type", "application/grpc")]
    var answers: [UInt8] = []
    for stream in self.streams {
      answers += ScriptedPeer.frame(
        .headers, flags: 4, stream: stream, body: ScriptedPeer.block(head))
      answers += ScriptedPeer.frame(.data, stream: stream, body: [0] + ScriptedPeer.bytes(0))
      answers += ScriptedPeer.frame(
        .headers, flags: 5, stream: stream, body: ScriptedPeer.block([("grpc-status", "0")]))
    }
    context.channel.parent?.close(promise: nil)
    self.send(answers, context)
    context.close(promise: nil)
  }

  private func send(_ bytes: [UInt8], _ context: ChannelHandlerContext) {
    context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(bytes: bytes)), promise: nil)
  }
}
