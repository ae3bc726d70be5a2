import Domain
import HeapModule
import OrderedCollections

/// Everything that waits for an executor, and the demands that stand for it at the allocator.
///
/// Demands are anonymous: one says "a share of this shape", and when it is granted, the lease goes
/// to whatever work of the shape is due *then*. So the order is exact at the moment of the grant,
/// however long the demand was open, and the window of open demands bounds nothing but traffic.
/// Shapes have windows of their own: work that cannot be placed blocks no other.
struct ReadyQueue: Sendable {
  private let policy: Policy
  /// Makes this process' demands differ from those of every other.
  private let owner: String
  private(set) var lines: [Shape: Line] = [:]
  private var shapes: [DemandID: Shape] = [:]
  var places: [Ticket: Place] = [:]
  /// In which lines a project has work, and how much.
  private var presence: [ProjectID: [Shape: Presence]] = [:]
  /// What each project holds.
  private var usage: [ProjectID: Resources] = [:]
  private(set) var limits: Limits
  /// Everything that waits, and some that no longer does.
  var arrivals: Heap<Arrival> = []
  /// Shapes of which no executor took work though limits kept room for it, and since when: what none can
  /// take must hold up nothing. Until one is granted, or some time later.
  private var unplaced: [Shape: Timestamp] = [:]
  /// The orders of long lines that somebody has asked for of late.
  private var orders: [Shape: Order] = [:]
  private var nextDemand: UInt64 = 0
  private var nextTicket: Ticket = 0
  private var round: UInt64 = 0
  /// Lines whose demands may not fit what waits; in the order they were touched.
  private var touched: OrderedSet<Shape> = []
  /// Demands that one line may have open: fewer where there are many lines.
  private var window: Int
  /// Lines that have fewer demands than they want, for there are as many as may be.
  private(set) var short: OrderedSet<Shape> = []

  init(policy: Policy, owner: String) {
    self.policy = policy
    self.owner = owner
    self.limits = Limits(policy)
    self.window = policy.maximumOpenDemands
  }

  /// Work that waits.
  var count: Int { self.places.count }

  func contains(_ ticket: Ticket) -> Bool { self.places[ticket] != nil }

  /// What shape the work at a place has; nil if there is none.
  func shape(at ticket: Ticket) -> Shape? { self.places[ticket]?.shape }

  var openDemands: Int { self.shapes.count }

  // MARK: What waits

  mutating func enqueue(
    _ work: Work, project: ProjectID, priority: Int32, age: Timestamp, shape: Shape,
    since: Timestamp
  ) -> Ticket {
    self.nextTicket += 1
    let entry = FairQueue.Entry(
      work: work, priority: priority, project: project, age: age, since: since,
      ticket: self.nextTicket)
    self.arrivals.insert(Arrival(ticket: self.nextTicket, since: since, work: work))
    let turn = self.turn(of: project, for: shape)
    self.lines[shape, default: Line(shape: shape)].waiting.insert(entry, share: turn)
    var presence =
      self.presence[project]?[shape] ?? Presence(place: Place(shape, project))
    presence.count += 1
    self.presence[project, default: [:]][shape] = presence
    self.places[self.nextTicket] = presence.place
    self.roomMoved(project, shape)
    self.touched.append(shape)
    return self.nextTicket
  }

  /// Takes out work that is no longer to be done.
  mutating func remove(_ ticket: Ticket) {
    guard let shape = self.forget(ticket)?.shape else { return }
    self.lines[shape]?.waiting.remove(ticket)
    self.touched.append(shape)
  }

  private mutating func forget(_ ticket: Ticket) -> Place? {
    guard let place = self.places.removeValue(forKey: ticket) else { return nil }
    if !self.limits.areNone {
      for scope in self.limits.endClaims(of: ticket, place.project, place.shape) {
        self.claimMoved(in: scope)
      }
    }
    self.presence[place.project]?[place.shape]?.count -= 1
    if self.presence[place.project]?[place.shape]?.count ?? 0 <= 0 {
      self.presence[place.project]?[place.shape] = nil
    }
    if self.presence[place.project]?.isEmpty ?? false { self.presence[place.project] = nil }
    self.roomMoved(place.project, place.shape)
    self.dropArrivals()
    // Work that was taken out of the middle.
    if self.arrivals.count > 2 * self.places.count + 1_024 {
      let places = self.places
      self.arrivals = Heap(self.arrivals.unordered.filter { places[$0.ticket] != nil })
    }
    return place
  }

  /// Where pieces of work stand among all of their shape, as the order is now: each that goes before
  /// adds to its project's share. Nothing of those that do not wait.
  ///
  /// Short lines first, until so many places were looked at as are told of one line: it takes time that
  /// nothing else gets. However many ask, a long line is looked at once in a while.
  mutating func positions(
    of tickets: some Sequence<Ticket>, at now: Timestamp
  ) -> [Ticket: QueuePosition] {
    var wanted: [Shape: Set<Ticket>] = [:]
    for ticket in tickets {
      if let shape = self.places[ticket]?.shape { wanted[shape, default: []].insert(ticket) }
    }
    self.orders = self.orders.filter { now >= $0.value.at && now - $0.value.at < Order.life }
    var positions: [Ticket: QueuePosition] = [:]
    var left = QueuePosition.furthest
    let lines = wanted.keys.compactMap { shape in self.lines[shape].map { (shape, $0) } }
    for (shape, line) in lines.sorted(by: { $0.1.waiting.count < $1.1.waiting.count }) {
      let count = line.waiting.count
      let order =
        self.orders[shape]
        ?? Order(of: line, in: self.usage, atMost: left, at: now) {
          Self.share(of: $0, $1, self.policy)
        }
      left -= order.places.count
      // One that other lines have cut short says nothing to others.
      let isWhole = order.places.count >= min(count, QueuePosition.furthest)
      if count > Order.shortLine, isWhole { self.orders[shape] = order }
      for ticket in wanted[shape] ?? [] {
        let (place, since) = order.places[ticket] ?? (order.places.count, nil)
        positions[ticket] = QueuePosition(place: place, count: count, since: since, pace: line.pace)
      }
    }
    return positions
  }

  /// What work of a shape and a project waits for.
  func reason(for shape: Shape, of project: ProjectID) -> String {
    if let reason = self.limits.reason(project, shape) { return reason }
    let reason = self.lines[shape]?.reason ?? ""
    return reason.isEmpty ? "an executor to be found" : "an executor: \(reason)"
  }

  /// Why limits never let work of a shape and a project begin; nil: they do.
  func refusal(_ project: ProjectID, _ shape: Shape) -> String? {
    self.limits.refusal(project, shape)
  }

  /// So many partitions are this scheduler's: its part of what a pool may run.
  mutating func owns(partitions: Int) {
    guard self.limits.partitions != partitions else { return }
    self.limits.partitions = partitions
    for shape in self.lines.keys.sorted() where self.limits.isLimited(shape.pool) {
      self.touched.append(shape)
    }
  }

  /// The allocator said why a demand waits. Answers the shape whose reason is another now.
  mutating func waiting(_ demand: DemandID, reason: String) -> Shape? {
    guard let shape = self.shapes[demand], self.lines[shape]?.reason != reason else { return nil }
    self.lines[shape]?.reason = reason
    return shape
  }

  // MARK: Leases

  /// A demand was granted: the work that gets the lease. Nil if nothing waits any more, or the
  /// demand is not known.
  mutating func granted(
    _ demand: DemandID, at now: Timestamp
  ) -> (entry: FairQueue.Entry, shape: Shape)? {
    guard let shape = self.shapes.removeValue(forKey: demand) else { return nil }
    self.lines[shape]?.open.removeValue(forKey: demand)
    self.lines[shape]?.granted(at: now)
    if !self.unplaced.isEmpty { self.unplaced[shape] = nil }
    self.touched.append(shape)
    // A limit may have been reached since it was asked for.
    guard self.limits.room(in: shape, atMost: 1) > 0 else { return nil }
    return self.popFirst(shape).map { ($0, shape) }
  }

  /// Work of a shape has ended, and its lease can go on: the work that gets it. Nil if there is none, or if of the
  /// pool's other work some goes before: then the allocator knows for what there is room.
  mutating func takeNext(of shape: Shape, at now: Timestamp) -> FairQueue.Entry? {
    guard self.lines.count <= self.policy.maximumComparedLines,
      self.limits.room(in: shape, atMost: 1) > 0, let first = self.head(of: shape)
    else { return nil }
    let pool = Limits.name(of: shape.pool)
    for other in Array(self.lines.keys) where other != shape && Limits.name(of: other.pool) == pool
    {
      guard let head = self.head(of: other) else { continue }
      if (head.rank, head.entry) < (first.rank, first.entry) { return nil }
    }
    self.lines[shape]?.granted(at: now)
    if !self.unplaced.isEmpty { self.unplaced[shape] = nil }
    self.touched.append(shape)
    return self.popFirst(shape)
  }

  /// What is due first of a line, and the rank of a demand for it; nil if nothing waits but what projects' limits hold
  /// back.
  private mutating func head(of shape: Shape) -> (rank: Int64, entry: FairQueue.Entry)? {
    let turns = self.turns(for: shape)
    guard let entry = self.lines[shape]?.waiting.first(share: turns), let line = self.lines[shape]
    else { return nil }
    return (Self.rank(of: self.due(line, behind: 0, from: entry)), entry)
  }

  private mutating func popFirst(_ shape: Shape) -> FairQueue.Entry? {
    let turn = self.turns(for: shape)
    let entry = self.lines[shape]?.waiting.popFirst(share: turn)
    guard let entry else { return nil }
    _ = self.forget(entry.ticket)
    return entry
  }

  /// No executor could ever meet a demand, and the allocator has forgotten it. Answers its shape.
  mutating func unsatisfiable(_ demand: DemandID) -> Shape? {
    guard let shape = self.shapes.removeValue(forKey: demand) else { return nil }
    self.lines[shape]?.open.removeValue(forKey: demand)
    self.touched.append(shape)
    return shape
  }

  /// Takes out work of a shape, whoever's turn it is.
  mutating func takeAny(of shape: Shape) -> Work? {
    guard let entry = self.lines[shape]?.waiting.popFirst(share: { _ in 0 }) else { return nil }
    _ = self.forget(entry.ticket)
    self.touched.append(shape)
    return entry.work
  }

  mutating func took(_ charge: BuildOutput.Charge, project: ProjectID) {
    self.usage[project, default: .none] += charge.resources
    guard let pool = charge.pool, !self.limits.areNone else { return }
    self.limits.began(charge.resources, project: project, pool: pool)
    self.limitsMoved(project, pool)
  }

  mutating func gaveBack(_ charge: BuildOutput.Charge, project: ProjectID) {
    let left = (self.usage[project] ?? .none) - charge.resources
    self.usage[project] = left == .none ? nil : left
    if let pool = charge.pool, !self.limits.areNone {
      self.limits.ended(charge.resources, project: project, pool: pool)
      self.limitsMoved(project, pool)
    }
    for shape in (self.presence[project] ?? [:]).keys { self.shareFell(of: project, for: shape) }
  }

  /// Lines that may begin more, or less, than before.
  private mutating func limitsMoved(_ project: ProjectID, _ pool: String) {
    if self.limits.haveProjects {
      for shape in (self.presence[project] ?? [:]).keys.sorted() {
        self.roomMoved(project, shape)
        self.touched.append(shape)
      }
    }
    if self.limits.isLimited(pool) {
      let name = Limits.name(of: pool)
      for shape in self.lines.keys.sorted() where Limits.name(of: shape.pool) == name {
        self.touched.append(shape)
      }
    }
  }

  /// More, or less, of a project's work of a shape may begin than before, or there is more or less of it.
  private mutating func roomMoved(_ project: ProjectID, _ shape: Shape) {
    guard shape.isForJobs, self.limits.haveProjects else { return }
    let room = self.room(of: project, shape)
    self.lines[shape]?.setRoom(of: project, to: room)
  }

  func room(of project: ProjectID, _ shape: Shape) -> Int {
    let count = self.presence[project]?[shape]?.count ?? 0
    return count == 0 ? 0 : self.limits.room(of: project, shape, atMost: count)
  }

  // MARK: Room that is kept

  /// Keeps room in each limit for the work that is due first and has waited too long for it; to be called
  /// from time to time.
  mutating func claimsDue(at now: Timestamp) {
    guard !self.limits.areNone else { return }
    self.unplaced = self.unplaced.filter { now - $0.value < self.policy.claimPause }
    if self.limits.haveProjects {
      for (project, shapes) in self.presence where self.limits.isLimited(project) {
        var due: (entry: FairQueue.Entry, shape: Shape)?
        for shape in shapes.keys where shape.isForJobs && self.unplaced[shape] == nil {
          guard let head = self.lines[shape]?.waiting.first(of: project) else { continue }
          if due.map({ head.goesBefore($0.entry) }) ?? true { due = (head, shape) }
        }
        self.settleClaim(in: .project(project), for: due, at: now) { limits, shape in
          limits.room(of: project, shape, atMost: 1)
        }
      }
    }
    for pool in self.policy.poolLimits.keys {
      var due: (entry: FairQueue.Entry, shape: Shape)?
      for shape in self.lines.keys
      where shape.isForJobs && Limits.name(of: shape.pool) == pool && self.unplaced[shape] == nil {
        let turns = self.turns(for: shape)
        guard let head = self.lines[shape]?.waiting.first(share: turns) else { continue }
        if due.map({ head.goesBefore($0.entry) }) ?? true { due = (head, shape) }
      }
      self.settleClaim(in: .pool(pool), for: due, at: now) { limits, shape in
        limits.room(in: shape, atMost: 1)
      }
    }
  }

  private mutating func settleClaim(
    in scope: Limits.Scope, for due: (entry: FairQueue.Entry, shape: Shape)?, at now: Timestamp,
    room: (Limits, Shape) -> Int
  ) {
    let before = self.limits.claim(in: scope)
    var claim = before
    if let due, due.entry.ticket != claim?.ticket {
      let hasWaited = now - due.entry.since >= self.policy.claimAfter
      let isHeldBack = room(self.limits, due.shape) == 0
      claim =
        hasWaited && isHeldBack ? Limits.Claim(ticket: due.entry.ticket, shape: due.shape) : nil
    } else if due == nil {
      claim = nil
    }
    if let known = claim, room(self.limits, known.shape) > 0 {
      let since = known.hasRoomSince ?? now
      claim?.hasRoomSince = since
      if now - since > self.policy.claimPatience {
        // It is not the limit that it waits for.
        self.unplaced[known.shape] = now
        claim = nil
      }
    } else {
      claim?.hasRoomSince = nil
    }
    guard before != nil || claim != nil else { return }
    self.limits.set(claim, in: scope)
    if before?.ticket != claim?.ticket { self.claimMoved(in: scope) }
  }

  /// What a limit's room is kept for is something else: of its other shapes more, or less, may begin.
  private mutating func claimMoved(in scope: Limits.Scope) {
    switch scope {
    case .project(let project):
      for shape in (self.presence[project] ?? [:]).keys.sorted() {
        self.shareFell(of: project, for: shape)
        self.roomMoved(project, shape)
        self.touched.append(shape)
      }
    case .pool(let name):
      for shape in self.lines.keys.sorted() where Limits.name(of: shape.pool) == name {
        self.touched.append(shape)
      }
    }
  }

  /// A project's share may be less than it was: perhaps it is held back no more.
  private mutating func shareFell(of project: ProjectID, for shape: Shape) {
    let turn = self.turn(of: project, for: shape)
    self.lines[shape]?.waiting.shareFell(of: project, to: turn)
  }

  /// A project's share; beyond all others while its limit is reached.
  private func turn(of project: ProjectID, for shape: Shape) -> Double {
    self.turns(for: shape)(project)
  }

  private func turns(for shape: Shape) -> (ProjectID) -> Double {
    let (usage, policy) = (self.usage, self.policy)
    guard self.limits.haveProjects else { return { Self.share(of: $0, usage, policy) } }
    let limits = self.limits
    return { project in
      limits.room(of: project, shape, atMost: 1) == 0
        ? .infinity : Self.share(of: project, usage, policy)
    }
  }

  func used(by project: ProjectID) -> Resources { self.usage[project] ?? .none }

  var projectsInUse: [ProjectID] { self.usage.keys.sorted() }

  private func share(of project: ProjectID) -> Double {
    Self.share(of: project, self.usage, self.policy)
  }

  private static func share(
    of project: ProjectID, _ usage: [ProjectID: Resources], _ policy: Policy
  ) -> Double {
    guard let used = usage[project] else { return 0 }
    return policy.dominantShare(of: used) / max(policy.weights[project] ?? 1, 0.001)
  }

  // MARK: Demands

  /// What the allocator must be told now, so that its demands fit what waits.
  mutating func changes() -> [Effect] {
    guard !self.touched.isEmpty else { return [] }
    var effects: [Effect] = []
    while !self.touched.isEmpty {
      for shape in self.touched { self.settle(shape, &effects) }
      self.touched.removeAll(keepingCapacity: true)
      guard !self.short.isEmpty else { break }
      if self.window > 1 {
        // By halves: seldom, for each time all lines are looked at.
        self.window /= 2
        self.touched.append(contentsOf: self.lines.keys.sorted())
      } else {
        let room = self.policy.maximumOpenDemandsOfAll - self.shapes.count
        guard room > 0 else { break }
        self.touched.append(contentsOf: self.short.prefix(room))
      }
    }
    return effects
  }

  /// Of the demands of all lines that have no more than one, those that are open while others wait for
  /// their turn: so many make way in each round.
  private static let turnsInRound = 10

  /// Gives lines more demands again where there are fewer lines, and otherwise those a turn that have
  /// none.
  private mutating func shareDemands(_ effects: inout [Effect]) {
    let most = self.policy.maximumOpenDemandsOfAll
    if self.short.isEmpty {
      guard self.window < self.policy.maximumOpenDemands,
        self.lines.count * self.window * 2 <= most / 2
      else { return }
      self.window = min(self.window * 2, self.policy.maximumOpenDemands)
      self.touched.append(contentsOf: self.lines.keys.sorted())
      return
    }
    let count = min(self.short.count, max(1, most / Self.turnsInRound))
    let oldest = self.lines.filter { !$0.value.open.isEmpty }
      .map { (round: $0.value.open.elements[0].value.round, shape: $0.key) }
      .sorted { ($0.round, $0.shape) < ($1.round, $1.shape) }
      .prefix(count)
    for (_, shape) in oldest {
      for demand in (self.lines[shape]?.open ?? [:]).keys {
        self.lines[shape]?.open.removeValue(forKey: demand)
        self.shapes[demand] = nil
        effects.append(.withdraw(demand))
      }
      self.short.append(shape)
    }
    self.touched.append(contentsOf: self.short.prefix(count))
  }

  private mutating func settle(_ shape: Shape, _ effects: inout [Effect]) {
    guard let place = self.lines.index(forKey: shape) else {
      self.short.remove(shape)
      return
    }
    // Out of the dictionary while it changes: no copy of its queues.
    var line = Line(shape: shape)
    swap(&line, &self.lines.values[place])
    let wanted = self.wanted(line, shape)
    while line.open.count > wanted {
      // The newest is the least urgent.
      let demand = line.open.removeLast().key
      self.shapes[demand] = nil
      effects.append(.withdraw(demand))
    }
    let turn = self.turns(for: shape)
    if wanted > 0, let head = line.waiting.first(share: turn) {
      while line.open.count < wanted, self.shapes.count < self.policy.maximumOpenDemandsOfAll {
        self.nextDemand += 1
        let id = DemandID("d-\(self.owner)-\(self.nextDemand)")
        self.shapes[id] = shape
        self.ask(
          id, for: self.due(line, behind: line.open.count, from: head), in: &line, &effects)
      }
      // Something more urgent than all that was asked for: one demand goes to the front.
      if let last = line.open.keys.last,
        !line.open.values.contains(where: { $0.priority >= head.priority })
      {
        self.ask(last, for: self.due(line, behind: 0, from: head), in: &line, &effects)
      }
    }
    if line.open.count < wanted, self.shapes.count >= self.policy.maximumOpenDemandsOfAll {
      self.short.append(shape)
    } else {
      self.short.remove(shape)
    }
    if line.waiting.isEmpty && line.open.isEmpty {
      self.lines.remove(at: place)
    } else {
      swap(&line, &self.lines.values[place])
    }
  }

  /// How many demands are to be open for a line.
  func wanted(_ line: Line, _ shape: Shape) -> Int {
    let most = min(line.waiting.count, self.window)
    guard most > 0, shape.isForJobs, !self.limits.areNone else { return most }
    let inPool = self.limits.room(in: shape, atMost: most)
    guard inPool > 0, self.limits.haveProjects else { return inPool }
    return min(line.room, inPool)
  }

  /// Sends a demand, as one for work that is due then.
  private func ask(
    _ id: DemandID, for due: FairQueue.Due, in line: inout Line, _ effects: inout [Effect]
  ) {
    let rank = Self.rank(of: due)
    line.open[id] = Asked(priority: due.priority, rank: rank, round: self.round)
    effects.append(
      .demand(Demand(id: id, shape: line.shape, project: due.project, rank: rank)))
  }

  /// What is due behind so many others, the first of which is `head`: if all were the same
  /// project's.
  private func due(_ line: Line, behind count: Int, from head: FairQueue.Entry) -> FairQueue.Due {
    FairQueue.Due(
      project: head.project, priority: line.waiting.priority(behind: count, from: head),
      share: self.share(of: head.project)
        + Double(count) * self.cost(of: line.shape, to: head.project))
  }

  /// By how much one lease more makes a project's share greater.
  private func cost(of shape: Shape, to project: ProjectID) -> Double {
    self.policy.dominantShare(of: shape.resources)
      / max(self.policy.weights[project] ?? 1, 0.001)
  }

  /// Priority first, then the share that the project has then.
  /// Whatever a record of another version says, a rank comes of it.
  private static func rank(of due: FairQueue.Due) -> Int64 {
    let range = Submission.priorities
    let bounded = min(max(due.priority, range.lowerBound), range.upperBound)
    let fine = Int64(min(max(due.share * 1_000, 0), 4_000_000_000))
    return -(Int64(bounded) << 32) + fine
  }

  /// Every open demand again, for an allocator that has forgotten them.
  mutating func openAgain() -> [Effect] {
    let effects = self.askAgain { _, _ in true }
    self.touched.append(contentsOf: self.lines.keys.sorted())
    return effects + self.changes()
  }

  /// The demands whose rank is another by now, for what waits and what projects hold has changed
  /// since; to be called from time to time. Among the demands of several schedulers the allocator
  /// knows the order by their ranks only. Those that were sent since the last call are left alone: where leases come fast,
  /// demands do not grow old.
  mutating func ranksDue() -> [Effect] {
    let round = self.round
    self.round += 1
    var effects = self.askAgain { asked, rank in asked.round < round && asked.rank != rank }
    self.shareDemands(&effects)
    return effects + self.changes()
  }

  private mutating func askAgain(where isDue: (Asked, _ rank: Int64) -> Bool) -> [Effect] {
    var effects: [Effect] = []
    for shape in self.lines.keys.sorted() {
      guard var line = self.lines.removeValue(forKey: shape) else { continue }
      let next = line.waiting.upcoming(
        line.open.count, share: self.turns(for: shape), cost: { self.cost(of: shape, to: $0) })
      // The first stays the first: few are told anew.
      let open = line.open.elements.enumerated().sorted {
        ($0.element.value.rank, $0.offset) < ($1.element.value.rank, $1.offset)
      }.map(\.element)
      for (index, (id, asked)) in open.enumerated() {
        guard let due = index < next.count ? next[index] : next.last else { break }
        if isDue(asked, Self.rank(of: due)) { self.ask(id, for: due, in: &line, &effects) }
      }
      self.lines[shape] = line
    }
    return effects
  }
}
