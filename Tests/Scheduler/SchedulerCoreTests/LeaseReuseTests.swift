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
    bench.end("b/a/1", isLeaseReusable: true)
    var effects = bench.take()
    #expect(effects.releases == [])
    #expect(effects.runs.map(\.attempt) == ["c/a/1"])
    #expect(effects.runs[0].lease == "l1")
    #expect(effects.runs[0].token == FencingToken(1))
    #expect(effects.runs[0].leaseUse == 1)
    #expect(bench.record("c").jobs[0].attempts[0].lease == "l1")
    #expect(bench.record("b").outcome == .succeeded)
    bench.end("c/a/1", .failed, isLeaseReusable: true)
    effects = bench.take()
    #expect(effects.runs.map(\.leaseUse) == [2])
    // Nothing waits any more.
    bench.end("d/a/1", isLeaseReusable: true)
    #expect(bench.take().releases == ["l1"])
    let tally = bench.scheduler.takeTally()
    #expect(tally.placements == 3)
    #expect(tally.reuses == 2)
  }

  /// Whatever is asked for a job that has begun otherwise is asked for no more.
  @Test func demandsFitWhatStillWaits() {
    var bench = Self.bench(["b", "c"])
    bench.end("b/a/1", isLeaseReusable: true)
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
    bench.end("b/a/1", isLeaseReusable: true)
    #expect(bench.take().runs.map(\.attempt) == ["c/a/1"])
    // It is counted from the grant.
    bench.advance(.milliseconds(600))
    bench.end("c/a/1", isLeaseReusable: true)
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
    bench.end("b/a/1", isLeaseReusable: true)
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
    bench.end("b/a/1", isLeaseReusable: true)
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
    bench.end("b/a/1", isLeaseReusable: true)
    #expect(bench.take().releases == ["l1"])
    bench.end("other/a/1", isLeaseReusable: true)
    #expect(bench.take().runs.map(\.build) == ["again"])
  }

  @Test func itsLossIsTheLossOfWhatRunsUnderIt() {
    var bench = Self.bench(["b", "c"])
    bench.end("b/a/1", isLeaseReusable: true)
    _ = bench.take()
    bench.feed { $0.leaseLost("l1", .executorGone, message: "e1 was silent", at: $1) }
    #expect(bench.record("c").jobs[0].attempts[0].outcome == .executorLost)
    #expect(bench.record("b").outcome == .succeeded)
  }

  /// Its runner lives, and says how the job ends; but the allocator has given the share to another.
  @Test func itGoesBackWhenItIsOver() {
    var bench = Self.bench(["b", "c"])
    bench.feed { $0.leaseLost("l1", .expired, message: "not confirmed", at: $1) }
    bench.end("b/a/1", isLeaseReusable: true)
    let effects = bench.take()
    #expect(effects.releases == ["l1"])
    #expect(effects.runs.isEmpty)
  }

  @Test func itGoesBackWhenOthersWaitForRoom() {
    var bench = Bench()
    for build in ["b", "c"] as [BuildID] { _ = bench.submit(build, pipeline(job("a"))) }
    _ = bench.grant(isContended: true)
    _ = bench.take()
    bench.end("b/a/1", isLeaseReusable: true)
    let effects = bench.take()
    #expect(effects.releases == ["l1"])
    #expect(effects.runs.isEmpty)
  }

  // MARK: The order of commits

  /// `b` has ended and `c` has its lease, and neither is committed.
  private static func betweenCommits() -> Bench {
    var bench = Self.bench(["b", "c"])
    bench.holdsWrites = true
    bench.end("b/a/1", isLeaseReusable: true)
    #expect(bench.heldWrites.map(\.0.id) == ["b", "c"])
    #expect(bench.take().releases == [])
    return bench
  }

  @Test func theNextJobBeginsWhenTheEndOfTheLastIsDurable() {
    var bench = Self.betweenCommits()
    bench.holdsWrites = false
    let writes = bench.heldWrites
    // The later one first.
    let next = bench.write(writes[1].0, writes[1].1)
    bench.feed { $0.written("c", next, at: $1) }
    #expect(bench.take().runs.isEmpty)
    let last = bench.write(writes[0].0, writes[0].1)
    bench.feed { $0.written("b", last, at: $1) }
    #expect(bench.take().runs.map(\.attempt) == ["c/a/1"])
    bench.end("c/a/1")
    #expect(bench.take().releases == ["l1"])
  }

  @Test func theNextJobDoesNotBeginWhenTheEndOfTheLastIsAnothers() {
    var bench = Self.betweenCommits()
    // Another scheduler has it, and goes on with it under its lease.
    var stolen = bench.record("b")
    stolen.owner = "thief"
    stolen.revision += Revision.stride
    _ = bench.write(stolen, bench.store["b"]?.version)
    bench.holdsWrites = false
    bench.release()
    let effects = bench.take()
    #expect(effects.runs.isEmpty)
    #expect(effects.attaches == ["b/a/1"])
    // Its runner has said that nothing runs under it.
    #expect(effects.releases == ["l1"])
    let attempt = bench.record("c").jobs[0].attempts[0]
    #expect(attempt.outcome == .preempted && !attempt.isHeld)
    // It is asked for anew.
    #expect(effects.demands.count == 1)
    bench.end("b/a/1")
    #expect(bench.scheduler.heldLeases == 0)
  }

  /// The process dies when the later record was written and the earlier one was not.
  @Test(arguments: [true, false])
  func aLeaseOfTwoAttemptsInRecordsGoesBackOnce(isLastFirst: Bool) {
    var bench = Self.betweenCommits()
    let (record, base) = bench.heldWrites[1]
    _ = bench.write(record, base)
    bench.holdsWrites = false
    bench.restart()
    #expect(Set(bench.take().attaches) == ["b/a/1", "c/a/1"])
    if isLastFirst { bench.end("b/a/1", isLeaseReusable: true) }
    // No runner ever heard of it.
    bench.feed { $0.streamEnded(.notFound, of: "c/a/1", at: $1) }
    #expect(bench.take().releases == (isLastFirst ? ["l1"] : []))
    if !isLastFirst {
      bench.end("b/a/1", isLeaseReusable: true)
      #expect(bench.take().releases == ["l1"])
    }
    #expect(bench.scheduler.heldLeases == 0)
    #expect(bench.record("b").outcome == .succeeded)
  }

  @Test func whatWasReadFromARecordGoesBack() {
    var bench = Self.bench(["b", "c"])
    bench.restart()
    _ = bench.take()
    bench.end("b/a/1", isLeaseReusable: true)
    let effects = bench.take()
    #expect(effects.releases == ["l1"])
    #expect(effects.runs.isEmpty)
  }
}
