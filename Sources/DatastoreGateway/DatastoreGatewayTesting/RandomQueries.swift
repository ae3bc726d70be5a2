import DatastoreGatewayCore

/// Queries of every shape over ``RandomEntities``; most of them find something.
extension RandomEntities {
  /// A query that may ask anything that is supported.
  package mutating func query() -> Query {
    if self.isLucky(1, of: 12) { return self.kindlessQuery() }
    var query = Query(partition: self.partition, kind: "K")
    let exclusion = self.isLucky(1, of: 5) ? self.exclusion() : nil
    var parts = exclusion.map { [$0] } ?? []
    for _ in 0..<[0, 0, 1, 1, 1, 2, 2].randomElement(using: &self.random)! {
      // NOT_IN stands beside no choice.
      parts.append(self.condition(depth: exclusion == nil ? 3 : 0))
    }
    if self.isLucky(1, of: 6) { parts.append(.hasAncestor(self.ancestor)) }
    parts.shuffle(using: &self.random)
    if !parts.isEmpty { query.condition = parts.count == 1 ? parts[0] : .all(parts) }
    for _ in 0..<[0, 0, 1, 1, 2, 3].randomElement(using: &self.random)! {
      query.orders.append(self.order())
    }
    switch Int.random(in: 0..<8, using: &self.random) {
    case 0, 1: query.projection = [Query.keyProperty]
    case 2, 3: self.addProjection(to: &query)
    case 4: self.addDistinct(to: &query)
    default: break
    }
    return query
  }

  private var ancestor: Key {
    Key(partition: self.partition, path: [PathElement(kind: "P", identity: .id(1))])
  }

  private mutating func kindlessQuery() -> Query {
    var query = Query(partition: self.partition, kind: nil)
    var parts: [Query.Condition] = []
    if self.isLucky(1, of: 3) { parts.append(.hasAncestor(self.ancestor)) }
    if self.isLucky(1, of: 2) { parts.append(self.keyFilter()) }
    if !parts.isEmpty { query.condition = .all(parts) }
    if self.isLucky(1, of: 2) { query.orders = [Query.Order(Query.keyProperty)] }
    return query
  }

  private mutating func property() -> Name {
    self.isLucky(1, of: 10) ? "a.x" : Self.properties.randomElement(using: &self.random)!
  }

  private mutating func order() -> Query.Order {
    let property = self.isLucky(1, of: 8) ? Query.keyProperty : self.property()
    return Query.Order(property, isDescending: Bool.random(using: &self.random))
  }

  private mutating func exclusion() -> Query.Condition {
    if self.isLucky(1, of: 2) {
      return .filter(Query.Filter(self.property(), .notEqual, self.scalar()))
    }
    return .isNotIn(
      self.property(), (0..<Int.random(in: 1...4, using: &self.random)).map { _ in self.scalar() })
  }

  private mutating func condition(depth: Int) -> Query.Condition {
    let choice = depth == 0 ? 9 : Int.random(in: 0..<10, using: &self.random)
    let count = Int.random(in: 1...3, using: &self.random)
    switch choice {
    case 0: return .all((0..<count).map { _ in self.condition(depth: depth - 1) })
    case 1, 2: return .any((0..<count).map { _ in self.condition(depth: depth - 1) })
    case 3: return .isIn(self.property(), (0..<count).map { _ in self.scalar() })
    default: return self.isLucky(1, of: 8) ? self.keyFilter() : .filter(self.filter())
    }
  }

  private mutating func keyFilter() -> Query.Condition {
    if self.isLucky(1, of: 4) {
      return .isIn(Query.keyProperty, [.key(self.key()), .key(self.key())])
    }
    return .filter(Query.Filter(Query.keyProperty, self.comparison(), .key(self.key())))
  }

  private mutating func comparison() -> Query.Comparison {
    let inequalities: [Query.Comparison] = [
      .lessThan, .lessThanOrEqual, .greaterThan, .greaterThanOrEqual,
    ]
    return self.isLucky(1, of: 2) ? .equal : inequalities.randomElement(using: &self.random)!
  }

  private mutating func filter() -> Query.Filter {
    Query.Filter(self.property(), self.comparison(), self.scalar())
  }

  private mutating func addProjection(to query: inout Query) {
    query.projection = [self.property()]
    if self.isLucky(1, of: 3) {
      let other = self.property()
      if other != query.projection[0] { query.projection.append(other) }
    }
    if self.isLucky(1, of: 4) { self.addDistinct(to: &query) }
  }

  private mutating func addDistinct(to query: inout Query) {
    query.distinctOn = [self.property()]
    if !query.orders.isEmpty { query.orders[0].property = query.distinctOn[0] }
  }
}
