/// The rows of a plan's source.
enum RowSource<Index: EntityIndex> {
  case done
  case one(IndexRow)
  case scan(Index.Rows)
  /// Several ranges of one index, in the order of the scan; the next one last. The index leaves out
  /// what lacks the equalities.
  case scans(Index.Rows, Name, [RowRange], [Conjunction.Equality], Index)
  case joined(EqualityJoin<Index>)
  /// - Parameter left: How many rows may yet be looked up in vain.
  indirect case probed(RowSource, Index, [Conjunction.Equality], left: Int)

  /// - Parameters:
  ///   - beyond: A value of the scanned order's property that is passed already, with all that come before it.
  ///   - probesInVain: How many rows may be looked up in vain among a term's equalities.
  init(
    _ place: TermPlace, on index: Index, beyond: [UInt8]? = nil, probesInVain: Int = .max
  ) throws(Index.Failure) {
    switch place.plan.source {
    case .nothing: self = .done
    case .entity(let path):
      if let row = try index.row(at: path) { self = .one(row) } else { self = .done }
    case .kind:
      guard let paths = place.paths() else {
        self = .done
        return
      }
      self = .scan(
        try index.rows(of: .kind, RowRange(ofKind: paths, isReversed: place.plan.isReversed)))
    case .equalities(let equalities):
      guard let paths = place.paths() else {
        self = .done
        return
      }
      let isReversed = place.plan.isReversed
      if Index.filtersScans {
        let (rarest, others) = try Self.rarest(of: equalities, on: index)
        self = .scan(
          try Self.rows(
            of: rarest.property, RowRange(rarest, paths, isReversed: isReversed), having: others,
            on: index))
      } else {
        self = .joined(try EqualityJoin(equalities, paths, isReversed: isReversed, on: index))
      }
    case .order(let property, let probed):
      var ranges = place.orderRanges(of: property, beyond: beyond)
      if !place.plan.isReversed { ranges.reverse() }
      guard let first = ranges.popLast() else {
        self = .done
        return
      }
      let filtered = Index.filtersScans ? probed : []
      let rows = try Self.rows(of: property, first, having: filtered, on: index)
      self = ranges.isEmpty ? .scan(rows) : .scans(rows, property, ranges, filtered, index)
      if !probed.isEmpty && !Index.filtersScans {
        self = .probed(self, index, probed, left: probesInVain)
      }
    case .range(let property):
      // Sorted afterwards: cursors are kept to then.
      var ranges = (place.term.values(of: property)?.parts ?? []).map { RowRange($0) }
      guard let first = ranges.popLast() else {
        self = .done
        return
      }
      let rows = try index.rows(of: .property(property), first)
      self = ranges.isEmpty ? .scan(rows) : .scans(rows, property, ranges, [], index)
    }
  }

  /// Rows that are counted to find which of several equalities has the fewest.
  private static var countedRows: Int { 1_000 }

  /// The equality that is scanned, and those that each of its rows is looked up among.
  private static func rarest(
    of equalities: [Conjunction.Equality], on index: Index
  ) throws(Index.Failure) -> (Conjunction.Equality, [Conjunction.Equality]) {
    var others = equalities
    var rarest = 0
    if equalities.count > 1 {
      var fewest = Int.max
      for (number, equality) in equalities.enumerated() {
        let count = try index.count(equality, upTo: Self.countedRows)
        if count < fewest { (rarest, fewest) = (number, count) }
      }
    }
    return (others.remove(at: rarest), others)
  }

  private static func rows(
    of property: Name, _ range: RowRange, having others: [Conjunction.Equality], on index: Index
  ) throws(Index.Failure) -> Index.Rows {
    others.isEmpty
      ? try index.rows(of: .property(property), range)
      : try index.rows(of: property, range, having: others)
  }

  /// - Parameter progress: Told of each row that is looked at.
  /// - Returns: The next row; nil at the end, where the query is to end, or where too much was looked up in vain.
  mutating func next(_ progress: QueryProgress) throws(Index.Failure) -> IndexRow? {
    switch self {
    case .done: return nil
    case .one(let row):
      self = .done
      return progress.scannedRow() ? row : nil
    case .scan(var rows):
      defer { self = .scan(rows) }
      guard let row = try rows.next(), progress.scannedRow() else { return nil }
      return row
    case .scans(var rows, let property, var ranges, let filtered, let index):
      defer { self = .scans(rows, property, ranges, filtered, index) }
      while true {
        if let row = try rows.next() { return progress.scannedRow() ? row : nil }
        guard let range = ranges.popLast() else { return nil }
        rows = try Self.rows(of: property, range, having: filtered, on: index)
      }
    case .probed(var source, let index, let probed, var left):
      defer { self = .probed(source, index, probed, left: left) }
      search: while left > 0, let row = try source.next(progress) {
        for equality in probed
        where try index.row(of: equality.property, value: equality.value, at: row.path) == nil {
          left -= 1
          continue search
        }
        return row
      }
      return nil
    case .joined(var join):
      defer { self = .joined(join) }
      return try join.next(progress)
    }
  }
}

extension RowSource {
  /// Whether too much was looked up in vain.
  var hasProbedInVain: Bool { if case .probed(_, _, _, left: 0) = self { true } else { false } }

  /// Goes on, however much is looked up in vain.
  mutating func probeOn() {
    guard case .probed(let source, let index, let probed, _) = self else { return }
    self = .probed(source, index, probed, left: .max)
  }
}

extension RowRange {
  /// The rows of an equality with paths in a range.
  init(
    _ equality: Conjunction.Equality, _ paths: ByteRange = ByteRange(), isReversed: Bool = false
  ) {
    self.init(
      lower: Self.bound(paths.lower, below: equality.value),
      upper: Self.bound(paths.upper, below: equality.value), isReversed: isReversed)
  }

  /// The rows of a kind's index with paths in a range.
  init(ofKind paths: ByteRange, isReversed: Bool = false) {
    self.init(
      lower: Self.bound(paths.lower, below: []), upper: Self.bound(paths.upper, below: []),
      isReversed: isReversed)
  }

  /// The rows of a range of values.
  init(_ values: ByteRange, isReversed: Bool = false) {
    self.init(
      lower: Self.bound(values.lower), upper: Self.bound(values.upper), isReversed: isReversed)
  }

  static func bound(_ bound: Bound, below value: [UInt8]) -> RowBound {
    switch bound {
    case .none: .value(value, isIncluded: true)
    case .including(let path): .row(value: value, path: path, isIncluded: true)
    case .excluding(let path): .row(value: value, path: path, isIncluded: false)
    }
  }

  static func bound(_ bound: Bound) -> RowBound {
    switch bound {
    case .none: .none
    case .including(let value): .value(value, isIncluded: true)
    case .excluding(let value): .value(value, isIncluded: false)
    }
  }
}

/// A term's plan between the query's cursors: which rows can still be results.
struct TermPlace {
  var query: ResolvedQuery
  var term: Conjunction
  var plan: Plan

  /// Where results of the term stand beside a cursor.
  private enum Side {
    case before, after
    /// The orders that the term fixes do not tell; its rows do.
    case unknown
  }

  /// The number of the order whose property is scanned.
  var orderNumber: Int? {
    self.query.orders.firstIndex { self.term.fixedValue(of: $0.property) == nil }
  }

  /// Compares what the term fixes, in front of the order that is scanned, with a cursor.
  private func side(of cursor: Position) -> Side {
    for (number, order) in self.query.orders.enumerated() {
      guard let value = self.term.fixedValue(of: order.property) else { break }
      if value == cursor.values[number] { continue }
      let isBelow = ByteOrder.precedes(value, cursor.values[number])
      return isBelow != order.isDescending ? .before : .after
    }
    return .unknown
  }

  /// Whether cursors leave nothing of the term.
  private var isOutside: Bool {
    if let start = self.query.start, self.side(of: start) == .before { return true }
    if let end = self.query.end, self.side(of: end) == .after { return true }
    return false
  }

  private var lowerCursor: Position? {
    self.query.start.flatMap { self.side(of: $0) == .unknown ? $0 : nil }
  }

  private var upperCursor: Position? {
    self.query.end.flatMap { self.side(of: $0) == .unknown ? $0 : nil }
  }

  /// The range of paths, made smaller by the cursors where results come by key alone; `nil` for
  /// none.
  func paths() -> ByteRange? {
    if self.isOutside { return nil }
    var paths = self.term.paths.hull
    guard self.plan.sorting == .none else { return paths }
    let isDown = self.query.isKeyDescending
    // With values behind the key the cursor's own entity may have more results.
    let isWhole = self.query.trailing.isEmpty
    func narrow(to cursor: Position?, upwards: Bool, isIncluded: Bool) {
      guard let path = cursor?.path.bytes else { return }
      let isIncluded = isIncluded || !isWhole
      if upwards {
        paths.narrow(isIncluded ? .greaterThanOrEqual : .greaterThan, path)
      } else {
        paths.narrow(isIncluded ? .lessThanOrEqual : .lessThan, path)
      }
    }
    narrow(to: self.lowerCursor, upwards: !isDown, isIncluded: self.query.includesStart)
    narrow(to: self.upperCursor, upwards: isDown, isIncluded: self.query.includesEnd)
    return paths.isEmpty ? nil : paths
  }

  /// The rows of the scanned order's property that can be results, ascending.
  ///
  /// - Parameter beyond: A value that is passed already, with all that come before it.
  func orderRanges(of property: Name, beyond: [UInt8]?) -> [RowRange] {
    if self.isOutside { return [] }
    guard let number = self.orderNumber else { return [] }
    let parts = self.term.values(of: property)?.parts ?? [ByteRange()]
    let (start, end) =
      self.plan.isReversed
      ? (self.upperCursor, self.lowerCursor) : (self.lowerCursor, self.upperCursor)
    let (includesStart, includesEnd) =
      self.plan.isReversed
      ? (self.query.includesEnd, self.query.includesStart)
      : (self.query.includesStart, self.query.includesEnd)
    var ranges: [RowRange] = []
    for part in parts {
      var part = part
      var range = RowRange(isReversed: self.plan.isReversed)
      // In a whole order a cursor's row tells where to go on; else others of its value may follow.
      let isExact = self.plan.sorting == .none && self.query.trailing.isEmpty
      if let value = start?.values[number] { part.narrow(.greaterThanOrEqual, value) }
      if let value = end?.values[number] { part.narrow(.lessThanOrEqual, value) }
      if let beyond { part.narrow(self.plan.isReversed ? .lessThan : .greaterThan, beyond) }
      if part.isEmpty { continue }
      range.lower = RowRange.bound(part.lower)
      range.upper = RowRange.bound(part.upper)
      if isExact, let start, part.lower == .including(start.values[number]) {
        range.lower = .row(
          value: start.values[number], path: start.path.bytes, isIncluded: includesStart)
      }
      if isExact, let end, part.upper == .including(end.values[number]) {
        range.upper = .row(
          value: end.values[number], path: end.path.bytes, isIncluded: includesEnd)
      }
      ranges.append(range)
    }
    return ranges
  }
}
