import Domain
import SchedulerCore
import Testing

/// Two projects in two partitions.
private let (here, there): (ProjectID, ProjectID) = ("lua", "git.example/team/app")
private let (hereIn, thereIn) = (Partition(of: here), Partition(of: there))

@Test
func whatIsNotOwnedIsRefused() {
  var bench = Bench()
  bench.feed { $0.partitionsLost([thereIn], at: $1) }
  let waiter = bench.submit("b", project: there, pipeline(job("a")))
  #expect(bench.take().answers[waiter]?.isUnavailable == true)
  #expect(bench.store.isEmpty)
  let other = bench.submit("c", project: here, pipeline(job("a")))
  #expect(bench.take().answers[other]?.record != nil)
}

@Test
func aBuildOfAnothersIsNotTouchedThoughItsRecordIsRead() {
  var bench = Bench()
  _ = bench.submit("b", project: there, pipeline(job("a")))
  bench.feed { $0.partitionsLost([thereIn], at: $1) }
  _ = bench.take()
  let before = bench.store["b"]
  let waiter = bench.cancel("b")
  #expect(bench.take().answers[waiter]?.isUnavailable == true)
  #expect(bench.store["b"] == before && bench.scheduler.buildCount == 0)
}

@Test
func whatIsLostIsDroppedAndItsCallersAreToldSo() {
  var bench = Bench()
  _ = bench.submit("kept", project: here, pipeline(job("a")))
  _ = bench.submit("gone", project: there, pipeline(job("a", legs: ["1", "2"])))
  _ = bench.grant()
  _ = bench.grant()
  bench.holdsWrites = true
  let waiter = bench.cancel("gone")
  _ = bench.take()
  bench.feed { $0.partitionsLost([thereIn], at: $1) }
  let effects = bench.take()
  #expect(effects.answers[waiter]?.isUnavailable == true)
  #expect(effects.contains(.moved("gone")))
  // Runners keep what they run: it is the next owner's.
  #expect(effects.stops.isEmpty && effects.releases.isEmpty)
  #expect(bench.scheduler.buildCount == 1 && bench.scheduler.shown("kept") != nil)
}

@Test
func aClosingPartitionBeginsNothingAndLetsGoOfWhatIsQuiet() {
  var bench = Bench()
  _ = bench.submit("waits", project: there, pipeline(job("a")))
  bench.holdsWrites = true
  let waiter = bench.submit("new", project: there, pipeline(job("a")))
  _ = bench.take()
  bench.feed { $0.partitionsClosing([thereIn], at: $1) }
  // What waited quietly is gone, what is being written is not.
  #expect(bench.scheduler.buildCount == 1)
  #expect(bench.scheduler.closedPartitions().isEmpty)
  let late = bench.submit("late", project: there, pipeline(job("a")))
  #expect(bench.take().answers[late]?.isUnavailable == true)
  bench.holdsWrites = false
  bench.release()
  let effects = bench.take()
  #expect(effects.answers[waiter]?.record != nil && effects.demands.isEmpty)
  #expect(bench.scheduler.closedPartitions() == [thereIn])
  #expect(bench.scheduler.closedPartitions().isEmpty && bench.scheduler.queueDepth == 0)
  // The next owner has both.
  bench.restart()
  #expect(bench.scheduler.queueDepth == 2)
}

@Test
func anAttemptIsLetGoOfOnceItsRunnerHasIt() {
  var bench = Bench()
  _ = bench.submit("b", project: there, pipeline(job("a")))
  _ = bench.grant()
  _ = bench.take()
  bench.feed { $0.partitionsClosing([thereIn], at: $1) }
  #expect(bench.scheduler.buildCount == 1)
  bench.feed {
    $0.received(RunnerEvent(sequence: 1, time: $1, what: .accepted), of: "b/a/1", at: $1)
  }
  #expect(bench.take().contains(.detach("b/a/1")))
  #expect(bench.scheduler.closedPartitions() == [thereIn])
  bench.restart()
  #expect(bench.take().attaches == ["b/a/1"])
}

/// What has a lease from a build that is given away does not lose it: the end that it waited for is durable.
@Test
func aLeaseThatHasGoneOnOutlivesAHandOver() {
  var bench = Bench()
  _ = bench.submit("b", project: there, pipeline(job("a"), job("z", needs: ["a"])))
  _ = bench.submit("c", project: here, pipeline(job("a")))
  _ = bench.grant { $0.project == there }
  _ = bench.take()
  bench.holdsWrites = true
  bench.end("b/a/1", isLeaseReusable: true)
  bench.feed { $0.partitionsClosing([thereIn], at: $1) }
  #expect(bench.heldWrites.map(\.0.id) == ["b", "c"])
  bench.holdsWrites = false
  bench.release()
  let effects = bench.take()
  #expect(bench.scheduler.closedPartitions() == [thereIn])
  #expect(effects.runs.map(\.attempt) == ["c/a/1"])
  #expect(effects.releases == [])
}

@Test
func theNextOfAGroupIsNotLetGoByAHandOver() {
  var bench = Bench()
  _ = bench.submit("first", project: there, grouped)
  bench.advance(.seconds(1))
  _ = bench.submit("second", project: there, grouped)
  bench.feed { $0.partitionsClosing([thereIn], at: $1) }
  #expect(bench.scheduler.closedPartitions() == [thereIn])
  #expect(bench.record("second").jobs[0].state == .blocked)
  bench.restart()
  #expect(bench.scheduler.queueDepth == 1)
}

@Test
func partitionsAreTakenOneAfterTheOther() {
  var bench = Bench()
  _ = bench.submit("b", project: here, pipeline(job("a")))
  _ = bench.submit("c", project: there, pipeline(job("a")))
  let store = bench.store
  bench.scheduler = Scheduler(owner: "two", owning: [])
  bench.feed { scheduler, _ in
    scheduler.partitionsTaken([hereIn])
    return []
  }
  // Records of others' partitions may come along.
  for stored in store.values { bench.feed { $0.recovered(stored, at: $1) } }
  bench.feed { $0.recoveryFinished(of: [hereIn], at: $1) }
  #expect(bench.scheduler.buildCount == 1 && bench.scheduler.queueDepth == 1)
  bench.feed { scheduler, _ in
    scheduler.partitionsTaken([thereIn])
    return []
  }
  for stored in store.values { bench.feed { $0.recovered(stored, at: $1) } }
  bench.feed { $0.recoveryFinished(of: [thereIn], at: $1) }
  #expect(bench.scheduler.buildCount == 2 && bench.scheduler.queueDepth == 2)
}

@Test
func aRecordOfAnEarlierVersionIsWrittenAnew() {
  var bench = Bench()
  _ = bench.submit("b", project: here, pipeline(job("a")))
  let version = bench.store["b"]!.version
  var outdated = bench.store["b"]!
  outdated.isOutdated = true
  bench.scheduler = Scheduler(owner: "two")
  bench.feed { $0.recovered(outdated, at: $1) }
  bench.feed { $0.recoveryFinished(at: $1) }
  #expect(bench.store["b"]!.version > version)
  #expect(bench.scheduler.queueDepth == 1)
}

// MARK: Explanations

@Test
func aPlaceInTheQueueIsThatOfTheOrder() throws {
  var bench = Bench()
  _ = bench.submit("busy", project: "p", pipeline(job("a", legs: ["1", "2", "3"])))
  _ = bench.submit("small", project: "q", pipeline(job("a")))
  _ = bench.submit("urgent", project: "p", priority: 5, pipeline(job("a")))
  func place(_ build: BuildID, _ job: Int = 0) throws -> Int? {
    let found = bench.scheduler.explained(build, history: [], at: bench.now)
    let explanation = try #require(found)
    #expect(explanation.jobs[job].position?.count == 5)
    return explanation.jobs[job].position?.place
  }
  #expect(try place("urgent") == 1)
  // The small project's goes before the second of the large one's, whose first counts as used then.
  #expect(
    try [place("busy", 0), place("small"), place("busy", 1), place("busy", 2)] == [3, 2, 4, 5])
}

/// One look at the line for all of them, and no more of it than is told.
@Test(.timeLimit(.minutes(1)))
func thePlacesOfAThousandJobsTakeOneLook() throws {
  var bench = Bench()
  bench.checksInvariants = false
  let legs = (1...250).map(String.init)
  for number in 0..<2 {
    _ = bench.submit(BuildID("before\(number)"), pipeline(job("a", legs: legs)))
  }
  let jobs = (1...4).map { job("a\($0)", legs: legs) }
  _ = bench.submit("asked", Pipeline(jobs: jobs))
  func places() throws -> [QueuePosition] {
    let found = bench.scheduler.explained("asked", history: [], at: bench.now)
    return try #require(found).jobs.compactMap(\.position)
  }
  let first = try places()
  #expect(first.count == 1_000 && first.allSatisfy { $0.count == 1_500 })
  // A thousand are counted; those behind are told of as behind them.
  #expect(
    first.map(\.place).sorted() == Array(501...1_000) + Array(repeating: 1_000, count: 500))
  #expect(first.count { $0.since == nil } == 500)
  // Who asks at once has the same look, and a second later another one.
  _ = bench.grant()
  #expect(try places().map(\.place) == first.map(\.place))
  bench.advance(.seconds(1))
  #expect(try places().count { $0.since == nil } == 499)
}

@Test
func anEstimateIsMadeOfEarlierBuilds() throws {
  var bench = Bench()
  func explained(_ build: BuildID, _ history: [BuildRecord]) throws -> Explanation {
    let found = bench.scheduler.explained(build, history: history, at: bench.now)
    return try #require(found)
  }
  let two = pipeline(job("a"), job("c", needs: ["a"]))
  _ = bench.submit("old", two)
  _ = bench.grant()
  bench.advance(.seconds(10))
  bench.end("old/a/1")
  _ = bench.grant()
  bench.advance(.seconds(20))
  bench.end("old/c/1")
  let history = [bench.record("old")]
  _ = bench.submit("new", two)
  #expect(try explained("new", []).remaining == nil)
  // It waits, and nobody knows for how long.
  #expect(try explained("new", history).remaining == nil)
  _ = bench.grant()
  bench.advance(.seconds(4))
  let explanation = try explained("new", history)
  #expect(explanation.remaining == .seconds(26))
  #expect(explanation.jobs.map(\.typicalDuration) == [.seconds(10), .seconds(20)])
  // Where the newest builds of the project have not begun, what ended last tells.
  #expect(try explained("new", [bench.record("new")]) == explanation)
}

@Test
func nobodyCanTellWhenABuildEndsThatIsHeldBack() throws {
  var bench = Bench()
  _ = bench.submit("old", grouped)
  _ = bench.grant()
  bench.advance(.seconds(10))
  bench.end("old/a/1")
  _ = bench.submit("first", grouped)
  _ = bench.grant()
  _ = bench.submit("second", grouped)
  func remaining(_ build: BuildID) throws -> Duration? {
    let found = bench.scheduler.explained(build, history: [bench.record("old")], at: bench.now)
    return try #require(found).remaining
  }
  #expect(try remaining("first") == .seconds(10))
  #expect(try remaining("second") == nil)
}
