import Domain
import ExecutorAllocatorCore
import PluginRunnerCore
import SchedulerCore

typealias RunStream = Stream<Never, RunnerEvent>

/// One executor.
package struct RunnerPlan: Sendable {
  package var id: ExecutorID
  package var capacity: Resources
  /// What it says its capacity is.
  package var claimed: Resources
  package var labels: [String]
  package var pool: PoolName
  /// Tells apart two processes of one name.
  package var address: String
}

/// The plugin-runner's shell: the core, steps that take as long as the workload says, and
/// heartbeats.
final class Runner: Process {
  private static let heartbeatTimeout = Duration.seconds(2)
  private static let firstInterval = Duration.seconds(1)
  private static let drainGrace = Duration.seconds(20)

  private struct Memory {
    var core: PluginRunner
    var incarnation: String
    /// The step that runs, of each attempt.
    var steps: [AttemptID: (index: Int, isStubborn: Bool)] = [:]
    var watchers: [AttemptID: [Watcher]] = [:]
  }

  private final class Watcher {
    let stream: RunStream
    var sequence: Int64
    /// Under which its caller started it; nil: it attached.
    let lease: LeaseID?
    init(_ stream: RunStream, after sequence: Int64, under lease: LeaseID?) {
      (self.stream, self.sequence, self.lease) = (stream, sequence, lease)
    }
  }

  let plan: RunnerPlan
  private let allocators: [Allocator]
  private var memory: Memory

  init(_ plan: RunnerPlan, allocators: [Allocator], in surroundings: Surroundings) {
    self.plan = plan
    self.allocators = allocators
    self.memory = Self.memory(plan, incarnation: "")
    super.init(plan.address, in: surroundings)
  }

  private static func memory(_ plan: RunnerPlan, incarnation: String) -> Memory {
    Memory(
      core: PluginRunner(
        profile: ExecutorProfile(
          id: plan.id, capacity: plan.capacity, plugins: [RandomWorkload.notificationPlugin])),
      incarnation: incarnation)
  }

  var isIdle: Bool { !self.isUp || self.memory.core.isIdle }

  override func began() {
    self.memory = Self.memory(self.plan, incarnation: "\(self.name)/\(self.life)")
    self.after(self.timeline.random.duration(.zero...(.milliseconds(500)))) { self.beat() }
  }

  // MARK: Heartbeats

  private func beat() {
    let core = self.memory.core
    let heartbeat = Heartbeat(
      executor: self.plan.id, incarnation: self.memory.incarnation, address: self.plan.address,
      pool: self.plan.pool, labels: self.plan.labels, capacity: self.plan.claimed,
      held: core.heldLeases.map {
        .init(
          lease: $0.lease, request: $0.attempt, token: $0.token, resources: $0.resources,
          project: $0.project)
      },
      isDraining: core.draining, warmProjects: core.warmProjects, newestToken: core.newestToken)
    let allocator = self.timeline.random.pick(self.allocators)
    self.network.call(
      "a heartbeat", from: self, to: allocator, timeout: Self.heartbeatTimeout
    ) { answer in
      allocator.heartbeat(heartbeat, answer)
    } then: { (result: Result<HeartbeatAnswer?, CallFailure>) in
      var interval = Self.firstInterval
      if case .success(let answer?) = result {
        interval = answer.nextHeartbeat
        if !answer.stop.isEmpty { self.note("is to stop \(answer.stop)") }
        self.feed { core, now in
          core.forget(endedBefore: now - core.policy.retention)
          return core.heartbeatAnswered(stopping: answer.stop, at: now)
        }
      }
      self.after(interval) { self.beat() }
    }
  }

  /// Drains, and is gone when its jobs are, or its grace is over.
  override func wasAskedToEnd() -> Duration {
    self.run(in: self.life) {
      self.memory.core.drainBegan()
      self.awaitIdle(until: self.now + Self.drainGrace)
    }
    return Self.drainGrace + .seconds(10)
  }

  private func awaitIdle(until end: Timestamp) {
    if self.memory.core.isIdle || self.now >= end {
      self.feed { $0.drainGraceEnded(at: $1) }
      let allocator = self.timeline.random.pick(self.allocators)
      self.network.call(
        "a deregistration", from: self, to: allocator, timeout: Self.heartbeatTimeout
      ) { answer in
        allocator.deregister(self.plan.id, incarnation: self.memory.incarnation, answer)
      } then: { (_: Result<Bool, CallFailure>) in
        self.kill()
      }
    } else {
      self.after(.milliseconds(50)) { self.awaitIdle(until: end) }
    }
  }

  // MARK: Calls

  func run(_ order: RunOrder, _ stream: RunStream) {
    let spec = JobSpec(order)
    do {
      let isKnown = self.memory.core.job(spec.attempt) != nil
      var effects: [PluginRunnerCore.Effect] = []
      effects = try self.memory.core.offered(spec, at: self.now)
      if !isKnown {
        self.note("takes \(spec.attempt) under \(spec.lease)")
        self.checker.accepted(spec, by: self)
      }
      self.carryOut(effects)
    } catch {
      self.note("refuses \(spec.attempt): \(error)")
      switch error {
      case .draining: stream.end(.broken(error.description))
      case .staleToken, .staleUse, .leaseInUse, .leaseOver, .noRoom:
        stream.end(.refused(error.description))
      case .tooManySteps: stream.end(.invalid(error.description))
      }
      return
    }
    self.watch(spec.attempt, after: 0, under: spec.lease, stream)
  }

  func attach(_ attempt: AttemptID, after sequence: Int64, _ stream: RunStream) {
    guard self.memory.core.job(attempt) != nil else { return stream.end(.notFound) }
    self.watch(attempt, after: sequence, stream)
  }

  func stop(_ attempt: AttemptID, _ outcome: Outcome, reason: String) {
    // As the scheduler's links and the runner's handlers translate it.
    let order =
      switch outcome {
      case .timedOut: StopOrder(outcome: .timedOut, reason: reason, allowsCleanup: true)
      case .preempted, .executorLost:
        StopOrder(outcome: .preempted, reason: reason, allowsCleanup: false)
      case .succeeded, .failed, .cancelled, .outOfMemory, .skipped, .rejected:
        StopOrder(outcome: .cancelled, reason: reason, allowsCleanup: true)
      }
    self.received(.stopRequested(order), for: attempt)
  }

  // MARK: Events

  private func watch(
    _ attempt: AttemptID, after sequence: Int64, under lease: LeaseID? = nil, _ stream: RunStream
  ) {
    let watcher = Watcher(stream, after: sequence, under: lease)
    self.memory.watchers[attempt, default: []].append(watcher)
    stream.serverClosed = {
      self.memory.watchers[attempt]?.removeAll { $0 === watcher }
    }
    self.tell(watcher, of: attempt)
  }

  private func tell(_ watcher: Watcher, of attempt: AttemptID) {
    guard let job = self.memory.core.job(attempt) else { return watcher.stream.end(.ended) }
    for event in job.log.events(after: watcher.sequence) {
      watcher.sequence = event.sequence
      let lease = watcher.lease ?? job.spec.lease
      let isReusable = self.memory.core.isReusable(lease, after: attempt)
      watcher.stream.sendDown(RunnerEvent(event, isLeaseReusable: isReusable))
    }
    if job.endedAt != nil {
      watcher.stream.end(.ended)
      self.memory.watchers[attempt]?.removeAll { $0 === watcher }
    }
  }

  // MARK: The core

  private func received(_ input: JobInput, for attempt: AttemptID) {
    self.feed { $0.received(input, for: attempt, at: $1) }
  }

  private func feed(_ input: (inout PluginRunner, Timestamp) -> [PluginRunnerCore.Effect]) {
    self.carryOut(input(&self.memory.core, self.now))
  }

  private func carryOut(_ effects: [PluginRunnerCore.Effect]) {
    for effect in effects { self.carryOut(effect) }
    for broken in self.memory.core.brokenInvariants {
      self.timeline.fail("\(self.name): \(broken)")
    }
  }

  private func carryOut(_ effect: PluginRunnerCore.Effect) {
    switch effect {
    case .prepareWorkspace(let attempt):
      let time = self.timeline.random.duration(.milliseconds(1)...(.milliseconds(100)))
      self.after(time) { self.received(.workspacePrepared(logBytes: 0), for: attempt) }
    case .startStep(let attempt, let call): self.start(call, of: attempt)
    case .terminateStep(let attempt, let index):
      guard let step = self.memory.steps[attempt], step.index == index, !step.isStubborn else {
        return
      }
      self.after(self.timeline.random.duration(.milliseconds(1)...(.seconds(3)))) {
        self.end(index, of: attempt, .signalled(15))
      }
    case .killStep(let attempt, let index):
      self.after(self.timeline.random.duration(.milliseconds(1)...(.milliseconds(50)))) {
        self.end(index, of: attempt, .signalled(9))
      }
    case .setTimer(let attempt, let timer, let duration):
      self.after(duration) {
        guard self.memory.core.job(attempt)?.endedAt == nil else { return }
        self.received(.timerFired(timer), for: attempt)
      }
    case .wrapUp(let attempt):
      let time = self.timeline.random.duration(.milliseconds(1)...(.milliseconds(500)))
      self.after(time) { self.received(.wrappedUp(logBytes: 0, problem: nil), for: attempt) }
    case .publish(let attempt):
      for watcher in self.memory.watchers[attempt] ?? [] { self.tell(watcher, of: attempt) }
    case .released(let attempt):
      self.note("is done with \(attempt)")
      self.checker.released(attempt)
    }
  }

  // MARK: Steps

  private func start(_ call: StepCall, of attempt: AttemptID) {
    let script: StepScript
    switch call.action {
    case .run(let text):
      guard let parsed = StepScript(text) else {
        return self.received(
          .stepEnded(index: call.index, StepReport(ending: .exited(code: 127))), for: attempt)
      }
      script = parsed
    case .uses: script = .notification
    }
    self.memory.steps[attempt] = (call.index, script.isStubborn)
    let ending = script.ending(&self.timeline.random)
    self.after(script.time) { self.end(call.index, of: attempt, ending) }
  }

  /// A step is over, if it was not before.
  private func end(_ index: Int, of attempt: AttemptID, _ ending: StepReport.Ending) {
    guard self.memory.steps[attempt]?.index == index else { return }
    self.memory.steps[attempt] = nil
    self.received(.stepEnded(index: index, StepReport(ending: ending)), for: attempt)
  }
}

extension JobSpec {
  /// As the order comes over the wire.
  init(_ order: RunOrder) {
    self.init(
      attempt: order.attempt, build: order.build, job: order.job, number: order.number,
      project: order.project, lease: order.lease, token: order.token, leaseUse: order.leaseUse,
      resources: order.resources, environment: order.environment, timeout: order.timeout,
      steps: order.steps.map { step in
        let action: StepSpec.Action =
          switch step.action {
          case .run(let script): .run(script)
          case .uses(let plugin): .uses(plugin)
          }
        return StepSpec(
          id: step.id, name: step.name, action: action, inputs: step.inputs,
          environment: step.environment, condition: step.condition,
          continueOnError: step.continueOnError, timeout: step.timeout,
          workingDirectory: step.workingDirectory, shell: step.shell)
      },
      source: order.source, logName: order.logName)
  }
}

extension RunnerEvent {
  init(_ event: JobEvent, isLeaseReusable: Bool) {
    let what: What =
      switch event.what {
      case .accepted: .accepted
      case .step(let step): .step(StepRecord(step))
      case .artifact(let artifact): .artifact(artifact)
      case .finished(let end):
        .finished(
          end.outcome, message: end.message, usage: end.usage,
          isLeaseReusable: isLeaseReusable)
      }
    self.init(sequence: event.sequence, time: event.time, what: what)
  }
}

extension StepRecord {
  init(_ status: StepStatus) {
    let state: State =
      switch status.state {
      case .pending: .pending
      case .running: .running
      case .finished: .finished
      }
    self.init(index: status.index, id: status.id, name: status.name, state: state)
    self.outcome = status.outcome
    self.exitCode = status.exitCode
    self.signal = status.signal
    self.message = status.message
    self.startedAt = status.startedAt
    self.finishedAt = status.finishedAt
  }
}
