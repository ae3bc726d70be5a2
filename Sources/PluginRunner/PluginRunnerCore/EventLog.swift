import Domain

/// Something that happened to a job.
package struct JobEvent: Hashable, Sendable {
  package enum What: Hashable, Sendable {
    /// The runner has taken the job.
    case accepted(ExecutorID)
    /// A step began or ended: its whole state now.
    case step(StepStatus)
    case artifact(Artifact)
    /// The last event.
    case finished(JobEnd)
  }

  /// From 1, without a gap.
  package var sequence: Int64
  package var time: Timestamp
  package var what: What
}

/// The events of one attempt, kept so that a caller who lost its stream can go on from the last
/// one it saw.
///
/// It is bounded by what it tells of: one acceptance, two events for each of at most
/// `Policy.maximumSteps` steps, at most `Policy.maximumArtifacts` artifacts, one end.
package struct EventLog: Sendable {
  package private(set) var events: [JobEvent] = []

  package var lastSequence: Int64 { Int64(self.events.count) }

  mutating func append(_ what: JobEvent.What, at now: Timestamp) {
    self.events.append(JobEvent(sequence: self.lastSequence + 1, time: now, what: what))
  }

  /// The events behind `sequence`.
  package func events(after sequence: Int64) -> ArraySlice<JobEvent> {
    self.events.dropFirst(Int(clamping: max(0, sequence)))
  }
}
