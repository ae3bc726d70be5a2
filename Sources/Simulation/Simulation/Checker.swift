import Domain
import ExecutorAllocatorCore
import PluginRunnerCore
import SchedulerCore

/// What must hold in every world, whatever breaks: told of everything that counts, it keeps its own
/// books, and fails the run at the first thing that cannot be.
final class Checker {
  private let timeline: Timeline

  /// Who owns which partition.
  private var table = PartitionTable()
  /// For which partitions each process speaks, and until when.
  private var speakers: [String: (partitions: Set<Partition>, until: Timestamp)] = [:]
  /// The newest of each build that was ever stored.
  private var stored: [BuildID: StoredBuild] = [:]
  private var toldRevisions: [BuildID: Int64] = [:]
  private var shownRevisions: [String: [BuildID: Int64]] = [:]
  /// Who used a lease last, and whose use of it that was.
  private var users: [LeaseID: JobSpec] = [:]
  private var shares: [LeaseID: Resources] = [:]
  private var granted: Set<LeaseID> = []
  /// The largest token that the present table has given out or heard of.
  private var largestToken = FencingToken(0)
  /// Where each attempt runs.
  private var running: [AttemptID: String] = [:]
  private let order: OrderChecker
  private let groups: GroupChecker
  private let policy: SchedulerCore.Policy
  /// How many schedulers share a pool's limit.
  private let schedulers: Int

  init(_ timeline: Timeline, policy: SchedulerCore.Policy, schedulers: Int) {
    self.timeline = timeline
    self.policy = policy
    self.schedulers = schedulers
    let order = OrderChecker(timeline)
    self.order = order
    self.groups = GroupChecker(timeline, isCalm: { order.isCalm })
  }

  private func fail(_ why: String) { self.timeline.fail(why) }

  /// No fault is in the world, and none was for a while.
  var isCalm: Bool {
    get { self.order.isCalm }
    set { self.order.isCalm = newValue }
  }

  // MARK: The client

  /// Somebody asks for a build for the first time.
  func wanted(_ build: BuildID) { self.groups.wanted(build) }

  // MARK: The store

  /// A new table of owners was accepted.
  func changed(_ table: PartitionTable, by session: ReplicaID, sessions: Set<ReplicaID>) {
    for partition in Partition.all where table[partition] != self.table[partition] {
      let (before, after) = (self.table[partition], table[partition])
      if after.epoch != before.epoch + 1 {
        self.fail("partition \(partition): epoch \(after.epoch) follows \(before.epoch)")
      }
      if let owner = before.owner, owner != session, sessions.contains(owner) {
        self.fail("partition \(partition) was \(owner)'s, and was given away by \(session)")
      }
    }
    self.table = table
  }

  /// A write was accepted.
  func stored(_ new: StoredBuild, base: Int64?, by session: ReplicaID) {
    let id = new.record.id
    let partition = Partition(of: new.record.project)
    if self.table[partition].owner != session {
      self.fail(
        "\(id): a write of \(session) was accepted when partition \(partition) was "
          + "\(self.table[partition].owner?.rawValue ?? "nobody")'s, epoch "
          + "\(self.table[partition].epoch)")
    }
    if base != self.stored[id]?.version {
      self.fail(
        "\(id): a stale owner's write was accepted: \(new.record.owner) built on version "
          + "\(base ?? 0) when \(self.stored[id]?.version ?? 0) was stored")
    }
    if let before = self.stored[id]?.record { self.changed(before, new.record) }
    let record = new.record
    for job in record.jobs {
      for (index, attempt) in job.attempts.enumerated() where attempt.number != Int32(index + 1) {
        self.fail("\(id): attempt \(attempt.id) has number \(attempt.number)")
      }
    }
    // Where limits hold work back, another's may pass it.
    if self.policy.standardProjectLimit == nil, self.policy.poolLimits.isEmpty {
      self.order.stored(record, before: self.stored[id]?.record)
    }
    self.groups.stored(record)
    self.stored[id] = new
  }

  /// Whether one state may follow another.
  private func changed(_ old: BuildRecord, _ new: BuildRecord) {
    let id = new.id
    if new.revision <= old.revision {
      self.fail("\(id): revision \(new.revision) follows \(old.revision)")
    }
    // A build that was cancelled and retried before that was written begins a round at once.
    if new.round < old.round { self.fail("\(id): round \(new.round) follows \(old.round)") }
    if new.round == old.round {
      if old.state == .finished, new.state != .finished || new.outcome != old.outcome {
        self.fail(
          "\(id): finished twice: \(old.outcome.map { "\($0)" } ?? "?"), then "
            + "\(new.outcome.map { "\($0)" } ?? "\(new.state)")")
      }
      for (before, after) in zip(old.jobs, new.jobs) where before.state == .finished {
        if after.state != .finished || after.outcome != before.outcome {
          self.fail("\(id): job \(before.id) came to \(before.outcome!), and then to another end")
        }
      }
    }
    for (before, after) in zip(old.jobs, new.jobs) {
      if after.attempts.count < before.attempts.count {
        self.fail("\(id): job \(before.id) has lost an attempt")
      }
      for (one, other) in zip(before.attempts, after.attempts) {
        if one.id != other.id || one.lease != other.lease || one.token != other.token {
          self.fail("\(id): attempt \(one.id) became another")
        }
        if let outcome = one.outcome, other.outcome != outcome {
          self.fail("\(id): attempt \(one.id) came to \(outcome), and then to another end")
        }
        if !one.isHeld, other.isHeld { self.fail("\(id): attempt \(one.id) is held again") }
      }
      let open = after.attempts.filter { $0.outcome == nil }
      if open.count > 1 { self.fail("\(id): job \(after.id) has \(open.count) open attempts") }
    }
    for (before, after) in zip(old.notifications, new.notifications)
    where before.state != .pending && after.state != before.state {
      self.fail("\(id): notification \(before.id) was \(before.state), and is \(after.state)")
    }
  }

  // MARK: Schedulers

  /// A scheduler answers from memory for these partitions, until its clock comes to that time.
  func speaks(_ scheduler: Process, for partitions: Set<Partition>, until end: Timestamp?) {
    let now = self.timeline.now
    for (name, other) in self.speakers.sorted(by: { $0.key < $1.key })
    where name != scheduler.name && other.until > now {
      guard let end, end > now, let partition = other.partitions.intersection(partitions).min()
      else { continue }
      self.fail("\(scheduler.name) and \(name) both speak for partition \(partition)")
    }
    self.speakers[scheduler.name] = (partitions, end ?? now)
  }

  /// The newest that anybody was told of a build.
  func told(of build: BuildID) -> Int64 { self.toldRevisions[build] ?? 0 }

  /// Somebody is told of a build, after a call that began when `revision` was the newest told.
  func told(_ build: BuildID, _ answer: Answer, since revision: Int64) {
    switch answer {
    case .build(let record, _):
      let committed = record.revision / Revision.stride
      if committed < revision {
        self.fail("\(build): commit \(committed) was told after \(revision) had been")
      }
      self.toldRevisions[build] = max(self.told(of: build), committed)
    case .notFound: if revision > 0 { self.fail("\(build): was told of, and is not found") }
    case .failedPrecondition, .invalid, .alreadyExists, .exhausted, .unavailable: break
    }
  }

  /// A caller is answered: what it is told must be stored.
  func answered(_ answer: Answer, by scheduler: Process, store: Store) {
    guard case .build(let record, _) = answer else { return }
    guard let stored = store.records[record.id] else {
      return self.fail("\(record.id): answered by \(scheduler.name) and not stored")
    }
    if record.revision / Revision.stride > stored.record.revision / Revision.stride {
      self.fail(
        "\(record.id): answered with revision \(record.revision), when \(stored.record.revision) "
          + "was stored")
    }
  }

  /// A state is shown to whoever watches at that process.
  func shown(_ record: BuildRecord, by scheduler: Process) {
    let key = "\(scheduler.name).\(scheduler.life)"
    let last = self.shownRevisions[key]?[record.id] ?? 0
    if record.revision < last {
      self.fail("\(record.id): a watcher saw revision \(last), then \(record.revision)")
    }
    self.shownRevisions[key, default: [:]][record.id] = record.revision
  }

  // MARK: Leases

  /// The table has lost everything.
  func tableEmptied() { self.largestToken = FencingToken(0) }

  /// The table has recorded what a runner said.
  func recorded(_ heartbeat: Heartbeat) {
    for token in heartbeat.held.map(\.token) + [heartbeat.newestToken] {
      self.largestToken = max(self.largestToken, token)
    }
  }

  /// The table has given out a new lease.
  func granted(_ lease: Lease, in table: LeaseTableModel) {
    if !self.granted.insert(lease.id).inserted { self.fail("\(lease.id) was given out twice") }
    self.shares[lease.id] = lease.resources
    guard let executor = table.executors[lease.executor] else {
      return self.fail("\(lease.id) is of executor \(lease.executor), which the table lacks")
    }
    if lease.token <= self.largestToken {
      self.fail("\(lease.id) has token \(lease.token), which is not above \(self.largestToken)")
    }
    self.largestToken = max(self.largestToken, lease.token)
    let leased = table.leased(on: lease.executor)
    if !executor.capacity.fits(leased) {
      self.fail(
        "a share was leased twice: leases on \(lease.executor) come to \(leased), of "
          + "\(executor.capacity)")
    }
  }

  // MARK: Runners

  /// A runner took a job: its record says so, and its lease is nobody else's.
  func accepted(_ spec: JobSpec, by runner: Runner) {
    if let user = self.users[spec.lease], user.attempt != spec.attempt {
      let stored = self.stored[user.build]?.record.jobs.flatMap(\.attempts) ?? []
      if spec.leaseUse <= user.leaseUse {
        self.fail(
          "\(spec.lease) was used for \(user.attempt), and is for \(spec.attempt) as if anew")
      } else if self.running[user.attempt] != nil {
        self.fail("\(spec.lease) is used for \(spec.attempt) while \(user.attempt) runs")
      } else if stored.contains(where: { $0.id == user.attempt && $0.isHeld }) {
        self.fail(
          "\(spec.attempt) runs under \(spec.lease), which is \(user.attempt)'s by its record")
      }
    }
    if let share = self.shares[spec.lease], share != spec.resources {
      self.fail("\(spec.attempt) takes \(spec.resources) under \(spec.lease), which is of \(share)")
    }
    self.users[spec.lease] = spec
    guard let record = self.stored[spec.build]?.record else {
      return self.fail("\(runner.name) runs \(spec.attempt) of a build that is not stored")
    }
    let isNotification = record.notifications.contains { $0.id.rawValue == spec.job.rawValue }
    let attempt = record.jobs.lazy.flatMap(\.attempts).first { $0.id == spec.attempt }
    if !isNotification, attempt?.lease != spec.lease || attempt?.token != spec.token {
      self.fail(
        "\(runner.name) runs \(spec.attempt) under \(spec.lease), of which its record knows nothing"
      )
    }
    // A notification may be sent twice, and its receiver can tell.
    guard !isNotification else { return }
    if let place = self.running[spec.attempt] {
      self.fail("\(runner.name) runs \(spec.attempt), which runs at \(place) already")
    }
    self.running[spec.attempt] = runner.name
    if self.isCalm { self.checkLimit(of: record.project) }
    // Of several schedulers the one that takes partitions over begins what its part allows, beside what runs.
    if self.isCalm || self.schedulers == 1 { self.checkPoolLimits() }
    _ = runner.mourn { _ in self.released(spec.attempt) }
  }

  /// Once nothing is broken, no more runs of a project than may. What its scheduler has given up may
  /// still run somewhere.
  private func checkLimit(of project: ProjectID) {
    guard let limit = self.policy.standardProjectLimit else { return }
    let (jobs, resources, _) = self.used { record, _ in record.project == project }
    if jobs > limit.jobs ?? .max || resources.cpuMillis > limit.cpuMillis ?? .max
      || resources.memory > limit.memory ?? ByteCount(.max)
    {
      self.fail("\(project) runs \(jobs) jobs with \(resources), beyond its limit of \(limit)")
    }
  }

  /// The same of pools. Each scheduler has a part of the limit, and runs one job however small that is.
  private func checkPoolLimits() {
    for (pool, limit) in self.policy.poolLimits {
      let (jobs, resources, largest) = self.used { record, leg in
        let name = record.pipeline.jobs[leg.plan].pool
        return (name.isEmpty ? PoolName.standard.rawValue : name) == pool
      }
      let (more, moreCPU) = (self.schedulers, Int64(self.schedulers) * largest.cpuMillis)
      if jobs > limit.jobs.map({ Int($0) + more }) ?? .max
        || resources.cpuMillis > limit.cpuMillis.map({ $0 + moreCPU }) ?? .max
      {
        self.fail("pool \(pool) runs \(jobs) jobs with \(resources), beyond its limit of \(limit)")
      }
    }
  }

  /// What runs of some jobs: how many, what they hold together, and the most that one holds.
  private func used(
    by isMeant: (BuildRecord, Pipeline.Leg) -> Bool
  ) -> (jobs: Int, resources: Resources, largest: Resources) {
    var (jobs, resources, largest) = (0, Resources.none, Resources.none)
    for record in self.stored.values.map(\.record) {
      for job in record.jobs where isMeant(record, job.leg) {
        for attempt in job.attempts where attempt.outcome == nil && self.running[attempt.id] != nil
        {
          jobs += 1
          resources += job.leg.resources
          largest.cpuMillis = max(largest.cpuMillis, job.leg.resources.cpuMillis)
        }
      }
    }
    return (jobs, resources, largest)
  }

  func released(_ attempt: AttemptID) { self.running[attempt] = nil }
}
