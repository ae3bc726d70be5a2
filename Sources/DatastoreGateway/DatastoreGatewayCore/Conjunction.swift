/// Filters that hold together, as indexes can tell them: one term of a query's condition.
package struct Conjunction: Hashable, Sendable {
  /// A value that an entity must have.
  package struct Equality: Hashable, Sendable {
    package var property: Name
    package var value: [UInt8]
  }

  /// Where some value of a property must be; one and the same value for all of its inequalities.
  package struct Range: Hashable, Sendable {
    package var property: Name
    package var values: ByteRanges
  }

  package var paths = ByteRanges()
  /// Distinct, by property and value.
  package var equalities: [Equality] = []
  /// One for each property, by property.
  package var ranges: [Range] = []

  /// Whether no entity can be meant.
  package var isContradiction: Bool {
    self.paths.isEmpty || self.ranges.contains { $0.values.isEmpty }
  }

  package func values(of property: Name) -> ByteRanges? {
    self.ranges.first { $0.property == property }?.values
  }

  /// The value that an order by this property sees in every entity that is meant.
  package func fixedValue(of property: Name) -> [UInt8]? {
    self.equalities.first { $0.property == property }?.value
  }

  mutating func add(_ property: Name, _ comparison: Query.Comparison, _ value: [UInt8]) {
    if comparison == .equal {
      let equality = Equality(property: property, value: value)
      let place = self.equalities.firstIndex { !Self.precedes($0, equality) }
      if let place, self.equalities[place] == equality { return }
      return self.equalities.insert(equality, at: place ?? self.equalities.endIndex)
    }
    var place = self.ranges.firstIndex { property <= $0.property } ?? self.ranges.endIndex
    if place == self.ranges.endIndex || self.ranges[place].property != property {
      self.ranges.insert(Range(property: property, values: ByteRanges()), at: place)
      place = self.ranges.firstIndex { $0.property == property } ?? place
    }
    self.ranges[place].values.narrow(comparison, value)
  }

  private static func precedes(_ left: Equality, _ right: Equality) -> Bool {
    left.property == right.property
      ? ByteOrder.precedes(left.value, right.value) : left.property < right.property
  }
}

/// A condition's terms, each of filters that hold together, under Datastore's limits.
struct DisjunctiveForm {
  /// A filter below all ANDs and ORs.
  enum Atom {
    case filter(Query.Filter)
    case isNotIn(Name, [Value])
    case hasAncestor(Key)
  }

  private(set) var terms: [[Atom]]
  private let policy: Policy
  private var filters = 0
  private var exclusions = 0
  private var hasChoice = false
  private var hasNotIn = false

  init(_ condition: Query.Condition?, policy: Policy) throws(GatewayError) {
    self.policy = policy
    self.terms = [[]]
    guard let condition else { return }
    self.terms = try self.terms(of: condition)
    if self.exclusions > 1 {
      throw .invalid("Only a single 'NOT_EQUAL' or 'NOT_IN' is allowed per query.")
    }
    if self.hasNotIn && self.hasChoice {
      throw .invalid("'NOT_IN' cannot be used in the same query with 'IN' or 'OR'.")
    }
    try self.checkAncestors()
  }

  private mutating func terms(
    of condition: Query.Condition
  ) throws(GatewayError) -> [[Atom]] {
    switch condition {
    case .filter(let filter):
      try self.countFilter()
      if filter.comparison == .notEqual { self.exclusions += 1 }
      return [[.filter(filter)]]
    case .hasAncestor(let key):
      try self.countFilter()
      return [[.hasAncestor(key)]]
    case .isIn(let property, let values):
      try self.countFilter()
      self.hasChoice = true
      if values.isEmpty { throw .invalid("IN requires an non-empty ArrayValue.") }
      if values.count > self.policy.maximumInValues {
        throw .invalid(
          "IN supports up to \(self.policy.maximumInValues) values. There are \(values.count) "
            + "values in the IN filter of property \"\(property)\".")
      }
      return values.map { [.filter(Query.Filter(property, .equal, $0))] }
    case .isNotIn(let property, let values):
      try self.countFilter()
      self.exclusions += 1
      self.hasNotIn = true
      if values.isEmpty { throw .invalid("NOT_IN requires an non-empty ArrayValue.") }
      if values.count > self.policy.maximumNotInValues {
        throw .invalid(
          "NOT_IN supports up to \(self.policy.maximumNotInValues) values. There are "
            + "\(values.count) values in the NOT_IN filter of property \"\(property)\".")
      }
      return [[.isNotIn(property, values)]]
    case .all(let parts):
      try self.checkNotEmpty(parts)
      var product: [[Atom]] = [[]]
      for part in parts {
        let terms = try self.terms(of: part)
        try self.checkCount(product.count * terms.count)
        product = product.flatMap { left in terms.map { left + $0 } }
      }
      return product
    case .any(let parts):
      try self.checkNotEmpty(parts)
      self.hasChoice = true
      var sum: [[Atom]] = []
      for part in parts {
        sum += try self.terms(of: part)
        try self.checkCount(sum.count)
      }
      return sum
    }
  }

  private mutating func countFilter() throws(GatewayError) {
    self.filters += 1
    if self.filters > self.policy.maximumFilters {
      throw .invalid("The query has more than \(self.policy.maximumFilters) filters.")
    }
  }

  private func checkNotEmpty(_ parts: [Query.Condition]) throws(GatewayError) {
    if parts.isEmpty { throw .invalid("A composite filter must have at least one sub-filter.") }
  }

  private func checkCount(_ count: Int) throws(GatewayError) {
    if count > self.policy.maximumDisjunctions {
      throw .invalid(
        "Too many disjunctions after normalization. Result had \(count) disjunctions which is "
          + "more than the maximum of \(self.policy.maximumDisjunctions)")
    }
  }

  private func checkAncestors() throws(GatewayError) {
    let ancestors = self.terms.map { term in
      Set(
        term.compactMap { atom -> Key? in
          if case .hasAncestor(let key) = atom { key } else { nil }
        })
    }
    if ancestors.contains(where: { $0.count > 1 || $0 != ancestors[0] }) {
      throw .invalid("All disjunctions must have a common and unique ancestor constraint.")
    }
  }
}
