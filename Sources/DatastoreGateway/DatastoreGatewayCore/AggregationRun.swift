/// What an aggregation came to.
package struct AggregationResult: Sendable {
  /// For each aggregation, in their order.
  package var values: [Value]
  /// Results of the query that went into them.
  package var results = 0
  /// Index rows that were looked at, and entities that were read.
  package var scanned = 0
  package var loaded = 0
  /// Whether nobody waits any more, and the values are of a part only.
  package var wasCancelled = false
}

/// Runs an aggregation over a store's indexes.
package struct AggregationRun<Indexes: EntityIndexes> {
  private let aggregation: ResolvedAggregation
  package let plan: QueryPlan
  private let indexes: Indexes
  private let isCancelled: () -> Bool

  /// Results that are sorted in memory at a time, where their order matters.
  private static var sortedResults: Int { 10_000 }

  package init(
    _ aggregation: ResolvedAggregation, on indexes: Indexes, policy: Policy,
    isCancelled: @escaping () -> Bool = { false }
  ) throws(Indexes.Index.Failure) {
    self.aggregation = aggregation
    self.indexes = indexes
    self.isCancelled = isCancelled
    self.plan = try QueryPlan(aggregation.query, on: indexes, policy: policy)
  }

  package func result() throws(Indexes.Index.Failure) -> AggregationResult {
    var query = self.aggregation.query
    let wanted = min(query.limit ?? .max, self.aggregation.neededResults)
    var result = AggregationResult(values: [])
    var sums: [Name: NumberSum] = [:]
    for property in self.aggregation.properties { sums[property] = NumberSum() }
    // All results of one term count alike: their order decides nothing.
    let isOrdered =
      self.plan.parts.count > 1 || query.limit != nil || query.offset > 0
      || query.distinctCount > 0
    var skipped = 0
    while result.results < wanted {
      var results = try MergedResults(
        query, self.plan.parts, on: self.indexes, wanted: Self.sortedResults,
        isOrdered: isOrdered, isCancelled: self.isCancelled)
      var last: Position?
      while result.results < wanted, let (candidate, stream) = try results.next() {
        last = candidate.position
        if skipped < query.offset {
          skipped += 1
          continue
        }
        result.results += 1
        if sums.isEmpty { continue }
        let stored = try results.stored(candidate, of: stream)
        self.add(try stored.entity(), at: candidate.position, to: &sums)
      }
      result.scanned += results.progress.scanned
      result.loaded += results.progress.loaded
      result.wasCancelled = results.progress.wasCancelled
      // Sorting kept only the first ones: the others come behind the last of these.
      guard results.wasCut, !result.wasCancelled, let next = results.lastPassed ?? last else {
        break
      }
      query.start = last.map { query.precedes(next, $0) ? $0 : next } ?? next
    }
    result.values = self.aggregation.aggregations.map { aggregation in
      switch aggregation.operation {
      case .count(let limit): .integer(min(Int64(result.results), limit ?? .max))
      case .sum(let property): (sums[property] ?? NumberSum()).value
      case .average(let property): (sums[property] ?? NumberSum()).average
      }
    }
    return result
  }

  /// Adds the number that a result has of each property; where it is not projected, all indexed
  /// ones of the entity.
  private func add(_ entity: Entity, at position: Position, to sums: inout [Name: NumberSum]) {
    let query = self.aggregation.query
    let properties = query.positionProperties
    for name in Array(sums.keys) {
      if case .projection(let names) = query.form, names.contains(name),
        let number = properties.firstIndex(of: name)
      {
        if let value = entity.indexedValue(of: name, at: position.values[number]) {
          sums[name]?.add(value)
        }
        continue
      }
      if query.terms.count == 1, let fixed = query.terms[0].fixedValue(of: name) {
        if let value = entity.indexedValue(of: name, at: fixed) { sums[name]?.add(value) }
        continue
      }
      // Of equal elements of an array there is one index row.
      var seen: Set<[UInt8]> = []
      entity.forEachIndexed { property, value in
        if property == name, let bytes = value.orderedBytes, seen.insert(bytes).inserted {
          sums[name]?.add(value)
        }
      }
    }
  }
}
