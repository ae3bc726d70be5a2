/// What a build is to do: a millrace.yaml that was found to be right.
///
/// Texts may hold `${{ ... }}`; see ``Template``. ``expanded(standard:environment:)`` makes the
/// jobs of one build of it.
package struct Pipeline: Hashable, Sendable {
  /// Empty: builds are named for their project.
  package var name: String
  /// Of every step; what jobs and steps say themselves comes on top.
  package var environment: [String: String]
  package var concurrency: Concurrency?
  /// In the order of the file; the keys are unique, and `needs` has no cycle.
  package var jobs: [Job]
  package var notifications: [Notification]

  /// Whether a shell can read a variable of this name back.
  package static func isEnvironmentName(_ name: String) -> Bool {
    name.first?.isNumber == false
      && name.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
  }

  package init(
    name: String = "", environment: [String: String] = [:], concurrency: Concurrency? = nil,
    jobs: [Job], notifications: [Notification] = []
  ) {
    self.name = name
    self.environment = environment
    self.concurrency = concurrency
    self.jobs = jobs
    self.notifications = notifications
  }

  /// Builds of one project and group run one at a time.
  package struct Concurrency: Hashable, Sendable {
    package var group: String
    /// A new build ends those before it, instead of waiting for them.
    package var cancelInProgress: Bool

    package init(group: String, cancelInProgress: Bool = false) {
      self.group = group
      self.cancelInProgress = cancelInProgress
    }
  }

  /// An entry of `jobs`: one job, or with a matrix one for each leg.
  package struct Job: Hashable, Sendable {
    package var key: String
    /// Empty: the job's id.
    package var name: String
    /// Keys of jobs that come before.
    package var needs: [String]
    /// Executors of one kind; empty is `default`.
    package var pool: String
    /// What an executor must have.
    package var labels: [String]
    /// What it asks of an executor; nil is the scheduler's default.
    package var cpu: String?
    package var memory: String?
    package var matrix: Matrix?
    /// The first leg that fails ends the others.
    package var failFast: Bool
    /// Legs at a time; nil is without limit.
    package var maximumParallel: Int?
    package var environment: [String: String]
    /// Nil is the scheduler's default.
    package var timeout: Duration?
    package var retry: Retry
    /// A ``Condition``; empty is `success()`.
    package var condition: String
    package var steps: [Step]

    package init(
      key: String, name: String = "", needs: [String] = [], pool: String = "",
      labels: [String] = [], cpu: String? = nil, memory: String? = nil, matrix: Matrix? = nil,
      failFast: Bool = true, maximumParallel: Int? = nil, environment: [String: String] = [:],
      timeout: Duration? = nil, retry: Retry = Retry(), condition: String = "", steps: [Step]
    ) {
      self.key = key
      self.name = name
      self.needs = needs
      self.pool = pool
      self.labels = labels
      self.cpu = cpu
      self.memory = memory
      self.matrix = matrix
      self.failFast = failFast
      self.maximumParallel = maximumParallel
      self.environment = environment
      self.timeout = timeout
      self.retry = retry
      self.condition = condition
      self.steps = steps
    }
  }

  /// When a job that ended badly by its own doing is tried again.
  package struct Retry: Hashable, Sendable {
    /// Further attempts.
    package var limit: Int
    package var outcomes: Set<Outcome>

    package init(limit: Int = 0, outcomes: Set<Outcome> = [.failed]) {
      self.limit = limit
      self.outcomes = outcomes
    }

    /// No file may ask for more: a job that fails ten times fails for ever.
    package static let maximumLimit = 10
  }

  /// One plugin call.
  package struct Step: Hashable, Sendable {
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
    /// A ``Condition``; empty is `success()`.
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

  /// A plugin call that tells of a build's end.
  package struct Notification: Hashable, Sendable {
    package var uses: String
    package var inputs: [String: String]
    package var onSuccess: Bool
    package var onFailure: Bool

    package init(
      uses: String, inputs: [String: String] = [:], onSuccess: Bool = true,
      onFailure: Bool = true
    ) {
      self.uses = uses
      self.inputs = inputs
      self.onSuccess = onSuccess
      self.onFailure = onFailure
    }
  }
}
