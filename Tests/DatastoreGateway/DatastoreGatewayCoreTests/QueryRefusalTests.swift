import DatastoreGatewayCore
import Domain
import Testing

@Suite struct QueryRefusals {
  struct Case: Sendable, CustomTestStringConvertible {
    var what: String
    var query: Query

    var testDescription: String { self.what }
  }

  static let cases: [Case] = [
    Case(what: "no kind's name", query: Query(partition: partition, kind: "")),
    Case(
      what: "a long kind",
      query: Query(partition: partition, kind: Name(String(repeating: "x", count: 1_501)))),
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
    Case(
      what: "101 orders", query: query([], (0...100).map { Order(Name("p\($0)")) })),
    Case(
      what: "101 projected properties",
      query: Query(partition: partition, kind: "K", projection: (0...100).map { Name("p\($0)") })),
    Case(what: "empty AND", query: query(.all([]))),
    Case(what: "empty OR", query: query(.any([]))),
    Case(what: "empty IN", query: query(.isIn("a", []))),
    Case(what: "empty NOT_IN", query: query(.isNotIn("a", []))),
    Case(what: "31 in IN", query: query(.isIn("a", (0..<31).map { .integer($0) }))),
    Case(what: "11 in NOT_IN", query: query(.isNotIn("a", (0..<11).map { .integer($0) }))),
    Case(
      what: "36 disjunctions",
      query: query(
        .all([
          .isIn("a", (0..<6).map { .integer($0) }), .isIn("b", (0..<6).map { .integer($0) }),
        ]))),
    Case(
      what: "two exclusions",
      query: query([Filter("a", .notEqual, .null), Filter("b", .notEqual, .null)])),
    Case(
      what: "NOT_IN with IN", query: query(.all([.isNotIn("a", [.null]), .isIn("b", [.null])]))),
    Case(
      what: "two ancestors", query: query(.all([.hasAncestor(key(1)), .hasAncestor(key(2))]))),
    Case(
      what: "an ancestor of one term",
      query: query(.any([.hasAncestor(key(1)), .filter(Filter("a", .equal, .null))]))),
    Case(what: "projected twice", query: query(projecting: ["a", "a"])),
    Case(
      what: "projected equality",
      query: query(projecting: ["a"], .filter(Filter("a", .equal, .null)))),
    Case(what: "projected IN", query: query(projecting: ["a"], .isIn("a", [.null]))),
    Case(
      what: "distinct equality",
      query: query(projecting: [], distinctOn: ["a"], .filter(Filter("a", .equal, .null)))),
    Case(what: "distinct twice", query: query(projecting: [], distinctOn: ["a", "a"])),
    Case(what: "distinct key", query: query(projecting: [], distinctOn: ["__key__"])),
    Case(
      what: "distinct behind another order",
      query: query(projecting: ["a"], distinctOn: ["a"], nil, [Order("b")])),
    Case(
      what: "kindless filter",
      query: Query(
        partition: partition, kind: nil, condition: .filter(Filter("a", .equal, .null)))),
    Case(
      what: "kindless order", query: Query(partition: partition, kind: nil, orders: [Order("a")])),
    Case(
      what: "kindless descending",
      query: Query(
        partition: partition, kind: nil, orders: [Order(Query.keyProperty, isDescending: true)])),
    Case(
      what: "kindless projection", query: Query(partition: partition, kind: nil, projection: ["a"])),
    Case(
      what: "metadata filter",
      query: Query(
        partition: partition, kind: "__kind__", condition: .filter(Filter("a", .equal, .null)))),
  ]

  @Test(arguments: QueryRefusals.cases)
  func whatCannotBeAskedIsTold(example: Case) {
    do throws(GatewayError) {
      _ = try ResolvedQuery(example.query, policy: Policy())
      Issue.record("\(example.what) was taken")
    } catch {
      switch error {
      case .invalid: break
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
    var back = query([], [Order("a", isDescending: true)])
    back.start = cursor
    let resolved = try ResolvedQuery(back, policy: Policy())
    #expect(resolved.includesStart)
    // Where nothing is found, it is handed back as it came.
    back.start = resolved.startCursor
    #expect(try ResolvedQuery(back, policy: Policy()).includesStart)
    var other = query([], [Order("b")])
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
