/// Why an attempt, a step or a build is over. Each cause is told apart from every other.
package enum Outcome: String, Hashable, Sendable, CaseIterable {
  case succeeded
  /// A step ended with a failure of its own.
  case failed
  case timedOut
  case cancelled
  case outOfMemory
  /// The executor stopped answering.
  case executorLost
  /// The executor was taken away for other work, or drained.
  case preempted
  /// Not run: its condition was false, or something it needs did not succeed.
  case skipped
  /// Never started, because it could not: no executor can ever run it, or the runner could not
  /// prepare it.
  case rejected
}
