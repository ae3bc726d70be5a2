import Domain

/// What a plugin-runner says of itself: this is what I am, and this is what I run.
package struct Heartbeat: Hashable, Sendable {
  /// A lease whose job the runner holds.
  package struct Held: Hashable, Sendable {
    package var lease: LeaseID
    package var request: AttemptID
    package var token: FencingToken
    package var resources: Resources
    package var project: ProjectID

    package init(
      lease: LeaseID, request: AttemptID, token: FencingToken, resources: Resources,
      project: ProjectID
    ) {
      self.lease = lease
      self.request = request
      self.token = token
      self.resources = resources
      self.project = project
    }
  }

  package var executor: ExecutorID
  /// Changes with each start of the process.
  package var incarnation: String
  package var address: String
  package var pool: PoolName
  /// Sorted, each once.
  package let labels: [String]
  package var capacity: Resources
  package var held: [Held]
  package var isDraining: Bool
  /// Projects whose caches it has, most recent first.
  package var warmProjects: [ProjectID]
  package var used: Resources
  /// The largest that this process has seen: a table that has lost its memory goes on above it.
  package var newestToken: FencingToken

  package init(
    executor: ExecutorID, incarnation: String, address: String, pool: PoolName = .standard,
    labels: [String] = [], capacity: Resources, held: [Held] = [], isDraining: Bool = false,
    warmProjects: [ProjectID] = [], used: Resources = .none,
    newestToken: FencingToken = FencingToken(0)
  ) {
    self.executor = executor
    self.incarnation = incarnation
    self.address = address
    self.pool = pool
    self.labels = Set(labels).sorted()
    self.capacity = capacity
    self.held = held
    self.isDraining = isDraining
    self.warmProjects = warmProjects
    self.used = used
    self.newestToken = newestToken
  }
}

/// What the table found when a heartbeat came.
package enum HeartbeatRecord: Hashable, Sendable {
  /// It is in the table now.
  case recorded(Recorded)
  /// Another process that is alive has this name.
  case duplicate(address: String, silentFor: Duration)
  /// This process was taken out by `Deregister`; all that it holds is to stop.
  case deregistered
  /// It has seen, or holds a lease with, a token that nobody can have given out; nothing of it was
  /// taken.
  case tokenAhead(LeaseID?, FencingToken, limit: FencingToken)

  package struct Recorded: Hashable, Sendable {
    /// Leases that the executor holds and should not.
    package var stop: [LeaseID]
    /// Leases of the process before it.
    package var ended: [EndedLease]
    /// Whether there may be room now where there was none.
    package var madeRoom: Bool

    package init(stop: [LeaseID] = [], ended: [EndedLease] = [], madeRoom: Bool = false) {
      self.stop = stop
      self.ended = ended
      self.madeRoom = madeRoom
    }
  }
}

/// What a runner is told: this is what you should do.
package struct HeartbeatAnswer: Hashable, Sendable {
  package var stop: [LeaseID]
  package var nextHeartbeat: Duration
  package var lostAfter: Duration

  package init(stop: [LeaseID], nextHeartbeat: Duration, lostAfter: Duration) {
    self.stop = stop
    self.nextHeartbeat = nextHeartbeat
    self.lostAfter = lostAfter
  }
}

/// Why a runner's heartbeat is refused.
package enum HeartbeatRefusal: Error, Hashable, Sendable, CustomStringConvertible {
  /// The runner's own mistake; the same heartbeat again is refused again.
  case invalid(String)
  /// Another live process has the name; it is free when that one has been silent for `lostAfter`.
  case duplicate(ExecutorID, address: String, silentFor: Duration, lostAfter: Duration)

  package var description: String {
    switch self {
    case .invalid(let reason): reason
    case .duplicate(let executor, let address, let silentFor, let lostAfter):
      "executor \(executor) is alive at \(address): it was heard \(Words.seconds(silentFor)) ago; "
        + "its name is free \(Words.seconds(lostAfter)) after its last heartbeat"
    }
  }
}
