import BuildProtos
import Domain
import DomainMapping
import PipelineSyntax
import RPC
import SchedulerCore
import ServiceRuntime

// A build as people see it, both ways; how it is stored is in RecordMapping.swift.

extension SchedulerV1.Build {
  package init(_ record: BuildRecord) {
    let state: SchedulerV1.BuildState =
      switch record.state {
      case .queued: .queued
      case .running: .running
      case .finished: .finished
      }
    self.init(
      id: record.id.rawValue, project: record.project.rawValue, name: record.name, state: state,
      outcome: TypesV1.Outcome(record.outcome), revision: record.revision,
      createdAt: GoogleProtobuf.Timestamp(record.createdAt),
      startedAt: record.startedAt.map { GoogleProtobuf.Timestamp($0) },
      finishedAt: record.finishedAt.map { GoogleProtobuf.Timestamp($0) },
      jobs: record.jobs.map { SchedulerV1.Job($0, of: record.pipeline) },
      source: record.source.map { TypesV1.Source($0) }, priority: record.priority,
      annotations: record.annotations,
      notifications: record.notifications.map { SchedulerV1.Notification($0, of: record.pipeline) },
      message: record.message)
  }

  /// The build without its attempts' steps: in a list nobody looks at them, and it stays small.
  package init(summaryOf record: BuildRecord) {
    self.init(record)
    for job in self.jobs.indices {
      for attempt in self.jobs[job].attempts.indices {
        self.jobs[job].attempts[attempt].steps = []
      }
    }
  }
}

extension SchedulerV1.Job {
  init(_ job: JobRecord, of pipeline: Pipeline) {
    let state: SchedulerV1.JobState =
      switch job.state {
      case .blocked: .blocked
      case .queued: .queued
      case .running: .running
      case .finished: .finished
      }
    self.init(
      id: job.id.rawValue, name: job.leg.name, needs: pipeline.jobs[job.leg.plan].needs,
      state: state, outcome: TypesV1.Outcome(job.outcome),
      attempts: job.attempts.map { SchedulerV1.Attempt($0) }, waitingFor: job.waitingFor,
      matrix: [String: String](job.leg.matrix), message: job.message, runsOn: job.leg.labels,
      resources: TypesV1.Resources(job.leg.resources))
  }
}

extension [String: String] {
  init(_ combination: Pipeline.Combination) {
    self.init(
      combination.entries.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
  }
}

extension SchedulerV1.Attempt {
  init(_ attempt: AttemptRecord) {
    self.init(
      number: attempt.number, id: attempt.id.rawValue, executorID: attempt.executor.rawValue,
      executorAddress: attempt.address, fencingToken: attempt.token.rawValue,
      leaseID: attempt.lease.rawValue, outcome: TypesV1.Outcome(attempt.outcome),
      message: attempt.message, startedAt: GoogleProtobuf.Timestamp(attempt.startedAt),
      finishedAt: attempt.finishedAt.map { GoogleProtobuf.Timestamp($0) },
      steps: attempt.steps.map { TypesV1.StepStatus($0) },
      artifacts: attempt.artifacts.map { TypesV1.Artifact($0) },
      usage: attempt.usage.map { TypesV1.Usage($0) }, logName: attempt.logName)
  }
}

extension TypesV1.StepStatus {
  init(_ step: StepRecord) {
    let state: TypesV1.StepState =
      switch step.state {
      case .pending: .pending
      case .running: .running
      case .finished: .finished
      }
    self.init(
      index: Int32(clamping: step.index), id: step.id, name: step.name, state: state,
      outcome: TypesV1.Outcome(step.outcome), exitCode: step.exitCode, signal: step.signal,
      message: step.message, startedAt: step.startedAt.map { GoogleProtobuf.Timestamp($0) },
      finishedAt: step.finishedAt.map { GoogleProtobuf.Timestamp($0) },
      usage: step.usage.map { TypesV1.Usage($0) }, logStart: step.logStart, logEnd: step.logEnd)
  }
}

extension StepRecord {
  init(_ message: TypesV1.StepStatus) {
    let state: StepRecord.State =
      switch message.state {
      case .pending, .unspecified, .unrecognized: .pending
      case .running: .running
      case .finished: .finished
      }
    // A runner's words become part of the build's record.
    func words(_ text: String) -> String { text.limited(toBytes: 2_000) }
    self.init(
      index: Int(message.index), id: words(message.id), name: words(message.name), state: state)
    self.outcome = Outcome(message.outcome)
    self.exitCode = message.exitCode
    self.signal = message.signal
    self.message = words(message.message)
    self.startedAt = message.startedAt.map { Timestamp($0) }
    self.finishedAt = message.finishedAt.map { Timestamp($0) }
    self.usage = message.usage.map { Usage($0) }
    self.logStart = message.logStart
    self.logEnd = message.logEnd
  }
}

extension SchedulerV1.Notification {
  init(_ notification: NotificationRecord, of pipeline: Pipeline) {
    let state: SchedulerV1.NotificationState =
      switch notification.state {
      case .pending: .pending
      case .delivered: .delivered
      case .dead: .dead
      }
    self.init(
      id: notification.id.rawValue, uses: pipeline.notifications[notification.plan].uses,
      state: state, attempts: notification.attempts, message: notification.message)
  }
}

extension SchedulerV1.ExplainBuildResponse {
  init(_ explanation: Explanation) {
    self.init(
      build: SchedulerV1.Build(explanation.record),
      jobs: explanation.jobs.map { job in
        let waited = job.position?.since.map { max(.zero, Timestamp.steady - $0) }
        return SchedulerV1.JobExplanation(
          jobID: job.id.rawValue, position: Int32(clamping: job.position?.place ?? 0),
          queueLength: Int32(clamping: job.position?.count ?? 0),
          waited: waited.map { GoogleProtobuf.Duration($0) },
          estimatedWait: job.position?.estimatedWait.map { GoogleProtobuf.Duration($0) },
          typicalDuration: job.typicalDuration.map { GoogleProtobuf.Duration($0) })
      },
      remaining: explanation.remaining.map { GoogleProtobuf.Duration($0) })
  }
}

// MARK: - The runner

extension RunnerV1.JobSpec {
  init(_ order: RunOrder) {
    self.init(
      attemptID: order.attempt.rawValue, buildID: order.build.rawValue, jobID: order.job.rawValue,
      attempt: order.number, project: order.project.rawValue, leaseID: order.lease.rawValue,
      fencingToken: order.token.rawValue, resources: TypesV1.Resources(order.resources),
      env: order.environment, timeout: GoogleProtobuf.Duration(order.timeout),
      steps: order.steps.map { RunnerV1.StepSpec($0) },
      source: order.source.map { TypesV1.Source($0) }, logName: order.logName,
      matrix: [String: String](order.matrix), name: order.name,
      build: order.subject.map { SchedulerV1.Build($0).encoded() } ?? [], leaseUse: order.leaseUse)
  }
}

extension RunnerV1.StepSpec {
  init(_ step: Pipeline.Step) {
    let action: Action =
      switch step.action {
      case .run(let script): .run(script)
      case .uses(let plugin): .uses(plugin)
      }
    self.init(
      id: step.id, name: step.name, action: action, with: step.inputs, env: step.environment,
      condition: step.condition, continueOnError: step.continueOnError,
      timeout: step.timeout.map { GoogleProtobuf.Duration($0) },
      workingDirectory: step.workingDirectory, shell: step.shell)
  }
}

extension RunnerEvent {
  /// Nil for an event that says nothing this scheduler knows.
  init?(_ event: RunnerV1.JobEvent) {
    let what: What
    switch event.what {
    case .accepted: what = .accepted
    case .step(let step): what = .step(StepRecord(step))
    case .artifact(let artifact): what = .artifact(Artifact(artifact))
    case .finished(let finished):
      // A runner that knows an outcome that we do not has not succeeded at anything we know.
      what = .finished(
        Outcome(finished.outcome) ?? .failed, message: finished.message,
        usage: finished.usage.map { Usage($0) }, isLeaseReusable: finished.leaseReusable)
    case nil: return nil
    }
    self.init(
      sequence: event.sequence, time: event.time.map { Timestamp($0) } ?? .now, what: what)
  }
}

extension StreamEnd {
  /// Why a stream to a runner ended.
  ///
  /// - Parameter isAttaching: Whether the runner is to have the attempt: then only one thing that it can say speaks of
  ///   the attempt.
  init(_ error: RPCError, isAttaching: Bool) {
    switch error.code {
    case .notFound: self = .notFound
    case _ where isAttaching: self = .unreachable(error.message)
    case .failedPrecondition, .resourceExhausted: self = .refused(error.message)
    case .invalidArgument, .unimplemented: self = .invalid(error.message)
    default: self = .unreachable(error.message)
    }
  }
}

// MARK: - The allocator

extension AllocatorV1.Demand {
  init(_ demand: Demand) {
    self.init(
      requestID: demand.id.rawValue, project: demand.project.rawValue, pool: demand.shape.pool,
      labels: demand.shape.labels, resources: TypesV1.Resources(demand.shape.resources),
      rank: demand.rank, avoidExecutorIds: demand.shape.avoid.map(\.rawValue))
  }
}

extension Grant {
  init(_ lease: AllocatorV1.Lease) {
    self.init(
      lease: LeaseID(lease.id), demand: DemandID(lease.requestID),
      executor: ExecutorID(lease.executorID), address: lease.executorAddress,
      token: FencingToken(lease.fencingToken), isContended: lease.contended)
  }
}

extension LeaseLoss {
  init(_ cause: AllocatorV1.LeaseLostCause) {
    switch cause {
    case .expired: self = .expired
    case .executorLost, .executorRestarted, .unspecified, .unrecognized: self = .executorGone
    }
  }
}

// MARK: - Errors

extension RPCError {
  /// When to come back after an UNAVAILABLE that passes by itself.
  static let retrySoon = Duration.milliseconds(500)

  /// The error that an answer is; nil for a build.
  init?(_ answer: Answer, of build: BuildID) {
    switch answer {
    case .build: return nil
    case .notFound: self.init(.notFound, "there is no build \(build)")
    case .failedPrecondition(let why): self.init(.failedPrecondition, why)
    case .invalid(let why): self.init(.invalidArgument, why)
    case .alreadyExists(let why): self.init(.alreadyExists, why)
    case .exhausted(let why, let delay): self.init(.resourceExhausted, why, retryDelay: delay)
    case .unavailable(let why): self.init(.unavailable, why, retryDelay: Self.retrySoon)
    }
  }

  /// What clients take of an error: message and details, as trailers. grpcio's bound is 8 KiB for
  /// all of them, and beyond it a caller learns of that only.
  static let maximumTrailerBytes = 6_000
  private static let maximumPathBytes = 120

  /// The mistakes of a pipeline, as many as fit: a line for each, and for programs in the details.
  init(_ mistakes: PipelineMistakes) {
    var shown = mistakes
    shown.path = mistakes.path.limited(toBytes: Self.maximumPathBytes)
    self.init(all: shown)
    while self.trailerBytes > Self.maximumTrailerBytes, shown.mistakes.count > 2 {
      shown = shown.limited(to: shown.mistakes.count - 1)
      self.init(all: shown)
    }
  }

  private init(all mistakes: PipelineMistakes) {
    let details = SchedulerV1.PipelineMistakes(
      path: mistakes.path,
      mistakes: mistakes.mistakes.map { mistake in
        SchedulerV1.PipelineMistake(
          line: Int32(clamping: mistake.line), column: Int32(clamping: mistake.column),
          message: mistake.message, suggestion: mistake.suggestion)
      })
    self.init(.invalidArgument, mistakes.description)
    self.statusDetails =
      GoogleRPC.Status(
        // Clients compare it with the status: it is there twice.
        code: Int32(StatusCode.invalidArgument.rawValue), message: self.message,
        details: [
          GoogleProtobuf.AnyMessage(
            typeURL: "type.googleapis.com/" + SchedulerV1.PipelineMistakes.messageName,
            value: details.encoded())
        ]
      ).encoded()
  }

  /// What the message takes in percent-encoding, and the details in base64.
  var trailerBytes: Int {
    let plain = self.message.utf8.count { (0x20...0x7e).contains($0) && $0 != UInt8(ascii: "%") }
    let details = self.statusDetails?.count ?? 0
    return plain + 3 * (self.message.utf8.count - plain) + (details + 2) / 3 * 4
  }
}
