/// How the results of one term of a query are found.
package struct Plan: Hashable, Sendable {
  /// Where candidates come from.
  package enum Source: Hashable, Sendable {
    /// There can be none.
    case nothing
    /// One entity, by its key.
    case entity(PathBytes)
    /// All entities of the kind, by key.
    case kind
    /// The entities that have all of these values, by key: their index rows, merged.
    case equalities([Conjunction.Equality])
    /// The rows of the first order's property; each is looked up among these values' rows.
    case order(Name, probing: [Conjunction.Equality])
    /// The rows of a property whose values are in the range of its inequalities.
    case range(Name)
  }

  /// How far candidates already stand in the order of results.
  package enum Sorting: Hashable, Sendable {
    /// They stand so.
    case none
    /// By the scanned property's value; those with the same one are sorted in memory.
    case withinFirstValue
    /// Not at all: all are sorted in memory.
    case all
  }

  package var source: Source
  package var isReversed: Bool
  package var sorting: Sorting
  /// Whether index rows do not tell enough: each candidate is read before it counts.
  package var needsEntity: Bool

  package init(source: Source, isReversed: Bool, sorting: Sorting, needsEntity: Bool) {
    self.source = source
    self.isReversed = isReversed
    self.sorting = sorting
    self.needsEntity = needsEntity
  }
}

extension Plan {
  /// Index rows that a plan may want to be counted.
  package enum Rows: Hashable, Sendable {
    case equality(Conjunction.Equality)
    case range(Conjunction.Range)
    /// Of the kind, with these paths.
    case paths(ByteRange)
  }

  /// - Parameter rowCount: How many rows there are, counted up to the limit only.
  package init<Failure: Error>(
    _ query: ResolvedQuery, _ term: Conjunction, policy: Policy,
    rowCount: (_ rows: Rows, _ limit: Int) throws(Failure) -> Int
  ) throws(Failure) {
    let orders = query.openOrders(of: term)
    let needsEntity = query.needsEntity(term)
    if let path = term.paths.onlyValue {
      self.init(
        source: .entity(PathBytes(bytes: path)), isReversed: false, sorting: .none,
        needsEntity: needsEntity || !query.orders.isEmpty || !term.ranges.isEmpty
          || !term.equalities.isEmpty)
    } else if let first = orders.first {
      if try Self.isSmall(term.equalities, limit: policy.sortedInMemoryRows, rowCount) {
        self.init(
          source: .equalities(term.equalities), isReversed: false, sorting: .all,
          needsEntity: true)
      } else if let range = try Self.smallRange(
        of: term, besides: first.property, limit: policy.sortedInMemoryRows, rowCount)
      {
        self.init(source: .range(range), isReversed: false, sorting: .all, needsEntity: true)
      } else if try Self.isSmall(term.paths.hull, limit: policy.sortedInMemoryRows, rowCount),
        try rowCount(.range(term.range(of: first.property)), policy.sortedInMemoryRows + 1)
          > policy.sortedInMemoryRows
      {
        // The children of one ancestor, most of the time, where the order has much more than these.
        self.init(source: .kind, isReversed: false, sorting: .all, needsEntity: true)
      } else {
        let isWhole = orders.count == 1 && query.isKeyDescending == first.isDescending
        self.init(
          source: .order(first.property, probing: term.equalities),
          isReversed: first.isDescending, sorting: isWhole ? .none : .withinFirstValue,
          needsEntity: needsEntity)
      }
    } else if term.equalities.isEmpty,
      let range = try Self.smallRange(
        of: term, besides: nil, limit: policy.sortedInMemoryRows, rowCount)
    {
      self.init(source: .range(range), isReversed: false, sorting: .all, needsEntity: true)
    } else {
      self.init(
        source: term.equalities.isEmpty ? .kind : .equalities(term.equalities),
        isReversed: query.isKeyDescending, sorting: .none, needsEntity: needsEntity)
    }
  }

  private static func isSmall<Failure: Error>(
    _ equalities: [Conjunction.Equality], limit: Int,
    _ rowCount: (Rows, Int) throws(Failure) -> Int
  ) throws(Failure) -> Bool {
    for equality in equalities
    where try rowCount(.equality(equality), limit + 1) <= limit {
      return true
    }
    return false
  }

  private static func isSmall<Failure: Error>(
    _ paths: ByteRange, limit: Int, _ rowCount: (Rows, Int) throws(Failure) -> Int
  ) throws(Failure) -> Bool {
    guard paths != ByteRange() else { return false }
    return try rowCount(.paths(paths), limit + 1) <= limit
  }

  /// A property whose inequalities leave few rows, so that these are read and sorted rather than all
  /// that the order or the kind has.
  ///
  /// - Parameter scanned: The property whose rows are scanned otherwise, within its own range.
  private static func smallRange<Failure: Error>(
    of term: Conjunction, besides scanned: Name?, limit: Int,
    _ rowCount: (Rows, Int) throws(Failure) -> Int
  ) throws(Failure) -> Name? {
    for range in term.ranges where range.property != scanned {
      if try rowCount(.range(range), limit + 1) <= limit { return range.property }
    }
    return nil
  }
}

extension Conjunction {
  /// What is left of a property's values.
  fileprivate func range(of property: Name) -> Range {
    Range(property: property, values: self.values(of: property) ?? ByteRanges())
  }
}

extension ResolvedQuery {
  /// The orders that a term does not fix the values of.
  func openOrders(of term: Conjunction) -> [Query.Order] {
    self.orders.filter { term.fixedValue(of: $0.property) == nil }
  }

  /// Whether an index row of a term does not tell whether and where its entity is a result.
  fileprivate func needsEntity(_ term: Conjunction) -> Bool {
    let open = self.openOrders(of: term)
    // Where one property is projected, or distinct, and scanned each row is a result, at its own value.
    if self.hasManyPlaces && (self.terms.count > 1 || !self.trailing.isEmpty) { return true }
    // A range of the scanned property bounds the scan.
    if open.count > 1 || term.ranges.contains(where: { $0.property != open.first?.property }) {
      return true
    }
    if self.terms.count == 1 || self.orders.isEmpty { return false }
    // Another term may give an entity of several values an earlier place; a row tells only of its
    // own property whether there are several.
    if self.orders.count > 1 { return true }
    return open.isEmpty && term.equalities.count > 1
  }
}

extension Plan: CustomStringConvertible {
  /// For logs: "order created descending, probing project".
  package var description: String {
    let source =
      switch self.source {
      case .nothing: "nothing"
      case .entity: "one key"
      case .kind: "kind"
      case .equalities(let equalities):
        "equalities \(equalities.map(\.property.text).joined(separator: ", "))"
      case .order(let property, let probed):
        "order \(property)"
          + (probed.isEmpty
            ? "" : ", probing \(probed.map(\.property.text).joined(separator: ", "))")
      case .range(let property): "range of \(property)"
      }
    return source + (self.isReversed ? ", descending" : "")
      + (self.sorting == .all ? ", sorted" : "")
      + (self.sorting == .withinFirstValue ? ", sorted within values" : "")
      + (self.needsEntity ? ", entities read" : "")
  }
}
