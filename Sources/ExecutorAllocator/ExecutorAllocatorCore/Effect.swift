import Domain

/// What the allocator wants done.
package enum Effect: Hashable, Sendable {
  /// Find leases for these, in this order, with tokens above this one. One batch of a pool at a
  /// time; answered by `acquired` or `acquireFailed`.
  case acquire(PoolName, [Demand], above: FencingToken)
  /// Give back leases that nobody wants any more. Not answered: they would expire anyway.
  case release([LeaseID])
  /// Answered by `surveyed` or `surveyFailed`.
  case survey(PoolName)
  /// Answered by `checked` or `checkFailed`.
  case check([HeldByScheduler])
  /// Sum up the executors behind this name; answered by `usageFound` or `usageFailed`.
  case sumUsage(behind: String)
  /// Tell the other allocators what waits here; answered by `demandTold`, if at all.
  case tellDemand([PoolName: Resources])
  /// Answered by `swept` or `sweepFailed`.
  case sweep
  case send(StreamID, Event)
  /// Refuse the stream; what it wanted is forgotten already.
  case end(StreamID, Refusal)

  /// What a scheduler is told on its stream.
  package enum Event: Hashable, Sendable {
    case granted(Lease)
    case unsatisfiable(AttemptID, reason: String)
    case lost(EndedLease)
    case waiting(AttemptID, reason: String)
  }

  /// Why a stream is refused.
  package enum Refusal: Hashable, Sendable, CustomStringConvertible {
    /// The caller's mistake.
    case invalid(String)
    case tooMuchDemand(limit: Int)
    case tooManyLeases(limit: Int)

    package var description: String {
      switch self {
      case .invalid(let reason): reason
      case .tooMuchDemand(let limit): "the allocator holds \(limit) open demands already"
      case .tooManyLeases(let limit): "the allocator watches \(limit) leases already"
      }
    }
  }
}
