import Domain
import SchedulerCore
import Testing

/// A lease that goes from a job that has ended to the next of its shape.
@Suite struct LeaseReuseTests {
  /// Builds of one job each, the first of which runs under lease `l1`.
  private static func bench(_ builds: [BuildID], _ policy: Policy = Policy()) -> Bench {
    var bench = Bench(policy: policy)
    for build in builds { _ = bench.submit(build, pipeline(job("a"))) }
    #expect(bench.grant()?.attempt == AttemptID("\(builds[0])/a/1"))
    _ = bench.take()
    return bench
  }

  @Test func theNextJobRunsUnderTheSameLease() {
    var bench = Self.bench(["b", "c", "d"])
    bench.end("b/a/1", lease: .reusable)
    var effects = bench.take()
    #expect(effects.releases == [])
    #expect(effects.runs.map(\.attempt) == ["c/a/1"])
    #expect(effects.runs[0].lease == "l1")
    #expect(effects.runs[0].token == FencingToken(1))
    #expect(effects.runs[0].leaseUse == 1)
    #expect(bench.record("c").jobs[0].attempts[0].lease == "l1")
    #expect(bench.record("b").outcome == .succeeded)
    bench.end("c/a/1", .failed, lease: .reusable)
    effects = bench.take()
    #expect(effects.runs.map(\.leaseUse) == [2])
    // Nothing waits any more.
    bench.end("d/a/1", lease: .reusable)
    #expect(bench.take().releases == ["l1"])
    let tally = bench.scheduler.takeTally()
    #expect(tally.placements == 3)
    #expect(tally.passedOn == 2)
  }

  /// Whatever is asked for a job that has begun otherwise is asked for no more.
  @Test func demandsFitWhatStillWaits() {
    var bench = Self.bench(["b", "c"])
    bench.end("b/a/1", lease: .reusable)
    let withdrawn = bench.take().filter { if case .withdraw = $0 { true } else { false } }
    #expect(withdrawn.count == 1)
    #expect(bench.scheduler.openDemands == 0)
  }

  @Test func itGoesBackWhenItsRunnerDoesNotOfferIt() {
    var bench = Self.bench(["b", "c"])
    bench.end("b/a/1")
    let effects = bench.take()
    #expect(effects.releases == ["l1"])
    #expect(effects.runs.isEmpty)
  }

  @Test func itGoesBackWhenItIsOld() {
    var bench = Self.bench(["b", "c", "d"])
    bench.advance(.milliseconds(600))
    bench.end("b/a/1", lease: .reusable)
    #expect(bench.take().runs.map(\.attempt) == ["c/a/1"])
    // It is counted from the grant.
    bench.advance(.milliseconds(600))
    bench.end("c/a/1", lease: .reusable)
    let effects = bench.take()
    #expect(effects.releases == ["l1"])
    #expect(effects.runs.isEmpty)
  }

  /// The allocator decides between shapes, for it knows for what there is room.
  @Test(arguments: [0, 1] as [Int32])
  func itGoesBackWhenWorkOfAnotherShapeGoesBefore(priority: Int32) {
    var bench = Bench()
    _ = bench.submit("b", pipeline(job("a")))
    _ = bench.submit("large", priority: priority, pipeline(job("a", cpu: "8")))
    _ = bench.submit("c", pipeline(job("a")))
    #expect(bench.grant { $0.shape.resources.cpuMillis == 1_000 }?.build == "b")
    _ = bench.take()
    bench.end("b/a/1", lease: .reusable)
    let effects = bench.take()
    #expect(effects.releases == ["l1"])
    #expect(effects.runs.isEmpty)
  }

  @Test func itGoesOnBeforeWorkOfAnotherShapeThatIsLessUrgent() {
    var bench = Bench()
    _ = bench.submit("large", pipeline(job("a", cpu: "8")))
    _ = bench.submit("b", priority: 1, pipeline(job("a")))
    _ = bench.submit("c", priority: 1, pipeline(job("a")))
    #expect(bench.grant { $0.shape.resources.cpuMillis == 1_000 }?.build == "b")
    _ = bench.take()
    bench.end("b/a/1", lease: .reusable)
    #expect(bench.take().runs.map(\.build) == ["c"])
  }

  @Test func limitsHold() {
    var policy = Policy()
    policy.standardProjectLimit = RunningLimit(jobs: 1)
    var bench = Bench(policy: policy)
    _ = bench.submit("b", project: "p", pipeline(job("a")))
    _ = bench.submit("other", project: "q", pipeline(job("a")))
    #expect(bench.grant()?.build == "b")
    #expect(bench.grant()?.build == "other")
    _ = bench.submit("again", project: "q", pipeline(job("a")))
    _ = bench.take()
    // Its project has one that runs.
    bench.end("b/a/1", lease: .reusable)
    #expect(bench.take().releases == ["l1"])
    bench.end("other/a/1", lease: .reusable)
    #expect(bench.take().runs.map(\.build) == ["again"])
  }

  @Test func itsLossIsTheLossOfWhatRunsUnderIt() {
    var bench = Self.bench(["b", "c"])
    bench.end("b/a/1", lease: .reusable)
    _ = bench.take()
    bench.feed { $0.leaseLost("l1", .executorGone, message: "e1 was silent", at: $1) }
    #expect(bench.record("c").jobs[0].attempts[0].outcome == .executorLost)
    #expect(bench.record("b").outcome == .succeeded)
  }

  /// The process died between the commit of the next attempt and that of the end of the last.
  @Test func aLeaseOfTwoAttemptsInRecordsGoesBackOnce() {
    var bench = Self.bench(["b", "c"])
    let running = bench.store["b"]
    bench.end("b/a/1", lease: .reusable)
    bench.store["b"] = running
    bench.restart()
    #expect(Set(bench.take().attaches) == ["b/a/1", "c/a/1"])
    // Its runner knows that the lease has gone on.
    bench.end("b/a/1", lease: .passedOn)
    #expect(bench.take().releases == [])
    #expect(bench.scheduler.heldLeases == 1)
    bench.end("c/a/1")
    #expect(bench.take().releases == ["l1"])
    #expect(bench.scheduler.heldLeases == 0)
    #expect(bench.scheduler.takeTally().passedOn == 0)
  }

  /// The later attempt is another scheduler's by now.
  @Test func aLeaseThatHasGoneOnIsNotGivenBack() {
    var bench = Self.bench(["b"])
    bench.restart()
    _ = bench.take()
    bench.end("b/a/1", lease: .passedOn)
    #expect(bench.take().releases == [])
    #expect(bench.scheduler.heldLeases == 0)
  }

  @Test func whatWasReadFromARecordGoesBack() {
    var bench = Self.bench(["b", "c"])
    bench.restart()
    _ = bench.take()
    bench.end("b/a/1", lease: .reusable)
    let effects = bench.take()
    #expect(effects.releases == ["l1"])
    #expect(effects.runs.isEmpty)
  }
}
