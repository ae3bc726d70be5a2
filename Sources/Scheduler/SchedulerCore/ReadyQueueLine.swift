import Domain
import OrderedCollections

extension ReadyQueue {
  /// Where a project's work of one shape stands: one for all of it, for a million pieces may wait.
  final class Place: Sendable {
    let shape: Shape
    let project: ProjectID

    init(_ shape: Shape, _ project: ProjectID) {
      self.shape = shape
      self.project = project
    }
  }

  struct Presence: Sendable {
    let place: Place
    var count = 0
  }

  struct Arrival: Comparable, Sendable {
    let ticket: Ticket
    let since: Timestamp
    let work: Work

    static func < (left: Self, right: Self) -> Bool {
      (left.since, left.ticket) < (right.since, right.ticket)
    }
  }

  /// What the allocator was told with a demand.
  struct Asked: Sendable {
    var priority: Int32
    var rank: Int64
    /// In which round of ``ranksDue()``.
    var round: UInt64
  }

  /// The first of a line, as they stood at a moment.
  struct Order: Sendable {
    /// How long it is told.
    static let life = Duration.seconds(1)
    /// A line of no more than so many is looked at each time.
    static let shortLine = 100

    let at: Timestamp
    /// From 1, and since when it waits.
    var places: [Ticket: (place: Int, since: Timestamp?)] = [:]

    /// - Parameters:
    ///   - usage: What each project holds; each piece of work that goes before adds to it.
    ///   - share: A project's, by what all hold.
    init(
      of line: Line, in usage: [ProjectID: Resources], atMost limit: Int, at moment: Timestamp,
      share: (ProjectID, [ProjectID: Resources]) -> Double
    ) {
      self.at = moment
      var (waiting, usage) = (line.waiting, usage)
      while self.places.count < limit, let next = waiting.popFirst(share: { share($0, usage) }) {
        self.places[next.ticket] = (self.places.count + 1, next.since)
        usage[next.project, default: .none] += line.shape.resources
      }
    }
  }

  struct Line: Sendable {
    var waiting = FairQueue()
    let shape: Shape
    /// In the order they were sent.
    var open: OrderedDictionary<DemandID, Asked> = [:]
    /// Why it waits, in the allocator's words.
    var reason = ""
    /// How many jobs each project's limit lets begin here, none left out; and their sum.
    private var rooms: [ProjectID: Int] = [:]
    private(set) var room = 0
    /// When the last lease came, and how far apart they come.
    var lastGrant: Timestamp?
    var pace: Duration?

    init(shape: Shape) {
      self.shape = shape
    }

    mutating func setRoom(of project: ProjectID, to room: Int) {
      let before = self.rooms[project] ?? 0
      guard room != before else { return }
      self.rooms[project] = room == 0 ? nil : room
      self.room += room - before
    }

    /// The newest distance counts for a quarter.
    mutating func granted(at now: Timestamp) {
      if let lastGrant = self.lastGrant {
        let distance = now - lastGrant
        self.pace = self.pace.map { ($0 * 3 + distance) / 4 } ?? distance
      }
      self.lastGrant = now
    }
  }
}
