import Domain
import HeapModule

/// What can be given a lease: a job of a build, or a notification of it.
package struct Work: Hashable, Sendable {
  package enum Item: Hashable, Sendable {
    case job(Int)
    case notification(Int)
  }

  package let build: BuildID
  // Of a million that wait, each is kept twice: half as large as an `Item`.
  private let number: Int32
  private let isNotification: Bool

  package var item: Item {
    self.isNotification ? .notification(Int(self.number)) : .job(Int(self.number))
  }

  package init(build: BuildID, item: Item) {
    self.build = build
    switch item {
    case .job(let number): (self.number, self.isNotification) = (Int32(number), false)
    case .notification(let number): (self.number, self.isNotification) = (Int32(number), true)
    }
  }
}

/// A place in the queue; unique for ever.
package typealias Ticket = UInt64

/// Work of one shape that waits, in the order in which it is due: by priority, then the project
/// whose share is least, then age.
///
/// A project's share changes with every lease, in whatever queue: the order between projects is
/// therefore checked when work is taken, and corrected then. Only a share that became *less* must
/// be told, with ``shareFell(of:)``.
struct FairQueue: Sendable {
  struct Entry: Hashable, Sendable, Comparable {
    var work: Work
    var priority: Int32
    var project: ProjectID
    /// When its build was submitted.
    var age: Timestamp
    /// Since when it waits.
    var since: Timestamp
    var ticket: Ticket

    static func < (left: Self, right: Self) -> Bool {
      (left.age, left.ticket) < (right.age, right.ticket)
    }

    /// Whether it is due first of two of one project.
    func goesBefore(_ other: Self) -> Bool {
      self.priority == other.priority ? self < other : self.priority > other.priority
    }
  }

  /// An entry as it is kept among those of its priority and its project.
  private struct Waiting: Sendable, Comparable {
    let work: Work
    let age: Timestamp
    let since: Timestamp
    let ticket: Ticket

    init(_ entry: Entry) {
      self.work = entry.work
      self.age = entry.age
      self.since = entry.since
      self.ticket = entry.ticket
    }

    func entry(of project: ProjectID, priority: Int32) -> Entry {
      Entry(
        work: self.work, priority: priority, project: project, age: self.age, since: self.since,
        ticket: self.ticket)
    }

    static func == (left: Self, right: Self) -> Bool { left.ticket == right.ticket }

    static func < (left: Self, right: Self) -> Bool {
      (left.age, left.ticket) < (right.age, right.ticket)
    }
  }

  /// A project's place among the others.
  private struct Turn: Comparable, Sendable {
    var share: Double
    var head: Entry
    /// Of the project's turns only the one with the newest stamp counts.
    var stamp: UInt64

    static func == (left: Self, right: Self) -> Bool {
      left.share == right.share && left.head == right.head
    }

    static func < (left: Self, right: Self) -> Bool {
      left.share == right.share ? left.head < right.head : left.share < right.share
    }
  }

  /// Work of one priority.
  private struct Level: Sendable {
    var priority: Int32
    /// All entries, those too that were taken out of the middle.
    var count = 0
    var projects: [ProjectID: Heap<Waiting>] = [:]
    var turns: Heap<Turn> = []
    var stamps: [ProjectID: UInt64] = [:]

    /// What is first of a project, those taken out of the middle among them.
    func head(of project: ProjectID) -> Entry? {
      self.projects[project]?.min?.entry(of: project, priority: self.priority)
    }
  }

  /// Greatest priority first.
  private var levels: [Level] = []
  /// Taken out of the middle; dropped when they come to the top.
  private var removed: Set<Ticket> = []
  private var nextStamp: UInt64 = 0
  private(set) var count = 0

  var isEmpty: Bool { self.count == 0 }

  /// Entries, those too that were taken out of the middle.
  var kept: Int { self.levels.reduce(0) { $0 + $1.count } }

  mutating func insert(_ entry: Entry, share: Double) {
    let index = self.levelIndex(of: entry.priority)
    let before = self.levels[index].head(of: entry.project)
    if !self.removed.isEmpty { self.dropRemoved(of: entry.project, at: index) }
    let head = self.levels[index].head(of: entry.project)
    // The turn of one that was taken out says nothing of the project's share.
    let isHead = head.map { entry < $0 || $0.ticket != before?.ticket } ?? true
    self.levels[index].projects[entry.project, default: []].insert(Waiting(entry))
    self.levels[index].count += 1
    self.count += 1
    if isHead { self.takeTurn(entry.project, at: index, share: share) }
  }

  /// All projects whose work waits here, and perhaps some whose work no longer does.
  var projects: Set<ProjectID> {
    self.levels.reduce(into: []) { $0.formUnion($1.projects.keys) }
  }

  /// What is due of one project.
  mutating func first(of project: ProjectID) -> Entry? {
    for index in self.levels.indices {
      self.dropRemoved(of: project, at: index)
      if let head = self.levels[index].head(of: project) { return head }
    }
    return nil
  }

  /// Takes out work that waits here.
  mutating func remove(_ ticket: Ticket) {
    self.removed.insert(ticket)
    self.count -= 1
  }

  /// What is due now. A project whose share is infinite is held back.
  mutating func first(share: (ProjectID) -> Double) -> Entry? {
    self.find(share: share)?.entry
  }

  private mutating func find(
    share: (ProjectID) -> Double
  ) -> (entry: Entry, level: Int)? {
    if self.removed.count > 2 * self.count + Self.keptRemoved { self.compact(share: share) }
    var index = 0
    while index < self.levels.count {
      if let entry = self.first(at: index, share: share) { return (entry, index) }
      if self.levels[index].projects.isEmpty {
        self.levels.remove(at: index)
      } else {
        // All of it is held back.
        index += 1
      }
    }
    if self.levels.isEmpty { self.removed.removeAll() }
    return nil
  }

  /// Beside twice as many as wait.
  private static let keptRemoved = 1_024

  /// Drops all that was taken out of the middle: behind a head that stays for hours it would be kept for hours.
  private mutating func compact(share: (ProjectID) -> Double) {
    let removed = self.removed
    self.removed = []
    for index in self.levels.indices {
      self.levels[index].count = 0
      for (project, entries) in self.levels[index].projects {
        let left = entries.unordered.filter { !removed.contains($0.ticket) }
        self.levels[index].count += left.count
        guard left.count < entries.count else { continue }
        self.levels[index].projects[project] = Heap(left)
        self.settle(project, at: index, share: share(project))
      }
    }
  }

  /// Takes what is due now.
  mutating func popFirst(share: (ProjectID) -> Double) -> Entry? {
    guard let (entry, level) = self.find(share: share) else { return nil }
    _ = self.levels[level].projects[entry.project]?.popMin()
    self.levels[level].count -= 1
    self.count -= 1
    self.settle(entry.project, at: level, share: share(entry.project))
    return entry
  }

  /// A project uses less than it did.
  mutating func shareFell(of project: ProjectID, to share: Double) {
    for index in self.levels.indices where self.levels[index].projects[project] != nil {
      self.settle(project, at: index, share: share)
    }
  }

  // MARK: What comes next

  /// About the priority of what is due behind so many others, the first of which is `head`.
  func priority(behind count: Int, from head: Entry) -> Int32 {
    var left = count
    for level in self.levels where level.priority <= head.priority {
      if left < level.count { return level.priority }
      left -= level.count
    }
    return head.priority
  }

  /// Work that is due when a number of leases has come: whose, and what share the project has then.
  struct Due: Sendable {
    var project: ProjectID
    var priority: Int32
    var share: Double
  }

  /// The next work that is due, in its order: each that goes before adds `cost` to the share of its
  /// project. Nothing that is held back.
  func upcoming(
    _ limit: Int, share: (ProjectID) -> Double, cost: (ProjectID) -> Double
  ) -> [Due] {
    var due: [Due] = []
    for level in self.levels {
      var turns: Heap<Upcoming> = []
      for (project, entries) in level.projects {
        let share = share(project)
        guard share.isFinite, let head = level.head(of: project) else { continue }
        let left = limit - due.count
        let count = entries.unordered.lazy.filter { !self.removed.contains($0.ticket) }
          .prefix(left).count
        if count > 0 { turns.insert(Upcoming(share: share, head: head, left: count)) }
      }
      while due.count < limit, var next = turns.popMin() {
        let project = next.head.project
        due.append(Due(project: project, priority: level.priority, share: next.share))
        next.share += cost(project)
        next.left -= 1
        if next.left > 0 { turns.insert(next) }
      }
      if due.count >= limit { break }
    }
    return due
  }

  private struct Upcoming: Comparable {
    var share: Double
    let head: Entry
    var left: Int

    static func == (left: Self, right: Self) -> Bool {
      left.share == right.share && left.head == right.head
    }

    static func < (left: Self, right: Self) -> Bool {
      (left.share, left.head) < (right.share, right.head)
    }
  }

  // MARK: Levels and turns

  private mutating func levelIndex(of priority: Int32) -> Int {
    // Few priorities are in use at a time.
    let index = self.levels.firstIndex { $0.priority <= priority } ?? self.levels.count
    if index == self.levels.count || self.levels[index].priority != priority {
      self.levels.insert(Level(priority: priority), at: index)
    }
    return index
  }

  private mutating func takeTurn(_ project: ProjectID, at index: Int, share: Double) {
    guard let head = self.levels[index].head(of: project) else { return }
    self.nextStamp += 1
    self.levels[index].stamps[project] = self.nextStamp
    self.levels[index].turns.insert(Turn(share: share, head: head, stamp: self.nextStamp))
    // Turns that no longer count are dropped when they come up; if they never do, here.
    if self.levels[index].turns.count > 4 * self.levels[index].projects.count + 64 {
      let stamps = self.levels[index].stamps
      let valid = self.levels[index].turns.unordered.filter {
        stamps[$0.head.project] == $0.stamp
      }
      self.levels[index].turns = Heap(valid)
    }
  }

  /// Drops what was taken out from the top of a project's work, and gives it its turn anew.
  private mutating func settle(_ project: ProjectID, at index: Int, share: Double) {
    self.dropRemoved(of: project, at: index)
    if self.levels[index].projects[project]?.isEmpty ?? true {
      self.levels[index].projects[project] = nil
      self.levels[index].stamps[project] = nil
    } else {
      self.takeTurn(project, at: index, share: share)
    }
  }

  private mutating func dropRemoved(of project: ProjectID, at index: Int) {
    while let head = self.levels[index].projects[project]?.min,
      self.removed.remove(head.ticket) != nil
    {
      _ = self.levels[index].projects[project]?.popMin()
      self.levels[index].count -= 1
    }
  }

  private mutating func first(at index: Int, share: (ProjectID) -> Double) -> Entry? {
    while let turn = self.levels[index].turns.min {
      let project = turn.head.project
      guard self.levels[index].stamps[project] == turn.stamp else {
        _ = self.levels[index].turns.popMin()
        continue
      }
      let now = share(project)
      if turn.share == now, !self.removed.contains(turn.head.ticket),
        self.levels[index].projects[project]?.min?.ticket == turn.head.ticket
      {
        return now.isFinite ? turn.head : nil
      }
      _ = self.levels[index].turns.popMin()
      self.settle(project, at: index, share: now)
    }
    return nil
  }
}
