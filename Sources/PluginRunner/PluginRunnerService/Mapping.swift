import BuildProtos
import Domain
import DomainMapping
import PluginRunnerCore
import RPC

// Proto to domain: what comes in.

extension JobSpec {
  /// A job as it was offered. Throws INVALID_ARGUMENT, which names the field.
  init(_ message: RunnerV1.JobSpec) throws(RPCError) {
    for (name, value) in [
      ("attempt_id", message.attemptID), ("build_id", message.buildID), ("job_id", message.jobID),
      ("project", message.project), ("lease_id", message.leaseID), ("log_name", message.logName),
    ] {
      if value.isEmpty { throw RPCError(.invalidArgument, "job.\(name) is empty") }
      // They go into heartbeats, and the allocator takes no others.
      if value.utf8.count > 512 {
        throw RPCError(.invalidArgument, "job.\(name) is longer than 512 bytes")
      }
      if value.utf8.contains(where: { $0 < 0x20 || $0 == 0x7f }) {
        throw RPCError(.invalidArgument, "job.\(name) has a control character")
      }
    }
    // The allocator's own bounds: with another one among what it holds a runner's heartbeats are refused.
    guard 1...(1 << 53) ~= message.fencingToken else {
      throw RPCError(
        .invalidArgument,
        "job.fencing_token is \(message.fencingToken), not from 1 to \(1 << 53)")
    }
    guard message.leaseUse >= 0 else {
      throw RPCError(.invalidArgument, "job.lease_use is \(message.leaseUse), not from 0")
    }
    let resources = message.resources ?? TypesV1.Resources(slots: 1)
    guard resources.cpuMillis >= 0, resources.memoryBytes >= 0, resources.slots >= 0 else {
      throw RPCError(.invalidArgument, "job.resources has a negative share")
    }
    var steps: [StepSpec] = []
    for (index, step) in message.steps.enumerated() {
      steps.append(try StepSpec(step, field: "job.steps[\(index)]"))
    }
    self.init(
      attempt: AttemptID(message.attemptID), build: BuildID(message.buildID),
      job: JobID(message.jobID), number: message.attempt, project: ProjectID(message.project),
      lease: LeaseID(message.leaseID), token: FencingToken(message.fencingToken),
      leaseUse: message.leaseUse, resources: Resources(resources), environment: message.env,
      timeout: try Duration(limit: message.timeout, field: "job.timeout"),
      steps: steps, source: message.source.flatMap { Source($0) }, logName: message.logName,
      matrix: message.matrix)
  }
}

extension StepSpec {
  /// Throws INVALID_ARGUMENT, which names the field.
  fileprivate init(_ message: RunnerV1.StepSpec, field: String) throws(RPCError) {
    let action: Action
    switch message.action {
    case .run(let script): action = .run(script)
    case .uses(let plugin): action = .uses(plugin)
    case nil: throw RPCError(.invalidArgument, "\(field) has neither run nor uses")
    }
    self.init(
      id: message.id, name: message.name, action: action, inputs: message.with,
      environment: message.env, condition: message.condition,
      continueOnError: message.continueOnError,
      timeout: try Duration(limit: message.timeout, field: "\(field).timeout"),
      workingDirectory: message.workingDirectory, shell: message.shell)
  }
}

extension Duration {
  /// What a job or step may be given at most: several times what a pipeline can ask for. Whoever
  /// wants none leaves it out.
  fileprivate static let maximumLimit = Duration.seconds(30 * 86_400)

  /// A time limit, nil for none. Throws INVALID_ARGUMENT, which names the field.
  fileprivate init?(
    limit message: GoogleProtobuf.Duration?, field: String
  ) throws(RPCError) {
    guard let message, let limit = Duration(positive: message) else { return nil }
    guard limit <= Self.maximumLimit else {
      throw RPCError(
        .invalidArgument, "\(field) is \(message.seconds) s, and at most 30 days are allowed")
    }
    self = limit
  }
}

extension StopOrder {
  init(_ message: RunnerV1.StopJobRequest) throws(RPCError) {
    switch message.outcome {
    case .cancelled, .unspecified:
      self.init(outcome: .cancelled, reason: message.reason, allowsCleanup: true)
    case .timedOut:
      self.init(outcome: .timedOut, reason: message.reason, allowsCleanup: true)
    case .preempted:
      self.init(outcome: .preempted, reason: message.reason, allowsCleanup: false)
    default:
      throw RPCError(
        .invalidArgument,
        "a job is not stopped with outcome \(message.outcome): it is cancelled, timed out or "
          + "preempted")
    }
  }
}

// Domain to proto: what goes out.

extension RunnerV1.JobEvent {
  /// - Parameter isLeaseReusable: Of interest with the last event only.
  init(_ event: JobEvent, isLeaseReusable: Bool = false) {
    self.init(
      sequence: event.sequence, time: GoogleProtobuf.Timestamp(event.time),
      what: {
        switch event.what {
        case .accepted(let executor):
          .accepted(RunnerV1.JobAccepted(executorID: executor.rawValue))
        case .step(let status): .step(TypesV1.StepStatus(status))
        case .artifact(let artifact): .artifact(TypesV1.Artifact(artifact))
        case .finished(let end):
          .finished(RunnerV1.JobFinished(end, isLeaseReusable: isLeaseReusable))
        }
      }())
  }
}

extension RunnerV1.JobFinished {
  init(_ end: JobEnd, isLeaseReusable: Bool) {
    self.init(
      outcome: TypesV1.Outcome(end.outcome), message: end.message, usage: TypesV1.Usage(end.usage),
      logBytes: end.logBytes, leaseReusable: isLeaseReusable)
  }
}

extension TypesV1.StepStatus {
  init(_ status: StepStatus) {
    self.init(
      index: Int32(clamping: status.index), id: status.id, name: status.name,
      state: {
        switch status.state {
        case .pending: .pending
        case .running: .running
        case .finished: .finished
        }
      }(),
      outcome: TypesV1.Outcome(status.outcome),
      exitCode: status.exitCode, signal: status.signal, message: status.message,
      startedAt: status.startedAt.map { GoogleProtobuf.Timestamp($0) },
      finishedAt: status.finishedAt.map { GoogleProtobuf.Timestamp($0) },
      usage: TypesV1.Usage(status.usage), logStart: status.logStart, logEnd: status.logEnd)
  }
}

extension RunnerV1.HeldJob {
  init(_ job: HeldJob) {
    self.init(
      attemptID: job.attempt.rawValue, leaseID: job.lease.rawValue,
      fencingToken: job.token.rawValue, lastSequence: job.lastSequence, finished: job.finished)
  }
}

extension AllocatorV1.HeldLease {
  init(_ lease: HeldLease) {
    self.init(
      leaseID: lease.lease.rawValue, requestID: lease.attempt.rawValue,
      fencingToken: lease.token.rawValue, resources: TypesV1.Resources(lease.resources),
      project: lease.project.rawValue)
  }
}

extension PluginV1.BuildContext {
  /// A plugin's step, as the plugin is to see it.
  init(_ run: AttemptRun, _ call: StepCall, environment: [String: String]) {
    let spec = run.spec
    let step = spec.steps[call.index].id
    // The attempt's number is no part of it: a repetition says the same to its receiver. The step of
    // a notification has the notification's id, which no other has.
    let place = "\(spec.build)/\(spec.job)/\(step.isEmpty ? "\(call.index + 1)" : step)"
    self.init(
      buildID: spec.build.rawValue, jobID: spec.job.rawValue, stepID: step, attempt: spec.number,
      project: spec.project.rawValue, inputs: call.inputs, env: environment,
      workspace: run.workspace.work, scratch: run.workspace.plugin,
      source: spec.source.map { TypesV1.Source($0) },
      build: run.build,
      idempotencyID: run.build.isEmpty ? place : step)
  }
}

extension RPCError {
  init(_ refusal: Refusal) {
    switch refusal {
    case .draining: self.init(.unavailable, refusal.description)
    case .staleToken, .staleUse, .leaseInUse, .leaseOver:
      self.init(.failedPrecondition, refusal.description)
    case .noRoom:
      self.init(.resourceExhausted, refusal.description, retryDelay: .milliseconds(500))
    case .tooManySteps: self.init(.invalidArgument, refusal.description)
    }
  }
}
