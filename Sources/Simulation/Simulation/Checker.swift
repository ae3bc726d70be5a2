import Domain
import ExecutorAllocatorCore
import PluginRunnerCore
import SchedulerCore

/// What must hold in every world, whatever breaks: told of everything that counts, it keeps its own
/// books, and fails the run at the first thing that cannot be.
final class Checker {
  private let timeline: Timeline

  /// The newest of each build that was ever stored.
  private var stored: [BuildID: StoredBuild] = [:]
  private var shownRevisions: [String: [BuildID: Int64]] = [:]
  /// Who used a lease.
  private var users: [LeaseID: AttemptID] = [:]
  private var grantedTokens: Set<FencingToken> = []
  /// The newest that each executor has seen.
  private var lastTokens: [ExecutorID: FencingToken] = [:]
  /// Redis' clock was set back: if it then loses everything, only jobs that run tell how far tokens
  /// had come, and one may come again.
  /// TODO: of no use once heartbeats say which token an executor has seen at most.
  var isClockBehind = false
  /// Where each attempt runs.
  private var running: [AttemptID: String] = [:]
  private let order: OrderChecker

  /// There is never more than one scheduler: only then can one see to what goes beyond a build.
  private let isOneScheduler: Bool

  init(_ timeline: Timeline, isOneScheduler: Bool) {
    self.timeline = timeline
    self.isOneScheduler = isOneScheduler
    self.order = OrderChecker(timeline)
  }

  private func fail(_ why: String) { self.timeline.fail(why) }

  /// No fault is in the world, and none was for a while.
  var isCalm: Bool {
    get { self.order.isCalm }
    set { self.order.isCalm = newValue }
  }

  // MARK: The store

  /// A write was accepted.
  func stored(_ new: StoredBuild, over old: StoredBuild?, base: Int64?) {
    let id = new.record.id
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
    self.order.stored(record, before: self.stored[id]?.record)
    self.checkGroup(record, before: self.stored[id]?.record)
    self.stored[id] = new
  }

  /// Builds of a group run one at a time.
  private func checkGroup(_ record: BuildRecord, before: BuildRecord?) {
    guard self.isOneScheduler, !record.group.isEmpty, record.holdsExecutors,
      !(before?.holdsExecutors ?? false)
    else { return }
    let others = self.stored.values.map(\.record).filter { other in
      other.id != record.id && other.project == record.project && other.group == record.group
        && other.holdsExecutors
    }
    if let other = others.min(by: { $0.id < $1.id }) {
      self.fail("\(record.id) starts while \(other.id) of its group \(record.group) runs")
    }
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

  /// The table has given out a new lease.
  func granted(_ lease: Lease, in table: LeaseTableModel) {
    if !self.grantedTokens.insert(lease.token).inserted, !self.isClockBehind {
      self.fail("token \(lease.token) was given out twice")
    }
    let last = self.lastTokens[lease.executor] ?? FencingToken(0)
    if lease.token <= last, !self.isClockBehind {
      self.fail("executor \(lease.executor) has seen token \(last), and is given \(lease.token)")
    }
    guard let executor = table.executors[lease.executor] else {
      return self.fail("\(lease.id) is of executor \(lease.executor), which the table lacks")
    }
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
    if let user = self.users[spec.lease], user != spec.attempt {
      self.fail("\(spec.lease) was used for \(user), and is used for \(spec.attempt)")
    }
    self.users[spec.lease] = spec.attempt
    self.lastTokens[runner.plan.id] = max(
      self.lastTokens[runner.plan.id] ?? spec.token, spec.token)
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
    _ = runner.mourn { _ in self.released(spec.attempt) }
  }

  func released(_ attempt: AttemptID) { self.running[attempt] = nil }
}
