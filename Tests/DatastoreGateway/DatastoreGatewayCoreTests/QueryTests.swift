import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

private typealias Filter = Query.Filter
private typealias Order = Query.Order

private func query(
  _ filters: [Query.Filter] = [], _ orders: [Query.Order] = [], ancestor: Key? = nil
) -> Query {
  Query(partition: partition, kind: "K", ancestor: ancestor, filters: filters, orders: orders)
}

/// All results, read in batches of which each goes on from the cursor of the one before.
private func run(
  _ query: Query, on entities: [Entity], policy: Policy = Policy()
) throws -> [Key] {
  let index = MemoryIndex(entities)
  var query = query
  var keys: [Key] = []
  while true {
    let resolved = try ResolvedQuery(query, policy: policy)
    let batch = QueryRun(resolved, on: index, policy: policy).batch()
    for result in batch.results {
      keys.append(Key(partition: partition, path: try result.position.path.elements()))
    }
    query.offset -= batch.skipped
    query.limit? -= batch.results.count
    guard batch.rest == .notFinished else { return keys }
    query.start = resolved.cursor(after: try #require(batch.endPosition))
  }
}

private func plan(
  _ query: Query, rows: [Name: Int] = [:], policy: Policy = Policy()
) throws -> Plan {
  Plan(try ResolvedQuery(query, policy: policy), policy: policy) { equality, limit in
    min(rows[equality.property] ?? 0, limit)
  }
}

private func ids(_ keys: [Key]) -> [Int64] {
  keys.compactMap { if case .id(let id)? = $0.path.last?.identity { id } else { nil } }
}

@Suite struct Queries {
  // What Google's emulators answered to the same.
  @Test(arguments: [
    (query([], [Order("t")]), [4, 5, 1, 3, 2]),
    (query([], [Order("t", isDescending: true)]), [5, 1, 3, 2, 4]),
    (query([Filter("t", .greaterThan, .integer(1))]), [3, 2, 1, 5]),
    (
      query([
        Filter("t", .greaterThanOrEqual, .integer(2)), Filter("t", .lessThanOrEqual, .integer(4)),
      ]), [3, 2]
    ),
    (
      query([Filter("t", .greaterThan, .integer(6)), Filter("t", .lessThan, .integer(8))]), []
    ),
    (query([Filter("t", .equal, .integer(1)), Filter("t", .equal, .integer(5))]), [1]),
    (query([Filter("t", .equal, .integer(5))], [Order("t")]), [1]),
    (query([Filter("t", .equal, .integer(0)), Filter("t", .greaterThan, .integer(5))]), [5]),
    (query([Filter("t", .equal, .null)]), [4]),
  ])
  func arraysAreFoundByTheirElements(query: Query, expected: [Int64]) throws {
    let entities = [
      entity(key(1), [("t", array(.integer(1), .integer(5)))]),
      entity(key(2), [("t", array(.integer(3)))]),
      entity(key(3), [("t", array(.integer(2), .integer(4)))]),
      entity(key(4), [("t", array())]),
      entity(key(5), [("t", array(.integer(0), .integer(9)))]),
    ]
    #expect(ids(try run(query, on: entities)) == expected)
    #expect(ids(ReferenceQuery.results(of: query, in: entities)) == expected)
  }

  @Test(arguments: [
    (query([], [Order("a")]), [1, 2, 3, 4, 5, 6, 7]),
    (query([], [Order("a", isDescending: true)]), [7, 6, 5, 4, 3, 2, 1]),
    (query([], [Order("a", isDescending: true), Order("b")]), [4, 6, 5, 7, 2, 1, 3]),
    (
      query([], [Order("a", isDescending: true), Order(Query.keyProperty)]), [4, 5, 6, 7, 1, 2, 3]
    ),
    (query([], [Order(Query.keyProperty, isDescending: true)]), [7, 6, 5, 4, 3, 2, 1]),
    (
      query([Filter("a", .greaterThan, .integer(0))], [Order("b", isDescending: true)]),
      [7, 5, 3, 1, 6, 4, 2]
    ),
    (query([Filter("a", .greaterThan, .integer(0))], [Order("b")]), [2, 4, 6, 1, 3, 5, 7]),
    (query([Filter("a", .equal, .integer(1))], [Order("a", isDescending: true)]), [3, 2, 1]),
    (query([Filter("a", .equal, .integer(1))], [Order("b", isDescending: true)]), [3, 1, 2]),
    (
      query([Filter("a", .greaterThan, .integer(0)), Filter("b", .greaterThan, .integer(0))]),
      [1, 3, 5, 7]
    ),
    (query([], [Order("zz")]), []),
  ])
  func tiesComeByKeyInTheDirectionOfTheLastOrder(query: Query, expected: [Int64]) throws {
    let entities = (1...7).map { (id: Int64) in
      entity(key(id), [("a", .integer(id < 4 ? 1 : 2)), ("b", .integer(id % 2))])
    }
    #expect(ids(try run(query, on: entities)) == expected)
    #expect(ids(ReferenceQuery.results(of: query, in: entities)) == expected)
  }

  @Test func anAncestorHasItselfAndThoseBelowIt() throws {
    let parent = key(("K", .name("a")))
    let below = key(("K", .name("a")), ("K", .id(5)))
    let entities = [
      parent, below, key(("K", .name("a\0"))), key(("K", .name("a\0")), ("K", .id(1))),
      key(("K", .name("ab"))), key(("K", .name("A"))),
    ].map { entity($0, []) }
    #expect(try run(query(ancestor: parent), on: entities) == [parent, below])
  }

  @Test(arguments: 0..<150)
  func resultsAreThoseOfTheDefinition(seed: UInt64) throws {
    var world = RandomEntities(seed: seed)
    var byKey: [Key: Entity] = [:]
    for _ in 0..<Int.random(in: 0...80, using: &world.random) {
      let entity = world.entity()
      byKey[entity.key] = entity
    }
    let entities = byKey.values.sorted { $0.key.pathBytes < $1.key.pathBytes }
    for _ in 0..<12 {
      let query = world.query()
      var policy = Policy()
      // Small bounds, so that batches end in the middle and both plans come about.
      policy.maximumBatchResults = Int.random(in: 1...6, using: &world.random)
      policy.sortedInMemoryRows = [0, 3, 1_000].randomElement(using: &world.random)!
      let expected = ReferenceQuery.results(of: query, in: entities)
      #expect(try run(query, on: entities, policy: policy) == expected, "\(query)")

      var part = query
      part.offset = Int.random(in: 0...8, using: &world.random)
      part.limit = Int.random(in: 0...8, using: &world.random)
      #expect(
        try run(part, on: entities, policy: policy)
          == Array(expected.dropFirst(part.offset).prefix(part.limit ?? 0)), "\(part)")
    }
  }

  @Test(arguments: 0..<50)
  func cursorsGoOnWhereTheyWereWhateverIsWritten(seed: UInt64) throws {
    var world = RandomEntities(seed: seed)
    var byKey: [Key: Entity] = [:]
    for _ in 0..<60 {
      let entity = world.entity()
      byKey[entity.key] = entity
    }
    let query = world.query()
    let before = Array(byKey.values)
    var first = query
    first.limit = 4
    let resolved = try ResolvedQuery(first, policy: Policy())
    let batch = QueryRun(resolved, on: MemoryIndex(before), policy: Policy()).batch()
    guard let position = batch.endPosition else { return }
    // Half of the entities go, the one at the cursor among them.
    for key in byKey.keys.sorted(by: { $0.pathBytes < $1.pathBytes })
    where key.pathBytes == position.path || Bool.random(using: &world.random) {
      byKey[key] = nil
    }
    let after = Array(byKey.values)
    var second = query
    second.start = resolved.cursor(after: position)
    let passed = Set(ReferenceQuery.results(of: query, in: before).prefix(batch.results.count))
    #expect(
      try run(second, on: after)
        == ReferenceQuery.results(of: query, in: after).filter { !passed.contains($0) })
    // And up to a cursor.
    var upTo = query
    upTo.end = resolved.cursor(after: position)
    #expect(
      try run(upTo, on: after)
        == ReferenceQuery.results(of: query, in: after).filter { passed.contains($0) })
  }

  @Test func aBatchTellsWhatIsLeft() throws {
    let index = MemoryIndex((1...5).map { entity(key($0), [("a", .integer(1))]) })
    func rest(_ query: Query, batch: Int = 100) throws -> QueryBatch<MemoryIndex.Stored> {
      var policy = Policy()
      policy.maximumBatchResults = batch
      return QueryRun(
        try ResolvedQuery(query, policy: policy), on: index, policy: policy
      ).batch()
    }
    var limited = query()
    limited.limit = 3
    #expect(try rest(query()).rest == .nothing)
    #expect(try rest(limited).rest == .afterLimit)
    #expect(try rest(query(), batch: 4).rest == .notFinished)
    limited.limit = 5
    #expect(try rest(limited).rest == .nothing)
    limited.limit = 0
    #expect(try rest(limited).rest == .afterLimit)
    limited.offset = 3
    #expect(try rest(limited).skipped == 3)
    var far = query()
    far.offset = 20
    let batch = try rest(far)
    #expect(batch.skipped == 5)
    #expect(batch.rest == .nothing)
    #expect(batch.skippedPosition?.path == key(5).pathBytes)
  }

  @Test func aCallThatNobodyWaitsForEndsEarly() throws {
    let index = MemoryIndex(
      (1...1_000).map { entity(key($0), [("a", .integer(1)), ("b", .integer($0))]) })
    let resolved = try ResolvedQuery(
      query([Filter("a", .greaterThan, .integer(5))]), policy: Policy())
    let other = try ResolvedQuery(query(), policy: Policy())
    for resolved in [resolved, other] {
      let batch = QueryRun(resolved, on: index, policy: Policy(), isCancelled: { true })
        .batch()
      #expect(batch.scanned <= 256)
    }
  }
}

@Suite struct Plans {
  private let equalA = Filter("a", .equal, .integer(1))
  private let equalB = Filter("b", .equal, .integer(1))
  private let aboveC = Filter("c", .greaterThan, .integer(1))

  @Test func aKindIsScannedByKey() throws {
    let plan = try plan(query([], [Order(Query.keyProperty, isDescending: true)]))
    #expect(
      plan == Plan(source: .kind, isReversed: true, sorting: .none, needsEntity: false))
  }

  @Test func oneKeyIsLookedUp() throws {
    let one = try plan(query([Filter(Query.keyProperty, .equal, .key(key(7)))]))
    #expect(one.source == .entity(key(7).pathBytes))
    #expect(!one.needsEntity)
    let both = try plan(query([self.equalA, Filter(Query.keyProperty, .equal, .key(key(7)))]))
    #expect(both.source == .entity(key(7).pathBytes))
    #expect(both.needsEntity)
  }

  @Test func equalitiesWithoutAnOrderAreMergedAndNoEntityIsRead() throws {
    let plan = try plan(query([self.equalA, self.equalB]), rows: ["a": 1_000_000, "b": 1_000_000])
    guard case .equalities(let equalities) = plan.source else {
      Issue.record("\(plan)")
      return
    }
    #expect(equalities.map(\.property) == ["a", "b"])
    #expect(plan.sorting == .none)
    #expect(!plan.needsEntity)
  }

  @Test func anInequalityScansItsIndex() throws {
    let plan = try plan(query([self.aboveC]))
    #expect(
      plan
        == Plan(
          source: .order("c", probing: []), isReversed: false, sorting: .none, needsEntity: false))
  }

  @Test func aLargeEqualityIsProbedFromTheOrdersIndex() throws {
    let plan = try plan(
      query([self.equalA], [Order("c", isDescending: true)]), rows: ["a": 1_000_000])
    guard case .order("c", let probed) = plan.source else {
      Issue.record("\(plan)")
      return
    }
    #expect(probed.map(\.property) == ["a"])
    #expect(plan.isReversed)
    #expect(plan.sorting == .none)
    #expect(!plan.needsEntity)
  }

  @Test func aSmallEqualityIsReadAndSorted() throws {
    let plan = try plan(
      query([self.equalA, self.equalB], [Order("c")]), rows: ["a": 5_000, "b": 9])
    guard case .equalities = plan.source else {
      Issue.record("\(plan)")
      return
    }
    #expect(plan.sorting == .all)
  }

  @Test func furtherOrdersAreSortedWithinTheFirst() throws {
    #expect(try plan(query([], [Order("a"), Order("b")])).sorting == .withinFirstValue)
    #expect(
      try plan(query([], [Order("a", isDescending: true), Order(Query.keyProperty)])).sorting
        == .withinFirstValue)
  }

  @Test(arguments: [
    [Filter("a", .greaterThan, .integer(5)), Filter("a", .lessThan, .integer(5))],
    [Filter("a", .greaterThan, .integer(5)), Filter("a", .lessThanOrEqual, .integer(5))],
    [
      Filter(Query.keyProperty, .greaterThan, .key(key(5))),
      Filter(Query.keyProperty, .lessThan, .key(key(5))),
    ],
  ])
  func aContradictionReadsNothing(filters: [Query.Filter]) throws {
    #expect(try plan(query(filters)).source == .nothing)
  }

  @Test func aPlanIsTold() throws {
    let plan = try plan(
      query([self.equalA], [Order("c", isDescending: true)]), rows: ["a": 1_000_000])
    #expect("\(plan)" == "order c, probing a, descending")
  }
}

@Suite struct QueryRefusals {
  struct Case: Sendable, CustomTestStringConvertible {
    var what: String
    var query: Query
    var isUnsupported = false

    var testDescription: String { self.what }
  }

  static let cases: [Case] = [
    Case(
      what: "no kind", query: Query(partition: partition, kind: ""), isUnsupported: true),
    Case(
      what: "metadata", query: Query(partition: partition, kind: "__kind__"), isUnsupported: true),
    Case(what: "no project", query: Query(partition: PartitionID(project: ""), kind: "K")),
    Case(what: "offset", query: Query(partition: partition, kind: "K", offset: -1)),
    Case(what: "limit", query: Query(partition: partition, kind: "K", limit: -1)),
    Case(what: "array", query: query([Filter("a", .equal, .array([]))])),
    Case(what: "entity", query: query([Filter("a", .equal, .entity([]))])),
    Case(
      what: "long value",
      query: query([Filter("a", .equal, .string(String(repeating: "x", count: 1_501)))])),
    Case(what: "number as key", query: query([Filter(Query.keyProperty, .equal, .integer(1))])),
    Case(
      what: "incomplete key",
      query: query([Filter(Query.keyProperty, .equal, .key(key(("K", .incomplete))))])),
    Case(
      what: "another partition's key",
      query: query([
        Filter(
          Query.keyProperty, .equal,
          .key(Key(partition: PartitionID(project: "q"), path: key(1).path)))
      ])),
    Case(what: "no property", query: query([Filter("", .equal, .integer(1))])),
    Case(what: "no order", query: query([], [Order("")])),
    Case(
      what: "101 filters",
      query: query(Array(repeating: Filter("a", .equal, .integer(1)), count: 101))),
  ]

  @Test(arguments: QueryRefusals.cases)
  func whatCannotBeAskedIsTold(example: Case) {
    do throws(GatewayError) {
      _ = try ResolvedQuery(example.query, policy: Policy())
      Issue.record("\(example.what) was taken")
    } catch {
      switch error {
      case .invalid: #expect(!example.isUnsupported, "\(error)")
      case .unsupported: #expect(example.isUnsupported, "\(error)")
      default: Issue.record("\(error)")
      }
    }
  }

  @Test func aCursorOfAnotherOrderIsRefused() throws {
    let ascending = try ResolvedQuery(query([], [Order("a")]), policy: Policy())
    let cursor = ascending.cursor(
      after: Position(values: [[0x10]], path: key(1).pathBytes))
    var same = query([], [Order("a")])
    same.start = cursor
    #expect(try ResolvedQuery(same, policy: Policy()).start?.path == key(1).pathBytes)
    var other = query([], [Order("a", isDescending: true)])
    other.start = cursor
    #expect(throws: GatewayError.invalid("cursor does not match query")) {
      try ResolvedQuery(other, policy: Policy())
    }
  }

  @Test func aDamagedCursorIsRefused() throws {
    let order = query([], [Order("a")])
    let whole = try ResolvedQuery(order, policy: Policy()).cursor(
      after: Position(values: [[0x10]], path: key(1).pathBytes))
    for count in 1..<whole.count {
      var part = order
      part.start = Array(whole.prefix(count))
      #expect(throws: GatewayError.self) { try ResolvedQuery(part, policy: Policy()) }
    }
    var longer = order
    longer.start = whole + [0]
    #expect(throws: GatewayError.self) { try ResolvedQuery(longer, policy: Policy()) }
  }
}
