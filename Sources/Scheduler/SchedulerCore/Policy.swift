import Domain

/// The scheduler's bounds and times, each with its reason.
package struct Policy: Sendable {
  /// Jobs that wait, over all builds. Beyond it a submission is told to come back: memory for a
  /// queue that no farm could work off helps nobody.
  package var maximumQueuedJobs = 1_000_000
  /// When to come back then: about what it takes for a busy farm to work some of it off.
  package var fullQueueRetryDelay = Duration.seconds(5)

  /// Demands of one shape that the allocator holds at a time: enough to fill every executor that
  /// becomes free between two messages, few enough that the order can still change.
  package var maximumOpenDemands = 256
  /// And of all shapes: where there are many, each gets fewer, and beyond that they take turns. An
  /// allocator takes ten times as many, for several schedulers.
  package var maximumOpenDemandsOfAll = 10_000

  /// Work that is due and for which a limit has had no room for longer has that room kept free of what
  /// comes behind it: many small jobs must not starve a large one.
  package var claimAfter = Duration.seconds(10)
  /// How long it is kept once it is there: should no executor take the work, others go on.
  package var claimPatience = Duration.seconds(30)
  /// After how long it may be kept once more for work that no executor took.
  package var claimPause = Duration.seconds(600)

  /// For so long after it was granted a lease may go from one job to the next of its shape, without the allocator. What
  /// comes to wait there meanwhile sees one job go before it that it would not have seen; where jobs take longer than
  /// this there is little to be saved. Zero: never.
  package var leaseReuse = Duration.seconds(1)
  /// Lines that are looked at then, for what goes before; where there are more the allocator decides.
  package var maximumComparedLines = 16

  /// What a job asks for that says nothing of it.
  package var standardResources = Resources(cpuMillis: 1_000, memory: .gibibytes(1))
  package var standardTimeout = Duration.seconds(3_600)
  /// A runner ends a job that takes too long itself; this much later it is ended from here.
  package var timeoutGrace = Duration.seconds(90)

  /// Attempts at a job, in one round, whose executor was lost: one that kills every executor it
  /// meets must stop somewhere.
  package var maximumLostAttempts = 4
  /// Attempts that did not begin, or were taken off their executor: no fault of the job's.
  package var maximumPreemptedAttempts = 20

  /// Between attempts, from the second in a row on: a runner's heartbeats tell the allocator within a second or two
  /// what it has room for, and what a job fetches may be there again.
  package var retryBackoff = Backoff(first: .milliseconds(100), limit: .seconds(5))

  /// How often an attempt that ran out of memory is followed by one with twice as much, whatever the
  /// pipeline says of retries: a job that still does not fit then is not a little too large.
  package var maximumMemoryDoublings = 2
  /// How long a job may wait for an executor. A day: whoever waited for it has long gone home.
  package var queueTimeout = Duration.seconds(86_400)

  /// Calls to start an attempt that came to nothing, before its lease is given back.
  package var maximumStartFailures = 4
  package var callBackoff = Backoff(first: .milliseconds(100), limit: .seconds(3))
  /// A runner that holds an attempt and cannot be reached for so long counts as lost, though the
  /// allocator has not said so: longer than it takes to restart one, or the allocator.
  package var unreachableLimit = Duration.seconds(45)
  /// After so long an attempt that was to stop is given up; its lease ends by itself.
  package var stopLimit = Duration.seconds(120)
  package var stopBackoff = Backoff(first: .seconds(1), limit: .seconds(10))

  /// Writes and reads are tried for ever: what they hold was promised, or is wanted.
  package var storeBackoff = Backoff(first: .milliseconds(50), limit: .seconds(5))

  /// Builds that are compared at a time, and how far apart rounds over all of them begin: a day's
  /// builds in a few seconds of one, at a cost that nobody notices.
  package var auditSlice = 256
  package var auditInterval = Duration.seconds(30)
  /// How often demands that are open are told anew, where projects hold more or less by now.
  package var rankInterval = Duration.seconds(1)

  /// What the artifacts of a build may take in its record, over all attempts: what is left of its
  /// 1,000,000 bytes when a pipeline has its half and attempts a fifth. About 2,000 files.
  package var maximumArtifactBytes = 300_000

  /// A receiver that is down for half an hour still gets its message.
  package var maximumNotificationAttempts: Int32 = 15
  package var notificationBackoff = Backoff(first: .seconds(1), limit: .seconds(300))
  package var notificationResources = Resources(cpuMillis: 100, memory: .mebibytes(64))
  package var notificationTimeout = Duration.seconds(60)

  /// A project's weight in the fair share; 1 unless it stands here.
  package var weights: [ProjectID: Double] = [:]
  /// What may run at a time of a project; for one that does not stand there, the standard one.
  package var projectLimits: [ProjectID: RunningLimit] = [:]
  package var standardProjectLimit: RunningLimit?
  /// What may run at a time in a pool.
  package var poolLimits: [String: RunningLimit] = [:]
  /// What one CPU weighs against in memory when the dominant share is taken: an executor's usual
  /// proportion.
  package var memoryForEachCPU = ByteCount.gibibytes(2)

  package init() {}

  /// The greater of a job's shares of CPU and memory, in CPUs.
  func dominantShare(of resources: Resources) -> Double {
    max(
      Double(resources.cpuMillis) / 1_000,
      Double(resources.memory.bytes) / Double(self.memoryForEachCPU.bytes))
  }
}

/// Delays that double up to a limit.
package struct Backoff: Hashable, Sendable {
  package var first: Duration
  package var limit: Duration

  package init(first: Duration, limit: Duration) {
    self.first = first
    self.limit = limit
  }

  /// The delay after the given number of failures in a row, from 1.
  package func delay(after failures: Int) -> Duration {
    // 2^20 of any first delay is beyond every limit.
    min(self.limit, self.first * (1 << min(max(0, failures - 1), 20)))
  }
}
