import Domain

/// What happens to one job, from outside its machine.
package enum JobInput: Hashable, Sendable {
  /// The workspace is there, and the log has this many bytes.
  case workspacePrepared(logBytes: Int64)
  case workspaceFailed(String)
  case stepEnded(index: Int, StepReport)
  /// A file is in the content-cache.
  case artifactKept(Artifact)
  case timerFired(JobTimer)
  case stopRequested(StopOrder)
  /// A disk has no room for what this attempt writes, or it holds what others need; why.
  case outOfRoom(String)
  /// The log is sealed, the workspace gone. `problem` says what could not be saved.
  case wrappedUp(logBytes: Int64, problem: String?)
}
