import Domain
import ExecutorAllocatorCore
import ExecutorAllocatorService
import RedisClient
import RedisWire
import Testing

@Suite(.needsRedis, .timeLimit(.minutes(1))) struct LivenessTests {
  @Test func aLeaseThatNobodyTakesUpExpires() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      try await farm.sweep()
      _ = try await farm.attend(.seconds(5), heartbeats: [.test("e1")])
      let lease = try #require(try await farm.acquire("a", shape: Shape(resources: .machine)))
      #expect(try await farm.attend(.milliseconds(9_500), heartbeats: [.test("e1")]).isEmpty)
      let ended = try await farm.attend(.milliseconds(500), heartbeats: [.test("e1")])
      #expect(ended.map(\.id) == [lease.id] && ended.map(\.cause) == [.expired])
      #expect(ended[0].message == "executor e1 does not hold its job")
      #expect(try await farm.acquire("b", shape: Shape(resources: .machine)) != nil)
      // Should the runner come with it now, it is to stop.
      let late = try await farm.recorded(.test("e1", holding: [lease]))
      #expect(late.stop == [lease.id])
    }
  }

  @Test func aLeaseThatTheRunnerConfirmsLastsAsLongAsItDoes() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire("a"))
      let holding = Heartbeat.test("e1", holding: [lease])
      #expect(try await farm.attend(.seconds(60), heartbeats: [holding]).isEmpty)
      #expect(try await farm.check(lease) == [.held])
      // Held no longer, and not released: it ends when the scheduler had time to release it.
      #expect(try await farm.attend(.seconds(10), heartbeats: [.test("e1")]).isEmpty)
      let ended = try await farm.attend(.milliseconds(500), heartbeats: [.test("e1")])
      #expect(ended.map(\.cause) == [.expired])
    }
  }

  @Test func aSilentExecutorIsSuspectThenLostWithItsLeases() async throws {
    try await Farm.with { farm in
      try await farm.sweep()
      _ = try await farm.attend(.seconds(5), heartbeats: [.test("e1"), .test("e2")])
      let lease = try #require(try await farm.acquire("a"))
      let other = Heartbeat.test("e2")
      try await farm.heartbeat(.test("e1", holding: [lease]))

      #expect(try await farm.attend(.seconds(3), heartbeats: [other]).isEmpty)
      #expect(Set(try await farm.survey().groups.map(\.state)) == [.ready])
      #expect(try await farm.attend(.milliseconds(500), heartbeats: [other]).isEmpty)
      #expect(Set(try await farm.survey().groups.map(\.state)) == [.ready, .suspect])
      #expect(try await farm.attend(.milliseconds(1_500), heartbeats: [other]).isEmpty)
      let ended = try await farm.attend(.milliseconds(500), heartbeats: [other])
      #expect(
        ended == [
          EndedLease(
            id: lease.id, request: "a", executor: "e1", cause: .executorLost,
            message: "executor e1 was silent for 5.5 s")
        ])
      #expect(try await farm.executors().map(\.executor) == ["e2"])
      #expect(
        try await farm.check(lease)
          == [.ended(.executorLost, message: "executor e1 was silent for 5.5 s")])
      // Its return is a fresh start: what it still runs is to stop.
      let back = try await farm.recorded(.test("e1", holding: [lease]))
      #expect(back.stop == [lease.id] && back.madeRoom)
    }
  }

  @Test func anAllocatorThatWasAwayExcusesTheExecutors() async throws {
    try await Farm.with { farm in
      try await farm.sweep()
      _ = try await farm.attend(.seconds(5), heartbeats: [.test("e1")])
      let lease = try #require(try await farm.acquire("a"))
      let holding = Heartbeat.test("e1", holding: [lease])
      try await farm.heartbeat(holding)
      // Redis hung, or every allocator was dead: nobody could report.
      farm.clock.pass(.seconds(600))
      #expect(try await farm.sweep().ended.isEmpty)
      #expect(try await farm.attend(.seconds(2)).isEmpty)
      #expect(try await farm.recorded(holding).stop.isEmpty)
      #expect(try await farm.attend(.seconds(10), heartbeats: [holding]).isEmpty)
      // Excused once, not for ever.
      #expect(try await farm.attend(.seconds(6)).map(\.id) == [lease.id])
    }
  }

  @Test func aRestartAtTheSameAddressIsTakenAtOnceAndItsOldLeasesEnd() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire("a"))
      try await farm.heartbeat(.test("e1", holding: [lease]))
      let restarted = try await farm.recorded(.test("e1", incarnation: "2"))
      #expect(restarted.ended.map(\.cause) == [.executorRestarted])
      #expect(restarted.ended.map(\.id) == [lease.id])
      #expect(restarted.madeRoom)
      #expect(try await farm.acquire("b", shape: Shape(resources: .machine)) != nil)
    }
  }

  @Test func ofTwoProcessesOfOneNameAndAddressTheNewerOneStays() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let second = Heartbeat.test("e1", incarnation: "2")
      _ = try await farm.recorded(second)
      let lease = try #require(try await farm.acquire("a"))
      // The older one is heard again and again, and ends nothing of the other's.
      for _ in 0..<100 {
        farm.clock.pass(.seconds(1))
        #expect(
          try await farm.heartbeat(.test("e1"))
            == .duplicate(address: "e1:1", silentFor: .seconds(1)))
        let holding = Heartbeat.test("e1", incarnation: "2", holding: [lease])
        #expect(try await farm.recorded(holding).ended.isEmpty)
      }
      // Once that one is gone it may have the name.
      farm.clock.pass(.seconds(5))
      #expect(try await farm.recorded(.test("e1")).ended.map(\.id) == [lease.id])
    }
  }

  @Test func noClockThatGoesBackKeepsWhatIsSilent() async throws {
    try await Farm.with { farm in
      _ = try await farm.sweep()
      try await farm.heartbeat(.test("e1"))
      try await farm.heartbeat(.test("e2"))
      let lease = try #require(try await farm.acquire("a"))
      let other: ExecutorID = lease.executor == "e1" ? "e2" : "e1"
      farm.clock.pass(.seconds(-3_600))
      // Heard in times to come: for all that is known, now. Nobody excuses it for an hour.
      let ended = try await farm.attend(.seconds(6), heartbeats: [.test(other)])
      #expect(ended.map(\.id) == [lease.id])
      #expect(try await farm.executors().map(\.executor) == [other])
      // And a grant that no runner confirms ends in its time.
      let next = try #require(try await farm.acquire("b"))
      farm.clock.pass(.seconds(-3_600))
      let late = try await farm.attend(.seconds(12), heartbeats: [.test(other)])
      #expect(late.map(\.id) == [next.id])
    }
  }

  @Test func aTokenThatNobodyGaveOutPoisonsNoOther() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire("a"))
      let lead = Int64(86_400) * 1_000_000
      let limit = FencingToken(farm.clock.time.microseconds + lead)
      var forged = lease
      forged.id = "forged"
      forged.token = FencingToken(1 << 52)
      #expect(
        try await farm.heartbeat(.test("e2", holding: [lease, forged]))
          == .tokenAhead("forged", forged.token, limit: limit))
      // Nothing of it was taken.
      #expect(try await farm.executors().map(\.executor) == ["e1"])
      // Even at the limit, new tokens are larger and their heartbeats are taken.
      forged.token = limit
      #expect(try await farm.recorded(.test("e2", holding: [forged])).stop.isEmpty)
      let next = try #require(try await farm.acquire("b"))
      #expect(next.token > limit)
      #expect(
        try await farm.recorded(Heartbeat.test(next.executor, holding: [next])).stop.isEmpty)
      #expect(try await farm.heartbeat(.test("e3", holding: [lease])) != .deregistered)
    }
  }

  @Test func aSecondProcessOfTheNameIsTurnedAwayWhileTheFirstIsAlive() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let second = Heartbeat.test("e1", incarnation: "2", address: "elsewhere:1")
      farm.clock.pass(.milliseconds(4_999))
      #expect(
        try await farm.heartbeat(second)
          == .duplicate(address: "e1:1", silentFor: .milliseconds(4_999)))
      // It changed nothing.
      #expect(try await farm.executors().map(\.address) == ["e1:1"])
      farm.clock.pass(.milliseconds(1))
      #expect(try await farm.recorded(second).madeRoom)
      #expect(try await farm.executors().map(\.address) == ["elsewhere:1"])
    }
  }

  @Test func anExecutorThatIsTakenOutStaysOut() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire("a"))
      let other: [EndedLease] = try await result {
        farm.table.deregister("e1", incarnation: "another", then: $0)
      }
      #expect(other.isEmpty)
      let ended = try await result { farm.table.deregister("e1", incarnation: "1", then: $0) }
      #expect(ended.map(\.id) == [lease.id])
      // A heartbeat of it that was on the way.
      #expect(try await farm.heartbeat(.test("e1")) == .deregistered)
      #expect(try await farm.executors().isEmpty)
      #expect(try await farm.recorded(.test("e1", incarnation: "2")).madeRoom)
    }
  }

  @Test func aChangedCapacityCountsAtOnce() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1", capacity: .small))
      let lease = try #require(try await farm.acquire("a"))
      #expect(try await farm.acquire("b") == nil)
      let larger = Heartbeat.test("e1", holding: [lease])
      #expect(try await farm.recorded(larger).madeRoom)
      #expect(try await farm.recorded(larger).madeRoom == false)
      #expect(try await farm.acquire("b") != nil)
      // Below what is leased: no more, and no harm.
      try await farm.heartbeat(.test("e1", capacity: .small, holding: [lease]))
      #expect(try await farm.acquire("c") == nil)
    }
  }

  @Test func theSurveyCountsKindsAndRemembersThoseThatLeft() async throws {
    try await Farm.with { farm in
      try await farm.sweep()
      let began = farm.clock.time
      try await farm.heartbeat(.test("a", labels: ["gpu"]))
      try await farm.heartbeat(.test("b"))
      try await farm.heartbeat(.test("c", draining: true))
      try await farm.heartbeat(.test("d"))
      var survey = try await farm.survey()
      #expect(survey.liveSince == began && survey.departed.isEmpty)
      #expect(
        Set(survey.groups) == [
          .init(labels: ["gpu"], capacity: .machine, count: 1),
          .init(labels: [], capacity: .machine, count: 2),
          .init(labels: [], capacity: .machine, state: .draining, count: 1),
        ])
      _ = try await farm.attend(.seconds(12), heartbeats: [.test("b")])
      survey = try await farm.survey()
      #expect(survey.groups == [.init(labels: [], capacity: .machine, count: 1)])
      #expect(survey.departed.contains(.init(labels: ["gpu"], capacity: .machine, count: 1)))
      farm.clock.pass(.seconds(590))
      #expect(try await !farm.survey().departed.isEmpty)
      farm.clock.pass(.seconds(11))
      #expect(try await farm.survey().departed.isEmpty)
      #expect(try await farm.survey("nowhere").liveSince == nil)
    }
  }

  @Test func whatLeasesTakeIsSummedUpByPool() async throws {
    try await Farm.with { farm in
      for number in 1...101 {
        try await farm.heartbeat(.test(ExecutorID("e\(1_000 + number)")))
      }
      try await farm.heartbeat(.test("f1", pool: "arm"))
      for number in 1...3 { _ = try await farm.acquire("\(number)") }
      let first: UsagePage = try await result { farm.table.usage(behind: "", then: $0) }
      #expect(first.last == "e1100" && first.pools[.standard]?.executors == 100)
      #expect(
        first.pools[.standard]?.leased
          == Resources(cpuMillis: 3_000, memory: .gibibytes(3), slots: 3))
      let second: UsagePage = try await result { farm.table.usage(behind: "e1100", then: $0) }
      let machine = PoolUsage(executors: 1, capacity: .machine, leased: .none)
      #expect(second.pools == [.standard: machine, "arm": machine])
      #expect(second.last == "f1")
      let end: UsagePage = try await result { farm.table.usage(behind: "f1", then: $0) }
      #expect(end == UsagePage(pools: [:], last: nil))
    }
  }

  @Test func executorsAreListedByPage() async throws {
    try await Farm.with { farm in
      for name in ["c", "a", "b"] {
        try await farm.heartbeat(.test(ExecutorID(name), labels: ["x", "y"]))
      }
      let lease = try #require(try await farm.acquire("r"))
      var names: [ExecutorID] = []
      var behind: String? = ""
      while let name = behind {
        let page = try await result {
          farm.table.list(pool: "default", behind: name, count: 2, then: $0)
        }
        names += page.executors.map(\.executor)
        behind = page.last
        for executor in page.executors {
          #expect(executor.labels == ["x", "y"] && executor.capacity == .machine)
          #expect(executor.leases.map(\.lease) == (executor.executor == "a" ? [lease.id] : []))
        }
      }
      #expect(names == ["a", "b", "c"])
      let none = try await result {
        farm.table.list(pool: "other", behind: "", count: 2, then: $0)
      }
      #expect(none.executors.isEmpty)
    }
  }
}

@Suite(.needsRedis, .timeLimit(.minutes(1))) struct EmptiedRedisTests {
  @Test func tokensGrowAcrossAFlushEvenIfTheClockWentBack() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let before = try #require(try await farm.acquire("a"))
      try await farm.flush()
      // Another machine's clock, an hour behind.
      farm.clock.pass(.seconds(-3_600))
      try await farm.heartbeat(.test("e2", holding: [before]))
      let after = try #require(try await farm.acquire("b"))
      #expect(after.token > before.token)
      // The allocator's own memory does as well as a heartbeat.
      try await farm.flush()
      try await farm.heartbeat(.test("e3"))
      let demand = Demand(request: "c", project: "lua", shape: .small)
      let last = try #require(try await farm.acquire([demand], above: after.token.rawValue)[0])
      #expect(last.token > after.token)
    }
  }

  @Test func anExecutorIsGivenNoTokenThatItHasSeen() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let before = try #require(try await farm.acquire("a"))
      try await farm.release(before)
      // Nothing runs any more that could tell, and the clock is an hour behind.
      try await farm.flush()
      farm.clock.pass(.seconds(-3_600))
      try await farm.heartbeat(.test("e1", newestToken: before.token))
      let after = try #require(try await farm.acquire("b"))
      #expect(after.token > before.token)

      let made = FencingToken(1 << 52)
      guard
        case .tokenAhead(nil, made, _) = try await farm.heartbeat(.test("e1", newestToken: made))
      else { throw Unexpected(description: "a token that nobody gave out was believed") }
    }
  }

  @Test func aLeaseOfATableThatWasLostIsNoneOfTheNewOnes() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let old = try #require(try await farm.acquire("a"))
      try await farm.flush()
      // Another executor's jobs bring the new table's tokens beyond the old lease's, which its own
      // runner has not reported yet.
      farm.clock.pass(.seconds(-60))
      try await farm.heartbeat(.test("e2"))
      farm.clock.pass(.seconds(120))
      try await farm.heartbeat(.test("e2"))
      let new = try #require(try await farm.acquire("b"))
      #expect(new.token > old.token && new.id != old.id)
      #expect(try await farm.recorded(.test("e1", holding: [old])).stop.isEmpty)
      #expect(try await farm.check(old, new) == [.held, .held])
    }
  }

  @Test func heartbeatsBringBackWhatRunnersHold() async throws {
    try await Farm.with { farm in
      try await farm.sweep()
      try await farm.heartbeat(.test("e1"))
      try await farm.heartbeat(.test("e2", labels: ["gpu"]))
      let first = try #require(try await farm.acquire("a"))
      let second = try #require(try await farm.acquire("b"))
      try await farm.heartbeat(.test("e1", holding: [first, second]))
      try await farm.flush()
      #expect(try await farm.acquire("c") == nil)

      // One second later all have reported.
      farm.clock.pass(.seconds(1))
      let healed = try await farm.recorded(.test("e1", holding: [first, second]))
      #expect(healed.stop.isEmpty && healed.ended.isEmpty && healed.madeRoom)
      try await farm.heartbeat(.test("e2", labels: ["gpu"]))
      #expect(try await farm.check(first, second) == [.held, .held])
      let three = Shape(
        resources: Resources(cpuMillis: 1_000, memory: .gibibytes(1), slots: 3))
      // The shares that they hold are taken: two slots of e1 are left.
      #expect(try await farm.acquire("c", shape: three)?.executor == "e2")
      #expect(try await farm.acquire("d", shape: three) == nil)
      // And they are free again after a release, each once.
      try await farm.release(first, second)
      #expect(try await farm.acquire("d", shape: three)?.executor == "e1")
    }
  }

  @Test func nothingIsDeclaredLostBeforeTheExecutorsHadTimeToReport() async throws {
    try await Farm.with { farm in
      try await farm.sweep()
      try await farm.heartbeat(.test("e1"))
      let held = try #require(try await farm.acquire("a"))
      let lost = try #require(try await farm.acquire("b"))
      try await farm.heartbeat(.test("e1", holding: [held, lost]))
      try await farm.flush()
      #expect(try await farm.check(held, lost) == [.unknownYet, .unknownYet])
      #expect(try await farm.attend(.seconds(4)).isEmpty)
      #expect(try await farm.check(held, lost) == [.unknownYet, .unknownYet])
      let report = Heartbeat.test("e1", holding: [held])
      #expect(try await farm.recorded(report).stop.isEmpty)
      #expect(try await farm.attend(.seconds(2), heartbeats: [report]).isEmpty)
      #expect(
        try await farm.check(held, lost)
          == [.held, .ended(.expired, message: "executor e1 does not hold its job")])
    }
  }

  @Test func amongManyLeasesThoseThatAreOverAreFound() async throws {
    try await Farm.with { farm in
      try await farm.sweep()
      var held: [HeldByScheduler] = []
      for number in 0..<60 {
        let executor = ExecutorID("e\(number)")
        try await farm.heartbeat(.test(executor))
        for share in 0..<4 {
          let lease = try #require(try await farm.acquire("\(number)/\(share)"))
          held.append(
            HeldByScheduler(lease: lease.id, request: lease.request, executor: lease.executor))
        }
      }
      let over = [0, 99, 100, 239]
      let leases = over.map { held[$0].lease }
      let _: [PoolName] = try await result { farm.table.release(leases, then: $0) }
      let standings: [LeaseStanding] = try await result { farm.table.check(held, then: $0) }
      for (place, standing) in standings.enumerated() {
        let message = "its scheduler gave it back"
        #expect(standing == (over.contains(place) ? .ended(.released, message: message) : .held))
      }
    }
  }

  @Test func aLeaseOfAnExecutorThatNeverCameBackIsLost() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire("a"))
      try await farm.flush()
      _ = try await farm.attend(.seconds(6))
      #expect(
        try await farm.check(lease) == [.ended(.executorLost, message: "executor e1 is not known")])
    }
  }

  @Test func aLeaseThatWasReleasedBeforeItsRunnerReportedStaysReleased() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire("a"))
      try await farm.flush()
      farm.clock.pass(.seconds(1))
      try await farm.release(lease)
      let record = try await farm.recorded(.test("e1", holding: [lease]))
      #expect(record.stop == [lease.id])
      #expect(try await farm.acquire("b", shape: Shape(resources: .machine)) != nil)
    }
  }

  @Test func aLeaseOfThisTableThatItDoesNotKnowIsStopped() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire("a"))
      try await farm.release(lease)
      // Even when the end of it is forgotten.
      _ = try await farm.client.send(RedisCommand("DEL", "millrace:ended:\(lease.id)"))
      let record = try await farm.recorded(.test("e1", holding: [lease]))
      #expect(record.stop == [lease.id])
    }
  }

  @Test func aLeaseOnAnotherExecutorIsStopped() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire("a"))
      let record = try await farm.recorded(.test("e2", holding: [lease]))
      #expect(record.stop == [lease.id])
      #expect(try await farm.check(lease) == [.held])
    }
  }

  @Test func aLeaseThatWasOnItsWayWhenRedisWasEmptiedIsTakenBackIn() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      let lease = try #require(try await farm.acquire("a", shape: Shape(resources: .machine)))
      try await farm.flush()
      farm.clock.pass(.seconds(1))
      // The runner has not got the job yet; its share is given out again.
      try await farm.heartbeat(.test("e1"))
      let second = try #require(try await farm.acquire("b", shape: Shape(resources: .machine)))
      // Now it has both: more than it can. The runner is the judge of that; the table only sees
      // that there is no room, and is right again when one of them ends.
      try await farm.heartbeat(.test("e1", holding: [lease, second]))
      #expect(try await farm.acquire("c") == nil)
      try await farm.release(second)
      #expect(try await farm.acquire("c") == nil)
      try await farm.release(lease)
      #expect(try await farm.acquire("c") != nil)
    }
  }

  /// The service refuses such a label; one that an older allocator took must not end the pool with it.
  @Test func anExecutorWhoseLabelIsTheNameOfAllLeavesAlone() async throws {
    try await Farm.with { farm in
      try await farm.heartbeat(.test("e1"))
      try await farm.heartbeat(.test("star", labels: ["*"]))
      _ = try await result { farm.table.deregister("star", incarnation: "1", then: $0) }
      for request in ["a", "b", "c", "d"] {
        #expect(try await farm.acquire(request)?.executor == "e1")
      }
    }
  }

  /// As a Redis does that has too little memory, and throws away what it likes.
  @Test(arguments: [
    ["buckets:default:*"], ["buckets:default:gpu"], ["free:default:13:*"], ["free:default:13:gpu"],
    ["room:default"], ["names"], ["executors"], ["classes:default"], ["groups:default"],
    ["pool:default"],
    ["pools"], ["executor:e1"], ["executor:e1", "held:e1"],
    [
      "buckets:default:*", "buckets:default:gpu", "free:default:13:*", "classes:default",
      "groups:default",
    ],
  ])
  func aPartOfTheTableThatIsLostComesBackWithHeartbeats(keys: [String]) async throws {
    try await Farm.with { farm in
      try await farm.sweep()
      _ = try await farm.attend(
        .seconds(5),
        heartbeats: [.test("e1", labels: ["gpu"]), .test("e2", labels: ["gpu"]), .test("e3")])
      let most = Resources(cpuMillis: 3_000, memory: .gibibytes(1))
      let gpu = Shape(labels: ["gpu"], resources: most)
      let lease = try #require(try await farm.acquire("a", shape: gpu))
      #expect(lease.executor == "e1")
      let heartbeats: [Heartbeat] = [
        .test("e1", labels: ["gpu"], holding: [lease]), .test("e2", labels: ["gpu"]), .test("e3"),
      ]
      #expect(try await farm.attend(.seconds(5), heartbeats: heartbeats).isEmpty)
      let before = try await farm.survey()
      for key in keys { _ = try await farm.client.send(RedisCommand("DEL", "millrace:\(key)")) }
      #expect(try await farm.attend(.seconds(31), heartbeats: heartbeats).isEmpty)
      // All is as it was, and e1 has no room for another.
      #expect(Set(try await farm.survey().groups) == Set(before.groups))
      #expect(try await farm.executors().map(\.leases.count) == [1, 0, 0])
      #expect(try await farm.acquire("b", shape: gpu)?.executor == "e2")
      #expect(try await farm.acquire("c", shape: gpu) == nil)
      #expect(try await farm.acquire("d", shape: Shape(resources: most))?.executor == "e3")
      #expect(try await farm.acquire("e", shape: Shape(resources: most)) == nil)
      // The counts are right too: nobody takes the index of those that stay along.
      _ = try await result { farm.table.deregister("e1", incarnation: "1", then: $0) }
      #expect(try await farm.acquire("f", shape: Shape(labels: ["gpu"], resources: .small)) != nil)
    }
  }

  @Test func allKeysHaveTheProjectsPrefixAndAnEmptyFarmKeepsNoExecutors() async throws {
    try await Farm.with { farm in
      try await farm.sweep()
      try await farm.heartbeat(.test("e1", labels: ["x"], warm: ["lua"]))
      _ = try #require(try await farm.acquire("a"))
      _ = try await farm.attend(.seconds(12))
      let keys = try await farm.client.send(RedisCommand("KEYS", "*")).elements ?? []
      let names = Set(keys.compactMap(\.text).map { $0.split(separator: ":").prefix(2).last ?? "" })
      #expect(keys.allSatisfy { $0.text?.hasPrefix("millrace:") == true })
      #expect(
        names.isSubset(of: ["nonce", "token", "swept", "grace", "counted", "departed", "ended"]))
    }
  }
}
