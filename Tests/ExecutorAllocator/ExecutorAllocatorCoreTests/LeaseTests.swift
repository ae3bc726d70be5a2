import Domain
import ExecutorAllocatorCore
import Testing

@Suite struct LeaseTests {
  @Test func theLossOfALeaseIsToldToWhoeverWasGrantedIt() {
    var allocator = Allocator()
    let lease = allocator.grant("a")
    let ended = lease.ended(.executorLost, "executor e1 was silent for 5.2 s")
    #expect(
      allocator.handle(.swept(ended: [ended], pools: [])) == [.send(Allocator.one, .lost(ended))])
    // Once.
    #expect(allocator.handle(.swept(ended: [ended], pools: [])).isEmpty)
    #expect(allocator.state.watches.isEmpty)
  }

  @Test func aReleasedLeaseIsNotLost() {
    var allocator = Allocator()
    let lease = allocator.grant("a")
    allocator.handle(.released([lease.id], pools: [.standard]))
    #expect(allocator.handle(.swept(ended: [lease.ended(.expired)], pools: [])).isEmpty)
    #expect(allocator.state.watches.isEmpty)
  }

  @Test func aRestartedExecutorsLeasesAreLostAtItsFirstHeartbeat() {
    var allocator = Allocator()
    let lease = allocator.grant("a")
    let heartbeat = Heartbeat(
      executor: "e1", incarnation: "second", address: "a:1", capacity: .machine)
    let ended = lease.ended(.executorRestarted)
    let record = HeartbeatRecord.recorded(.init(ended: [ended], madeRoom: true))
    #expect(
      allocator.handle(.heartbeatRecorded(heartbeat, record)) == [
        .send(Allocator.one, .lost(ended))
      ])
  }

  @Test func leasesThatAnotherReplicaEndedAreFoundByTheCheck() {
    var allocator = Allocator()
    let lost = allocator.grant("a")
    let held = allocator.grant("b")
    let released = allocator.grant("c")
    let effects = allocator.pass(.seconds(1))
    #expect(effects.contains(.check([lost.held, held.held, released.held])))
    let standings: [LeaseStanding] = [
      .ended(.executorLost, message: "silent"), .held, .ended(.released, message: "given back"),
    ]
    // Whoever gave the third one back knows.
    #expect(
      allocator.handle(.checked(standings)) == [
        .send(Allocator.one, .lost(lost.ended(.executorLost, "silent")))
      ])
    #expect(Array(allocator.state.watches.keys) == [held.id])
  }

  @Test func aClaimedLeaseIsLookedUpAtOnceAndAnsweredOnlyIfItIsOver() {
    var allocator = Allocator()
    let held = HeldByScheduler(lease: "lease-7", request: "a", executor: "e1")
    #expect(allocator.handle(.claimed(Allocator.one, held)) == [.check([held])])
    #expect(allocator.handle(.checked([.held])).isEmpty)
    // From now on it is watched like one that was granted on this stream.
    let ended = EndedLease(
      id: "lease-7", request: "the runner's word", executor: "e1", cause: .expired, message: "why")
    var told = ended
    told.request = "a"
    #expect(
      allocator.handle(.swept(ended: [ended], pools: [])) == [.send(Allocator.one, .lost(told))])
  }

  @Test func aClaimedLeaseThatWasReleasedIsTold() {
    var allocator = Allocator()
    let held = HeldByScheduler(lease: "lease-7", request: "a", executor: "e1")
    allocator.handle(.claimed(Allocator.one, held))
    let effects = allocator.handle(.checked([.ended(.released, message: "given back")]))
    #expect(
      effects.sent == [
        .lost(
          EndedLease(
            id: "lease-7", request: "a", executor: "e1", cause: .released, message: "given back"))
      ])
  }

  @Test func aYoungTableDeclaresNothingLost() {
    var allocator = Allocator()
    let held = HeldByScheduler(lease: "lease-7", request: "a", executor: "e1")
    allocator.handle(.claimed(Allocator.one, held))
    #expect(allocator.handle(.checked([.unknownYet])).isEmpty)
    #expect(allocator.pass(.seconds(1)).contains(.check([held])))
    let effects = allocator.handle(.checked([.ended(.executorLost, message: "not known")]))
    #expect(effects.sent.count == 1)
  }

  @Test func manyClaimsAreLookedUpInBatches() {
    var policy = Policy()
    policy.checkBatch = 2
    var allocator = Allocator(policy: policy)
    var sizes: [Int] = []
    var effects: [Effect] = []
    for number in 0..<5 {
      let held = HeldByScheduler(lease: LeaseID("l\(number)"), request: "a", executor: "e")
      effects += allocator.handle(.claimed(Allocator.one, held))
    }
    while case .check(let leases)? = effects.first {
      sizes.append(leases.count)
      effects = allocator.handle(.checked(leases.map { _ in .held }))
    }
    #expect(sizes == [1, 2, 2])
  }

  @Test func aLeaseThatAnotherStreamClaimsIsItsFromThenOn() {
    var allocator = Allocator()
    let lease = allocator.grant("a")
    allocator.handle(.streamOpened(Allocator.two))
    allocator.handle(.claimed(Allocator.two, lease.held))
    // The end of the old stream takes nothing away from the new one.
    allocator.handle(.streamClosed(Allocator.one))
    let ended = lease.ended(.expired)
    #expect(
      allocator.handle(.swept(ended: [ended], pools: [])) == [.send(Allocator.two, .lost(ended))])
  }

  @Test func watchedLeasesHaveABound() {
    var policy = Policy()
    policy.maximumWatchedLeases = 1
    var allocator = Allocator(policy: policy)
    _ = allocator.grant("a")
    let held = HeldByScheduler(lease: "other", request: "b", executor: "e1")
    #expect(
      allocator.handle(.claimed(Allocator.one, held)) == [
        .end(Allocator.one, .tooManyLeases(limit: 1))
      ])
  }

  @Test func leasesHaveTheirTurnsSpreadOverARound() {
    var allocator = Allocator()
    let held = (0..<10).map {
      HeldByScheduler(lease: LeaseID("l\($0)"), request: "a", executor: "e")
    }
    allocator.pass(.seconds(1))
    for one in held {
      if !allocator.handle(.claimed(Allocator.one, one)).isEmpty {
        allocator.handle(.checked([.held]))
      }
    }
    for _ in 0..<2 {
      var checked: [HeldByScheduler] = []
      for _ in 0..<4 {
        for case .check(let leases) in allocator.pass(.milliseconds(250)) {
          #expect(leases.count <= 3)
          checked += leases
          allocator.handle(.checked(leases.map { _ in .held }))
        }
      }
      #expect(Set(checked) == Set(held))
    }
  }

  @Test func claimsThatAreMadeAgainAndAgainWhileTheTableIsLostTakeNoRoom() {
    var allocator = Allocator()
    allocator.handle(.tableLost(reason: "killed"))
    let held = HeldByScheduler(lease: "l", request: "a", executor: "e")
    for number in 0..<3_000 {
      let stream = StreamID(UInt64(100 + number))
      allocator.handle(.streamOpened(stream))
      allocator.handle(.claimed(stream, held))
      if number < 2_999 { allocator.handle(.streamClosed(stream)) }
    }
    #expect(allocator.state.turns.count <= 1_003)
    #expect(allocator.handle(.tableConnected).contains(.check([held])))
    allocator.handle(.checked([.ended(.released, message: "given back")]))
    #expect(allocator.state.watches.isEmpty)
  }

  @Test func aSchedulerThatComesBackWhileTurnsAreDueHasEachLeaseLookedUpOnce() {
    var policy = Policy()
    policy.checkBatch = 10
    var allocator = Allocator(policy: policy)
    for number in 0..<1_200 {
      let lease = LeaseID("l\(number)")
      let held = HeldByScheduler(lease: lease, request: "a", executor: "e")
      if !allocator.handle(.claimed(Allocator.one, held)).isEmpty {
        allocator.handle(.checked([.held]))
      }
    }
    // All are due, and the first are looked up.
    #expect(allocator.pass(.seconds(1)).contains { if case .check = $0 { true } else { false } })
    allocator.handle(.streamClosed(Allocator.one))
    allocator.handle(.streamOpened(Allocator.two))
    let held = HeldByScheduler(lease: "l1", request: "a", executor: "e")
    allocator.handle(.claimed(Allocator.two, held))
    #expect(allocator.state.turns.count == 1)
    let effects = allocator.handle(.checked((0..<10).map { _ in .held }))
    // The claim, and its turn.
    #expect(effects.contains(.check([held, held])) || effects.contains(.check([held])))
  }

  @Test func aClaimIsNotSettledByALookFromBeforeIt() {
    var allocator = Allocator()
    let lease = allocator.grant("a")
    #expect(allocator.pass(.seconds(1)).contains(.check([lease.held])))
    allocator.handle(.streamOpened(Allocator.two))
    allocator.handle(.claimed(Allocator.two, lease.held))
    #expect(allocator.handle(.checked([.held])).contains(.check([lease.held])))
    let effects = allocator.handle(.checked([.ended(.released, message: "given back")]))
    #expect(effects.sent.count == 1)
  }

  @Test func aFailedCheckIsAskedAgain() {
    var allocator = Allocator()
    let lease = allocator.grant("a")
    #expect(allocator.pass(.seconds(1)).contains(.check([lease.held])))
    allocator.handle(.checkFailed)
    #expect(allocator.pass(.seconds(1)).contains(.check([lease.held])))
  }
}

@Suite struct TableTests {
  @Test func demandWaitsForTheTableAndSaysSo() {
    var allocator = Allocator(connected: false)
    #expect(allocator.demand("a").isEmpty)
    allocator.handle(.tableLost(reason: "connection refused"))
    let waiting = Effect.Event.waiting(
      "a", reason: "the allocator cannot reach its table: connection refused")
    #expect(allocator.pass(.seconds(1)).sent == [waiting])
    // Told once.
    #expect(allocator.pass(.seconds(1)).isEmpty)
    #expect(allocator.handle(.tableConnected).batches == [["a"]])
  }

  @Test func aBatchThatFailedIsTriedAgainByTheRetryInterval() {
    var allocator = Allocator()
    allocator.pass(.milliseconds(1))
    allocator.demand("a")
    allocator.demand("b")
    #expect(allocator.handle(.acquireFailed(.standard, reason: "timed out")).isEmpty)
    #expect(allocator.pass(.milliseconds(500)).batches.isEmpty)
    #expect(allocator.pass(.milliseconds(500)).batches == [["a", "b"]])
    #expect(allocator.state.demands.count == 2)
  }

  @Test func aTableThatComesBackIsAskedForEverythingAtOnce() {
    var allocator = Allocator()
    let lease = allocator.grant("x")
    allocator.demand("a")
    allocator.handle(.tableLost(reason: "killed"))
    allocator.handle(.acquireFailed(.standard, reason: "killed"))
    let effects = allocator.handle(.tableConnected)
    #expect(effects.contains(.check([lease.held])) && effects.batches == [["a"]])
  }

  @Test func oneSweepIsOutAtATime() {
    var allocator = Allocator()
    #expect(allocator.pass(.milliseconds(500)).contains(.sweep))
    #expect(!allocator.pass(.milliseconds(500)).contains(.sweep))
    allocator.handle(.sweepFailed)
    #expect(allocator.pass(.milliseconds(500)).contains(.sweep))
    allocator.handle(.swept(ended: [], pools: []))
    #expect(!allocator.pass(.milliseconds(499)).contains(.sweep))
    #expect(allocator.pass(.milliseconds(1)).contains(.sweep))
  }

  @Test func aClockThatGoesBackStopsNothing() {
    var allocator = Allocator()
    allocator.pass(.milliseconds(500))
    allocator.handle(.swept(ended: [], pools: []))
    #expect(allocator.pass(.seconds(-3_600)).contains(.sweep))
  }
}

@Suite struct HeartbeatTests {
  static let heartbeat = Heartbeat(
    executor: "e1", incarnation: "i", address: "h:1", capacity: .machine,
    held: [
      .init(lease: "l1", request: "r1", token: FencingToken(1), resources: .small, project: "lua"),
      .init(lease: "l2", request: "r2", token: FencingToken(2), resources: .small, project: "lua"),
    ])

  @Test func theAnswerSaysWhatToStopAndWhenToCallAgain() throws {
    let machine = StateMachine()
    let answer = try machine.answer(to: .recorded(.init(stop: ["l2"])), of: Self.heartbeat)
    #expect(
      answer
        == HeartbeatAnswer(stop: ["l2"], nextHeartbeat: .seconds(1), lostAfter: .seconds(5)))
  }

  @Test func aProcessThatWasTakenOutStopsAll() throws {
    let answer = try StateMachine().answer(to: .deregistered, of: Self.heartbeat)
    #expect(answer.stop == ["l1", "l2"])
  }

  @Test func aSecondProcessOfTheNameIsTurnedAway() {
    #expect {
      try StateMachine().answer(
        to: .duplicate(address: "other:1", silentFor: .milliseconds(1_234)), of: Self.heartbeat)
    } throws: { error in
      "\(error)"
        == "executor e1 is alive at other:1: it was heard 1.2 s ago; its name is free 5 s after "
        + "its last heartbeat"
    }
  }

  @Test func roomOnAnExecutorWakesItsPool() {
    var allocator = Allocator()
    allocator.demand("a")
    allocator.handle(.acquired(.standard, [nil]))
    let heartbeat = Heartbeat(
      executor: "e1", incarnation: "i", address: "h:1", capacity: .machine)
    #expect(allocator.handle(.heartbeatRecorded(heartbeat, .recorded(.init()))).batches.isEmpty)
    let room = HeartbeatRecord.recorded(.init(madeRoom: true))
    #expect(allocator.handle(.heartbeatRecorded(heartbeat, room)).batches == [["a"]])
  }

  static func mistaken(_ change: (inout Heartbeat) -> Void) -> String? {
    var heartbeat = Self.heartbeat
    change(&heartbeat)
    return Policy().mistake(in: heartbeat)
  }

  @Test func wrongHeartbeatsAreToldWhatIsWrong() {
    #expect(Self.mistaken { _ in } == nil)
    #expect(Self.mistaken { $0.executor = "" } == "executor_id is empty")
    #expect(
      Self.mistaken { $0.address = String(repeating: "x", count: 513) }
        == "address has 513 bytes, more than 512")
    #expect(Self.mistaken { $0.incarnation = "a\u{1f}b" }?.contains("control") == true)
    #expect(Self.mistaken { $0.capacity.slots = 0 }?.contains("slots is 0") == true)
    #expect(Self.mistaken { $0.capacity.cpuMillis = -1 }?.contains("cpu_millis is -1") == true)
    #expect(Self.mistaken { $0.held[1].lease = "" } == "leases.lease_id is empty")
    #expect(
      Self.mistaken { $0.held[0].token = FencingToken(.max) }?.contains("fencing_token") == true)
    #expect(
      Self.mistaken { $0.newestToken = FencingToken(-1) }
        == "newest_fencing_token is -1, not from 0 to 9007199254740992")
    #expect(
      Self.mistaken { $0.warmProjects = Array(repeating: "p", count: 65) }
        == "warm_projects has 65 entries, more than 64")
    let labels = Heartbeat(
      executor: "e", incarnation: "i", address: "a", labels: [String(repeating: "l", count: 129)],
      capacity: .machine)
    #expect(Policy().mistake(in: labels)?.contains("129 bytes, more than 128") == true)
  }

  /// In the table it would be the name of all executors.
  @Test(arguments: ["*", "a b", "c++", "größe", "linux,gpu"])
  func aLabelThatNoPipelineCanAskForIsRefused(label: String) {
    let heartbeat = Heartbeat(
      executor: "e", incarnation: "i", address: "a", labels: ["gpu", label], capacity: .machine)
    let reason = "label \"\(label)\" holds something other than letters, digits and -_.=/:"
    #expect(Policy().mistake(in: heartbeat) == reason)
    let demand = Demand.test("a", shape: Shape(labels: [label], resources: .small))
    #expect(Policy().mistake(in: demand) == reason)
    let good = Demand.test(
      "a", shape: Shape(labels: ["os=linux", "a.b-c_d/e:9"], resources: .small))
    #expect(Policy().mistake(in: good) == nil)
  }
}
