extension Pipeline {
  /// A job of one build: an entry of `jobs`, or one leg of its matrix, with its names put in.
  package struct Leg: Hashable, Sendable {
    /// Unique in the build: the key, and for a leg `key (value, value)`.
    package var id: JobID
    package var name: String
    /// Its entry's position in ``Pipeline/jobs``.
    package var plan: Int
    package var matrix: Combination
    package var labels: [String]
    package var resources: Resources

    package init(
      id: JobID, name: String, plan: Int, matrix: Combination, labels: [String],
      resources: Resources
    ) {
      self.id = id
      self.name = name
      self.plan = plan
      self.matrix = matrix
      self.labels = labels
      self.resources = resources
    }
  }

  /// Why no build can be made of a pipeline that was read without a mistake.
  package struct ExpansionError: Error, Hashable, Sendable {
    /// The job it is about, or empty.
    package var job: String
    package var message: String
  }

  /// The most jobs one build may have, legs included: its record is one entity of 1 MiB.
  package static let maximumJobs = 1_000

  /// A job's id is part of the names of its attempts and logs.
  package static let maximumJobIDBytes = 250

  /// Of an environment variable that the name, the labels or the resources of a job speak of: all
  /// of them are made anew for each leg.
  static let maximumNameValueBytes = 1_000

  /// The jobs of one build, in the order of the file, legs in the order of their values.
  ///
  /// - Parameters:
  ///   - standard: What a job asks for that says nothing of it.
  ///   - environment: From the submitter, below what the pipeline says.
  package func expanded(
    standard: Resources, environment: [String: String] = [:]
  ) throws(ExpansionError) -> [Leg] {
    let buildEnvironment = self.buildEnvironment(over: environment)
      .mapValues { $0.limited(toBytes: Self.maximumNameValueBytes) }
    var legs: [Leg] = []
    for (plan, job) in self.jobs.enumerated() {
      let combinations: [Combination]
      do {
        combinations = try job.matrix?.legs() ?? [Combination([])]
      } catch {
        throw ExpansionError(job: job.key, message: "the matrix has \(error)")
      }
      if combinations.isEmpty {
        throw ExpansionError(job: job.key, message: "the matrix excludes all of its legs")
      }
      var seen: Set<String> = []
      for matrix in combinations {
        let leg = try self.leg(
          of: job, plan: plan, matrix: matrix, standard: standard, environment: buildEnvironment)
        guard seen.insert(leg.id.rawValue).inserted else {
          throw ExpansionError(
            job: job.key, message: "the matrix has two legs with the values \(matrix.label)")
        }
        legs.append(leg)
        if legs.count > Self.maximumJobs {
          throw ExpansionError(
            job: job.key, message: "more than \(Self.maximumJobs) jobs with all legs counted")
        }
      }
    }
    return legs
  }

  private func leg(
    of job: Job, plan: Int, matrix: Combination, standard: Resources,
    environment: [String: String]
  ) throws(ExpansionError) -> Leg {
    let context = NameContext(matrix: matrix, environment: environment)
    let id = matrix.entries.isEmpty ? job.key : "\(job.key) (\(matrix.label))"
    guard id.utf8.count <= Self.maximumJobIDBytes else {
      throw ExpansionError(
        job: job.key,
        message:
          "a leg's values take more than \(Self.maximumJobIDBytes) bytes: \(id.prefix(80))...")
    }
    var resources = standard
    if let text = job.cpu.map(context.resolved) {
      guard let millis = PipelineQuantity.cpuMillis(text) else {
        throw ExpansionError(
          job: job.key,
          message: "resources.cpu is \"\(text.limited(toBytes: 80))\", not a number of CPUs "
            + "such as 2")
      }
      resources.cpuMillis = millis
    }
    if let text = job.memory.map(context.resolved) {
      guard let memory = PipelineQuantity.memory(text) else {
        throw ExpansionError(
          job: job.key,
          message: "resources.memory is \"\(text.limited(toBytes: 80))\", not an amount of memory "
            + "such as 4GiB, at most 16TiB")
      }
      resources.memory = memory
    }
    let labels = job.labels.map(context.resolved).filter { !$0.isEmpty }
    if let label = labels.first(where: { !ExecutorLabel.isLabel($0) }) {
      throw ExpansionError(
        job: job.key,
        message: "runs-on comes to \"\(label.limited(toBytes: 80))\", not to at most "
          + "\(ExecutorLabel.maximumBytes) letters, digits and -_.=/:")
    }
    let name = context.resolved(job.name).limited(toBytes: Self.maximumJobIDBytes)
    return Leg(
      id: JobID(id), name: name.isEmpty ? id : name, plan: plan, matrix: matrix, labels: labels,
      resources: resources)
  }

  /// The environment that every job has: the submitter's, and the pipeline's on top.
  package func buildEnvironment(over environment: [String: String]) -> [String: String] {
    let context = NameContext(environment: environment)
    return environment.merging(self.environment.mapValues(context.partialText)) { $1 }
  }

  /// What is to be run for one leg, with every name put in that has a value before it starts.
  package struct Order: Hashable, Sendable {
    package var environment: [String: String]
    package var steps: [Step]
  }

  /// Makes the order for one attempt.
  ///
  /// - Parameter results: What each key in `jobs` that is over came to, as expressions call it.
  package func order(
    for leg: Leg, environment: [String: String], results: [String: String]
  ) -> Order {
    let job = self.jobs[leg.plan]
    var context = NameContext(
      matrix: leg.matrix, environment: self.buildEnvironment(over: environment),
      results: results)
    context.environment.merge(job.environment.mapValues(context.partialText)) { $1 }
    let steps = job.steps.map { step in
      var step = step
      var context = context
      step.environment = step.environment.mapValues(context.partialText)
      context.environment.merge(step.environment) { $1 }
      step.name = context.partialText(step.name)
      step.inputs = step.inputs.mapValues(context.partialText)
      step.workingDirectory = context.partialText(step.workingDirectory)
      if case .run(let script) = step.action { step.action = .run(context.partialText(script)) }
      step.condition = context.partialCondition(step.condition)
      return step
    }
    return Order(environment: context.environment, steps: steps)
  }
}

/// The contexts of expressions that are known before a job starts.
package struct NameContext: Sendable {
  package var matrix: Pipeline.Combination
  package var environment: [String: String]
  /// `needs.<key>.result`.
  package var results: [String: String]

  package init(
    matrix: Pipeline.Combination = Pipeline.Combination([]), environment: [String: String] = [:],
    results: [String: String] = [:]
  ) {
    self.matrix = matrix
    self.environment = environment
    self.results = results
  }

  /// What a path of names means here; nil: only the runner can know.
  package func value(_ path: [String]) -> ExpressionValue? {
    guard path.count >= 2 else { return nil }
    switch path[0] {
    case "matrix": return self.matrix[path[1]].map { .string($0) } ?? .null
    case "needs":
      guard path.count == 3, path[2] == "result" else { return .null }
      return self.results[path[1]].map { .string($0) } ?? .null
    case "env":
      // Not known here may still be known to the runner, and a value that still holds an
      // expression is not known yet.
      guard let text = self.environment[path[1]], Template.isSurelyPlain(text) else { return nil }
      return .string(text)
    default: return nil
    }
  }

  /// A text with all that is known put in; what is not known is empty.
  package func resolved(_ text: String) -> String {
    // The text was parsed when the pipeline was read.
    guard !Template.isSurelyPlain(text), let template = try? Template(parsing: text) else {
      return text
    }
    return template.text { self.value($0) }
  }

  /// A text with all that is known put in; the rest stays for the runner.
  func partialText(_ text: String) -> String {
    guard !Template.isSurelyPlain(text), let template = try? Template(parsing: text) else {
      return text
    }
    return template.partialText(self.value)
  }

  func partialCondition(_ text: String) -> String {
    guard !text.isEmpty, let condition = try? Condition(parsing: text) else { return text }
    return condition.partialText(self.value)
  }
}

extension Template {
  /// Whether a text holds no expression.
  static func isSurelyPlain(_ text: String) -> Bool { !text.contains(substring: "${{") }
}
