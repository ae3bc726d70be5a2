import Domain
import SchedulerCore
import Testing

/// From another implementation: records carry the number.
@Test(arguments: [("", 1), ("lua", 24), ("git.example/team/app", 5)])
func aProjectsPartitionIsTheSameForEver(_ project: String, _ partition: Int) {
  #expect(Partition(of: ProjectID(project)).number == partition)
}

@Test
func projectsFallIntoAllPartitionsAlike() {
  var counts = Array(repeating: 0, count: Partition.count)
  for number in 0..<6_400 { counts[Partition(of: ProjectID("team/app-\(number)")).number] += 1 }
  #expect(counts.allSatisfy { (50...160).contains($0) }, "\(counts)")
}

@Test
func oneAloneOwnsAllAtOnce() {
  var cluster = Cluster()
  _ = cluster.start()
  let time = cluster.run(until: \.isWhole, within: .seconds(2))
  #expect(time < .seconds(1))
  #expect(cluster.table[Partition(0)].epoch == 1)
  cluster.run(.seconds(30))
  // And goes on owning it, without a further change.
  #expect(cluster.table[Partition(0)].epoch == 1 && cluster.violations.isEmpty)
}

@Test
func replicasShareAsTheyCome() {
  var cluster = Cluster()
  for count in 1...5 {
    _ = cluster.start()
    cluster.run(.seconds(5))
    let owned = (0..<count).map { cluster.owned(by: $0) }
    #expect(owned.reduce(0, +) == 64, "\(owned)")
    #expect(owned.max()! - owned.min()! <= 1, "\(owned)")
  }
  #expect(cluster.violations.isEmpty && cluster.fencings == 0)
}

@Test
func aDeadOnesPartitionsMoveWithinFiveSeconds() {
  for seed in 1...6 as ClosedRange<UInt64> {
    var cluster = Cluster(seed: seed)
    for _ in 0..<3 { _ = cluster.start() }
    cluster.run(.seconds(5) + .milliseconds(17 * Int(seed)))
    cluster.members[1].isDead = true
    let time = cluster.run(until: \.isWhole, within: .seconds(10))
    #expect(time < .seconds(5), "seed \(seed): \(time)")
    #expect(cluster.violations.isEmpty, "seed \(seed): \(cluster.violations)")
  }
}

@Test
func oneThatIsStartedAgainAtItsAddressWaitsForNobody() {
  var cluster = Cluster()
  let first = cluster.start(at: "here:1")
  cluster.run(.seconds(2))
  cluster.members[first].isDead = true
  _ = cluster.start(at: "here:1")
  let time = cluster.run(until: \.isWhole, within: .seconds(5))
  #expect(time < .seconds(1), "\(time)")
}

@Test
func oneIsNotReadyBeforeItHasWhatItsPredecessorLeft() {
  let old = Membership.Replica(id: "old", address: "here:1")
  var table = PartitionTable()
  for partition in Partition.all { table.give(partition, to: old.id) }
  var core = Membership(id: "new", address: "here:1")
  core.joined(begunAt: .zero)
  let sightings = [
    Membership.Sighting(replica: old, version: 1), .init(replica: core.me, version: 2),
  ]
  core.looked(
    .init(table: table, version: 1, replicas: sightings), begunAt: .zero, endedAt: .milliseconds(1))
  #expect(!core.isReady)
  guard case .change(let change) = core.next(at: .milliseconds(2)) else {
    return #expect(Bool(false), "it does not take over at once")
  }
  core.changed(change, version: 2, begunAt: .milliseconds(2), at: .milliseconds(3))
  #expect(!core.isReady)
  for partition in Partition.all { core.loaded(partition, at: .milliseconds(4)) }
  #expect(core.isReady)
}

@Test
func aStoppedOneLearnsThatItOwnsNothing() {
  var cluster = Cluster()
  _ = cluster.start()
  _ = cluster.start()
  cluster.run(.seconds(5))
  cluster.members[0].isStopped = true
  cluster.run(.seconds(10))
  #expect(cluster.owned(by: 1) == 64)
  cluster.members[0].events = []
  cluster.members[0].isStopped = false
  cluster.run(.seconds(5))
  guard case .drop(let dropped)? = cluster.members[0].events.first else {
    return #expect(Bool(false), "\(cluster.members[0].events)")
  }
  #expect(dropped.count == 32 && cluster.fencings == 1)
  // It takes part again.
  #expect(cluster.owned(by: 0) == 32 && cluster.owned(by: 1) == 32)
  #expect(cluster.violations.isEmpty)
}

@Test
func whoLeavesHandsEverythingOver() {
  var cluster = Cluster()
  for _ in 0..<3 { _ = cluster.start() }
  cluster.run(.seconds(6))
  let local = cluster.local(0)
  cluster.members[0].core.leave(at: local)
  let time = cluster.run(until: { $0.members[0].core.hasLeft }, within: .seconds(5))
  #expect(time < .seconds(2), "\(time)")
  cluster.run(.seconds(2))
  #expect([cluster.owned(by: 1), cluster.owned(by: 2)] == [32, 32])
  #expect(cluster.sessions.count == 2 && cluster.fencings == 0 && cluster.violations.isEmpty)
}

@Test
func whatIsStillUnderWayWhenAPartitionIsGivenAwayComesToNothing() {
  var cluster = Cluster()
  // All in one session's end.
  cluster.policy.closingAtOnce = Partition.count
  _ = cluster.start()
  cluster.run(.seconds(2))
  let before = cluster.members[0].core.me.id
  cluster.longestClosing = 60_000
  _ = cluster.start()
  cluster.run(.seconds(5))
  #expect([cluster.owned(by: 0), cluster.owned(by: 1)] == [32, 32])
  // Its writes are made under another session now, and the one before is not there any more.
  let after = cluster.members[0].core.me.id
  #expect(after != before && cluster.sessions[before] == nil && cluster.sessions[after] != nil)
  #expect(cluster.table.partitions(of: after).count == 32)
  #expect(cluster.fencings == 0 && cluster.violations.isEmpty)
  // It did not stop to serve what it keeps.
  let dropped = cluster.members[0].events.compactMap {
    if case .drop(let partitions) = $0 { partitions } else { nil }
  }
  #expect(dropped.reduce([]) { $0.union($1) } == cluster.members[1].core.owned)
}

/// Nobody serves a partition from its closing until the next owner has read it.
@Test
func fewPartitionsAreOnTheirWayAtATime() {
  var cluster = Cluster()
  _ = cluster.start()
  cluster.run(.seconds(2))
  _ = cluster.start()
  cluster.run(.seconds(8))
  #expect([cluster.owned(by: 0), cluster.owned(by: 1)] == [32, 32])
  let closed = cluster.members[0].events.compactMap {
    if case .close(let partitions) = $0 { partitions.count } else { nil }
  }
  #expect(closed.reduce(0, +) == 32 && closed.allSatisfy { $0 <= 4 })
}

/// Its session may be stored already: then that is removed.
@Test
func whoLeavesWhileItJoinsLeavesNothingBehind() {
  var membership = Membership(id: "one")
  let begin = Duration.seconds(1)
  guard case .join = membership.next(at: begin) else { return #expect(Bool(false)) }
  membership.leave(at: begin)
  #expect(!membership.hasLeft)
  membership.joined(begunAt: begin)
  #expect(membership.next(at: begin) == .leave("one"))
  membership.left()
  #expect(membership.hasLeft)

  var other = Membership(id: "two")
  _ = other.next(at: begin)
  other.leave(at: begin)
  other.joinFailed(at: begin)
  #expect(other.hasLeft)
}

@Test
func whoLeavesAloneGoes() {
  var cluster = Cluster()
  _ = cluster.start()
  cluster.run(.seconds(2))
  let local = cluster.local(0)
  cluster.members[0].core.leave(at: local)
  let time = cluster.run(until: { $0.members[0].core.hasLeft }, within: .seconds(3))
  #expect(time < .seconds(1), "\(time)")
  #expect(cluster.sessions.isEmpty)
  _ = cluster.start()
  let start = cluster.run(until: \.isWhole, within: .seconds(5))
  #expect(start < .seconds(1), "\(start)")
}

@Test
func aStoreThatWasAwayTakesNothingFromAnybody() {
  var cluster = Cluster()
  for _ in 0..<3 { _ = cluster.start() }
  cluster.run(.seconds(6))
  cluster.isStoreAway = true
  cluster.run(.seconds(20))
  // What is in memory may be old by now.
  #expect(cluster.members[0].core.trustedFor.map { $0 < cluster.local(0) } == true)
  cluster.isStoreAway = false
  cluster.run(.seconds(6))
  #expect(cluster.fencings == 0 && cluster.isWhole && cluster.violations.isEmpty)
}

@Test
func twoNeverSpeakForOnePartitionWhateverHappens() {
  for seed in 1...6 as ClosedRange<UInt64> {
    var random = SplitMix64(state: seed &* 7_919)
    var cluster = Cluster(seed: seed)
    func startOne() {
      _ = cluster.start(
        rate: Double.random(in: 0.9...1.1, using: &random),
        offset: .seconds(Int.random(in: 0...100_000, using: &random)))
    }
    for _ in 0..<Int.random(in: 2...4, using: &random) { startOne() }
    cluster.losses = 30
    for _ in 0..<25 {
      cluster.run(.milliseconds(Int.random(in: 100...2_500, using: &random)))
      let victim = cluster.members.indices.randomElement(using: &random)!
      switch Int.random(in: 0..<8, using: &random) {
      case 0 where cluster.members.count(where: \.isAlive) > 1:
        cluster.members[victim].isDead = true
      case 1 where cluster.members.count(where: \.isAlive) < 6: startOne()
      case 2, 3: cluster.members[victim].isStopped.toggle()
      case 4:
        let local = cluster.local(victim)
        if cluster.members[victim].isAlive, !cluster.members[victim].isStopped,
          cluster.members.count(where: \.isAlive) > 1
        {
          cluster.members[victim].core.leave(at: local)
        }
      case 5: cluster.isStoreAway.toggle()
      default: break
      }
    }
    cluster.isStoreAway = false
    cluster.losses = 0
    for number in cluster.members.indices { cluster.members[number].isStopped = false }
    if !cluster.members.contains(where: { $0.isAlive && !$0.core.me.isLeaving }) { startOne() }
    cluster.run(.seconds(12))
    #expect(cluster.violations.isEmpty, "seed \(seed): \(cluster.violations.prefix(3))")
    #expect(cluster.isWhole, "seed \(seed): nobody serves some partitions")
    let owned = cluster.members.indices.filter { cluster.members[$0].isAlive }
      .map { cluster.owned(by: $0) }
    #expect(owned.reduce(0, +) == 64 && owned.max()! - owned.min()! <= 1, "seed \(seed): \(owned)")
  }
}

@Test func aLookThatWasOvertakenTellsNothing() {
  var core = Membership(id: "one", address: "a:1")
  let other = Membership.Replica(id: "two", address: "b:1")
  _ = core.next(at: .zero)
  core.joined(begunAt: .zero)
  var table = PartitionTable()
  for partition in Partition.all { table.give(partition, to: "two") }
  let (mine, theirs) = (
    Membership.Sighting(replica: core.me, version: 2),
    Membership.Sighting(replica: other, version: 1)
  )
  core.looked(
    .init(table: table, version: 3, replicas: [mine, theirs]), begunAt: .milliseconds(20),
    endedAt: .milliseconds(30))
  core.looked(
    .init(table: table, version: 3, replicas: [mine]), begunAt: .milliseconds(10),
    endedAt: .milliseconds(40))
  if case .change(let change) = core.next(at: .milliseconds(41)) {
    Issue.record("it takes what is another's: \(change)")
  }
  #expect(core.peerCount == 1)
}
