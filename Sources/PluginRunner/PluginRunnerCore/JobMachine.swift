import Domain

/// One attempt at a job, from acceptance to the last event.
///
/// ```
/// preparing --workspacePrepared--> stepping --last stepEnded--> wrappingUp --wrappedUp--> over
///     |                               |  ^
///     +--workspaceFailed--+           +--+ stepEnded, next step
///                         +--> wrappingUp
/// ```
/// A stop is a mark on the job, not a state: the running step is ended, and what follows runs only
/// if its condition says so and the order allows it. Late inputs (a timer of a step that is over,
/// a second stop) are harmless races and change nothing.
package struct JobMachine: Sendable {
  enum Phase: Equatable {
    case preparing
    case stepping(Running)
    case wrappingUp(Outcome, message: String)
    case over(at: Timestamp)
  }

  /// The step that runs.
  struct Running: Equatable {
    var index: Int
    /// Why it is being ended by us, if it is.
    var ending: Ending?

    enum Ending: Equatable { case stepTimeout, stop }
  }

  /// Behind a reference: whoever reads a part of a machine in a dictionary copies all of the machine.
  private final class Order: Sendable {
    let spec: JobSpec
    init(_ spec: JobSpec) { self.spec = spec }
  }

  private let order: Order
  package private(set) var log = EventLog()
  private(set) var phase = Phase.preparing
  private(set) var steps: [StepStatus]
  private var outputs: [Int: [String: String]] = [:]
  private var stop: StopOrder?
  /// No step may start any more.
  private var cleanupIsOver = false
  /// The first step that failed without `continue-on-error`.
  private var failure: (outcome: Outcome, message: String)?
  private var usage = Usage()
  private var artifacts = 0
  private let acceptedAt: Timestamp
  private let policy: Policy

  /// The attempt's effects begin with these.
  static func accepted(
    _ spec: JobSpec, executor: ExecutorID, unknownPlugin: String?, policy: Policy,
    at now: Timestamp
  ) -> (JobMachine, [Effect]) {
    var job = JobMachine(spec, policy: policy, at: now)
    job.log.append(.accepted(executor), at: now)
    var effects: [Effect] = [.publish(spec.attempt)]
    if let unknownPlugin {
      effects += job.wrapUp(.rejected, message: unknownPlugin)
    } else {
      if let timeout = spec.timeout {
        effects.append(.setTimer(spec.attempt, .jobTimeout, timeout))
      }
      effects.append(.prepareWorkspace(spec.attempt))
    }
    return (job, effects)
  }

  private init(_ spec: JobSpec, policy: Policy, at now: Timestamp) {
    self.order = Order(spec)
    self.policy = policy
    self.acceptedAt = now
    self.steps = spec.steps.enumerated().map { index, step in
      StepStatus(index: index, id: step.id, name: step.name)
    }
  }

  package var spec: JobSpec { self.order.spec }

  /// When the last event was written; nil while the job holds its share.
  package var endedAt: Timestamp? {
    if case .over(let at) = self.phase { at } else { nil }
  }

  /// Files this attempt may still keep.
  package var remainingArtifacts: Int { self.policy.maximumArtifacts - self.artifacts }

  mutating func receive(_ input: JobInput, at now: Timestamp) -> [Effect] {
    switch (input, self.phase) {
    case (.workspacePrepared(let logBytes), .preparing):
      return self.startNext(from: 0, logBytes: logBytes, at: now)
    case (.workspaceFailed(let why), .preparing):
      // Its executor's trouble, not the job's: another one may do better.
      return self.wrapUp(.preempted, message: why)
    case (.stepEnded(let index, let report), .stepping(let running)) where running.index == index:
      return self.stepEnded(running, report, at: now)
    case (.artifactKept(let artifact), .stepping) where self.remainingArtifacts > 0:
      self.artifacts += 1
      self.log.append(.artifact(artifact), at: now)
      return [.publish(self.spec.attempt)]
    case (.timerFired(let timer), _):
      return self.timerFired(timer)
    case (.stopRequested(let order), .preparing), (.stopRequested(let order), .stepping):
      return self.stopRequested(order)
    case (.outOfRoom(let why), .preparing), (.outOfRoom(let why), .stepping):
      return self.ranOutOfRoom(why)
    case (.wrappedUp(let logBytes, let problem), .wrappingUp(let outcome, let message)):
      return self.wrappedUp(outcome, message, logBytes: logBytes, problem: problem, at: now)
    default:
      return []
    }
  }

  // MARK: Steps

  /// Starts the first step from `first` on whose condition holds; skips the others.
  private mutating func startNext(from first: Int, logBytes: Int64, at now: Timestamp) -> [Effect] {
    var effects: [Effect] = []
    for index in self.spec.steps.indices.dropFirst(first) {
      self.steps[index].logStart = logBytes
      self.steps[index].logEnd = logBytes
      guard !self.cleanupIsOver, self.stop?.allowsCleanup != false else {
        self.finishStep(index, .skipped, message: "", at: now)
        continue
      }
      let step = self.spec.steps[index]
      do {
        let surroundings = self.surroundings(of: step)
        guard try surroundings.holds(step.condition) else {
          self.finishStep(index, .skipped, message: "", at: now)
          continue
        }
        let call = try surroundings.call(step, index: index)
        self.phase = .stepping(Running(index: index))
        self.steps[index].state = .running
        self.steps[index].startedAt = now
        self.log.append(.step(self.steps[index]), at: now)
        effects.append(.startStep(self.spec.attempt, call))
        if let timeout = step.timeout {
          effects.append(.setTimer(self.spec.attempt, .stepTimeout(index: index), timeout))
        }
        effects.append(.publish(self.spec.attempt))
        return effects
      } catch {
        self.steps[index].exitCode = -1
        self.finishStep(index, .failed, message: "\(error)", at: now)
      }
    }
    let outcome = self.stop?.outcome ?? self.failure?.outcome ?? .succeeded
    let message = self.stop?.reason ?? self.failure?.message ?? ""
    return effects + self.wrapUp(outcome, message: message) + [.publish(self.spec.attempt)]
  }

  private func surroundings(of step: StepSpec) -> StepSurroundings {
    var finished: [String: (outcome: Outcome, outputs: [String: String])] = [:]
    for status in self.steps where !status.id.isEmpty {
      guard let outcome = status.outcome else { continue }
      finished[status.id] = (outcome, self.outputs[status.index] ?? [:])
    }
    return StepSurroundings(
      anyFailed: self.failure != nil, cancelled: self.stop != nil,
      environment: self.spec.environment.merging(step.environment) { _, own in own },
      matrix: self.spec.matrix, steps: finished)
  }

  private mutating func stepEnded(
    _ running: Running, _ report: StepReport, at now: Timestamp
  ) -> [Effect] {
    let index = running.index
    self.steps[index].usage = report.usage
    self.steps[index].logEnd = max(report.logEnd, self.steps[index].logStart)
    self.usage.cpuTime += report.usage.cpuTime
    self.usage.peakMemory = max(self.usage.peakMemory, report.usage.peakMemory)
    self.outputs[index] = report.outputs
    var (outcome, message) = self.verdict(index, report.ending)
    switch running.ending {
    case .stop:
      outcome = self.stop?.outcome ?? .cancelled
      message = self.stop?.reason ?? ""
    case .stepTimeout:
      outcome = .timedOut
      let limit = self.spec.steps[index].timeout ?? .zero
      message = "step \(self.title(index)) ran longer than its \(spoken(limit))"
    case nil:
      if outcome != .succeeded, !report.remark.isEmpty { message += "; " + report.remark }
    }
    self.finishStep(index, outcome, message: message, at: now)
    return self.startNext(from: index + 1, logBytes: self.steps[index].logEnd, at: now)
  }

  /// What the step's end means when nobody asked for it.
  private mutating func verdict(_ index: Int, _ ending: StepReport.Ending) -> (Outcome, String) {
    let title = self.title(index)
    switch ending {
    case .exited(let code):
      self.steps[index].exitCode = code
      return code == 0 ? (.succeeded, "") : (.failed, "step \(title) ended with exit code \(code)")
    case .signalled(let signal):
      self.steps[index].exitCode = -1
      self.steps[index].signal = signal
      return (.failed, "step \(title) was ended by signal \(signal)\(signalName(signal))")
    case .outOfMemory(let limit):
      self.steps[index].exitCode = -1
      self.steps[index].signal = 9
      return (.outOfMemory, "step \(title) needed more than its \(spoken(limit)) of memory")
    case .answered(let succeeded, let message):
      self.steps[index].exitCode = succeeded ? 0 : 1
      return (succeeded ? .succeeded : .failed, succeeded ? "" : "step \(title): \(message)")
    case .givenUp(let why):
      self.steps[index].exitCode = 1
      return (.rejected, "step \(title): \(why)")
    case .broken(let why):
      self.steps[index].exitCode = -1
      return (.failed, "step \(title): \(why)")
    }
  }

  private mutating func finishStep(
    _ index: Int, _ outcome: Outcome, message: String, at now: Timestamp
  ) {
    self.steps[index].state = .finished
    self.steps[index].outcome = outcome
    self.steps[index].message = message
    self.steps[index].finishedAt = now
    if let began = self.steps[index].startedAt { self.steps[index].usage.wallTime = now - began }
    self.log.append(.step(self.steps[index]), at: now)
    let failed = outcome != .succeeded && outcome != .skipped
    if failed, !self.spec.steps[index].continueOnError, self.failure == nil {
      self.failure = (outcome, message)
    }
  }

  private func title(_ index: Int) -> String {
    let status = self.steps[index]
    if !status.name.isEmpty { return "\"\(status.name)\"" }
    return status.id.isEmpty ? "\(index + 1)" : "\"\(status.id)\""
  }

  // MARK: Ends

  private mutating func stopRequested(_ order: StopOrder) -> [Effect] {
    if let earlier = self.stop {
      // Only a harder order changes an earlier one: a lost lease ends a cancelled job's cleanup.
      guard earlier.allowsCleanup, !order.allowsCleanup else { return [] }
      self.stop = StopOrder(
        outcome: earlier.outcome, reason: earlier.reason, allowsCleanup: false)
      return self.endRunningStep(for: .stop)
    }
    self.stop = order
    let limit: [Effect] =
      order.allowsCleanup
      ? [.setTimer(self.spec.attempt, .cleanupLimit, self.policy.cleanupLimit)] : []
    return self.endRunningStep(for: .stop) + limit
  }

  /// Asks the running step to end, unless it was asked before.
  private mutating func endRunningStep(for reason: Running.Ending) -> [Effect] {
    guard case .stepping(var running) = self.phase else { return [] }
    let asked = running.ending != nil
    running.ending = running.ending ?? reason
    self.phase = .stepping(running)
    guard !asked else { return [] }
    return [
      .terminateStep(self.spec.attempt, index: running.index),
      .setTimer(self.spec.attempt, .stopGrace(index: running.index), self.policy.stopGrace),
    ]
  }

  /// The attempt fails, and its step is killed without a word before: it cannot write any, and its
  /// workspace may be what fills the disk.
  private mutating func ranOutOfRoom(_ why: String) -> [Effect] {
    self.stop = StopOrder(
      outcome: self.stop?.outcome ?? .failed, reason: self.stop?.reason ?? why,
      allowsCleanup: false)
    guard case .stepping(var running) = self.phase else { return [] }
    running.ending = running.ending ?? .stop
    self.phase = .stepping(running)
    return [.killStep(self.spec.attempt, index: running.index)]
  }

  private mutating func timerFired(_ timer: JobTimer) -> [Effect] {
    switch timer {
    case .jobTimeout:
      guard self.stop == nil, !self.isWrappingUp else { return [] }
      let limit = spoken(self.spec.timeout ?? .zero)
      return self.stopRequested(
        StopOrder(
          outcome: .timedOut, reason: "the job ran longer than its \(limit)", allowsCleanup: true))
    case .stepTimeout(let index):
      guard case .stepping(let running) = self.phase, running.index == index else { return [] }
      return self.endRunningStep(for: .stepTimeout)
    case .stopGrace(let index):
      guard case .stepping(let running) = self.phase, running.index == index else { return [] }
      return [.killStep(self.spec.attempt, index: index)]
    case .cleanupLimit:
      self.cleanupIsOver = true
      guard case .stepping(var running) = self.phase else { return [] }
      running.ending = running.ending ?? .stop
      self.phase = .stepping(running)
      return [.killStep(self.spec.attempt, index: running.index)]
    }
  }

  private var isWrappingUp: Bool {
    switch self.phase {
    case .preparing, .stepping: false
    case .wrappingUp, .over: true
    }
  }

  private mutating func wrapUp(_ outcome: Outcome, message: String) -> [Effect] {
    self.phase = .wrappingUp(outcome, message: message)
    return [.wrapUp(self.spec.attempt)]
  }

  private mutating func wrappedUp(
    _ outcome: Outcome, _ message: String, logBytes: Int64, problem: String?, at now: Timestamp
  ) -> [Effect] {
    self.usage.wallTime = now - self.acceptedAt
    let said = [message, problem ?? ""].filter { !$0.isEmpty }.joined(separator: "; ")
    self.log.append(
      .finished(JobEnd(outcome: outcome, message: said, usage: self.usage, logBytes: logBytes)),
      at: now)
    self.phase = .over(at: now)
    return [.publish(self.spec.attempt), .released(self.spec.attempt)]
  }
}

/// A duration as a sentence wants it.
func spoken(_ duration: Duration) -> String {
  let milliseconds = duration.microseconds / 1_000
  if milliseconds < 1_000 { return "\(milliseconds) ms" }
  if milliseconds % 60_000 == 0 { return "\(milliseconds / 60_000) min" }
  return milliseconds % 1_000 == 0
    ? "\(milliseconds / 1_000) s" : "\(milliseconds / 1_000).\(milliseconds % 1_000 / 100) s"
}

func spoken(_ size: ByteCount) -> String {
  for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] where size.bytes >= (1 << shift) {
    let tenths = (size.bytes * 10) >> shift
    return tenths % 10 == 0 ? "\(tenths / 10) \(unit)" : "\(tenths / 10).\(tenths % 10) \(unit)"
  }
  return "\(size.bytes) bytes"
}

/// Names of the signals that end steps in practice, for a message.
private func signalName(_ signal: Int32) -> String {
  let names: [Int32: String] = [
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ",
    31: "SIGSYS",
  ]
  return names[signal].map { " (\($0))" } ?? ""
}
