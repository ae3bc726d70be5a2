import Domain

/// Executors of one kind.
package typealias PoolName = Identifier<PoolKind>
package enum PoolKind {}

extension Identifier where Kind == PoolKind {
  /// The pool of whoever names none.
  package static let standard = PoolName("default")
}

/// One scheduler's open `Acquire` stream, numbered by the shell.
package struct StreamID: Hashable, Sendable, Comparable {
  package let rawValue: UInt64

  package init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }

  package static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

/// What a demand asks of an executor. Demands of one shape fit the same executors, so when there is
/// no room for one of them there is none for any.
package struct Shape: Hashable, Sendable {
  package var pool: PoolName
  /// Sorted, each once.
  package let labels: [String]
  package var resources: Resources
  /// Executors to leave out as long as there are others. Sorted, each once.
  package let avoid: [ExecutorID]

  package init(
    pool: PoolName = .standard, labels: [String] = [], resources: Resources,
    avoid: [ExecutorID] = []
  ) {
    self.pool = pool
    self.labels = Set(labels).sorted()
    self.resources = resources
    self.avoid = Set(avoid).sorted()
  }
}

/// A wish for a share of an executor.
package struct Demand: Hashable, Sendable {
  /// Its name among the scheduler's, who chooses what gets the lease.
  package var request: AttemptID
  package var project: ProjectID
  package var shape: Shape
  /// Smaller is served first; equal ones in the order they came.
  package var rank: Int64

  /// A rank's upper half, which stands for the priority: nothing of a larger one goes before a smaller one.
  package static func precedence(of rank: Int64) -> Int64 { rank >> 32 }

  /// It has found no room for so long that an executor is kept free for it, until it has room.
  package var reserves: Bool

  package init(
    request: AttemptID, project: ProjectID, shape: Shape, rank: Int64 = 0, reserves: Bool = false
  ) {
    self.request = request
    self.project = project
    self.shape = shape
    self.rank = rank
    self.reserves = reserves
  }
}

/// The right to use a share of one executor until it expires.
package struct Lease: Hashable, Sendable {
  package var id: LeaseID
  package var executor: ExecutorID
  /// Where that executor's plugin-runner listens.
  package var address: String
  package var resources: Resources
  package var token: FencingToken
  /// The attempt it was granted for.
  package var request: AttemptID
  package var expires: Timestamp
  /// Others wait for room in its pool: it is to come back when its attempt ends.
  package var isContended = false

  package init(
    id: LeaseID, executor: ExecutorID, address: String, resources: Resources, token: FencingToken,
    request: AttemptID, expires: Timestamp
  ) {
    self.id = id
    self.executor = executor
    self.address = address
    self.resources = resources
    self.token = token
    self.request = request
    self.expires = expires
  }
}

/// A lease that is over, and why.
package struct EndedLease: Hashable, Sendable {
  /// How a lease ends.
  package enum Cause: String, Hashable, Sendable, CaseIterable {
    /// Its scheduler gave it back.
    case released
    /// Nobody took the job up, or the runner holds it no longer.
    case expired
    /// The executor was silent too long, or was taken out.
    case executorLost
    /// The executor came back as another process.
    case executorRestarted
  }

  package var id: LeaseID
  package var request: AttemptID
  package var executor: ExecutorID
  package var cause: Cause
  /// For people.
  package var message: String

  package init(
    id: LeaseID, request: AttemptID, executor: ExecutorID, cause: Cause, message: String
  ) {
    self.id = id
    self.request = request
    self.executor = executor
    self.cause = cause
    self.message = message
  }
}

/// A lease that a scheduler counts on, as its stream names it.
package struct HeldByScheduler: Hashable, Sendable {
  package var lease: LeaseID
  package var request: AttemptID
  package var executor: ExecutorID

  package init(lease: LeaseID, request: AttemptID, executor: ExecutorID) {
    self.lease = lease
    self.request = request
    self.executor = executor
  }
}

/// What the table knows of a lease that a scheduler counts on.
package enum LeaseStanding: Hashable, Sendable {
  case held
  /// The table is younger than the question; the executors have to report first.
  case unknownYet
  case ended(EndedLease.Cause, message: String)
}
