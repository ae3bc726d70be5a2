import Domain

/// All that is needed to run one attempt at a job.
package struct JobSpec: Hashable, Sendable {
  package var attempt: AttemptID
  package var build: BuildID
  package var job: JobID
  /// Counts the attempts at this job, from 1.
  package var number: Int32
  package var project: ProjectID
  package var lease: LeaseID
  package var token: FencingToken
  /// For how many attempts the lease was used before.
  package var leaseUse: Int32
  package var resources: Resources
  /// Environment of every step; the step's own comes on top.
  package var environment: [String: String]
  /// From acceptance to the end of the last step; nil is without limit.
  package var timeout: Duration?
  package var steps: [StepSpec]
  package var source: Source?
  /// The content-cache's log stream of this attempt.
  package var logName: String
  package var matrix: [String: String]

  package init(
    attempt: AttemptID, build: BuildID = "", job: JobID = "", number: Int32 = 1,
    project: ProjectID = "", lease: LeaseID, token: FencingToken, leaseUse: Int32 = 0,
    resources: Resources, environment: [String: String] = [:], timeout: Duration? = nil,
    steps: [StepSpec],
    source: Source? = nil, logName: String = "", matrix: [String: String] = [:]
  ) {
    self.attempt = attempt
    self.build = build
    self.job = job
    self.number = number
    self.project = project
    self.lease = lease
    self.token = token
    self.leaseUse = leaseUse
    self.resources = resources
    self.environment = environment
    self.timeout = timeout
    self.steps = steps
    self.source = source
    self.logName = logName
    self.matrix = matrix
  }
}

/// One plugin call, as the pipeline asks for it.
package struct StepSpec: Hashable, Sendable {
  package enum Action: Hashable, Sendable {
    /// A script for the shell.
    case run(String)
    /// A plugin, by name.
    case uses(String)
  }

  /// How expressions of later steps call it; may be empty.
  package var id: String
  package var name: String
  package var action: Action
  /// The plugin's inputs.
  package var inputs: [String: String]
  package var environment: [String: String]
  /// Empty is `success()`.
  package var condition: String
  package var continueOnError: Bool
  package var timeout: Duration?
  /// Relative to the workspace.
  package var workingDirectory: String
  /// Empty is the runner's choice.
  package var shell: String

  package init(
    id: String = "", name: String = "", action: Action, inputs: [String: String] = [:],
    environment: [String: String] = [:], condition: String = "", continueOnError: Bool = false,
    timeout: Duration? = nil, workingDirectory: String = "", shell: String = ""
  ) {
    self.id = id
    self.name = name
    self.action = action
    self.inputs = inputs
    self.environment = environment
    self.condition = condition
    self.continueOnError = continueOnError
    self.timeout = timeout
    self.workingDirectory = workingDirectory
    self.shell = shell
  }
}

/// A step that is due: everything in it is spelled out, no expression is left.
package struct StepCall: Hashable, Sendable {
  package var index: Int
  package var action: StepSpec.Action
  package var inputs: [String: String]
  package var environment: [String: String]
  package var workingDirectory: String
  package var shell: String
}

/// How a step's process or plugin call ended, as the shell saw it.
package struct StepReport: Hashable, Sendable {
  package enum Ending: Hashable, Sendable {
    case exited(code: Int32)
    /// A signal ended it. Ours or another's: the machine knows whether it asked for one.
    case signalled(Int32)
    /// The kernel killed it for the cgroup's memory limit.
    case outOfMemory(limit: ByteCount)
    /// A plugin said how it went.
    case answered(succeeded: Bool, message: String)
    /// A notification plugin said that no repetition can help; why.
    case givenUp(String)
    /// It could not be run, or its surroundings failed (full disk, crashed plugin); why.
    case broken(String)
  }

  package var ending: Ending
  package var usage: Usage
  /// Values for later steps.
  package var outputs: [String: String]
  /// Size of the attempt's log when the step's last byte was in.
  package var logEnd: Int64
  /// What else people should know if it failed: the workspace is full, for example.
  package var remark: String

  package init(
    ending: Ending, usage: Usage = Usage(), outputs: [String: String] = [:], logEnd: Int64 = 0,
    remark: String = ""
  ) {
    self.remark = remark
    self.ending = ending
    self.usage = usage
    self.outputs = outputs
    self.logEnd = logEnd
  }
}

/// A step as people see it.
package struct StepStatus: Hashable, Sendable {
  package enum State: Hashable, Sendable { case pending, running, finished }

  package var index: Int
  package var id: String
  package var name: String
  package var state = State.pending
  /// Set when it is finished.
  package var outcome: Outcome?
  /// -1 if a signal ended it or it never started.
  package var exitCode: Int32 = 0
  package var signal: Int32 = 0
  /// Why it did not succeed, in one sentence.
  package var message = ""
  package var startedAt: Timestamp?
  package var finishedAt: Timestamp?
  package var usage = Usage()
  package var logStart: Int64 = 0
  package var logEnd: Int64 = 0

  package init(index: Int, id: String, name: String) {
    self.index = index
    self.id = id
    self.name = name
  }
}

/// How an attempt ended.
package struct JobEnd: Hashable, Sendable {
  package var outcome: Outcome
  package var message: String
  package var usage: Usage
  /// Size of the sealed log.
  package var logBytes: Int64

  package init(outcome: Outcome, message: String, usage: Usage, logBytes: Int64) {
    self.outcome = outcome
    self.message = message
    self.usage = usage
    self.logBytes = logBytes
  }
}

/// Why a job is to end before its steps do.
package struct StopOrder: Hashable, Sendable {
  package var outcome: Outcome
  package var reason: String
  /// Whether steps with `always()` or `cancelled()` may still run, for a bounded time.
  package var allowsCleanup: Bool

  package init(outcome: Outcome, reason: String, allowsCleanup: Bool) {
    self.outcome = outcome
    self.reason = reason
    self.allowsCleanup = allowsCleanup
  }
}
