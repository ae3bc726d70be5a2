import Domain

@testable import PluginRunnerCore

/// An executor with two slots, and a clock that only tests move.
struct World {
  var runner: PluginRunner
  var now = Timestamp(microseconds: 1_000_000)

  init(policy: Policy = Policy()) {
    self.runner = PluginRunner(
      profile: ExecutorProfile(
        id: "executor-1",
        capacity: Resources(cpuMillis: 2_000, memory: .gibibytes(4), slots: 2),
        plugins: ["checkout", "artifacts"]),
      policy: policy)
  }

  mutating func offer(_ spec: JobSpec) throws(Refusal) -> [Effect] {
    try self.runner.offered(spec, at: self.now)
  }

  mutating func send(_ input: JobInput, to attempt: AttemptID = "b/j/1") -> [Effect] {
    self.now = self.now + .milliseconds(10)
    return self.runner.received(input, for: attempt, at: self.now)
  }

  /// Carries the running step to its end.
  mutating func end(
    _ index: Int, _ ending: StepReport.Ending = .exited(code: 0), outputs: [String: String] = [:],
    logEnd: Int64 = 0
  ) -> [Effect] {
    self.send(
      .stepEnded(index: index, StepReport(ending: ending, outputs: outputs, logEnd: logEnd)))
  }

  /// Brings an attempt without steps to its end.
  mutating func finish(_ attempt: AttemptID) {
    _ = self.send(.workspacePrepared(logBytes: 0), to: attempt)
    _ = self.send(.wrappedUp(logBytes: 0, problem: nil), to: attempt)
  }

  var steps: [StepStatus] { self.runner.job("b/j/1")?.steps ?? [] }
  var outcomes: [Outcome?] { self.steps.map(\.outcome) }

  var end: JobEnd? {
    guard case .finished(let end)? = self.runner.job("b/j/1")?.log.events.last?.what else {
      return nil
    }
    return end
  }
}

func script(
  _ text: String, id: String = "", if condition: String = "", continueOnError: Bool = false,
  timeout: Duration? = nil
) -> StepSpec {
  StepSpec(
    id: id, action: .run(text), condition: condition, continueOnError: continueOnError,
    timeout: timeout)
}

func job(
  _ steps: [StepSpec], attempt: AttemptID = "b/j/1", lease: LeaseID = "lease-1", token: Int64 = 7,
  cpu: Int64 = 1_000, timeout: Duration? = nil
) -> JobSpec {
  JobSpec(
    attempt: attempt, build: "b", job: "j", project: "p", lease: lease,
    token: FencingToken(token),
    resources: Resources(cpuMillis: cpu, memory: .gibibytes(1)), timeout: timeout, steps: steps)
}

extension [Effect] {
  /// The steps that these effects begin.
  var started: [Int] {
    self.compactMap { if case .startStep(_, let call) = $0 { call.index } else { nil } }
  }
}
