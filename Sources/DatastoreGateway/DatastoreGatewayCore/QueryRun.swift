/// Results of a query, as many as go into one answer.
package struct QueryBatch<Stored> {
  /// One result. `stored` is `nil` where only keys were asked for and nothing else was needed.
  package struct Result {
    package var position: Position
    package var stored: Stored?
  }

  /// Whether there is more.
  package enum Rest: Hashable, Sendable {
    /// The answer is full: ask again from the cursor.
    case notFinished
    case afterLimit
    case afterCursor
    case nothing
  }

  package var results: [Result] = []
  package var skipped = 0
  /// The last result that was left out for the offset.
  package var skippedPosition: Position?
  /// Where to go on; `nil` where nothing was passed.
  package var endPosition: Position?
  package var rest = Rest.nothing
  /// Index rows that were looked at.
  package var scanned = 0
}

/// Runs a query over a store's indexes.
package struct QueryRun<Index: EntityIndex> {
  package typealias Batch = QueryBatch<Index.Stored>

  private struct Candidate {
    var position: Position
    var row: IndexRow
    var stored: Index.Stored?
  }

  private let query: ResolvedQuery
  package let plan: Plan
  private let index: Index
  private let policy: Policy
  private let isCancelled: () -> Bool

  /// - Parameter isCancelled: Asked now and then; the batch then ends early.
  package init(
    _ query: ResolvedQuery, on index: Index, policy: Policy,
    isCancelled: @escaping () -> Bool = { false }
  ) throws(Index.Failure) {
    self.isCancelled = isCancelled
    self.query = query
    self.index = index
    self.policy = policy
    self.plan = try Plan(query, policy: policy) {
      (equality, limit) throws(Index.Failure) in
      var rows = try index.rows(of: .property(equality.property), Self.range(equality))
      var count = 0
      while count < limit, try rows.next() != nil { count += 1 }
      return count
    }
  }

  /// The next results.
  package func batch() throws(Index.Failure) -> Batch {
    var batch = Batch()
    batch.endPosition = self.query.start
    var bytes = 0
    if self.query.limit == 0 && self.query.offset == 0 {
      batch.rest = .afterLimit
      return batch
    }
    var candidates = try Candidates(self)
    while let candidate = try candidates.next() {
      if batch.skipped < self.query.offset {
        batch.skipped += 1
        batch.skippedPosition = candidate.position
        batch.endPosition = candidate.position
        continue
      }
      if let limit = self.query.limit, batch.results.count >= limit {
        batch.rest = .afterLimit
        break
      }
      if batch.results.count >= self.policy.maximumBatchResults
        || bytes >= self.policy.maximumBatchBytes
      {
        batch.rest = .notFinished
        break
      }
      var stored = candidate.stored
      if stored == nil && !self.query.isKeysOnly { stored = try self.index.load(candidate.row) }
      // A key's own bytes, and what surrounds a result.
      bytes += (stored?.byteCount ?? candidate.position.path.bytes.count) + 64
      batch.results.append(Batch.Result(position: candidate.position, stored: stored))
      batch.endPosition = candidate.position
    }
    batch.scanned = candidates.scanned
    if batch.rest == .nothing {
      if candidates.wasCut {
        batch.rest = .notFinished
      } else if self.query.end != nil {
        batch.rest = .afterCursor
      }
    }
    return batch
  }

  private static func range(
    _ equality: ResolvedQuery.Equality, _ paths: ByteRange = ByteRange(), isReversed: Bool = false
  ) -> RowRange {
    RowRange(
      lower: Self.bound(paths.lower, below: equality.value),
      upper: Self.bound(paths.upper, below: equality.value), isReversed: isReversed)
  }

  private static func bound(_ bound: Bound, below value: [UInt8]) -> RowBound {
    switch bound {
    case .none: .value(value, isIncluded: true)
    case .including(let path): .row(value: value, path: path, isIncluded: true)
    case .excluding(let path): .row(value: value, path: path, isIncluded: false)
    }
  }
}

extension QueryRun {
  /// Candidates that are results, in the order of results.
  private struct Candidates {
    private let run: QueryRun
    private var rows: RowSource
    /// Sorted, the next one last.
    private var sorted: [Candidate] = []
    /// The first of the next group, already read.
    private var pending: Candidate?
    private(set) var scanned = 0
    /// Whether what follows is unknown: sorting kept only the first of many, or the call was
    /// cancelled.
    private(set) var wasCut = false

    /// Rows between two looks at whether anybody still waits.
    private static var rowsBetweenLooks: Int { 256 }

    init(_ run: QueryRun) throws(Index.Failure) {
      self.run = run
      self.rows = try RowSource(run)
    }

    mutating func next() throws(Index.Failure) -> Candidate? {
      switch self.run.plan.sorting {
      case .none: return try self.nextInOrder()
      case .withinFirstValue, .all:
        if let candidate = self.sorted.popLast() { return candidate }
        if self.wasCut { return nil }
        try self.sortNextGroup()
        return self.sorted.popLast()
      }
    }

    /// The next one as the source gives it, if the source already sorts.
    private mutating func nextInOrder() throws(Index.Failure) -> Candidate? {
      while let candidate = try self.nextMatching() {
        if self.run.query.isBetweenCursors(candidate.position) { return candidate }
      }
      return nil
    }

    private mutating func nextMatching() throws(Index.Failure) -> Candidate? {
      while let row = try self.rows.next() {
        self.scanned += 1
        if self.scanned % Self.rowsBetweenLooks == 0 && self.run.isCancelled() {
          self.wasCut = true
          return nil
        }
        if let candidate = try self.run.candidate(row) { return candidate }
      }
      return nil
    }

    /// Reads one group whole and sorts what of it can still be wanted.
    private mutating func sortNextGroup() throws(Index.Failure) {
      let run = self.run
      // No more than this can go into the batch, one being left to tell whether there are more.
      let wanted =
        min(run.query.offset, run.policy.maximumBatchResults)
        + min(run.query.limit ?? .max, run.policy.maximumBatchResults) + 1
      while self.sorted.isEmpty {
        var group: [Candidate] = []
        if let pending = self.pending.take() { group.append(pending) }
        var isLast = true
        while let candidate = try self.nextMatching() {
          guard run.query.isBetweenCursors(candidate.position) else { continue }
          if run.plan.sorting == .withinFirstValue, let first = group.first,
            first.position.values[0] != candidate.position.values[0]
          {
            self.pending = candidate
            isLast = false
            break
          }
          group.append(candidate)
          if group.count >= 2 * wanted {
            self.keepFirst(wanted, of: &group)
            self.wasCut = true
          }
        }
        if group.isEmpty && isLast { return }
        self.keepFirst(wanted, of: &group)
        group.reverse()
        self.sorted = group
      }
    }

    private func keepFirst(_ count: Int, of group: inout [Candidate]) {
      group.sort { self.run.query.precedes($0.position, $1.position) }
      // The cut is told by `wasCut`, set where it takes candidates away for good.
      if self.wasCut || group.count >= 2 * count { group.removeLast(max(0, group.count - count)) }
    }
  }

  /// What a row stands for, if that is a result and this is the row at which it counts.
  private func candidate(_ row: IndexRow) throws(Index.Failure) -> Candidate? {
    guard self.query.paths.contains(row.path.bytes) else { return nil }
    if self.plan.needsEntity || (row.isRepeated && !self.query.orders.isEmpty) {
      let stored = try self.index.load(row)
      let entries = try stored.indexEntries()
      guard let position = self.query.position(of: row.path, entries: entries) else { return nil }
      // An entity with several values has several rows in the scan; it stands at one of them.
      if case .order = self.plan.source, position.values[0] != row.value { return nil }
      return Candidate(position: position, row: row, stored: stored)
    }
    let values = self.query.orders.isEmpty ? [] : [row.value]
    return Candidate(position: Position(values: values, path: row.path), row: row)
  }
}

extension QueryRun {
  /// The rows of a plan's source.
  private enum RowSource {
    case done
    case one(IndexRow)
    case scan(Index.Rows)
    case probed(Index.Rows, Index, [ResolvedQuery.Equality])
    case joined(Join)

    init(_ run: QueryRun) throws(Index.Failure) {
      let query = run.query
      switch run.plan.source {
      case .nothing: self = .done
      case .entity(let path):
        if let row = try run.index.row(at: path) { self = .one(row) } else { self = .done }
      case .kind:
        let paths = run.pathsFromCursors()
        self = .scan(
          try run.index.rows(
            of: .kind,
            RowRange(
              lower: QueryRun.bound(paths.lower, below: []),
              upper: QueryRun.bound(paths.upper, below: []), isReversed: run.plan.isReversed)))
      case .equalities(let equalities):
        self = .joined(try Join(run, equalities))
      case .order(let property, let probed):
        let rows = try run.index.rows(of: .property(property), run.orderRange(property))
        self = probed.isEmpty ? .scan(rows) : .probed(rows, run.index, query.equalities)
      }
    }

    mutating func next() throws(Index.Failure) -> IndexRow? {
      switch self {
      case .done: return nil
      case .one(let row):
        self = .done
        return row
      case .scan(var rows):
        defer { self = .scan(rows) }
        return try rows.next()
      case .probed(var rows, let index, let probed):
        defer { self = .probed(rows, index, probed) }
        search: while let row = try rows.next() {
          for equality in probed
          where try index.row(of: equality.property, value: equality.value, at: row.path) == nil {
            continue search
          }
          return row
        }
        return nil
      case .joined(var join):
        defer { self = .joined(join) }
        return try join.next()
      }
    }
  }

  /// The range of paths, made smaller by the cursors where results come by key alone.
  private func pathsFromCursors() -> ByteRange {
    var paths = self.query.paths
    guard self.query.orders.isEmpty else { return paths }
    let isDown = self.query.isKeyDescending
    if let start = self.query.start?.path.bytes {
      paths.narrow(isDown ? .lessThan : .greaterThan, start)
    }
    if let end = self.query.end?.path.bytes {
      paths.narrow(isDown ? .greaterThanOrEqual : .lessThanOrEqual, end)
    }
    return paths
  }

  /// The rows of the first order's property that can be results.
  private func orderRange(_ property: Name) -> RowRange {
    let values = self.query.range(of: property) ?? ByteRange()
    var range = RowRange(
      lower: Self.bound(values.lower), upper: Self.bound(values.upper),
      isReversed: self.plan.isReversed)
    // In a whole order a cursor's row tells where to go on; else others of its value may follow.
    func bound(_ position: Position, isIncluded: Bool) -> RowBound? {
      guard let value = position.values.first, values.contains(value) else { return nil }
      return self.plan.sorting == .none
        ? .row(value: value, path: position.path.bytes, isIncluded: isIncluded)
        : .value(value, isIncluded: true)
    }
    if let start = self.query.start, let bound = bound(start, isIncluded: false) {
      if self.plan.isReversed { range.upper = bound } else { range.lower = bound }
    }
    if let end = self.query.end, let bound = bound(end, isIncluded: true) {
      if self.plan.isReversed { range.lower = bound } else { range.upper = bound }
    }
    return range
  }

  private static func bound(_ bound: Bound) -> RowBound {
    switch bound {
    case .none: .none
    case .including(let value): .value(value, isIncluded: true)
    case .excluding(let value): .value(value, isIncluded: false)
    }
  }

  /// The rows of several equalities with the same path, found by leaping over the others.
  private struct Join {
    private let run: QueryRun
    private let equalities: [ResolvedQuery.Equality]
    private let paths: ByteRange
    private var scans: [Index.Rows]
    /// The row that each scan stands at.
    private var heads: [IndexRow?]
    private var isStarted = false

    /// Steps that a scan takes before it is opened again further on: opening costs about as much.
    private static var stepsBeforeLeap: Int { 8 }

    init(_ run: QueryRun, _ equalities: [ResolvedQuery.Equality]) throws(Index.Failure) {
      self.run = run
      self.equalities = equalities
      self.paths = run.pathsFromCursors()
      self.scans = []
      self.heads = []
      for equality in equalities {
        self.scans.append(
          try run.index.rows(
            of: .property(equality.property),
            QueryRun.range(equality, self.paths, isReversed: run.plan.isReversed)))
        self.heads.append(nil)
      }
    }

    mutating func next() throws(Index.Failure) -> IndexRow? {
      // The first scan leads; the others follow to its path, or move it on to theirs.
      guard let first = try self.scans[0].next() else { return nil }
      var target = first
      self.heads[0] = first
      var agreed = 1
      var number = 0
      while agreed < self.scans.count {
        number = (number + 1) % self.scans.count
        guard let row = try self.advance(number, to: target.path) else { return nil }
        if row.path == target.path {
          agreed += 1
        } else {
          target = row
          agreed = 1
        }
      }
      return target
    }

    /// Moves a scan to the first row at or beyond a path.
    private mutating func advance(
      _ number: Int, to path: PathBytes
    ) throws(Index.Failure) -> IndexRow? {
      if let head = self.heads[number], !self.isBefore(head.path, path) { return head }
      for _ in 0..<Self.stepsBeforeLeap {
        guard let row = try self.scans[number].next() else { return nil }
        if !self.isBefore(row.path, path) {
          self.heads[number] = row
          return row
        }
      }
      var paths = self.paths
      paths.narrow(
        self.run.plan.isReversed ? .lessThanOrEqual : .greaterThanOrEqual, path.bytes)
      let equality = self.equalities[number]
      self.scans[number] = try self.run.index.rows(
        of: .property(equality.property),
        QueryRun.range(equality, paths, isReversed: self.run.plan.isReversed))
      let row = try self.scans[number].next()
      self.heads[number] = row
      return row
    }

    private func isBefore(_ left: PathBytes, _ right: PathBytes) -> Bool {
      self.run.plan.isReversed ? right < left : left < right
    }
  }
}
