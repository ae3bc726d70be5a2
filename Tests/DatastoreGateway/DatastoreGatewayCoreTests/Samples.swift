import DatastoreGatewayCore
import Domain

let partition = PartitionID(project: "p")

func key(_ path: (Name, PathElement.Identity)...) -> Key {
  Key(partition: partition, path: path.map { PathElement(kind: $0.0, identity: $0.1) })
}

func key(_ id: Int64) -> Key { key(("K", .id(id))) }

func entity(_ key: Key, _ properties: [(Name, Value)]) -> Entity {
  Entity(
    key: key,
    properties: properties.map { EntityProperty(name: $0.0, content: PropertyContent($0.1)) })
}

/// An array of which each element is indexed.
func array(_ values: Value...) -> Value { .array(values.map { PropertyContent($0) }) }

/// Values of every class, each before the next.
let valuesInOrder: [Value] = [
  .null,
  .integer(.min), .integer(-1), .integer(0), .integer(1), .integer(255), .integer(256),
  .timestamp(Timestamp(microseconds: 257)), .integer(.max),
  .boolean(false), .boolean(true),
  .string(""), .blob([0]), .blob([0, 0]), .string("\0a"), .string("a"), .string("a\0"),
  .string("a\0b"), .string("aa"), .string("b"), .string("é"), .blob([0xFF]), .blob([0xFF, 0]),
  .double(-.infinity), .double(-1.5), .double(-.leastNonzeroMagnitude), .double(-0.0),
  .double(0.0), .double(.leastNonzeroMagnitude), .double(1.5), .double(.infinity), .double(.nan),
  .geoPoint(latitude: -90, longitude: 0), .geoPoint(latitude: 1, longitude: -2),
  .geoPoint(latitude: 1, longitude: 2),
  .key(key(("A", .id(1)))), .key(key(("A", .id(1)), ("A", .id(1)))), .key(key(("A", .id(2)))),
  .key(key(("A", .name("")))), .key(key(("A", .name("a")))),
  .key(key(("A", .name("a")), ("Z", .id(1)))), .key(key(("A", .name("a\0")))),
  .key(key(("AA", .id(-1)))), .key(key(("AA", .id(1)))),
]

/// Paths, each before the next.
let keysInOrder: [Key] = [
  key(("A", .id(.min))), key(("A", .id(-1))), key(("A", .id(1))),
  key(("A", .id(1)), ("A", .id(7))), key(("A", .id(1)), ("B", .name("x"))),
  key(("A", .id(1)), ("B", .name("x")), ("C", .id(1))), key(("A", .id(2))),
  key(("A", .id(.max))), key(("A", .name("a"))), key(("A", .name("a")), ("A", .id(1))),
  key(("A", .name("a\0"))), key(("A", .name("a\0b"))), key(("A", .name("ab"))),
  key(("A", .name("b"))), key(("A\0", .id(1))), key(("AB", .id(1))), key(("B", .id(1))),
]
