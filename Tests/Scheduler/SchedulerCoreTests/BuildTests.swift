import Domain
import SchedulerCore
import Testing

@Test
func aSubmissionIsAnsweredOnlyWhenItIsCommitted() {
  var bench = Bench()
  bench.holdsWrites = true
  let waiter = bench.submit("b", pipeline(job("a")))
  #expect(bench.take().isEmpty)
  bench.release()
  let effects = bench.take()
  #expect(effects.answers[waiter]?.record?.state == .queued)
  #expect(effects.demands.count == 1)
}

@Test
func anAttemptStartsOnlyWhenItsRecordIsCommitted() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  bench.holdsWrites = true
  #expect(bench.grant() == nil)
  #expect(bench.heldWrites.map { $0.0.jobs[0].attempts.count } == [1])
  bench.release()
  let order = bench.take().runs.first
  #expect(order?.attempt == "b/a/1")
  #expect(order?.steps.map(\.action) == [.run("true")])
  #expect(order?.token == FencingToken(1))
}

@Test
func aBuildGoesThroughItsGraph() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a"), job("b", needs: ["a"]), job("c", needs: ["a", "b"])))
  #expect(bench.record("b").jobs.map(\.state) == [.queued, .blocked, .blocked])
  for key in ["a", "b", "c"] {
    let order = bench.grant()
    #expect(order?.attempt == AttemptID("b/\(key)/1"))
    bench.end(AttemptID("b/\(key)/1"))
  }
  let record = bench.record("b")
  #expect(record.state == .finished)
  #expect(record.outcome == .succeeded)
  #expect(record.startedAt != nil && record.finishedAt != nil)
  #expect(!record.isActive)
  #expect(bench.scheduler.buildCount == 0)
  #expect(bench.scheduler.heldLeases == 0)
}

@Test
func aFailureSkipsWhatNeedsItUnlessItsConditionSaysOtherwise() {
  var bench = Bench()
  _ = bench.submit(
    "b",
    pipeline(
      job("a"), job("next", needs: ["a"]), job("after", needs: ["next"]),
      job("clean", needs: ["a"], condition: "always()"),
      job("tell", needs: ["after"], condition: "failure() && needs.after.result == 'skipped'"),
      job("never", needs: ["a"], condition: "success()")))
  _ = bench.grant()
  bench.end("b/a/1", .failed, message: "step 1 failed")
  #expect(
    bench.record("b").jobs.map(\.state)
      == [.finished, .finished, .finished, .queued, .queued, .finished])
  for id in ["b/clean/1", "b/tell/1"] as [AttemptID] {
    _ = bench.grant()
    bench.end(id)
  }
  let record = bench.record("b")
  #expect(
    record.jobs.map(\.outcome)
      == [.failed, .skipped, .skipped, .succeeded, .succeeded, .skipped])
  #expect(record.outcome == .failed)
  #expect(record.message == "job a: step 1 failed")
  #expect(record.jobs[1].message == "job a came to failure")
}

@Test
func aBuildOfWhichNothingIsToRunIsFinishedAtOnce() {
  var bench = Bench()
  let waiter = bench.submit("b", pipeline(job("a", condition: "false")))
  let answer = bench.take().answers[waiter]
  #expect(answer?.record?.outcome == .succeeded)
  #expect(answer?.record?.jobs[0].outcome == .skipped)
  #expect(bench.scheduler.buildCount == 0)
}

@Test
func theFirstLegThatFailsEndsTheOthers() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2", "3"])))
  _ = bench.grant(executor: "e1")
  _ = bench.grant(executor: "e2")
  bench.end("b/a (1)/1", .failed)
  let record = bench.record("b")
  #expect(record.jobs.map(\.outcome) == [.failed, .cancelled, .cancelled])
  #expect(record.state == .finished)
  #expect(bench.take().stops == ["b/a (2)/1"])
  // The second leg's executor is not free yet: the build is still at hand.
  #expect(record.isActive)
  bench.end("b/a (2)/1", .cancelled)
  #expect(!bench.record("b").isActive)
  #expect(bench.scheduler.buildCount == 0)
}

@Test
func withoutFailFastEveryLegRuns() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2"], failFast: false)))
  _ = bench.grant()
  bench.end("b/a (1)/1", .failed)
  #expect(bench.record("b").state == .running)
  _ = bench.grant()
  bench.end("b/a (2)/1")
  #expect(bench.record("b").jobs.map(\.outcome) == [.failed, .succeeded])
}

@Test
func noMoreLegsRunThanTheStrategyAllows() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2", "3"], parallel: 2)))
  #expect(bench.record("b").jobs.map(\.state) == [.queued, .queued, .blocked])
  _ = bench.grant()
  #expect(bench.record("b").jobs.map(\.state) == [.running, .queued, .blocked])
  bench.end("b/a (1)/1")
  #expect(bench.record("b").jobs.map(\.state) == [.finished, .queued, .queued])
}

// MARK: Retries

@Test
func aPlainFailureIsTriedAgainOnlyAsThePipelineSays() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", retry: Pipeline.Retry(limit: 1))))
  _ = bench.grant()
  bench.end("b/a/1", .failed)
  #expect(bench.record("b").jobs[0].state == .queued)
  _ = bench.grant()
  bench.end("b/a/2", .failed)
  #expect(bench.record("b").outcome == .failed)
  #expect(bench.record("b").jobs[0].attempts.map(\.outcome) == [.failed, .failed])
  _ = bench.submit("c", pipeline(job("a", retry: Pipeline.Retry(limit: 1))))
  _ = bench.grant()
  bench.end("c/a/1", .timedOut)
  #expect(bench.record("c").outcome == .timedOut)
}

@Test
func aLostExecutorsJobRunsElsewhereWithinABound() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  for number in 1...4 {
    let order = bench.grant(executor: ExecutorID("e\(number)"))
    #expect(order?.number == Int32(number))
    let lease = order!.lease
    bench.feed { $0.leaseLost(lease, .executorGone, message: "silent for 5 s", at: $1) }
    bench.advance(.seconds(5))
    if number < 4 {
      let shape = bench.effects.demands.last?.shape
      #expect(shape?.avoid.count == number)
    }
  }
  let record = bench.record("b")
  #expect(record.outcome == .executorLost)
  #expect(record.jobs[0].attempts.map(\.outcome) == Array(repeating: .executorLost, count: 4))
  #expect(record.jobs[0].attempts[0].message == "silent for 5 s")
}

@Test
func anExpiredLeaseIsAskedOfTheRunner() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  let lease = bench.grant()!.lease
  bench.restart()
  // The job has ended while nobody listened, and its lease with it.
  bench.feed { $0.leaseLost(lease, .expired, message: "no longer held", at: $1) }
  #expect(bench.record("b").state == .running)
  bench.end("b/a/1")
  #expect(bench.record("b").outcome == .succeeded)
  #expect(bench.record("b").jobs[0].attempts.count == 1)
}

@Test(arguments: [false, true])
func theNextOfAGroupWaitsForWhatIsBeingStopped(restarts: Bool) {
  var bench = Bench()
  _ = bench.submit("b", grouped)
  _ = bench.grant()
  _ = bench.submit("c", grouped)
  _ = bench.cancel("b")
  #expect(bench.record("b").state == .finished)
  if restarts { bench.restart() }
  #expect(bench.grant() == nil)
  bench.feed { $0.streamEnded(.notFound, of: "b/a/1", at: $1) }
  #expect(bench.grant()?.build == "c")
}

@Test
func aRetryThatIsRefusedLeavesNoPlaceInItsGroup() {
  var bench = Bench()
  _ = bench.submit("b", grouped)
  _ = bench.grant()
  bench.end("b/a/1")
  let waiter = bench.retry("b")
  guard case .failedPrecondition = bench.take().answers[waiter] else {
    return #expect(Bool(false))
  }
  _ = bench.submit("c", grouped)
  #expect(bench.grant()?.build == "c")
}

@Test
func aRefusedRecordHoldsUpNoOtherBuild() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  bench.refuses = { $0.id == "b" ? "too large" : nil }
  let cancelled = bench.cancel("b")
  #expect(bench.take().answers[cancelled]?.isUnavailable == true)
  #expect(!bench.scheduler.isStoreSilent)
  let waiter = bench.submit("c", pipeline(job("a")))
  #expect(bench.take().answers[waiter]?.record != nil)
  // It is tried again, and goes through when the store takes it.
  bench.refuses = { _ in nil }
  bench.advance(.seconds(6))
  #expect(bench.record("b").outcome == .cancelled)
}

@Test
func aBuildWhoseRecordIsRefusedFailsAndGivesItsLeasesBack() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2"]), job("c", needs: ["a"])))
  _ = bench.grant()
  bench.refuses = { $0.state == .finished ? nil : "too large" }
  #expect(bench.grant() == nil)
  let record = bench.record("b")
  #expect(record.outcome == .failed)
  #expect(record.message == "its record cannot be stored: too large")
  #expect(record.jobs.map(\.outcome) == [.cancelled, .cancelled, .cancelled])
  let effects = bench.take()
  #expect(effects.stops == ["b/a (1)/1"] && effects.releases == ["l2"])
  // Nothing of it takes a lease again.
  bench.restart()
  #expect(bench.grant() == nil)
  bench.feed { $0.streamEnded(.notFound, of: "b/a (1)/1", at: $1) }
  #expect(bench.scheduler.buildCount == 0 && bench.scheduler.heldLeases == 0)
}

@Test(arguments: [0, 1])
func aFinishedRecordThatIsRefusedBecomesShorterUntilItFits(_ attempts: Int) {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a"), job("c", needs: ["a"], legs: ["1", "2"])))
  _ = bench.grant()
  bench.end("b/a/1")
  _ = bench.grant()
  bench.refuses = { record in
    record.jobs.reduce(0) { $0 + $1.attempts.count } > attempts ? "too large" : nil
  }
  let waiter = bench.cancel("b")
  #expect(bench.take().answers[waiter]?.record?.outcome == .cancelled)
  let record = bench.record("b")
  #expect(record.isShortened && record.outcome == .cancelled && record.message == "no")
  #expect(record.jobs.map(\.attempts.count) == [0, attempts, 0])
  bench.refuses = { _ in nil }
  bench.end("b/c (1)/1", .cancelled)
  #expect(bench.scheduler.heldLeases == 0 && bench.scheduler.buildCount == 0)
  let retry = bench.retry("b")
  guard case .failedPrecondition(let why) = bench.take().answers[retry] else {
    return #expect(Bool(false))
  }
  #expect(why.contains("for want of room"))
}

@Test
func anArtifactThatTheRecordHasNoRoomForFailsItsJob() {
  var policy = Policy()
  policy.maximumArtifactBytes = 400
  var bench = Bench(policy: policy)
  func keep(_ path: String, _ sequence: Int64, of attempt: AttemptID) {
    let artifact = Artifact(
      name: "out", path: path, digest: Digest(hash: String(repeating: "0", count: 64), size: 1),
      mode: 0o644)
    bench.feed {
      $0.received(
        RunnerEvent(sequence: sequence, time: $1, what: .artifact(artifact)), of: attempt, at: $1)
    }
  }
  _ = bench.submit("b", pipeline(job("a"), job("c", needs: ["a"])))
  _ = bench.grant()
  // The same file again takes no more.
  for sequence in 1...8 { keep("x", Int64(sequence), of: "b/a/1") }
  keep("y", 9, of: "b/a/1")
  bench.end("b/a/1", from: 10)
  #expect(bench.record("b").jobs[0].outcome == .succeeded)
  _ = bench.grant()
  keep("z", 1, of: "b/c/1")
  keep("z2", 2, of: "b/c/1")
  // What is attached again is told of again, and counts once.
  bench.restart(policy: policy)
  keep("z", 1, of: "b/c/1")
  keep("z2", 2, of: "b/c/1")
  bench.end("b/c/1", from: 3)
  let job = bench.record("b").jobs[1]
  #expect(job.outcome == .failed && job.message.hasPrefix("artifact \"z2\" was not kept"))
  #expect(job.attempts[0].artifacts.map(\.path) == ["z"])
}

@Test(arguments: [Int32.min, -1_001, 1_001, .max])
func noPriorityOfARecordEndsTheScheduler(_ priority: Int32) {
  var bench = Bench()
  _ = bench.submit("b", priority: priority, pipeline(job("a")))
  bench.restart()
  let rank = bench.take().demands.first?.rank ?? 0
  #expect(abs(rank) == 1_000 << 32)
  #expect((rank > 0) == (priority < 0))
}

@Test
func resourcesThatARecordMakesUpEndNoScheduler() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2", "3"])))
  for leg in 0..<3 {
    let most = Resources(cpuMillis: .max, memory: ByteCount(.max), slots: .max)
    bench.store["b"]?.record.jobs[leg].leg.resources = most
  }
  bench.restart()
  for _ in 0..<3 { #expect(bench.grant() != nil) }
}

@Test
func notificationsThatAreGivenUpAreCounted() {
  var bench = Bench()
  let wish = Pipeline.Notification(uses: "webhook")
  _ = bench.submit("b", pipeline(job("a"), notify: [wish, wish]))
  _ = bench.grant()
  bench.end("b/a/1")
  for number in 1...2 {
    _ = bench.grant()
    bench.end(AttemptID("b/b-0-\(number)/1"), .rejected)
  }
  #expect(bench.record("b").notifications.map(\.state) == [.dead, .dead])
  #expect(bench.scheduler.takeTally().deadNotifications == 2)
}

@Test
func anAttemptThatItsRunnerNoLongerKnowsIsLost() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  bench.feed {
    $0.received(RunnerEvent(sequence: 1, time: $1, what: .accepted), of: "b/a/1", at: $1)
  }
  bench.feed { $0.streamEnded(.unreachable("reset"), of: "b/a/1", at: $1) }
  _ = bench.take()
  bench.advance(.seconds(1))
  #expect(bench.take() == [.attach("b/a/1", address: "e1:1", after: 1)])
  bench.feed { $0.streamEnded(.notFound, of: "b/a/1", at: $1) }
  #expect(bench.record("b").jobs[0].attempts[0].outcome == .executorLost)
  #expect(bench.record("b").jobs[0].state == .queued)
}

@Test
func aRefusedAttemptIsNoLostExecutor() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  _ = bench.take()
  bench.feed { $0.streamEnded(.refused("no room"), of: "b/a/1", at: $1) }
  let attempt = bench.record("b").jobs[0].attempts[0]
  #expect(attempt.outcome == .preempted)
  #expect(attempt.message == "executor e1 refused it: no room")
  #expect(bench.take().releases == ["l1"])
}

@Test
func aJobThatIsRefusedAgainRestsLongerEachTime() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  for (number, rest) in [0, 100, 200, 400].enumerated() {
    _ = bench.grant()
    _ = bench.take()
    bench.feed { $0.streamEnded(.refused("no room"), of: AttemptID("b/a/\(number + 1)"), at: $1) }
    #expect(bench.record("b").jobs[0].state == .queued)
    if rest > 0 {
      #expect(bench.effects.demands.isEmpty)
      bench.advance(.milliseconds(rest - 1))
      #expect(bench.effects.demands.isEmpty)
      bench.advance(.milliseconds(1))
    }
    #expect(bench.effects.demands.count == 1)
  }
  // One that is cancelled meanwhile is not brought back.
  _ = bench.grant()
  bench.feed { $0.streamEnded(.refused("no room"), of: "b/a/5", at: $1) }
  _ = bench.take()
  _ = bench.cancel("b")
  bench.advance(.seconds(5))
  #expect(bench.effects.demands.isEmpty)
  #expect(bench.record("b").outcome == .cancelled)
}

@Test
func aRunnerThatNeverAnswersLosesTheAttemptToAnother() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  for _ in 1...4 {
    bench.feed { $0.streamEnded(.unreachable("refused"), of: "b/a/1", at: $1) }
    bench.advance(.seconds(5))
  }
  #expect(bench.record("b").jobs[0].attempts[0].outcome == .preempted)
  #expect(bench.take().stops == ["b/a/1"])
}

@Test
func repeatedAndLateEventsChangeNothing() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  let step = StepRecord(index: 0, name: "x", state: .running)
  for sequence in [1, 2, 2, 1, 4, 2] as [Int64] {
    bench.feed {
      $0.received(
        RunnerEvent(sequence: sequence, time: $1, what: sequence == 1 ? .accepted : .step(step)),
        of: "b/a/1", at: $1)
    }
  }
  #expect(bench.scheduler.shown("b")?.jobs[0].attempts[0].steps == [step])
  bench.end("b/a/1", .succeeded, from: 3)
  let version = bench.store["b"]?.version
  bench.end("b/a/1", .failed, from: 5)
  #expect(bench.store["b"]?.version == version)
  #expect(bench.record("b").outcome == .succeeded)
}

@Test
func anOverdueAttemptIsStoppedFromHere() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  bench.feed {
    $0.received(RunnerEvent(sequence: 1, time: $1, what: .accepted), of: "b/a/1", at: $1)
  }
  _ = bench.take()
  bench.advance(.seconds(3_600))
  #expect(bench.record("b").state == .running)
  bench.advance(.seconds(91))
  #expect(bench.record("b").outcome == .timedOut)
  #expect(bench.take().stops == ["b/a/1"])
}

// MARK: Cancel and retry

@Test
func cancellingIsFinalAtOnceAndProcessesAreStoppedBehindIt() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a"), job("b", needs: ["a"], condition: "always()")))
  _ = bench.grant()
  _ = bench.take()
  bench.holdsWrites = true
  let waiter = bench.cancel("b")
  #expect(bench.take().isEmpty)
  bench.release()
  let effects = bench.take()
  #expect(effects.answers[waiter]?.record?.outcome == .cancelled)
  #expect(effects.stops == ["b/a/1"])
  #expect(effects.attaches == ["b/a/1"])
  #expect(effects.releases.isEmpty)
  bench.holdsWrites = false
  bench.end("b/a/1", .cancelled)
  #expect(bench.take().releases == ["l1"])
  #expect(bench.scheduler.buildCount == 0)
}

@Test
func cancellingWhatWaitsWithdrawsItsDemand() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  let demand = bench.take().demands[0]
  _ = bench.cancel("b")
  #expect(bench.take().contains(.withdraw(demand.id)))
  bench.feed {
    $0.granted(
      Grant(
        lease: "late", demand: demand.id, executor: "e", address: "e:1", token: FencingToken(9)),
      at: $1)
  }
  #expect(bench.take() == [.release("late")])
}

@Test
func cancellingWhileTheAttemptIsBeingRecordedNeverStartsIt() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  bench.holdsWrites = true
  _ = bench.grant()
  _ = bench.cancel("b")
  bench.release()
  bench.release()
  let effects = bench.take()
  #expect(effects.runs.isEmpty)
  bench.release()
  #expect(bench.record("b").outcome == .cancelled)
  #expect(bench.scheduler.buildCount == 0)
}

@Test
func cancellingAFinishedBuildAnswersItAsItIs() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  bench.end("b/a/1")
  _ = bench.take()
  let waiter = bench.cancel("b")
  #expect(bench.take().answers[waiter]?.record?.outcome == .succeeded)
  let nobody = bench.cancel("nothing")
  #expect(bench.take().answers[nobody] == .notFound)
}

@Test
func retryRunsWhatDidNotSucceedAsFurtherAttempts() {
  var bench = Bench()
  _ = bench.submit(
    "b", pipeline(job("a"), job("bad", failFast: false), job("after", needs: ["a", "bad"])))
  _ = bench.grant()
  _ = bench.grant()
  bench.end("b/a/1")
  bench.end("b/bad/1", .failed)
  #expect(bench.record("b").outcome == .failed)
  _ = bench.take()
  let waiter = bench.retry("b")
  #expect(bench.take().answers[waiter]?.record?.state == .queued)
  #expect(bench.record("b").jobs.map(\.state) == [.finished, .queued, .blocked])
  bench.feed { scheduler, now in scheduler.acquireOpened(at: now) }
  #expect(bench.grant()?.attempt == "b/bad/2")
  bench.end("b/bad/2")
  #expect(bench.grant()?.attempt == "b/after/1")
  bench.end("b/after/1")
  #expect(bench.record("b").outcome == .succeeded)
  #expect(bench.record("b").round == 1)
}

@Test
func aRetryWaitsUntilTheCancelledAttemptIsGone() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  _ = bench.cancel("b")
  let waiter = bench.retry("b")
  #expect(bench.take().answers[waiter]?.record?.state == .queued)
  // The first attempt's processes may still be there.
  #expect(bench.record("b").jobs[0].state == .blocked)
  #expect(
    bench.scheduler.shown("b")?.jobs[0].waitingFor == "attempt 1 on executor e1 to be stopped")
  bench.end("b/a/1", .cancelled)
  #expect(bench.record("b").jobs[0].state == .queued)
  #expect(bench.grant()?.attempt == "b/a/2")
  bench.end("b/a/2")
  #expect(bench.record("b").outcome == .succeeded)
}

@Test
func theSameKeyForAnotherBuildIsRefused() {
  var bench = Bench()
  let one = [UInt8](repeating: 1, count: 32)
  // They differ in the last bit that counts.
  let two = Array(repeating: 1, count: 12) + [0x11 as UInt8]
  _ = bench.submit("b", pipeline(job("a")), fingerprint: Fingerprint(hash: one))
  let same = bench.submit("b", pipeline(job("a")), fingerprint: Fingerprint(hash: one))
  let other = bench.submit("b", pipeline(job("x")), fingerprint: Fingerprint(hash: two))
  let answers = bench.take().answers
  #expect(answers[same]?.record?.id == "b")
  guard case .alreadyExists(let why) = answers[other] else {
    Issue.record("the other was answered \(String(describing: answers[other]))")
    return
  }
  #expect(why.contains("build b"))
}

@Test
func retryOfWhatCannotBeRetriedSaysWhy() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.take()
  let early = bench.retry("b")
  #expect(bench.take().answers[early] == .failedPrecondition("build b is not finished"))
  _ = bench.retry("b")
  bench.feed { scheduler, now in scheduler.acquireOpened(at: now) }
  _ = bench.grant()
  bench.end("b/a/1")
  _ = bench.take()
  let good = bench.retry("b")
  #expect(bench.take().answers[good] == .failedPrecondition("every job of build b succeeded"))
  let unknown = bench.retry("b", ["x"])
  #expect(bench.take().answers[unknown] == .invalid("build b has no job \"x\""))
  #expect(bench.scheduler.buildCount == 0)
  let named = bench.retry("b", ["a"])
  #expect(bench.take().answers[named]?.record?.state == .queued)
}

@Test
func aRetryOfNamedJobsTakesAllThatDependsOnThem() {
  var bench = Bench()
  _ = bench.submit(
    "b",
    pipeline(job("a"), job("b", needs: ["a"], legs: ["1", "2"]), job("c", needs: ["b"])))
  while let order = bench.grant() { bench.end(order.attempt) }
  #expect(bench.record("b").outcome == .succeeded)
  // One leg is named beside what all legs depend on.
  _ = bench.retry("b", ["a", bench.record("b").jobs[1].id])
  while let order = bench.grant() { bench.end(order.attempt) }
  #expect(bench.record("b").jobs.map(\.attempts.count) == [2, 2, 2, 2])
}

@Test
func aRetryThatNamesAJobAgainAndAgainIsNoDearer() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a", legs: (0..<200).map(String.init))))
  _ = bench.cancel("b")
  let last = bench.record("b").jobs[199].id
  let began = ContinuousClock.now
  _ = bench.retry("b", Array(repeating: last, count: 100_000))
  #expect(began.duration(to: .now) < .seconds(10))
  #expect(bench.record("b").jobs[199].state == .queued)
}

// MARK: Notifications

@Test
func theCommitThatEndsABuildHoldsItsNotifications() {
  var bench = Bench()
  let notify = [
    Pipeline.Notification(uses: "webhook", inputs: ["url": "x"]),
    Pipeline.Notification(uses: "mail", onFailure: false),
    Pipeline.Notification(uses: "pager", onSuccess: false),
  ]
  _ = bench.submit("b", pipeline(job("a"), notify: notify))
  _ = bench.grant()
  bench.end("b/a/1")
  #expect(bench.record("b").state == .finished)
  #expect(bench.record("b").notifications.map(\.id) == ["b-0-1", "b-0-2"])
  #expect(bench.record("b").isActive)
  let order = bench.grant()
  #expect(order?.steps.map(\.action) == [.uses("webhook")])
  #expect(order?.steps[0].inputs == ["url": "x"])
  #expect(order?.subject?.outcome == .succeeded)
  bench.end(order!.attempt)
  let second = bench.grant()
  bench.end(second!.attempt)
  #expect(bench.record("b").notifications.map(\.state) == [.delivered, .delivered])
  #expect(bench.scheduler.buildCount == 0)
}

@Test
func aNotificationIsTriedAgainWithGrowingDelaysAndThenDead() {
  var bench = Bench()
  _ = bench.submit(
    "b", pipeline(job("a"), notify: [Pipeline.Notification(uses: "webhook")]))
  _ = bench.grant()
  bench.end("b/a/1")
  for attempt in 1...15 {
    let order = bench.grant()
    #expect(order?.number == Int32(attempt))
    bench.end(order!.attempt, .failed, message: "no answer")
    #expect(bench.grant() == nil)
    bench.advance(.seconds(300))
  }
  #expect(bench.record("b").notifications[0].state == .dead)
  #expect(bench.record("b").notifications[0].message == "no answer")
  #expect(bench.scheduler.buildCount == 0)
}

@Test
func anUnknownPluginOfANotificationIsDeadAtOnce() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a"), notify: [Pipeline.Notification(uses: "webhok")]))
  _ = bench.grant()
  bench.end("b/a/1")
  let order = bench.grant()
  bench.end(order!.attempt, .rejected, message: "unknown plugin")
  #expect(bench.record("b").notifications[0].state == .dead)
}

// MARK: Memory and waiting

@Test
func whatRanOutOfMemoryIsTriedAgainWithMore() {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  let first = ByteCount.gibibytes(1)
  for number in 1...2 {
    let order = bench.grant()
    _ = bench.take()
    #expect(order?.resources.memory.bytes == first.bytes << Int64(number - 1))
    bench.end(AttemptID("b/a/\(number)"), .outOfMemory)
    #expect(bench.record("b").jobs[0].state == .queued)
  }
  // A scheduler that starts anew asks for as much.
  bench.restart()
  #expect(bench.effects.demands.map(\.shape.resources.memory.bytes) == [first.bytes << 2])
  _ = bench.grant()
  bench.end("b/a/3", .outOfMemory)
  #expect(bench.record("b").outcome == .outOfMemory)
  #expect(
    bench.record("b").jobs[0].attempts.map(\.outcome) == [.outOfMemory, .outOfMemory, .outOfMemory])
}

@Test
func memoryThatNoExecutorHasEndsTheJobAsOutOfMemory() throws {
  var bench = Bench()
  _ = bench.submit("b", pipeline(job("a")))
  _ = bench.grant()
  _ = bench.take()
  bench.end("b/a/1", .outOfMemory)
  let demand = try #require(bench.take().demands.first)
  bench.feed { $0.unsatisfiable(demand.id, reason: "needs 2 GiB", at: $1) }
  let job = bench.record("b").jobs[0]
  #expect(job.outcome == .outOfMemory && job.message.contains("needs 2 GiB"))
}

@Test
func whatWaitsTooLongEndsWithTheReason() {
  var policy = Policy()
  policy.queueTimeout = .seconds(60)
  var bench = Bench(policy: policy)
  _ = bench.submit("b", pipeline(job("a")))
  bench.advance(.seconds(30))
  _ = bench.submit("late", pipeline(job("a")))
  bench.advance(.seconds(29))
  #expect(bench.record("b").state == .queued)
  #expect(bench.scheduler.nextWake() == bench.now + .seconds(1))
  bench.advance(.seconds(1))
  #expect(bench.record("b").outcome == .timedOut)
  #expect(
    bench.record("b").jobs[0].message.hasPrefix("it waited for an executor for more than 60 s"))
  #expect(bench.record("late").state == .queued && bench.scheduler.queueDepth == 1)
}

@Test
func noSchedulerChangesHowLongAJobMayWait() {
  var policy = Policy()
  policy.queueTimeout = .seconds(60)
  var bench = Bench(policy: policy)
  _ = bench.submit("b", pipeline(job("a"), job("c", needs: ["a"])))
  bench.advance(.seconds(50))
  bench.restart(policy: policy)
  #expect(bench.scheduler.nextWake() == bench.now + .seconds(10))
  // What was needed ended later: since then.
  if let order = bench.grant() { bench.end(order.attempt) }
  bench.advance(.seconds(40))
  bench.restart(policy: policy)
  bench.advance(.seconds(19))
  #expect(bench.record("b").state == .running)
  bench.advance(.seconds(1))
  #expect(bench.record("b").outcome == .timedOut)
}

@Test
func tenThousandBeyondTheBoundHarmNoneThatIsAccepted() {
  var policy = Policy()
  policy.maximumQueuedJobs = 1_000
  var bench = Bench(policy: policy)
  bench.checksInvariants = false
  var waiters: [Waiter] = []
  for number in 0..<11_000 {
    waiters.append(bench.submit(BuildID("b\(number)"), pipeline(job("a"))))
  }
  let answers = bench.take().answers
  #expect(waiters.prefix(1_000).allSatisfy { answers[$0]?.record != nil })
  #expect(
    waiters.dropFirst(1_000).allSatisfy {
      if case .exhausted(_, retryAfter: .seconds(5)) = answers[$0] { true } else { false }
    })
  #expect(bench.store.count == 1_000 && bench.scheduler.queueDepth == 1_000)
  #expect(bench.scheduler.violations() == [])
}

@Test
func aProjectOfTwiceTheWeightGetsTwiceAsMuch() {
  var policy = Policy()
  policy.weights["heavy"] = 2
  var bench = Bench(policy: policy)
  let legs = (1...30).map(String.init)
  _ = bench.submit("light", project: "light", pipeline(job("a", legs: legs)))
  _ = bench.submit("heavy", project: "heavy", pipeline(job("a", legs: legs)))
  for _ in 0..<30 { _ = bench.grant() }
  func running(_ build: BuildID) -> Int { bench.record(build).jobs.count { $0.state == .running } }
  #expect((19...21).contains(running("heavy")) && running("light") == 30 - running("heavy"))
}
