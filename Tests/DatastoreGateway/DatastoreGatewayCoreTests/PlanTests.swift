import DatastoreGatewayCore
import Domain
import Testing

private func plan(
  _ query: Query, rows: [Name: Int] = [:], below ancestor: Int = 0, policy: Policy = Policy()
) throws -> Plan {
  let resolved = try ResolvedQuery(query, policy: policy)
  guard let term = resolved.terms.first else {
    return Plan(source: .nothing, isReversed: false, sorting: .none, needsEntity: false)
  }
  return Plan(resolved, term, policy: policy) { counted, limit in
    switch counted {
    case .equality(let equality): min(rows[equality.property] ?? 0, limit)
    case .range(let range): min(rows[range.property] ?? 0, limit)
    case .paths: min(ancestor, limit)
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

  /// Not all that the order's index has, of which few rows may be the ancestor's.
  @Test func fewChildrenOfAnAncestorAreReadAndSorted() throws {
    let few = try plan(
      query([], [Order("c")], ancestor: key(7)), rows: ["c": 1_000_000], below: 20)
    #expect(few == Plan(source: .kind, isReversed: false, sorting: .all, needsEntity: true))
    let inRange = try plan(
      query([self.aboveC], ancestor: key(7)), rows: ["c": 1_000_000], below: 20)
    #expect(inRange.source == .kind && inRange.sorting == .all)
    let many = try plan(query([], [Order("c")], ancestor: key(7)), below: 1_000_000)
    #expect(many.source == .order("c", probing: []))
    // The order's own index, as Google's servers tell it, where that has no more.
    let small = try plan(query([], [Order("c")], ancestor: key(7)), rows: ["c": 20], below: 20)
    #expect(small.source == .order("c", probing: []))
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

  @Test func aSmallRangeIsReadAndSortedByKey() throws {
    let byKey = query([self.aboveC], [Order(Query.keyProperty)])
    let small = try plan(byKey, rows: ["c": 9])
    #expect(
      small
        == Plan(source: .range("c"), isReversed: false, sorting: .all, needsEntity: true))
    #expect("\(small)" == "range of c, sorted, entities read")
    // So many that the first of them by key are found sooner among all entities.
    #expect(try plan(byKey, rows: ["c": 1_000_000]).source == .kind)
  }

  @Test func aSmallRangeGoesBeforeAnotherOrdersWholeIndex() throws {
    let asked = query([self.aboveC], [Order("a"), Order("c")])
    #expect(try plan(asked, rows: ["c": 9]).source == .range("c"))
    #expect(try plan(asked, rows: ["c": 1_000_000]).source == .order("a", probing: []))
  }

  @Test func aProjectionOfWhatIsScannedReadsNoEntity() throws {
    let one = try plan(query(projecting: ["a"]))
    #expect(
      one
        == Plan(
          source: .order("a", probing: []), isReversed: false, sorting: .none, needsEntity: false))
    #expect(try plan(query(projecting: ["a", "b"])).needsEntity)
  }

  @Test func aPlanIsTold() throws {
    let plan = try plan(
      query([self.equalA], [Order("c", isDescending: true)]), rows: ["a": 1_000_000])
    #expect("\(plan)" == "order c, probing a, descending")
  }
}
