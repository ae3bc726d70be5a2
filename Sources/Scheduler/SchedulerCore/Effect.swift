import Domain

/// A wish for a lease that was sent to the allocator. Unique for ever.
package typealias DemandID = Identifier<DemandKind>
package enum DemandKind {}

/// What the shell is to do, in this order.
package enum Effect: Hashable, Sendable {
  /// Write a record if the stored version is still `base` (nil: if there is none), then feed
  /// ``Scheduler/written(_:_:at:)``. At most one at a time for each build.
  case write(BuildRecord, base: Int64?)
  /// Read a record, then feed ``Scheduler/loaded(_:_:at:)``.
  case load(BuildID)

  case demand(Demand)
  case withdraw(DemandID)
  /// Tell the allocator, on a new stream, which leases are held.
  case hold(LeaseID, AttemptID, ExecutorID)
  /// Give a lease back; to be repeated until it is heard.
  case release(LeaseID)

  /// Open a stream that starts the attempt, or attaches to it if the runner has it.
  case run(RunOrder)
  /// Open a stream of the attempt's events behind a sequence number.
  case attach(AttemptID, address: String, after: Int64)
  /// Let go of the attempt's stream.
  case detach(AttemptID)
  /// Ask the runner to end the attempt; asked again if nothing comes of it.
  case stop(AttemptID, address: String, Outcome, reason: String)

  case answer(Waiter, Answer)
  /// There is a new state to show to whoever watches.
  case changed(BuildRecord)
  /// The build is another scheduler's: who watches it looks there.
  case moved(BuildID)
}

/// What a caller gets.
package enum Answer: Hashable, Sendable {
  /// The committed state. `existed`: it was there before.
  case build(BuildRecord, existed: Bool)
  case notFound
  /// It cannot be done to a build in this state; why.
  case failedPrecondition(String)
  case invalid(String)
  /// The submission's key belongs to a build of another content; what it says of it.
  case alreadyExists(String)
  /// The queue is full.
  case exhausted(String, retryAfter: Duration)
  /// Nobody can tell now; trying again is safe.
  case unavailable(String)
}

/// A wish for a share of an executor, for whichever job of its shape is due when it is granted.
package struct Demand: Hashable, Sendable {
  package var id: DemandID
  package var shape: Shape
  /// Whose job is due now: an executor that is warm for it is better.
  package var project: ProjectID
  /// Smaller is sooner.
  package var rank: Int64
}

/// What jobs ask of an executor; those of one shape can take each other's leases.
package struct Shape: Hashable, Sendable, Comparable {
  /// Empty is `default`.
  package var pool: String
  /// Sorted.
  package var labels: [String]
  package var resources: Resources
  /// Executors that lost an attempt at the job, sorted.
  package var avoid: [ExecutorID]
  /// Notifications go out whatever limits there are for jobs, and stand in lines of their own.
  var isForJobs = true

  package init(pool: String, labels: [String], resources: Resources, avoid: [ExecutorID] = []) {
    self.pool = pool
    self.labels = labels.sorted()
    self.resources = resources
    self.avoid = avoid.sorted()
  }

  /// Any order will do, as long as it is the same in every process.
  package static func < (left: Self, right: Self) -> Bool {
    func key(_ shape: Self) -> (String, Int64, Int64, Int32) {
      (
        shape.pool, shape.resources.cpuMillis, shape.resources.memory.bytes, shape.resources.slots
      )
    }
    if key(left) != key(right) { return key(left) < key(right) }
    if left.isForJobs != right.isForJobs { return right.isForJobs }
    if left.labels != right.labels { return left.labels.lexicographicallyPrecedes(right.labels) }
    return left.avoid.lexicographicallyPrecedes(right.avoid)
  }
}

/// All that a runner needs for one attempt.
package struct RunOrder: Hashable, Sendable {
  package var attempt: AttemptID
  package var build: BuildID
  package var job: JobID
  package var number: Int32
  package var project: ProjectID
  /// For people.
  package var name: String
  package var lease: LeaseID
  package var token: FencingToken
  /// For how many attempts the lease was used before.
  package var leaseUse: Int32
  package var address: String
  package var resources: Resources
  package var environment: [String: String]
  package var timeout: Duration
  package var steps: [Pipeline.Step]
  package var source: Source?
  package var logName: String
  package var matrix: Pipeline.Combination
  /// For a notification: the build that it tells of.
  package var subject: BuildRecord?
}
