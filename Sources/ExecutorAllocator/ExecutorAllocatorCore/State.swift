import DequeModule
import Domain
import HeapModule

/// All that an allocator remembers: wishes and watches of the schedulers that are connected. The
/// facts (executors, leases) are in the table; losing this loses nothing that a scheduler does not
/// say again.
package struct State: Sendable {
  package var streams: [StreamID: Stream] = [:]
  package var demands: [AttemptID: OpenDemand] = [:]
  package var pools: [PoolName: Pool] = [:]
  package var watches: [LeaseID: Watch] = [:]
  /// Every watch's turn to be looked up, the next one first; also of those that are over, which are
  /// dropped as they come up.
  package var turns: Deque<Turn> = []
  /// How many of the turns have come.
  package var dueTurns = 0
  /// Numbers watches in the order in which they came.
  package var lastWatch: UInt64 = 0
  /// What looks at pools have shown, for when the table forgets it. It stays when nothing waits in a pool any
  /// more; what is too old is dropped at the next look at any.
  package var sightings: [PoolName: Sightings] = [:]
  package var table = Table.lost(reason: "not connected yet")
  /// The largest fencing token seen, so that tokens grow even if the table and its clock forget.
  package var highestToken = FencingToken(0)
  /// Numbers demands in the order in which they came.
  package var arrivals: UInt64 = 0

  /// What each pool has and what is leased of it, as the last whole round found it.
  package var usage: [PoolName: PoolUsage] = [:]
  /// The round that is under way, and whether its next page is with the table.
  package var usageRound: [PoolName: PoolUsage]?
  package var lastUsage: Timestamp?
  /// What waits at other allocators.
  package var elsewhere: [PoolName: Resources] = [:]

  package var isSweeping = false
  package var lastSweep: Timestamp?
  package var lastRetry: Timestamp?
  package var lastCheck: Timestamp?
  /// Leases that schedulers have brought up and that are looked up next, and those being looked up.
  package var claims: Deque<LeaseID> = []
  package var checking: [Watch]?

  package init() {}

  /// Whether the table can be asked.
  package enum Table: Hashable, Sendable {
    case connected
    case lost(reason: String)
  }

  /// One scheduler.
  package struct Stream: Hashable, Sendable {
    package var demands: Set<AttemptID> = []
    /// How many of them there are in each pool.
    package var pools: [PoolName: Int] = [:]
    package var leases: Set<LeaseID> = []
  }

  /// A demand without a lease.
  package struct OpenDemand: Hashable, Sendable {
    package enum Phase: Hashable, Sendable {
      /// In its shape's queue.
      case waiting
      /// In the batch that is with the table.
      case trying
    }

    package var demand: Demand
    package var stream: StreamID
    package var arrival: UInt64
    package var phase: Phase
    /// How often its rank has become another.
    package var moves = 0
    /// The last reason its scheduler was told.
    package var told: String?

    /// Where it stands when it waits.
    package var place: Place {
      Place(
        rank: self.demand.rank, arrival: self.arrival, moves: self.moves,
        request: self.demand.request)
    }
  }

  /// A lease whose end a stream must hear of.
  package struct Watch: Hashable, Sendable {
    package var held: HeldByScheduler
    package var stream: StreamID
    /// The scheduler brought it up and has no answer yet, so even a release must be told.
    package var isClaim: Bool
    package var number: UInt64
  }

  /// A watch's place among those that are looked up in turn.
  package struct Turn: Hashable, Sendable {
    package var lease: LeaseID
    /// The watch's.
    package var number: UInt64
  }

  /// The open demand of one pool.
  package struct Pool: Sendable {
    package var queues: [Shape: Queue] = [:]
    /// The batch that is with the table.
    package var trying: [Tried]?
    /// Of that batch, what was withdrawn since: a lease for it goes back.
    package var withdrawn: Set<AttemptID> = []
    /// Room was made while a batch was with the table: "no room" may be out of date. All are tried
    /// again, after those that were not tried yet: else the first in line, for which there is no
    /// room, would take every turn in a pool where room is made all the time.
    package var isWoken = false
    package var batch = 0
    package var isSurveying = false
    package var lastSurvey: Timestamp?
    /// A shape found no room that has not been explained yet.
    package var wantsSurvey = false
  }

  /// The kinds of executors that looks at one pool have shown. A table that was emptied does not know that
  /// an executor left it a short while ago: the allocator still does.
  package struct Sightings: Hashable, Sendable {
    package struct Kind: Hashable, Sendable {
      package var labels: [String]
      package var capacity: Resources
    }

    package struct Sighting: Hashable, Sendable {
      /// When it was last seen alive; of one that was gone at the first look, when that was.
      package var time: Timestamp
      /// Since when the pool had had executors, as the last look that showed it said: while that stays, the
      /// table knows itself what has left it.
      package var liveSince: Timestamp?
    }

    package var kinds: [Kind: Sighting] = [:]
    package var lastLook: Timestamp
  }

  package struct Tried: Hashable, Sendable {
    package var demand: Demand
    package var arrival: UInt64
  }

  /// The waiting demands of one shape, in order.
  package struct Queue: Sendable {
    /// Also holds places of demands that are gone or elsewhere; they are dropped as they come up.
    package var places = Heap<Place>()
    /// How many of the places count.
    package var count = 0
    /// There was no room for this shape, and nothing has changed since.
    package var isBlocked = false
    /// Since when each try has found no room, whatever has changed since.
    package var unmetSince: Timestamp?
    package var isUnmet: Bool { self.unmetSince != nil }
    /// The last look at the pool said that it can never be met.
    package var wasImpossible = false
    package var reason: String?
  }

  /// Where a demand stands in its queue.
  package struct Place: Comparable, Sendable {
    package var rank: Int64
    package var arrival: UInt64
    /// Of all places that a demand has had, which.
    package var moves = 0
    package var request: AttemptID

    package static func == (left: Self, right: Self) -> Bool {
      (left.rank, left.arrival, left.moves) == (right.rank, right.arrival, right.moves)
    }
    package static func < (left: Self, right: Self) -> Bool {
      (left.rank, left.arrival, left.moves) < (right.rank, right.arrival, right.moves)
    }
  }
}
