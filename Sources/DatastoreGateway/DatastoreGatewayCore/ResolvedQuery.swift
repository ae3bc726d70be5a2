/// A query in one normal form: what an entity must have, and the total order of results.
///
/// Results are ordered by one value for each of `orders`, then by key; a result's place in that
/// order is its ``Position``, which depends on nothing but the entity. So a cursor, which holds a
/// position, goes on at the right place whatever was written meanwhile.
package struct ResolvedQuery: Sendable {
  /// A value that an entity must have.
  package struct Equality: Hashable, Sendable {
    package var property: Name
    package var value: [UInt8]
  }

  /// A range that some value of a property must be in; the same value for both its ends.
  package struct Range: Hashable, Sendable {
    package var property: Name
    package var values: ByteRange
  }

  package var collection: CollectionName
  package var paths = ByteRange()
  /// Distinct, by property and value.
  package var equalities: [Equality] = []
  /// One for each property, by property.
  package var ranges: [Range] = []
  package var orders: [Query.Order] = []
  /// Whether results of the same values come by descending key.
  package var isKeyDescending = false
  /// Whether no entity can be a result.
  package var isContradiction = false
  package var start: Position?
  package var end: Position?
  package var isKeysOnly: Bool
  package var offset: Int
  package var limit: Int?

  package init(_ query: Query, policy: Policy) throws(GatewayError) {
    let validation = Validation(policy: policy)
    try validation.check(query.partition)
    if query.kind.isEmpty { throw .unsupported("a query without a kind") }
    if query.kind.isReserved { throw .unsupported("a query of the kind \"\(query.kind)\"") }
    if query.offset < 0 { throw .invalid("Offset must be non-negative.") }
    if let limit = query.limit, limit < 0 { throw .invalid("Limit must be non-negative.") }
    if query.filters.count > policy.maximumFilters {
      throw .invalid(
        "The query has \(query.filters.count) filters, more than \(policy.maximumFilters).")
    }
    self.collection = CollectionName(partition: query.partition, kind: query.kind)
    self.isKeysOnly = query.isKeysOnly
    self.offset = query.offset
    self.limit = query.limit
    if let ancestor = query.ancestor {
      try validation.check(ancestor, .complete)
      try Self.check(ancestor, isIn: query.partition)
      let path = ancestor.pathBytes.bytes
      self.paths.narrow(.greaterThanOrEqual, path)
      // Names that go on with a zero byte have the same prefix, above all descendants.
      self.paths.narrow(.lessThan, path + [ByteOrder.element + 1])
    }
    for filter in query.filters { try self.add(filter, query, validation) }
    self.equalities.sort {
      $0.property == $1.property
        ? ByteOrder.precedes($0.value, $1.value) : $0.property < $1.property
    }
    self.ranges.sort { $0.property < $1.property }
    self.isContradiction =
      self.paths.isEmpty || self.ranges.contains { $0.values.isEmpty }
    try self.add(query.orders)
    self.start = try self.position(of: query.start)
    self.end = try self.position(of: query.end)
  }

  private static func check(
    _ key: Key, isIn partition: PartitionID
  ) throws(GatewayError) {
    if key.partition != partition {
      throw .invalid("The key \(key) is not in the partition of the query.")
    }
  }

  private mutating func add(
    _ filter: Query.Filter, _ query: Query, _ validation: Validation
  ) throws(GatewayError) {
    if filter.property.isEmpty { throw .invalid("The property.name is the empty string.") }
    if filter.property == Query.keyProperty {
      guard case .key(let key) = filter.value else {
        throw .invalid(
          "__key__ filter value must be a Key, not a value of type \(filter.value.typeName)")
      }
      try validation.check(key, .complete)
      try Self.check(key, isIn: query.partition)
      return self.paths.narrow(filter.comparison, key.pathBytes.bytes)
    }
    try validation.check(filterValue: filter.value, of: filter.property)
    guard let value = filter.value.orderedBytes else { return }
    if filter.comparison == .equal {
      let equality = Equality(property: filter.property, value: value)
      if !self.equalities.contains(equality) { self.equalities.append(equality) }
      return
    }
    if let index = self.ranges.firstIndex(where: { $0.property == filter.property }) {
      self.ranges[index].values.narrow(filter.comparison, value)
    } else {
      var range = ByteRange()
      range.narrow(filter.comparison, value)
      self.ranges.append(Range(property: filter.property, values: range))
    }
  }

  /// An order by a property whose value a filter fixes orders nothing; inequalities without an
  /// order get one, after the others; keys break ties, in the direction of the last order.
  private mutating func add(_ orders: [Query.Order]) throws(GatewayError) {
    func isOrdered(_ property: Name) -> Bool {
      self.orders.contains { $0.property == property }
        || self.equalities.contains { $0.property == property }
    }
    for order in orders {
      if order.property.isEmpty { throw .invalid("The property.name is the empty string.") }
      self.isKeyDescending = order.isDescending
      if order.property == Query.keyProperty { return }
      if !isOrdered(order.property) { self.orders.append(order) }
    }
    for range in self.ranges where !isOrdered(range.property) {
      self.orders.append(Query.Order(range.property, isDescending: self.isKeyDescending))
    }
  }

  package func range(of property: Name) -> ByteRange? {
    self.ranges.first { $0.property == property }?.values
  }
}

/// A result's place in the order of a query's results.
package struct Position: Hashable, Sendable {
  /// One for each order of the query.
  package var values: [[UInt8]]
  package var path: PathBytes

  package init(values: [[UInt8]], path: PathBytes) {
    self.values = values
    self.path = path
  }
}

extension ResolvedQuery {
  /// Whether a result at `left` comes before one at `right`.
  package func precedes(_ left: Position, _ right: Position) -> Bool {
    for index in self.orders.indices {
      let (first, second) =
        self.orders[index].isDescending
        ? (right.values[index], left.values[index]) : (left.values[index], right.values[index])
      if first != second { return ByteOrder.precedes(first, second) }
    }
    return self.isKeyDescending ? right.path < left.path : left.path < right.path
  }

  /// Whether cursors leave this position in.
  func isBetweenCursors(_ position: Position) -> Bool {
    if let start = self.start, !self.precedes(start, position) { return false }
    if let end = self.end, self.precedes(end, position) { return false }
    return true
  }

  /// The place of an entity among the results, or `nil` if it is none.
  ///
  /// - Parameter entries: All of the entity's, as ``Entity/indexEntries`` gives them.
  package func position(of path: PathBytes, entries: [IndexEntry]) -> Position? {
    if self.isContradiction || !self.paths.contains(path.bytes) { return nil }
    for equality in self.equalities
    where !entries.contains(where: {
      $0.value == equality.value && $0.property == equality.property
    }) {
      return nil
    }
    for range in self.ranges
    where !entries.contains(where: {
      $0.property == range.property && range.values.contains($0.value)
    }) {
      return nil
    }
    var values: [[UInt8]] = []
    values.reserveCapacity(self.orders.count)
    for order in self.orders {
      let range = self.range(of: order.property)
      // Entries of a property are sorted: an entity stands at its first value in the order.
      func isCandidate(_ entry: IndexEntry) -> Bool {
        entry.property == order.property && range?.contains(entry.value) ?? true
      }
      let entry =
        order.isDescending
        ? entries.last(where: isCandidate) : entries.first(where: isCandidate)
      guard let entry else { return nil }
      values.append(entry.value)
    }
    return Position(values: values, path: path)
  }
}
