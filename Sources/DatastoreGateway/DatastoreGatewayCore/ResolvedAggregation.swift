/// An aggregation query in one normal form.
///
/// Numbers come out of an index, so what goes into an aggregation is what an index over all of its
/// properties would hold: entities that have them all, once for each combination of their values, in
/// the order of these. That is a projection.
package struct ResolvedAggregation: Sendable {
  package var query: ResolvedQuery
  /// Each with an alias of its own.
  package var aggregations: [AggregationQuery.Aggregation]

  package init(_ aggregation: AggregationQuery, policy: Policy) throws(GatewayError) {
    self.query = try ResolvedQuery(aggregation.query, policy: policy)
    self.aggregations = aggregation.aggregations
    switch self.query.source {
    case .kind, .everyKind: break
    case .metadata, .nothing:
      throw .invalid("Aggregation queries on reserved kinds are not supported.")
    }
    try Validation(policy: policy).check(aggregations: self.aggregations.count)
    var aliases: Set<Name> = []
    var unnamed = 0
    for number in self.aggregations.indices {
      try self.check(self.aggregations[number].operation)
      if self.aggregations[number].alias.isEmpty {
        unnamed += 1
        self.aggregations[number].alias = Name("property_\(unnamed)")
      }
      let alias = self.aggregations[number].alias
      if alias.isReserved { throw .invalid("The property.name \"\(alias)\" is reserved.") }
      if alias.byteCount > policy.maximumNameBytes {
        throw .invalid("The alias is longer than \(policy.maximumNameBytes) bytes.")
      }
      if !aliases.insert(alias).inserted {
        throw .invalid("Aggregation aliases contain duplicate alias: \(alias).")
      }
    }
    try self.project(aggregation.query, policy: policy)
  }

  /// Projects the properties of which numbers are asked for; not those that are fixed for all
  /// results.
  private mutating func project(_ query: Query, policy: Policy) throws(GatewayError) {
    if case .projection(let names) = self.query.form {
      for property in self.properties.sorted() where !names.contains(property) {
        throw .invalid(
          "The aggregation property \(property) is not present in the base query's projection.")
      }
      return
    }
    // A cursor belongs to the order that the query itself has.
    guard case .kind = self.query.source, query.start.isEmpty, query.end.isEmpty else { return }
    var projected = query
    projected.projection = self.properties.sorted().filter { property in
      self.query.terms.contains { $0.fixedValue(of: property) == nil }
    }
    if projected.projection.isEmpty { return }
    self.query = try ResolvedQuery(projected, policy: policy, isAggregated: true)
  }

  private func check(_ operation: AggregationQuery.Operation) throws(GatewayError) {
    switch operation {
    case .count(let limit):
      if let limit, limit < 0 {
        throw .invalid(
          "The `up_to` value in a COUNT aggregation must be greater than or equal to zero. "
            + "It is \(limit).")
      }
    case .sum(let property), .average(let property):
      if property.isEmpty { throw .invalid("Empty aggregation field.") }
      if property == Query.keyProperty {
        throw .invalid("Aggregations are not supported for the property: __key__")
      }
      if property.isReserved { throw .invalid("The property.name \"\(property)\" is reserved.") }
      if self.query.form == .key {
        throw .invalid(
          "Aggregation over non-key properties is not supported for base query that only returns "
            + "keys.")
      }
    }
  }

  /// Where nothing but counts up to a limit is asked for: results beyond it change nothing.
  var neededResults: Int {
    var needed = 0
    for aggregation in self.aggregations {
      guard case .count(let limit?) = aggregation.operation else { return .max }
      needed = max(needed, Int(limit))
    }
    return needed
  }

  /// The properties of which numbers are asked for.
  var properties: Set<Name> {
    Set(
      self.aggregations.compactMap { aggregation in
        switch aggregation.operation {
        case .count: nil
        case .sum(let property), .average(let property): property
        }
      })
  }
}

/// A sum under way: exact while there are only integers.
struct NumberSum {
  private(set) var count = 0
  private var doubles: Double?
  // A whole number of 128 bits, in two's complement.
  private var high: Int64 = 0
  private var low: UInt64 = 0

  /// - Parameter value: As an index has it (``Value/orderedBytes``); what is no number adds nothing. A
  ///   timestamp is its microseconds, as it is in an index.
  mutating func add(_ value: [UInt8]) {
    switch try? Value(ordered: value) {
    case .integer(let number):
      let (sum, isCarried) = self.low.addingReportingOverflow(UInt64(bitPattern: number))
      self.low = sum
      self.high += (number < 0 ? -1 : 0) + (isCarried ? 1 : 0)
    case .double(let number): self.doubles = (self.doubles ?? 0) + number
    default: return
    }
    self.count += 1
  }

  /// Whether the whole number is one of 64 bits.
  private var isSmall: Bool { self.high == Int64(bitPattern: self.low) >> 63 }

  private var integers: Double {
    // The two halves of a small negative number would lose digits as one sum.
    self.isSmall
      ? Double(Int64(bitPattern: self.low)) : Double(self.high) * 0x1p64 + Double(self.low)
  }

  /// An integer if all numbers are and it is in range; 0 for none.
  var value: Value {
    if let doubles = self.doubles { return .double(self.integers + doubles) }
    return self.isSmall ? .integer(Int64(bitPattern: self.low)) : .double(self.integers)
  }

  /// `null` for none.
  var average: Value {
    if self.count == 0 { return .null }
    return .double((self.integers + (self.doubles ?? 0)) / Double(self.count))
  }
}
