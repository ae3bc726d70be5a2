import Domain

/// What the shell is to do. Results come back as inputs.
package enum Effect: Hashable, Sendable {
  /// Make the attempt's workspace; answer `workspacePrepared` or `workspaceFailed`.
  case prepareWorkspace(AttemptID)
  /// Run a step; answer `stepEnded`.
  case startStep(AttemptID, StepCall)
  /// SIGTERM to the step's process group, or a cancel to its plugin.
  case terminateStep(AttemptID, index: Int)
  /// SIGKILL to the step's whole process tree.
  case killStep(AttemptID, index: Int)
  case setTimer(AttemptID, JobTimer, Duration)
  /// Seal the log and remove the workspace; answer `wrappedUp`.
  case wrapUp(AttemptID)
  /// The attempt has new events: wake those who stream them.
  case publish(AttemptID)
  /// The attempt is over: its timers are void.
  case released(AttemptID)
}

/// What a job waits for. A timer that fires late, for something that is over, is ignored.
package enum JobTimer: Hashable, Sendable {
  case jobTimeout
  case stepTimeout(index: Int)
  /// From SIGTERM to SIGKILL.
  case stopGrace(index: Int)
  /// The end of what cleanup steps may take.
  case cleanupLimit
}
