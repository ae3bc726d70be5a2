import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
import Testing

/// What a server sends beside the one response of a call.
@Suite(.timeLimit(.minutes(1))) struct ReceivedMetadataTests {
  private static let telling: TestService = {
    var service = TestService()
    service.unary = { request, context in
      context.setInitialMetadata(["region": "north", "tag": "a", "tag": "b"])
      context.setTrailingMetadata(["cost": "3"])
      if request.text == "fail" {
        throw RPCError(.aborted, "as asked", metadata: ["reason": "conflict"])
      }
      return request
    }
    service.client = { _, context in
      context.setInitialMetadata(["region": "south"])
      context.setTrailingMetadata(["cost": "4"])
      return Blob("x")
    }
    return service
  }()

  @Test func aUnaryCallTellsWhatCameWithIt() async throws {
    try await withServer(Self.telling) { channel, _ in
      let received = ReceivedMetadata()
      let answer = try await channel.unary(
        Methods.unary, Blob("x"), options: CallOptions(receivedMetadata: received))
      #expect(answer.text == "x")
      #expect(received.initial["region"] == "north")
      #expect(received.initial.values(for: "tag") == ["a", "b"])
      #expect(received.trailing == ["cost": "3"])
    }
  }

  @Test func aCallThatFailsTellsItByItsErrorToo() async throws {
    try await withServer(Self.telling) { channel, _ in
      let received = ReceivedMetadata()
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob("fail"), options: CallOptions(receivedMetadata: received))
      }
      #expect(received.initial["region"] == "north")
      #expect(error?.metadata["reason"] == "conflict")
      #expect(error?.metadata["cost"] == "3")
      #expect(received.trailing == error?.metadata)
    }
  }

  @Test func aClientStreamingCallTellsItByBothWays() async throws {
    try await withServer(Self.telling) { channel, _ in
      let received = ReceivedMetadata()
      let call: ClientStreamingCall<Blob, Blob> = try await channel.clientStreaming(
        Methods.client, options: CallOptions(receivedMetadata: received))
      #expect(call.trailingMetadata == nil)
      try await call.send(Blob("y"))
      _ = try await call.finish()
      #expect(try await call.initialMetadata["region"] == "south")
      #expect(call.trailingMetadata == ["cost": "4"])
      #expect(received.initial["region"] == "south")
      #expect(received.trailing == ["cost": "4"])
    }
  }

  @Test func itIsThatOfTheAttemptThatCounted() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.serviceConfig = ServiceConfig(methods: [
      MethodConfig(
        names: [.init()],
        resilience: .retry(RetryPolicy(maximumAttempts: 3, initialBackoff: .milliseconds(1))))
    ])
    let (channel, peers) = ScriptedPeer.server(configuration: configuration)
    let received = ReceivedMetadata()
    async let answer = channel.unary(
      Methods.unary, Blob(), options: CallOptions(receivedMetadata: received))
    let peer = try await peers.next()
    for attempt in 1...2 {
      let head = try #require(try await peer.frame(.headers))
      try await peer.end(
        stream: head.stream, status: .unavailable, isTrailersOnly: true,
        more: [("failed", "\(attempt)")])
    }
    let head = try #require(try await peer.frame(.headers))
    try await peer.respond(stream: head.stream, more: [("attempt", "3")])
    try await peer.send(message: [], stream: head.stream)
    try await peer.end(stream: head.stream, more: [("last", "yes")])
    _ = try await answer
    #expect(received.initial == ["attempt": "3"])
    #expect(received.trailing == ["last": "yes"])
    await channel.close()
  }

  @Test func theNextCallBeginsByEmptyingIt() async throws {
    try await withServer(Self.telling) { channel, _ in
      let options = CallOptions(receivedMetadata: ReceivedMetadata())
      _ = try await channel.unary(Methods.unary, Blob(), options: options)
      #expect(options.receivedMetadata?.trailing.isEmpty == false)
      var late = options
      late.timeout = .zero
      await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob(), options: late)
      }
      #expect(options.receivedMetadata?.initial.isEmpty == true)
      #expect(options.receivedMetadata?.trailing.isEmpty == true)
    }
  }

  @Test func anInterceptorMayLookAtItWhenTheCallIsOver() async throws {
    struct Watcher: ClientInterceptor {
      let seen: @Sendable (String?) -> Void
      func intercept(_ call: inout OutgoingCall) async throws {
        let received = call.options.receivedMetadata ?? ReceivedMetadata()
        call.options.receivedMetadata = received
        call.onEnd { _ in self.seen(received.trailing["cost"]) }
      }
    }
    let costs = Mutex<[String?]>([])
    var configuration = RPCChannel.Configuration()
    configuration.interceptors = [Watcher { cost in costs.withLock { $0.append(cost) } }]
    try await withServer(Self.telling, channelConfiguration: configuration) { channel, _ in
      _ = try await channel.unary(Methods.unary, Blob())
    }
    #expect(costs.withLock { $0 } == ["3"])
  }
}
