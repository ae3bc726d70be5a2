import InMemoryTracing
import Instrumentation
import Metrics
import MetricsTestKit
import RPC
import RPCMetrics
import RPCTesting
import ServiceContextModule
import Testing
import Tracing

@testable import RPCTracing

@Suite(.serialized) struct ObservationTests {
  @Test func callsAreCountedAndTimedOnBothSides() async throws {
    let metrics = TestMetrics()
    var server = RPCServer.Configuration()
    server.observers = [ServerMetrics(factory: metrics)]
    var client = RPCChannel.Configuration()
    client.interceptors = [ClientMetrics(factory: metrics)]
    try await withInMemoryServer(
      [HealthService()], configuration: server, channelConfiguration: client
    ) { channel in
      let health = HealthV1.HealthClient(channel)
      for _ in 0..<3 { _ = try await health.check(HealthV1.HealthCheckRequest()) }
      await #expect(throws: RPCError.self) {
        try await health.check(HealthV1.HealthCheckRequest(service: "none"))
      }
    }
    let method = [("grpc.method", "grpc.health.v1.Health/Check")]
    for side in ["grpc.server.call", "grpc.client.call"] {
      #expect(try metrics.expectCounter("\(side).started", method).totalValue == 4)
      let fine = try metrics.expectTimer("\(side).duration", method + [("grpc.status", "OK")])
      #expect(fine.values.count == 3)
      let missing = try metrics.expectTimer(
        "\(side).duration", method + [("grpc.status", "NOT_FOUND")])
      #expect(missing.values.count == 1)
      let sent = try metrics.expectRecorder(
        "\(side).sent_total_compressed_message_size", method)
      let received = try metrics.expectRecorder(
        "\(side).rcvd_total_compressed_message_size", method)
      let isClient = side == "grpc.client.call"
      // `status: SERVING` is two bytes, `service: "none"` six.
      #expect((isClient ? sent : received).values.sorted() == [0, 0, 0, 6])
      #expect((isClient ? received : sent).values.sorted() == [0, 2, 2, 2])
    }
  }

  @Test func aTraceStateInSeveralFieldsIsOneList() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    let metadata: Metadata = [
      "tracestate": "a=1,b=2", "traceparent": parent, "tracestate": "c=3", "tracestate": "d=4",
    ]
    let trace = IncomingTrace(metadata)
    #expect(trace?.parent == parent)
    #expect(trace?.state == "a=1,b=2,c=3,d=4")
    #expect(IncomingTrace(["traceparent": parent])?.state == nil)
    // A tracer sees the same.
    let extractor = MetadataExtractor()
    #expect(extractor.extract(key: "tracestate", from: metadata) == "a=1,b=2,c=3,d=4")
    #expect(extractor.extract(key: "traceparent", from: metadata) == parent)
    #expect(extractor.extract(key: "baggage", from: metadata) == nil)
  }

  @Test func twoTraceParentsAreNone() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    let other = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for second in [parent, other, "none"] {
      #expect(IncomingTrace(["traceparent": parent, "traceparent": second]) == nil)
    }
  }

  /// A server that calls another one for each of its calls.
  private struct Front: HealthV1.HealthService {
    let back: RPCChannel

    func check(
      _ request: HealthV1.HealthCheckRequest, context: ServerContext
    ) async throws -> HealthV1.HealthCheckResponse {
      try await HealthV1.HealthClient(self.back).check(request)
    }

    func list(
      _ request: HealthV1.HealthListRequest, context: ServerContext
    ) async throws -> HealthV1.HealthListResponse { HealthV1.HealthListResponse() }

    func watch(
      _ request: HealthV1.HealthCheckRequest,
      responses: ResponseWriter<HealthV1.HealthCheckResponse>, context: ServerContext
    ) async throws {}
  }

  /// What the last server of a chain hears of the first client's trace.
  private struct Recording: ServerInterceptor {
    let seen: (@Sendable (Metadata) -> Void)
    func intercept(
      _ context: ServerContext, proceed: Proceed
    ) async throws {
      self.seen(context.metadata)
      try await proceed()
    }
  }

  @Test func theCallersTraceGoesOnWithoutATracerAndBecomesSpansWithOne() async throws {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    let (stream, continuation) = AsyncStream.makeStream(of: Metadata.self)
    var iterator = stream.makeAsyncIterator()
    var back = RPCServer.Configuration()
    back.interceptors = [ServerTracing(), Recording { continuation.yield($0) }]
    var front = RPCServer.Configuration()
    front.interceptors = [ServerTracing()]
    var traced = RPCChannel.Configuration()
    traced.interceptors = [ClientTracing()]
    let last = RPCServer(services: [HealthService()], configuration: back)
    let first = RPCServer(
      services: [Front(back: last.inMemoryChannel(configuration: traced))], configuration: front)
    let channel = first.inMemoryChannel()
    let client = HealthV1.HealthClient(channel)

    _ = try await client.check(
      HealthV1.HealthCheckRequest(),
      options: CallOptions(metadata: ["traceparent": parent, "tracestate": "a=b"]))
    let passed = await iterator.next()
    #expect(passed?["traceparent"] == parent)
    #expect(passed?["tracestate"] == "a=b")
    // What is none goes nowhere.
    _ = try await client.check(
      HealthV1.HealthCheckRequest(), options: CallOptions(metadata: ["traceparent": "00-xyz"]))
    let dropped = await iterator.next()
    #expect(dropped?["traceparent"] == nil)

    let tracer = InMemoryTracer()
    InstrumentationSystem.bootstrap(tracer)
    _ = try await client.check(HealthV1.HealthCheckRequest())
    await #expect(throws: RPCError.self) {
      try await client.check(HealthV1.HealthCheckRequest(service: "none"))
    }
    await channel.close()
    await first.shutdown(grace: .zero)
    await last.shutdown(grace: .zero)
    let spans = tracer.finishedSpans
    #expect(spans.count == 6)
    #expect(Set(spans.map(\.operationName)) == ["grpc.health.v1.Health/Check"])
    #expect(spans.filter { $0.kind == .client }.count == 2)
    // Each call is one trace over both servers.
    #expect(Set(spans.map(\.spanContext.traceID)).count == 2)
    #expect(spans.contains { $0.attributes.get("rpc.grpc.status_code") == .int64(5) })
    // NOT_FOUND is no fault of the server.
    #expect(spans.filter { $0.kind == .server }.allSatisfy { $0.status == nil })
    #expect(spans.contains { $0.kind == .server && !$0.errors.isEmpty })
  }
}
