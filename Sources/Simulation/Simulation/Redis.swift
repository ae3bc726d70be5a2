import Domain
import ExecutorAllocatorCore

/// Redis: one table, and nothing of it survives a restart.
final class Redis: Process {
  private(set) var table: LeaseTableModel
  private let policy: Policy
  private let bugs: Set<PlantedBug>

  init(policy: Policy, bugs: Set<PlantedBug>, in surroundings: Surroundings) {
    self.policy = policy
    self.bugs = bugs
    self.table = LeaseTableModel(policy: policy)
    super.init("redis", in: surroundings)
  }

  override func began() { self.flush() }

  /// FLUSHALL.
  func flush() {
    self.note("is empty")
    self.checker.tableEmptied()
    self.table = LeaseTableModel(policy: self.policy)
  }

  /// One script.
  func evaluate<Value>(
    _ operation: (inout LeaseTableModel, Timestamp) -> Value
  ) -> Value {
    operation(&self.table, self.now)
  }

  func record(_ heartbeat: Heartbeat) -> HeartbeatRecord {
    let record = self.table.record(heartbeat, at: self.now)
    if case .recorded = record { self.checker.recorded(heartbeat) }
    return record
  }

  func acquire(
    _ demands: [Demand], _ pool: PoolName, above token: FencingToken, by replica: String,
    nonce: String
  ) -> [Lease?] {
    var (floor, time) = (token, self.now)
    if self.bugs.contains(.tokensGoBack), self.timeline.random.chance(0.2) {
      self.table.forgetTokens()
      (floor, time) = (FencingToken(0), time - .seconds(60))
    }
    let before = self.table.leases
    let leases = self.table.acquire(
      demands, pool: pool, above: floor, by: replica, nonce: nonce, at: time)
    for case let lease? in leases where before[lease.id] == nil {
      if self.bugs.contains(.tableLeasesTwice), self.timeline.random.chance(0.2) {
        self.table.forgetShare(of: lease.id)
      }
      self.note("\(lease.id) of \(lease.executor) to \(lease.request)")
      self.checker.granted(lease, in: self.table)
    }
    return leases
  }
}

/// An allocator's connection to Redis: commands are answered in order, and all that are under way
/// fail with the connection.
final class RedisLink {
  /// What a script comes to, to be done at the client.
  private typealias Reply = () -> Void

  private static let timeout = Duration.seconds(2)
  private static let backoff: ClosedRange<Duration> = .milliseconds(50)...(.milliseconds(1_000))

  private unowned let owner: Process
  private let redis: Redis
  private let changed: (_ isConnected: Bool) -> Void
  private var stream: Stream<() -> Reply, Reply>?
  private var isConnected = false
  /// In the order they were sent.
  private var underWay: [(number: Int, failed: () -> Void)] = []
  private var lastNumber = 0

  init(owner: Process, redis: Redis, changed: @escaping (_ isConnected: Bool) -> Void) {
    self.owner = owner
    self.redis = redis
    self.changed = changed
  }

  func connect() {
    self.stream = self.owner.network.open(
      from: self.owner, to: self.redis, keepalive: Self.timeout,
      accept: { stream in
        stream.serverReceived = { script in stream.sendDown(script()) }
      },
      opened: { stream in
        stream.clientReceived = { $0() }
        self.isConnected = true
        self.changed(true)
      },
      closed: { _ in self.lost() })
  }

  private func lost() {
    guard self.stream != nil else { return }
    self.stream?.cancel()
    self.stream = nil
    let underWay = self.underWay
    self.underWay = []
    for command in underWay { command.failed() }
    if self.isConnected {
      self.isConnected = false
      self.changed(false)
    }
    self.owner.after(self.owner.timeline.random.duration(Self.backoff)) { self.connect() }
  }

  /// Has Redis run something. Nil: it is not connected, or was not to the end; nobody knows.
  func run<Value>(_ script: @escaping (Redis) -> Value, then: @escaping (Value?) -> Void) {
    guard let stream = self.stream, self.isConnected else { return then(nil) }
    self.lastNumber += 1
    let number = self.lastNumber
    self.underWay.append((number, { then(nil) }))
    let redis = self.redis
    stream.sendUp {
      let value = script(redis)
      return {
        self.underWay.removeAll { $0.number == number }
        then(value)
      }
    }
    self.owner.after(Self.timeout) {
      if self.underWay.contains(where: { $0.number == number }) { self.lost() }
    }
  }
}
