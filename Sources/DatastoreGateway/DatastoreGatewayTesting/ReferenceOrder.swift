import DatastoreGatewayCore
import Domain

/// Compares values as values: the answer is below, at or above 0.
enum ReferenceOrder {
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

  static func compare(_ left: [PathElement], _ right: [PathElement]) -> Int {
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

  static func compare(_ left: Value, _ right: Value) -> Int {
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
