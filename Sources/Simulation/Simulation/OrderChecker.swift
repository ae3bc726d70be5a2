import Domain
import SchedulerCore

/// Whether work is given leases in the order that was promised: by priority, then to the project
/// that holds least.
///
/// It judges from what is stored, some seconds afterwards and only while nothing is broken: a job
/// that starts must not have left behind one of the same shape that waited for seconds already,
/// waits on, and is of a greater priority, or of a project that holds less all the while.
final class OrderChecker {
  private static let settled = Duration.seconds(3)
  /// What notifications may hold, in thousandths of a CPU: their leases are not recorded.
  private static let unseen: Int64 = 1_000

  private struct Waiting {
    var since: Timestamp
    var project: ProjectID
    var priority: Int32
    var shape: Shape
  }

  private struct Start {
    var time: Timestamp
    var project: ProjectID
    var resources: Resources
    var end: Timestamp?
  }

  private struct Place: Hashable {
    var build: BuildID
    var job: Int
  }

  private let timeline: Timeline
  private let policy = Policy()
  private var waiting: [Place: Waiting] = [:]
  private var held: [AttemptID: Start] = [:]
  private var calmSince: Timestamp?

  init(_ timeline: Timeline) {
    self.timeline = timeline
  }

  var isCalm: Bool {
    get { self.calmSince.map { self.timeline.now - $0 > .seconds(30) } ?? false }
    set { self.calmSince = newValue ? self.calmSince ?? self.timeline.now : nil }
  }

  func stored(_ record: BuildRecord, before: BuildRecord?) {
    let now = self.timeline.now
    self.held = self.held.filter { $0.value.end.map { now - $0 < Self.settled * 4 } ?? true }
    for (index, job) in record.jobs.enumerated() {
      let place = Place(build: record.id, job: index)
      let shape = Shape(
        pool: record.pipeline.jobs[job.leg.plan].pool, labels: job.leg.labels,
        resources: job.leg.resources)
      let known = before?.jobs[index].attempts.count ?? 0
      for attempt in job.attempts {
        if !attempt.isHeld {
          if let start = self.held[attempt.id], start.end == nil {
            self.held[attempt.id]?.end = now
          }
        } else if self.held[attempt.id] == nil {
          self.held[attempt.id] = Start(
            time: now, project: record.project, resources: job.leg.resources)
        }
      }
      if job.attempts.count > known, let wait = self.waiting[place] { self.judgeLater(place, wait) }
      // One that must avoid executors is of another shape.
      let isWaiting = job.state == .queued && job.attempts.count == job.earlierAttempts
      if !isWaiting {
        self.waiting[place] = nil
      } else if self.waiting[place] == nil {
        self.waiting[place] = Waiting(
          since: now, project: record.project, priority: record.priority,
          shape: shape)
      }
    }
  }

  private func judgeLater(_ place: Place, _ started: Waiting) {
    guard self.isCalm else { return }
    let now = self.timeline.now
    let passedOver = self.waiting.filter { other, waiting in
      other != place && waiting.shape == started.shape && now - waiting.since > Self.settled
    }.sorted { ($0.key.build, $0.key.job) < ($1.key.build, $1.key.job) }
    guard !passedOver.isEmpty else { return }
    self.timeline.after(Self.settled) {
      guard self.isCalm else { return }
      for (other, waiting) in passedOver where self.waiting[other]?.since == waiting.since {
        self.judge(place, started, at: now, over: other, waiting)
      }
    }
  }

  private func judge(
    _ place: Place, _ started: Waiting, at time: Timestamp, over other: Place, _ waiting: Waiting
  ) {
    let name = "job \(other.job) of \(other.build)"
    if waiting.priority > started.priority {
      self.timeline.fail(
        "\(name), of priority \(waiting.priority), was passed over for \(place.build), of "
          + "\(started.priority)")
    }
    guard waiting.priority == started.priority, waiting.project != started.project else { return }
    // What the one surely held when it was decided, and all that the other may have held then.
    let least = self.share(of: started.project) {
      time - $0.time > Self.settled && $0.end == nil
    }
    let most =
      self.share(of: waiting.project) { $0.end.map { time - $0 < Self.settled } ?? true }
      + Self.unseen
    if most < least {
      self.timeline.fail(
        "\(name) was passed over for \(place.build), though \(waiting.project) held \(most) mCPU at "
          + "most and \(started.project) held \(least)")
    }
  }

  private func share(of project: ProjectID, _ counts: (Start) -> Bool) -> Int64 {
    self.held.values.reduce(0) { sum, start in
      guard start.project == project, counts(start) else { return sum }
      let memory =
        start.resources.memory.bytes * 1_000 / self.policy.memoryForEachCPU.bytes
      return sum + max(start.resources.cpuMillis, memory)
    }
  }
}
