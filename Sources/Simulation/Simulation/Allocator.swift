import Domain
import ExecutorAllocatorCore
import SchedulerCore

/// What a scheduler says on its stream to an allocator.
enum AcquireRequest {
  case demand(SchedulerCore.Demand)
  case withdraw(DemandID)
  case hold(LeaseID, AttemptID, ExecutorID)
}

typealias AcquireStream = Stream<AcquireRequest, ExecutorAllocatorCore.Effect.Event>

/// The allocator's shell, as `ExecutorAllocatorService.Driver` is: the core, its streams, its
/// connection to Redis.
final class Allocator: Process {
  private static let tickInterval = Duration.milliseconds(250)

  private struct Memory {
    var machine: ExecutorAllocatorCore.StateMachine
    var streams: [StreamID: AcquireStream] = [:]
    var lastStream: UInt64 = 0
    var link: RedisLink?
    /// Inputs that came while another was being handled.
    var inputs: [ExecutorAllocatorCore.Input] = []
    var isHandling = false
  }

  private let redis: Redis
  private let policy: ExecutorAllocatorCore.Policy
  private var memory: Memory

  init(
    _ name: String, policy: ExecutorAllocatorCore.Policy, redis: Redis,
    in surroundings: Surroundings
  ) {
    self.redis = redis
    self.policy = policy
    self.memory = Memory(machine: ExecutorAllocatorCore.StateMachine(policy: policy))
    super.init(name, in: surroundings)
  }

  /// What it remembers, for checks.
  var state: ExecutorAllocatorCore.State { self.memory.machine.state }

  override func began() {
    self.memory = Memory(machine: ExecutorAllocatorCore.StateMachine(policy: self.policy))
    let link = RedisLink(owner: self, redis: self.redis) { isConnected in
      // The status comes by another way than the commands' failures, and later.
      self.after(.microseconds(100)) {
        self.handle(isConnected ? .tableConnected : .tableLost(reason: "the connection is lost"))
      }
    }
    self.memory.link = link
    link.connect()
    self.tick()
  }

  private func tick() {
    self.handle(.ticked)
    self.after(Self.tickInterval) { self.tick() }
  }

  /// Ends every stream, so that schedulers go to another replica.
  override func wasAskedToEnd() -> Duration {
    for stream in self.memory.streams.values { stream.end(.broken("this allocator shuts down")) }
    self.memory.streams = [:]
    return .milliseconds(100)
  }

  // MARK: Calls

  func accept(_ stream: AcquireStream) {
    self.memory.lastStream += 1
    let id = StreamID(self.memory.lastStream)
    self.memory.streams[id] = stream
    stream.serverReceived = { request in self.received(request, on: id) }
    stream.serverClosed = {
      guard self.memory.streams.removeValue(forKey: id) != nil else { return }
      self.handle(.streamClosed(id))
    }
    self.handle(.streamOpened(id))
  }

  private func received(_ request: AcquireRequest, on stream: StreamID) {
    switch request {
    case .demand(let demand):
      self.handle(
        .demanded(
          stream,
          ExecutorAllocatorCore.Demand(
            request: AttemptID(demand.id.rawValue), project: demand.project,
            shape: ExecutorAllocatorCore.Shape(
              pool: demand.shape.pool.isEmpty ? .standard : PoolName(demand.shape.pool),
              labels: demand.shape.labels, resources: demand.shape.resources,
              avoid: demand.shape.avoid),
            rank: demand.rank)))
    case .withdraw(let demand): self.handle(.withdrew(stream, AttemptID(demand.rawValue)))
    case .hold(let lease, let attempt, let executor):
      self.handle(
        .claimed(stream, HeldByScheduler(lease: lease, request: attempt, executor: executor)))
    }
  }

  /// Nil: the table cannot be reached, or the heartbeat is refused.
  func heartbeat(_ heartbeat: Heartbeat, _ answer: @escaping (HeartbeatAnswer?) -> Void) {
    self.memory.link?.run {
      $0.record(heartbeat)
    } then: { record in
      guard let record else { return answer(nil) }
      self.handle(.heartbeatRecorded(heartbeat, record))
      answer(try? self.memory.machine.answer(to: record, of: heartbeat))
    }
  }

  func deregister(
    _ executor: ExecutorID, incarnation: String, _ answer: @escaping (Bool) -> Void
  ) {
    self.memory.link?.run {
      $0.evaluate { $0.deregister(executor, incarnation: incarnation, at: $1) }
    } then: { ended in
      if let ended { self.handle(.deregistered(ended)) }
      answer(ended != nil)
    }
  }

  /// False: the table cannot be reached.
  func release(_ leases: [LeaseID], _ answer: @escaping (Bool) -> Void = { _ in }) {
    self.memory.link?.run {
      $0.evaluate { $0.release(leases, at: $1) }
    } then: { pools in
      if let pools { self.handle(.released(leases, pools: pools)) }
      answer(pools != nil)
    }
  }

  // MARK: The core

  private func handle(_ input: ExecutorAllocatorCore.Input) {
    self.memory.inputs.append(input)
    guard !self.memory.isHandling else { return }
    self.memory.isHandling = true
    while !self.memory.inputs.isEmpty {
      let input = self.memory.inputs.removeFirst()
      for effect in self.memory.machine.handle(input, at: self.uptime) { self.carryOut(effect) }
    }
    self.memory.isHandling = false
    if let violation = self.state.violation { self.timeline.fail("\(self.name): \(violation)") }
  }

  private func carryOut(_ effect: ExecutorAllocatorCore.Effect) {
    switch effect {
    case .acquire(let pool, let demands, let token):
      let nonce = String(self.timeline.random.next(), radix: 36)
      self.memory.link?.run {
        $0.acquire(demands, pool, above: token, by: self.name, nonce: nonce)
      } then: { leases in
        self.handle(
          leases.map { .acquired(pool, $0) } ?? .acquireFailed(pool, reason: "no connection"))
      }
    case .release(let leases): self.release(leases)
    case .survey(let pool):
      self.memory.link?.run {
        $0.evaluate { $0.survey(pool, at: $1) }
      } then: { survey in
        self.handle(survey.map { .surveyed(pool, $0) } ?? .surveyFailed(pool))
      }
    case .check(let leases):
      self.memory.link?.run {
        $0.evaluate { $0.check(leases, at: $1) }
      } then: { standings in
        self.handle(standings.map { .checked($0) } ?? .checkFailed)
      }
    case .tellDemand(let waiting):
      self.memory.link?.run {
        $0.evaluate { $0.tellDemand(waiting, of: self.name, at: $1) }
      } then: { elsewhere in
        if let elsewhere { self.handle(.demandTold(elsewhere: elsewhere)) }
      }
    case .sumUsage(let name):
      self.memory.link?.run {
        $0.evaluate { table, _ in table.usage(behind: name) }
      } then: { page in
        self.handle(page.map { .usageFound($0) } ?? .usageFailed)
      }
    case .sweep:
      self.memory.link?.run {
        $0.evaluate { $0.sweep(at: $1) }
      } then: { swept in
        for lease in swept?.ended ?? [] {
          self.note("\(lease.id) is over, \(lease.cause): \(lease.message)")
        }
        self.handle(
          swept.map { .swept(ended: $0.ended, pools: $0.pools) } ?? .sweepFailed)
      }
    case .send(let stream, let event): self.memory.streams[stream]?.sendDown(event)
    case .end(let stream, let refusal):
      self.memory.streams.removeValue(forKey: stream)?.end(.refused("\(refusal)"))
    }
  }
}
