import NIOCore
import NIOPosix
import RPCCore
import RPCTesting
import RPCTransport
import Testing

/// A test that waits for a peer ends when there is nothing to wait for.
@Suite(.timeLimit(.minutes(1))) struct ScriptedPeerTests {
  @Test func whoWaitsForAServerMayBeCancelled() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let next = Task { try await peers.next() }
    // Most likely it waits by now; it is the same if not.
    await Task.yield()
    next.cancel()
    await #expect(throws: CancellationError.self) { try await next.value }
    // Nothing has been taken from the one who comes then.
    let call = Task { try await channel.unary(Methods.unary, Blob()) }
    let peer = try await peers.next()
    let request = try #require(try await peer.frame(.headers))
    try await peer.end(stream: request.stream, status: .aborted, isTrailersOnly: true)
    let error = await #expect(throws: RPCError.self) { try await call.value }
    #expect(error?.code == .aborted)
    await channel.close()
  }

  @Test func aTaskThatIsCancelledGetsNoServer() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let next = Task {
      withUnsafeCurrentTask { $0?.cancel() }
      return try await peers.next()
    }
    await #expect(throws: CancellationError.self) { try await next.value }
    await channel.close()
  }

  @Test func nobodyConnectsOnceTheChannelIsClosed() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { try await channel.unary(Methods.unary, Blob()) }
    let first = try await peers.next()
    let next = Task { try await peers.next() }
    await Task.yield()
    await channel.close()
    await #expect(throws: ScriptedPeer.Peers.EndedError.self) { try await next.value }
    let error = await #expect(throws: ScriptedPeer.Peers.EndedError.self) {
      try await peers.next()
    }
    #expect(error?.description.contains("the channel was closed") == true)
    await #expect(throws: RPCError.self) { try await call.value }
    while try await first.frame() != nil {}
  }

  @Test func nobodyConnectsOnceTheChannelIsGone() async throws {
    let peers = ScriptedPeer.server().peers
    await #expect(throws: ScriptedPeer.Peers.EndedError.self) { try await peers.next() }
  }

  @Test func aServerThatWasConnectedToIsTheresAfterTheChannelsEnd() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { try await channel.unary(Methods.unary, Blob()) }
    let first = try await peers.next()
    // A call that has not gone out would go to the next one.
    #expect(try await first.frame(.headers) != nil)
    await first.close()
    await #expect(throws: RPCError.self) { try await call.value }
    let again = Task {
      try await channel.unary(Methods.unary, Blob(), options: CallOptions(waitForReady: true))
    }
    let second = try await peers.next()
    #expect(try await second.frame(.headers) != nil)
    await channel.close()
    await #expect(throws: RPCError.self) { try await again.value }
    while try await second.frame() != nil {}
  }

  @Test func whoWaitsForAFrameMayBeCancelledAndLosesNone() async throws {
    let server = RPCServer(services: [TestService()])
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: 0))
    let peer = try await ScriptedPeer.client(of: address)
    // The server's greeting, and its answer to ours.
    #expect(try await peer.frame(.settings) { !$0.isAcknowledgement } != nil)
    #expect(try await peer.frame(.settings) { $0.isAcknowledgement } != nil)
    let waits = Task { try await peer.frame(.ping) }
    await Task.yield()
    waits.cancel()
    await #expect(throws: CancellationError.self) { try await waits.value }
    let bytes: [UInt8] = Array(1...8)
    try await peer.send(.ping, body: bytes)
    #expect(try await peer.frame(.ping)?.body == bytes)
    await peer.close()
    await server.shutdown(grace: .zero)
  }

  @Test func framesGoToThoseWhoWaitInTheirOrder() async throws {
    let server = RPCServer(services: [TestService()])
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: 0))
    let peer = try await ScriptedPeer.client(of: address)
    #expect(try await peer.frame(.settings) { !$0.isAcknowledgement } != nil)
    #expect(try await peer.frame(.settings) { $0.isAcknowledgement } != nil)
    async let one = peer.frame(.ping)
    async let other = peer.frame(.ping)
    for first in [UInt8(1), 2] {
      try await peer.send(.ping, body: [first] + [UInt8](repeating: 0, count: 7))
    }
    let both = try await [one, other].compactMap { $0?.body.first }
    #expect(Set(both) == [1, 2])
    await peer.close()
    #expect(try await peer.frame() == nil)
    await server.shutdown(grace: .zero)
  }

  @Test func aClosedConnectionHasNoFrame() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { try await channel.unary(Methods.unary, Blob()) }
    let peer = try await peers.next()
    // A call that has not gone out would go to the next one.
    #expect(try await peer.frame(.headers) != nil)
    let waits = Task { try await peer.frame(.reset) }
    await Task.yield()
    await peer.close()
    #expect(try await waits.value == nil)
    #expect(try await peer.frame() == nil)
    await #expect(throws: RPCError.self) { try await call.value }
    await channel.close()
  }

  /// Has nothing to say, and leaves the other side open.
  private final class Silence: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer

    func channelActive(context: ChannelHandlerContext) {
      context.close(mode: .output, promise: nil)
    }
  }

  @Test func whoStaysBehindTheServersEndHasNoFrameEither() async throws {
    let listener = try await ServerBootstrap(group: NIOSingletons.posixEventLoopGroup)
      .childChannelOption(.allowRemoteHalfClosure, value: true)
      .childChannelInitializer { $0.pipeline.addHandler(Silence()) }
      .bind(host: "127.0.0.1", port: 0).get()
    let port = try #require(listener.localAddress?.port)
    let peer = try await ScriptedPeer.client(
      of: .tcp(host: "127.0.0.1", port: port), staysBehindEnd: true)
    #expect(try await peer.frame() == nil)
    // It may still say something.
    try await peer.send(.ping, body: [UInt8](repeating: 0, count: 8))
    await peer.close()
    try await listener.close()
  }
}
