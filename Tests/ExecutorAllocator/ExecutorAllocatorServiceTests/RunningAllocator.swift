import BuildProtos
import ExecutorAllocatorService
import Logging
import NIOPosix
import RPC
import RedisTesting
import ServiceRuntime
import Synchronization
import Testing

/// The whole service on a unix socket of its own, over a Redis of the test's.
struct RunningAllocator {
  let service: ExecutorAllocator
  let client: AllocatorV1.AllocatorClient
  let metrics: MetricsRegistry

  /// Quick enough for a test that waits for the end of an executor.
  static let quick = [
    "heartbeat-interval": "50ms", "suspect-after": "400ms", "lost-after": "600ms",
    "lease-grant-expiry": "1s", "unsatisfiable-after": "10ms", "redis-timeout": "500ms",
  ]
  private static let number = Atomic<Int>(0)

  static func with<Result>(
    _ redis: RedisServer, settings: [String: String] = Self.quick,
    _ body: (RunningAllocator) async throws -> Result
  ) async throws -> Result {
    var values = settings
    values["redis"] = "unix:\(redis.socket)"
    let number = Self.number.wrappingAdd(1, ordering: .relaxed).newValue
    let address = ListenAddress.unix(path: "\(redis.socket).allocator-\(number)")
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let metrics = MetricsRegistry()
    let group = MultiThreadedEventLoopGroup.singleton
    let service = try await ExecutorAllocator(
      ServiceEnvironment(
        settings: SettingValues(ExecutorAllocator.settings, values: values), logger: logger,
        metrics: metrics, eventLoopGroup: group, dataDirectory: "/nonexistent", listen: address))
    let server = RPCServer(services: service.services, group: group)
    _ = try await server.listen(on: address)
    let channel = RPCChannel(to: address, group: group)
    let work = Task { try await service.run() }
    let result: Swift.Result<Result, any Error>
    do {
      result = .success(
        try await body(
          RunningAllocator(
            service: service, client: AllocatorV1.AllocatorClient(channel), metrics: metrics)))
    } catch {
      result = .failure(error)
    }
    await channel.close()
    await server.shutdown(grace: .zero)
    work.cancel()
    _ = await work.result
    return try result.get()
  }

  /// A scheduler's stream.
  func connect() async throws -> SchedulerStub {
    SchedulerStub(call: try await self.client.acquire(options: CallOptions(waitForReady: true)))
  }

  /// Waits until it answers as it does with Redis there.
  func ready() async throws {
    while await self.service.readiness() != .ready { try await Task.sleep(for: .milliseconds(5)) }
  }

  /// Runs `body` while a plugin-runner reports as often as it is told to.
  func withRunner<Result>(
    _ runner: RunnerStub, _ body: () async throws -> Result
  ) async throws -> Result {
    let client = self.client
    let work = Task {
      while !Task.isCancelled {
        await runner.report(to: client)
        try? await Task.sleep(for: .milliseconds(50))
      }
    }
    defer { work.cancel() }
    return try await body()
  }
}

/// What a scheduler sees of the allocator.
final class SchedulerStub: Sendable {
  typealias Event = AllocatorV1.AcquireResponse.Event

  let call: BidirectionalCall<AllocatorV1.AcquireRequest, AllocatorV1.AcquireResponse>
  private let events: Mutex<ResponseStream<AllocatorV1.AcquireResponse>.AsyncIterator>

  init(call: BidirectionalCall<AllocatorV1.AcquireRequest, AllocatorV1.AcquireResponse>) {
    self.call = call
    self.events = Mutex(call.responses.makeAsyncIterator())
  }

  func demand(
    _ request: String, labels: [String] = [], avoid: [String] = [], slots: Int32 = 1
  ) async throws {
    try await self.call.send(
      AllocatorV1.AcquireRequest(
        change: .demand(
          AllocatorV1.Demand(
            requestID: request, project: "lua", labels: labels,
            resources: TypesV1.Resources(cpuMillis: 1_000, memoryBytes: 1 << 30, slots: slots),
            avoidExecutorIds: avoid))))
  }

  func hold(_ lease: AllocatorV1.Lease) async throws {
    try await self.call.send(
      AllocatorV1.AcquireRequest(
        change: .hold(
          AllocatorV1.Hold(
            leaseID: lease.id, requestID: lease.requestID, executorID: lease.executorID))))
  }

  /// The next thing it is told.
  func next() async throws -> Event? {
    var events = self.events.withLock { $0 }
    return try await events.next()?.event
  }

  /// The next grant; what waits is passed over.
  func granted() async throws -> AllocatorV1.Lease {
    while let event = try await self.next() {
      if case .granted(let lease) = event { return lease }
      guard case .waiting = event else { throw Unexpected(description: "\(event)") }
    }
    throw Unexpected(description: "the stream ended")
  }

  func lost() async throws -> AllocatorV1.LeaseLost {
    while let event = try await self.next() {
      if case .lost(let lease) = event { return lease }
      guard case .waiting = event else { throw Unexpected(description: "\(event)") }
    }
    throw Unexpected(description: "the stream ended")
  }
}

/// A plugin-runner as the allocator sees it.
final class RunnerStub: Sendable {
  private struct State {
    var request: AllocatorV1.HeartbeatRequest
    var stopped: [String] = []
  }

  private let state: Mutex<State>

  init(_ name: String, incarnation: String = "1", address: String? = nil, labels: [String] = []) {
    self.state = Mutex(
      State(
        request: AllocatorV1.HeartbeatRequest(
          executorID: name, incarnation: incarnation, address: address ?? "\(name):1",
          labels: labels,
          capacity: TypesV1.Resources(cpuMillis: 4_000, memoryBytes: 8 << 30, slots: 4))))
  }

  var request: AllocatorV1.HeartbeatRequest { self.state.withLock { $0.request } }
  /// Leases it was told to stop.
  var stopped: [String] { self.state.withLock { $0.stopped } }

  func take(_ lease: AllocatorV1.Lease) {
    self.state.withLock {
      $0.request.leases.append(
        AllocatorV1.HeldLease(
          leaseID: lease.id, requestID: "attempt of \(lease.requestID)",
          fencingToken: lease.fencingToken, resources: lease.resources, project: "lua"))
    }
  }

  func report(to client: AllocatorV1.AllocatorClient) async {
    let answer = try? await client.heartbeat(
      self.request, options: CallOptions(timeout: .seconds(2)))
    self.state.withLock { state in
      for lease in answer?.stopLeaseIds ?? [] {
        state.stopped.append(lease)
        state.request.leases.removeAll { $0.leaseID == lease }
      }
    }
  }
}
