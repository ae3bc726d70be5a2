import Domain
import Testing

@testable import SchedulerCore

extension Bench {
  /// A whole round of the audit.
  fileprivate mutating func audit() {
    self.now = self.now + self.scheduler.policy.auditInterval
    self.feed { $0.auditDue(at: $1) }
  }

  fileprivate var found: [AuditFinding.Kind] {
    mutating get { self.scheduler.takeFindings().map(\.kind) }
  }
}

@Test
func anAuditOfWhatAgreesFindsNothing() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2"]), job("c", needs: ["a"])))
  _ = bench.grant()
  _ = bench.take()
  bench.audit()
  #expect(bench.found == [])
  // The allocator hears again what is held.
  #expect(bench.take() == [.hold("l1", "b/a (1)/1", "e1")])
}

@Test
func aPlaceInTheQueueThatIsLostIsFoundAndPutRight() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  let ticket = bench.scheduler.builds["b"]!.machine.tickets[.job(0)]!
  bench.scheduler.queue.remove(ticket)
  bench.scheduler.builds["b"]!.machine.tickets = Tickets()
  bench.audit()
  #expect(bench.found == [.plan] && bench.scheduler.queueDepth == 1)
  #expect(bench.scheduler.takeTally().findings == [.plan: 1])
  #expect(bench.grant() != nil)
}

@Test
func aPlaceInTheQueueOfNobodyIsTakenOut() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.scheduler.queue.enqueue(
    Work(build: "ghost", item: .job(0)), project: "p", priority: 0, age: bench.now,
    shape: Shape(pool: "", labels: [], resources: .none), since: bench.now)
  bench.audit()
  #expect(bench.found == [.ticket] && bench.scheduler.queueDepth == 1)
}

@Test
func aLeaseOfNobodyIsGivenBack() {
  var bench = Bench()
  bench.scheduler.leases.took("l9", "ghost/a/1")
  bench.audit()
  #expect(bench.found == [.lease] && bench.take().releases == ["l9"])
}

@Test
func anAttemptThatNobodyFollowsIsAttachedToAgain() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  _ = bench.take()
  let live = bench.scheduler.builds["b"]!.machine.forgetLive("b/a/1")!
  bench.scheduler.attempts = [:]
  bench.scheduler.leases = HeldLeases()
  bench.scheduler.queue.gaveBack(
    BuildOutput.Charge(resources: live.machine.resources, pool: ""), project: "p")
  bench.audit()
  #expect(bench.found == [.plan] && bench.take().attaches == ["b/a/1"])
  bench.end("b/a/1")
  #expect(bench.record("b").outcome == .succeeded)
}

@Test
func anActiveRecordThatNobodyWorksOnIsTakenUp() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  let stored = bench.store["b"]!
  // A scheduler that has forgotten it.
  bench.scheduler = Scheduler(owner: "one")
  bench.feed { $0.recoveryFinished(at: $1) }
  bench.feed { $0.audited(stored, at: $1) }
  #expect(bench.found == [.unknownRecord] && bench.scheduler.queueDepth == 1)
  // One that has ended since it was read is let be.
  _ = bench.cancel("b")
  bench.feed { $0.audited(stored, at: $1) }
  #expect(bench.found == [] && bench.scheduler.buildCount == 0)
}

@Test
func aRecordThatWasChangedByAnotherHandIsReadAnew() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  let same = bench.store["b"]!
  bench.feed { $0.audited(same, at: $1) }
  #expect(bench.found == [])
  var changed = bench.record("b")
  changed.owner = "hand"
  changed.priority = 7
  _ = bench.write(changed, bench.store["b"]!.version)
  let stored = bench.store["b"]!
  bench.feed { $0.audited(stored, at: $1) }
  #expect(bench.found == [.staleRecord])
  #expect(bench.scheduler.shown("b")?.priority == 7)
}

@Test
func aBuildThatIsHeldBackForNobodyIsFoundAndPutRight() {
  var bench = Bench()
  _ = bench.submit("b", grouped)
  bench.scheduler.builds["b"]!.machine.holdBack()
  bench.audit()
  #expect(bench.found == [.plan])
  #expect(bench.scheduler.builds["b"]?.machine.isHeldBack == false)
  #expect(bench.grant() != nil)
}

/// Else its session would end meanwhile, and the next owner's too.
@Test
func whatWasReadGoesOnSomeAtATime() {
  var bench = Bench()
  bench.checksInvariants = false
  let legs = (1...250).map(String.init)
  for number in 0..<20 {
    _ = bench.submit(BuildID("b\(number)"), pipeline(job("a", legs: legs)))
  }
  bench.restart()
  #expect(bench.scheduler.queueDepth == 2_000)
  // What does not wait yet is nothing wrong, and what is cancelled before it goes on is over.
  bench.audit()
  #expect(bench.found == [])
  bench.feed { $0.cancelled("b19", reason: "", from: Waiter(9_999), at: $1) }
  #expect(bench.scheduler.nextWake().map { $0 <= bench.now } ?? false)
  bench.feed { $0.timePassed(at: $1) }
  #expect(bench.scheduler.queueDepth == 4_000)
  while bench.scheduler.nextWake().map({ $0 <= bench.now }) ?? false {
    bench.feed { $0.timePassed(at: $1) }
  }
  #expect(bench.scheduler.queueDepth == 4_750)
  bench.audit()
  #expect(bench.found == [])
}
