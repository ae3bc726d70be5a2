import BuildProtos
import Domain
import DomainMapping
import RPC
import SchedulerCore

/// Why a stored record cannot be gone on with.
struct UnreadableRecord: Error, Hashable, CustomStringConvertible {
  let description: String
}

// MARK: - To the store

extension SchedulerV1.BuildRecord {
  /// The form of records that this scheduler writes, and the newest that it reads.
  static let currentFormat: Int32 = 1

  init(_ record: BuildRecord) {
    var build = SchedulerV1.Build(record)
    for index in build.jobs.indices { build.jobs[index].waitingFor = "" }
    self.init(
      format: Self.currentFormat, owner: record.owner, build: build,
      pipeline: SchedulerV1.PipelineRecord(record.pipeline),
      plans: record.jobs.map { Int32($0.leg.plan) },
      heldAttemptIds: record.jobs.flatMap { job in
        job.attempts.filter(\.isHeld).map(\.id.rawValue)
      },
      round: record.round, env: record.environment,
      notificationPlans: record.notifications.map { Int32($0.plan) },
      earlierAttempts: record.jobs.map { Int32($0.earlierAttempts) },
      fingerprint: record.fingerprint?.text ?? "", shortened: record.isShortened)
  }
}

extension SchedulerV1.PipelineRecord {
  init(_ pipeline: Pipeline) {
    self.init(
      name: pipeline.name, env: pipeline.environment,
      concurrency: pipeline.concurrency.map {
        SchedulerV1.ConcurrencyRecord(group: $0.group, cancelInProgress: $0.cancelInProgress)
      },
      jobs: pipeline.jobs.map { SchedulerV1.JobPlan($0) },
      notifications: pipeline.notifications.map { notification in
        SchedulerV1.NotificationPlan(
          uses: notification.uses, with: notification.inputs, onSuccess: notification.onSuccess,
          onFailure: notification.onFailure)
      })
  }
}

extension SchedulerV1.JobPlan {
  init(_ job: Pipeline.Job) {
    // What differs between legs stands at the build's jobs.
    self.init(
      key: job.key, needs: job.needs, env: job.environment,
      timeout: job.timeout.map { GoogleProtobuf.Duration($0) },
      retry: SchedulerV1.RetryPlan(
        limit: Int32(clamping: job.retry.limit),
        outcomes: job.retry.outcomes.map { TypesV1.Outcome($0) }.sorted {
          $0.rawValue < $1.rawValue
        }
      ),
      condition: job.condition, steps: job.steps.map { RunnerV1.StepSpec($0) },
      failFast: job.failFast, maxParallel: Int32(clamping: job.maximumParallel ?? 0),
      pool: job.pool)
  }
}

// MARK: - From the store

extension BuildRecord {
  init(_ message: SchedulerV1.BuildRecord) throws(UnreadableRecord) {
    guard message.format == SchedulerV1.BuildRecord.currentFormat else {
      throw UnreadableRecord(
        description: "it has format \(message.format), and this scheduler knows "
          + "\(SchedulerV1.BuildRecord.currentFormat)")
    }
    guard let build = message.build, let pipeline = message.pipeline else {
      throw UnreadableRecord(description: "it holds no build or no pipeline")
    }
    let held = Set(message.heldAttemptIds)
    var jobs: [JobRecord] = []
    for (index, job) in build.jobs.enumerated() {
      guard message.plans.indices.contains(index),
        pipeline.jobs.indices.contains(Int(message.plans[index]))
      else { throw UnreadableRecord(description: "its job \(job.id) has no plan") }
      jobs.append(
        JobRecord(
          job, plan: Int(message.plans[index]), held: held,
          earlierAttempts: index < message.earlierAttempts.count
            ? max(0, Int(message.earlierAttempts[index])) : 0))
    }
    self.init(
      id: BuildID(build.id), project: ProjectID(build.project), name: build.name,
      createdAt: build.createdAt.map { Timestamp($0) } ?? Timestamp(microseconds: 0),
      source: build.source.flatMap { Source($0) }, priority: build.priority,
      annotations: build.annotations, environment: message.env, pipeline: Pipeline(pipeline),
      jobs: jobs, fingerprint: Fingerprint(message.fingerprint), owner: message.owner)
    switch build.state {
    case .queued: self.state = .queued
    case .running: self.state = .running
    case .finished: self.state = .finished
    case .unspecified, .unrecognized:
      throw UnreadableRecord(description: "it has the unknown state \(build.state)")
    }
    self.outcome = Outcome(build.outcome)
    self.message = build.message
    self.revision = build.revision
    self.startedAt = build.startedAt.map { Timestamp($0) }
    self.finishedAt = build.finishedAt.map { Timestamp($0) }
    self.round = message.round
    self.isShortened = message.shortened
    for (index, notification) in build.notifications.enumerated() {
      guard message.notificationPlans.indices.contains(index),
        self.pipeline.notifications.indices.contains(Int(message.notificationPlans[index]))
      else {
        throw UnreadableRecord(description: "its notification \(notification.id) has no plan")
      }
      self.notifications.append(
        NotificationRecord(notification, plan: Int(message.notificationPlans[index])))
    }
  }
}

extension JobRecord {
  fileprivate init(_ job: SchedulerV1.Job, plan: Int, held: Set<String>, earlierAttempts: Int) {
    self.init(
      Pipeline.Leg(
        id: JobID(job.id), name: job.name, plan: plan,
        matrix: Pipeline.Combination(
          job.matrix.sorted { $0.key < $1.key }.map { .init(name: $0.key, value: $0.value) }),
        labels: job.runsOn, resources: job.resources.map { Resources($0) } ?? .none))
    self.state =
      switch job.state {
      case .blocked, .unspecified, .unrecognized: .blocked
      case .queued: .queued
      case .running: .running
      case .finished: .finished
      }
    self.outcome = Outcome(job.outcome)
    self.message = job.message
    self.attempts = job.attempts.map { AttemptRecord($0, isHeld: held.contains($0.id)) }
    self.earlierAttempts = earlierAttempts
  }
}

extension AttemptRecord {
  fileprivate init(_ attempt: SchedulerV1.Attempt, isHeld: Bool) {
    self.init(
      id: AttemptID(attempt.id), number: attempt.number,
      executor: ExecutorID(attempt.executorID), address: attempt.executorAddress,
      lease: LeaseID(attempt.leaseID), token: FencingToken(attempt.fencingToken),
      startedAt: attempt.startedAt.map { Timestamp($0) } ?? Timestamp(microseconds: 0))
    self.outcome = Outcome(attempt.outcome)
    self.message = attempt.message
    self.finishedAt = attempt.finishedAt.map { Timestamp($0) }
    self.steps = attempt.steps.map { StepRecord($0) }
    self.artifacts = attempt.artifacts.map { Artifact($0) }
    self.usage = attempt.usage.map { Usage($0) }
    self.isHeld = isHeld
  }
}

extension NotificationRecord {
  fileprivate init(_ notification: SchedulerV1.Notification, plan: Int) {
    self.init(id: NotificationID(notification.id), plan: plan)
    self.state =
      switch notification.state {
      case .pending, .unspecified, .unrecognized: .pending
      case .delivered: .delivered
      case .dead: .dead
      }
    self.attempts = notification.attempts
    self.message = notification.message
  }
}

extension Pipeline {
  init(_ record: SchedulerV1.PipelineRecord) {
    self.init(
      name: record.name, environment: record.env,
      concurrency: record.concurrency.map {
        Concurrency(group: $0.group, cancelInProgress: $0.cancelInProgress)
      },
      jobs: record.jobs.map { Job($0) },
      notifications: record.notifications.map { plan in
        Notification(
          uses: plan.uses, inputs: plan.with, onSuccess: plan.onSuccess, onFailure: plan.onFailure)
      })
  }
}

extension Pipeline.Job {
  fileprivate init(_ plan: SchedulerV1.JobPlan) {
    self.init(
      key: plan.key, needs: plan.needs, pool: plan.pool, failFast: plan.failFast,
      maximumParallel: plan.maxParallel > 0 ? Int(plan.maxParallel) : nil, environment: plan.env,
      timeout: plan.timeout.flatMap { Duration(positive: $0) },
      retry: plan.retry.map { retry in
        Pipeline.Retry(
          limit: Int(retry.limit), outcomes: Set(retry.outcomes.compactMap { Outcome($0) }))
      } ?? Pipeline.Retry(),
      condition: plan.condition, steps: plan.steps.compactMap { Pipeline.Step($0) })
  }
}

extension Pipeline.Step {
  /// Nil if it says nothing to do.
  fileprivate init?(_ step: RunnerV1.StepSpec) {
    let action: Action
    switch step.action {
    case .run(let script): action = .run(script)
    case .uses(let plugin): action = .uses(plugin)
    case nil: return nil
    }
    self.init(
      id: step.id, name: step.name, action: action, inputs: step.with, environment: step.env,
      condition: step.condition, continueOnError: step.continueOnError,
      timeout: step.timeout.flatMap { Duration(positive: $0) },
      workingDirectory: step.workingDirectory, shell: step.shell)
  }
}
