import BuildProtos
import FoundationEssentials
import RPC

/// JSON as commands print it: keys in alphabetic order, so that two answers can be compared.
package enum JSONText {
  /// On several lines, for people who read along.
  package static func document(_ value: some Encodable) -> String {
    self.text(value, [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted])
  }

  /// On one line, for streams.
  package static func line(_ value: some Encodable) -> String {
    self.text(value, [.sortedKeys, .withoutEscapingSlashes])
  }

  package static func decode<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8]) -> Value? {
    try? JSONDecoder().decode(type, from: Data(bytes))
  }

  private static func text(
    _ value: some Encodable, _ formatting: JSONEncoder.OutputFormatting
  ) -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = formatting
    guard let data = try? encoder.encode(value) else {
      preconditionFailure("a report holds only strings, numbers and booleans")
    }
    return String(decoding: data, as: UTF8.self)
  }
}

/// A build as `--output json` prints it. Keys are only ever added; docs/cli.md tells of each.
package struct BuildReport: Encodable, Sendable {
  var id: String
  var project: String
  var name: String
  var state: String
  var outcome: String?
  var message: String?
  var revision: Int64
  var createdAt: String?
  var startedAt: String?
  var finishedAt: String?
  var annotations: [String: String]
  var jobs: [JobReport]
  var notifications: [NotificationReport]

  package init(_ build: SchedulerV1.Build) {
    self.id = build.id
    self.project = build.project
    self.name = build.name
    self.state = build.state == .finished ? "finished" : Words.state(build)
    self.outcome = build.state == .finished ? Words.key(build.outcome) : nil
    self.message = build.message.isEmpty ? nil : build.message
    self.revision = build.revision
    self.createdAt = build.createdAt?.text
    self.startedAt = build.startedAt?.text
    self.finishedAt = build.finishedAt?.text
    self.annotations = build.annotations
    self.jobs = build.jobs.map(JobReport.init)
    self.notifications = build.notifications.map(NotificationReport.init)
  }
}

/// A job in a ``BuildReport``.
package struct JobReport: Encodable, Sendable {
  var id: String
  var name: String
  var needs: [String]
  var state: String
  var outcome: String?
  var message: String?
  var waitingFor: String?
  var matrix: [String: String]
  var attempts: [AttemptReport]

  init(_ job: SchedulerV1.Job) {
    self.id = job.id
    self.name = job.name
    self.needs = job.needs
    self.state = job.state == .finished ? "finished" : Words.state(job)
    self.outcome = job.state == .finished ? Words.key(job.outcome) : nil
    self.message = job.message.isEmpty ? nil : job.message
    self.waitingFor = job.waitingFor.isEmpty ? nil : job.waitingFor
    self.matrix = job.matrix
    self.attempts = job.attempts.map(AttemptReport.init)
  }
}

/// An attempt in a ``JobReport``.
package struct AttemptReport: Encodable, Sendable {
  var number: Int32
  var executor: String
  var outcome: String?
  var message: String?
  var startedAt: String?
  var finishedAt: String?
  var log: String
  var cpuMicros: Int64?
  var peakMemoryBytes: Int64?
  var steps: [StepReport]
  var artifacts: [ArtifactReport]

  init(_ attempt: SchedulerV1.Attempt) {
    self.number = attempt.number
    self.executor = attempt.executorID
    self.outcome = attempt.outcome == .unspecified ? nil : Words.key(attempt.outcome)
    self.message = attempt.message.isEmpty ? nil : attempt.message
    self.startedAt = attempt.startedAt?.text
    self.finishedAt = attempt.finishedAt?.text
    self.log = attempt.logName
    self.cpuMicros = attempt.usage?.cpuMicros
    self.peakMemoryBytes = attempt.usage?.peakMemoryBytes
    self.steps = attempt.steps.map(StepReport.init)
    self.artifacts = attempt.artifacts.map { ArtifactReport($0, job: nil) }
  }
}

/// A step in an ``AttemptReport``.
package struct StepReport: Encodable, Sendable {
  var index: Int32
  var id: String
  var name: String
  var state: String
  var outcome: String?
  var exitCode: Int32?
  var signal: Int32?
  var message: String?
  var startedAt: String?
  var finishedAt: String?
  var logStart: Int64
  var logEnd: Int64?

  init(_ step: TypesV1.StepStatus) {
    let finished = step.state == .finished
    self.index = step.index
    self.id = step.id
    self.name = step.name
    self.state = finished ? "finished" : step.state == .running ? "running" : "pending"
    self.outcome = finished ? Words.key(step.outcome) : nil
    self.exitCode = finished ? step.exitCode : nil
    self.signal = finished && step.signal != 0 ? step.signal : nil
    self.message = step.message.isEmpty ? nil : step.message
    self.startedAt = step.startedAt?.text
    self.finishedAt = step.finishedAt?.text
    self.logStart = step.logStart
    self.logEnd = finished ? step.logEnd : nil
  }
}

/// An artifact: in an ``AttemptReport``, or in the list of a build's artifacts, which names its job.
package struct ArtifactReport: Encodable, Sendable {
  var job: String?
  var name: String
  var path: String
  var sha256: String
  var sizeBytes: Int64
  /// Octal, "755".
  var mode: String
  /// Where it was put, if it was.
  var file: String?

  init(_ artifact: TypesV1.Artifact, job: String?, file: String? = nil) {
    self.job = job
    self.name = artifact.name
    self.path = artifact.path
    self.sha256 = artifact.digest?.hash ?? ""
    self.sizeBytes = artifact.digest?.sizeBytes ?? 0
    self.mode = String(artifact.mode & 0o7777, radix: 8)
    self.file = file
  }
}

/// A notification in a ``BuildReport``.
package struct NotificationReport: Encodable, Sendable {
  var id: String
  var uses: String
  var state: String
  var attempts: Int32
  var message: String?

  init(_ notification: SchedulerV1.Notification) {
    self.id = notification.id
    self.uses = notification.uses
    self.attempts = notification.attempts
    self.message = notification.message.isEmpty ? nil : notification.message
    self.state =
      switch notification.state {
      case .pending: "pending"
      case .delivered: "delivered"
      case .dead: "dead"
      case .unspecified, .unrecognized: "unknown"
      }
  }
}

/// An executor in the list of executors.
package struct ExecutorReport: Encodable, Sendable {
  var id: String
  var address: String
  var pool: String
  var labels: [String]
  var state: String
  var capacity: ResourcesReport
  var leased: ResourcesReport
  var leases: Int
  var lastHeartbeat: String?

  init(_ executor: AllocatorV1.Executor) {
    self.id = executor.id
    self.address = executor.address
    self.pool = executor.pool
    self.labels = executor.labels
    self.state = Self.word(executor.state)
    self.capacity = ResourcesReport(executor.capacity)
    self.leased = ResourcesReport(executor.leased)
    self.leases = executor.leases.count
    self.lastHeartbeat = executor.lastHeartbeat?.text
  }

  static func word(_ state: AllocatorV1.ExecutorState) -> String {
    switch state {
    case .ready: "ready"
    case .suspect: "suspect"
    case .draining: "draining"
    case .unspecified, .unrecognized: "unknown"
    }
  }
}

/// Resources in an ``ExecutorReport``.
package struct ResourcesReport: Encodable, Sendable {
  var cpuMillis: Int64
  var memoryBytes: Int64
  var slots: Int32

  init(_ resources: TypesV1.Resources?) {
    self.cpuMillis = resources?.cpuMillis ?? 0
    self.memoryBytes = resources?.memoryBytes ?? 0
    self.slots = resources?.slots ?? 0
  }
}

/// A command that failed, on standard error.
package struct FailureReport: Encodable, Sendable {
  var error: String
  var exitCode: Int32

  package init(_ failure: CommandFailure) {
    self.error = failure.lines.joined(separator: "\n")
    self.exitCode = failure.code.rawValue
  }
}

extension Words {
  /// As in JSON: one word, joined by underscores.
  static func key(_ outcome: TypesV1.Outcome) -> String {
    String(self.outcome(outcome).map { $0 == " " ? "_" : $0 })
  }
}
