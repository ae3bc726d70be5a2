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
  /// Why this is no answer.
  package var refusal: GatewayError?
}

/// Runs an aggregation over a store's indexes.
package struct AggregationRun<Indexes: EntityIndexes> {
  private let aggregation: ResolvedAggregation
  package let plan: QueryPlan
  private let policy: Policy
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
    self.policy = policy
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
    let places = self.places
    var skipped = 0
    while result.results < wanted {
      var results = try MergedResults(
        query, self.plan.parts, on: self.indexes, policy: self.policy, wanted: Self.sortedResults,
        isOrdered: isOrdered, isCancelled: self.isCancelled)
      var last: Position?
      while result.results < wanted, let (candidate, stream) = try results.next() {
        last = candidate.position
        if skipped < query.offset {
          skipped += 1
          continue
        }
        result.results += 1
        for (name, place) in places {
          switch place {
          case .position(let number): sums[name]?.add(candidate.position.values[number])
          case .fixed(let value): sums[name]?.add(value)
          case .entity:
            let stored = try results.stored(candidate, of: stream)
            for entry in try stored.entity().indexEntries where entry.property == name {
              sums[name]?.add(entry.value)
            }
          }
        }
      }
      result.scanned += results.progress.scanned
      result.loaded += results.progress.loaded
      result.wasCancelled = results.progress.wasCancelled
      result.refusal = results.progress.refusal
      // Sorting kept only the first ones: the others come behind the last of these.
      guard results.wasCut, !result.wasCancelled, result.refusal == nil,
        let next = results.lastPassed ?? last
      else {
        break
      }
      query.start = last.map { query.precedes(next, $0) ? $0 : next } ?? next
      query.includesStart = false
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

  /// Where a result has a property's number.
  private enum Place {
    /// Among the values of its position: in the index.
    case position(Int)
    /// A filter fixes it.
    case fixed([UInt8])
    /// It stands at none: all indexed ones of the entity count.
    case entity
  }

  private var places: [(Name, Place)] {
    let query = self.aggregation.query
    let properties = query.positionProperties
    return self.aggregation.properties.sorted().map { name in
      if let number = properties.firstIndex(of: name) { return (name, .position(number)) }
      if query.terms.count == 1, let value = query.terms[0].fixedValue(of: name) {
        return (name, .fixed(value))
      }
      return (name, .entity)
    }
  }
}
