import Domain
import ExecutorAllocatorCore
import ExecutorAllocatorService
import Logging
import NIOCore
import NIOPosix
import RedisClient
import RedisTesting
import RedisWire
import Synchronization
import Testing

/// A table in a real Redis with a clock of its own, and the words to drive it.
struct Farm {
  let server: RedisServer
  let client: RedisClient
  let table: LeaseTable
  let clock: Clock
  let nonces: Nonces

  /// What the next table is called by.
  final class Nonces: Sendable {
    private let count = Mutex(0)

    var next: String { "t\(self.count.withLock { $0 })" }
    func take() -> String {
      defer { self.count.withLock { $0 += 1 } }
      return self.next
    }
  }

  /// The table's time: it passes when the test says so.
  final class Clock: Sendable {
    private let now = Mutex(Timestamp(microseconds: 1_764_000_000_000_000))

    var time: Timestamp { self.now.withLock { $0 } }
    func pass(_ duration: Duration) { self.now.withLock { $0 = $0 + duration } }
  }

  /// Runs `body` with a farm, and ends it whatever happens.
  static func with<Result>(_ body: (Farm) async throws -> Result) async throws -> Result {
    let server = try RedisServer()
    let client = try await Self.connect(server)
    let (clock, nonces) = (Clock(), Nonces())
    let farm = Farm(
      server: server, client: client,
      table: LeaseTable(
        client: client, policy: Policy(), clock: { clock.time }, nonce: { nonces.take() }),
      clock: clock, nonces: nonces)
    let result: Swift.Result<Result, any Error>
    do {
      result = .success(try await body(farm))
    } catch {
      result = .failure(error)
    }
    await client.shutdown()
    return try result.get()
  }

  /// A client that is connected.
  static func connect(_ server: RedisServer) async throws -> RedisClient {
    let (statuses, continuation) = AsyncStream<RedisClient.Status>.makeStream()
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let client = RedisClient(
      configuration: RedisConfiguration(
        address: .unix(path: server.socket), commandTimeout: .seconds(30),
        backoff: RedisBackoff(initial: .milliseconds(5), maximum: .milliseconds(50))),
      eventLoop: MultiThreadedEventLoopGroup.singleton.next(), logger: logger,
      statusChanged: { continuation.yield($0) })
    client.start()
    for await status in statuses where status == .connected { break }
    return client
  }

  // MARK: Operations, awaited

  @discardableResult
  func heartbeat(_ heartbeat: Heartbeat) async throws -> HeartbeatRecord {
    try await result { self.table.record(heartbeat, then: $0) }
  }

  /// The record, for heartbeats that must be taken.
  @discardableResult
  func recorded(_ heartbeat: Heartbeat) async throws -> HeartbeatRecord.Recorded {
    guard case .recorded(let recorded) = try await self.heartbeat(heartbeat) else {
      throw Unexpected(description: "the heartbeat of \(heartbeat.executor) was not recorded")
    }
    return recorded
  }

  func acquire(
    _ demands: [Demand], above token: Int64 = 0, by replica: String? = nil
  ) async throws -> [Lease?] {
    var table = self.table
    if let replica { table.replica = replica }
    return try await result {
      table.acquire(
        demands, pool: demands[0].shape.pool, above: FencingToken(token), then: $0)
    }
  }

  func tellDemand(
    _ waiting: [PoolName: Resources], by replica: String
  ) async throws -> [PoolName: Resources] {
    var table = self.table
    table.replica = replica
    return try await result { table.tellDemand(waiting, then: $0) }
  }

  func acquire(_ request: String, shape: Shape = .small, project: ProjectID = "lua") async throws
    -> Lease?
  {
    let demand = Demand(request: AttemptID(request), project: project, shape: shape)
    return try await self.acquire([demand])[0]
  }

  @discardableResult
  func release(_ leases: Lease...) async throws -> [PoolName] {
    try await result { self.table.release(leases.map(\.id), then: $0) }
  }

  @discardableResult
  func sweep() async throws -> LeaseTable.Swept {
    try await result { self.table.sweep(then: $0) }
  }

  func check(_ leases: Lease...) async throws -> [LeaseStanding] {
    let held = leases.map {
      HeldByScheduler(lease: $0.id, request: $0.request, executor: $0.executor)
    }
    return try await result { self.table.check(held, then: $0) }
  }

  func survey(_ pool: PoolName = .standard) async throws -> PoolSurvey {
    try await result { self.table.survey(pool, then: $0) }
  }

  func executors() async throws -> [LeaseTable.ExecutorRecord] {
    try await result { self.table.list(pool: nil, behind: "", count: 1_000, then: $0) }.executors
  }

  /// Everything is gone.
  func flush() async throws {
    _ = try await self.client.send(RedisCommand("FLUSHALL"))
  }

  /// Sweeps as often as a running allocator does, for that long.
  func attend(_ duration: Duration, heartbeats: [Heartbeat] = []) async throws
    -> [EndedLease]
  {
    var ended: [EndedLease] = []
    var passed = Duration.zero
    while passed < duration {
      self.clock.pass(.milliseconds(500))
      passed += .milliseconds(500)
      for heartbeat in heartbeats { ended += try await self.recorded(heartbeat).ended }
      ended += try await self.sweep().ended
    }
    return ended
  }
}

struct Unexpected: Error, CustomStringConvertible {
  let description: String
}

/// The result of an operation that answers through a completion.
func result<Value: Sendable>(
  _ operation: (@escaping LeaseTable.Completion<Value>) -> Void
) async throws -> Value {
  let result = await withCheckedContinuation { continuation in
    operation { continuation.resume(returning: $0) }
  }
  return try result.get()
}

extension Shape {
  static let small = Shape(resources: .small)
}

extension Resources {
  static let small = Resources(cpuMillis: 1_000, memory: .gibibytes(1))
  /// Room for four small ones.
  static let machine = Resources(cpuMillis: 4_000, memory: .gibibytes(8), slots: 4)
}

extension Heartbeat {
  static func test(
    _ executor: ExecutorID, incarnation: String = "1", address: String? = nil,
    pool: PoolName = .standard, labels: [String] = [], capacity: Resources = .machine,
    holding leases: [Lease] = [], draining: Bool = false, warm: [ProjectID] = [],
    newestToken: FencingToken = FencingToken(0)
  ) -> Heartbeat {
    Heartbeat(
      executor: executor, incarnation: incarnation, address: address ?? "\(executor):1", pool: pool,
      labels: labels, capacity: capacity,
      held: leases.map {
        .init(
          lease: $0.id, request: $0.request, token: $0.token, resources: $0.resources,
          project: "lua")
      }, isDraining: draining, warmProjects: warm, newestToken: newestToken)
  }
}

/// What integration tests with a real Redis need.
extension Trait where Self == ConditionTrait {
  static var needsRedis: Self {
    .enabled(if: RedisServer.isInstalled, Comment(rawValue: RedisServer.whyNot))
  }
}
