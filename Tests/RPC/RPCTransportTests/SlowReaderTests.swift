import NIOCore
import NIOPosix
import RPCCore
import RPCTesting
import Synchronization
import Testing

@testable import RPCTransport

/// Peers that read slowly, or not now: that is theirs to decide.
@Suite(.serialized, .timeLimit(.minutes(1))) struct SlowReaderTests {
  private static var addresses: [ListenAddress] {
    [.tcp(host: "127.0.0.1", port: 0), ownAddress()]
  }

  /// A service whose streams never end, on a server that looks for stalled calls all the time.
  private static func serve(
    at address: ListenAddress, every check: Duration, messageBytes: Int,
    _ body: (ListenAddress) async throws -> Void
  ) async throws {
    var service = TestService()
    service.server = { _, responses, _ in
      let message = Blob([UInt8](repeating: 1, count: messageBytes))
      while true { try await responses.send(message) }
    }
    let notices = Notices()
    var configuration = RPCServer.Configuration()
    configuration.stalledCallTimeout = check
    configuration.attackNoticed = { _, what in notices.add(what) }
    // Loops of their own: other tests keep theirs busy for seconds.
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let server = RPCServer(services: [service], configuration: configuration, group: group)
    try await body(try await server.listen(on: address))
    #expect(notices.all == [])
    await server.shutdown(grace: .zero)
    try await group.shutdownGracefully()
  }

  private final class Notices: Sendable {
    private let texts = Mutex<[String]>([])
    var all: [String] { self.texts.withLock { $0 } }
    func add(_ text: String) { self.texts.withLock { $0.append(text) } }
  }

  @Test(arguments: addresses)
  func aCallThatNobodyReadsHoldsUpNoOther(address: ListenAddress) async throws {
    try await Self.serve(at: address, every: .seconds(2), messageBytes: 50_000) { address in
      let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
      var configuration = RPCChannel.Configuration()
      // Other tests look at what the process holds.
      configuration.maximumStreamWindow = 256 << 10
      let channel = RPCChannel(to: address, configuration: configuration, group: group)
      var paused = try await channel.serverStreaming(Methods.server, Blob("paused"))
        .makeAsyncIterator()
      _ = try await paused.next()
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<3 {
          group.addTask {
            let began = ContinuousClock.now
            for try await _ in try await channel.serverStreaming(Methods.server, Blob("read"))
            where began.duration(to: .now) > .milliseconds(6_500) { return }
          }
        }
        try await group.waitForAll()
      }
      // It goes on where it was left.
      for _ in 0..<20 { #expect(try await paused.next() != nil) }
      await channel.close()
      try await group.shutdownGracefully()
    }
  }

  /// What it reads is in the sockets for long: the stream's queue does not move.
  @Test(arguments: addresses)
  func aSteadyReaderKeepsItsCallHoweverSlowItIs(address: ListenAddress) async throws {
    try await Self.serve(at: address, every: .seconds(2), messageBytes: 10_000) { address in
      let peer = try await ScriptedPeer.client(of: address, receiveBuffer: 16 << 10)
      try await peer.begin(Methods.server, stream: 1)
      try await peer.send(message: [1], stream: 1, ends: true)
      let began = ContinuousClock.now
      while began.duration(to: .now) < .seconds(7) {
        let frame = try #require(try await peer.frame())
        #expect(frame.kind != .reset && frame.kind != .goAway)
        if frame.kind == .data { try await Task.sleep(for: .milliseconds(50)) }
      }
      await peer.close()
    }
  }

  /// Over a local socket what waits comes to the same number again and again, however much was taken.
  @Test func progressOfALocalSocketIsWhatWasTakenInAll() async throws {
    let address = ownAddress()
    guard case .unix(let path) = address else { return }
    let group = MultiThreadedEventLoopGroup.singleton
    let listener = try await ServerBootstrap(group: group)
      .childChannelOption(.autoRead, value: false)
      .bind(unixDomainSocketPath: path).get()
    let channel = try await ClientBootstrap(group: group).connect(unixDomainSocketPath: path).get()
    // More than the socket takes: the rest waits here.
    channel.writeAndFlush(ByteBuffer(repeating: 1, count: 4 << 20), promise: nil)
    let progress = try await channel.eventLoop.submit {
      [4 << 20, 5 << 20].map { SocketProgress(of: channel, given: $0) }
    }.get()
    let (first, second) = (try #require(progress[0]), try #require(progress[1]))
    #expect(first.waiting > 0 && first.waiting == second.waiting)
    #expect(first.acknowledged == UInt64((4 << 20) - first.waiting))
    #expect(second.acknowledged == first.acknowledged + 1 << 20)
    try await channel.close()
    try await listener.close()
  }
}
