/// A question for entities, as a caller asks it.
package struct Query: Sendable {
  /// How a filter compares; inequalities run across types.
  package enum Comparison: Hashable, Sendable, CaseIterable {
    case equal, lessThan, lessThanOrEqual, greaterThan, greaterThanOrEqual, notEqual
  }

  /// Entities of which some value of a property compares so.
  package struct Filter: Sendable {
    package var property: Name
    package var comparison: Comparison
    package var value: Value

    package init(_ property: Name, _ comparison: Comparison, _ value: Value) {
      self.property = property
      self.comparison = comparison
      self.value = value
    }
  }

  /// What an entity must be.
  ///
  /// Inequalities of one property that hold together are about one and the same of its values;
  /// each equality may be about another one.
  package indirect enum Condition: Sendable {
    case filter(Filter)
    /// Some value of the property is one of these.
    case isIn(Name, [Value])
    /// Some value of the property is none of these.
    case isNotIn(Name, [Value])
    /// The entity is this one or below it.
    case hasAncestor(Key)
    case all([Condition])
    case any([Condition])
  }

  /// By a property's values; an entity without one is no result.
  package struct Order: Hashable, Sendable {
    package var property: Name
    package var isDescending: Bool

    package init(_ property: Name, isDescending: Bool = false) {
      self.property = property
      self.isDescending = isDescending
    }
  }

  /// The property that stands for an entity's key.
  package static let keyProperty: Name = "__key__"

  package var partition: PartitionID
  /// `nil` for entities of every kind.
  package var kind: Name?
  package var condition: Condition?
  package var orders: [Order]
  /// The properties that results have: one result for each combination of their indexed values.
  /// Empty for whole entities; `__key__` alone for keys.
  package var projection: [Name]
  /// Of results with the same values of these only the first is given.
  package var distinctOn: [Name]
  /// Results to leave out first.
  package var offset: Int
  package var limit: Int?
  /// Results after this one.
  package var start: [UInt8]
  /// Results up to this one.
  package var end: [UInt8]

  package init(
    partition: PartitionID, kind: Name?, condition: Condition? = nil, orders: [Order] = [],
    projection: [Name] = [], distinctOn: [Name] = [], offset: Int = 0, limit: Int? = nil,
    start: [UInt8] = [], end: [UInt8] = []
  ) {
    self.partition = partition
    self.kind = kind
    self.condition = condition
    self.orders = orders
    self.projection = projection
    self.distinctOn = distinctOn
    self.offset = offset
    self.limit = limit
    self.start = start
    self.end = end
  }
}

extension Query {
  /// Whether results are nothing but keys.
  package var isKeysOnly: Bool { self.projection == [Self.keyProperty] }
}

/// Numbers that are made of all results of a query.
package struct AggregationQuery: Sendable {
  /// What is made of them.
  package enum Operation: Hashable, Sendable {
    /// How many there are; counting ends at the limit.
    case count(upTo: Int64?)
    /// Of all indexed numbers of a property.
    case sum(Name)
    case average(Name)
  }

  /// One number.
  package struct Aggregation: Hashable, Sendable {
    package var operation: Operation
    /// Names it in the answer; empty for a name of the server's choice.
    package var alias: Name

    package init(_ operation: Operation, alias: Name = "") {
      self.operation = operation
      self.alias = alias
    }
  }

  package var query: Query
  package var aggregations: [Aggregation]

  package init(query: Query, aggregations: [Aggregation]) {
    self.query = query
    self.aggregations = aggregations
  }
}

extension Query.Condition {
  /// Whether keys are compared, otherwise than for equality, anywhere in it.
  var hasKeyInequality: Bool {
    switch self {
    case .filter(let filter):
      filter.property == Query.keyProperty && filter.comparison != .equal
    case .isNotIn(let property, _): property == Query.keyProperty
    case .isIn, .hasAncestor: false
    case .all(let parts), .any(let parts): parts.contains { $0.hasKeyInequality }
    }
  }
}
