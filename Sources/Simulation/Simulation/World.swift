import Domain
import SchedulerCore

/// How a run ended.
package struct Report {
  package var seed: UInt64
  /// What must not be and was; nil: nothing.
  package var failure: String?
  package var trace: Trace
  package var events: Int
  /// From the beginning to the end.
  package var time: Duration
  /// Builds that were answered, by how they ended.
  package var outcomes: [Outcome: Int]
}

/// Every core in one world: a client, schedulers, allocators over one Redis, runners, a store, and
/// what breaks them.
///
/// ```swift
/// let report = World(plan, workload: plan.workload).run()
/// ```
package final class World {
  private let plan: Plan
  private let timeline: Timeline
  private let checker: Checker
  let network: Network
  let store: Store
  let redis: Redis
  private(set) var allocators: [Allocator]
  private(set) var runners: [Runner]
  private(set) var schedulers: [SchedulerProcess] = []
  /// The one of them that takes the place of another, which is the spare one then.
  private(set) var spare: SchedulerProcess!
  private var client: Client!
  private var faults: Faults!
  private var answered: [BuildID] = []

  package init(_ plan: Plan, workload: some Workload) {
    let timeline = Timeline(seed: plan.seed)
    let network = Network(timeline)
    let checker = Checker(
      timeline, policy: plan.schedulerPolicy, schedulers: plan.schedulers)
    let surroundings = Surroundings(timeline: timeline, network: network, checker: checker)
    let redis = Redis(policy: plan.allocatorPolicy, bugs: plan.bugs, in: surroundings)
    let store = Store(bugs: plan.bugs, in: surroundings)
    let allocators = (1...plan.allocators).map {
      Allocator("allocator-\($0)", policy: plan.allocatorPolicy, redis: redis, in: surroundings)
    }
    let runners = plan.runners.map { Runner($0, allocators: allocators, in: surroundings) }
    (self.plan, self.timeline, self.network, self.checker) = (plan, timeline, network, checker)
    (self.redis, self.store) = (redis, store)
    (self.allocators, self.runners) = (allocators, runners)
    let parts = SchedulerProcess.Parts(
      store: store, allocators: allocators,
      runner: { address in runners.first { $0.plan.address == address } },
      scheduler: { [unowned self] address in self.schedulers.first { $0.name == address } })
    self.schedulers = (1...plan.schedulers + 1).map {
      SchedulerProcess(
        "scheduler-\($0)", policy: plan.schedulerPolicy, parts: parts, in: surroundings)
    }
    self.spare = self.schedulers.last
    self.client = Client(
      workload: workload, schedulers: { [unowned self] in self.schedulersToAsk },
      answered: { [unowned self] in self.answered.append($0) }, in: surroundings)
    self.faults = Faults(plan.faults, self, timeline)
  }

  private var schedulersToAsk: [SchedulerProcess] {
    let up = self.schedulers.filter(\.isUp)
    return up.isEmpty ? self.schedulers : up
  }

  var processes: [Process] {
    [self.store, self.redis, self.client] + self.schedulers + self.allocators + self.runners
  }

  /// Another scheduler comes, and some time later one is asked to go.
  func takeOver(overlap: Duration) {
    guard !self.spare.isUp else { return }
    let old = self.timeline.random.pick(self.schedulers.filter { $0 !== self.spare })
    self.timeline.note("world", "\(self.spare.name) is to take the place of \(old.name)")
    self.spare.start()
    self.spare = old
    self.timeline.after(overlap) { if old === self.spare { old.terminate() } }
  }

  /// Lets everything happen, to the end or to the first failure.
  package func run() -> Report {
    for process in self.processes {
      process.clock.drift = Int64(
        self.timeline.random.int(Int(-self.plan.drift)...Int(self.plan.drift)))
    }
    self.network.weather = self.plan.weather
    self.checker.isCalm = self.plan.faults.kinds.isEmpty
    for process in self.processes where process !== self.spare { process.start() }
    self.faults.begin(for: self.plan.storm)
    var end = Timeline.beginning + self.plan.storm
    self.timeline.run(until: end)
    self.checker.isCalm = true
    // People may go on for longer than the storm.
    while !self.client.isDone, self.timeline.failure == nil,
      self.timeline.now - end < .seconds(86_400)
    {
      self.timeline.run(until: self.timeline.now + .seconds(1))
    }
    end = self.timeline.now + self.plan.patience
    self.timeline.run(until: end) { self.isAtRest }
    if self.timeline.failure == nil { self.checkEnd() }
    return Report(
      seed: self.plan.seed, failure: self.timeline.failure, trace: self.timeline.trace,
      events: self.timeline.eventCount, time: self.timeline.now - Timeline.beginning,
      outcomes: self.outcomes)
  }

  private var outcomes: [Outcome: Int] {
    Dictionary(
      self.answered.compactMap { self.store.records[$0]?.record.outcome }.map { ($0, 1) },
      uniquingKeysWith: +)
  }

  /// Nothing is left to be done.
  private var isAtRest: Bool {
    self.client.isDone && self.areSchedulersIdle && self.redis.table.leases.isEmpty
      && self.runners.allSatisfy(\.isIdle)
      && self.store.records.values.allSatisfy { !$0.record.isActive }
  }

  /// All partitions have owners that are there, and these have nothing left.
  private var areSchedulersIdle: Bool {
    self.schedulers.allSatisfy { !$0.isUp || $0.isIdle }
      && Partition.all.allSatisfy { partition in self.schedulers.contains { $0.serves(partition) } }
  }

  private func checkEnd() {
    for id in self.answered.sorted() {
      guard let record = self.store.records[id]?.record else {
        return self.timeline.fail("\(id): answered, and not stored")
      }
      if record.state != .finished {
        return self.timeline.fail("\(id): answered, and has not ended: \(record.digest)")
      }
    }
    guard !self.isAtRest else { return }
    let stored = self.store.records.values.filter(\.record.isActive).map(\.record).sorted {
      $0.id < $1.id
    }
    if let record = stored.first {
      self.timeline.fail("\(record.id): something is left to do: \(record.digest)")
    } else if let lease = self.redis.table.leases.keys.sorted().first {
      self.timeline.fail("\(lease) is left though nothing runs")
    } else if !self.client.isDone {
      self.timeline.fail("somebody is not answered")
    } else {
      self.timeline.fail("a scheduler or a runner has something left that nobody wants")
    }
  }
}
