import DequeModule
import Domain
import OrderedCollections

/// One executor: which jobs it holds, which it may still take, what it tells the allocator.
///
/// The shell feeds it (`offered`, `received`, `heartbeatAnswered`, ...), carries out the effects in
/// their order, and reads events from `job(_:)`. A lost allocator is no input at all: what runs
/// goes on running, and the next heartbeat that arrives says so.
package struct PluginRunner: Sendable {
  package let profile: ExecutorProfile
  package let policy: Policy
  package private(set) var draining = false
  /// The share that running jobs hold.
  package private(set) var held = Resources.none
  private(set) var jobs: [AttemptID: JobMachine] = [:]
  /// Attempts that are over, oldest first.
  private(set) var finished: Deque<AttemptID> = []
  /// What was seen of a lease last.
  private struct Use {
    var token: FencingToken
    var number: Int32
    var attempt: AttemptID
    /// The allocator said so.
    var isOver = false
  }

  private var uses: [LeaseID: Use] = [:]
  /// The newest token seen at all, taken or refused; 0: none.
  package private(set) var newestToken = FencingToken(0)
  /// Those leases, oldest first.
  private var leases: Deque<LeaseID> = []
  /// Most recent last.
  private var projects: OrderedSet<ProjectID> = []

  package init(profile: ExecutorProfile, policy: Policy = Policy()) {
    self.profile = profile
    self.policy = policy
  }

  package var free: Resources { self.profile.capacity - self.held }

  /// Whether no job holds a share.
  package var isIdle: Bool { self.jobs.count == self.finished.count }

  /// How many jobs hold a share.
  package var running: Int { self.jobs.count - self.finished.count }

  package func job(_ attempt: AttemptID) -> JobMachine? { self.jobs[attempt] }

  // MARK: Jobs

  /// A job was offered under a lease. The same attempt again is the same job: no effects.
  package mutating func offered(
    _ spec: JobSpec, at now: Timestamp
  ) throws(Refusal) -> [Effect] {
    if let known = self.jobs[spec.attempt] {
      guard spec.token >= known.spec.token else {
        throw .staleToken(spec.lease, offered: spec.token, seen: known.spec.token)
      }
      return []
    }
    guard !self.draining else { throw .draining(self.profile.id) }
    if let seen = self.uses[spec.lease] {
      if spec.token < seen.token || spec.token == seen.token && spec.leaseUse == 0 {
        throw .staleToken(spec.lease, offered: spec.token, seen: seen.token)
      }
      if spec.token == seen.token, spec.leaseUse <= seen.number {
        throw .staleUse(spec.lease, offered: spec.leaseUse, seen: seen.number)
      }
      if self.isRunning(seen.attempt) { throw .leaseInUse(spec.lease, by: seen.attempt) }
      if seen.isOver { throw .leaseOver(spec.lease) }
    } else if spec.leaseUse > 0 {
      // It was another process' before.
      throw .leaseOver(spec.lease)
    }
    guard spec.steps.count <= self.policy.maximumSteps else {
      throw .tooManySteps(spec.steps.count, limit: self.policy.maximumSteps)
    }
    guard self.free.fits(spec.resources) else {
      throw .noRoom(asked: spec.resources, free: self.free)
    }
    // Of what is taken only: whoever sends a number that no allocator gave out cannot spoil heartbeats.
    self.newestToken = max(self.newestToken, spec.token)
    self.remember(spec)
    let (job, effects) = JobMachine.accepted(
      spec, executor: self.profile.id, unknownPlugin: self.unknownPlugin(in: spec),
      policy: self.policy, at: now)
    self.jobs[spec.attempt] = job
    self.held += spec.resources
    return effects
  }

  /// Something happened to a job. Unknown attempts are late news of ones that were forgotten.
  package mutating func received(
    _ input: JobInput, for attempt: AttemptID, at now: Timestamp
  ) -> [Effect] {
    guard let slot = self.jobs.index(forKey: attempt) else { return [] }
    let wasOver = self.jobs.values[slot].endedAt != nil
    // In place: the event log must not be copied for each input.
    let effects = self.jobs.values[slot].receive(input, at: now)
    if !wasOver, self.jobs.values[slot].endedAt != nil {
      self.held -= self.jobs.values[slot].spec.resources
      self.finished.append(attempt)
      self.forget(endedBefore: now - self.policy.retention)
    }
    return effects
  }

  private func isRunning(_ attempt: AttemptID) -> Bool {
    self.jobs[attempt].map { $0.endedAt == nil } ?? false
  }

  /// Whether another attempt would be taken under a lease whose attempt has ended.
  package func isReusable(_ lease: LeaseID, after attempt: AttemptID) -> Bool {
    guard !self.draining, let use = self.uses[lease], use.attempt == attempt, !use.isOver,
      let job = self.jobs[attempt], job.spec.lease == lease,
      case .finished(let end)? = job.log.events.last?.what
    else { return false }
    // What this executor could not do for one it cannot do for the next.
    return end.outcome != .preempted && end.outcome != .rejected
  }

  private func unknownPlugin(in spec: JobSpec) -> String? {
    for step in spec.steps {
      guard case .uses(let name) = step.action, !self.profile.plugins.contains(name) else {
        continue
      }
      let known = self.profile.plugins.sorted()
      let hint = name.nearest(in: known).map { "; did you mean \"\($0)\"?" } ?? ""
      return "unknown plugin \"\(name)\": executor \(self.profile.id) has "
        + known.joined(separator: ", ") + hint
    }
    return nil
  }

  private mutating func remember(_ spec: JobSpec) {
    let use = Use(token: spec.token, number: spec.leaseUse, attempt: spec.attempt)
    if self.uses.updateValue(use, forKey: spec.lease) == nil { self.leases.append(spec.lease) }
    if self.leases.count > self.policy.maximumRememberedLeases {
      self.uses[self.leases.removeFirst()] = nil
    }
    self.projects.remove(spec.project)
    self.projects.append(spec.project)
    if self.projects.count > self.policy.maximumWarmProjects { self.projects.removeFirst() }
  }

  /// Drops finished attempts that are older than `oldest`, and those beyond the bound.
  package mutating func forget(endedBefore oldest: Timestamp) {
    while let attempt = self.finished.first {
      let tooMany = self.finished.count > self.policy.maximumFinishedAttempts
      guard tooMany || (self.jobs[attempt]?.endedAt).map({ $0 < oldest }) ?? true else { return }
      self.jobs[attempt] = nil
      self.finished.removeFirst()
    }
  }

  // MARK: The allocator

  /// Every lease whose job holds a share, in a fixed order.
  package var heldLeases: [HeldLease] {
    self.jobs.values.filter { $0.endedAt == nil }.map { job in
      HeldLease(
        lease: job.spec.lease, attempt: job.spec.attempt, token: job.spec.token,
        resources: job.spec.resources, project: job.spec.project)
    }.sorted { $0.lease < $1.lease }
  }

  /// Projects that ran here, most recent first.
  package var warmProjects: [ProjectID] { self.projects.reversed() }

  /// Every attempt known, in a fixed order.
  package var heldJobs: [HeldJob] {
    self.jobs.values.map { job in
      HeldJob(
        attempt: job.spec.attempt, lease: job.spec.lease, token: job.spec.token,
        lastSequence: job.log.lastSequence, finished: job.endedAt != nil)
    }.sorted { $0.attempt < $1.attempt }
  }

  /// The allocator answered a heartbeat: these leases are not this executor's any more.
  package mutating func heartbeatAnswered(
    stopping leases: [LeaseID], at now: Timestamp
  ) -> [Effect] {
    let gone = Set(leases)
    for lease in leases { self.uses[lease]?.isOver = true }
    let executor = self.profile.id
    return self.stop(at: now) { spec in
      guard gone.contains(spec.lease) else { return nil }
      return StopOrder(
        outcome: .preempted,
        reason: "lease \(spec.lease) is no longer held by executor \(executor)",
        allowsCleanup: false)
    }
  }

  // MARK: Draining

  /// The runner is to end: it takes no further jobs and lets the running ones finish.
  package mutating func drainBegan() {
    self.draining = true
  }

  /// The time for that is over: what still runs is stopped.
  package mutating func drainGraceEnded(at now: Timestamp) -> [Effect] {
    let executor = self.profile.id
    return self.stop(at: now) { _ in
      StopOrder(
        outcome: .preempted, reason: "executor \(executor) was drained",
        allowsCleanup: false)
    }
  }

  private mutating func stop(
    at now: Timestamp, _ order: (JobSpec) -> StopOrder?
  ) -> [Effect] {
    let orders = self.jobs.values.filter { $0.endedAt == nil }
      .sorted { $0.spec.attempt < $1.spec.attempt }
      .compactMap { job in order(job.spec).map { (job.spec.attempt, $0) } }
    var effects: [Effect] = []
    for (attempt, order) in orders {
      effects += self.received(.stopRequested(order), for: attempt, at: now)
    }
    return effects
  }
}
