import Domain
import PluginRunnerCore

/// Something that people do, and when.
package struct Arrival: Sendable {
  package enum What: Sendable {
    case submit(Wish)
    /// The build that came with that number.
    case cancel(Int)
    case retry(Int)
  }

  /// From the beginning.
  package var time: Duration
  package var what: What

  package init(time: Duration, what: What) {
    self.time = time
    self.what = what
  }
}

/// A build that somebody wants.
package struct Wish: Sendable {
  package var id: BuildID
  package var project: ProjectID
  package var pipeline: Pipeline
  package var priority: Int32

  package init(id: BuildID, project: ProjectID, pipeline: Pipeline, priority: Int32 = 0) {
    self.id = id
    self.project = project
    self.pipeline = pipeline
    self.priority = priority
  }
}

/// What arrives in a world, in the order of time: made from a seed, or read from the trace of a
/// real day. Steps are ``StepScript``s: how long they take and how they end is the workload's to
/// say.
package protocol Workload {
  /// Nil: nothing more comes.
  mutating func next() -> Arrival?
}

/// A step as the simulated runners understand it: `take 1200ms exit 1`.
package struct StepScript: Hashable, Sendable, CustomStringConvertible {
  package enum Ending: Hashable, Sendable {
    case exit(Int32)
    case outOfMemory
    /// Fails so often, in percent.
    case flaky(Int)
  }

  package var time: Duration
  package var ending: Ending
  /// SIGTERM does not end it.
  package var isStubborn: Bool
  private var isPlugin = false

  package init(time: Duration, ending: Ending = .exit(0), isStubborn: Bool = false) {
    self.time = time
    self.ending = ending
    self.isStubborn = isStubborn
  }

  /// A receiver that is away now and then.
  static let notification: Self = {
    var script = Self(time: .milliseconds(20), ending: .flaky(20))
    script.isPlugin = true
    return script
  }()

  package init?(_ text: String) {
    let words = text.split(separator: " ")
    guard words.count >= 4, words[0] == "take", words[1].hasSuffix("ms"),
      let milliseconds = Int64(words[1].dropLast(2)), let number = Int32(words[3])
    else { return nil }
    self.time = .milliseconds(milliseconds)
    switch words[2] {
    case "exit": self.ending = .exit(number)
    case "memory": self.ending = .outOfMemory
    case "flaky": self.ending = .flaky(Int(number))
    default: return nil
    }
    self.isStubborn = words.last == "stubborn"
  }

  package var description: String {
    let ending =
      switch self.ending {
      case .exit(let code): "exit \(code)"
      case .outOfMemory: "memory 0"
      case .flaky(let percent): "flaky \(percent)"
      }
    return "take \(self.time.microseconds / 1_000)ms \(ending)"
      + (self.isStubborn ? " stubborn" : "")
  }

  func ending(_ random: inout Randomness) -> StepReport.Ending {
    switch self.ending {
    case .outOfMemory: return .outOfMemory(limit: .gibibytes(1))
    case .exit(let code): return .exited(code: code)
    case .flaky(let percent):
      let fails = random.int(1...100) <= percent
      return self.isPlugin
        ? .answered(succeeded: !fails, message: fails ? "no answer" : "")
        : .exited(code: fails ? 1 : 0)
    }
  }
}

/// Builds of every kind, from a seed: matrices, graphs, groups, priorities, failures, retries,
/// cancellations, and some that no executor can run.
package struct RandomWorkload: Workload {
  static let notificationPlugin = "webhook"

  private var random: Randomness
  private var time = Duration.zero
  private var left: Int
  private var submitted = 0
  private let interval: ClosedRange<Duration>
  private let projects: [ProjectID]
  private let isUniform: Bool

  /// - Parameters:
  ///   - interval: Between two arrivals.
  ///   - isUniform: All jobs ask for the same.
  package init(
    seed: UInt64, count: Int, interval: ClosedRange<Duration>, projects: Int = 4,
    isUniform: Bool = false
  ) {
    self.isUniform = isUniform
    self.random = Randomness(seed: seed ^ 0x6f_0ad)
    self.left = count
    self.interval = interval
    self.projects = (1...projects).map { ProjectID("project-\($0)") }
  }

  package mutating func next() -> Arrival? {
    guard self.left > 0 else { return nil }
    self.left -= 1
    self.time += self.random.duration(self.interval)
    let kind = self.submitted == 0 ? 100 : self.random.int(1...100)
    switch kind {
    case ...8: return Arrival(time: self.time, what: .cancel(self.earlier))
    case 9...14: return Arrival(time: self.time, what: .retry(self.earlier))
    default:
      self.submitted += 1
      let wish = Wish(
        id: BuildID("b\(self.submitted)"), project: self.random.pick(self.projects),
        pipeline: self.pipeline(), priority: self.random.pick([0, 0, 0, 0, 5, -5]))
      return Arrival(time: self.time, what: .submit(wish))
    }
  }

  private var earlier: Int {
    mutating get { self.random.int(max(1, self.submitted - 5)...self.submitted) }
  }

  private mutating func pipeline() -> Pipeline {
    let count = self.random.pick([1, 1, 1, 2, 3, 4])
    var jobs: [Pipeline.Job] = []
    for index in 0..<count {
      let needs = jobs.map(\.key).filter { _ in self.random.chance(0.4) }
      var job = Pipeline.Job(key: "j\(index)", needs: needs, steps: self.steps())
      job.cpu = self.random.pick([nil, "0.5", "1", "2", "4"])
      job.memory = self.random.pick([nil, "512MiB", "1GiB", "4GiB"])
      job.labels = self.random.chance(0.1) ? ["gpu"] : []
      // No executor has it.
      if self.random.chance(0.02) { job.labels = ["quantum"] }
      if self.random.chance(0.02) { job.cpu = "500" }
      if self.isUniform { (job.cpu, job.memory, job.labels) = ("2", nil, []) }
      if self.random.chance(0.15) {
        let values = (1...self.random.int(2...6)).map { "v\($0)" }
        job.matrix = Pipeline.Matrix(axes: [.init(name: "v", values: values)])
        job.failFast = self.random.chance(0.5)
        job.maximumParallel = self.random.pick([nil, nil, 1, 2])
      }
      job.retry = Pipeline.Retry(limit: self.random.pick([0, 0, 1, 3]))
      job.timeout = self.random.pick([nil, nil, .seconds(20)])
      job.condition = self.random.pick(["", "", "", "always()", "failure()"])
      jobs.append(job)
    }
    var pipeline = Pipeline(jobs: jobs)
    if self.random.chance(0.2) {
      pipeline.concurrency = Pipeline.Concurrency(
        group: self.random.pick(["one", "two"]), cancelInProgress: self.random.chance(0.5))
    }
    if self.random.chance(0.2) {
      pipeline.notifications = [Pipeline.Notification(uses: Self.notificationPlugin)]
    }
    return pipeline
  }

  private mutating func steps() -> [Pipeline.Step] {
    (0..<self.random.int(1...3)).map { _ in
      let time = self.random.duration(
        .milliseconds(1)...(self.random.chance(0.1) ? .seconds(30) : .seconds(4)))
      let ending: StepScript.Ending = self.random.pick([
        .exit(0), .exit(0), .exit(0), .exit(0), .exit(0), .flaky(30), .exit(1), .outOfMemory,
      ])
      var step = Pipeline.Step(
        action: .run(
          "\(StepScript(time: time, ending: ending, isStubborn: self.random.chance(0.05)))"))
      step.continueOnError = self.random.chance(0.3)
      step.condition = self.random.pick(["", "", "", "always()", "cancelled()"])
      step.timeout = self.random.pick([nil, nil, nil, .seconds(5)])
      return step
    }
  }
}
