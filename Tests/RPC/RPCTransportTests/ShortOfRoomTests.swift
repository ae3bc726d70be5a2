import NIOCore
import NIOPosix
import RPCCore
import RPCTesting
import Synchronization
import Testing

@testable import RPCTransport

/// Who keeps its calls, and who does not, where a server is short of room or goes away.
///
/// Times are long: among all other tests one that reads may have no turn for seconds, and would be taken for
/// a peer that takes nothing.
@Suite(.timeLimit(.minutes(3))) struct ShortOfRoomTests {
  /// A server with a loop of its own, whose calls of ``Methods/server`` never end.
  private struct Server {
    let server: RPCServer
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let texts = Notices()

    private final class Notices: Sendable {
      let all = Mutex<[String]>([])
    }

    /// What was noticed of attacks.
    var notices: [String] { self.texts.all.withLock { $0 } }

    init(_ change: (inout RPCServer.Configuration) -> Void) {
      var configuration = RPCServer.Configuration()
      let texts = self.texts
      configuration.attackNoticed = { _, what in texts.all.withLock { $0.append(what) } }
      change(&configuration)
      var service = TestService()
      service.server = { _, responses, _ in
        let message = Blob([UInt8](repeating: 1, count: 10_000))
        while true { try await responses.send(message) }
      }
      self.server = RPCServer(
        services: [service], configuration: configuration, group: self.group)
    }

    func stop(grace: Duration = .zero) async throws {
      await self.server.shutdown(grace: grace)
      try await self.group.shutdownGracefully()
    }
  }

  /// 200 KB/s for as long as the drain goes on; what the socket takes comes in lumps.
  @Test(arguments: [ListenAddress.tcp(host: "127.0.0.1", port: 0), ownAddress()])
  func aSteadyReaderKeepsItsCallInADrain(at address: ListenAddress) async throws {
    let server = Server { $0.stalledCallTimeout = .seconds(8) }
    let address = try await server.server.listen(on: address)
    let peer = try await ScriptedPeer.client(of: address, receiveBuffer: 16 << 10)
    try await peer.begin(Methods.server, stream: 1)
    try await peer.send(message: [1], stream: 1, ends: true)
    let down = Task {
      try await Task.sleep(for: .milliseconds(500))
      try await server.stop(grace: .seconds(60))
    }
    let began = ContinuousClock.now
    while began.duration(to: .now) < .seconds(26) {
      let frame = try #require(try await peer.frame())
      #expect(frame.kind != .reset)
      if frame.kind == .data { try await Task.sleep(for: .milliseconds(50)) }
    }
    await peer.close()
    try await down.value
  }

  /// One call's window is shut; another one is read all the time, and sent faster than that.
  @Test func aCallThatIsReadOutlivesOneThatIsNot() async throws {
    let server = Server {
      $0.stalledCallTimeout = .seconds(8)
      $0.maximumBufferedBytesPerConnection = 190 << 10
    }
    let address = try await server.server.listen(on: .tcp(host: "127.0.0.1", port: 0))
    let peer = try await ScriptedPeer.client(of: address)
    // Windows of streams: none.
    try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(0))
    try await peer.begin(Methods.server, stream: 1)
    try await peer.send(message: [1], stream: 1, ends: true)
    try await peer.begin(Methods.server, stream: 3)
    try await peer.send(.windowUpdate, stream: 3, body: ScriptedPeer.bytes(UInt32(Int32.max)))
    try await peer.send(message: [1], stream: 3, ends: true)
    var resets: [UInt32] = []
    // And at one further look.
    var end: ContinuousClock.Instant?
    while end.map({ .now < $0 }) ?? true {
      let frame = try #require(try await peer.frame(), "\(server.notices) \(resets)")
      if frame.kind == .data { try await Task.sleep(for: .milliseconds(2)) }
      if frame.kind == .reset {
        resets.append(frame.stream)
        end = .now + .seconds(9)
      }
    }
    #expect(resets == [1])
    #expect(server.notices.count == 1, "\(server.notices)")
    await peer.close()
    try await server.stop()
  }

  /// The whole time that a call may be silent for begins when the server is to end.
  @Test func aCallThatPausedHasItsTimeWhenTheServerGoes() async throws {
    let server = Server { $0.stalledCallTimeout = .seconds(3) }
    let address = try await server.server.listen(on: .tcp(host: "127.0.0.1", port: 0))
    var client = RPCChannel.Configuration()
    client.maximumStreamWindow = 256 << 10
    let channel = RPCChannel(to: address, configuration: client, group: server.group)
    var paused = try await channel.serverStreaming(Methods.server, Blob("paused"))
      .makeAsyncIterator()
    _ = try await paused.next()
    try await Task.sleep(for: .seconds(5))
    let down = Task { await server.server.shutdown(grace: .seconds(20)) }
    // Half of the time after the server has said that it goes.
    try await Task.sleep(for: .milliseconds(1_500))
    for _ in 0..<200 { #expect(try await paused.next() != nil) }
    #expect(server.notices == [])
    await channel.close()
    await down.value
    try await server.group.shutdownGracefully()
  }
}

@Suite struct PlannedAttempts {
  /// One is planned far away, and another waits behind the limit of streams, to which the call is bound.
  @Test(.timeLimit(.minutes(1))) func aBoundCallEndsWithItsChannel() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.serviceConfig = ServiceConfig(
      methods: [
        MethodConfig(
          names: [.init(service: "test.Test")],
          resilience: .hedge(
            HedgingPolicy(
              maximumAttempts: 3, delay: .seconds(8), nonFatalCodes: [.unavailable])))
      ])
    let (channel, peers) = ScriptedPeer.server(configuration: configuration)
    let call: ClientStreamingCall<Blob, Blob> = try await channel.clientStreaming(Methods.client)
    let peer = try await peers.next()
    let first = try #require(try await peer.frame(.headers))
    // No more streams: the hedge waits.
    try await peer.send(.settings, body: [0, 3] + ScriptedPeer.bytes(0))
    try await waitUntil { try await waitingCalls(of: channel) == 1 }
    try await peer.end(
      stream: first.stream, status: .unavailable, isTrailersOnly: true,
      more: [("grpc-retry-pushback-ms", "50000")])
    try await Task.sleep(for: .seconds(1))
    // More than is kept: the call is bound to the one that waits.
    let sender = Task { try await call.send(Blob([UInt8](repeating: 1, count: 300 << 10))) }
    try await Task.sleep(for: .seconds(1))
    let began = ContinuousClock.now
    let result = Task { try await call.finish() }
    await channel.close()
    await #expect(throws: RPCError.self) { try await result.value }
    _ = await sender.result
    #expect(began.duration(to: .now) < .seconds(20))
  }
}
