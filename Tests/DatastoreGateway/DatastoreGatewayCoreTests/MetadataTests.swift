import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

private func key(in namespace: Name, _ path: (Name, PathElement.Identity)...) -> Key {
  Key(
    partition: PartitionID(project: "p", namespace: namespace),
    path: path.map { PathElement(kind: $0.0, identity: $0.1) })
}

private let entities = [
  entity(key(in: "", ("B", .id(1))), [("y", .double(1.5)), ("z", .integer(1))]),
  entity(key(in: "", ("C", .id(1))), [("x", array(.integer(1), .string("s")))]),
  entity(key(in: "", ("D", .id(1)), ("C", .name("n"))), [("x", .null)]),
  entity(key(in: "", ("D", .id(1))), [("g", .geoPoint(latitude: 1, longitude: 2))]),
  entity(key(in: "n", ("N", .id(1))), [("k", .key(DatastoreGatewayCoreTests.key(1)))]),
  entity(key(in: "o", ("N", .id(1))), [("k", .boolean(true))]),
]

private func texts(_ query: Query) throws -> [String] {
  try run(query, on: entities).map(\.description)
}

@Suite struct MetadataQueries {
  @Test func kindsAreThoseOfTheNamespace() throws {
    var query = Query(partition: partition, kind: "__kind__")
    #expect(
      try texts(query) == ["__kind__:\"B\"", "__kind__:\"C\"", "__kind__:\"D\""])
    query.offset = 1
    query.limit = 1
    #expect(try texts(query) == ["__kind__:\"C\""])
    query = Query(
      partition: partition, kind: "__kind__",
      condition: .all([
        .filter(
          Filter("__key__", .greaterThanOrEqual, .key(key(in: "", ("__kind__", .name("C")))))),
        .filter(Filter("__key__", .lessThan, .key(key(in: "", ("__kind__", .name("D")))))),
      ]))
    #expect(try texts(query) == ["__kind__:\"C\""])
    query = Query(partition: PartitionID(project: "p", namespace: "n"), kind: "__kind__")
    #expect(try texts(query) == ["__kind__:\"N\""])
  }

  @Test func namespacesAreThoseOfTheDatabase() throws {
    let query = Query(partition: partition, kind: "__namespace__")
    #expect(
      try texts(query) == ["__namespace__:1", "__namespace__:\"n\"", "__namespace__:\"o\""])
    var policy = Policy()
    policy.maximumBatchResults = 1
    #expect(try run(query, on: entities, policy: policy).count == 3)
  }

  @Test func propertiesHaveTheirTypes() throws {
    let query = Query(partition: partition, kind: "__property__")
    let batch = QueryRun(
      try ResolvedQuery(query, policy: Policy()), on: MemoryIndexes(entities), policy: Policy()
    ).batch()
    let found = try batch.results.map { result in
      let names = try result.position.path.elements().map { element in
        if case .name(let name) = element.identity { name.text } else { "?" }
      }
      guard case .array(let types)? = result.properties.first?.content.value else { return "?" }
      let told = types.map { if case .string(let type) = $0.value { type } else { "?" } }
      return "\(names.joined(separator: ".")) \(told.joined(separator: " "))"
    }
    #expect(
      found == ["B.y DOUBLE", "B.z INT64", "C.x INT64 NULL STRING", "D.g POINT"])
  }

  @Test func aReservedKindIsEmpty() throws {
    #expect(try texts(Query(partition: partition, kind: "__Stat_Total__")) == [])
  }

  @Test func everyKindComesByKey() throws {
    let everything = Query(partition: partition, kind: nil)
    #expect(try texts(everything) == ["B:1", "C:1", "D:1", "D:1/C:\"n\""])
    var below = everything
    below.condition = .hasAncestor(key(in: "", ("D", .id(1))))
    #expect(try texts(below) == ["D:1", "D:1/C:\"n\""])
    var policy = Policy()
    policy.maximumBatchResults = 1
    #expect(try run(everything, on: entities, policy: policy).count == 4)
  }
}
