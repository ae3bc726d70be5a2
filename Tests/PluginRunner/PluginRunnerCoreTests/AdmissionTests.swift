import Domain
import Testing

@testable import PluginRunnerCore

@Suite struct AdmissionTests {
  @Test func anAcceptedJobHoldsItsShareAndPreparesAWorkspace() throws {
    var world = World()
    let effects = try world.offer(job([script("make")]))
    #expect(effects == [.publish("b/j/1"), .prepareWorkspace("b/j/1")])
    #expect(world.runner.held.cpuMillis == 1_000)
    #expect(world.runner.heldLeases.map(\.lease) == ["lease-1"])
    #expect(world.runner.brokenInvariants == [])
  }

  @Test func aJobThatDoesNotFitIsRefusedWithWhatIsFree() throws {
    var world = World()
    _ = try world.offer(job([], cpu: 1_500))
    let second = job([], attempt: "b/k/1", lease: "lease-2", cpu: 600)
    let refusal = #expect(throws: Refusal.self) { _ = try world.offer(second) }
    #expect(refusal == .noRoom(asked: second.resources, free: world.runner.free))
    #expect("\(try #require(refusal))".contains("free are 500 mCPU"))
  }

  @Test func slotsAreAShareToo() throws {
    var world = World()
    _ = try world.offer(job([], cpu: 1))
    _ = try world.offer(job([], attempt: "b/k/1", lease: "lease-2", cpu: 1))
    #expect(throws: Refusal.self) {
      _ = try world.offer(job([], attempt: "b/l/1", lease: "lease-3", cpu: 1))
    }
  }

  @Test func theSameAttemptAgainIsTheSameJob() throws {
    var world = World()
    _ = try world.offer(job([script("make")]))
    #expect(try world.offer(job([script("make")])) == [])
    #expect(world.runner.heldJobs.count == 1)
  }

  @Test(arguments: [6, 7] as [Int64])
  func aTokenThatIsNotNewerIsRefused(token: Int64) throws {
    var world = World()
    _ = try world.offer(job([]))
    let refusal = #expect(throws: Refusal.self) {
      _ = try world.offer(job([], attempt: "b/j/2", token: token))
    }
    #expect(
      refusal == .staleToken("lease-1", offered: FencingToken(token), seen: FencingToken(7)))
  }

  /// A number that comes with what is refused may be anybody's: the allocator would refuse heartbeats with it.
  @Test func theLargestTokenOfWhatWasTakenIsKnown() throws {
    var world = World()
    #expect(world.runner.newestToken == FencingToken(0))
    _ = try world.offer(job([], token: 7))
    #expect(throws: Refusal.self) {
      _ = try world.offer(job([], attempt: "b/k/1", lease: "lease-2", token: 9, cpu: .max))
    }
    _ = try? world.offer(job([], attempt: "b/l/1", lease: "lease-3", token: 8))
    #expect(world.runner.newestToken == FencingToken(8))
  }

  @Test func aStaleHolderDoesNotAttachToANewersJob() throws {
    var world = World()
    _ = try world.offer(job([], token: 7))
    #expect(throws: Refusal.self) { _ = try world.offer(job([], token: 6)) }
  }

  @Test func tokensAreRememberedAfterTheJobIsForgotten() throws {
    var policy = Policy()
    policy.maximumFinishedAttempts = 0
    var world = World(policy: policy)
    _ = try world.offer(job([]))
    _ = world.send(.workspacePrepared(logBytes: 0))
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.runner.job("b/j/1") == nil)
    #expect(throws: Refusal.self) { _ = try world.offer(job([])) }
  }

  @Test func aLeaseGoesFromOneAttemptToTheNext() throws {
    var world = World()
    _ = try world.offer(job([]))
    var next = job([], attempt: "b/k/1")
    next.leaseUse = 1
    let early = #expect(throws: Refusal.self) { _ = try world.offer(next) }
    #expect(early == .leaseInUse("lease-1", by: "b/j/1"))
    #expect(!world.runner.isReusable("lease-1", after: "b/j/1"))

    world.finish("b/j/1")
    #expect(world.runner.isReusable("lease-1", after: "b/j/1"))
    // As whoever has the attempt under another lease asks.
    #expect(!world.runner.isReusable("lease-2", after: "b/j/1"))
    _ = try world.offer(next)
    #expect(world.runner.heldLeases.map(\.attempt) == ["b/k/1"])
    #expect(!world.runner.isReusable("lease-1", after: "b/j/1"))

    world.finish("b/k/1")
    // Whoever offers the same use for another attempt does not know of this one.
    next.attempt = "b/l/1"
    let stale = #expect(throws: Refusal.self) { _ = try world.offer(next) }
    #expect(stale == .staleUse("lease-1", offered: 1, seen: 1))
    #expect(world.runner.isReusable("lease-1", after: "b/k/1"))
    world.runner.drainBegan()
    #expect(!world.runner.isReusable("lease-1", after: "b/k/1"))
  }

  @Test func aLeaseThatIsOverGoesToNobody() throws {
    var world = World()
    var next = job([], attempt: "b/k/1")
    next.leaseUse = 1
    // The process before this one had it.
    #expect(throws: Refusal.leaseOver("lease-1")) { _ = try world.offer(next) }
    _ = try world.offer(job([]))
    world.finish("b/j/1")
    _ = world.runner.heartbeatAnswered(stopping: ["lease-1"], at: world.now)
    #expect(!world.runner.isReusable("lease-1", after: "b/j/1"))
    #expect(throws: Refusal.leaseOver("lease-1")) { _ = try world.offer(next) }
  }

  /// Its next job would fare no better there.
  @Test func aLeaseOfWhatItsRunnerCouldNotDoIsNotReusable() throws {
    var world = World()
    _ = try world.offer(job([StepSpec(action: .uses("docker-push"))]))
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.end?.outcome == .rejected)
    #expect(!world.runner.isReusable("lease-1", after: "b/j/1"))
  }

  @Test func aDrainingRunnerTakesNothingButStillAttaches() throws {
    var world = World()
    _ = try world.offer(job([]))
    world.runner.drainBegan()
    #expect(try world.offer(job([])) == [])
    let refusal = #expect(throws: Refusal.self) {
      _ = try world.offer(job([], attempt: "b/k/1", lease: "lease-2"))
    }
    #expect(refusal == .draining("executor-1"))
  }

  @Test func anUnknownPluginRejectsTheAttemptWithTheKnownOnes() throws {
    var world = World()
    let effects = try world.offer(job([StepSpec(action: .uses("docker-push"))]))
    #expect(effects == [.publish("b/j/1"), .wrapUp("b/j/1")])
    _ = world.send(.wrappedUp(logBytes: 0, problem: nil))
    #expect(world.end?.outcome == .rejected)
    #expect(
      world.end?.message
        == "unknown plugin \"docker-push\": executor executor-1 has artifacts, checkout")
  }

  @Test func moreStepsThanAllowedAreRefused() throws {
    var world = World()
    let many = Array(repeating: script("true"), count: world.runner.policy.maximumSteps + 1)
    #expect(throws: Refusal.self) { _ = try world.offer(job(many)) }
  }

  @Test func finishedAttemptsAreKeptForTheirTimeAndInTheirNumber() throws {
    var policy = Policy()
    policy.maximumFinishedAttempts = 2
    var world = World(policy: policy)
    for number in 1...3 {
      let attempt = AttemptID("b/j/\(number)")
      _ = try world.offer(job([], attempt: attempt, lease: LeaseID("lease-\(number)")))
      _ = world.send(.workspacePrepared(logBytes: 0), to: attempt)
      _ = world.send(.wrappedUp(logBytes: 0, problem: nil), to: attempt)
    }
    #expect(world.runner.heldJobs.map(\.attempt) == ["b/j/2", "b/j/3"])
    world.runner.forget(endedBefore: world.now + .seconds(1))
    #expect(world.runner.heldJobs == [])
    #expect(world.runner.brokenInvariants == [])
  }
}
