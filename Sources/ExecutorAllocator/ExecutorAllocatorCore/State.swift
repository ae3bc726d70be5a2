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
    /// The shapes whose first demand may be tried.
    package var lines = Lines()
    /// Those that are blocked, in the order in which they became so; also some that are gone.
    package var blocked: [Shape] = []
    /// Room was made, or time has passed, since those that are tried again were last let into their line: "no
    /// room" may be out of date. Those are through first: else the first in line, for which there is no room,
    /// would take every turn in a pool where room is made all the time.
    package var isWoken = false
    /// The last batch was of fresh shapes while others were to be tried again: now it is their turn.
    package var isAgainNext = false
    /// The last batch was of shapes that are tried again and more urgent than a fresh one that waited: that has its turn
    /// before their next round.
    package var isFreshNext = false
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
    /// There was no room for it once since the queue came about: it is not fresh any more.
    package var isTriedAgain = false
    /// Where the shape stands in its line: at its first place, or at one before it whose demand is gone since.
    /// Nil: it stands in none.
    package var listed: Place?
    /// Since when each try has found no room, whatever has changed since.
    package var unmetSince: Timestamp?
    package var isUnmet: Bool { self.unmetSince != nil }
    /// The last look at the pool said that it can never be met.
    package var wasImpossible = false
    package var reason: String?
  }

  /// Shapes in the order of their first places: those that are fresh, and those that are tried again. Also
  /// holds places of before; what counts is where a queue says that it is listed.
  package struct Lines: Sendable {
    package var fresh = Heap<Head>()
    package var again = Heap<Head>()
  }

  /// A shape in its line.
  package struct Head: Comparable, Sendable {
    package var place: Place
    package var shape: Shape

    package static func == (left: Self, right: Self) -> Bool { left.place == right.place }
    package static func < (left: Self, right: Self) -> Bool { left.place < right.place }
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

extension State.Queue {
  /// Gives the shape of this queue its place in its line, unless it has that, or is blocked.
  mutating func lineUp(_ shape: Shape, in lines: inout State.Lines) {
    guard !self.isBlocked, let first = self.places.min, self.listed.map({ first < $0 }) ?? true
    else { return }
    self.listed = first
    let head = State.Head(place: first, shape: shape)
    if self.isTriedAgain { lines.again.insert(head) } else { lines.fresh.insert(head) }
  }
}

extension State.Pool {
  /// There was no room for a shape.
  mutating func block(_ shape: Shape) {
    guard let index = self.queues.index(forKey: shape), !self.queues.values[index].isBlocked
    else { return }
    self.queues.values[index].isBlocked = true
    self.queues.values[index].isTriedAgain = true
    self.queues.values[index].listed = nil
    self.blocked.append(shape)
  }

  /// All that are blocked may be tried again.
  mutating func unblock() {
    for shape in self.blocked {
      guard let index = self.queues.index(forKey: shape), self.queues.values[index].isBlocked
      else { continue }
      self.queues.values[index].isBlocked = false
      self.queues.values[index].lineUp(shape, in: &self.lines)
    }
    self.blocked.removeAll(keepingCapacity: true)
    self.isWoken = false
  }

  /// Lines that are mostly places of before drop them. So does what comes up in ``StateMachine``; but while
  /// nothing is tried, nothing does.
  mutating func dropOutdated() {
    guard self.lines.fresh.count + self.lines.again.count > 2 * self.queues.count + 64 else {
      return
    }
    var (fresh, again): ([State.Head], [State.Head]) = ([], [])
    for (shape, queue) in self.queues {
      guard let place = queue.listed else { continue }
      let head = State.Head(place: place, shape: shape)
      if queue.isTriedAgain { again.append(head) } else { fresh.append(head) }
    }
    self.lines = State.Lines(fresh: Heap(fresh), again: Heap(again))
  }
}
