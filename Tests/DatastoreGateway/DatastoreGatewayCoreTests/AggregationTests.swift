import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

private let smallPolicy: Policy = {
  var policy = Policy()
  policy.sortedInMemoryRows = 10
  return policy
}()

private func values(
  _ aggregations: AggregationQuery.Operation..., of numbers: [Value], limit: Int? = nil
) throws -> [String] {
  let entities = numbers.enumerated().map {
    entity(key(Int64($0.offset + 1)), [("a", $0.element)])
  }
  var asked = query()
  asked.limit = limit
  let resolved = try ResolvedAggregation(
    AggregationQuery(query: asked, aggregations: aggregations.map { .init($0) }),
    policy: Policy())
  return AggregationRun(resolved, on: MemoryIndexes(entities), policy: Policy()).result()
    .values.map { "\($0)" }
}

@Suite struct Aggregations {
  // What the emulator of Firestore in datastore mode answered to the same.
  @Test(
    arguments: [
      ([], "integer(0)", "null"),
      ([.string("x"), .null], "integer(0)", "null"),
      (
        [.integer(1), .double(2.5), .string("x"), array(.integer(1), .integer(2)), .null],
        "double(6.5)", "double(1.625)"
      ),
      ([array(.integer(2), .integer(2), .integer(3))], "integer(5)", "double(2.5)"),
      ([.integer(.max), .integer(1)], "double(9.223372036854775807e+18)", ""),
      ([.double(.nan), .integer(1)], "double(nan)", "double(nan)"),
      ([.integer(2), .double(2)], "double(4.0)", "double(2.0)"),
      (
        [.integer(1 << 62), .integer(1 << 62), .integer(-1 << 62), .integer(-1 << 62)],
        "integer(0)", "double(0.0)"
      ),
      ([.integer(.min), .integer(.min)], "double(-1.8446744073709552e+19)", ""),
      ([.integer(-3), .integer(-4)], "integer(-7)", "double(-3.5)"),
    ] as [([Value], String, String)])
  func sumsAndAveragesAreOfNumbers(numbers: [Value], sum: String, average: String) throws {
    let found = try values(.sum("a"), .average("a"), of: numbers)
    // Where digits are lost, the double that is nearest.
    if sum.contains("807e+18") {
      #expect(found[0] == "double(\(Double(Int64.max) + 1))")
    } else {
      #expect(found[0] == sum)
    }
    if !average.isEmpty { #expect(found[1] == average) }
  }

  @Test func countsStopWhereTheyMay() throws {
    let many = (1...50).map { Value.integer($0) }
    #expect(
      try values(.count(upTo: nil), .count(upTo: 3), .count(upTo: 100), of: many)
        == ["integer(50)", "integer(3)", "integer(50)"])
    #expect(
      try values(.count(upTo: nil), .sum("a"), of: many, limit: 2)
        == ["integer(2)", "integer(3)"])
    #expect(try values(.count(upTo: 0), of: many) == ["integer(0)"])
    let resolved = try ResolvedAggregation(
      AggregationQuery(query: query(), aggregations: [.init(.count(upTo: 3))]), policy: Policy())
    let entities = (1...50).map { entity(key($0), []) }
    let result = AggregationRun(resolved, on: MemoryIndexes(entities), policy: Policy()).result()
    #expect(result.scanned <= 4)
    #expect(result.loaded == 0)
  }

  @Test func aSumIsMadeOfIndexRowsAlone() throws {
    let entities = (1...500).map {
      entity(key($0), [("a", array(.integer($0), .double(0.5))), ("b", .integer(1))])
    }
    for asked in [query(), query([Filter("b", .equal, .integer(1))])] {
      let resolved = try ResolvedAggregation(
        AggregationQuery(query: asked, aggregations: [.init(.sum("a")), .init(.average("a"))]),
        policy: smallPolicy)
      let result = AggregationRun(
        resolved, on: MemoryIndexes(entities), policy: smallPolicy
      ).result()
      #expect(result.values.map { "\($0)" } == ["double(125500.0)", "double(125.5)"])
      #expect(result.loaded == 0)
    }
  }

  @Test func aTimestampIsItsMicroseconds() throws {
    let times = [Value.timestamp(Timestamp(microseconds: 5)), .integer(2)]
    #expect(
      try values(.sum("a"), .average("a"), of: times) == ["integer(7)", "double(3.5)"])
  }

  @Test(arguments: [false, true])
  func distinctValuesAreFoundByLeapingOverTheOthers(isDescending: Bool) throws {
    let entities = (0..<3_000).map { entity(key($0 + 1), [("a", .integer($0 % 3))]) }
    let asked = query(
      projecting: ["a"], distinctOn: ["a"], nil, [Order("a", isDescending: isDescending)])
    let resolved = try ResolvedQuery(asked, policy: Policy())
    let batch = QueryRun(resolved, on: MemoryIndexes(entities), policy: Policy()).batch()
    #expect(batch.results.count == 3)
    #expect(batch.rest == .nothing)
    #expect(batch.scanned < 100)
    #expect(batch.loaded == 0)
  }

  @Test func aCountOfManySortedResultsIsOfAll() throws {
    let many = (1...25_000).map { entity(key($0), [("a", .integer(1)), ("b", .integer($0 % 7))]) }
    var asked = query(.any([.filter(Filter("a", .equal, .integer(1)))]), [Order("a"), Order("b")])
    asked.offset = 1
    var policy = Policy()
    policy.sortedInMemoryRows = 100_000
    let resolved = try ResolvedAggregation(
      AggregationQuery(query: asked, aggregations: [.init(.count(upTo: nil))]), policy: policy)
    let result = AggregationRun(resolved, on: MemoryIndexes(many), policy: policy).result()
    #expect(result.values.map { "\($0)" } == ["integer(24999)"])
  }

  @Test func namesAreGivenWhereThereAreNone() throws {
    let resolved = try ResolvedAggregation(
      AggregationQuery(
        query: query(),
        aggregations: [
          .init(.count(upTo: nil), alias: "n"), .init(.sum("a")), .init(.average("a")),
        ]), policy: Policy())
    #expect(resolved.aggregations.map(\.alias) == ["n", "property_1", "property_2"])
  }

  static let refused: [(query: Query, aggregations: [AggregationQuery.Aggregation])] = [
    (query(), []),
    (query(), Array(repeating: .init(.count(upTo: nil)), count: 6)),
    (query(), [.init(.count(upTo: -1))]),
    (query(), [.init(.sum(""))]),
    (query(), [.init(.sum("__key__"))]),
    (query(), [.init(.average("__a__"))]),
    (query(), [.init(.count(upTo: nil), alias: "x"), .init(.sum("a"), alias: "x")]),
    (query(), [.init(.count(upTo: nil), alias: "property_1"), .init(.sum("a"))]),
    (query(), [.init(.count(upTo: nil), alias: "__x__")]),
    (query(projecting: ["__key__"]), [.init(.sum("a"))]),
    (Query(partition: partition, kind: "__kind__"), [.init(.count(upTo: nil))]),
  ]

  @Test(arguments: refused.indices)
  func whatCannotBeAggregatedIsTold(number: Int) {
    let (query, aggregations) = Self.refused[number]
    #expect(throws: GatewayError.self) {
      try ResolvedAggregation(
        AggregationQuery(query: query, aggregations: aggregations), policy: Policy())
    }
  }
}
