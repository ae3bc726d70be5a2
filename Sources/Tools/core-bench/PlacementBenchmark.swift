import DequeModule
import Domain
import ExecutorAllocatorCore
import SchedulerCore

/// How fast the two cores together give jobs to executors: a scheduler with a long queue, an
/// allocator, and a table that answers at once. First the farm is filled, then everything that runs
/// ends, and so on until nothing is left.
struct PlacementBenchmark {
  let executors: Int
  let jobs: Int

  func run() {
    let requests = Requests()
    var farm = BenchmarkFarm(executors: self.executors)
    for number in 1...self.jobs { farm.submit(requests.submission(number)) }
    let clock = ContinuousClock()
    var (placing, ending) = (Duration.zero, Duration.zero)
    var placed = 0
    while placed < self.jobs {
      placing += clock.measure { farm.fill() }
      let running = farm.runningCount
      precondition(running > 0, "nothing can be placed on an empty farm")
      placed += running
      ending += clock.measure { farm.endAll() }
    }
    let both = placing + ending
    print("\(placed) jobs on \(self.executors) executors")
    print("  placed                        \(rounded(Double(placed) / placing.inSeconds)) jobs/s")
    print("  placed and brought to an end  \(rounded(Double(placed) / both.inSeconds)) jobs/s")
  }
}

/// Both cores, and the least that has to be around them.
private struct BenchmarkFarm {
  private var scheduler = SchedulerBench(policy: SchedulerCore.Policy())
  private var allocator = ExecutorAllocatorCore.StateMachine()
  private var table: BenchmarkTable
  private let stream = StreamID(1)
  private var running: [RunOrder] = []
  /// What is still to be handed over, in the order in which it came about.
  private var requests: Deque<SchedulerCore.Effect> = []
  private var wishes: Deque<ExecutorAllocatorCore.Effect> = []
  private var releases: [LeaseID] = []
  private var waiters: UInt64 = 0

  init(executors: Int) {
    self.table = BenchmarkTable(executors: executors)
    self.scheduler.feed { $0.recoveryFinished(at: $1) }
    self.wishes += self.allocator.handle(.tableConnected, at: self.scheduler.now)
    self.wishes += self.allocator.handle(.streamOpened(self.stream), at: self.scheduler.now)
  }

  var runningCount: Int { self.running.count }

  mutating func submit(_ submission: Submission) {
    self.waiters += 1
    let waiter = Waiter(self.waiters)
    self.feed { $0.submitted(submission, from: waiter, at: $1) }
  }

  private mutating func feed(
    _ input: (inout Scheduler, Timestamp) -> [SchedulerCore.Effect]
  ) {
    var (requests, runs, releases) = (self.requests, self.running, self.releases)
    (self.requests, self.running, self.releases) = ([], [], [])
    self.scheduler.feed(input) { effect in
      switch effect {
      case .demand, .withdraw: requests.append(effect)
      case .run(let order): runs.append(order)
      case .release(let lease): releases.append(lease)
      default: break
      }
    }
    (self.requests, self.running, self.releases) = (requests, runs, releases)
  }

  /// Places what can be placed.
  mutating func fill() {
    while true {
      if let request = self.requests.popFirst() {
        switch request {
        case .demand(let demand):
          self.tell(
            .demanded(
              self.stream,
              ExecutorAllocatorCore.Demand(
                request: AttemptID(demand.id.rawValue), project: demand.project,
                shape: ExecutorAllocatorCore.Shape(
                  labels: demand.shape.labels, resources: demand.shape.resources,
                  avoid: demand.shape.avoid),
                rank: demand.rank)))
        case .withdraw(let id): self.tell(.withdrew(self.stream, AttemptID(id.rawValue)))
        default: break
        }
      } else if let wish = self.wishes.popFirst() {
        switch wish {
        case .acquire(let pool, let demands, _):
          self.tell(.acquired(pool, demands.map { self.table.acquire($0) }))
        case .send(_, .granted(let lease)):
          let grant = Grant(
            lease: lease.id, demand: DemandID(lease.request.rawValue), executor: lease.executor,
            address: lease.address, token: lease.token)
          self.feed { $0.granted(grant, at: $1) }
        case .survey(let pool): self.tell(.surveyFailed(pool))
        default: break
        }
      } else {
        return
      }
    }
  }

  private mutating func tell(_ input: ExecutorAllocatorCore.Input) {
    self.wishes += self.allocator.handle(input, at: self.scheduler.now)
  }

  /// Everything that runs succeeds.
  mutating func endAll() {
    let running = self.running
    self.running = []
    for order in running {
      let now = self.scheduler.now
      let events: [RunnerEvent.What] = [
        .accepted, .finished(.succeeded, message: "", usage: nil),
      ]
      for (index, what) in events.enumerated() {
        let event = RunnerEvent(sequence: Int64(index + 1), time: now, what: what)
        self.feed { $0.received(event, of: order.attempt, at: $1) }
      }
    }
    // As the service's calls have them: up to a thousand in one.
    while !self.releases.isEmpty {
      let batch = Array(self.releases.prefix(1_000))
      self.releases.removeFirst(batch.count)
      for lease in batch { self.table.release(lease) }
      self.tell(.released(batch, pools: [.standard]))
    }
  }
}

/// Executors of 8 CPUs, 16 GiB and 16 slots, of which one in ten has a GPU: enough of a table to give
/// leases from, and quick.
private struct BenchmarkTable {
  private struct Executor {
    let id: ExecutorID
    let address: String
    var free = Resources(cpuMillis: 8_000, memory: .gibibytes(16), slots: 16)
  }

  private var executors: [Executor]
  private var leases: [LeaseID: (executor: Int, resources: Resources)] = [:]
  /// Where to look first, with and without the label.
  private var next: [Bool: Int] = [:]
  private var lastToken: Int64 = 0

  init(executors: Int) {
    self.executors = (0..<executors).map {
      Executor(id: ExecutorID("executor-\($0)"), address: "10.0.\($0 / 250).\($0 % 250):7103")
    }
  }

  mutating func acquire(_ demand: ExecutorAllocatorCore.Demand) -> Lease? {
    let wantsLabel = !demand.shape.labels.isEmpty
    let step = wantsLabel ? 10 : 1
    let begin = self.next[wantsLabel] ?? 0
    var index = begin
    repeat {
      if self.executors[index].free.fits(demand.shape.resources) {
        self.next[wantsLabel] = index
        return self.give(index, to: demand)
      }
      index = (index + step) % (self.executors.count / step * step)
    } while index != begin
    return nil
  }

  private mutating func give(_ index: Int, to demand: ExecutorAllocatorCore.Demand) -> Lease {
    self.lastToken += 1
    let id = LeaseID("lease-bench-\(self.lastToken)")
    self.executors[index].free -= demand.shape.resources
    self.leases[id] = (index, demand.shape.resources)
    return Lease(
      id: id, executor: self.executors[index].id, address: self.executors[index].address,
      resources: demand.shape.resources, token: FencingToken(self.lastToken),
      request: demand.request, expires: Timestamp(microseconds: 0))
  }

  mutating func release(_ lease: LeaseID) {
    guard let (index, resources) = self.leases.removeValue(forKey: lease) else { return }
    self.executors[index].free += resources
  }
}
