import Domain

/// What a step's expressions can see: how the job stands, and what the steps before it left.
struct StepSurroundings {
  var anyFailed: Bool
  var cancelled: Bool
  var environment: [String: String]
  var matrix: [String: String]
  /// Of the finished steps that have an id.
  var steps: [String: (outcome: Outcome, outputs: [String: String])]
}

/// An expression that cannot be read; the scheduler reads them all at submit, so it is a pipeline
/// from elsewhere.
struct UnreadableExpression: Error, CustomStringConvertible {
  var description: String
}

extension StepSurroundings {
  /// Whether the step is to run. An empty condition is `success()`.
  func holds(_ condition: String) throws(UnreadableExpression) -> Bool {
    do {
      return try Condition(parsing: condition).holds(self.status, self.value)
    } catch {
      throw UnreadableExpression(description: "its condition \"\(condition)\": \(error)")
    }
  }

  /// The step with every expression in it put in.
  func call(_ step: StepSpec, index: Int) throws(UnreadableExpression) -> StepCall {
    // Variables first: what the step sees of `env` is what its process gets.
    var resolved = self
    for (name, text) in self.environment {
      resolved.environment[name] = try self.text(text, of: "the variable \(name)")
    }
    var inputs: [String: String] = [:]
    for (name, text) in step.inputs {
      inputs[name] = try resolved.text(text, of: "its input \(name)")
    }
    let action: StepSpec.Action
    switch step.action {
    case .run(let script): action = .run(try resolved.text(script, of: "its script"))
    case .uses(let plugin): action = .uses(plugin)
    }
    return StepCall(
      index: index, action: action, inputs: inputs, environment: resolved.environment,
      workingDirectory: try resolved.text(step.workingDirectory, of: "its working directory"),
      shell: step.shell)
  }

  private func text(_ text: String, of place: String) throws(UnreadableExpression) -> String {
    // Most text has no expression; a shell's own braces are none of ours.
    guard text.contains("${{") else { return text }
    do {
      return try Template(parsing: text).text(self.status, self.value)
    } catch {
      throw UnreadableExpression(
        description: "\(place): expression \(error.occurrence + 1): \(error.message)")
    }
  }

  private var status: StatusFacts {
    StatusFacts(anyFailed: self.anyFailed, cancelled: self.cancelled)
  }

  private func value(_ path: [String]) -> ExpressionValue? {
    switch (path.first, path.count) {
    case ("env", 2): return self.environment[path[1]].map(ExpressionValue.string)
    case ("matrix", 2): return self.matrix[path[1]].map(ExpressionValue.string)
    case ("steps", 3) where path[2] == "outcome":
      return (self.steps[path[1]]?.outcome).map { .string($0.expressionWord) }
    case ("steps", 4) where path[2] == "outputs":
      return (self.steps[path[1]]?.outputs[path[3]]).map(ExpressionValue.string)
    default: return nil
    }
  }
}
