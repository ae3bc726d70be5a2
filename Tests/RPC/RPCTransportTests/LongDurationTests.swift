import RPCCore
import RPCTransport
import Testing

/// A duration may be longer than any clock or timer counts.
@Suite(.timeLimit(.minutes(1))) struct LongDurationTests {
  private static let durations: [Duration] = [
    .milliseconds(9_223_372_036_854), .milliseconds(9_223_372_036_999), .seconds(Int64.max),
    .seconds(Int64.max) * 4, Duration(attoseconds: .max),
  ]

  @Test(arguments: Self.durations) func aCallMayTakeForever(timeout: Duration) async throws {
    try await withServer { channel, _ in
      let answer = try await channel.unary(
        Methods.unary, Blob("on time"), options: CallOptions(timeout: timeout))
      #expect(answer.text == "on time")
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob("late"), options: CallOptions(timeout: .zero - timeout))
      }
      #expect(error?.code == .deadlineExceeded)
    }
  }

  @Test(arguments: Self.durations) func everySettingMayBeForever(long: Duration) async throws {
    var server = RPCServer.Configuration()
    server.handshakeTimeout = long
    server.headerTimeout = long
    server.stalledCallTimeout = long
    server.keepalive = Keepalive(interval: long, timeout: long)
    server.minimumPingInterval = long
    server.maximumConnectionIdle = long
    server.maximumConnectionAge = long
    server.maximumConnectionAgeGrace = long
    var channel = RPCChannel.Configuration()
    channel.connectTimeout = long
    channel.initialBackoff = long
    channel.maximumBackoff = long
    channel.keepalive = Keepalive(interval: long, timeout: long)
    channel.unacknowledgedTimeout = long
    channel.idleTimeout = long
    channel.serviceConfig = ServiceConfig(methods: [
      MethodConfig(
        names: [.init(service: "test.Test", method: "Unary")], timeout: long,
        resilience: .retry(
          RetryPolicy(maximumAttempts: 2, initialBackoff: long, maximumBackoff: long))),
      MethodConfig(
        names: [.init(service: "test.Test", method: "Server")],
        resilience: .hedge(HedgingPolicy(maximumAttempts: 2, delay: long))),
    ])
    var service = TestService()
    service.unary = { request, _ in
      if request.text == "busy" { throw RPCError(.unavailable, "busy") }
      return request
    }
    try await withServer(
      service, configuration: server, channelConfiguration: channel
    ) { channel, _ in
      let responses: ResponseStream<Blob> = try await channel.serverStreaming(
        Methods.server, Blob("2"))
      var count = 0
      for try await _ in responses { count += 1 }
      #expect(count == 2)
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { _ = try? await channel.unary(Methods.unary, Blob("busy")) }
        for _ in 0..<20 { _ = try await channel.unary(Methods.unary, Blob()) }
        group.cancelAll()
      }
    }
    // A delay after a failure.
    let dead = RPCChannel(to: try ListenAddress("127.0.0.1:1"), configuration: channel)
    await #expect(throws: RPCError.self) { try await dead.unary(Methods.missing, Blob()) }
    await dead.close()
  }
}
