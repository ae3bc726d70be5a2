import DatastoreGatewayCore
import Domain

/// What a query's results are by definition: every entity is looked at, values are compared as
/// values. It shares nothing with the planner, the byte order or the indexes that it judges.
package enum ReferenceQuery {
  /// The results' keys in their order, before cursors, offset and limit.
  package static func results(of query: Query, in entities: [Entity]) -> [Key] {
    var ranges: [Name] = []
    for filter in query.filters
    where filter.comparison != .equal && filter.property != Query.keyProperty
      && !ranges.contains(filter.property)
    {
      ranges.append(filter.property)
    }
    let fixed = Set(query.filters.filter { $0.comparison == .equal }.map(\.property))
    var orders: [Query.Order] = []
    var isKeyDescending = false
    var isComplete = false
    for order in query.orders where !isComplete {
      isKeyDescending = order.isDescending
      isComplete = order.property == Query.keyProperty
      if !isComplete && !fixed.contains(order.property)
        && !orders.contains(where: { $0.property == order.property })
      {
        orders.append(order)
      }
    }
    for property in ranges.sorted()
    where !isComplete && !fixed.contains(property)
      && !orders.contains(where: { $0.property == property })
    {
      orders.append(Query.Order(property, isDescending: isKeyDescending))
    }
    var found: [(key: Key, values: [Value])] = []
    for entity in entities where Self.matches(entity, query, ranges: ranges) {
      let values = orders.compactMap { order in
        let candidates = Self.values(of: order.property, in: entity).filter {
          Self.isInRange($0, of: order.property, query)
        }.sorted { Self.compare($0, $1) < 0 }
        return order.isDescending ? candidates.last : candidates.first
      }
      if values.count == orders.count { found.append((entity.key, values)) }
    }
    found.sort { left, right in
      for (index, order) in orders.enumerated() {
        let comparison = Self.compare(left.values[index], right.values[index])
        if comparison != 0 { return (comparison < 0) != order.isDescending }
      }
      let comparison = Self.compare(left.key.path, right.key.path)
      return (comparison < 0) != isKeyDescending
    }
    return found.map(\.key)
  }

  private static func matches(_ entity: Entity, _ query: Query, ranges: [Name]) -> Bool {
    guard entity.key.partition == query.partition, entity.key.kind == query.kind else {
      return false
    }
    if let ancestor = query.ancestor, !entity.key.path.starts(with: ancestor.path) { return false }
    for filter in query.filters {
      if filter.property == Query.keyProperty {
        guard case .key(let key) = filter.value,
          Self.holds(Self.compare(entity.key.path, key.path), filter.comparison)
        else { return false }
      } else if filter.comparison == .equal {
        guard
          Self.values(of: filter.property, in: entity).contains(where: {
            Self.compare($0, filter.value) == 0
          })
        else { return false }
      }
    }
    // All inequalities of a property are about one and the same value.
    return ranges.allSatisfy { property in
      Self.values(of: property, in: entity).contains { Self.isInRange($0, of: property, query) }
    }
  }

  private static func isInRange(_ value: Value, of property: Name, _ query: Query) -> Bool {
    query.filters.allSatisfy {
      $0.property != property || $0.comparison == .equal
        || Self.holds(Self.compare(value, $0.value), $0.comparison)
    }
  }

  private static func holds(_ comparison: Int, _ wanted: Query.Comparison) -> Bool {
    switch wanted {
    case .equal: comparison == 0
    case .lessThan: comparison < 0
    case .lessThanOrEqual: comparison <= 0
    case .greaterThan: comparison > 0
    case .greaterThanOrEqual: comparison >= 0
    }
  }

  private static func values(of property: Name, in entity: Entity) -> [Value] {
    entity.properties.filter { $0.name == property && $0.content.isIndexed }.flatMap { property in
      guard case .array(let elements) = property.content.value else {
        return [property.content.value]
      }
      return elements.isEmpty ? [.null] : elements.filter(\.isIndexed).map(\.value)
    }
  }

  // MARK: - Comparing: below, at or above 0

  private static func compare<T: Comparable>(_ left: T, _ right: T) -> Int {
    left == right ? 0 : left < right ? -1 : 1
  }

  private static func compare<T>(
    _ left: [T], _ right: [T], by comparison: (T, T) -> Int
  ) -> Int {
    for (first, second) in zip(left, right) {
      let result = comparison(first, second)
      if result != 0 { return result }
    }
    return Self.compare(left.count, right.count)
  }

  private static func compare(_ left: Double, _ right: Double) -> Int {
    if left.isNaN || right.isNaN { return Self.compare(left.isNaN ? 1 : 0, right.isNaN ? 1 : 0) }
    if left == 0 && right == 0 {
      return Self.compare(left.sign == .minus ? 0 : 1, right.sign == .minus ? 0 : 1)
    }
    return Self.compare(left < right ? -1 : left > right ? 1 : 0, 0)
  }

  private static func compare(_ left: [PathElement], _ right: [PathElement]) -> Int {
    Self.compare(left, right) { first, second in
      let kinds = Self.compare(Array(first.kind.text.utf8), Array(second.kind.text.utf8)) {
        Self.compare($0, $1)
      }
      if kinds != 0 { return kinds }
      switch (first.identity, second.identity) {
      case (.id(let one), .id(let other)): return Self.compare(one, other)
      case (.name(let one), .name(let other)):
        return Self.compare(Array(one.text.utf8), Array(other.text.utf8)) { Self.compare($0, $1) }
      case (.id, _): return -1
      default: return 1
      }
    }
  }

  private static func number(_ value: Value) -> Int64? {
    switch value {
    case .integer(let number): number
    case .timestamp(let time): time.microseconds
    default: nil
    }
  }

  private static func bytes(_ value: Value) -> [UInt8]? {
    switch value {
    case .string(let text): Array(text.utf8)
    case .blob(let bytes): bytes
    default: nil
    }
  }

  private static func rank(_ value: Value) -> Int {
    switch value {
    case .null: 0
    case .integer, .timestamp: 1
    case .boolean: 2
    case .string, .blob: 3
    case .double: 4
    case .geoPoint: 5
    case .key: 6
    case .entity, .array: 7
    }
  }

  private static func compare(_ left: Value, _ right: Value) -> Int {
    if let one = Self.number(left), let other = Self.number(right) {
      return Self.compare(one, other)
    }
    if let one = Self.bytes(left), let other = Self.bytes(right) {
      return Self.compare(one, other) { Self.compare($0, $1) }
    }
    switch (left, right) {
    case (.boolean(let one), .boolean(let other)):
      return Self.compare(one ? 1 : 0, other ? 1 : 0)
    case (.double(let one), .double(let other)): return Self.compare(one, other)
    case (.geoPoint(let north, let east), .geoPoint(let otherNorth, let otherEast)):
      let latitudes = Self.compare(north, otherNorth)
      return latitudes != 0 ? latitudes : Self.compare(east, otherEast)
    case (.key(let one), .key(let other)): return Self.compare(one.path, other.path)
    default: return Self.compare(Self.rank(left), Self.rank(right))
    }
  }
}
