import Domain

/// What happens to the allocator.
package enum Input: Hashable, Sendable {
  // From schedulers.
  case streamOpened(StreamID)
  case streamClosed(StreamID)
  case demanded(StreamID, Demand)
  case withdrew(StreamID, AttemptID)
  /// A scheduler names a lease that it counts on, from before this stream mostly.
  case claimed(StreamID, HeldByScheduler)
  /// Leases were given back, and these pools have room now.
  case released([LeaseID], pools: [PoolName])

  // From plugin-runners.
  case heartbeatRecorded(Heartbeat, HeartbeatRecord)
  case deregistered([EndedLease])

  // From the table: the results of effects.
  /// A lease, or nil where there was no room, for each demand of the batch.
  case acquired(PoolName, [Lease?])
  case acquireFailed(PoolName, reason: String)
  case surveyed(PoolName, PoolSurvey)
  case surveyFailed(PoolName)
  case checked([LeaseStanding])
  case checkFailed
  case usageFound(UsagePage)
  case usageFailed
  /// What waits at the other allocators, as each of them has told it.
  case demandTold(elsewhere: [PoolName: Resources])
  case swept(ended: [EndedLease], pools: [PoolName])
  case sweepFailed
  /// Another allocator found that what waits here may have room in this pool.
  case woken(PoolName)
  case tableConnected
  case tableLost(reason: String)

  /// Time has passed.
  case ticked
}
