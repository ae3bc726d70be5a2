import Domain

/// What a property holds.
package indirect enum Value: Sendable {
  case null
  case boolean(Bool)
  case integer(Int64)
  case double(Double)
  case timestamp(Timestamp)
  case key(Key)
  case string(String)
  case blob([UInt8])
  case geoPoint(latitude: Double, longitude: Double)
  /// An entity inside an entity: its properties are indexed as `outer.inner`.
  case entity([EntityProperty])
  /// Each element is indexed by itself.
  case array([PropertyContent])
}

/// A value, and whether queries find it.
package struct PropertyContent: Sendable {
  package var value: Value
  package var isIndexed: Bool

  package init(_ value: Value, isIndexed: Bool = true) {
    self.value = value
    self.isIndexed = isIndexed
  }
}

/// One property of an entity.
package struct EntityProperty: Sendable {
  package var name: Name
  package var content: PropertyContent

  package init(name: Name, content: PropertyContent) {
    self.name = name
    self.content = content
  }
}

/// A record: a key and properties.
package struct Entity: Sendable {
  package var key: Key
  package var properties: [EntityProperty]

  package init(key: Key, properties: [EntityProperty]) {
    self.key = key
    self.properties = properties
  }
}

extension Value {
  /// The classes of values in the order in which they sort. Values of one class are compared with
  /// each other, whatever their types.
  package enum OrderClass: UInt8, Comparable, Sendable, CaseIterable {
    case null = 0x10
    /// Integers and timestamps (as microseconds).
    case number = 0x20
    case boolean = 0x30
    /// Strings and blobs, by their bytes.
    case bytes = 0x40
    /// NaN is the greatest; -0 is before 0.
    case double = 0x50
    case geoPoint = 0x60
    case key = 0x70

    package static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
  }

  /// `nil` for entities and arrays, which have no place in the order themselves.
  package var orderClass: OrderClass? {
    switch self {
    case .null: .null
    case .integer, .timestamp: .number
    case .boolean: .boolean
    case .string, .blob: .bytes
    case .double: .double
    case .geoPoint: .geoPoint
    case .key: .key
    case .entity, .array: nil
    }
  }

  /// What messages call its type.
  package var typeName: String {
    switch self {
    case .null: "null"
    case .integer: "integer"
    case .timestamp: "timestamp"
    case .boolean: "boolean"
    case .string: "string"
    case .blob: "blob"
    case .double: "double"
    case .geoPoint: "geo point"
    case .key: "key"
    case .entity: "entity"
    case .array: "array"
    }
  }
}
