/// A query in one normal form: what an entity must have, and the total order of results.
///
/// Results are ordered by one value for each of `orders`, then by key, then by `trailing`; a
/// result's place in that order is its ``Position``, which depends on nothing but the entity. So a
/// cursor, which holds a position, goes on at the right place whatever was written meanwhile.
package struct ResolvedQuery: Sendable {
  /// Where entities are looked for.
  package enum Source: Hashable, Sendable {
    case kind(CollectionName)
    /// Every kind in a partition.
    case everyKind(PartitionID)
    /// What the store knows of its own entities.
    case metadata(MetadataKind, PartitionID)
    /// A reserved kind of which there are no entities.
    case nothing
  }

  /// What a result is.
  package enum Form: Hashable, Sendable {
    case entity
    case key
    /// The values of these properties at the result's position.
    case projection([Name])
  }

  package var source: Source
  /// Entities of any of them are meant; none is a contradiction.
  package var terms: [Conjunction] = []
  package var orders: [Query.Order] = []
  /// Whether results of the same values come by descending key.
  package var isKeyDescending = false
  /// Projected properties behind the key, where the caller orders by key.
  package var trailing: [Name] = []
  /// Of results with the same values of so many first orders only the first is given.
  package var distinctCount = 0
  package var form = Form.entity
  package var start: Position?
  /// Whether a result at the start counts.
  package var includesStart = false
  package var end: Position?
  package var includesEnd = true
  package var offset: Int
  package var limit: Int?
  /// Places that one entity may have among the results of a projection.
  private(set) var maximumPlaces: Int

  /// - Parameter isAggregated: Whether numbers are made of the results: then a property may be
  ///   projected though a filter fixes it for some of them.
  package init(
    _ query: Query, policy: Policy, isAggregated: Bool = false
  ) throws(GatewayError) {
    let validation = Validation(policy: policy)
    try validation.check(query.partition, allowsReserved: true)
    if query.offset < 0 { throw .invalid("Offset must be non-negative.") }
    if let limit = query.limit, limit < 0 { throw .invalid("Limit must be non-negative.") }
    try validation.check(
      orders: query.orders.count, projected: query.projection.count,
      distinct: query.distinctOn.count)
    self.maximumPlaces = policy.maximumIndexEntries
    self.source = Self.source(query)
    self.offset = query.offset
    self.limit = query.limit
    try self.setForm(query, longestName: policy.maximumNameBytes)
    let resolver = ConditionResolver(source: self.source, query: query, validation: validation)
    var terms: [Conjunction] = []
    for atoms in try DisjunctiveForm(query.condition, policy: policy).terms {
      let term = try resolver.conjunction(of: atoms)
      if !terms.contains(term) { terms.append(term) }
    }
    try self.checkUnordered(query)
    try self.add(query, terms, isAggregated: isAggregated)
    if self.source != .nothing { self.terms = terms.filter { !$0.isContradiction } }
    if let bound = try self.bound(of: query.start) {
      (self.start, self.includesStart) = (bound.position, bound.isInFront)
    }
    if let bound = try self.bound(of: query.end) {
      (self.end, self.includesEnd) = (bound.position, !bound.isInFront)
    }
  }

  private static func source(_ query: Query) -> Source {
    guard let kind = query.kind else { return .everyKind(query.partition) }
    if let metadata = MetadataKind(kind: kind) { return .metadata(metadata, query.partition) }
    if kind.isReserved { return .nothing }
    return .kind(CollectionName(partition: query.partition, kind: kind))
  }

  private mutating func setForm(_ query: Query, longestName: Int) throws(GatewayError) {
    if let kind = query.kind {
      if kind.isEmpty { throw .invalid("The kind is the empty string.") }
      if kind.byteCount > longestName {
        throw .invalid("The kind is \(kind.byteCount) bytes, longer than \(longestName) bytes.")
      }
    }
    for name in query.projection + query.distinctOn + query.orders.map(\.property)
    where name.isEmpty {
      throw .invalid("The property.name is the empty string.")
    }
    if Set(query.projection).count < query.projection.count {
      throw .invalid("Cannot project a property multiple times.")
    }
    if Set(query.distinctOn).count < query.distinctOn.count {
      throw .invalid("Cannot group by a property multiple times.")
    }
    if query.distinctOn.contains(Query.keyProperty) {
      throw .invalid("Group by is not supported for the property: __key__")
    }
    let projected = query.projection.filter { $0 != Query.keyProperty }
    if !projected.isEmpty {
      self.form = .projection(projected)
    } else if !query.projection.isEmpty {
      self.form = .key
    }
  }

  /// What cannot be asked where there is no index by properties.
  private func checkUnordered(_ query: Query) throws(GatewayError) {
    let others = query.projection.filter { $0 != Query.keyProperty } + query.distinctOn
    let isKeyAscending = query.orders.allSatisfy {
      $0.property == Query.keyProperty && !$0.isDescending
    }
    switch self.source {
    case .kind, .nothing: break
    case .everyKind:
      if let name = others.first { throw .invalid("kind is required for projection: \(name)") }
      if !isKeyAscending {
        throw .invalid("kind is required for all orders except __key__ ascending")
      }
    case .metadata:
      if !others.isEmpty { throw .invalid("Only comparison filters on __key__ supported") }
      if !isKeyAscending { throw .invalid("Only ascending order on __key__ supported") }
    }
  }

  /// An order by a property whose value a filter fixes orders nothing; inequalities and projected
  /// properties without an order get one, after the others; keys break ties, in the direction of
  /// the last order.
  private mutating func add(
    _ query: Query, _ terms: [Conjunction], isAggregated: Bool
  ) throws(GatewayError) {
    func isFixed(_ property: Name) -> Bool {
      let values = terms.map { $0.fixedValue(of: property) }
      return values.allSatisfy { $0 != nil && $0 == values[0] }
    }
    func hasEquality(_ property: Name) -> Bool {
      terms.contains { $0.fixedValue(of: property) != nil }
    }
    func isOrdered(_ property: Name) -> Bool {
      self.orders.contains { $0.property == property } || isFixed(property)
    }
    let distinct = query.distinctOn
    for name in distinct where hasEquality(name) {
      throw .invalid("Cannot use group by on a property with an equality filter.")
    }
    var projected: [Name] = []
    if case .projection(let names) = self.form { projected = names.sorted() }
    for name in projected where hasEquality(name) && !isAggregated {
      throw .invalid("Cannot use projection on a property with an equality filter.")
    }
    var isKeyOrdered = false
    for order in query.orders where !isKeyOrdered {
      self.isKeyDescending = order.isDescending
      if !distinct.contains(order.property),
        !distinct.allSatisfy({ name in self.orders.contains { $0.property == name } }),
        !isFixed(order.property)
      {
        throw .invalid(
          "All group by properties must be ordered before any non group by properties.")
      }
      isKeyOrdered = order.property == Query.keyProperty
      if !isKeyOrdered && !isOrdered(order.property) { self.orders.append(order) }
    }
    self.distinctCount = distinct.count
    if isKeyOrdered {
      self.trailing = projected.filter { !isOrdered($0) }
      return
    }
    let inequalities = Set(terms.flatMap { $0.ranges.map(\.property) }).sorted()
    // An inequality of keys orders by key, as one of a property does by that.
    let hasKeyInequality = query.condition?.hasKeyInequality ?? false
    for property in distinct + inequalities + (hasKeyInequality ? [] : projected)
    where !isOrdered(property) {
      self.orders.append(Query.Order(property, isDescending: self.isKeyDescending))
    }
    if hasKeyInequality { self.trailing = projected.filter { !isOrdered($0) } }
  }
}

extension ResolvedQuery {
  /// What a transaction depends on that has run the query.
  package var readScope: ReadScope {
    switch self.source {
    case .kind(let collection): .collection(collection)
    case .everyKind(let partition), .metadata(.kind, let partition),
      .metadata(.property, let partition):
      .prefix(CollectionName.prefix(of: partition))
    case .metadata(.namespace, let partition): .prefix(CollectionName.databasePrefix(of: partition))
    case .nothing: .prefix([])
    }
  }
}

/// The entities that a query might have found.
package enum ReadScope: Hashable, Sendable {
  case collection(CollectionName)
  /// All collections whose names begin so; none if it is empty.
  case prefix([UInt8])
}

/// Makes indexable terms of filters, and refuses filters that cannot be.
private struct ConditionResolver {
  var source: ResolvedQuery.Source
  var query: Query
  var validation: Validation

  func conjunction(of atoms: [DisjunctiveForm.Atom]) throws(GatewayError) -> Conjunction {
    var term = Conjunction()
    for atom in atoms {
      switch atom {
      case .filter(let filter):
        try self.add(filter.property, filter.comparison, filter.value, to: &term)
      case .isNotIn(let property, let values):
        for value in values { try self.add(property, .notEqual, value, to: &term) }
      case .hasAncestor(let key):
        try self.check(key)
        let path = key.pathBytes.bytes
        term.paths.narrow(.greaterThanOrEqual, path)
        // Names that go on with a zero byte have the same prefix, above all descendants.
        term.paths.narrow(.lessThan, path + [ByteOrder.element + 1])
      }
    }
    return term
  }

  private func add(
    _ property: Name, _ comparison: Query.Comparison, _ value: Value, to term: inout Conjunction
  ) throws(GatewayError) {
    if property.isEmpty { throw .invalid("The property.name is the empty string.") }
    if property == Query.keyProperty {
      guard case .key(let key) = value else {
        throw .invalid("__key__ filter value must be a Key, not a value of type \(value.typeName)")
      }
      try self.check(key)
      return term.paths.narrow(comparison, key.pathBytes.bytes)
    }
    switch self.source {
    case .kind, .nothing: break
    case .everyKind: throw .invalid("kind is required for filter: \(property)")
    case .metadata: throw .invalid("Only comparison filters on __key__ supported")
    }
    try self.validation.check(filterValue: value, of: property)
    if let bytes = value.orderedBytes { term.add(property, comparison, bytes) }
  }

  private func check(_ key: Key) throws(GatewayError) {
    try self.validation.check(key, .complete, allowsReserved: true)
    if key.partition != self.query.partition {
      throw .invalid("The key \(key) is not in the partition of the query.")
    }
  }
}
