import Domain

/// Where work stands among all that waits for executors of the same kind.
package struct QueuePosition: Hashable, Sendable {
  /// As far as is counted, in all of a build's lines: beyond it nobody cares for the number.
  static let furthest = 1_000

  /// From 1; the furthest that was counted for what stands behind it.
  package var place: Int
  package var count: Int
  /// Since when it waits; nil for what stands behind the furthest.
  package var since: Timestamp?
  /// How far apart the last leases of the kind came; nil: there were not two.
  package var pace: Duration?

  /// How long it takes until its turn comes, if leases come as they did.
  package var estimatedWait: Duration? {
    self.pace.map { $0 * self.place }
  }
}

/// Why a build waits, and how long it may yet take.
package struct Explanation: Hashable, Sendable {
  package struct Job: Hashable, Sendable {
    package var id: JobID
    /// Nil if it does not wait for an executor.
    package var position: QueuePosition?
    /// What it took in earlier builds; nil: it never succeeded.
    package var typicalDuration: Duration?
  }

  package var record: BuildRecord
  /// Those that are not finished.
  package var jobs: [Job]
  /// Until the build's end; nil: nobody can tell.
  package var remaining: Duration?
}

extension Scheduler {
  /// Explains a build at hand, by what its project's earlier builds took; nil if it is not at hand.
  package mutating func explained(
    _ build: BuildID, history: [BuildRecord], at now: Timestamp
  ) -> Explanation? {
    guard let entry = self.builds[build], let record = self.shown(build) else { return nil }
    let positions = self.queue.positions(of: entry.machine.tickets.values, at: now)
    var recent: [JobID: Duration] = [:]
    for job in record.jobs { recent[job.id] = self.durations[record.project, job.id] }
    return Explanation(
      record, history: history, recent: recent, isHeldBack: entry.machine.isHeldBack, at: now
    ) { index in
      entry.machine.tickets[.job(index)].flatMap { positions[$0] }
    }
  }
}

extension Explanation {
  /// - Parameters:
  ///   - recent: What jobs took last, for those that the history does not tell of.
  ///   - isHeldBack: Another build of its group goes first.
  ///   - position: Where the job of an index stands.
  package init(
    _ record: BuildRecord, history: [BuildRecord], recent: [JobID: Duration] = [:],
    isHeldBack: Bool = false, at now: Timestamp, position: (Int) -> QueuePosition? = { _ in nil }
  ) {
    let typical = Self.typicalDurations(in: history).merging(recent) { typical, _ in typical }
    var jobs: [Job] = []
    // When each job ends, from now; nil: nobody can tell.
    var ends: [Duration?] = []
    for (index, job) in record.jobs.enumerated() {
      guard job.state != .finished else {
        ends.append(.zero)
        continue
      }
      let place = position(index)
      jobs.append(Job(id: job.id, position: place, typicalDuration: typical[job.id]))
      let begin: Duration? =
        switch job.state {
        case .running: job.attempts.last.map { $0.startedAt - now }
        case .queued: place?.estimatedWait
        case .blocked: isHeldBack ? nil : Self.begin(of: job, in: record, ends)
        case .finished: .zero
        }
      if let begin, let whole = typical[job.id] {
        ends.append(max(.zero, begin + whole))
      } else {
        ends.append(nil)
      }
    }
    self.record = record
    self.jobs = jobs
    let known = ends.compactMap { $0 }
    self.remaining =
      record.state == .finished || known.count < ends.count ? nil : known.max()
  }

  /// When what a job needs is done. A pipeline's jobs may stand in any order: what is needed and
  /// comes later is not known yet, and then nobody can tell.
  private static func begin(
    of job: JobRecord, in record: BuildRecord, _ ends: [Duration?]
  ) -> Duration? {
    // Its turn among the legs of its job comes when others end.
    if record.pipeline.jobs[job.leg.plan].maximumParallel != nil { return nil }
    let needs = record.pipeline.jobs[job.leg.plan].needs
    var begin = Duration.zero
    for (index, other) in record.jobs.enumerated()
    where needs.contains(record.pipeline.jobs[other.leg.plan].key) {
      guard index < ends.count, let end = ends[index] else { return nil }
      begin = max(begin, end)
    }
    return begin
  }

  /// The middle of what each job's successful attempts took.
  static func typicalDurations(in history: [BuildRecord]) -> [JobID: Duration] {
    var durations: [JobID: [Duration]] = [:]
    for job in history.flatMap(\.jobs) {
      guard let attempt = job.attempts.last, attempt.outcome == .succeeded,
        let finishedAt = attempt.finishedAt
      else { continue }
      durations[job.id, default: []].append(finishedAt - attempt.startedAt)
    }
    return durations.mapValues { $0.sorted()[$0.count / 2] }
  }
}

/// What jobs took last. Where a project's queue is long its newest builds, which the store gives first, have all not
/// begun.
struct RecentDurations: Sendable {
  private struct Key: Hashable, Sendable {
    let project: ProjectID
    let job: JobID
  }

  /// With more, all are forgotten.
  private static let most = 10_000

  private var durations: [Key: Duration] = [:]

  subscript(_ project: ProjectID, _ job: JobID) -> Duration? {
    self.durations[Key(project: project, job: job)]
  }

  mutating func note(_ record: BuildRecord) {
    if self.durations.count + record.jobs.count > Self.most { self.durations = [:] }
    for job in record.jobs {
      guard let attempt = job.attempts.last, attempt.outcome == .succeeded,
        let finishedAt = attempt.finishedAt
      else { continue }
      self.durations[Key(project: record.project, job: job.id)] = finishedAt - attempt.startedAt
    }
  }
}
