import DatastoreGatewayCore

/// What a query's results are by definition: every entity is looked at, values are compared as
/// values. It shares nothing with the planner, the byte order or the indexes that it judges.
package struct ReferenceQuery {
  /// One result.
  package struct Result {
    package var key: Key
    /// Of the projected properties, in the order in which the query names them.
    package var values: [Value]
    /// What orders it: a value for each order, then for each property behind the key.
    package var place: [Value]
    /// Of the entity that it comes from.
    package var entity: Entity
  }

  /// Filters that hold together.
  private struct Term {
    var filters: [Query.Filter] = []
    var exclusions: [(property: Name, value: Value)] = []
    var ancestor: Key?

    /// All inequalities of a property are about one and the same value.
    func isInRange(_ value: Value, of property: Name) -> Bool {
      self.filters.allSatisfy {
        $0.property != property || $0.comparison == .equal
          || ReferenceQuery.holds(ReferenceOrder.compare(value, $0.value), $0.comparison)
      }
        && self.exclusions.allSatisfy {
          $0.property != property || ReferenceOrder.compare(value, $0.value) != 0
        }
    }

    func fixedValue(of property: Name) -> Value? {
      self.filters.filter { $0.property == property && $0.comparison == .equal }.map(\.value)
        .min { ReferenceOrder.compare($0, $1) < 0 }
    }

    /// Otherwise than for equality.
    var comparesKeys: Bool {
      self.filters.contains { $0.property == Query.keyProperty && $0.comparison != .equal }
        || self.exclusions.contains { $0.property == Query.keyProperty }
    }

    var inequalities: Set<Name> {
      Set(self.filters.filter { $0.comparison != .equal }.map(\.property))
        .union(self.exclusions.map(\.property)).subtracting([Query.keyProperty])
    }
  }

  private struct Place {
    var values: [Value]
    var key: Key
  }

  private let query: Query
  private var terms: [Term]
  private var orders: [Query.Order] = []
  private var trailing: [Name] = []
  private var isKeyDescending = false
  private var projected: [Name]

  /// All results in their order, before cursors, offset and limit.
  package static func results(of query: Query, in entities: [Entity]) -> [Result] {
    Self(query).results(in: entities)
  }

  /// Their keys.
  package static func keys(of query: Query, in entities: [Entity]) -> [Key] {
    self.results(of: query, in: entities).map(\.key)
  }

  private init(_ query: Query) {
    self.query = query
    self.terms = query.condition.map(Self.terms) ?? [Term()]
    self.projected = query.projection.filter { $0 != Query.keyProperty }
    var isComplete = false
    for order in query.orders where !isComplete {
      self.isKeyDescending = order.isDescending
      isComplete = order.property == Query.keyProperty
      if !isComplete { self.add(order) }
    }
    if isComplete {
      self.trailing = self.projected.sorted().filter { !self.isOrdered($0) }
    } else {
      let inequalities = Set(self.terms.flatMap(\.inequalities)).sorted()
      let areKeysCompared = self.terms.contains(where: \.comparesKeys)
      for property in query.distinctOn + inequalities
        + (areKeysCompared ? [] : self.projected.sorted())
      {
        self.add(Query.Order(property, isDescending: self.isKeyDescending))
      }
      if areKeysCompared {
        self.trailing = self.projected.sorted().filter { !self.isOrdered($0) }
      }
    }
  }

  private static func terms(of condition: Query.Condition) -> [Term] {
    switch condition {
    case .filter(let filter): return [Term(filters: [filter])]
    case .isIn(let property, let values):
      return values.map { Term(filters: [Query.Filter(property, .equal, $0)]) }
    case .isNotIn(let property, let values):
      return [Term(exclusions: values.map { (property, $0) })]
    case .hasAncestor(let key): return [Term(ancestor: key)]
    case .any(let parts): return parts.flatMap(Self.terms)
    case .all(let parts):
      return parts.reduce([Term()]) { terms, part in
        terms.flatMap { left in
          Self.terms(of: part).map { right in
            Term(
              filters: left.filters + right.filters,
              exclusions: left.exclusions + right.exclusions,
              ancestor: left.ancestor ?? right.ancestor)
          }
        }
      }
    }
  }

  /// A property that every term fixes to the same value orders nothing.
  private func isOrdered(_ property: Name) -> Bool {
    if self.orders.contains(where: { $0.property == property }) { return true }
    guard let first = self.terms[0].fixedValue(of: property) else { return false }
    return self.terms.allSatisfy { term in
      term.fixedValue(of: property).map { ReferenceOrder.compare($0, first) == 0 } ?? false
    }
  }

  private mutating func add(_ order: Query.Order) {
    if !self.isOrdered(order.property) { self.orders.append(order) }
  }

  private func results(in entities: [Entity]) -> [Result] {
    var found: [(place: Place, entity: Entity)] = []
    for entity in entities
    where entity.key.partition == self.query.partition
      && (self.query.kind ?? entity.key.kind) == entity.key.kind
    {
      var places = self.terms.flatMap { self.places(of: entity, in: $0) }
      places.sort { self.precedes($0, $1) }
      if self.projected.isEmpty && self.query.distinctOn.isEmpty {
        places = Array(places.prefix(1))
      }
      for place in places {
        let isSame = found.last.map {
          $0.entity.key == entity.key && !self.precedes($0.place, place)
        }
        if isSame != true { found.append((place, entity)) }
      }
    }
    found.sort { self.precedes($0.place, $1.place) }
    let properties = self.orders.map(\.property) + self.trailing
    var results: [Result] = []
    var lastGroup: [Value]?
    for (place, entity) in found {
      if !self.query.distinctOn.isEmpty {
        let group = Array(place.values.prefix(Set(self.query.distinctOn).count))
        defer { lastGroup = group }
        if let lastGroup,
          zip(lastGroup, group).allSatisfy({ ReferenceOrder.compare($0, $1) == 0 })
        {
          continue
        }
      }
      results.append(
        Result(
          key: entity.key,
          values: self.projected.map { place.values[properties.firstIndex(of: $0)!] },
          place: place.values, entity: entity))
    }
    return results
  }

  /// Where a term puts an entity: at one value of each order, or at each of those that are projected
  /// or distinct.
  private func places(of entity: Entity, in term: Term) -> [Place] {
    if !Self.matches(entity, term) { return [] }
    var combinations: [[Value]] = [[]]
    let directions = self.orders + self.trailing.map { Query.Order($0) }
    for order in directions {
      var values = Self.values(of: order.property, in: entity).filter {
        term.isInRange($0, of: order.property)
      }
      if let fixed = term.fixedValue(of: order.property) { values = [fixed] }
      values.sort { ReferenceOrder.compare($0, $1) < 0 }
      if self.projected.isEmpty && !self.query.distinctOn.contains(order.property) {
        values = order.isDescending ? values.suffix(1) : Array(values.prefix(1))
      }
      combinations = combinations.flatMap { combination in values.map { combination + [$0] } }
    }
    return combinations.map { Place(values: $0, key: entity.key) }
  }

  private func precedes(_ left: Place, _ right: Place) -> Bool {
    for (index, order) in self.orders.enumerated() {
      let comparison = ReferenceOrder.compare(left.values[index], right.values[index])
      if comparison != 0 { return (comparison < 0) != order.isDescending }
    }
    let comparison = ReferenceOrder.compare(left.key.path, right.key.path)
    if comparison != 0 { return (comparison < 0) != self.isKeyDescending }
    for index in self.trailing.indices {
      let place = self.orders.count + index
      let comparison = ReferenceOrder.compare(left.values[place], right.values[place])
      if comparison != 0 { return comparison < 0 }
    }
    return false
  }

  private static func matches(_ entity: Entity, _ term: Term) -> Bool {
    if let ancestor = term.ancestor, !entity.key.path.starts(with: ancestor.path) { return false }
    for exclusion in term.exclusions where exclusion.property == Query.keyProperty {
      if case .key(let key) = exclusion.value, key.path == entity.key.path { return false }
    }
    for filter in term.filters {
      if filter.property == Query.keyProperty {
        guard case .key(let key) = filter.value,
          Self.holds(ReferenceOrder.compare(entity.key.path, key.path), filter.comparison)
        else { return false }
      } else if filter.comparison == .equal {
        guard
          Self.values(of: filter.property, in: entity).contains(where: {
            ReferenceOrder.compare($0, filter.value) == 0
          })
        else { return false }
      }
    }
    return term.inequalities.allSatisfy { property in
      Self.values(of: property, in: entity).contains { term.isInRange($0, of: property) }
    }
  }

  private static func holds(_ comparison: Int, _ wanted: Query.Comparison) -> Bool {
    switch wanted {
    case .equal: comparison == 0
    case .lessThan: comparison < 0
    case .lessThanOrEqual: comparison <= 0
    case .greaterThan: comparison > 0
    case .greaterThanOrEqual: comparison >= 0
    case .notEqual: comparison != 0
    }
  }

  private static func values(of property: Name, in entity: Entity) -> [Value] {
    entity.properties.flatMap { Self.values(of: property, named: $0.name, $0.content) }
  }

  private static func values(
    of property: Name, named name: Name, _ content: PropertyContent
  ) -> [Value] {
    if !content.isIndexed { return [] }
    switch content.value {
    case .array(let elements):
      if elements.isEmpty { return name == property ? [.null] : [] }
      return elements.flatMap { Self.values(of: property, named: name, $0) }
    case .entity(let inner):
      return inner.flatMap {
        Self.values(of: property, named: Name("\(name).\($0.name)"), $0.content)
      }
    case let value: return name == property ? [value] : []
    }
  }
}
