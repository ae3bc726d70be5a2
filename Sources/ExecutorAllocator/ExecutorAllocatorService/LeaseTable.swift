import Domain
import ExecutorAllocatorCore
import RedisClient
import RedisWire

/// The executors and leases in Redis: each operation is one run of one script.
///
/// Completions run on the Redis client's event loop. A failed operation may have been carried out
/// all the same; each may be repeated.
package struct LeaseTable: Sendable {
  package typealias Completion<Value> = @Sendable (Result<Value, LeaseTableError>) -> Void

  /// An executor as the table has it.
  package struct ExecutorRecord: Hashable, Sendable {
    package var executor: ExecutorID
    package var address: String
    package var pool: PoolName
    package var labels: [String]
    package var state: PoolSurvey.Group.State
    package var capacity: Resources
    package var lastHeartbeat: Timestamp
    package var leases: [LeaseRecord]
  }

  package struct LeaseRecord: Hashable, Sendable {
    package var lease: LeaseID
    package var request: AttemptID
    package var token: FencingToken
    package var resources: Resources
    /// Nil while the runner confirms it.
    package var expires: Timestamp?
  }

  package struct Swept: Hashable, Sendable {
    package var ended: [EndedLease]
    /// Pools that have room now.
    package var pools: [PoolName]
    /// How many executors there are.
    package var executors: Int
    /// Nobody had looked after the table lately, so that executors are excused for a while.
    package var wasUnattended: Bool
  }

  private let client: RedisClient
  private let policy: Policy
  /// Tests bring their own time; else Redis' own clock counts, so that replicas need not agree.
  private let clock: @Sendable () -> Timestamp?
  /// What tells the leases of a table that begins now from those of every other.
  private let nonce: @Sendable () -> String
  private let measure: @Sendable (_ script: String, Duration) -> Void
  /// What the table knows this allocator by, among those that work on it.
  package var replica = String(UInt64.random(in: .min ... .max), radix: 36)

  /// - Parameter measure: Called with each script's name and how long it took, with the way there
  ///   and back.
  package init(
    client: RedisClient, policy: Policy, clock: @escaping @Sendable () -> Timestamp? = { nil },
    nonce: @escaping @Sendable () -> String = {
      String(UInt64.random(in: .min ... .max), radix: 36)
    },
    measure: @escaping @Sendable (_ script: String, Duration) -> Void = { _, _ in }
  ) {
    self.client = client
    self.policy = policy
    self.clock = clock
    self.nonce = nonce
    self.measure = measure
  }

  // MARK: Operations

  /// A lease, or nil where there is no room, for each demand. Room for which a demand of the same kind
  /// and a smaller rank waits at another allocator is that one's for a while.
  package func acquire(
    _ demands: [Demand], pool: PoolName, above token: FencingToken,
    then completion: @escaping Completion<[Lease?]>
  ) {
    var arguments = self.arguments()
    arguments.append(self.policy.suspectAfter.microseconds)
    arguments.append(self.policy.grantExpiry.microseconds)
    arguments.append(token.rawValue)
    arguments.append(pool.rawValue)
    arguments.append(self.policy.reservationExpiry.microseconds)
    arguments.append(self.nonce())
    arguments.append(self.replica)
    var numbers: [Shape: Int] = [:]
    for demand in demands {
      let number = numbers[demand.shape] ?? numbers.count
      numbers[demand.shape] = number
      arguments.append(demand.request.rawValue)
      arguments.append(demand.project.rawValue)
      arguments.append(Int64(number))
      arguments.append(demand.shape.resources)
      arguments.append(joined: demand.shape.labels)
      arguments.append(joined: demand.shape.avoid.map(\.rawValue))
      arguments.append(demand.reserves ? 1 : 0)
      arguments.append(demand.rank)
    }
    let requests = demands.map(\.request)
    self.run(Scripts.acquire, arguments, completion) { reply in
      guard let elements = reply.elements, elements.count == requests.count else { return nil }
      var leases: [Lease?] = []
      for (request, element) in zip(requests, elements) {
        if element == .integer(0) {
          leases.append(nil)
          continue
        }
        guard let fields = element.elements, let lease = Self.lease(fields, request) else {
          return nil
        }
        leases.append(lease)
      }
      return leases
    }
  }

  /// Answers the pools that have room now.
  package func release(_ leases: [LeaseID], then completion: @escaping Completion<[PoolName]>) {
    var arguments = self.arguments()
    arguments.append(self.replica)
    for lease in leases { arguments.append(lease.rawValue) }
    self.run(Scripts.release, arguments, completion) { Self.pools($0) }
  }

  /// How long ``woken(over:)`` waits at most.
  static let longestWait = Duration.seconds(1)

  /// The pool in which there may be room for what waits at this allocator, as another one found; nil if
  /// none did for a while. The connection does nothing else meanwhile, so it is one of its own.
  package func woken(over client: RedisClient) async throws(RedisError) -> PoolName? {
    let seconds = String(Self.longestWait.components.seconds)
    let reply = try await client.send(
      RedisCommand("BLPOP", "millrace:woken:\(self.replica)", seconds))
    return reply.elements?.last?.text.map { PoolName($0) }
  }

  package func record(
    _ heartbeat: Heartbeat, then completion: @escaping Completion<HeartbeatRecord>
  ) {
    var arguments = self.arguments()
    arguments.append(self.policy.lostAfter.microseconds)
    arguments.append(self.policy.grantExpiry.microseconds)
    arguments.append(self.policy.tokenLead.microseconds)
    arguments.append(heartbeat.executor.rawValue)
    arguments.append(heartbeat.incarnation)
    arguments.append(heartbeat.address)
    arguments.append(heartbeat.pool.rawValue)
    arguments.append(joined: heartbeat.labels)
    arguments.append(heartbeat.capacity)
    arguments.append(heartbeat.isDraining ? 1 : 0)
    arguments.append(joined: heartbeat.warmProjects.map(\.rawValue))
    arguments.append(heartbeat.used.cpuMillis)
    arguments.append(heartbeat.used.memory.bytes)
    arguments.append(heartbeat.newestToken.rawValue)
    for held in heartbeat.held {
      arguments.append(held.lease.rawValue)
      arguments.append(held.request.rawValue)
      arguments.append(held.token.rawValue)
      arguments.append(held.resources)
      arguments.append(held.project.rawValue)
    }
    self.run(Scripts.heartbeat, arguments, completion) { Self.record($0) }
  }

  /// Answers the leases that ended with the executor.
  package func deregister(
    _ executor: ExecutorID, incarnation: String, then completion: @escaping Completion<[EndedLease]>
  ) {
    var arguments = self.arguments()
    arguments.append(executor.rawValue)
    arguments.append(incarnation)
    self.run(Scripts.deregister, arguments, completion) { Self.ended($0) }
  }

  package func sweep(then completion: @escaping Completion<Swept>) {
    var arguments = self.arguments()
    arguments.append(self.policy.lostAfter.microseconds)
    arguments.append(self.policy.suspectAfter.microseconds)
    arguments.append(self.policy.sweepGap.microseconds)
    arguments.append(self.policy.grantExpiry.microseconds)
    self.run(Scripts.sweep, arguments, completion) { reply in
      guard let parts = reply.elements, parts.count == 4, let ended = Self.ended(parts[0]),
        let pools = Self.pools(parts[1]), let executors = parts[2].number,
        let unattended = parts[3].number
      else { return nil }
      return Swept(
        ended: ended, pools: pools, executors: Int(executors), wasUnattended: unattended != 0)
    }
  }

  package func survey(_ pool: PoolName, then completion: @escaping Completion<PoolSurvey>) {
    var arguments = self.arguments()
    arguments.append(self.policy.departedMemory.microseconds)
    arguments.append(pool.rawValue)
    self.run(Scripts.survey, arguments, completion) { Self.survey($0) }
  }

  /// Executors in one look: less than a millisecond's work.
  private static let usagePage: Int64 = 100

  package func usage(behind name: String, then completion: @escaping Completion<UsagePage>) {
    var arguments = self.arguments()
    arguments.append(name)
    arguments.append(Self.usagePage)
    self.run(Scripts.usage, arguments, completion) { Self.usage($0) }
  }

  /// Pools of which others are told: an allocator has more only of names that make no sense.
  private static let toldPools = 1_000

  /// Tells what waits here, and answers what waits at all other allocators.
  package func tellDemand(
    _ waiting: [PoolName: Resources], then completion: @escaping Completion<[PoolName: Resources]>
  ) {
    var arguments = self.arguments()
    arguments.append(self.replica)
    arguments.append(self.policy.demandMemory.microseconds)
    for (pool, resources) in waiting.sorted(by: { $0.key < $1.key }).prefix(Self.toldPools) {
      arguments.append(pool.rawValue)
      arguments.append(resources)
    }
    self.run(Scripts.demand, arguments, completion) { Self.demand($0) }
  }

  /// The standing of each lease, in order.
  package func check(
    _ leases: [HeldByScheduler], then completion: @escaping Completion<[LeaseStanding]>
  ) {
    var arguments = self.arguments()
    arguments.append(self.policy.sweepGap.microseconds)
    arguments.append(self.policy.lostAfter.microseconds)
    for lease in leases {
      arguments.append(lease.lease.rawValue)
      arguments.append(lease.executor.rawValue)
    }
    self.run(Scripts.check, arguments, completion) { reply in
      reply.elements.flatMap { Self.standings($0, of: leases.count) }
    }
  }

  /// A page of executors by name, and the name to go on behind; nil at the end.
  package func list(
    pool: PoolName?, behind name: String, count: Int,
    then completion: @escaping Completion<(executors: [ExecutorRecord], last: String?)>
  ) {
    var arguments = self.arguments()
    arguments.append(name)
    arguments.append(Int64(count))
    arguments.append(pool?.rawValue ?? "")
    self.run(Scripts.list, arguments, completion) { reply in
      guard let parts = reply.elements, parts.count == 2, let last = parts[0].text,
        let elements = parts[1].elements,
        let executors = Self.all(elements, { Self.executor($0) })
      else { return nil }
      return (executors, last.isEmpty ? nil : last)
    }
  }

  private func arguments() -> RedisArguments {
    RedisArguments([self.clock().map { String($0.microseconds) } ?? ""])
  }

  private func run<Value>(
    _ script: RedisScript, _ arguments: RedisArguments, _ completion: @escaping Completion<Value>,
    _ decode: @escaping @Sendable (RedisValue) -> Value?
  ) {
    let began = ContinuousClock.now
    let measure = self.measure
    self.client.evaluate(script, arguments: arguments) { result in
      measure(script.name, ContinuousClock.now - began)
      switch result {
      case .failure(let error): completion(.failure(LeaseTableError(error, in: script)))
      case .success(let reply):
        if let value = decode(reply) {
          completion(.success(value))
        } else {
          completion(.failure(.broken("script \(script.name) answered \(reply)")))
        }
      }
    }
  }
}

/// Why an operation on the table has no result.
package enum LeaseTableError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Redis is not there or not able; later it may be.
  case unavailable(String)
  /// A script failed or answered nonsense: a defect of this program, or of what is in Redis.
  case broken(String)

  init(_ error: RedisError, in script: RedisScript) {
    switch error {
    case .refused(_, let reply) where reply.code == "ERR" || reply.code == "WRONGTYPE":
      self = .broken("script \(script.name) failed: \(reply)")
    case .notConnected, .connectionLost, .timedOut, .tooMuchInFlight, .refused, .closed:
      self = .unavailable("\(error)")
    case .invalidCommand: self = .broken("script \(script.name): \(error)")
    }
  }

  package var description: String {
    switch self {
    case .unavailable(let reason), .broken(let reason): reason
    }
  }
}

extension RedisArguments {
  /// Between the parts of a list; names hold no control characters (``Policy`` sees to it).
  static let separator = "\u{1f}"

  mutating func append(joined texts: [String]) {
    self.append(texts.joined(separator: Self.separator))
  }

  mutating func append(_ resources: Resources) {
    self.append(resources.cpuMillis)
    self.append(resources.memory.bytes)
    self.append(Int64(resources.slots))
  }
}
