import Metrics
import MetricsTestKit
import RPC
import RPCMetrics
import RPCTesting
import RPCTracing
import Synchronization
import Testing

// [docs: interceptors]
struct CallLog: ServerInterceptor, ClientInterceptor {
  let log: @Sendable (String) -> Void

  func intercept(_ context: ServerContext, proceed: Proceed) async throws {
    context.onEnd { self.log("served \($0.method): \($0.code) after \($0.duration)") }
    try await proceed()
  }

  func intercept(_ call: inout OutgoingCall) async throws {
    call.onEnd { self.log("called \($0.method): \($0.code), \($0.attempts) attempt(s)") }
  }
}
// [end]

@Suite struct ObservationExamples {
  @Test func callsAreLoggedOnBothSides() async throws {
    let lines = Mutex<[String]>([])
    let log = CallLog { line in lines.withLock { $0.append(line) } }
    // [docs: interceptors-use]
    var serverConfiguration = RPCServer.Configuration()
    serverConfiguration.interceptors = [log]
    var channelConfiguration = RPCChannel.Configuration()
    channelConfiguration.interceptors = [log]
    // [end]
    try await withInMemoryServer(
      [Greeter()], configuration: serverConfiguration, channelConfiguration: channelConfiguration
    ) { channel in
      _ = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
    }
    let all = lines.withLock { $0 }
    #expect(all.contains("called /testing.greeter.v1.Greeter/SayHello: OK, 1 attempt(s)"))
    #expect(all.contains { $0.hasPrefix("served /testing.greeter.v1.Greeter/SayHello: OK") })
  }

  @Test func callsAreMeasured() async throws {
    let factory = TestMetrics()
    // [docs: metrics]
    var serverConfiguration = RPCServer.Configuration()
    serverConfiguration.observers = [ServerMetrics(factory: factory)]
    var channelConfiguration = RPCChannel.Configuration()
    channelConfiguration.interceptors = [ClientMetrics(factory: factory)]
    // [end]
    try await withInMemoryServer(
      [Greeter()], configuration: serverConfiguration, channelConfiguration: channelConfiguration
    ) { channel in
      _ = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
    }
    let method = [("grpc.method", "testing.greeter.v1.Greeter/SayHello")]
    #expect(try factory.expectCounter("grpc.server.call.started", method).totalValue == 1)
    #expect(try factory.expectCounter("grpc.client.call.started", method).totalValue == 1)
  }

  @Test func aTraceGoesThroughAServer() async throws {
    let seen = Mutex<String?>(nil)
    let back = ClosureGreeter { _, context in
      seen.withLock { $0 = context.metadata["traceparent"] }
      return "Hello"
    }
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    // [docs: tracing]
    var serverConfiguration = RPCServer.Configuration()
    serverConfiguration.interceptors = [ServerTracing()]
    var channelConfiguration = RPCChannel.Configuration()
    channelConfiguration.interceptors = [ClientTracing()]
    // [end]
    try await withInMemoryServer(
      [back], channelConfiguration: channelConfiguration
    ) { backChannel in
      let front = Front(back: GreeterV1.GreeterClient(backChannel))
      try await withInMemoryServer([front], configuration: serverConfiguration) { channel in
        _ = try await GreeterV1.GreeterClient(channel).sayHello(
          .init(name: "you"), options: CallOptions(metadata: ["traceparent": parent]))
      }
    }
    #expect(seen.withLock { $0?.hasPrefix("00-0af7651916cd43dd8448eb211c80319c-") } == true)
  }
}
