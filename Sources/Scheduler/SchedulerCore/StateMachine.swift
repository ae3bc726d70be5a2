import DequeModule
import Domain
import OrderedCollections

/// The scheduler: every build that is not done with, the queue of what waits, and who holds what.
///
/// The shell feeds it (``submitted(_:from:at:)``, ``granted(_:at:)``, ``received(_:of:at:)``,
/// ``written(_:_:at:)``, ...), carries out the effects in their order, and calls
/// ``timePassed(at:)`` when ``nextWake()`` comes.
///
/// What it promises, however inputs are delayed, lost or repeated:
/// * nobody is answered, and no runner hears of an attempt, before the record says so;
/// * a record changes by one conditional write at a time, so each result is recorded once;
/// * a build whose record turns out to be another's work is dropped and read anew.
///
/// It answers for the builds of the ``Partition``s that it owns, and is rebuilt from records alone:
/// ``partitionsTaken(_:)``, ``recovered(_:at:)`` for each record, then
/// ``recoveryFinished(of:at:)``.
package struct Scheduler: Sendable {
  package let policy: Policy
  /// Tells this process' writes from those of every other; another one for each start.
  package let owner: String
  var builds: [BuildID: BuildEntry] = [:]
  var queue: ReadyQueue
  /// Who holds which lease.
  var leases = HeldLeases()
  /// Leases that have just become free and that the next job of their shape may have, each with whose it was.
  var reusable: [(lease: HeldLeases.Origin, attempt: AttemptID, build: BuildID)] = []
  var handovers = LeaseHandovers()
  var attempts: [AttemptID: BuildID] = [:]
  var timers = Timers<TimerKey>()
  /// Builds that are read because somebody wants something of them.
  var loads: [BuildID: [Command]] = [:]
  /// Unfinished builds of each concurrency group, in their order.
  var groups: [GroupKey: [BuildID]] = [:]
  var watchers: [BuildID: Int] = [:]
  /// Builds whose first record is not durable yet.
  var unstored: Set<BuildID> = []
  /// What no executor could ever meet, and why: its work is failed some at a time.
  var unsatisfiableShapes: OrderedDictionary<Shape, String> = [:]
  /// Jobs that wait, over all builds.
  var waitingJobs = 0
  /// Where the partitions stand that it owns.
  var partitions: [Partition: PartitionStage] = [:]
  /// Builds at hand of partitions whose records are being read.
  var loadingBuilds: [Partition: [BuildID]] = [:]
  /// Builds that were read and have not gone on yet.
  var resuming: Deque<BuildID> = []
  /// Builds at hand of each partition.
  var partitionBuilds = Array(repeating: 0, count: Partition.count)
  /// Why the store did not answer the last time it was asked; nil if it did.
  package internal(set) var storeSilence: String?
  package var isStoreSilent: Bool { self.storeSilence != nil }
  package internal(set) var tally = Tally()
  var audit = AuditCursor()
  var durations = RecentDurations()
  /// Pipelines of records that were read, so that builds of the same share one.
  private var pipelines: Set<Pipeline> = []
  private static let maximumPipelines = 4_096

  enum PartitionStage: Hashable, Sendable {
    /// Its records are being read.
    case loading
    case serving
    /// It goes to another owner: nothing new begins.
    case closing
  }

  enum TimerKey: Hashable, Sendable {
    case attempt(AttemptID)
    /// Its delay is over.
    case work(BuildID, Work.Item)
    case store(BuildID)
  }

  struct GroupKey: Hashable, Sendable {
    var project: ProjectID
    var group: String
  }

  /// What somebody wants of a build that is not at hand.
  enum Command: Sendable {
    case submit(Submission, Waiter)
    case cancel(String, Waiter)
    case retry([JobID], Waiter)

    var waiter: Waiter {
      switch self {
      case .submit(_, let waiter), .cancel(_, let waiter), .retry(_, let waiter): waiter
      }
    }
  }

  /// - Parameter partitions: What it owns from the beginning; their records are to be read.
  package init(
    policy: Policy = Policy(), owner: String, owning partitions: [Partition] = Partition.all
  ) {
    self.policy = policy
    self.owner = owner
    self.queue = ReadyQueue(policy: policy, owner: owner)
    self.partitionsTaken(Set(partitions))
  }

  /// The pipeline, as another build has it already.
  mutating func shared(_ pipeline: Pipeline) -> Pipeline {
    if self.pipelines.count >= Self.maximumPipelines { self.pipelines = [] }
    return self.pipelines.insert(pipeline).memberAfterInsert
  }

  /// Builds that are read one at a time are of no use to each other.
  mutating func forgetPipelines() { self.pipelines = [] }

  // MARK: Callers

  package mutating func submitted(
    _ submission: Submission, from waiter: Waiter, at now: Timestamp
  ) -> [Effect] {
    if let refusal = self.refusal(for: submission.project) { return [.answer(waiter, refusal)] }
    var effects: [Effect] = []
    self.carryOut(.submit(submission, waiter), on: submission.id, at: now, &effects)
    effects += self.queue.changes()
    return effects
  }

  package mutating func cancelled(
    _ build: BuildID, reason: String, from waiter: Waiter, at now: Timestamp
  ) -> [Effect] {
    if let refusal = self.refusal(for: build) { return [.answer(waiter, refusal)] }
    var effects: [Effect] = []
    self.carryOut(.cancel(reason, waiter), on: build, at: now, &effects)
    effects += self.queue.changes()
    return effects
  }

  package mutating func retried(
    _ build: BuildID, jobs: [JobID], from waiter: Waiter, at now: Timestamp
  ) -> [Effect] {
    if let refusal = self.refusal(for: build) { return [.answer(waiter, refusal)] }
    var effects: [Effect] = []
    self.carryOut(.retry(jobs, waiter), on: build, at: now, &effects)
    effects += self.queue.changes()
    return effects
  }

  /// Somebody watches a build from now on. Answers its present state; nil if it is not at hand,
  /// because it is over or was never here.
  package mutating func watchBegan(_ build: BuildID) -> BuildRecord? {
    self.watchers[build, default: 0] += 1
    return self.shown(build)
  }

  package mutating func watchEnded(_ build: BuildID) {
    let left = (self.watchers[build] ?? 1) - 1
    self.watchers[build] = left > 0 ? left : nil
  }

  // MARK: The allocator

  /// A new stream to the allocator is open: what is held and wanted is told again.
  package mutating func acquireOpened(at now: Timestamp) -> [Effect] {
    let holds = self.leases.all.flatMap { held in held.attempts.last.map { self.hold($0) } ?? [] }
    return holds + self.queue.openAgain()
  }

  func hold(_ attempt: AttemptID) -> [Effect] {
    guard let build = self.attempts[attempt],
      let live = self.builds[build]?.machine.live[attempt]
    else { return [] }
    return [.hold(live.machine.lease, attempt, live.machine.executor)]
  }

  package mutating func granted(_ grant: Grant, at now: Timestamp) -> [Effect] {
    // The same grant again, on another stream.
    if !self.leases.attempts(under: grant.lease).isEmpty { return [] }
    var effects: [Effect] = []
    if let (entry, shape) = self.queue.granted(grant.demand, at: now) {
      if !self.unsatisfiableShapes.isEmpty { self.unsatisfiableShapes[shape] = nil }
      let origin = HeldLeases.Origin(grant: grant, shape: shape, since: now)
      self.give(origin, to: entry, at: now, &effects)
    } else {
      // Nobody wants it any more.
      effects.append(.release(grant.lease))
    }
    effects += self.queue.changes()
    return effects
  }

  /// - Returns: Whether it is still wanted.
  @discardableResult
  mutating func give(
    _ lease: HeldLeases.Origin, to entry: FairQueue.Entry, at now: Timestamp,
    _ effects: inout [Effect]
  ) -> Bool {
    guard self.builds[entry.work.build]?.machine.shape(of: entry.work.item, self.policy) != nil
    else {
      effects.append(.release(lease.grant.lease))
      return false
    }
    self.tally.placements += 1
    self.tally.pickups.append(now - entry.since)
    self.change(entry.work.build, at: now, &effects) {
      $0.granted(entry.work.item, lease.grant, at: now, $2, &$1)
    }
    self.leases.note(lease)
    return true
  }

  package mutating func unsatisfiable(
    _ demand: DemandID, reason: String, at now: Timestamp
  ) -> [Effect] {
    guard let shape = self.queue.unsatisfiable(demand) else { return [] }
    self.unsatisfiableShapes[shape] = reason
    var effects: [Effect] = []
    self.failUnsatisfiable(at: now, &effects)
    effects += self.queue.changes()
    return effects
  }

  /// Work that is failed at a time: each piece is a record to be written, and all else waits meanwhile.
  private static let failedAtOnce = 256

  private mutating func failUnsatisfiable(at now: Timestamp, _ effects: inout [Effect]) {
    var left = Self.failedAtOnce
    while left > 0, let (shape, reason) = self.unsatisfiableShapes.elements.first {
      guard let work = self.queue.takeAny(of: shape) else {
        self.unsatisfiableShapes[shape] = nil
        continue
      }
      left -= 1
      self.change(work.build, at: now, &effects) {
        $0.unsatisfiable(work.item, reason, at: now, $2, &$1)
      }
    }
  }

  package mutating func waiting(
    _ demand: DemandID, reason: String, at now: Timestamp
  ) -> [Effect] {
    guard let shape = self.queue.waiting(demand, reason: reason) else { return [] }
    var effects: [Effect] = []
    // Only those that somebody looks at.
    let watched = self.watchers.keys.filter { build in
      guard let index = self.builds.index(forKey: build) else { return false }
      return self.builds.values[index].machine.tickets.all.contains {
        self.queue.shape(at: $0.ticket) == shape
      }
    }
    for build in watched.sorted() {
      self.builds[build]?.isProgress = true
      self.settle(build, at: now, &effects)
    }
    return effects
  }

  /// A lease is over before its release.
  package mutating func leaseLost(
    _ lease: LeaseID, _ loss: LeaseLoss, message: String, at now: Timestamp
  ) -> [Effect] {
    self.leases.ended(lease)
    return self.leases.attempts(under: lease).flatMap { attempt in
      self.attemptChange(attempt, at: now) {
        $0.leaseLost(loss, message, of: attempt, at: now, $2, &$1)
      }
    }
  }

  // MARK: Runners

  package mutating func received(
    _ event: RunnerEvent, of attempt: AttemptID, at now: Timestamp
  ) -> [Effect] {
    let mayDirty = if case .finished = event.what { true } else { false }
    return self.attemptChange(attempt, at: now, mayDirty: mayDirty) {
      $0.received(event, of: attempt, at: now, $2, &$1)
    }
  }

  package mutating func streamEnded(
    _ end: StreamEnd, of attempt: AttemptID, at now: Timestamp
  ) -> [Effect] {
    self.attemptChange(attempt, at: now) {
      $0.streamEnded(end, of: attempt, at: now, $2, &$1)
    }
  }

  /// Attempts that are over are unknown: their news come late, which is a harmless race.
  private mutating func attemptChange(
    _ attempt: AttemptID, at now: Timestamp, mayDirty: Bool = true,
    _ body: (inout BuildMachine, inout BuildOutput, Policy) -> Void
  ) -> [Effect] {
    guard let build = self.attempts[attempt] else { return [] }
    var effects: [Effect] = []
    self.change(build, at: now, mayDirty: mayDirty, &effects, body)
    self.reuseLeases(at: now, &effects)
    effects += self.queue.changes()
    return effects
  }

  // MARK: Time

  /// When ``timePassed(at:)`` is due; nil: nothing waits for time.
  package mutating func nextWake() -> Timestamp? {
    if !self.unsatisfiableShapes.isEmpty || !self.resuming.isEmpty {
      return Timestamp(microseconds: 0)
    }
    let tooLong = self.queue.oldestWait().map { $0 + self.policy.queueTimeout }
    guard let next = self.timers.next() else { return tooLong }
    return tooLong.map { min($0, next) } ?? next
  }

  package mutating func timePassed(at now: Timestamp) -> [Effect] {
    var effects: [Effect] = []
    while let key = self.timers.pop(at: now) {
      switch key {
      case .attempt(let attempt):
        guard let build = self.attempts[attempt] else { continue }
        self.change(build, at: now, &effects) {
          $0.timePassed(of: attempt, at: now, $2, &$1)
        }
      case .work(let build, let item):
        self.change(build, at: now, &effects) { machine, out, _ in machine.remind(item, &out) }
      case .store(let build):
        self.tryStoreAgain(build, &effects)
      }
    }
    while let (ticket, work, reason) = self.queue.oldest(before: now - self.policy.queueTimeout) {
      self.change(work.build, at: now, &effects) {
        $0.waitedTooLong(work.item, for: reason, at: now, $2, &$1)
      }
      self.queue.remove(ticket)
    }
    self.resumeSome(at: now, &effects)
    self.failUnsatisfiable(at: now, &effects)
    effects += self.queue.changes()
    return effects
  }

  // MARK: What is shown

  /// The state of a build that may be shown: committed, with the progress since. Nil if it is not
  /// at hand.
  package func shown(_ build: BuildID) -> BuildRecord? {
    guard let entry = self.builds[build], var record = entry.shown else { return nil }
    // Of each plan, whether it has legs that are not over.
    var isOpen: [Bool] = []
    if record.jobs.contains(where: { $0.state == .blocked }) {
      isOpen = entry.machine.graph.legs.map { legs in
        legs.contains { record.jobs[$0].state != .finished }
      }
    }
    for index in record.jobs.indices {
      record.jobs[index].waitingFor = self.waitingFor(index, of: record, entry, isOpen)
    }
    return record
  }

  /// Whose a build at hand is.
  package func project(of build: BuildID) -> ProjectID? {
    self.builds[build]?.machine.record.project
  }

  private func waitingFor(
    _ index: Int, of record: BuildRecord, _ entry: BuildEntry, _ isOpen: [Bool]
  ) -> String {
    let job = record.jobs[index]
    switch job.state {
    case .running, .finished: return ""
    case .queued:
      guard let shape = entry.machine.shape(of: .job(index), self.policy) else { return "" }
      return self.queue.reason(for: shape, of: record.project)
    case .blocked:
      if let attempt = job.attempts.last(where: \.isHeld) {
        return "attempt \(attempt.number) on executor \(attempt.executor) to be stopped"
      }
      if entry.machine.isHeldBack {
        let first = self.groups[self.groupKey(of: record)]?.first
        return "concurrency group \(record.group)"
          + (first.map { $0 == record.id ? "" : ": build \($0) goes first" } ?? "")
      }
      let needs = entry.machine.graph.needs[job.leg.plan].filter { isOpen[$0] }
        .map { record.pipeline.jobs[$0].key }
      if !needs.isEmpty { return "jobs \(needs.joined(separator: ", "))" }
      return record.pipeline.jobs[job.leg.plan].maximumParallel
        .map { "its turn: \($0) legs run at a time" } ?? ""
    }
  }

  /// Builds at hand.
  package var buildCount: Int { self.builds.count }
  /// Work that waits for an executor.
  package var queueDepth: Int { self.queue.count }
  package var openDemands: Int { self.queue.openDemands }
  package var heldLeases: Int { self.leases.count }
  /// How long the work has waited that waits longest.
  package mutating func oldestWait(at now: Timestamp) -> Duration? {
    self.queue.oldestWait().map { now - $0 }
  }

  /// What was counted since the last time.
  package mutating func takeTally() -> Tally {
    defer { self.tally = Tally() }
    return self.tally
  }
}

/// What the scheduler counts for its metrics.
package struct Tally: Hashable, Sendable {
  package var submitted = 0
  package var placements = 0
  /// Those among them for which a lease went from one job to the next.
  package var reuses = 0
  /// From waiting to the lease.
  package var pickups: [Duration] = []
  package var finished: [Outcome: Int] = [:]
  package var attempts: [Outcome: Int] = [:]
  /// Notifications that were given up.
  package var deadNotifications = 0
  /// Writes that met a record that was not as expected.
  package var conflicts = 0
  /// Writes and reads that nobody knows the end of.
  package var storeFailures = 0
  /// What did not agree with a record.
  package var findings: [AuditFinding.Kind: Int] = [:]
}
