import Domain
import ExecutorAllocatorCore
import Testing

@Suite struct VerdictTests {
  static let now = Timestamp(microseconds: 1_764_000_000_000_000)
  typealias Group = PoolSurvey.Group

  static func verdict(
    _ groups: [Group], departed: [Group] = [], live: Duration? = .seconds(60), on shape: Shape
  ) -> Verdict {
    PoolSurvey(
      time: self.now, liveSince: live.map { self.now - $0 }, groups: groups, departed: departed
    ).verdict(on: shape, policy: Policy())
  }

  static func group(
    _ count: Int, labels: [String] = ["linux"], capacity: Resources = .machine,
    state: Group.State = .ready
  ) -> Group {
    Group(labels: labels, capacity: capacity, state: state, count: count)
  }

  @Test(
    arguments: [
      ([group(1)], "1 executor matches, and is full"),
      ([group(2)], "2 executors match, both full"),
      ([group(3), group(37, labels: ["arm"])], "40 executors match, all full"),
      ([group(1, state: .suspect)], "1 executor matches, and is not heard from"),
      ([group(2, state: .draining)], "2 executors match, both draining"),
      (
        [group(2), group(1, state: .suspect), group(3, state: .draining)],
        "6 executors match: 2 full, 3 draining, 1 not heard from"
      ),
    ] as [([Group], String)])
  func whatCouldMeetTheDemandLaterIsCounted(groups: [Group], reason: String) {
    #expect(Self.verdict(groups, on: .small) == .waits(reason))
  }

  @Test func aMissingLabelIsNamed() {
    #expect(
      Self.verdict([Self.group(2)], on: .gpu)
        == .impossible("needs label gpu: 0 of 2 executors match"))
    #expect(
      Self.verdict([Self.group(1)], on: Shape(labels: ["linux", "gpu", "arm"], resources: .small))
        == .impossible("needs labels arm, gpu: 0 of 1 executor matches"))
  }

  @Test func whatWouldDoWithoutTheLabelIsCounted() {
    let groups = [
      Self.group(37), Self.group(3, capacity: Resources(cpuMillis: 16_000, memory: .gibibytes(64))),
    ]
    let large = Shape(
      labels: ["gpu"], resources: Resources(cpuMillis: 12_000, memory: .gibibytes(4)))
    #expect(
      Self.verdict(groups, on: large)
        == .impossible(
          "needs label gpu and 12 CPUs and 4 GiB of memory: 0 of 40 executors match; "
            + "3 match without the label"))
  }

  @Test func labelsThatNobodyHasTogetherAreNamed() {
    let groups = [Self.group(2, labels: ["arm"]), Self.group(3, labels: ["gpu"])]
    #expect(
      Self.verdict(groups, on: Shape(labels: ["gpu", "arm"], resources: .small))
        == .impossible("needs labels arm, gpu together: 0 of 5 executors match"))
  }

  @Test func anExecutorThatIsTooSmallIsMeasured() {
    let large = Shape(
      labels: ["linux"], resources: Resources(cpuMillis: 8_500, memory: .gibibytes(32)))
    #expect(
      Self.verdict([Self.group(2), Self.group(1, labels: [])], on: large)
        == .impossible(
          "needs 8.5 CPUs and 32 GiB of memory: 2 executors match, with at most 4 CPUs and 8 GiB"))
    let apart = [
      Self.group(1, capacity: Resources(cpuMillis: 16_000, memory: .gibibytes(1), slots: 9)),
      Self.group(1, capacity: Resources(cpuMillis: 1_000, memory: .gibibytes(64), slots: 9)),
    ]
    #expect(
      Self.verdict(apart, on: large)
        == .impossible(
          "needs 8.5 CPUs and 32 GiB of memory together: none of 2 executors match has both"))
  }

  @Test func theCapacityOfEveryExecutorCountsNotItsState() {
    let groups = [Self.group(5), Self.group(1, labels: ["gpu"], state: .draining)]
    #expect(
      Self.verdict(groups, on: .gpu) == .waits("1 executor matches, and is draining"))
  }

  @Test func anEmptyPoolIsNotImpossible() {
    #expect(
      Self.verdict([], live: nil, on: .gpu) == .waits("pool default has no executors"))
  }

  @Test func aYoungPoolIsNotImpossible() {
    let reason = "needs label gpu: 0 of 2 executors match"
    #expect(
      Self.verdict([Self.group(2)], live: .milliseconds(59_999), on: .gpu)
        == .waits("\(reason) yet; the pool has had executors for less than 60 s"))
    #expect(Self.verdict([Self.group(2)], live: .seconds(60), on: .gpu) == .impossible(reason))
  }

  @Test func whoLeftNotLongAgoMayComeBack() {
    let gone = [Self.group(1, labels: ["gpu"])]
    #expect(
      Self.verdict([Self.group(2)], departed: gone, on: .gpu)
        == .waits(
          "needs label gpu: 0 of 2 executors match; one that did was here until a short while ago")
    )
    // One that would not have fitted either is no hope.
    let small = [Self.group(1, labels: ["gpu"], capacity: .none)]
    #expect(
      Self.verdict([Self.group(2)], departed: small, on: .gpu)
        == .impossible("needs label gpu: 0 of 2 executors match"))
  }

  @Test(arguments: [
    (Int64(0), "0 CPU"), (500, "0.5 CPU"), (1_000, "1 CPU"), (1_250, "1.25 CPUs"),
    (64_000, "64 CPUs"), (1, "0.001 CPU"),
  ])
  func cpusAreWritten(millis: Int64, text: String) {
    #expect(Words.cpu(millis) == text)
  }

  @Test(arguments: [
    (Int64(0), "0 bytes"), (1_023, "1023 bytes"), (1 << 10, "1 KiB"), (512 << 20, "512 MiB"),
    (3 << 29, "1.5 GiB"), (4 << 30, "4 GiB"), (1 << 40, "1 TiB"),
  ])
  func memoryIsWritten(bytes: Int64, text: String) {
    #expect(Words.memory(ByteCount(bytes)) == text)
  }
}

extension Allocator {
  /// What is said last after a look at a pool of machines without a GPU, but for `gpus` of them, which has had
  /// executors since `since`.
  fileprivate mutating func look(
    since: Timestamp, gpus: Int = 0, departed: [PoolSurvey.Group] = []
  ) -> Effect.Event? {
    var groups = [VerdictTests.group(2)]
    if gpus > 0 { groups.append(VerdictTests.group(gpus, labels: ["gpu"])) }
    let survey = PoolSurvey(time: self.now, liveSince: since, groups: groups, departed: departed)
    return self.handle(.surveyed(.standard, survey)).sent.last
  }
}

@Suite struct SurveyTests {
  static func survey(
    _ allocator: Allocator, _ groups: [PoolSurvey.Group], live: Duration = .seconds(60)
  ) -> Input {
    .surveyed(
      .standard,
      PoolSurvey(time: allocator.now, liveSince: allocator.now - live, groups: groups))
  }

  @Test func anUnknownLabelFailsAtOnceWithTheReason() {
    var allocator = Allocator()
    allocator.demand("a", shape: .gpu)
    #expect(allocator.handle(.acquired(.standard, [nil])) == [.survey(.standard)])
    let effects = allocator.handle(Self.survey(allocator, [VerdictTests.group(2)]))
    #expect(
      effects == [
        .send(
          Allocator.one, .unsatisfiable("a", reason: "needs label gpu: 0 of 2 executors match"))
      ])
    #expect(allocator.state.demands.isEmpty && allocator.state.pools.isEmpty)
  }

  static let wasHere = Effect.Event.waiting(
    "a",
    reason: "needs label gpu: 0 of 2 executors match; one that did was here until a short while ago"
  )
  static let hasNone = Effect.Event.unsatisfiable(
    "a", reason: "needs label gpu: 0 of 2 executors match")

  /// Redis was emptied, and with it who left the pool a short while ago.
  @Test func anExecutorThatWasSeenMayComeBackToAnEmptiedTable() {
    var allocator = Allocator()
    let since = allocator.now - .seconds(3_600)
    allocator.demand("a", shape: .gpu)
    allocator.handle(.acquired(.standard, [nil]))
    #expect(
      allocator.look(since: since, gpus: 1)
        == .waiting("a", reason: "1 executor matches, and is full"))
    // Its demand goes and comes again: what was seen stays.
    allocator.handle(.withdrew(Allocator.one, "a"))
    #expect(allocator.state.pools.isEmpty)
    allocator.demand("a", shape: .gpu)
    allocator.handle(.acquired(.standard, [nil]))
    allocator.now = allocator.now + .seconds(300)
    let emptied = allocator.now - .seconds(200)
    #expect(allocator.look(since: emptied) == Self.wasHere)
    allocator.now = allocator.now + .milliseconds(299_999)
    // Of the same reason nothing more is said.
    #expect(allocator.look(since: emptied) == nil)
    allocator.now = allocator.now + .milliseconds(1)
    #expect(allocator.look(since: emptied) == Self.hasNone)
  }

  /// That it had left before is known too, and for no longer because it was looked at.
  @Test func whatWasGoneBeforeTheTableWasEmptiedIsRemembered() {
    var allocator = Allocator()
    let since = allocator.now - .seconds(3_600)
    allocator.demand("a", shape: .gpu)
    allocator.handle(.acquired(.standard, [nil]))
    let gone = [VerdictTests.group(1, labels: ["gpu"])]
    #expect(allocator.look(since: since, departed: gone) == Self.wasHere)
    allocator.now = allocator.now + .seconds(400)
    #expect(allocator.look(since: since, departed: gone) == nil)
    let emptied = allocator.now
    allocator.now = allocator.now + .milliseconds(199_999)
    #expect(allocator.look(since: emptied) == nil)
    allocator.now = allocator.now + .milliseconds(1)
    #expect(allocator.look(since: emptied) == Self.hasNone)
    #expect(allocator.state.sightings[.standard]?.kinds.count == 1)
  }

  /// While it knows the pool without a break, the table knows itself who left.
  @Test func aTableThatForgotNothingIsBelieved() {
    var allocator = Allocator()
    let since = allocator.now - .seconds(3_600)
    allocator.demand("a", shape: .gpu)
    allocator.handle(.acquired(.standard, [nil]))
    _ = allocator.look(since: since, gpus: 1)
    // It has another capacity now, say.
    allocator.now = allocator.now + .seconds(1)
    #expect(allocator.look(since: since) == Self.hasNone)
    // Pools that are looked at no more are forgotten, with the next look at any.
    allocator.now = allocator.now + .seconds(700)
    let other = Shape(pool: "arm", labels: ["gpu"], resources: .small)
    allocator.demand("b", shape: other)
    allocator.handle(.acquired("arm", [nil]))
    allocator.handle(
      .surveyed(
        "arm",
        PoolSurvey(time: allocator.now, liveSince: since, groups: [VerdictTests.group(1)])))
    #expect(Array(allocator.state.sightings.keys) == ["arm"])
  }

  @Test func allDemandsOfTheShapeFailInTheirOrder() {
    var allocator = Allocator()
    allocator.demand("a", rank: 3, shape: .gpu)
    allocator.demand("b", rank: 1, shape: .gpu)
    allocator.demand("c", rank: 2, shape: .gpu)
    allocator.demand("ok")
    allocator.handle(.acquired(.standard, [nil]))
    let effects = allocator.handle(Self.survey(allocator, [VerdictTests.group(2)]))
    let requests = effects.sent.map { event -> AttemptID in
      if case .unsatisfiable(let request, _) = event { request } else { "?" }
    }
    #expect(requests == ["b", "c", "a"])
    #expect(Array(allocator.state.demands.keys) == ["ok"])
  }

  @Test func waitingIsExplainedOnceForEachReason() {
    var allocator = Allocator()
    allocator.demand("a")
    allocator.handle(.acquired(.standard, [nil]))
    let two = Self.survey(allocator, [VerdictTests.group(2)])
    #expect(
      allocator.handle(two).sent == [.waiting("a", reason: "2 executors match, both full")])
    #expect(allocator.handle(two).isEmpty)
    let three = Self.survey(allocator, [VerdictTests.group(3)])
    #expect(allocator.handle(three).sent == [.waiting("a", reason: "3 executors match, all full")])
  }

  @Test func onlyTheFirstInLineAreExplained() {
    var policy = Policy()
    policy.maximumExplained = 2
    var allocator = Allocator(policy: policy)
    for (request, rank) in [("a", 3), ("b", 1), ("c", 2)] as [(String, Int64)] {
      allocator.demand(request, rank: rank)
    }
    allocator.handle(.acquired(.standard, [nil]))
    let survey = Self.survey(allocator, [VerdictTests.group(1)])
    #expect(
      allocator.handle(survey).sent == [
        .waiting("b", reason: "1 executor matches, and is full"),
        .waiting("c", reason: "1 executor matches, and is full"),
      ])
  }

  @Test func surveysOfAPoolAreSpacedAndOneAtATime() {
    var allocator = Allocator()
    allocator.demand("a")
    #expect(allocator.handle(.acquired(.standard, [nil])) == [.survey(.standard)])
    // A second shape finds no room while the first survey is out.
    allocator.demand("b", shape: .gpu)
    #expect(allocator.handle(.acquired(.standard, [nil])).isEmpty)
    #expect(!allocator.pass(.milliseconds(100)).contains(.survey(.standard)))
    allocator.handle(.surveyFailed(.standard))
    #expect(allocator.pass(.milliseconds(1)).contains(.survey(.standard)))
  }

  @Test func aSurveyIsRepeatedWhileDemandWaits() {
    var allocator = Allocator()
    allocator.pass(.milliseconds(1))
    allocator.demand("a")
    allocator.handle(.acquired(.standard, [nil]))
    allocator.handle(Self.survey(allocator, [VerdictTests.group(1)]))
    #expect(!allocator.pass(.milliseconds(999)).contains(.survey(.standard)))
    #expect(allocator.pass(.milliseconds(1)).contains(.survey(.standard)))
  }

  @Test func aDemandThatIsBeingTriedIsNotJudged() {
    var allocator = Allocator()
    allocator.demand("a", shape: .gpu)
    allocator.handle(.acquired(.standard, [nil]))
    // The executor it waits for comes while the survey is out.
    allocator.handle(.swept(ended: [], pools: [.standard]))
    #expect(allocator.handle(Self.survey(allocator, [VerdictTests.group(2)])).isEmpty)
    #expect(allocator.handle(.acquired(.standard, [allocator.lease("a")])).sent.count == 1)
  }

  @Test func aDemandThatIsTriedWheneverItIsLookedAtIsJudgedAllTheSame() {
    var allocator = Allocator()
    allocator.demand("a", shape: .gpu)
    allocator.handle(.acquired(.standard, [nil]))
    // Retries and looks come at the same moments, or room is made for others all the time.
    allocator.handle(.swept(ended: [], pools: [.standard]))
    #expect(allocator.handle(Self.survey(allocator, [VerdictTests.group(2)])).isEmpty)
    allocator.handle(.acquired(.standard, [nil]))
    let effects = allocator.pass(.seconds(1))
    #expect(effects.contains(.survey(.standard)) && effects.batches == [["a"]])
    #expect(
      allocator.handle(Self.survey(allocator, [VerdictTests.group(2)])) == [
        .send(
          Allocator.one, .unsatisfiable("a", reason: "needs label gpu: 0 of 2 executors match"))
      ])
    // Should its executor have come at last, nobody wants the lease any more.
    let lease = allocator.lease("a")
    #expect(allocator.handle(.acquired(.standard, [lease])) == [.release([lease.id])])
    #expect(allocator.state.demands.isEmpty && allocator.state.pools.isEmpty)
  }

  @Test func aPoolWhoseLookFailsAfterItsLastDemandLeftIsForgotten() {
    var allocator = Allocator()
    allocator.demand("a", shape: .gpu)
    #expect(allocator.handle(.acquired(.standard, [nil])) == [.survey(.standard)])
    allocator.handle(.withdrew(Allocator.one, "a"))
    allocator.handle(.surveyFailed(.standard))
    #expect(allocator.state.pools.isEmpty)
  }
}

@Suite struct PolicyTests {
  @Test func theDefaultsGoTogether() {
    #expect(Policy().contradiction == nil)
  }

  @Test func numbersThatContradictEachOtherAreNamed() {
    var policy = Policy()
    policy.suspectAfter = .seconds(1)
    #expect(
      policy.contradiction
        == Policy.Contradiction(
          setting: "suspect-after", reason: "it must be above heartbeat-interval (1 s)"))
    policy = Policy()
    policy.lostAfter = .seconds(2)
    #expect(policy.contradiction?.setting == "lost-after")
    policy = Policy()
    policy.grantExpiry = .milliseconds(1_500)
    #expect(policy.contradiction?.setting == "lease-grant-expiry")
    policy.heartbeatInterval = .zero
    #expect(policy.contradiction?.setting == "heartbeat-interval")
  }
}

@Suite struct RandomWalkTests {
  /// A world of random inputs over a table of a few slots: every step keeps the invariants (the
  /// fixture checks), no request is granted twice, and in the end all demand is granted.
  @Test(arguments: 1...30 as ClosedRange<UInt64>)
  func everyDemandIsGrantedOnceWhateverHappens(seed: UInt64) {
    var random = Seeded(state: seed)
    var policy = Policy()
    policy.smallestBatch = 2
    policy.largestBatch = 8
    policy.maximumExplained = 3
    var allocator = Allocator(policy: policy)
    var pending: [Effect] = []
    var free = 3
    var running: [Lease] = []
    var granted: Set<AttemptID> = []
    var wanted: Set<AttemptID> = []
    var connected = true
    var next = 0

    func note(_ effects: [Effect]) {
      for effect in effects {
        switch effect {
        case .send(_, .granted(let lease)):
          #expect(granted.insert(lease.request).inserted, "\(lease.request) was granted twice")
          wanted.remove(lease.request)
        case .send, .end: break
        case .release(let leases):
          running.removeAll { lease in
            guard leases.contains(lease.id) else { return false }
            free += 1
            return true
          }
        case .acquire, .survey, .check, .sumUsage, .tellDemand, .sweep: pending.append(effect)
        }
      }
    }

    func answer(_ effect: Effect) {
      switch effect {
      case .acquire(let pool, let demands, _):
        guard connected else {
          note(allocator.handle(.acquireFailed(pool, reason: "gone")))
          return
        }
        var leases: [Lease?] = []
        for demand in demands {
          guard free > 0 else {
            leases.append(nil)
            continue
          }
          free -= 1
          let lease = allocator.lease(demand.request.rawValue)
          running.append(lease)
          leases.append(lease)
        }
        note(allocator.handle(.acquired(pool, leases)))
      case .survey(let pool):
        let survey = PoolSurvey(
          time: allocator.now, liveSince: allocator.now - .seconds(60),
          groups: [VerdictTests.group(3, labels: ["gpu"])])
        note(allocator.handle(connected ? .surveyed(pool, survey) : .surveyFailed(pool)))
      case .check(let leases):
        note(allocator.handle(connected ? .checked(leases.map { _ in .held }) : .checkFailed))
      case .tellDemand:
        if connected { note(allocator.handle(.demandTold(elsewhere: [:]))) }
      case .sumUsage:
        note(
          allocator.handle(
            connected ? .usageFound(UsagePage(pools: [:], last: nil)) : .usageFailed))
      case .sweep:
        note(allocator.handle(connected ? .swept(ended: [], pools: []) : .sweepFailed))
      case .release, .send, .end: break
      }
    }

    func step(_ choice: Int) {
      switch choice {
      case 0...2:
        next += 1
        let request = AttemptID("r\(next)")
        wanted.insert(request)
        note(
          allocator.demand(
            request.rawValue, rank: Int64.random(in: 0...3, using: &random),
            shape: Bool.random(using: &random) ? .small : .gpu))
      case 3:
        // A request that was granted is its scheduler's no more.
        guard let request = wanted.sorted().randomElement(using: &random) else { break }
        wanted.remove(request)
        note(allocator.handle(.withdrew(Allocator.one, request)))
      case 4...6:
        if !pending.isEmpty {
          answer(pending.remove(at: Int.random(in: 0..<pending.count, using: &random)))
        }
      case 7:
        guard connected, !running.isEmpty else { break }
        let lease = running.remove(at: Int.random(in: 0..<running.count, using: &random))
        free += 1
        note(allocator.handle(.released([lease.id], pools: [.standard])))
      case 8: note(allocator.pass(.milliseconds(Int.random(in: 1...700, using: &random))))
      default:
        connected.toggle()
        note(allocator.handle(connected ? .tableConnected : .tableLost(reason: "gone")))
      }
    }

    for _ in 0..<400 { step(Int.random(in: 0...9, using: &random)) }
    if !connected { step(9) }
    var turns = 0
    while !wanted.isEmpty && turns < 2_000 {
      turns += 1
      while !pending.isEmpty { answer(pending.removeFirst()) }
      step(7)
      note(allocator.pass(.milliseconds(250)))
    }
    #expect(wanted.isEmpty, "seed \(seed): never granted: \(wanted)")
    #expect(allocator.state.demands.isEmpty)
  }
}
