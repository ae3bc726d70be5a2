import Domain

/// A build as it is committed: all that the scheduler needs to go on with it after it lost its
/// memory, and all that people see of it.
package struct BuildRecord: Hashable, Sendable {
  package enum State: Hashable, Sendable { case queued, running, finished }

  package var id: BuildID
  package var project: ProjectID
  package var name: String
  /// Why it did not succeed, in one sentence.
  package var message = ""
  /// Grows with every change; see ``Revision``.
  package var revision: Int64 = 0
  package var createdAt: Timestamp
  package var startedAt: Timestamp?
  package var finishedAt: Timestamp?
  package var source: Source?
  package var annotations: [String: String]
  /// From the submitter, below what the pipeline says.
  package var environment: [String: String]
  package var pipeline: Pipeline
  /// Empty: none.
  package var group = ""
  package var jobs: [JobRecord]
  package var notifications: [NotificationRecord] = []
  /// The scheduler process that wrote it.
  package var owner: String
  /// The submission's. Nil: unknown.
  package var fingerprint: Fingerprint?
  // What is small stands together: a million of these may wait.
  package var state = State.queued
  /// Set when it is finished.
  package var outcome: Outcome?
  /// Attempts were left out because the record had become too large.
  package var isShortened = false
  /// Higher is sooner.
  package var priority: Int32
  /// How often it was finished and then retried.
  package var round: Int32 = 0

  package init(
    id: BuildID, project: ProjectID, name: String, createdAt: Timestamp, source: Source? = nil,
    priority: Int32 = 0, annotations: [String: String] = [:], environment: [String: String] = [:],
    pipeline: Pipeline, jobs: [JobRecord], fingerprint: Fingerprint? = nil, owner: String = ""
  ) {
    self.id = id
    self.project = project
    self.name = name
    self.createdAt = createdAt
    self.source = source
    self.priority = priority
    self.annotations = annotations
    self.environment = environment
    self.pipeline = pipeline
    self.jobs = jobs
    self.fingerprint = fingerprint
    self.owner = owner
    self.group = self.concurrencyGroup
  }

  /// Whether there is still something to do for it: what a scheduler that starts must know.
  package var isActive: Bool {
    self.state != .finished || self.notifications.contains { $0.state == .pending }
      || self.holdsExecutors
  }

  /// Whether an executor may still run something of it, though it may be finished.
  package var holdsExecutors: Bool {
    self.jobs.contains(where: \.holdsExecutor)
  }
}

extension BuildRecord {
  /// What the pipeline's group comes to; empty: none.
  package var concurrencyGroup: String {
    guard let concurrency = self.pipeline.concurrency else { return "" }
    let environment = self.pipeline.buildEnvironment(over: self.environment)
    return NameContext(environment: environment).resolved(concurrency.group)
  }
}

/// A node of a build's graph.
package struct JobRecord: Hashable, Sendable {
  package enum State: Hashable, Sendable {
    /// Waits for jobs that it needs, or for its turn.
    case blocked
    /// Waits for an executor.
    case queued
    case running
    case finished
  }

  package var leg: Pipeline.Leg
  package var state = State.blocked
  /// Set when it is finished.
  package var outcome: Outcome?
  package var message = ""
  /// Oldest first.
  package var attempts: [AttemptRecord] = []
  /// Attempts before the present round of the build.
  package var earlierAttempts = 0
  /// What it waits for, in words. Only in what is shown, never in what is stored.
  package var waitingFor = ""

  package init(_ leg: Pipeline.Leg) {
    self.leg = leg
  }

  package var id: JobID { self.leg.id }

  /// Whether an executor may still run an attempt at it.
  package var holdsExecutor: Bool { self.attempts.contains(where: \.isHeld) }
}

/// One try at a job.
package struct AttemptRecord: Hashable, Sendable {
  package var id: AttemptID
  /// From 1.
  package var number: Int32
  package var executor: ExecutorID
  /// Where its plugin-runner listens.
  package var address: String
  package var lease: LeaseID
  package var token: FencingToken
  /// Nil while it runs.
  package var outcome: Outcome?
  package var message = ""
  package var startedAt: Timestamp
  package var finishedAt: Timestamp?
  package var steps: [StepRecord] = []
  package var artifacts: [Artifact] = []
  package var usage: Usage?
  /// Whether the executor may still run something of it. Stays true after a cancellation until
  /// the runner says that it is over.
  package var isHeld = true

  package init(
    id: AttemptID, number: Int32, executor: ExecutorID, address: String, lease: LeaseID,
    token: FencingToken, startedAt: Timestamp
  ) {
    self.id = id
    self.number = number
    self.executor = executor
    self.address = address
    self.lease = lease
    self.token = token
    self.startedAt = startedAt
  }

  /// The content-cache's log stream.
  package var logName: String { "builds/\(self.id)" }
}

/// A step as its runner told of it last.
package struct StepRecord: Hashable, Sendable {
  package enum State: Hashable, Sendable { case pending, running, finished }

  package var index: Int
  package var id: String
  package var name: String
  package var state: State
  package var outcome: Outcome?
  package var exitCode: Int32 = 0
  package var signal: Int32 = 0
  package var message = ""
  package var startedAt: Timestamp?
  package var finishedAt: Timestamp?
  package var usage: Usage?
  package var logStart: Int64 = 0
  package var logEnd: Int64 = 0

  package init(index: Int, id: String = "", name: String = "", state: State = .pending) {
    self.index = index
    self.id = id
    self.name = name
    self.state = state
  }
}

/// A message that must go out because a build is over.
package struct NotificationRecord: Hashable, Sendable {
  package enum State: Hashable, Sendable {
    case pending
    case delivered
    /// Given up.
    case dead
  }

  /// Stable, for the receiver to tell a repetition.
  package var id: NotificationID
  /// Its position in the pipeline's notifications.
  package var plan: Int
  package var state = State.pending
  package var attempts: Int32 = 0
  package var message = ""

  package init(id: NotificationID, plan: Int) {
    self.id = id
    self.plan = plan
  }
}

/// How revisions are counted.
///
/// A commit takes the next multiple of ``stride``; progress that is only shown, and would be lost
/// in a crash, takes the numbers between. A scheduler that reads a record goes on behind the last
/// number that may have been shown, so no watcher ever sees a revision go back.
package enum Revision {
  package static let stride: Int64 = 1_024

  /// The revision of the next commit.
  static func committed(after revision: Int64) -> Int64 {
    (revision / Self.stride + 1) * Self.stride
  }

  /// The revision of the next progress; nil when only a commit can give one.
  static func shown(after revision: Int64) -> Int64? {
    (revision + 1) % Self.stride == 0 ? nil : revision + 1
  }

  /// What a record that was read may have been shown as at last.
  static func recovered(from revision: Int64) -> Int64 {
    (revision / Self.stride + 1) * Self.stride - 1
  }
}
