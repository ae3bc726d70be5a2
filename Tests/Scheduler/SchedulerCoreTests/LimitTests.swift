import Domain
import Testing

@testable import SchedulerCore

private func policy(
  projects: [ProjectID: RunningLimit] = [:], standard: RunningLimit? = nil,
  pools: [String: RunningLimit] = [:]
) -> Policy {
  var policy = Policy()
  policy.projectLimits = projects
  policy.standardProjectLimit = standard
  policy.poolLimits = pools
  return policy
}

private let legs = ["1", "2", "3", "4"]

@Test func aProjectRunsNoMoreJobsThanItMay() {
  var bench = Bench(policy: policy(projects: ["p": RunningLimit(jobs: 2)]))
  _ = bench.submit("b", pipeline(job("a", legs: legs)))
  // No more is asked for than may begin.
  #expect(bench.effects.demands.count == 2)
  #expect(bench.grant() != nil && bench.grant() != nil && bench.grant() == nil)
  #expect(
    bench.scheduler.shown("b")?.jobs[2].waitingFor
      == "project p to have less running: 2 of 2 jobs run")
  // Others go on.
  _ = bench.submit("c", project: "q", pipeline(job("a")))
  #expect(bench.grant()?.project == "q")
  bench.end("b/a (1)/1")
  #expect(bench.grant()?.attempt == "b/a (3)/1")
  #expect(bench.grant() == nil)
}

@Test func whatOneProjectMayNotUseGoesToTheNext() {
  var bench = Bench(policy: policy(projects: ["p": RunningLimit(jobs: 1)]))
  // Of a greater priority, and held back: it holds nobody else back.
  _ = bench.submit("b", priority: 9, pipeline(job("a", legs: legs)))
  _ = bench.submit("c", project: "q", pipeline(job("a", legs: ["1", "2"])))
  let granted = (0..<5).map { _ in bench.grant()?.project }
  #expect(granted == ["p", "q", "q", nil, nil])
}

@Test func resourcesAreLimitedTogether() {
  var bench = Bench(policy: policy(standard: RunningLimit(cpuMillis: 3_000)))
  _ = bench.submit("b", pipeline(job("a", legs: ["1", "2"], cpu: "2")))
  _ = bench.submit("c", pipeline(job("a", legs: ["1", "2"], cpu: "0.5")))
  let orders = (0..<4).compactMap { _ in bench.grant() }
  #expect(orders.map(\.resources.cpuMillis).reduce(0, +) == 3_000, "\(orders.map(\.attempt))")
  #expect(
    bench.scheduler.shown("b")?.jobs[1].waitingFor
      == "project p to have less running: 3 of 3 CPUs are in use")
}

@Test func aJobBeyondALimitIsRejectedAtOnce() {
  var bench = Bench(policy: policy(projects: ["p": RunningLimit(cpuMillis: 1_500)]))
  _ = bench.submit("b", pipeline(job("a", cpu: "2"), job("c", cpu: "1")))
  #expect(bench.record("b").jobs[0].outcome == .rejected)
  #expect(
    bench.record("b").jobs[0].message
      == "the limit of project p: a job asks for 2 CPUs, and all that run may have 1.5")
  #expect(bench.grant()?.attempt == "b/c/1")
}

@Test func aPoolRunsNoMoreThanItMayWhoeverAsks() {
  var bench = Bench(policy: policy(pools: ["default": RunningLimit(jobs: 3)]))
  for project in ["p", "q"] as [ProjectID] {
    _ = bench.submit(
      BuildID(project.rawValue), project: project, pipeline(job("a", legs: ["1", "2"])))
  }
  let granted = (0..<4).map { _ in bench.grant()?.project }
  #expect(granted.compactMap { $0 }.count == 3)
  #expect(
    bench.scheduler.shown("q")?.jobs.map(\.waitingFor).contains(
      "pool default to have less running: 3 of 3 jobs run") == true)
  bench.end("p/a (1)/1")
  #expect(bench.grant() != nil)
}

@Test func severalSchedulersShareAPoolByTheirPartitions() {
  var bench = Bench(policy: policy(pools: ["default": RunningLimit(jobs: 4)]))
  bench.feed {
    $0.partitionsClosing(Set(Partition.all.prefix(32)), at: $1)
  }
  _ = bench.scheduler.closedPartitions()
  // One of a partition that is left.
  let project = (0...).lazy.map { ProjectID("p\($0)") }.first { Partition(of: $0).number >= 32 }!
  _ = bench.submit("b", project: project, pipeline(job("a", legs: legs)))
  #expect(bench.grant() != nil && bench.grant() != nil && bench.grant() == nil)
  #expect(
    bench.scheduler.shown("b")?.jobs[3].waitingFor
      == "pool default to have less running: 2 of 2 jobs run, which is this scheduler's part")
}

@Test func notificationsGoOutWhateverRuns() {
  var bench = Bench(policy: policy(projects: ["p": RunningLimit(jobs: 1)]))
  _ = bench.submit(
    "b", pipeline(job("a"), notify: [Pipeline.Notification(uses: "webhook", onSuccess: true)]))
  _ = bench.grant()
  _ = bench.submit("c", pipeline(job("a")))
  bench.end("b/a/1")
  let orders = (0..<3).compactMap { _ in bench.grant()?.attempt }
  #expect(Set(orders) == ["c/a/1", "b/b-0-1/1"])
}

@Test func aRestartCountsWhatRuns() {
  let policy = policy(standard: RunningLimit(jobs: 1))
  var bench = Bench(policy: policy)
  _ = bench.submit("b", pipeline(job("a", legs: legs)))
  _ = bench.grant()
  bench.restart(policy: policy)
  #expect(bench.grant() == nil)
  bench.end("b/a (1)/1")
  #expect(bench.grant()?.attempt == "b/a (2)/1")
}

@Test
func aPartOfTheGreatestLimitIsANumber() {
  let limit = RunningLimit(jobs: .max, cpuMillis: .max, memory: ByteCount(.max))
  let half = limit.part(Partition.count / 2)
  #expect(half.jobs == Int.max / 2 && half.cpuMillis == .max / 2)
  #expect(limit.part(Partition.count) == limit)
}

extension Bench {
  fileprivate mutating func look(after duration: Duration = .seconds(1)) {
    self.now = self.now + duration
    self.feed { $0.auditDue(at: $1) }
  }
}

@Test
func smallJobsDoNotStarveALargeOneWithinALimit() {
  var bench = Bench(policy: policy(projects: ["p": RunningLimit(cpuMillis: 2_000)]))
  var small = 0
  func submitSmall(_ bench: inout Bench) {
    small += 1
    _ = bench.submit(BuildID("s\(small)"), priority: -1_000, pipeline(job("a")))
  }
  for _ in 0..<4 { submitSmall(&bench) }
  var running = [bench.grant()!, bench.grant()!]
  _ = bench.submit("large", priority: 1_000, pipeline(job("a", cpu: "2")))
  var seconds = 0
  // Each second one of them ends and another comes, as it was for ever.
  while bench.record("large").state == .queued, seconds < 60 {
    seconds += 1
    bench.look()
    if !running.isEmpty { bench.end(running.removeFirst().attempt) }
    submitSmall(&bench)
    while let order = bench.grant(), order.build != "large" { running.append(order) }
  }
  #expect((10...20).contains(seconds))
  #expect(
    bench.scheduler.shown(BuildID("s\(small)"))?.jobs[0].waitingFor
      == "project p to have less running: 2 of 2 CPUs are in use")
  bench.end("large/a/1")
  bench.look()
  #expect(bench.grant() != nil)
}

@Test
func roomThatNobodyTakesIsNotKeptForEver() {
  var bench = Bench(policy: policy(pools: ["default": RunningLimit(jobs: 2, cpuMillis: 2_000)]))
  _ = bench.submit("first", pipeline(job("a")))
  let first = bench.grant()!
  _ = bench.submit("large", priority: 5, pipeline(job("a", labels: ["rare"], cpu: "2")))
  _ = bench.submit("small", pipeline(job("a", cpu: "500m")))
  bench.look(after: .seconds(10))
  // Half of it is free, and kept.
  #expect(
    bench.scheduler.shown("small")?.jobs[0].waitingFor.hasSuffix(
      "; what is free is kept for a job that has waited longer") == true)
  bench.end(first.attempt)
  // No executor has the label: the large one's demand stays open, and after a while others go on.
  for _ in 0..<30 {
    bench.look()
    #expect(bench.scheduler.openDemands == 1)
  }
  bench.look()
  bench.look()
  #expect(bench.scheduler.openDemands == 2)
  // Nor once more as soon as there is no room again: a small one runs, and others begin beside it.
  let small = bench.grant { $0.shape.labels.isEmpty }
  #expect(small?.build == "small")
  for number in 0..<20 {
    let id = BuildID("more-\(number)")
    _ = bench.submit(id, pipeline(job("a", cpu: "500m")))
    bench.look()
    let order = bench.grant { $0.shape.labels.isEmpty }
    #expect(order?.build == id)
    if let order { bench.end(order.attempt) }
  }
}

/// What room is kept for in one project's limit is nothing to the lines of hundreds of others.
@Test func roomThatIsKeptIsItsProjectsAlone() {
  var queue = ReadyQueue(policy: policy(standard: RunningLimit(jobs: 1)), owner: "o")
  let shapes = (1...3).map {
    Shape(
      pool: "", labels: [],
      resources: Resources(cpuMillis: Int64($0 * 100), memory: .mebibytes(1)))
  }
  let begin = Timestamp(microseconds: 1_764_000_000_000_000)
  for number in 0..<500 {
    let project = ProjectID("p\(number)")
    queue.took(BuildOutput.Charge(resources: shapes[0].resources, pool: ""), project: project)
    for shape in shapes {
      _ = queue.enqueue(
        Work(build: BuildID("b\(number)"), item: .job(0)), project: project, priority: 0,
        age: begin, shape: shape, since: begin)
    }
  }
  #expect(queue.changes().isEmpty)
  let clock = ContinuousClock()
  // Each project has its claim now; then the work is taken out, and each claim ends.
  let duration = clock.measure {
    queue.claimsDue(at: begin + .seconds(11))
    #expect(queue.changes().isEmpty)
    for ticket in Array(queue.tickets) { queue.remove(ticket) }
    #expect(queue.changes().isEmpty)
  }
  #expect(duration < .seconds(5))
}

/// What is cancelled while its project was held back leaves nothing behind that holds back the next.
@Test func workThatWasTakenOutHoldsBackNoOther() {
  var bench = Bench(policy: policy(standard: RunningLimit(jobs: 1)))
  _ = bench.submit("q1", project: "q", pipeline(job("a")))
  _ = bench.submit("p1", project: "p", pipeline(job("a")))
  #expect(bench.grant()?.build == "q1")
  #expect(bench.grant()?.build == "p1")
  _ = bench.submit("q2", project: "q", pipeline(job("a")))
  _ = bench.submit("p2", project: "p", pipeline(job("a")))
  _ = bench.cancel("p2")
  bench.end("p1/a/1")
  _ = bench.submit("p3", project: "p", pipeline(job("a")))
  #expect(bench.grant()?.build == "p3")
}

/// However much is cancelled behind work that stays for hours.
@Test func whatWasTakenOutOfTheMiddleIsNotKept() {
  var queue = FairQueue()
  let begin = Timestamp(microseconds: 1_764_000_000_000_000)
  func entry(_ ticket: Ticket, _ project: ProjectID) -> FairQueue.Entry {
    FairQueue.Entry(
      work: Work(build: "b", item: .job(Int(ticket))), priority: 0, project: project, age: begin,
      since: begin, ticket: ticket)
  }
  queue.insert(entry(1, "p"), share: 0)
  queue.insert(entry(2, "q"), share: 1)
  for ticket in 3...20_000 as ClosedRange<Ticket> {
    queue.insert(entry(ticket, "p"), share: 0)
    queue.remove(ticket)
    if ticket.isMultiple(of: 100) { #expect(queue.first(share: { _ in 0 })?.ticket == 1) }
  }
  #expect(queue.count == 2)
  #expect(queue.kept < 2_000)
  #expect(queue.popFirst(share: { _ in 0 })?.ticket == 1)
  #expect(queue.popFirst(share: { _ in 0 })?.ticket == 2)
  #expect(queue.popFirst(share: { _ in 0 }) == nil)
}
