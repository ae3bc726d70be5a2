import Domain
import SchedulerCore
import Testing

// MARK: The store

@Test
func theSameSubmissionAgainIsTheSameBuild() {
  var bench = Bench()
  bench.holdsWrites = true
  let first = bench.submit("b", pipeline(job("a")))
  let second = bench.submit("b", pipeline(job("a")))
  bench.release()
  let answers = bench.take().answers
  guard case .build(_, existed: false) = answers[first],
    case .build(_, existed: true) = answers[second]
  else { return #expect(Bool(false), "\(answers)") }
  bench.holdsWrites = false
  bench.feed { scheduler, now in scheduler.acquireOpened(at: now) }
  _ = bench.grant()
  bench.end("b/a/1")
  #expect(bench.scheduler.buildCount == 0)
  let late = bench.submit("b", pipeline(job("a")))
  guard case .build(let record, existed: true) = bench.take().answers[late] else {
    return #expect(Bool(false))
  }
  #expect(record.outcome == .succeeded)
  #expect(bench.scheduler.buildCount == 0)
}

/// The first record of such a build is its last: another submission's first record has the same revision.
@Test
func aBuildThatEndedAtOnceIsFoundAgainBehindOthersOfItsGroup() {
  var bench = Bench()
  bench.feed { scheduler, now in scheduler.acquireOpened(at: now) }
  var skipped = grouped
  skipped.jobs = [job("a", condition: "false")]
  _ = bench.submit("b", skipped)
  #expect(bench.record("b").outcome == .succeeded)
  _ = bench.submit("c", grouped)
  _ = bench.take()
  bench.advance(.seconds(1))
  let again = bench.submit("b", skipped)
  guard case .build(let record, existed: true) = bench.take().answers[again] else {
    return #expect(Bool(false))
  }
  #expect(record.outcome == .succeeded)
  #expect(bench.record("b").outcome == .succeeded)
}

@Test
func aSilentStoreIsTriedAgainAndItsCallersAreToldSo() {
  var bench = Bench()
  bench.holdsWrites = true
  let waiter = bench.submit("b", pipeline(job("a")))
  bench.release { _ in .unknown("timeout") }
  #expect(bench.take().answers[waiter]?.isUnavailable == true)
  #expect(bench.scheduler.isStoreSilent)
  bench.holdsWrites = false
  bench.advance(.seconds(1))
  #expect(bench.record("b").state == .queued)
  #expect(!bench.scheduler.isStoreSilent)
  let again = bench.submit("b", pipeline(job("a")))
  #expect(bench.take().answers[again]?.record?.state == .queued)
}

@Test
func aWriteWhoseAnswerWasLostIsRecognised() {
  var bench = Bench()
  bench.holdsWrites = true
  _ = bench.submit("b", pipeline(job("a")))
  let (record, base) = bench.heldWrites[0]
  _ = bench.write(record, base)
  bench.release { _ in .unknown("reset") }
  _ = bench.take()
  bench.holdsWrites = false
  // The same write again meets its own record.
  bench.advance(.seconds(1))
  #expect(bench.take().demands.count == 1)
  #expect(bench.grant() == nil)
  #expect(bench.scheduler.takeTally().conflicts == 1)
  #expect(bench.scheduler.buildCount == 1)
}

@Test
func anothersWriteIsTakenAsTheTruth() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  var stolen = bench.record("b")
  stolen.owner = "thief"
  stolen.revision += Revision.stride
  stolen.state = .finished
  stolen.outcome = .cancelled
  stolen.jobs[0].state = .finished
  stolen.jobs[0].outcome = .cancelled
  _ = bench.write(stolen, bench.store["b"]?.version)
  #expect(bench.grant() == nil)
  // The lease goes back, the attempt never starts, the build is as the record says.
  #expect(bench.take().releases == ["l1"])
  #expect(bench.record("b") == stolen)
  #expect(bench.scheduler.buildCount == 0)
}

@Test
func aFullQueueIsToldWithADelay() {
  var policy = Policy()
  policy.maximumQueuedJobs = 3
  var bench = Bench(policy: policy)
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2"])))
  _ = bench.take()
  let waiter = bench.submit("c", pipeline(job("a", legs: ["1", "2"])))
  guard case .exhausted(_, retryAfter: .seconds(5)) = bench.take().answers[waiter] else {
    return #expect(Bool(false))
  }
  let small = bench.submit("d", pipeline(job("a")))
  #expect(bench.take().answers[small]?.record != nil)
}

// MARK: Restart

@Test
func aRestartAttachesWhatRunsAndQueuesWhatWaits() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2"]), job("c", needs: ["a"])))
  _ = bench.submit("d", pipeline(job("a")))
  _ = bench.grant()
  let revision = bench.record("b").revision
  bench.restart()
  #expect(bench.effects.attaches == ["b/a (1)/1"])
  #expect(bench.effects.contains(.attach("b/a (1)/1", address: "e1:1", after: 0)))
  #expect(bench.effects.demands.count == 2)
  #expect(bench.scheduler.shown("b")!.revision > revision)
  bench.end("b/a (1)/1")
  _ = bench.grant()
  #expect(bench.record("b").jobs[1].attempts.count == 1)
  bench.end("b/a (2)/1")
  #expect(bench.record("b").jobs[2].state == .queued)
}

@Test
func aRestartStopsWhatWasCancelled() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  _ = bench.cancel("b")
  bench.restart()
  #expect(bench.effects.stops == ["b/a/1"])
  bench.feed { $0.streamEnded(.notFound, of: "b/a/1", at: $1) }
  #expect(!bench.record("b").isActive)
  #expect(bench.scheduler.buildCount == 0)
}

@Test
func nothingIsTakenBeforeTheRecordsAreRead() {
  var scheduler = Scheduler(owner: "x")
  let effects = scheduler.cancelled(
    "b", reason: "", from: Waiter(1), at: Timestamp(microseconds: 0))
  #expect(effects.answers[Waiter(1)]?.isUnavailable == true)
}

@Test
func aRecordIsReadBackAsItWasWritten() {
  var bench = Bench()
  _ = bench.submit(
    "b", pipeline(job("a"), notify: [Pipeline.Notification(uses: "webhook")]))
  _ = bench.grant()
  bench.end("b/a/1")
  bench.restart()
  let order = bench.grant()
  #expect(order?.steps.map(\.action) == [.uses("webhook")])
  bench.end(order!.attempt)
  #expect(bench.record("b").notifications[0].state == .delivered)
}

// MARK: The allocator

@Test
func aNewStreamHearsOfEverythingThatIsHeldAndWanted() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2", "3"])))
  _ = bench.grant()
  let open = Set(bench.open.map(\.id))
  _ = bench.take()
  bench.feed { scheduler, now in scheduler.acquireOpened(at: now) }
  let effects = bench.take()
  #expect(effects.first == .hold("l1", "b/a (1)/1", "e1"))
  #expect(Set(effects.demands.map(\.id)) == open)
}

@Test
func theSameGrantAgainIsNotTwoLeases() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2"])))
  let demand = bench.take().demands[0]
  let grant = Grant(
    lease: "l", demand: demand.id, executor: "e", address: "e:1", token: FencingToken(1))
  bench.feed { $0.granted(grant, at: $1) }
  bench.feed { $0.granted(grant, at: $1) }
  #expect(bench.record("b").jobs.map(\.attempts.count) == [1, 0])
}

@Test
func aJobThatNoExecutorCouldEverRunFailsAtOnceWithTheReason() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2"], labels: ["gpu"])))
  _ = bench.submit("c", pipeline(job("a")))
  let demands = bench.take().demands
  let impossible = demands.first { $0.shape.labels == ["gpu"] }!
  bench.feed { $0.unsatisfiable(impossible.id, reason: "0 of 2 executors match", at: $1) }
  #expect(bench.record("b").outcome == .rejected)
  #expect(bench.record("b").message == "job a (1): 0 of 2 executors match")
  #expect(bench.record("c").state == .queued)
  #expect(bench.take().filter { if case .withdraw = $0 { true } else { false } }.count == 1)
}

@Test
func manyJobsThatNoExecutorCouldEverRunFailSomeAtATime() {
  var bench = Bench()
  let impossible = pipeline(job("a", labels: ["gpu"]))
  for number in 0..<300 { _ = bench.submit(BuildID("b\(number)"), impossible) }
  let demands = bench.take().demands
  bench.feed { $0.unsatisfiable(demands[0].id, reason: "0 of 2 executors match", at: $1) }
  #expect(bench.scheduler.takeTally().finished == [.rejected: 256])
  #expect(bench.scheduler.nextWake().map { $0 <= bench.now } ?? false)
  var given = bench
  bench.feed { $0.timePassed(at: $1) }
  #expect(bench.scheduler.takeTally().finished == [.rejected: 44])
  // An executor comes meanwhile: what is left is not without hope.
  let grant = Grant(
    lease: "l", demand: demands[1].id, executor: "e", address: "e:1", token: FencingToken(1))
  given.feed { $0.granted(grant, at: $1) }
  given.feed { $0.timePassed(at: $1) }
  #expect(given.scheduler.takeTally().finished == [:] && given.scheduler.queueDepth == 43)
  #expect(given.scheduler.nextWake().map { $0 > given.now } ?? true)
}

@Test
func whyAJobWaitsIsShownToWhoWatches() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a"), job("c", needs: ["a"])))
  let demand = bench.take().demands[0]
  let before = bench.scheduler.watchBegan("b")
  #expect(before?.jobs[0].waitingFor == "an executor to be found")
  #expect(before?.jobs[1].waitingFor == "jobs a")
  bench.feed { $0.waiting(demand.id, reason: "2 of 2 executors are busy", at: $1) }
  guard case .changed(let record) = bench.take().first else { return #expect(Bool(false)) }
  #expect(record.jobs[0].waitingFor == "an executor: 2 of 2 executors are busy")
  #expect(record.revision > before!.revision)
  #expect(bench.record("b").jobs[0].waitingFor == "")
}

@Test
func progressIsShownWithoutBeingWritten() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  _ = bench.scheduler.watchBegan("b")
  let version = bench.store["b"]?.version
  _ = bench.take()
  bench.feed {
    $0.received(RunnerEvent(sequence: 1, time: $1, what: .accepted), of: "b/a/1", at: $1)
  }
  var revisions: [Int64] = []
  for sequence in 2...2_000 as ClosedRange<Int64> {
    bench.feed {
      $0.received(
        RunnerEvent(
          sequence: sequence, time: $1,
          what: .step(StepRecord(index: 0, state: .running))), of: "b/a/1", at: $1)
    }
    for case .changed(let record) in bench.take() { revisions.append(record.revision) }
  }
  #expect(revisions.count == 1_999)
  #expect(zip(revisions, revisions.dropFirst()).allSatisfy { $0 < $1 })
  // Only the revisions that were used up between two commits needed one.
  #expect(bench.store["b"]!.version - version! == 1)
  // What the job has no step for is none.
  bench.feed {
    $0.received(
      RunnerEvent(
        sequence: 2_001, time: $1, what: .step(StepRecord(index: 1, state: .running))),
      of: "b/a/1", at: $1)
  }
  #expect(bench.scheduler.shown("b")?.jobs[0].attempts[0].steps.count == 1)
}

// MARK: Order

@Test
func priorityGoesBeforeEverythingElse() {
  var bench = Bench()
  _ = bench.submit("low", priority: 0, pipeline(job("a")))
  _ = bench.submit("high", priority: 5, pipeline(job("a")))
  #expect(bench.grant()?.build == "high")
  #expect(bench.grant()?.build == "low")
}

@Test
func aLargeMatrixDoesNotStarveASmallBuild() {
  var bench = Bench()
  let legs = (0..<200).map(String.init)
  _ = bench.submit("big", project: "big", pipeline(job("a", legs: legs)))
  for _ in 0..<10 { _ = bench.grant() }
  _ = bench.submit("small", project: "small", pipeline(job("a")))
  #expect(bench.grant()?.build == "small")
}

@Test
func projectsShareEquallyAndByTheirWeights() {
  func shares(_ policy: Policy) -> [ProjectID: Int] {
    var bench = Bench(policy: policy)
    let legs = (0..<60).map(String.init)
    for project in ["x", "y", "z"] {
      _ = bench.submit(
        BuildID(project), project: ProjectID(project), pipeline(job("a", legs: legs)))
    }
    var counts: [ProjectID: Int] = [:]
    for _ in 0..<60 { counts[bench.grant()!.project, default: 0] += 1 }
    return counts
  }
  #expect(shares(Policy()) == ["x": 20, "y": 20, "z": 20])
  var policy = Policy()
  policy.weights = ["x": 4]
  #expect(shares(policy) == ["x": 40, "y": 10, "z": 10])
}

@Test
func theDominantShareCounts() {
  var bench = Bench()
  let legs = (0..<20).map(String.init)
  _ = bench.submit("wide", project: "wide", pipeline(job("a", legs: legs, cpu: "4")))
  _ = bench.submit("slim", project: "slim", pipeline(job("a", legs: legs, cpu: "1")))
  var counts: [ProjectID: Int] = [:]
  for _ in 0..<10 { counts[bench.grant()!.project, default: 0] += 1 }
  #expect(counts == ["wide": 2, "slim": 8])
}

@Test
func withinAProjectTheOlderBuildGoesFirst() {
  var bench = Bench()
  _ = bench.submit("first", pipeline(job("a"), job("b", needs: ["a"])))
  _ = bench.grant()
  bench.now = bench.now + .seconds(1)
  _ = bench.submit("second", pipeline(job("a")))
  bench.end("first/a/1")
  #expect(bench.grant()?.build == "first")
  #expect(bench.grant()?.build == "second")
}

@Test
func whatCannotBePlacedBlocksNothingElse() {
  var policy = Policy()
  policy.maximumOpenDemands = 4
  var bench = Bench(policy: policy)
  _ = bench.submit("stuck", pipeline(job("a", legs: (0..<50).map(String.init), labels: ["gpu"])))
  _ = bench.submit("fine", project: "q", pipeline(job("a")))
  let demands = bench.take().demands
  #expect(demands.count { $0.shape.labels == ["gpu"] } == 4)
  #expect(demands.count { $0.shape.labels.isEmpty } == 1)
}

// MARK: Concurrency groups

extension Bench {
  fileprivate mutating func runNext() {
    if let order = self.grant() { self.end(order.attempt) }
  }
}

private func grouped(_ cancel: Bool) -> Pipeline {
  Pipeline(
    concurrency: Pipeline.Concurrency(group: "deploy", cancelInProgress: cancel),
    jobs: [job("a")])
}

@Test
func buildsOfAGroupRunOneAtATimeInTheirOrder() {
  var bench = Bench()
  for id in ["1", "2", "3"] { _ = bench.submit(BuildID(id), grouped(false)) }
  _ = bench.submit("other", project: "q", grouped(false))
  #expect(bench.scheduler.queueDepth == 2)
  #expect(
    bench.scheduler.shown("2")?.jobs[0].waitingFor
      == "concurrency group deploy: build 1 goes first")
  #expect(bench.grant()?.build == "1")
  bench.restart()
  #expect(bench.scheduler.queueDepth == 1)
  bench.end("1/a/1")
  _ = bench.cancel("2")
  var ran: [BuildID] = []
  while let order = bench.grant() {
    ran.append(order.build)
    bench.end(order.attempt)
  }
  #expect(Set(ran) == ["3", "other"])
}

@Test
func aNewerBuildOfAGroupCanEndTheOlder() {
  var bench = Bench()
  _ = bench.submit("1", grouped(true))
  _ = bench.grant()
  _ = bench.submit("2", grouped(true))
  #expect(bench.record("1").outcome == .cancelled)
  #expect(bench.record("1").message.contains("build 2"))
  // Its processes may still live: the runner says when they are gone.
  #expect(bench.record("2").jobs[0].state == .blocked)
  bench.feed { $0.streamEnded(.notFound, of: "1/a/1", at: $1) }
  #expect(bench.record("2").jobs[0].state == .queued)
}

@Test func aRefusedRetryHoldsNothingBack() {
  var bench = Bench()
  // Finished, and still at hand for its notification.
  var first = grouped(false)
  first.notifications = [Pipeline.Notification(uses: "webhook")]
  _ = bench.submit("1", first)
  bench.runNext()
  _ = bench.submit("2", grouped(false))
  let wrong = bench.retry("1", ["nosuch"])
  guard case .invalid = bench.take().answers[wrong] else { return #expect(Bool(false)) }
  _ = bench.retry("1", ["a"])
  #expect(bench.record("1").jobs[0].state == .blocked)
  _ = bench.cancel("2")
  #expect(bench.record("1").jobs[0].state == .queued)
}

@Test func whatHasBegunInAGroupGoesFirstAfterARestartWhateverWasRetried() {
  var bench = Bench()
  _ = bench.submit("1", grouped(false))
  bench.runNext()
  bench.advance(.seconds(1))
  var two = grouped(false)
  two.jobs.append(job("b", needs: ["a"]))
  _ = bench.submit("2", two)
  let order = bench.grant()!
  #expect(order.build == "2")
  _ = bench.retry("1", ["a"])
  // Between its jobs it holds no executor.
  bench.end(order.attempt)
  #expect(bench.record("2").state == .running && !bench.record("2").holdsExecutors)
  bench.restart()
  #expect(bench.record("1").jobs[0].state == .blocked)
  let next = bench.grant()
  let other = bench.grant()
  #expect(next?.build == "2" && other == nil)
}

@Test func whatWasToBeginInAGroupGoesFirstAfterARestart() {
  var bench = Bench()
  // At one moment, and not in the order of their names.
  for id in ["2", "1"] { _ = bench.submit(BuildID(id), grouped(false)) }
  bench.restart()
  #expect(bench.record("2").jobs[0].state == .queued)
  #expect(bench.record("1").jobs[0].state == .blocked)
}

@Test func ofTwoBuildsOfAGroupThatWereToBeginOneIsHeldBackAfterARestart() {
  var bench = Bench()
  for id in ["1", "2"] { _ = bench.submit(BuildID(id), grouped(false)) }
  // As schedulers left it whose clocks saw two orders.
  bench.store["2"]!.record.jobs[0].state = .queued
  bench.restart()
  #expect(bench.grant()?.build == "1")
  #expect(bench.grant() == nil)
  #expect(bench.record("2").jobs[0].state == .blocked)
  bench.end("1/a/1")
  #expect(bench.grant()?.build == "2")
}

@Test func aNewerBuildEndsTheOlderThoughItsSchedulerDiedBehindTheAnswer() {
  var bench = Bench()
  for id in ["1", "2"] { _ = bench.submit(BuildID(id), grouped(false)) }
  bench.advance(.seconds(1))
  bench.holdsWrites = true
  let waiter = bench.submit("3", grouped(true))
  bench.release()
  #expect(bench.take().answers[waiter]?.record != nil)
  #expect(bench.record("1").outcome == nil && bench.record("2").outcome == nil)
  bench.holdsWrites = false
  bench.restart()
  #expect(bench.record("1").outcome == .cancelled && bench.record("2").outcome == .cancelled)
  #expect(bench.record("1").message.contains("build 3"))
  let next = bench.grant()
  #expect(next?.build == "3")
}

@Test func aRestartEndsNoBuildThatWasRetriedBehindTheNewerOne() {
  var bench = Bench()
  _ = bench.submit("1", grouped(false))
  bench.runNext()
  bench.advance(.seconds(1))
  _ = bench.submit("2", grouped(true))
  _ = bench.grant()
  _ = bench.retry("1", ["a"])
  bench.restart()
  #expect(bench.record("1").outcome == nil)
}

@Test func aCancelIsAnsweredThoughNothingOfTheBuildIsLeftBehindIt() {
  var bench = Bench()
  _ = bench.submit("1", pipeline(job("a"), job("b")))
  let (first, second) = (bench.grant()!, bench.grant()!)
  // It comes while another write is under way, and the last attempt ends before it is written itself.
  bench.holdsWrites = true
  bench.end(first.attempt)
  let waiter = bench.cancel("1")
  bench.end(second.attempt)
  bench.release()
  bench.holdsWrites = false
  bench.release()
  #expect(bench.take().answers[waiter]?.record?.outcome != nil)
  #expect(bench.scheduler.buildCount == 0)
}

@Test func retriedJobsCountAsWaitingOnes() {
  var policy = Policy()
  policy.maximumQueuedJobs = 2
  var bench = Bench(policy: policy)
  _ = bench.submit("1", pipeline(job("a", legs: ["1", "2"])))
  _ = bench.cancel("1")
  _ = bench.submit("2", pipeline(job("a")))
  let waiter = bench.retry("1")
  guard case .exhausted(_, retryAfter: .seconds(5)) = bench.take().answers[waiter] else {
    return #expect(Bool(false))
  }
  #expect(bench.record("1").state == .finished)
}

@Test func aGroupGoesOnBehindABuildThatHeldNothingWhenItsEndWasWritten() throws {
  var bench = Bench()
  var two = pipeline(job("a"), job("b"))
  two.concurrency = Pipeline.Concurrency(group: "deploy")
  _ = bench.submit("1", two)
  _ = bench.submit("2", two)
  #expect(bench.record("2").jobs.allSatisfy { $0.state == .blocked })
  // Both leases are lost before any of it is written, and then nobody wants the build.
  bench.holdsWrites = true
  _ = bench.grant()
  _ = bench.grant()
  for lease in ["l1", "l2"] {
    bench.feed { $0.leaseLost(LeaseID(lease), .executorGone, message: "gone", at: $1) }
  }
  _ = bench.cancel("1")
  bench.holdsWrites = false
  bench.release()
  #expect(bench.record("1").outcome == .cancelled)
  #expect(bench.record("2").jobs.allSatisfy { $0.state == .queued })
}

@Test func aNotificationWaitsForTheEndThatCameWhileRecordsWereRead() throws {
  var bench = Bench()
  _ = bench.submit("1", pipeline(job("a"), notify: [Pipeline.Notification(uses: "webhook")]))
  let granted = bench.grant()
  let order = try #require(granted)
  let stored = try #require(bench.store["1"])
  bench.scheduler = Scheduler(owner: "two")
  _ = bench.take()
  bench.feed { $0.recovered(stored, at: $1) }
  bench.holdsWrites = true
  bench.end(order.attempt)
  bench.feed { $0.recoveryFinished(at: $1) }
  // Nobody may hear of an end that may still be lost.
  #expect(bench.take().demands.isEmpty)
  bench.holdsWrites = false
  bench.release()
  #expect(bench.take().demands.count == 1)
  #expect(bench.record("1").outcome == .succeeded)
}

/// A scheduler that has read one record and not the last: news of that build come in between.
private func benchThatReads(_ stored: StoredBuild) -> Bench {
  var bench = Bench()
  bench.store[stored.record.id] = stored
  bench.scheduler = Scheduler(owner: "two")
  _ = bench.take()
  bench.feed { $0.recovered(stored, at: $1) }
  return bench
}

/// The same, behind the end of a build whose notification is being sent.
private func benchThatSendsWhileItReads() throws -> (Bench, RunOrder) {
  var bench = Bench()
  _ = bench.submit("1", pipeline(job("a"), notify: [Pipeline.Notification(uses: "webhook")]))
  let granted = bench.grant()
  let order = try #require(granted)
  bench = benchThatReads(try #require(bench.store["1"]))
  bench.end(order.attempt)
  let sent = bench.grant()
  return (bench, try #require(sent))
}

@Test func aNotificationThatIsBeingSentWhenTheLastRecordIsReadGoesOutOnce() throws {
  var (bench, sending) = try benchThatSendsWhileItReads()
  bench.feed { $0.recoveryFinished(at: $1) }
  #expect(bench.grant() == nil)
  #expect(bench.scheduler.heldLeases == 1)
  bench.end(sending.attempt)
  #expect(bench.record("1").notifications[0].state == .delivered)
  #expect(bench.scheduler.heldLeases == 0)
}

/// Whose rest is not committed when the last record is read.
@Test func aJobThatIsToRestWhenTheLastRecordIsReadRests() throws {
  var bench = Bench()
  _ = bench.submit("1", pipeline(job("a", retry: Pipeline.Retry())))
  for lease in ["l1", "l2"] {
    _ = bench.grant()
    if lease == "l1" {
      bench.feed { $0.leaseLost(LeaseID(lease), .executorGone, message: "gone", at: $1) }
    }
  }
  bench = benchThatReads(try #require(bench.store["1"]))
  bench.holdsWrites = true
  // The second time in a row: now it rests.
  bench.feed { $0.leaseLost("l2", .executorGone, message: "gone", at: $1) }
  bench.feed { $0.recoveryFinished(at: $1) }
  bench.holdsWrites = false
  bench.release()
  #expect(bench.record("1").jobs[0].state == .queued)
  #expect(bench.grant() == nil)
  bench.advance(.seconds(300))
  let again = bench.grant()
  #expect(again?.number == 3)
}

@Test func anIDThatIsAnotherProjectsIsRefused() {
  var bench = Bench()
  _ = bench.submit("1", project: "p", pipeline(job("a")))
  let waiter = bench.submit("1", project: "q", pipeline(job("a")))
  guard case .alreadyExists(let why)? = bench.take().answers[waiter] else {
    Issue.record("it is not refused")
    return
  }
  #expect(why.contains("is another project's"))
}

@Test func whatRestsWhenTheLastRecordIsReadRestsOn() throws {
  var (bench, sending) = try benchThatSendsWhileItReads()
  bench.end(sending.attempt, .failed, message: "no answer")
  bench.feed { $0.recoveryFinished(at: $1) }
  #expect(bench.grant() == nil)
  bench.advance(.seconds(300))
  let again = bench.grant()
  #expect(again?.number == 2)
}

/// Other schedulers' demands stand beside ours at the allocator, which knows their ranks only.
@Test
func aDemandIsToldAnewWhenItsProjectHoldsLess() {
  var policy = Policy()
  policy.maximumOpenDemands = 1
  var bench = Bench(policy: policy)
  func pass() {
    bench.now = bench.now + bench.scheduler.policy.rankInterval
    bench.feed { $0.auditDue(at: $1) }
  }
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2", "3"])))
  let running = [bench.grant(), bench.grant()].compactMap { $0?.attempt }
  let before = bench.take().demands.last
  #expect(running.count == 2 && (before?.rank ?? 0) > 0)
  // As long as nothing changes nothing is said.
  for _ in 0..<3 { pass() }
  #expect(bench.take().demands == [])
  for attempt in running { bench.end(attempt) }
  #expect(bench.take().demands == [])
  for _ in 0..<2 { pass() }
  let after = bench.take().demands
  #expect(after.map(\.id) == [before?.id] && after.map(\.rank) == [0])
}

/// One urgent job makes one demand urgent, and none when it is gone.
@Test
func asManyDemandsAreUrgentAsWorkIs() {
  var policy = Policy()
  policy.maximumOpenDemands = 4
  var bench = Bench(policy: policy)
  var ranks: [DemandID: Int64] = [:]
  func look() -> [Int64] {
    for _ in 0..<2 {
      bench.now = bench.now + bench.scheduler.policy.rankInterval
      bench.feed { $0.auditDue(at: $1) }
    }
    for effect in bench.take() {
      switch effect {
      case .demand(let demand): ranks[demand.id] = demand.rank
      case .withdraw(let id): ranks[id] = nil
      default: break
      }
    }
    return ranks.values.sorted()
  }
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2", "3", "4"])))
  let plain = look()
  #expect(plain.count == 4 && plain[0] == 0)
  #expect(plain == plain.indices.map { plain[1] * Int64($0) })
  // Of a project that the others' leases do not count for.
  _ = bench.submit("u", project: "q", priority: 5, pipeline(job("a", legs: ["1", "2"])))
  let urgent = -5 << 32 as Int64
  #expect(look() == [urgent, urgent + plain[1], 0, plain[1]])
  _ = bench.cancel("u")
  #expect(look() == plain)
}

// MARK: Many shapes

private var fewDemands: Policy {
  var policy = Policy()
  policy.maximumOpenDemands = 8
  policy.maximumOpenDemandsOfAll = 20
  return policy
}

/// The allocator takes no more than so many demands, and each line gets a turn.
@Test
func moreShapesThanDemandsMayBeOpenTakeTurns() {
  var bench = Bench(policy: fewDemands)
  var most = 0
  for number in 1...60 {
    _ = bench.submit(
      BuildID("b\(number)"), pipeline(job("a", legs: ["1", "2"], cpu: "\(number)")))
    most = max(most, bench.scheduler.openDemands)
  }
  #expect(most == 20)
  var asked: Set<Int64> = []
  for _ in 0..<60 {
    asked.formUnion(bench.take().demands.map(\.shape.resources.cpuMillis))
    bench.now = bench.now + fewDemands.rankInterval
    bench.feed { $0.auditDue(at: $1) }
    #expect(bench.scheduler.openDemands == 20)
  }
  // Nothing was granted all the while: what cannot be placed keeps nobody out.
  #expect(asked.count == 60)
}

@Test
func fewerShapesHaveMoreDemandsAgain() {
  var bench = Bench(policy: fewDemands)
  let legs = (1...10).map(String.init)
  for number in 1...30 {
    _ = bench.submit(BuildID("b\(number)"), pipeline(job("a", legs: legs, cpu: "\(number)")))
  }
  for number in 2...30 { _ = bench.cancel(BuildID("b\(number)")) }
  for _ in 0..<4 {
    bench.now = bench.now + fewDemands.rankInterval
    bench.feed { $0.auditDue(at: $1) }
  }
  #expect(bench.scheduler.openDemands == 8)
}
