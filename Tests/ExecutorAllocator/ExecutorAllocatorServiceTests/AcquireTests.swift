import Domain
import ExecutorAllocatorCore
import ExecutorAllocatorService
import RedisClient
import RedisTesting
import RedisWire
import Testing

@Suite(.needsRedis, .timeLimit(.minutes(1))) struct AcquireTests {
  @Test func anEmptyFarmHasNoRoom() async throws {
    try await Farm.with { farm in
      let lease = try await farm.acquire("a")
      #expect(lease == nil)
    }
  }

  @Test func aLeaseNamesItsExecutorItsTokenAndItsExpiry() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire("a"))
      let now = farm.clock.time
      #expect(
        lease
          == Lease(
            id: LeaseID("lease-t0-\(now.microseconds)"), executor: "e1", address: "e1:1",
            resources: .small, token: FencingToken(now.microseconds), request: "a",
            expires: now + .seconds(10)))
    }
  }

  @Test func anExecutorIsFilledAndNotOverfilled() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let demands = (0..<6).map {
        Demand(request: AttemptID("\($0)"), project: "lua", shape: .small)
      }
      let leases = try await farm.acquire(demands)
      #expect(leases.map { $0 != nil } == [true, true, true, true, false, false])
      let tokens = leases.compactMap { $0?.token }
      #expect(tokens == tokens.sorted() && Set(tokens).count == 4)
    }
  }

  @Test func eachResourceIsALimit() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let memory = Shape(resources: Resources(cpuMillis: 1, memory: .gibibytes(5)))
      let cpu = Shape(resources: Resources(cpuMillis: 3_000, memory: ByteCount(1)))
      let slots = Shape(resources: Resources(cpuMillis: 1, memory: ByteCount(1), slots: 5))
      #expect(try await farm.acquire("slots", shape: slots) == nil)
      #expect(try await farm.acquire("a", shape: memory) != nil)
      #expect(try await farm.acquire("b", shape: memory) == nil)
      #expect(try await farm.acquire("c", shape: cpu) != nil)
      #expect(try await farm.acquire("d", shape: cpu) == nil)
    }
  }

  @Test func memoryIsCountedToTheByte() async throws {
    try await Farm.with { farm in
      // Not whole mebibytes: the index rounds, the decision must not.
      let bytes = ByteCount(1_500_000_001)
      let capacity = Resources(cpuMillis: 4_000, memory: bytes, slots: 4)
      try await farm.heartbeat(.test("e1", capacity: capacity))
      let more = Shape(resources: Resources(cpuMillis: 1, memory: ByteCount(bytes.bytes + 1)))
      #expect(try await farm.acquire("a", shape: more) == nil)
      let exact = Shape(resources: Resources(cpuMillis: 1, memory: bytes))
      #expect(try await farm.acquire("b", shape: exact) != nil)
    }
  }

  @Test func aReleasedShareIsFreeAgain() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let whole = Shape(resources: .machine)
      let lease = try #require(try await farm.acquire("a", shape: whole))
      #expect(try await farm.acquire("b", shape: whole) == nil)
      #expect(try await farm.release(lease) == [.standard])
      // Again is no error and frees nothing twice, nor does the same twice in one call.
      #expect(try await farm.release(lease) == [])
      let next = try #require(try await farm.acquire("b", shape: whole))
      #expect(try await farm.acquire("c", shape: whole) == nil)
      #expect(try await farm.release(next, next) == [.standard])
      #expect(try await farm.acquire("d", shape: whole) != nil)
      #expect(try await farm.acquire("e", shape: whole) == nil)
    }
  }

  @Test func theSearchGoesOnBehindManyThatDoNotFit() async throws {
    try await Farm.with { farm in
      let names = (10..<35).map { ExecutorID("e\($0)") }
      for name in names { try await farm.heartbeat(.test(name)) }
      for (number, name) in names.enumerated() {
        let avoided = Shape(resources: .machine, avoid: Array(names.prefix(number)))
        // All have as much room, and the first by name comes first.
        let lease = try #require(try await farm.acquire("\(name)", shape: avoided))
        #expect(lease.executor == name)
        try await farm.release(lease)
      }
    }
  }

  @Test func theTightestExecutorIsChosen() async throws {
    try await Farm.with { farm in
      let sizes: [(ExecutorID, Int64, Int64)] = [
        ("large", 16_000, 64), ("tight", 2_000, 4), ("medium", 4_000, 8), ("tiny", 500, 64),
        ("memory", 2_000, 32),
      ]
      for (id, cpu, memory) in sizes {
        try await farm.heartbeat(
          .test(
            id, capacity: Resources(cpuMillis: cpu, memory: .gibibytes(memory), slots: 8)))
      }
      let shape = Shape(resources: Resources(cpuMillis: 2_000, memory: .gibibytes(4)))
      var order: [ExecutorID] = []
      for number in 0..<3 {
        order.append(try #require(try await farm.acquire("\(number)", shape: shape)).executor)
      }
      // Least free CPU that fits, then least free memory.
      #expect(order == ["tight", "memory", "medium"])
    }
  }

  @Test func everyLabelMustMatch() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("plain"))
      try await farm.heartbeat(.test("gpu", labels: ["gpu", "linux"]))
      try await farm.heartbeat(.test("both", labels: ["arm", "gpu", "linux"]))
      func executor(_ request: String, _ labels: [String]) async throws -> ExecutorID? {
        try await farm.acquire(request, shape: Shape(labels: labels, resources: .machine))?.executor
      }
      #expect(try await executor("a", ["gpu", "arm"]) == "both")
      #expect(try await executor("b", ["gpu", "arm"]) == nil)
      #expect(try await executor("c", ["linux"]) == "gpu")
      #expect(try await executor("d", ["linux"]) == nil)
      #expect(try await executor("e", []) == "plain")
      #expect(try await executor("f", ["windows"]) == nil)
    }
  }

  @Test func poolsAreApart() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1", pool: "arm"))
      #expect(try await farm.acquire("a") == nil)
      let shape = Shape(pool: "arm", resources: .small)
      #expect(try await farm.acquire("a", shape: shape)?.executor == "e1")
    }
  }

  @Test func aWarmExecutorIsPreferredToATighterOne() async throws {
    try await Farm.with { farm in
      let large = Resources(cpuMillis: 64_000, memory: .gibibytes(64), slots: 1)
      try await farm.heartbeat(.test("cold"))
      try await farm.heartbeat(.test("warm", capacity: large, warm: ["zlib", "lua"]))
      #expect(try await farm.acquire("a", project: "lua")?.executor == "warm")
      // Full: then any.
      #expect(try await farm.acquire("b", project: "lua")?.executor == "cold")
      #expect(try await farm.acquire("c", project: "other")?.executor == "cold")
    }
  }

  @Test func ofWarmExecutorsWithRoomTheTightestIsChosen() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("cold"))
      for (id, cpu, slots) in [("one", 8_000, 1), ("wide", 64_000, 8), ("tight", 32_000, 8)] {
        let capacity = Resources(cpuMillis: Int64(cpu), memory: .gibibytes(64), slots: Int32(slots))
        try await farm.heartbeat(.test(ExecutorID(id), capacity: capacity, warm: ["lua"]))
      }
      #expect(try await farm.acquire("a", project: "lua")?.executor == "one")
      // Which has CPU and memory left, and no slot.
      #expect(try await farm.acquire("b", project: "lua")?.executor == "tight")
      let large = Shape(resources: Resources(cpuMillis: 40_000, memory: .gibibytes(1), slots: 1))
      #expect(try await farm.acquire("c", shape: large, project: "lua")?.executor == "wide")
    }
  }

  @Test func aRequestThatIsTwiceInOneCallHasOneLease() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let demand = Demand(request: "a", project: "lua", shape: .small)
      let leases = try await farm.acquire([demand, demand])
      #expect(leases[0] != nil && leases[0] == leases[1])
      #expect(try await farm.executors().first?.leases.count == 1)
    }
  }

  /// An allocator of an earlier version keeps when an executor was heard in one place only.
  @Test func executorsOfAnEarlierVersionsTableAreAlive() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      _ = try await farm.client.send(RedisCommand("HDEL", "millrace:executor:e1", "heard"))
      _ = try await farm.client.send(RedisCommand("DEL", "millrace:room:default"))
      #expect(try await farm.acquire("a")?.executor == "e1")
    }
  }

  @Test func aProjectIsForgottenWithItsCache() async throws {
    try await Farm.with { farm in
      let large = Resources(cpuMillis: 64_000, memory: .gibibytes(64), slots: 8)
      try await farm.heartbeat(.test("cold"))
      try await farm.heartbeat(.test("was warm", capacity: large, warm: ["lua"]))
      try await farm.heartbeat(.test("was warm", capacity: large, warm: ["zlib"]))
      #expect(try await farm.acquire("a", project: "lua")?.executor == "cold")
      #expect(try await farm.acquire("b", project: "zlib")?.executor == "was warm")
    }
  }

  @Test func anExecutorToAvoidIsTheLastResort() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("a"))
      try await farm.heartbeat(.test("b"))
      let avoidA = Shape(resources: .machine, avoid: ["a"])
      #expect(try await farm.acquire("1", shape: avoidA)?.executor == "b")
      // The other one matches and is full: that is worth waiting for.
      #expect(try await farm.acquire("2", shape: avoidA) == nil)
      let avoidBoth = Shape(resources: .machine, avoid: ["a", "b"])
      #expect(try await farm.acquire("3", shape: avoidBoth)?.executor == "a")
    }
  }

  @Test func theOnlyExecutorIsUsedEvenIfToBeAvoided() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("only"))
      // One that could never do it does not count.
      try await farm.heartbeat(.test("small", capacity: .small))
      let shape = Shape(resources: .machine, avoid: ["only", "long gone"])
      #expect(try await farm.acquire("1", shape: shape)?.executor == "only")
    }
  }

  @Test func aDrainingOrSilentExecutorGetsNothing() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1", draining: true))
      #expect(try await farm.acquire("a") == nil)
      #expect(try await farm.recorded(.test("e1")).madeRoom)
      farm.clock.pass(.milliseconds(3_001))
      // Nobody swept: the choice itself looks.
      #expect(try await farm.acquire("a") == nil)
      #expect(try await farm.survey().groups.map(\.state) == [.suspect])
      #expect(try await farm.recorded(.test("e1")).madeRoom)
      #expect(try await farm.acquire("a") != nil)
    }
  }

  @Test func theSameRequestGetsTheSameLease() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let first = try #require(try await farm.acquire("a"))
      farm.clock.pass(.seconds(2))
      var again = try #require(try await farm.acquire("a"))
      #expect(again.expires == first.expires + .seconds(2))
      again.expires = first.expires
      #expect(again == first)
      try await farm.release(first)
      let next = try #require(try await farm.acquire("a"))
      #expect(next.token > first.token)
    }
  }

  @Test func concurrentClientsNeverLeaseAShareTwice() async throws {
    try await Farm.with { farm in
      let other = LeaseTable(
        client: try await Farm.connect(farm.server), policy: Policy(),
        clock: { farm.clock.time })
      let executors = 20
      for number in 0..<executors { try await farm.heartbeat(.test(ExecutorID("e\(number)"))) }

      let tables = [farm.table, other]
      let leases = try await withThrowingTaskGroup(of: [Lease?].self) { group in
        for worker in 0..<8 {
          group.addTask {
            var mine: [Lease?] = []
            for round in 0..<10 {
              let demands = (0..<3).map {
                Demand(
                  request: AttemptID("\(worker)/\(round)/\($0)"), project: "lua", shape: .small)
              }
              let leases = try await result {
                tables[worker % 2].acquire(
                  demands, pool: .standard, above: FencingToken(0), then: $0)
              }
              mine += leases
              // Some come back while the others ask.
              if let lease = leases[0], round % 2 == 0 {
                _ = try await result { tables[(worker + 1) % 2].release([lease.id], then: $0) }
                mine.removeAll { $0 == lease }
              }
            }
            return mine
          }
        }
        return try await group.reduce(into: []) { $0 += $1 }
      }.compactMap { $0 }
      #expect(leases.count == executors * 4, "every slot is in use, and none twice")
      #expect(Set(leases.map(\.id)).count == leases.count)
      #expect(Set(leases.map(\.token)).count == leases.count)
      for (executor, mine) in Dictionary(grouping: leases, by: \.executor) {
        #expect(mine.count == 4, "\(executor) has \(mine.count) leases on 4 slots")
      }
    }
  }

  @Test func theIndexIsRightAfterManyChanges() async throws {
    try await Farm.with { farm in
      var random = Seeded(state: 11)
      var capacities: [ExecutorID: Resources] = [:]
      for number in 0..<15 {
        let id = ExecutorID("e\(number)")
        let capacity = Resources(
          cpuMillis: Int64.random(in: 1...16, using: &random) * 500,
          memory: ByteCount(Int64.random(in: 1...(16 << 30), using: &random)),
          slots: Int32.random(in: 1...4, using: &random))
        capacities[id] = capacity
        try await farm.heartbeat(
          .test(id, labels: number % 3 == 0 ? ["odd"] : [], capacity: capacity))
      }
      var leases: [Lease] = []
      for step in 0..<600 {
        if leases.isEmpty || Int.random(in: 0..<5, using: &random) < 3 {
          let shape = Shape(
            labels: Bool.random(using: &random) ? ["odd"] : [],
            resources: Resources(
              cpuMillis: Int64.random(in: 0...4_000, using: &random),
              memory: ByteCount(Int64.random(in: 0...(4 << 30), using: &random))))
          // What the choice must be, from the leases alone.
          func free(_ id: ExecutorID) -> Resources {
            leases.filter { $0.executor == id }.reduce(capacities[id] ?? .none) {
              $0 - $1.resources
            }
          }
          func score(_ id: ExecutorID) -> (Int64, Int64, String) {
            (free(id).cpuMillis, free(id).memory.bytes >> 20, id.rawValue)
          }
          let candidates = capacities.keys.filter { id in
            free(id).fits(shape.resources)
              && (shape.labels.isEmpty || (Int(id.rawValue.dropFirst()) ?? 1) % 3 == 0)
          }
          let lease = try await farm.acquire("\(step)", shape: shape)
          #expect(lease?.executor == candidates.min { score($0) < score($1) }, "step \(step)")
          if let lease { leases.append(lease) }
        } else {
          let lease = leases.remove(at: Int.random(in: 0..<leases.count, using: &random))
          try await farm.release(lease)
        }
      }
      for lease in leases { try await farm.release(lease) }
      // All is as it was; nothing is left behind but what is remembered for a while.
      let whole = try await farm.executors()
      #expect(whole.allSatisfy { $0.leases.isEmpty && $0.capacity == capacities[$0.executor] })
      #expect(try await farm.client.send(RedisCommand("ZCARD", "millrace:due")) == .integer(0))
      let withRoom = try await farm.client.send(
        RedisCommand("ZCARD", "millrace:room:\(PoolName.standard.rawValue)"))
      #expect(withRoom == .integer(15))
    }
  }

  @Test func smallJobsDoNotStarveALargeOne() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      try await farm.heartbeat(.test("e2"))
      let whole = Shape(resources: Resources(cpuMillis: 4_000, memory: .gibibytes(2), slots: 1))
      // Seven of eight shares are taken, and one of e2 is free.
      var small: [Lease] = []
      for number in 1...7 { small.append(try #require(try await farm.acquire("s\(number)"))) }
      var large = Demand(request: "large", project: "lua", shape: whole)
      #expect(try await farm.acquire([large]) == [nil])
      // It waits for too long: e2, the roomiest, is kept free for it.
      large.reserves = true
      #expect(try await farm.acquire([large]) == [nil])
      #expect(try await farm.acquire("s8") == nil)
      for lease in small where lease.executor == "e2" {
        try await farm.release(lease)
        #expect(try await farm.acquire("again \(lease.id)") == nil)
      }
      // Another that starves does not take that away, and of e1 everybody may have what is free.
      let other = Demand(
        request: "other", project: "lua",
        shape: Shape(resources: Resources(cpuMillis: 3_500, memory: .gibibytes(2))), reserves: true)
      let onFirst = try #require(small.first { $0.executor == "e1" })
      try await farm.release(onFirst)
      #expect(try await farm.acquire([other]) == [nil])
      #expect(try await farm.acquire("s9")?.executor == "e1")
      #expect(try await farm.acquire([large])[0]?.executor == "e2")
    }
  }

  @Test func anExecutorIsKeptFreeOnlyAsLongAsSomebodyTries() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let small = try #require(try await farm.acquire("small"))
      let large = Demand(
        request: "large", project: "lua",
        shape: Shape(resources: Resources(cpuMillis: 4_000, memory: .gibibytes(2))), reserves: true)
      #expect(try await farm.acquire([large]) == [nil])
      #expect(try await farm.acquire("other") == nil)
      farm.clock.pass(.milliseconds(2_900))
      #expect(try await farm.acquire("other") == nil)
      farm.clock.pass(.milliseconds(200))
      try await farm.heartbeat(.test("e1", holding: [small]))
      #expect(try await farm.acquire("other") != nil)
    }
  }

  private static func whole(_ request: String, rank: Int64) -> [Demand] {
    [
      Demand(
        request: AttemptID(request), project: "lua", shape: Shape(resources: .machine), rank: rank)
    ]
  }

  @Test func roomIsTheSmallestRanksAtWhicheverAllocatorItWaits() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire(Self.whole("first", rank: 0))[0])
      #expect(try await farm.acquire(Self.whole("a", rank: 9), by: "a") == [nil])
      #expect(try await farm.acquire(Self.whole("b", rank: 5), by: "b") == [nil])
      try await farm.release(lease)
      #expect(try await farm.acquire(Self.whole("a", rank: 9), by: "a") == [nil])
      // What asks for something else is not held up.
      #expect(try await farm.acquire("small") != nil)
      let second = try #require(try await farm.executors().first?.leases.first)
      _ = try await result { farm.table.release([second.lease], then: $0) }
      var table = farm.table
      table.replica = "b"
      #expect(try await table.woken(over: farm.client) == .standard)
      let next = try #require(try await farm.acquire(Self.whole("b", rank: 5), by: "b")[0])
      try await farm.release(next)
      #expect(try await farm.acquire(Self.whole("a", rank: 9), by: "a")[0] != nil)
    }
  }

  @Test func anAllocatorThatDoesNotTakeItsTurnLosesIt() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire(Self.whole("first", rank: 0))[0])
      #expect(try await farm.acquire(Self.whole("b", rank: 5), by: "b") == [nil])
      try await farm.release(lease)
      #expect(try await farm.acquire(Self.whole("a", rank: 9), by: "a") == [nil])
      farm.clock.pass(.milliseconds(1_400))
      #expect(try await farm.acquire(Self.whole("a", rank: 9), by: "a") == [nil])
      farm.clock.pass(.milliseconds(200))
      #expect(try await farm.acquire(Self.whole("a", rank: 9), by: "a")[0] != nil)
    }
  }

  /// How often each command was called since the counts were reset.
  private static func calls(_ farm: Farm) async throws -> [String: Int] {
    let stats = try await farm.client.send(RedisCommand("INFO", "commandstats")).text ?? ""
    var calls: [String: Int] = [:]
    for line in stats.split(separator: "\r\n") where line.hasPrefix("cmdstat_") {
      // cmdstat_get:calls=3,usec=5,...
      let parts = line.dropFirst("cmdstat_".count).split { ":,".contains($0) }
      guard parts.count > 1, parts[1].hasPrefix("calls=") else { continue }
      calls[String(parts[0])] = Int(parts[1].dropFirst("calls=".count))
    }
    return calls
  }

  @Test func thousandsOfKindsThatWaitAreNotLookedThroughForEachDemand() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      func kinds(_ numbers: Range<Int64>, rank: Int64) -> [Demand] {
        numbers.map { number in
          let needs = Resources(cpuMillis: 5_000 + number, memory: .gibibytes(1))
          return Demand(
            request: AttemptID("k\(number)"), project: "lua", shape: Shape(resources: needs),
            rank: rank)
        }
      }
      /// The commands of four demands that find no room, and of a lease that comes and goes.
      func cost(_ name: String) async throws -> [String: Int] {
        _ = try await farm.client.send(RedisCommand("CONFIG", "RESETSTAT"))
        #expect(try await farm.acquire(kinds(0..<4, rank: 1), by: "a") == [nil, nil, nil, nil])
        let small = Demand(request: AttemptID(name), project: "lua", shape: .small)
        let lease = try #require(try await farm.acquire([small], by: "a")[0])
        try await farm.release(lease)
        return try await Self.calls(farm)
      }
      for replica in ["a", "b"] {
        _ = try await farm.acquire(kinds(0..<4, rank: 0), by: replica)
      }
      let before = try await cost("before")
      for replica in ["a", "b"] {
        for first in stride(from: Int64(4), to: 2_004, by: 16) {
          _ = try await farm.acquire(kinds(first..<first + 16, rank: 0), by: replica)
        }
      }
      let after = try await cost("after")
      // Not one that goes through all of them, and as many as without them.
      #expect(before["hgetall"] == nil && after["hgetall"] == nil)
      let (few, many) = (before.values.reduce(0, +), after.values.reduce(0, +))
      #expect(few > 0 && many <= few + 8, "\(before) became \(after)")
    }
  }

  /// Else what once waited would be kept as long as anything does.
  @Test func whatWaitsNoMoreIsForgottenWhileOthersWait() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      for number in Int64(0)..<2_000 {
        farm.clock.pass(.milliseconds(50))
        let needs = Resources(cpuMillis: 5_000 + number, memory: .gibibytes(1))
        let demand = Demand(
          request: AttemptID("\(number)"), project: "lua", shape: Shape(resources: needs))
        #expect(try await farm.acquire([demand], by: "a") == [nil])
      }
      // A hundred were tried within the last five seconds.
      let count = try await farm.client.send(RedisCommand("HLEN", "millrace:waits:default:a"))
      guard case .integer(let kept) = count else { throw Unexpected(description: "\(count)") }
      #expect((100...600).contains(kept))
      // The last one of all takes the allocator from those that others tell of room.
      farm.clock.pass(.seconds(6))
      let waiters = RedisCommand("ZCARD", "millrace:waiters:default")
      #expect(try await farm.client.send(waiters) == .integer(1))
      try await farm.heartbeat(.test("e1"))
      #expect(try await farm.acquire("small") != nil)
      #expect(try await farm.client.send(waiters) == .integer(0))
    }
  }

  @Test func largeFarmsAreNotScanned() async throws {
    try await Farm.with { farm in
      // 2,000 executors that are full, and one with room: the choice must not look at all of them.
      for number in 0..<2_000 {
        let id = ExecutorID("e\(number)")
        let lease = Lease(
          id: LeaseID("l\(number)"), executor: id, address: "a", resources: .machine,
          token: FencingToken(Int64(number + 1)), request: AttemptID("r\(number)"),
          expires: farm.clock.time)
        try await farm.heartbeat(.test(id, holding: [lease]))
      }
      try await farm.heartbeat(.test("free"))
      _ = try await farm.client.send(RedisCommand("CONFIG", "RESETSTAT"))
      #expect(try await farm.acquire("a", shape: Shape(resources: .machine))?.executor == "free")
      let stats = try await farm.client.send(RedisCommand("INFO", "commandstats")).text ?? ""
      let calls = stats.split(separator: "\n").compactMap { line -> Int? in
        guard let calls = line.split(separator: ":").last?.split(separator: ",").first else {
          return nil
        }
        return Int(calls.dropFirst("calls=".count))
      }
      #expect(calls.reduce(0, +) < 60, "one choice took \(stats)")
    }
  }

  @Test func executorsOfTooLittleMemoryAreNoScan() async throws {
    try await Farm.with { farm in
      // As much free CPU as is asked for, and a little less memory: one bucket of the index.
      let capacity = Resources(cpuMillis: 4_000, memory: .gibibytes(5), slots: 4)
      for number in 1...300 {
        try await farm.heartbeat(.test(ExecutorID("e\(number)"), capacity: capacity))
      }
      let shape = Shape(resources: Resources(cpuMillis: 1_000, memory: .gibibytes(6)))
      func searches() async throws -> Int {
        let stats = try await farm.client.send(RedisCommand("INFO", "commandstats")).text ?? ""
        let line = stats.split(separator: "\r\n").first { $0.hasPrefix("cmdstat_zrangebyscore:") }
        let calls = line?.split { ":,".contains($0) }.first { $0.hasPrefix("calls=") }
        return Int(calls?.dropFirst("calls=".count) ?? "") ?? 0
      }
      let before = try await searches()
      #expect(try await farm.acquire("a", shape: shape) == nil)
      #expect(try await searches() - before <= 2)
      // One that has it is found, among all of those.
      try await farm.heartbeat(
        .test("roomy", capacity: Resources(cpuMillis: 4_000, memory: .gibibytes(7), slots: 4)))
      #expect(try await farm.acquire("b", shape: shape)?.executor == "roomy")
    }
  }

  @Test func aShareOfNothingTakesASlotAndGivesItBack() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let nothing = Shape(resources: Resources(cpuMillis: 0, memory: ByteCount(0), slots: 1))
      var leases: [Lease] = []
      for request in ["a", "b", "c", "d"] {
        leases.append(try #require(try await farm.acquire(request, shape: nothing)))
      }
      #expect(try await farm.acquire("e", shape: nothing) == nil)
      #expect(try await farm.recorded(.test("e1", holding: leases)).stop.isEmpty)
      for lease in leases { try await farm.release(lease) }
      // Of an earlier table, it is brought back as it is.
      try await farm.flush()
      _ = try await farm.recorded(.test("e1", holding: [leases[0]]))
      for request in ["f", "g", "h"] {
        #expect(try await farm.acquire(request, shape: nothing) != nil)
      }
      #expect(try await farm.acquire("i", shape: nothing) == nil)
    }
  }

  @Test func whatARunnerSaysItHoldsIsNoAnswerToADemand() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("good", labels: ["secret"]))
      var forged = try #require(try await farm.acquire("x", shape: Shape(resources: .small)))
      try await farm.release(forged)
      (forged.id, forged.request) = ("forged", "a")
      _ = try await farm.recorded(
        .test("liar", pool: "elsewhere", capacity: .small, holding: [forged]))
      let shape = Shape(labels: ["secret"], resources: .small)
      #expect(try await farm.acquire("a", shape: shape)?.executor == "good")
    }
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
