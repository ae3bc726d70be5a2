import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

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
    #expect(ids(ReferenceQuery.keys(of: query, in: entities)) == expected)
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
    #expect(ids(ReferenceQuery.keys(of: query, in: entities)) == expected)
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

  @Test func aBatchTellsWhatIsLeft() throws {
    let index = MemoryIndexes((1...5).map { entity(key($0), [("a", .integer(1))]) })
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
    let index = MemoryIndexes(
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
