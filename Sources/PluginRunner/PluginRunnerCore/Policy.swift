/// The runner's bounds and times, each with its reason.
package struct Policy: Sendable {
  /// From SIGTERM to SIGKILL: long enough for a compiler to remove its temporary files.
  package var stopGrace = Duration.seconds(5)
  /// All that steps with `always()` or `cancelled()` may take after a stop: longer, and a
  /// cancelled build would go on holding its share.
  package var cleanupLimit = Duration.seconds(30)
  /// A finished attempt's events stay for a scheduler that comes back: twice what it takes to
  /// restart one and let it take over its partitions, with room.
  package var retention = Duration.seconds(600)
  /// Finished attempts kept, however young: some kilobytes each, so tens of megabytes.
  package var maximumFinishedAttempts = 4_096
  /// Lease tokens remembered for fencing, beyond those of attempts held.
  package var maximumRememberedLeases = 16_384
  /// Steps in one job: far above any pipeline, and it bounds the event log.
  package var maximumSteps = 1_000
  /// Files that one attempt may keep; more belong into an archive.
  package var maximumArtifacts = 1_000
  /// Named by heartbeats; the allocator takes no more.
  package var maximumWarmProjects = 64

  package init() {}
}
