/// How a query's results are found.
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
    case equalities([ResolvedQuery.Equality])
    /// The rows of the first order's property; each is looked up among these values' rows.
    case order(Name, probing: [ResolvedQuery.Equality])
  }

  /// How far candidates already stand in the order of results.
  package enum Sorting: Hashable, Sendable {
    /// They stand so.
    case none
    /// By the first value; those with the same one are sorted in memory.
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
  /// - Parameter rowCount: How many index rows an equality has, counted up to the limit only.
  package init<Failure: Error>(
    _ query: ResolvedQuery, policy: Policy,
    rowCount: (_ equality: ResolvedQuery.Equality, _ limit: Int) throws(Failure) -> Int
  ) throws(Failure) {
    let needsMore = !query.ranges.isEmpty || !query.orders.isEmpty
    if query.isContradiction {
      self.init(source: .nothing, isReversed: false, sorting: .none, needsEntity: false)
    } else if case .including(let path) = query.paths.lower, query.paths.upper == .including(path) {
      self.init(
        source: .entity(PathBytes(bytes: path)), isReversed: false, sorting: .none,
        needsEntity: needsMore || !query.equalities.isEmpty)
    } else if let first = query.orders.first {
      if try Self.isSmall(query.equalities, limit: policy.sortedInMemoryRows, rowCount) {
        self.init(
          source: .equalities(query.equalities), isReversed: false, sorting: .all,
          needsEntity: true)
      } else {
        let isWhole = query.orders.count == 1 && query.isKeyDescending == first.isDescending
        self.init(
          source: .order(first.property, probing: query.equalities),
          isReversed: first.isDescending, sorting: isWhole ? .none : .withinFirstValue,
          // A range of the scanned property bounds the scan.
          needsEntity: query.orders.count > 1
            || query.ranges.contains { $0.property != first.property })
      }
    } else {
      self.init(
        source: query.equalities.isEmpty ? .kind : .equalities(query.equalities),
        isReversed: query.isKeyDescending, sorting: .none, needsEntity: needsMore)
    }
  }

  private static func isSmall<Failure: Error>(
    _ equalities: [ResolvedQuery.Equality], limit: Int,
    _ rowCount: (ResolvedQuery.Equality, Int) throws(Failure) -> Int
  ) throws(Failure) -> Bool {
    for equality in equalities where try rowCount(equality, limit + 1) <= limit { return true }
    return false
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
      }
    return source + (self.isReversed ? ", descending" : "")
      + (self.sorting == .all ? ", sorted" : "")
      + (self.sorting == .withinFirstValue ? ", sorted within values" : "")
      + (self.needsEntity ? ", entities read" : "")
  }
}
