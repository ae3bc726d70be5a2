import Domain

/// What this executor is, for as long as its process lives.
package struct ExecutorProfile: Hashable, Sendable {
  package var id: ExecutorID
  package var capacity: Resources
  /// Plugins that steps may name.
  package var plugins: Set<String>

  package init(id: ExecutorID, capacity: Resources, plugins: Set<String>) {
    self.id = id
    self.capacity = capacity
    self.plugins = plugins
  }
}

/// A lease whose job this runner holds, as heartbeats tell it.
package struct HeldLease: Hashable, Sendable {
  package var lease: LeaseID
  package var attempt: AttemptID
  package var token: FencingToken
  package var resources: Resources
  package var project: ProjectID
}

/// An attempt this runner knows, running or over.
package struct HeldJob: Hashable, Sendable {
  package var attempt: AttemptID
  package var lease: LeaseID
  package var token: FencingToken
  package var lastSequence: Int64
  package var finished: Bool
}

/// Why a job was not taken.
package enum Refusal: Error, Hashable, Sendable, CustomStringConvertible {
  case draining(ExecutorID)
  case staleToken(LeaseID, offered: FencingToken, seen: FencingToken)
  /// The lease has been used for another attempt as often as this one says, or oftener.
  case staleUse(LeaseID, offered: Int32, seen: Int32)
  /// Another attempt runs under the lease.
  case leaseInUse(LeaseID, by: AttemptID)
  /// The lease was used elsewhere before, or its end was heard of.
  case leaseOver(LeaseID)
  case noRoom(asked: Resources, free: Resources)
  case tooManySteps(Int, limit: Int)

  package var description: String {
    switch self {
    case .draining(let executor):
      "executor \(executor) drains and takes no further jobs"
    case .staleToken(let lease, let offered, let seen):
      "fencing token \(offered) of lease \(lease) is not newer than \(seen), which was seen before"
    case .staleUse(let lease, let offered, let seen):
      "use \(offered) of lease \(lease) is not newer than \(seen), which was seen before"
    case .leaseInUse(let lease, let attempt):
      "attempt \(attempt) still runs under lease \(lease)"
    case .leaseOver(let lease):
      "lease \(lease) goes from one job to the next, and is not this executor's any more"
    case .noRoom(let asked, let free):
      "the job asks for \(asked.cpuMillis) mCPU, \(spoken(asked.memory)) and \(asked.slots) slots; "
        + "free are \(free.cpuMillis) mCPU, \(spoken(free.memory)) and \(free.slots) slots"
    case .tooManySteps(let count, let limit):
      "the job has \(count) steps; at most \(limit) are allowed"
    }
  }
}
