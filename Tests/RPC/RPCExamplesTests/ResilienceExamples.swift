import RPC
import RPCTesting
import Synchronization
import Testing

@Suite struct ResilienceExamples {
  /// Fails some times, then greets.
  private static func flaky(
    failures: Int, code: StatusCode = .unavailable, retryDelay: Duration? = nil
  ) -> ClosureGreeter {
    let calls = Atomic(0)
    let box = Box(calls)
    return ClosureGreeter { request, _ in
      let call = box.value.add(1, ordering: .relaxed).newValue
      guard call > failures else { throw RPCError(code, "not yet", retryDelay: retryDelay) }
      return "Hello, \(request.name), at the \(call). attempt"
    }
  }

  private final class Box: Sendable {
    let value: Atomic<Int>
    init(_ value: consuming Atomic<Int>) { self.value = value }
  }

  @Test func aCallWaitsForItsServer() async throws {
    let first = RPCServer(services: [Greeter()])
    // No other test comes to use it while nobody listens on it.
    let address = try await first.listen(
      on: ListenAddress("unix:/tmp/millrace-rpc-\(UInt64.random(in: 0...UInt64.max)).sock"))
    await first.shutdown(grace: .zero)
    let channel = RPCChannel(to: address)
    let greeter = GreeterV1.GreeterClient(channel)
    // [docs: wait-for-ready]
    async let reply = greeter.sayHello(
      .init(name: "you"), options: CallOptions(timeout: .seconds(60), waitForReady: true))
    // [end]
    let second = RPCServer(services: [Greeter()])
    _ = try await second.listen(on: address)
    #expect(try await reply.text == "Hello, you")
    await channel.close()
    await second.shutdown(grace: .seconds(1))
  }

  @Test func aFailedCallIsMadeAgain() async throws {
    // [docs: retries]
    var configuration = RPCChannel.Configuration()
    configuration.serviceConfig = ServiceConfig(
      methods: [
        MethodConfig(
          names: [.init(service: "testing.greeter.v1.Greeter")],
          timeout: .seconds(10),
          resilience: .retry(
            RetryPolicy(
              maximumAttempts: 4, initialBackoff: .milliseconds(50), maximumBackoff: .seconds(1),
              backoffMultiplier: 2, retryableCodes: [.unavailable, .resourceExhausted])))
      ],
      retryThrottling: RetryThrottling(maximumTokens: 10, tokenRatio: 0.1))
    // [end]
    try await withInMemoryServer(
      [Self.flaky(failures: 2)], channelConfiguration: configuration
    ) { channel in
      let reply = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
      #expect(reply.text == "Hello, you, at the 3. attempt")
    }
  }

  @Test func aServiceConfigComesFromJSON() async throws {
    // [docs: json]
    var configuration = RPCChannel.Configuration()
    configuration.serviceConfig = try ServiceConfig(
      json: """
        {
          "methodConfig": [{
            "name": [{"service": "testing.greeter.v1.Greeter"}],
            "timeout": "10s",
            "retryPolicy": {
              "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s",
              "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]
            }
          }],
          "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
        }
        """)
    // [end]
    try await withInMemoryServer(
      [Self.flaky(failures: 1)], channelConfiguration: configuration
    ) { channel in
      let reply = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
      #expect(reply.text == "Hello, you, at the 2. attempt")
    }
  }

  @Test func aServerSaysWhenToComeBack() async throws {
    let attempts = Mutex(0)
    let service = ClosureGreeter { _, _ in
      let isFirst = attempts.withLock { count in
        count += 1
        return count == 1
      }
      if isFirst {
        // [docs: push-back]
        throw RPCError(.unavailable, "the queue is full", retryDelay: .milliseconds(20))
        // [end]
      }
      return "Hello"
    }
    var configuration = RPCChannel.Configuration()
    configuration.serviceConfig = ServiceConfig(
      methods: [
        MethodConfig(
          // Without push-back this would take an hour.
          names: [.init()],
          resilience: .retry(
            RetryPolicy(
              maximumAttempts: 2, initialBackoff: .seconds(3_600), maximumBackoff: .seconds(3_600)))
        )
      ])
    try await withInMemoryServer([service], channelConfiguration: configuration) { channel in
      let reply = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
      #expect(reply.text == "Hello")
    }
  }

  @Test func aSlowAttemptIsOvertaken() async throws {
    let attempts = Mutex(0)
    let service = ClosureGreeter { _, _ in
      let attempt = attempts.withLock { count in
        count += 1
        return count
      }
      if attempt == 1 { try await Task.sleep(for: .seconds(3_600)) }
      return "Hello from a hedge"
    }
    // [docs: hedging]
    var configuration = RPCChannel.Configuration()
    configuration.serviceConfig = ServiceConfig(
      methods: [
        MethodConfig(
          names: [.init(service: "testing.greeter.v1.Greeter", method: "SayHello")],
          resilience: .hedge(HedgingPolicy(maximumAttempts: 3, delay: .milliseconds(50))))
      ])
    // [end]
    try await withInMemoryServer([service], channelConfiguration: configuration) { channel in
      let reply = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
      #expect(reply.text == "Hello from a hedge")
    }
  }
}
