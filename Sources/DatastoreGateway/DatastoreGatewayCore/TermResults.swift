/// One result on its way into a batch.
struct Candidate<Stored> {
  var position: Position
  var row: IndexRow
  var stored: Stored?
}

/// What all streams of one query share.
final class QueryProgress {
  private let isCancelled: () -> Bool
  /// Index rows that were looked at, and entities that were read.
  var scanned = 0
  var loaded = 0
  private(set) var wasCancelled = false
  /// Why there is no answer.
  var refusal: GatewayError?

  /// Rows between two looks at whether anybody still waits.
  private static let rowsBetweenLooks = 256

  init(isCancelled: @escaping () -> Bool) {
    self.isCancelled = isCancelled
  }

  /// Counts a row; `false` where the query is to end.
  func scannedRow() -> Bool {
    self.scanned += 1
    if self.scanned % Self.rowsBetweenLooks == 0 && self.isCancelled() { self.wasCancelled = true }
    return !self.wasCancelled
  }
}

/// The results of one term in one collection, in the order of results.
struct TermResults<Index: EntityIndex> {
  typealias Candidate = DatastoreGatewayCore.Candidate<Index.Stored>

  private var place: TermPlace
  private let index: Index
  private let policy: Policy
  private let progress: QueryProgress
  /// No more than this can go into a batch, one being left to tell whether there are more.
  private let wanted: Int
  private var sorting: Plan.Sorting
  private var rows: RowSource<Index>
  /// Further results of the row that was read last; the next one last.
  private var ofRow: [Candidate] = []
  /// Sorted, the next one last.
  private var sorted: [Candidate] = []
  /// The first of the next group, already read.
  private var pending: Candidate?
  /// The last one that was given.
  private var last: Position?
  /// The rest is to be found by the equalities: see ``turn()``.
  private var isToTurn = false
  /// The last one that was given before that.
  private var givenBefore: Position?
  /// Whether what follows is unknown: sorting kept only the first of many, or the call was
  /// cancelled.
  private(set) var wasCut = false

  /// - Parameter isOrdered: Whether the order of results matters; else it is the source's.
  init(
    _ place: TermPlace, on index: Index, policy: Policy, wanted: Int, isOrdered: Bool,
    progress: QueryProgress
  ) throws(Index.Failure) {
    self.policy = policy
    self.place = place
    self.index = index
    self.wanted = wanted
    self.sorting = isOrdered ? place.plan.sorting : .none
    self.progress = progress
    self.rows = try RowSource(
      place, on: index, probesInVain: isOrdered ? policy.probesInVain : .max)
  }

  func load(_ row: IndexRow) throws(Index.Failure) -> Index.Stored {
    self.progress.loaded += 1
    return try self.index.load(row)
  }

  /// Whether ``leap(beyond:)`` can be: the rows are those of the first order, as they stand.
  var canLeap: Bool {
    guard case .order = self.place.plan.source else { return false }
    return self.sorting == .none && self.place.orderNumber == 0
  }

  /// Goes on behind all results that have this value of the first order.
  mutating func leap(beyond value: [UInt8]) throws(Index.Failure) {
    self.ofRow.removeAll()
    self.rows = try RowSource(
      self.place, on: self.index, beyond: value, probesInVain: self.policy.probesInVain)
  }

  mutating func next() throws(Index.Failure) -> Candidate? {
    var candidate = try self.nextInOrder()
    if self.isToTurn {
      try self.turn()
      candidate = try self.nextInOrder()
    }
    if let candidate { self.last = candidate.position }
    return candidate
  }

  private mutating func nextInOrder() throws(Index.Failure) -> Candidate? {
    switch self.sorting {
    case .none: return try self.nextMatching()
    case .withinFirstValue, .all:
      if let candidate = self.sorted.popLast() { return candidate }
      if self.wasCut { return nil }
      try self.sortNextGroup()
      return self.sorted.popLast()
    }
  }

  /// Reads the equalities' rows and sorts them, instead of looking up those of the order: little of what comes first
  /// in the order has the equalities' values.
  private mutating func turn() throws(Index.Failure) {
    self.isToTurn = false
    self.givenBefore = self.last
    self.place.plan = Plan(
      source: .equalities(self.place.term.equalities), isReversed: false, sorting: .all,
      needsEntity: true)
    self.sorting = .all
    self.ofRow = []
    self.sorted = []
    self.pending = nil
    self.wasCut = false
    self.rows = try RowSource(self.place, on: self.index)
  }

  private func isWorthTurning() throws(Index.Failure) -> Bool {
    let most = self.policy.sortedAfterProbing
    for equality in self.place.term.equalities
    where try self.index.count(equality, upTo: most + 1) <= most {
      return true
    }
    return false
  }

  /// The next one between the cursors, as the source gives it.
  private mutating func nextMatching() throws(Index.Failure) -> Candidate? {
    while true {
      while let candidate = self.ofRow.popLast() {
        guard self.place.query.isBetweenCursors(candidate.position) else { continue }
        if let given = self.givenBefore, !self.place.query.precedes(given, candidate.position) {
          continue
        }
        return candidate
      }
      guard let row = try self.rows.next(self.progress) else {
        if self.progress.wasCancelled {
          self.wasCut = true
        } else if self.rows.hasProbedInVain {
          self.isToTurn = try self.isWorthTurning()
          if self.isToTurn { return nil }
          self.rows.probeOn()
          continue
        }
        return nil
      }
      self.ofRow = try self.candidates(row)
      if self.progress.refusal != nil {
        self.wasCut = true
        return nil
      }
      self.ofRow.reverse()
    }
  }

  /// Reads one group whole and sorts what of it can still be wanted.
  private mutating func sortNextGroup() throws(Index.Failure) {
    let number = self.sorting == .withinFirstValue ? self.place.orderNumber : nil
    var group: [Candidate] = []
    if let pending = self.pending.take() { group.append(pending) }
    while let candidate = try self.nextMatching() {
      if let number, let first = group.first,
        first.position.values[number] != candidate.position.values[number]
      {
        self.pending = candidate
        break
      }
      group.append(candidate)
      if group.count / 2 >= self.wanted {
        self.keepFirst(self.wanted, of: &group)
        self.wasCut = true
      }
    }
    if self.isToTurn { return }
    self.keepFirst(self.wasCut ? self.wanted : .max, of: &group)
    group.reverse()
    self.sorted = group
  }

  private func keepFirst(_ count: Int, of group: inout [Candidate]) {
    group.sort { self.place.query.precedes($0.position, $1.position) }
    group.removeLast(max(0, group.count - count))
  }

  /// The results that a row stands for, in order: those that no other row of the scan stands for.
  private func candidates(_ row: IndexRow) throws(Index.Failure) -> [Candidate] {
    let (query, term, plan) = (self.place.query, self.place.term, self.place.plan)
    guard term.paths.contains(row.path.bytes) else { return [] }
    let number = self.place.orderNumber
    if plan.needsEntity || (row.isRepeated && !query.hasManyPlaces && !query.orders.isEmpty) {
      let stored = try self.load(row)
      let entries = try stored.entity().indexEntries
      var positions: [Position]
      do throws(ResolvedQuery.TooManyPlaces) {
        positions = try query.positions(of: row.path, entries: entries, in: term)
        if query.terms.count > 1 {
          // Another term gives the entity at its first place.
          let all = Set(try query.positions(of: row.path, entries: entries))
          positions.removeAll { !all.contains($0) }
        }
      } catch {
        self.progress.refusal = error.error
        return []
      }
      // An entity with several values has several rows in the scan; it stands at one of them.
      switch plan.source {
      case .order:
        if let number { positions.removeAll { $0.values[number] != row.value } }
      case .range(let property):
        let values = term.values(of: property)
        let first = entries.first {
          $0.property == property && values?.contains($0.value) ?? true
        }
        if first?.value != row.value { positions = [] }
      case .nothing, .entity, .kind, .equalities: break
      }
      return positions.map { Candidate(position: $0, row: row, stored: stored) }
    }
    let values = query.orders.map { term.fixedValue(of: $0.property) ?? row.value }
    return [Candidate(position: Position(values: values, path: row.path), row: row)]
  }
}
