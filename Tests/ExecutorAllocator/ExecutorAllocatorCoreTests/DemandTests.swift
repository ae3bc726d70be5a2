import Domain
import ExecutorAllocatorCore
import Testing

@Suite struct DemandTests {
  @Test func aDemandIsTriedAtOnceAndGrantedToItsStream() {
    var allocator = Allocator()
    #expect(
      allocator.demand("a") == [.acquire(.standard, [.test("a")], above: FencingToken(0))])
    let lease = allocator.lease("a")
    #expect(
      allocator.handle(.acquired(.standard, [lease])) == [.send(Allocator.one, .granted(lease))])
    #expect(allocator.state.demands.isEmpty && allocator.state.pools.isEmpty)
  }

  @Test func oneBatchOfAPoolIsOutAtATimeAndTheSmallestRankGoesFirst() {
    var allocator = Allocator()
    allocator.demand("a", rank: 9)
    for (request, rank) in [("b", 5), ("c", 7), ("d", 1), ("e", 5), ("f", 3)] as [(String, Int64)] {
      #expect(allocator.demand(request, rank: rank).isEmpty)
    }
    let lease = allocator.lease("a")
    let effects = allocator.handle(.acquired(.standard, [lease]))
    #expect(effects.batches == [["d", "f", "b", "e", "c"]])
  }

  @Test func ranksCountAcrossShapes() {
    var allocator = Allocator()
    allocator.demand("first")
    allocator.demand("a", rank: 2)
    allocator.demand("b", rank: 1, shape: .gpu)
    allocator.demand("c", rank: 3, shape: .gpu)
    allocator.demand("d", rank: 0)
    let effects = allocator.handle(.acquired(.standard, [nil]))
    // No room for the first one's shape: only the other shape is worth trying.
    #expect(effects.batches == [["b", "c"]])
    allocator.handle(.acquired(.standard, [nil, nil]))
    #expect(
      allocator.handle(.released([], pools: [.standard])).batches == [["first", "d", "b", "a"]])
  }

  @Test func poolsDoNotWaitForEachOther() {
    var allocator = Allocator()
    let other = Shape(pool: "arm", resources: .small)
    #expect(allocator.demand("a").batches == [["a"]])
    #expect(allocator.demand("b", shape: other).batches == [["b"]])
  }

  @Test func aBatchGrowsWhileAllOfItIsGrantedAndShrinksAtTheFirstRefusal() {
    var policy = Policy()
    policy.smallestBatch = 1
    policy.largestBatch = 4
    var allocator = Allocator(policy: policy)
    var sizes: [Int] = []
    var batches = allocator.demand("0").batches
    for number in 1..<40 { allocator.demand("\(number)") }
    for _ in 0..<5 {
      sizes.append(batches[0].count)
      let leases = batches[0].map { allocator.lease($0) }
      batches = allocator.handle(.acquired(.standard, leases)).batches
    }
    #expect(sizes == [1, 2, 4, 4, 4])
    allocator.handle(.acquired(.standard, [allocator.lease("15"), nil, nil, nil]))
    #expect(allocator.handle(.released([], pools: [.standard])).batches.map(\.count) == [1])
  }

  @Test func aShapeWithoutRoomRestsUntilThereIsASignOfRoom() {
    var allocator = Allocator()
    allocator.demand("a")
    allocator.handle(.acquired(.standard, [nil]))
    // More of the same shape need not ask.
    #expect(allocator.demand("b").batches.isEmpty)
    #expect(
      allocator.handle(.swept(ended: [], pools: [.standard])).batches == [["a", "b"]])
  }

  @Test func anotherReplicasReleaseIsFoundByTheRetryInterval() {
    var allocator = Allocator()
    allocator.pass(.milliseconds(1))
    allocator.demand("a")
    allocator.handle(.acquired(.standard, [nil]))
    #expect(allocator.pass(.milliseconds(900)).batches.isEmpty)
    #expect(allocator.pass(.milliseconds(100)).batches == [["a"]])
  }

  @Test func roomThatIsMadeWhileABatchIsOutIsNotMissed() {
    var allocator = Allocator()
    allocator.demand("a")
    #expect(allocator.handle(.released([], pools: [.standard])).batches.isEmpty)
    #expect(allocator.handle(.acquired(.standard, [nil])).batches == [["a"]])
  }

  @Test func aWithdrawnDemandIsForgottenAndALeaseForItGoesBack() {
    var allocator = Allocator()
    allocator.demand("a")
    allocator.demand("b")
    allocator.handle(.withdrew(Allocator.one, "a"))
    allocator.handle(.withdrew(Allocator.one, "b"))
    let lease = allocator.lease("a")
    #expect(allocator.handle(.acquired(.standard, [lease])) == [.release([lease.id])])
    #expect(allocator.state.pools.isEmpty)
  }

  @Test func oneStreamCannotWithdrawAnothersDemand() {
    var allocator = Allocator()
    allocator.handle(.streamOpened(Allocator.two))
    allocator.demand("a")
    allocator.handle(.withdrew(Allocator.two, "a"))
    #expect(allocator.state.demands["a"] != nil)
  }

  @Test func theSameRequestAgainReplacesTheDemand() {
    var allocator = Allocator()
    allocator.demand("first")
    allocator.demand("a", rank: 1)
    allocator.demand("b", rank: 2)
    allocator.demand("a", rank: 3)
    #expect(allocator.state.demands.count == 3)
    let lease = allocator.lease("first")
    #expect(allocator.handle(.acquired(.standard, [lease])).batches == [["b", "a"]])
  }

  /// Among those of its rank it stays the oldest; and with two places in a heap it counts once.
  @Test func aDemandThatComesAgainWithAnotherRankKeepsItsAge() {
    var allocator = Allocator()
    allocator.demand("first")
    for (request, rank) in [("a", 5), ("b", 3), ("c", 3), ("a", 1), ("a", 5), ("a", 3)] {
      #expect(allocator.demand(request, rank: Int64(rank)).isEmpty)
    }
    let lease = allocator.lease("first")
    #expect(allocator.handle(.acquired(.standard, [lease])).batches == [["a", "b", "c"]])
    // The table has them: what moves now does so when it comes back.
    allocator.demand("a", rank: 4)
    allocator.handle(.acquired(.standard, [nil, nil, nil]))
    #expect(allocator.handle(.released([], pools: [.standard])).batches == [["b", "c", "a"]])
  }

  /// A queue that is mostly places of before drops them, and no other.
  @Test func aDemandThatComesAgainAndAgainKeepsItsPlace() {
    var allocator = Allocator()
    allocator.demand("first")
    for number in 0..<500 {
      allocator.demand(number % 2 == 0 ? "a" : "b", rank: Int64(number))
    }
    let lease = allocator.lease("first")
    #expect(allocator.handle(.acquired(.standard, [lease])).batches == [["a", "b"]])
  }

  /// A large job is kept an executor free after it has waited; to be told anew must not begin that
  /// again, and it knows why it waits.
  @Test func aDemandThatComesAgainIsStillOneThatFoundNoRoom() {
    var allocator = Allocator()
    allocator.demand("a", rank: 2)
    allocator.handle(.acquired(.standard, [nil]))
    let queue = allocator.state.pools[.standard]?.queues[.small]
    #expect(queue?.isBlocked == true && queue?.unmetSince != nil)
    #expect(allocator.demand("a", rank: 1).isEmpty)
    let same = allocator.state.pools[.standard]?.queues[.small]
    #expect(same?.isBlocked == true && same?.unmetSince == queue?.unmetSince)
  }

  @Test func aRequestThatMovesToANewStreamWhileItIsTriedIsGrantedThere() {
    var allocator = Allocator()
    allocator.demand("a")
    allocator.handle(.streamClosed(Allocator.one))
    allocator.handle(.streamOpened(Allocator.two))
    allocator.demand("a", stream: Allocator.two)
    let lease = allocator.lease("a")
    #expect(
      allocator.handle(.acquired(.standard, [lease])) == [.send(Allocator.two, .granted(lease))])
  }

  /// Such a lease does not go from one job to the next behind the allocator's back.
  @Test func aLeaseSaysWhetherOthersWaitForRoom() {
    var allocator = Allocator()
    func isContended(_ request: String) -> Bool? {
      for case .granted(let lease) in allocator.handle(
        .acquired(.standard, [allocator.lease(request)])
      ).sent {
        return lease.isContended
      }
      return nil
    }
    for request in ["a", "b", "c", "d", "e", "f"] {
      allocator.demand(request)
      if request == "a" { #expect(isContended(request) == false) }
      if request == "b" {
        // Another scheduler's, in another pool and in this one.
        allocator.handle(.streamOpened(Allocator.two))
        let elsewhere = Shape(pool: "gpu", resources: .small)
        allocator.demand("other", stream: Allocator.two, shape: elsewhere)
        #expect(isContended(request) == false)
        allocator.demand("one", stream: Allocator.two, shape: .gpu)
      }
      if request == "c" {
        #expect(isContended(request) == true)
        allocator.handle(.withdrew(Allocator.two, "one"))
      }
      if request == "d" {
        #expect(isContended(request) == false)
        allocator.handle(.demandTold(elsewhere: [.standard: .small]))
      }
      if request == "e" {
        // At another allocator.
        #expect(isContended(request) == true)
        allocator.handle(.demandTold(elsewhere: [:]))
      }
    }
  }

  /// An executor is kept free, or to be, for what has waited long.
  @Test func aLeaseSaysWhetherSomethingStarves() {
    var allocator = Allocator()
    allocator.demand("large", shape: Shape(resources: .machine))
    allocator.handle(.acquired(.standard, [nil]))
    allocator.demand("a")
    var leases = allocator.handle(.acquired(.standard, [allocator.lease("a")])).sent
    guard case .granted(let first)? = leases.first else { return #expect(Bool(false)) }
    #expect(!first.isContended)
    allocator.now = allocator.now + Policy().reserveAfter
    allocator.demand("b")
    leases = allocator.handle(.acquired(.standard, [allocator.lease("b")])).sent
    guard case .granted(let second)? = leases.first else { return #expect(Bool(false)) }
    #expect(second.isContended)
  }

  @Test func aLeaseWhoseStreamIsGoneWaitsForItsSchedulerToComeBack() {
    var allocator = Allocator()
    allocator.demand("a")
    allocator.handle(.streamClosed(Allocator.one))
    // Not released: the scheduler asks again, perhaps another replica, and gets this one.
    #expect(allocator.handle(.acquired(.standard, [allocator.lease("a")])).isEmpty)
  }

  @Test func aChangedWishGivesBackWhatTheOldOneGot() {
    var allocator = Allocator()
    allocator.demand("a")
    allocator.demand("a", shape: .gpu)
    let lease = allocator.lease("a")
    let effects = allocator.handle(.acquired(.standard, [lease]))
    #expect(effects.contains(.release([lease.id])))
    #expect(effects.batches == [["a"]] && effects.sent.isEmpty)
  }

  @Test func aClosedStreamLeavesNothingBehind() {
    var allocator = Allocator()
    _ = allocator.grant("x")
    for number in 0..<10 { allocator.demand("\(number)", shape: number % 2 == 0 ? .small : .gpu) }
    allocator.handle(.streamClosed(Allocator.one))
    allocator.handle(.acquired(.standard, [nil]))
    #expect(allocator.state.demands.isEmpty && allocator.state.pools.isEmpty)
    #expect(allocator.state.watches.isEmpty && allocator.state.streams.isEmpty)
  }

  @Test func openDemandHasABound() {
    var policy = Policy()
    policy.maximumOpenDemand = 2
    var allocator = Allocator(policy: policy)
    allocator.demand("a")
    allocator.demand("b")
    // Replacing is not more.
    #expect(allocator.demand("b", rank: 4).isEmpty)
    #expect(allocator.demand("c") == [.end(Allocator.one, .tooMuchDemand(limit: 2))])
    #expect(allocator.state.demands.isEmpty)
    // What was on its way on the refused stream.
    #expect(allocator.demand("d").isEmpty)
  }

  @Test func aWrongDemandFailsAloneAndANamelessOneEndsItsStream() {
    var allocator = Allocator()
    let wrong = Shape(pool: "a pool", resources: .small)
    #expect(
      allocator.demand("a", shape: wrong).sent == [
        .unsatisfiable(
          "a",
          reason: "pool \"a pool\" holds something other than letters, digits, \"-\", \"_\", \".\"")
      ])
    let nothing = Shape(resources: .none)
    #expect(
      allocator.demand("b", shape: nothing).sent == [
        .unsatisfiable("b", reason: "resources.slots is 0, not from 1 to 1048576")
      ])
    #expect(
      allocator.demand("") == [.end(Allocator.one, .invalid("request_id is empty"))])
  }

  @Test(arguments: [
    ("", "project is empty"), ("a\u{1f}b", "project holds a control character"),
    (String(repeating: "p", count: 513), "project has 513 bytes, more than 512"),
  ])
  func aProjectThatCannotBePartOfAKeyIsRefused(project: String, reason: String) {
    var allocator = Allocator()
    var demand = Demand.test("a")
    demand.project = ProjectID(project)
    #expect(
      allocator.handle(.demanded(Allocator.one, demand)).sent == [
        .unsatisfiable("a", reason: reason)
      ])
    #expect(allocator.state.demands.isEmpty)
  }

  @Test func anAvoidedExecutorIsNamedAsExecutorsAre() {
    var allocator = Allocator()
    let shape = Shape(resources: .small, avoid: ["e1", "e\u{1f}2"])
    #expect(
      allocator.demand("a", shape: shape).sent == [
        .unsatisfiable("a", reason: "avoid_executor_ids holds a control character")
      ])
  }

  @Test func tokensAreAskedForAboveAllThatWereSeen() {
    var allocator = Allocator()
    let heartbeat = Heartbeat(
      executor: "e1", incarnation: "i", address: "a:1", capacity: .machine,
      held: [
        .init(
          lease: "l", request: "r", token: FencingToken(70), resources: .small, project: "lua")
      ], newestToken: FencingToken(80))
    allocator.handle(.heartbeatRecorded(heartbeat, .recorded(.init())))
    #expect(
      allocator.demand("a") == [.acquire(.standard, [.test("a")], above: FencingToken(80))])
    allocator.handle(.acquired(.standard, [.test("a", token: 90)]))
    #expect(
      allocator.demand("b") == [.acquire(.standard, [.test("b")], above: FencingToken(90))])
  }

  @Test func roomThatIsMadeAllTheTimeKeepsNobodyFromTheirTurn() {
    var allocator = Allocator()
    allocator.demand("first")
    for number in 1...10 { allocator.demand("g\(number)", rank: Int64(number), shape: .gpu) }
    allocator.demand("late", rank: 11)
    let lease = allocator.lease("first")
    let first = allocator.handle(.acquired(.standard, [lease])).batches
    #expect(first == [(1...8).map { "g\($0)" }])
    // Somebody gives a lease back; there is no label in it.
    #expect(allocator.handle(.released([], pools: [.standard])).isEmpty)
    let none = [Lease?](repeating: nil, count: 8)
    #expect(allocator.handle(.acquired(.standard, none)).batches == [["late"]])
    let again = allocator.handle(.acquired(.standard, [nil])).batches
    #expect(again == [["g1", "g2", "g3", "g4"]])
  }

  /// Shapes that are all different, by a number.
  private static func kind(_ number: Int) -> Shape {
    Shape(resources: Resources(cpuMillis: Int64(number + 1), memory: ByteCount(1)))
  }

  /// With demands of so many shapes that found no room, of the ranks 0 on; a round of them is due.
  private static func crowded(_ count: Int) -> Allocator {
    var allocator = Allocator()
    allocator.pass(.milliseconds(1))
    for number in 0..<count {
      let batches = allocator.demand("k\(number)", rank: Int64(number), shape: Self.kind(number))
        .batches
      #expect(batches == [["k\(number)"]])
      allocator.handle(.acquired(.standard, [nil]))
    }
    return allocator
  }

  @Test func whoComesNewDoesNotWaitForThoseThatAreTriedAgain() {
    var allocator = Self.crowded(20)
    let none = [Lease?](repeating: nil, count: 4)
    #expect(allocator.pass(.seconds(1)).batches == [["k0", "k1", "k2", "k3"]])
    // They come during the round, with larger ranks than all of it.
    allocator.demand("new", rank: 99, shape: Self.kind(100))
    allocator.demand("newer", rank: 98, shape: Self.kind(101))
    // Of a shape that is known to find no room.
    allocator.demand("old", rank: 97, shape: Self.kind(0))
    #expect(allocator.handle(.acquired(.standard, none)).batches == [["newer", "new"]])
    // The round goes on where it was, even if it is woken.
    allocator.handle(.released([], pools: [.standard]))
    var round = allocator.handle(.acquired(.standard, [nil, nil])).batches
    for first in stride(from: 4, to: 20, by: 4) {
      #expect(round == [(first..<first + 4).map { "k\($0)" }])
      round = allocator.handle(.acquired(.standard, none)).batches
    }
    // The next round is by rank again, and those that were new are part of it.
    #expect(round == [["k0", "k1", "k2", "k3"]])
    allocator.demand("first", rank: -1, shape: Self.kind(100))
    allocator.handle(.released([], pools: [.standard]))
    #expect(allocator.handle(.acquired(.standard, none)).batches == [["first", "k4", "k5", "k6"]])
  }

  @Test func whoComesNewDoesNotGoBeforeWhatIsMoreUrgent() {
    var allocator = Allocator()
    allocator.pass(.milliseconds(1))
    allocator.demand("urgent", rank: -5 << 32, shape: Self.kind(0))
    allocator.handle(.acquired(.standard, [nil]))
    allocator.demand("busy", rank: 7, shape: Self.kind(1))
    for number in 2...6 {
      let rank = number == 2 ? -6 << 32 : Int64(number)
      allocator.demand("new\(number)", rank: rank, shape: Self.kind(number))
    }
    // Room is made while others come: what is of a lower priority waits until it is known to be of no use.
    allocator.handle(.released([], pools: [.standard]))
    #expect(allocator.handle(.acquired(.standard, [nil])).batches == [["new2"]])
    #expect(allocator.handle(.acquired(.standard, [nil])).batches == [["urgent", "busy"]])
    #expect(
      allocator.handle(.acquired(.standard, [nil, nil])).batches == [
        ["new3", "new4", "new5", "new6"]
      ])
  }

  /// However often room is made that is of no use to what is more urgent.
  @Test func whatIsMoreUrgentAndFindsNoRoomDoesNotKeepWhatIsNewFromItsTurn() {
    var allocator = Allocator()
    allocator.pass(.milliseconds(1))
    for number in 0..<6 {
      allocator.demand("u\(number)", rank: -5 << 32, shape: Self.kind(number))
      allocator.handle(.acquired(.standard, [nil]))
    }
    var batches = allocator.handle(.released([], pools: [.standard])).batches
    #expect(batches == [["u0", "u1", "u2", "u3"]])
    allocator.demand("new", shape: Self.kind(100))
    var tried: [String] = []
    for _ in 0..<3 {
      allocator.handle(.released([], pools: [.standard]))
      batches = allocator.handle(.acquired(.standard, batches[0].map { _ in nil })).batches
      tried += batches[0]
    }
    #expect(tried.prefix(3) == ["u4", "u5", "new"])
  }

  /// However many come new, and find room: every second batch is of those that do not.
  @Test func thoseThatAreTriedAgainDoNotStarve() {
    var allocator = Self.crowded(3)
    var number = 1_000
    func newcomers() {
      for _ in 0..<20 {
        number += 1
        allocator.demand("n\(number)", rank: -1, shape: Self.kind(number))
      }
    }
    #expect(allocator.pass(.seconds(1)).batches == [["k0", "k1", "k2"]])
    newcomers()
    allocator.handle(.released([], pools: [.standard]))
    var batches = allocator.handle(.acquired(.standard, [nil, nil, nil])).batches
    var turns: [Bool] = []
    for _ in 0..<12 {
      let isAgain = batches[0][0].hasPrefix("k")
      turns.append(isAgain)
      newcomers()
      allocator.handle(.released([], pools: [.standard]))
      let leases: [Lease?] = batches[0].map { isAgain ? nil : allocator.lease($0) }
      batches = allocator.handle(.acquired(.standard, leases)).batches
    }
    #expect(turns == (0..<12).map { $0 % 2 == 1 })
    // As soon as there is room for the first of them, it has it.
    while !batches[0][0].hasPrefix("k") {
      batches =
        allocator.handle(.acquired(.standard, batches[0].map { allocator.lease($0) })).batches
    }
    #expect(batches == [["k0", "k1", "k2"]])
    let lease = allocator.lease("k0")
    #expect(allocator.handle(.acquired(.standard, [lease, nil, nil])).sent == [.granted(lease)])
  }

  /// The effort of a round goes with the number of shapes, not with its square: that would take minutes.
  @Test(.timeLimit(.minutes(1))) func manyShapesAreTriedInOneRoundEachOnce() {
    let count = 20_000
    var machine = Allocator().machine
    let now = Allocator().now
    var batches: [[String]] = []
    for number in 0..<count {
      let demand = Demand.test("\(number)", rank: Int64(count - number), shape: Self.kind(number))
      batches += machine.handle(.demanded(Allocator.one, demand), at: now).batches
    }
    for round in 0..<2 {
      var tried: [String] = []
      while let batch = batches.first {
        tried += batch
        batches = machine.handle(.acquired(.standard, batch.map { _ in nil }), at: now).batches
      }
      // The very first one left alone, before the others came.
      let numbers = Array((0..<count).reversed())
      let expected = round == 0 ? [0] + numbers.dropLast() : numbers
      #expect(tried == expected.map { "\($0)" })
      batches = machine.handle(.released([], pools: [.standard]), at: now).batches
    }
  }

  /// A shape stands where its first demand does that is still there.
  @Test func aShapeWhoseFirstDemandGoesStandsWhereItsNextOneDoes() {
    var allocator = Allocator()
    allocator.demand("first")
    allocator.demand("a1", rank: 1, shape: Self.kind(1))
    allocator.demand("a5", rank: 5, shape: Self.kind(1))
    allocator.demand("b2", rank: 2, shape: Self.kind(2))
    allocator.demand("b9", rank: 9, shape: Self.kind(2))
    allocator.demand("c3", rank: 3, shape: Self.kind(3))
    allocator.handle(.withdrew(Allocator.one, "a1"))
    allocator.demand("b2", rank: 8, shape: Self.kind(2))
    allocator.demand("c3", rank: 7, shape: Self.kind(3))
    allocator.demand("c3", rank: 4, shape: Self.kind(3))
    #expect(allocator.handle(.acquired(.standard, [nil])).batches == [["c3", "a5", "b2", "b9"]])
    // The same when they are tried again.
    allocator.handle(.acquired(.standard, [nil, nil, nil, nil]))
    allocator.handle(.withdrew(Allocator.one, "c3"))
    allocator.demand("b9", rank: -1, shape: Self.kind(2))
    #expect(
      allocator.handle(.released([], pools: [.standard])).batches == [["b9", "first", "a5", "b2"]])
  }

  @Test func aDemandThatStarvesHasAnExecutorKeptFree() {
    var allocator = Allocator()
    allocator.pass(.milliseconds(1))
    allocator.demand("a")
    allocator.handle(.acquired(.standard, [nil]))
    #expect(allocator.pass(.milliseconds(9_900)).batches == [["a"]])
    allocator.handle(.acquired(.standard, [nil]))
    var starving = Demand.test("a")
    starving.reserves = true
    #expect(
      allocator.pass(.seconds(1)).contains(
        .acquire(.standard, [starving], above: FencingToken(0))))
    // One that is served is not starving, and what comes after it waits its own time.
    allocator.demand("b", rank: 1)
    let effects = allocator.handle(.acquired(.standard, [allocator.lease("a")]))
    #expect(effects.contains(.acquire(.standard, [.test("b", rank: 1)], above: FencingToken(1))))
  }

  @Test func manyDemandsAreServedEachOnceInOrder() {
    var allocator = Allocator()
    var random = Seeded(state: 7)
    let ranks = (0..<2_000).map { _ in Int64.random(in: 0..<50, using: &random) }
    let shapes: [Shape] = (1...7).map {
      Shape(resources: Resources(cpuMillis: Int64($0), memory: ByteCount(1)))
    }
    var machine = allocator.machine
    var batches: [[String]] = []
    for (number, rank) in ranks.enumerated() {
      let demand = Demand.test("\(number)", rank: rank, shape: shapes[number % shapes.count])
      batches += machine.handle(.demanded(Allocator.one, demand), at: allocator.now).batches
    }
    var served: [String] = []
    while let batch = batches.first {
      served += batch
      let leases = batch.map { allocator.lease($0) }
      batches = machine.handle(.acquired(.standard, leases), at: allocator.now).batches
    }
    // The first demand left alone, before the others came.
    let expected = ranks.indices.dropFirst().sorted { (ranks[$0], $0) < (ranks[$1], $1) }
    #expect(served == ["0"] + expected.map { "\($0)" })
  }
}

/// SplitMix64: the same numbers from the same seed, everywhere.
struct Seeded: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    self.state &+= 0x9e37_79b9_7f4a_7c15
    var z = self.state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}
