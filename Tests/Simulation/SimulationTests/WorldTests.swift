import Domain
import Simulation
import Testing

@Suite(.timeLimit(.minutes(2))) struct WorldTests {
  /// Some worlds with all that can go wrong. `make simulate SEEDS=1000` runs as many as one likes.
  @Test(arguments: UInt64(1)...16)
  func nothingIsLostWhateverBreaks(seed: UInt64) {
    let plan = Plan(seed: seed)
    let report = World(plan, workload: plan.workload).run()
    #expect(report.failure == nil, "simulate --seed \(seed)")
  }

  @Test(arguments: UInt64(1)...6)
  func inCalmWeatherEveryBuildIsAnsweredAndEndsInOrder(seed: UInt64) {
    let plan = Plan(seed: seed).calmed()
    let report = World(plan, workload: plan.workload).run()
    #expect(report.failure == nil)
    #expect(report.outcomes[.executorLost] == nil && report.outcomes[.preempted] == nil)
    #expect(!report.outcomes.isEmpty)
  }

  @Test func oneSeedIsOneRun() {
    let plan = Plan(seed: 3)
    let digests = (0..<2).map { _ in World(plan, workload: plan.workload).run().trace.digest }
    #expect(digests[0] == digests[1])
  }

  /// A checker that finds nothing must be known to find what is there.
  @Test(arguments: PlantedBug.allCases)
  func aPlantedBugIsFound(bug: PlantedBug) {
    // What a scheduler writes that was given up matters in few worlds.
    let first: UInt64 = bug == .storeIgnoresSessions ? 27 : 1
    let found = (first...first + 39).contains { seed in
      var plan = Plan(seed: seed)
      plan.bugs = [bug]
      return World(plan, workload: plan.workload).run().failure != nil
    }
    #expect(found, "\(bug)")
  }
}
