import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

private func filter(
  _ property: Name, _ comparison: Query.Comparison, _ value: Value
) -> Query.Condition { .filter(Query.Filter(property, comparison, value)) }

private func isIn(_ property: Name, _ numbers: Int64...) -> Query.Condition {
  .isIn(property, numbers.map { .integer($0) })
}

/// What Google's emulators have, too.
private let tagged = [
  entity(key(1), [("t", array(.integer(1), .integer(5))), ("b", .integer(1))]),
  entity(key(2), [("t", array(.integer(3))), ("b", .integer(2))]),
  entity(key(3), [("t", array(.integer(2), .integer(4))), ("b", .integer(1))]),
  entity(key(5), [("t", array(.integer(0), .integer(9))), ("b", .integer(2))]),
  entity(key(6), [("b", .integer(9))]),
  entity(key(7), [("t", .null), ("b", .integer(1))]),
  entity(key(8), [("t", .string("s")), ("b", .integer(0))]),
  entity(key(9), [("t", .double(2.5))]),
]

@Suite struct Disjunctions {
  // What Google's emulator of Firestore in datastore mode answered to the same; where it gives an
  // entity once for each element of an array, the first time.
  @Test(arguments: [
    (query(filter("t", .notEqual, .integer(3))), [7, 5, 1, 3, 8, 9]),
    (query(filter("t", .notEqual, .null)), [5, 1, 3, 2, 8, 9]),
    (query(.isNotIn("t", [.integer(3), .integer(1)])), [7, 5, 3, 1, 8, 9]),
    (query(.isNotIn("t", [.integer(1), .integer(5)])), [7, 5, 3, 2, 8, 9]),
    (query(.isNotIn("t", [.null, .integer(3)])), [5, 1, 3, 8, 9]),
    (query(isIn("t", 1, 5, 3)), [1, 2]),
    (query(.isIn("t", [.null, .integer(3)])), [2, 7]),
    (
      query(.all([filter("t", .notEqual, .integer(3)), filter("t", .greaterThan, .integer(1))])),
      [3, 1, 5, 8, 9]
    ),
    (
      query(
        .all([filter("t", .greaterThan, .integer(2)), filter("b", .greaterThan, .integer(1))])),
      [2, 5]
    ),
    (
      query(
        .any([filter("t", .greaterThan, .integer(2)), filter("b", .greaterThan, .integer(1))])),
      [8, 3, 1, 5, 2]
    ),
    (
      query(.any([filter("t", .equal, .integer(1)), filter("b", .equal, .integer(2))])),
      [1, 2, 5]
    ),
    (
      query(.any([filter("t", .equal, .integer(1)), filter("b", .greaterThan, .integer(1))])),
      [1, 2, 5, 6]
    ),
    (query(.any([filter("t", .equal, .integer(3))])), [2]),
    (query(isIn("t", 1, 5, 3), [Order("t")]), [1, 2]),
    (query(isIn("t", 1, 5, 3), [Order("t", isDescending: true)]), [1, 2]),
    (
      query(filter("t", .notEqual, .integer(3)), [Order("t", isDescending: true)]),
      [9, 8, 5, 1, 3, 7]
    ),
    (query(.isIn("__key__", [.key(key(3)), .key(key(1))])), [1, 3]),
    (query(filter("__key__", .notEqual, .key(key(3)))), [1, 2, 5, 6, 7, 8, 9]),
    (query(.isNotIn("__key__", [.key(key(3)), .key(key(1))])), [2, 5, 6, 7, 8, 9]),
  ])
  func choicesAndExclusionsFindWhatGooglesDo(query: Query, expected: [Int64]) throws {
    for rows in [0, 1_000] {
      var policy = Policy()
      policy.sortedInMemoryRows = rows
      #expect(ids(try run(query, on: tagged, policy: policy)) == expected)
    }
    #expect(ids(ReferenceQuery.keys(of: query, in: tagged)) == expected)
  }

  @Test func conditionsNestAtWill() throws {
    let condition = Query.Condition.all([
      .any([.all([isIn("b", 1, 2), .any([isIn("t", 3), isIn("t", 4)])]), isIn("b", 9)]),
      .any([.any([.any([filter("b", .greaterThanOrEqual, .integer(1))])])]),
    ])
    #expect(ids(try run(query(condition), on: tagged)) == [3, 2, 6])
  }

  @Test func equalTermsAreOne() throws {
    let resolved = try ResolvedQuery(query(isIn("b", 1, 1, 1)), policy: Policy())
    #expect(resolved.terms.count == 1)
    #expect(resolved.orders.isEmpty)
  }

  @Test func anOrderThatEveryTermFixesAlikeIsNone() throws {
    let condition = Query.Condition.all([isIn("b", 1), isIn("t", 1, 2)])
    let resolved = try ResolvedQuery(
      query(condition, [Order("b", isDescending: true), Order("t")]), policy: Policy())
    #expect(resolved.orders == [Order("t")])
  }

  @Test func anExclusionLeavesTheRowsOfItsValueAlone() throws {
    let many = (1...500).map { entity(key($0), [("a", .integer($0 % 100 == 0 ? $0 : 7))]) }
    let resolved = try ResolvedQuery(
      query(filter("a", .notEqual, .integer(7))), policy: Policy())
    let batch = QueryRun(resolved, on: MemoryIndexes(many), policy: Policy()).batch()
    #expect(batch.results.count == 5)
    #expect(batch.scanned == 5)
  }

  /// As where a queue's oldest entries are all done.
  @Test func whatAnOrderHasLastIsFoundByItsEquality() throws {
    let many = (1...5_000).map { number in
      entity(key(number), [("done", .boolean(number <= 4_900)), ("t", .integer(number))])
    }
    var asked = query(filter("done", .equal, .boolean(false)), [Order("t")])
    asked.limit = 5
    var policy = Policy()
    policy.sortedInMemoryRows = 10
    policy.probesInVain = 200
    let resolved = try ResolvedQuery(asked, policy: policy)
    let batch = QueryRun(resolved, on: MemoryIndexes(many), policy: policy).batch()
    #expect(batch.results.map(\.position.path) == (4_901...4_905).map { key($0).pathBytes })
    #expect(batch.scanned == 300)
  }

  @Test func aLimitedChoiceReadsLittleOfEachTerm() throws {
    let many = (1...2_000).map { entity(key($0), [("a", .integer($0 % 4)), ("b", .integer($0))]) }
    var asked = query(isIn("a", 0, 1, 2), [Order("b")])
    asked.limit = 5
    var policy = Policy()
    policy.sortedInMemoryRows = 10
    let resolved = try ResolvedQuery(asked, policy: policy)
    let batch = QueryRun(resolved, on: MemoryIndexes(many), policy: policy).batch()
    #expect(batch.results.count == 5)
    // With those that are looked up among a term's rows in vain: three of four.
    #expect(batch.scanned < 3 * 4 * 3)
  }

  @Test func anEmbeddedEntitysPropertiesAreFound() throws {
    let inner = Value.entity([
      EntityProperty(name: "x", content: PropertyContent(.integer(4))),
      EntityProperty(name: "y", content: PropertyContent(.integer(5), isIndexed: false)),
    ])
    let entities = [entity(key(1), [("e", inner)]), entity(key(2), [("e", array(inner, inner))])]
    #expect(ids(try run(query(isIn("e.x", 4)), on: entities)) == [1, 2])
    #expect(ids(try run(query(isIn("e.y", 5)), on: entities)) == [])
    #expect(ids(try run(query(projecting: ["e.x"]), on: entities)) == [1, 2])
    #expect(ids(try run(query(projecting: ["e"]), on: entities)) == [])
  }
}

@Suite struct Projections {
  private static let pairs = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 1), (2, 1)].enumerated().map {
    entity(
      key(Int64($0.offset + 1)),
      [("a", .integer(Int64($0.element.0))), ("b", .integer(Int64($0.element.1)))])
  }

  // What the emulator of Firestore in datastore mode answered to the same.
  @Test(arguments: [
    (query(projecting: ["a", "b"], nil, [Order("a", isDescending: true)]), [4, 6, 3, 2, 5, 1]),
    (query(projecting: ["b"], nil, [Order("a", isDescending: true)]), [4, 6, 3, 2, 5, 1]),
    (
      query(projecting: ["b"], nil, [Order("a", isDescending: true), Order("__key__")]),
      [3, 4, 6, 1, 2, 5]
    ),
    (query(projecting: ["a"], nil, [Order("__key__")]), [1, 2, 3, 4, 5, 6]),
    (query(projecting: [], distinctOn: ["a"], nil, [Order("a", isDescending: true)]), [6, 5]),
    (
      query(
        projecting: ["a", "b"], distinctOn: ["a", "b"], nil, [Order("a", isDescending: true)]),
      [4, 6, 2, 5]
    ),
    (query(projecting: [], distinctOn: ["a"], filter("b", .greaterThan, .integer(1))), [2, 4]),
    (
      query(
        projecting: [], distinctOn: ["b"], filter("a", .equal, .integer(1)),
        [Order("b"), Order("__key__")]), [1, 2]
    ),
    (query(projecting: ["__key__"], distinctOn: ["b"]), [1, 2]),
    (query(projecting: ["__key__", "b"], distinctOn: ["b"]), [1, 2]),
  ])
  func resultsComeByWhatIsProjected(query: Query, expected: [Int64]) throws {
    #expect(ids(try run(query, on: Self.pairs)) == expected)
    #expect(ids(ReferenceQuery.keys(of: query, in: Self.pairs)) == expected)
  }

  @Test func anArrayGivesAResultForEachElement() throws {
    let found = try found(query(projecting: ["t"]), on: tagged)
    #expect(ids(found.map(\.key)) == [7, 5, 1, 3, 2, 3, 1, 5, 8, 9])
    #expect(found[2].values == [Value.integer(1).orderedBytes])
    let ranged = query(projecting: ["b"], filter("t", .greaterThan, .integer(1)))
    #expect(ids(try run(ranged, on: tagged)) == [3, 2, 3, 1, 5, 8])
    let behindKeys = query(projecting: ["t"], nil, [Order("__key__", isDescending: true)])
    #expect(ids(try run(behindKeys, on: tagged)) == [9, 8, 7, 5, 5, 3, 3, 2, 1, 1])
  }

  private static let lists = [[1, 3], [0], [0, 5], [1], [3], [3, 4]].enumerated().map {
    entity(
      key(Int64($0.offset + 1)),
      [("a", array(of: $0.element.map(Int64.init))), ("b", .integer(Int64($0.offset)))])
  }

  private static func array(of numbers: [Int64]) -> Value {
    .array(numbers.map { PropertyContent(.integer($0)) })
  }

  // What the emulator of Firestore in datastore mode answered to the same.
  @Test(arguments: [
    (query(projecting: [], distinctOn: ["a"]), [2, 1, 1, 6, 3]),
    (query(projecting: ["a"], distinctOn: ["a"]), [2, 1, 1, 6, 3]),
    (query(projecting: ["__key__"], distinctOn: ["a"]), [2, 1, 1, 6, 3]),
  ])
  func everyValueOfArraysIsAGroup(query: Query, expected: [Int64]) throws {
    for rows in [0, 1_000] {
      for size in 1...3 {
        var policy = Policy()
        policy.sortedInMemoryRows = rows
        policy.maximumBatchResults = size
        #expect(ids(try run(query, on: Self.lists, policy: policy)) == expected)
      }
    }
    #expect(ids(ReferenceQuery.keys(of: query, in: Self.lists)) == expected)
  }

  @Test func aDistinctQueryGoesOnBehindItsGroup() throws {
    let many = (1...90).map { entity(key($0), [("a", .integer($0 / 30)), ("b", .integer($0))]) }
    var policy = Policy()
    for size in 1...3 {
      policy.maximumBatchResults = size
      #expect(
        ids(try run(query(projecting: ["a"], distinctOn: ["a"]), on: many, policy: policy))
          == [1, 30, 60, 90])
    }
  }
}
