import Domain
import Testing

@testable import PluginRunnerCore

@Suite struct JobMachineTests {
  @Test func stepsRunInOrderAndTheJobSucceeds() throws {
    var world = World()
    _ = try world.offer(job([script("one"), script("two")]))
    #expect(world.send(.workspacePrepared(logBytes: 0)).started == [0])
    #expect(world.end(0, logEnd: 5).started == [1])
    #expect(world.end(1, logEnd: 9).contains(.wrapUp("b/j/1")))
    #expect(world.runner.isIdle == false)
    let effects = world.send(.wrappedUp(logBytes: 9, problem: nil))
    #expect(effects == [.publish("b/j/1"), .released("b/j/1")])
    #expect(world.end?.outcome == .succeeded)
    #expect(world.end?.logBytes == 9)
    #expect(world.steps.map { [$0.logStart, $0.logEnd] } == [[0, 5], [5, 9]])
    #expect(world.runner.isIdle)
    #expect(world.runner.held == .none)
    #expect(world.runner.brokenInvariants == [])
  }

  @Test func aFailedStepSkipsTheOnesThatNeedSuccess() throws {
    var world = World()
    let steps = [
      script("false", id: "a"), script("b"), script("c", if: "failure()"),
      script("d", if: "always()"),
    ]
    _ = try world.offer(job(steps))
    _ = world.send(.workspacePrepared(logBytes: 0))
    #expect(world.end(0, .exited(code: 3)).started == [2])
    #expect(world.end(2).started == [3])
    _ = world.end(3)
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.outcomes == [.failed, .skipped, .succeeded, .succeeded])
    #expect(world.end?.outcome == .failed)
    #expect(world.end?.message == "step \"a\" ended with exit code 3")
    #expect(world.steps[0].exitCode == 3)
  }

  @Test func continueOnErrorLetsTheJobSucceed() throws {
    var world = World()
    _ = try world.offer(job([script("false", continueOnError: true), script("b")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    #expect(world.end(0, .exited(code: 1)).started == [1])
    _ = world.end(1)
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.outcomes == [.failed, .succeeded])
    #expect(world.end?.outcome == .succeeded)
  }

  @Test(arguments: [
    (StepReport.Ending.exited(code: 2), Outcome.failed, Int32(2), Int32(0), "exit code 2"),
    (.signalled(11), .failed, -1, 11, "signal 11 (SIGSEGV)"),
    (.outOfMemory(limit: .mebibytes(512)), .outOfMemory, -1, 9, "more than its 512 MiB of memory"),
    (.answered(succeeded: false, message: "no such file"), .failed, 1, 0, "no such file"),
    (.givenUp("410"), .rejected, 1, 0, "410"),
    (.broken("the plugin crashed"), .failed, -1, 0, "the plugin crashed"),
  ])
  func everyWayToFailIsToldApart(
    ending: StepReport.Ending, outcome: Outcome, code: Int32, signal: Int32, message: String
  ) throws {
    var world = World()
    _ = try world.offer(job([script("x")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    _ = world.end(0, ending)
    #expect(world.steps[0].outcome == outcome)
    #expect(world.steps[0].exitCode == code)
    #expect(world.steps[0].signal == signal)
    #expect(world.steps[0].message.contains(message))
  }

  @Test func aStepTimeoutTerminatesThenKillsAndIsToldApart() throws {
    var world = World()
    _ = try world.offer(job([script("sleep", timeout: .seconds(3)), script("b")]))
    let begun = world.send(.workspacePrepared(logBytes: 0))
    #expect(begun.contains(.setTimer("b/j/1", .stepTimeout(index: 0), .seconds(3))))
    #expect(
      world.send(.timerFired(.stepTimeout(index: 0))) == [
        .terminateStep("b/j/1", index: 0),
        .setTimer("b/j/1", .stopGrace(index: 0), .seconds(5)),
      ])
    #expect(world.send(.timerFired(.stopGrace(index: 0))) == [.killStep("b/j/1", index: 0)])
    _ = world.end(0, .signalled(9))
    #expect(world.outcomes == [.timedOut, .skipped])
    #expect(world.steps[0].message == "step 1 ran longer than its 3 s")
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.end?.outcome == .timedOut)
  }

  @Test func timersOfAStepThatIsOverChangeNothing() throws {
    var world = World()
    _ = try world.offer(job([script("a", timeout: .seconds(3)), script("b")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    _ = world.end(0)
    #expect(world.send(.timerFired(.stepTimeout(index: 0))) == [])
    #expect(world.send(.timerFired(.stopGrace(index: 0))) == [])
    #expect(world.end(1).contains(.wrapUp("b/j/1")))
  }

  @Test func theJobTimeoutEndsTheStepAndTheJob() throws {
    var world = World()
    let offered = try world.offer(job([script("a"), script("b")], timeout: .seconds(60)))
    #expect(offered.contains(.setTimer("b/j/1", .jobTimeout, .seconds(60))))
    _ = world.send(.workspacePrepared(logBytes: 0))
    #expect(
      world.send(.timerFired(.jobTimeout)).contains(.terminateStep("b/j/1", index: 0)))
    #expect(world.end(0, .signalled(15)).contains(.wrapUp("b/j/1")))
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.end?.outcome == .timedOut)
    #expect(world.end?.message == "the job ran longer than its 1 min")
  }

  @Test func aCancelledJobRunsItsCleanupStepsForABoundedTime() throws {
    var world = World()
    _ = try world.offer(job([script("a"), script("b"), script("c", if: "always()")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    let order = StopOrder(outcome: .cancelled, reason: "by ann", allowsCleanup: true)
    let effects = world.send(.stopRequested(order))
    #expect(effects.contains(.terminateStep("b/j/1", index: 0)))
    #expect(effects.contains(.setTimer("b/j/1", .cleanupLimit, .seconds(30))))
    #expect(world.send(.stopRequested(order)) == [])
    #expect(world.end(0, .signalled(15)).started == [2])
    #expect(world.send(.timerFired(.cleanupLimit)) == [.killStep("b/j/1", index: 2)])
    #expect(world.end(2, .signalled(9)).contains(.wrapUp("b/j/1")))
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.outcomes == [.cancelled, .skipped, .cancelled])
    #expect(world.end?.outcome == .cancelled)
    #expect(world.end?.message == "by ann")
  }

  @Test func aLostLeaseStopsTheJobWithoutCleanup() throws {
    var world = World()
    _ = try world.offer(job([script("a"), script("b", if: "always()")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    let effects = world.runner.heartbeatAnswered(stopping: ["lease-1", "other"], at: world.now)
    #expect(effects.contains(.terminateStep("b/j/1", index: 0)))
    #expect(world.end(0, .signalled(15)).started == [])
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.end?.outcome == .preempted)
    #expect(world.runner.heldLeases == [])
  }

  @Test func aLostLeaseEndsTheCleanupOfACancelledJob() throws {
    var world = World()
    _ = try world.offer(job([script("a"), script("b", if: "always()")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    _ = world.send(
      .stopRequested(StopOrder(outcome: .cancelled, reason: "by ann", allowsCleanup: true)))
    #expect(world.end(0, .signalled(15)).started == [1])
    let effects = world.runner.heartbeatAnswered(stopping: ["lease-1"], at: world.now)
    #expect(effects.contains(.terminateStep("b/j/1", index: 1)))
  }

  @Test func aJobStoppedBeforeItsWorkspaceRunsNothing() throws {
    var world = World()
    _ = try world.offer(job([script("a")]))
    _ = world.send(
      .stopRequested(StopOrder(outcome: .cancelled, reason: "", allowsCleanup: true)))
    #expect(world.send(.workspacePrepared(logBytes: 0)).contains(.wrapUp("b/j/1")))
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.outcomes == [.skipped])
    #expect(world.end?.outcome == .cancelled)
  }

  @Test func aDiskWithoutRoomKillsTheStepAndFailsTheJobWithoutCleanup() throws {
    var world = World()
    _ = try world.offer(job([script("a"), script("b", if: "always()")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    #expect(world.send(.outOfRoom("no space left")) == [.killStep("b/j/1", index: 0)])
    #expect(world.end(0, .signalled(9)).contains(.wrapUp("b/j/1")))
    #expect(world.send(.outOfRoom("no space left")) == [])
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.outcomes == [.failed, .skipped])
    #expect(world.steps[0].message == "no space left")
    #expect(world.end?.outcome == .failed)
    #expect(world.end?.message == "no space left")
  }

  @Test func aDiskWithoutRoomEndsTheCleanupOfACancelledJob() throws {
    var world = World()
    _ = try world.offer(job([script("a"), script("b", if: "always()")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    _ = world.send(
      .stopRequested(StopOrder(outcome: .cancelled, reason: "by ann", allowsCleanup: true)))
    #expect(world.send(.outOfRoom("no space left")) == [.killStep("b/j/1", index: 0)])
    #expect(world.end(0, .signalled(9)).started == [])
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.end?.outcome == .cancelled)
    #expect(world.end?.message == "by ann")
  }

  @Test func aDiskWithoutRoomBeforeTheWorkspaceIsThereLetsNothingRun() throws {
    var world = World()
    _ = try world.offer(job([script("a", if: "always()")]))
    #expect(world.send(.outOfRoom("no space left")) == [])
    #expect(world.send(.workspacePrepared(logBytes: 0)).contains(.wrapUp("b/j/1")))
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.outcomes == [.skipped])
    #expect(world.end?.message == "no space left")
  }

  @Test func theDrainGracePreemptsWhatStillRuns() throws {
    var world = World()
    _ = try world.offer(job([script("a")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    world.runner.drainBegan()
    _ = world.runner.drainGraceEnded(at: world.now)
    _ = world.end(0, .signalled(15))
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.end?.outcome == .preempted)
    #expect(world.end?.message == "executor executor-1 was drained")
  }

  /// The job may run elsewhere: nothing is wrong with it.
  @Test func aWorkspaceThatCannotBeMadeEndsTheAttemptAsPreempted() throws {
    var world = World()
    _ = try world.offer(job([script("a")]))
    _ = world.send(.workspaceFailed("cannot create /data: no space left on device (ENOSPC)"))
    _ = world.send(.wrappedUp(logBytes: 0, problem: "the log could not be saved"))
    #expect(world.end?.outcome == .preempted)
    #expect(
      world.end?.message
        == "cannot create /data: no space left on device (ENOSPC); the log could not be saved")
  }

  @Test func eventsBehindASequenceNumberAreReadWithoutAGap() throws {
    var world = World()
    _ = try world.offer(job([script("a")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    _ = world.send(
      .artifactKept(
        Artifact(name: "x", path: "x", digest: Digest(hash: "00", size: 1), mode: 0o755)))
    _ = world.end(0)
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    let log = try #require(world.runner.job("b/j/1")?.log)
    #expect(log.events(after: 0).map(\.sequence) == [1, 2, 3, 4, 5])
    #expect(log.events(after: 3).map(\.sequence) == [4, 5])
    #expect(log.events(after: 99).isEmpty)
    #expect(log.events(after: -1).count == 5)
  }

  @Test func artifactsBeyondTheBoundAreNotKept() throws {
    var policy = Policy()
    policy.maximumArtifacts = 1
    var world = World(policy: policy)
    _ = try world.offer(job([script("a")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    let artifact = Artifact(
      name: "x", path: "x", digest: Digest(hash: "00", size: 1), mode: 0o644)
    #expect(world.send(.artifactKept(artifact)) == [.publish("b/j/1")])
    #expect(world.send(.artifactKept(artifact)) == [])
  }

  @Test func laterStepsSeeOutcomesAndOutputsOfEarlierOnes() throws {
    var world = World()
    let steps = [
      script("a", id: "one", continueOnError: true),
      script(
        "echo ${{ steps.one.outputs.answer }} ${{ env.WHO }} $HOME",
        if: "steps.one.outcome == 'failure' && steps.one.outputs.answer == '42'"),
      script("c", if: "steps.one.outcome == 'success'"),
    ]
    var spec = job(steps)
    spec.environment = ["WHO": "ann"]
    _ = try world.offer(spec)
    _ = world.send(.workspacePrepared(logBytes: 0))
    let effects = world.end(0, .exited(code: 1), outputs: ["answer": "42"])
    guard case .startStep(_, let call)? = effects.first else {
      Issue.record("the second step did not start: \(effects)")
      return
    }
    #expect(call.action == .run("echo 42 ann $HOME"))
    _ = world.end(1)
    #expect(world.outcomes == [.failed, .succeeded, .skipped])
  }

  @Test func aConditionThatCannotBeReadFailsItsStep() throws {
    var world = World()
    _ = try world.offer(job([script("a", if: "success(")]))
    let effects = world.send(.workspacePrepared(logBytes: 0))
    #expect(effects.contains(.wrapUp("b/j/1")))
    #expect(world.outcomes == [.failed])
    #expect(world.steps[0].message.contains("success("))
  }

  @Test func aFullWorkspaceIsNamedBesideTheExitCode() throws {
    var world = World()
    _ = try world.offer(job([script("a")]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    let remark = "the workspace /w is full: no space left on device (ENOSPC)"
    _ = world.send(
      .stepEnded(index: 0, StepReport(ending: .exited(code: 1), remark: remark)))
    #expect(world.steps[0].message == "step 1 ended with exit code 1; \(remark)")
  }
}
