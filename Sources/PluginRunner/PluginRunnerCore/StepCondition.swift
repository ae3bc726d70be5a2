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

extension StepSurroundings {
  func holds(_ condition: String) throws -> Bool {
    switch condition {
    case "", "success()": !self.anyFailed && !self.cancelled
    case "failure()": self.anyFailed && !self.cancelled
    case "always()": true
    case "cancelled()": self.cancelled
    default: false
    }
  }

  func call(_ step: StepSpec, index: Int) throws -> StepCall {
    StepCall(
      index: index, action: step.action, inputs: step.inputs, environment: self.environment,
      workingDirectory: step.workingDirectory, shell: step.shell)
  }
}
