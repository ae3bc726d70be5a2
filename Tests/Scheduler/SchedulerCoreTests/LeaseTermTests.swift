import Domain
import SchedulerCore
import Testing

/// Two builds of one job each, the first of which runs.
private func twoBuilds(
  second: Pipeline = pipeline(job("a")), of project: ProjectID = "p"
) -> Bench {
  var bench = Bench(leaseTerm: .seconds(1))
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.submit("c", project: project, second)
  #expect(bench.grant()?.attempt == "b/a/1")
  _ = bench.take()
  return bench
}

@Test func aLeaseGoesOnToTheNextJobOfItsShape() {
  var bench = twoBuilds()
  bench.end("b/a/1")
  let effects = bench.take()
  #expect(effects.releases.isEmpty)
  #expect(effects.runs.map(\.attempt) == ["c/a/1"])
  #expect(effects.runs.first?.lease == "l1" && effects.runs.first?.use == 1)
  #expect(effects.runs.first?.token == FencingToken(1))
  // Its demand is not wanted any more.
  #expect(effects.contains { if case .withdraw = $0 { true } else { false } })
  #expect(bench.record("c").jobs[0].attempts[0].lease == "l1")
  bench.end("c/a/1")
  #expect(bench.take().releases == ["l1"])
}

@Test func aLeaseGoesOnWhenTheEndOfItsJobIsCommitted() {
  var bench = twoBuilds()
  bench.holdsWrites = true
  bench.end("b/a/1")
  #expect(bench.heldWrites.map(\.0.id) == ["b"])
  #expect(bench.take().releases.isEmpty)
  bench.release()
  #expect(bench.heldWrites.map(\.0.id) == ["c"])
  #expect(bench.take().runs.isEmpty)
  bench.release()
  #expect(bench.take().runs.map(\.lease) == ["l1"])
}

@Test func aLeaseWhoseTermIsOverGoesBack() {
  var bench = twoBuilds()
  bench.advance(.seconds(1))
  bench.end("b/a/1")
  let effects = bench.take()
  #expect(effects.releases == ["l1"] && effects.runs.isEmpty)
  #expect(bench.grant()?.attempt == "c/a/1")
}

@Test(arguments: [
  (pipeline(job("a", cpu: "2")), "p"), (pipeline(job("a", labels: ["gpu"])), "p"),
  (pipeline(job("a")), "q"),
])
func aLeaseGoesBackWhenItIsNotForOneShapeAndProjectToSay(second: Pipeline, project: String) {
  var bench = twoBuilds(second: second, of: ProjectID(project))
  bench.end("b/a/1")
  let effects = bench.take()
  #expect(effects.releases == ["l1"] && effects.runs.isEmpty)
}

@Test func aLeaseGoesBackWhileAnotherShapeWaitsInItsPool() {
  var bench = twoBuilds()
  _ = bench.submit("d", pipeline(job("a", cpu: "2")))
  bench.end("b/a/1")
  #expect(bench.take().releases == ["l1"])
}

@Test func anExecutorThatFailedAJobGetsTheNextFromTheAllocator() {
  var bench = twoBuilds()
  bench.end("b/a/1", .failed)
  #expect(bench.take().releases == ["l1"])
}

@Test func aLeaseThatIsLostDoesNotGoOn() {
  var bench = twoBuilds()
  // Its job lives for all that the allocator knows, and ends.
  bench.feed { $0.leaseLost("l1", .expired, message: "gone", at: $1) }
  bench.end("b/a/1")
  let effects = bench.take()
  #expect(effects.releases == ["l1"] && effects.runs.isEmpty)
}

@Test func aLeaseThatWaitsForItsJobsEndToBeCommittedIsNotLostWithTheBuild() {
  var bench = twoBuilds()
  bench.holdsWrites = true
  bench.end("b/a/1")
  // Another scheduler has changed the record meanwhile.
  let (record, _) = bench.heldWrites[0]
  _ = bench.write(record, bench.store["b"]?.version)
  bench.store["b"]?.record.owner = "two"
  bench.release()
  #expect(bench.take().releases == ["l1"])
}

@Test func aLimitHoldsALeaseBack() {
  var policy = Policy()
  policy.poolLimits = ["default": RunningLimit(jobs: 1)]
  var bench = Bench(policy: policy, leaseTerm: .seconds(1))
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.submit("c", pipeline(job("a")))
  #expect(bench.grant()?.attempt == "b/a/1")
  #expect(bench.grant() == nil)
  bench.end("b/a/1")
  // There is room for one now, and it has the lease.
  #expect(bench.take().runs.map(\.attempt) == ["c/a/1"])
}
