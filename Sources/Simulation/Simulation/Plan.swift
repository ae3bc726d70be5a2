import Domain
import ExecutorAllocatorCore
import SchedulerCore

/// A defect that is put into a world to see whether it is found. Only tests plant them.
package enum PlantedBug: String, Hashable, Sendable, CaseIterable {
  /// The store takes a write whatever version it builds on.
  case storeIgnoresVersions
  /// The store says that it has written, and has not.
  case storeForgets
  /// The store takes a write of a scheduler that was given up.
  case storeIgnoresSessions
  /// The table gives a lease and takes nothing of the executor's share.
  case tableLeasesTwice
  /// Fencing tokens begin anew now and then.
  case tokensGoBack
}

/// All that a run is made of, from its seed.
package struct Plan: Sendable {
  package var seed: UInt64
  package var runners: [RunnerPlan]
  package var allocators: Int
  package var schedulers: Int
  package var weather: Weather
  package var faults: FaultPlan
  /// How long things go wrong.
  package var storm: Duration
  /// Within which, after the last fault, every build must end.
  package var patience = Duration.seconds(1_800)
  package var schedulerPolicy: SchedulerCore.Policy
  package var allocatorPolicy = ExecutorAllocatorCore.Policy()
  package var bugs: Set<PlantedBug> = []
  /// Of every clock, in millionths.
  package var drift: Int64

  /// A small farm in some weather.
  package init(seed: UInt64) {
    var random = Randomness(seed: seed)
    self.seed = seed
    var runners: [RunnerPlan] = []
    for number in 1...random.int(2...6) {
      let capacity: Resources = random.pick([.small, .large, .large])
      runners.append(
        RunnerPlan(
          id: ExecutorID("e\(number)"), capacity: capacity, claimed: capacity,
          labels: number == 1 || random.chance(0.2) ? ["gpu"] : [], pool: .standard,
          address: "runner-\(number)"))
    }
    if random.chance(0.2) {
      // One that lies about its capacity.
      runners[runners.count - 1].claimed = Resources(
        cpuMillis: 32_000, memory: .gibibytes(64), slots: 16)
    }
    if random.chance(0.2) {
      // Two of one name.
      var twin = runners[0]
      twin.address = "twin-1"
      runners.append(twin)
    }
    self.runners = runners
    self.allocators = random.int(1...3)
    self.schedulers = random.pick([1, 1, 2, 3])
    var weather = Weather()
    if random.chance(0.8) {
      weather.spikes = random.pick([0, 0.01, 0.05])
      weather.loss = random.pick([0, 0.005, 0.03])
      weather.duplication = random.pick([0, 0.01, 0.1])
      weather.breaks = random.pick([0, 0.001, 0.005])
    }
    self.weather = weather
    self.faults = FaultPlan(&random)
    self.storm = .seconds(random.int(20...180))
    self.drift = Int64(random.pick([0, 100, 1_000, 20_000]))
    var policy = SchedulerCore.Policy()
    // A day's patience would only make runs longer.
    policy.maximumNotificationAttempts = 6
    policy.notificationBackoff = Backoff(first: .seconds(1), limit: .seconds(20))
    policy.standardTimeout = .seconds(120)
    policy.maximumOpenDemands = random.pick([1, 3, 256])
    if random.chance(0.3) {
      policy.standardProjectLimit = random.pick([
        RunningLimit(jobs: 1), RunningLimit(jobs: 3), RunningLimit(cpuMillis: 6_000),
        RunningLimit(jobs: 4, memory: .gibibytes(8)),
      ])
    }
    if random.chance(0.2) {
      policy.poolLimits["default"] = random.pick([
        RunningLimit(jobs: 2), RunningLimit(jobs: 8), RunningLimit(cpuMillis: 9_000),
      ])
    }
    policy.leaseReuse = random.pick([.seconds(1), .seconds(10), .seconds(60)])
    self.schedulerPolicy = policy
  }

  /// What arrives in it unless somebody brings a workload.
  package var workload: RandomWorkload {
    var random = Randomness(seed: self.seed ^ 0xbeef)
    return RandomWorkload(
      seed: self.seed, count: random.int(5...40),
      interval: .milliseconds(1)...(.milliseconds(random.pick([200, 2_000, 6_000]))),
      isUniform: random.chance(0.3))
  }

  /// The same farm with nothing that goes wrong.
  package func calmed() -> Self {
    var plan = self
    plan.weather = .calm
    plan.faults = .none
    plan.storm = .seconds(1)
    plan.runners.removeAll { $0.address.hasPrefix("twin") }
    for index in plan.runners.indices { plan.runners[index].claimed = plan.runners[index].capacity }
    return plan
  }
}

extension Resources {
  static let small = Resources(cpuMillis: 4_000, memory: .gibibytes(8), slots: 4)
  static let large = Resources(cpuMillis: 8_000, memory: .gibibytes(16), slots: 8)
}
