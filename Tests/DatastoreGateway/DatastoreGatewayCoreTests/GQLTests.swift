import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

private func statement(
  _ text: String, _ bindings: GQLBindings = GQLBindings(), allowsLiterals: Bool = true
) throws(GatewayError) -> GQLParser.Statement {
  try GQLParser.statement(
    text, allowsLiterals: allowsLiterals, bindings: bindings, partition: partition,
    policy: Policy())
}

private func parsed(
  _ text: String, _ bindings: GQLBindings = GQLBindings(), allowsLiterals: Bool = true
) throws -> Query {
  guard case .query(let query) = try statement(text, bindings, allowsLiterals: allowsLiterals)
  else { throw GatewayError.invalid("no query") }
  return query
}

private let entities = [
  entity(key(1), [("a", .integer(1)), ("b", .integer(1))]),
  entity(key(2), [("a", .double(2.5)), ("b", .integer(1))]),
  entity(key(3), [("a", .string("x")), ("b", .integer(2))]),
  entity(key(4), [("a", array(.integer(1), .integer(2))), ("b", .integer(2))]),
  entity(key(5), [("b", .integer(3))]),
  entity(key(6), [("a", .null), ("b", .integer(3))]),
]

@Suite struct GQL {
  // What Google's emulators answered to the same.
  @Test(arguments: [
    ("SELECT * FROM K", [1, 2, 3, 4, 5, 6]),
    ("select * from K where b = 2", [3, 4]),
    ("SELECT a FROM K", [6, 1, 4, 4, 3, 2]),
    ("SELECT a, b FROM K ORDER BY b DESC", [6, 3, 4, 4, 2, 1]),
    ("SELECT __key__ FROM K", [1, 2, 3, 4, 5, 6]),
    ("SELECT DISTINCT b FROM K", [1, 3, 5]),
    ("SELECT DISTINCT ON (b) b, a FROM K", [1, 4, 6]),
    ("SELECT DISTINCT ON (b) * FROM K", [1, 3, 5]),
    ("SELECT b FROM K GROUP BY b", [1, 3, 5]),
    ("SELECT * FROM K WHERE a IN ARRAY(1,2)", [1, 4]),
    ("SELECT * FROM K WHERE a NOT IN ARRAY(1,2)", [6, 3, 2]),
    ("SELECT * FROM K WHERE a CONTAINS 1", [1, 4]),
    ("SELECT * FROM K WHERE a != 1", [6, 4, 3, 2]),
    ("SELECT * FROM K WHERE a IS NULL", [6]),
    ("SELECT * FROM K WHERE a = NULL", [6]),
    ("SELECT * FROM K WHERE 1 < b", [3, 4, 5, 6]),
    ("SELECT * FROM K WHERE 1 IN a", [1, 4]),
    ("SELECT * FROM K WHERE a IN 1", [1, 4]),
    ("SELECT * FROM K WHERE ARRAY(1) IN a", [1, 4]),
    ("SELECT * FROM K WHERE b = 1 OR b = 3", [1, 2, 5, 6]),
    ("SELECT * FROM K WHERE (b = 1 OR b = 3) AND a = 1", [1]),
    ("SELECT * FROM K WHERE b=1 or b=3 and a = 1", [1, 2]),
    ("SELECT * FROM K WHERE __key__ = KEY(K, 1)", [1]),
    ("SELECT * FROM K WHERE __key__ HAS ANCESTOR KEY(K, 1)", [1]),
    ("SELECT * FROM K WHERE KEY(K,1) HAS DESCENDANT __key__", [1]),
    ("SELECT * WHERE __key__ > KEY(K, 5)", [6]),
    ("SELECT * FROM K LIMIT 2", [1, 2]),
    ("SELECT * FROM K LIMIT 2 OFFSET 1", [2, 3]),
    ("SELECT * FROM K OFFSET +4", [5, 6]),
    ("SELECT\t*\r\nFROM K LIMIT +1", [1]),
    ("SELECT * FROM `K` WHERE `b` = 1", [1, 2]),
    ("SELECT * FROM K WHERE a = 'x'", [3]),
    ("SELECT * FROM K WHERE a = \"x\"", [3]),
    ("SELECT * FROM K WHERE a > DATETIME('2020-01-01T00:00:00Z')", [3, 2]),
    ("SELECT * FROM K WHERE a = BLOB('eA')", [3]),
    ("SELECT * FROM K WHERE a = -1", []),
    ("SELECT * FROM K WHERE a=2.5e0", [2]),
    ("SELECT * FROM K WHERE a = KEY(PROJECT('x'), NAMESPACE('n'), K, 'it''s')", []),
    ("SELECT * FROM K WHERE a > 1 AND a < 3 ORDER BY a ASC, b DESC", [4]),
  ])
  func textsFindWhatGooglesDo(text: String, expected: [Int64]) throws {
    #expect(ids(try run(parsed(text), on: entities)) == expected)
  }

  @Test(arguments: [
    ("", "\"<EOF>\" at line 1, column 1"),
    ("SELECT * FROM", "\"<EOF>\" at line 1, column 14"),
    ("SELECT FROM K", "\"FROM\" at line 1, column 8"),
    ("SELECT *\n FROM K WHERE", "\"<EOF>\" at line 2, column 14"),
    ("SELECT * FROM K WHERE a ~ 1", "line 1, column 25: encountered \"~\""),
    ("SELECT * FROM K WHERE a = 1 GARBAGE", "\"GARBAGE\" at line 1, column 29"),
    ("SELECT * FROM K WHERE a = 1 AND", "\"<EOF>\" at line 1, column 32"),
    ("SELECT * FROM K WHERE a IN (1,2)", "\"(\" at line 1, column 28"),
    ("SELECT * FROM K WHERE a NOT IN 1", "\"1\" at line 1, column 32"),
    ("SELECT\u{A0}* FROM K", "line 1, column 7: encountered"),
    ("SELECT * FROM K WHERE a = - 1", "\"-\" at line 1, column 27"),
    ("SELECT * FROM K OFFSET 3 + 1", "\"+\" at line 1, column 26"),
    ("SELECT * FROM K WHERE a = 'b\\q'", "line 1, column 30: \"\\q\" stands for nothing"),
    ("SELECT * FROM K WHERE a = 'b\n'", "begin at line 1, column 27"),
    ("SELECT * FROM K WHERE `a\nb` = 1", "begin at line 1, column 23"),
    ("SELECT * FROM K WHERE a = BLOB('eA==')", "line 1, column 32"),
    ("SELECT * FROM K WHERE a = BLOB('+/')", "line 1, column 32"),
    ("SELECT * FROM K WHERE a = DATETIME('2013-09-29 09:30:20Z')", "line 1, column 36"),
    ("SELECT * FROM K WHERE a = DATETIME('2013-09-29T09:30:60Z')", "line 1, column 36"),
    ("SELECT * FROM K WHERE a = DATETIME('2013-09-29T09:30:20-00:00')", "line 1, column 36"),
    ("SELECT * FROM K WHERE a = DATETIME('9999-12-31T23:59:59-00:01')", "line 1, column 36"),
    ("SELECT * FROM K WHERE a..b = 1", "line 1, column 24: encountered \".\""),
    ("SELECT * FROM K WHERE a = @x.y", "line 1, column 29: encountered \".\""),
    ("SELECT * FROM K WHERE __key__ = KEY('K', 1)", "\"'K'\" at line 1, column 37"),
    ("SELECT * FROM K WHERE a = KEY(K, KEY(K, 1))", "\"KEY\" at line 1, column 34"),
    ("SELECT * FROM K WHERE a = ARRAY(ARRAY(1))", "\"ARRAY\" at line 1, column 33"),
    ("SELECT * FROM K ORDER a", "\"a\" at line 1, column 23"),
    ("SELECT * FROM K LIMIT x", "\"x\" at line 1, column 23"),
    ("SELECT * FROM K LIMIT FIRST(2, 3)", "\"3\" at line 1, column 32"),
    ("SELECT * FROM K LIMIT -1", "The limit -1 at line 1, column 23"),
    ("SELECT * FROM K LIMIT 4294967296", "The limit 4294967296"),
    ("SELECT * FROM K WHERE a = 99999999999999999999", "99999999999999999999"),
    ("SELECT * FROM K WHERE a = 9223372036854775808", "9223372036854775808"),
    ("SELECT * FROM K WHERE a = +9223372036854775808", "9223372036854775808"),
    ("SELECT * FROM K WHERE a = 1.2.3", "Invalid double literal \"1.2.3\""),
    ("SELECT * FROM K WHERE a = 'x", "line 1, column 27"),
    ("SELECT * FROM K;", "encountered \";\""),
    ("SELECT * FROM K WHERE a HAS ANCESTOR KEY(K,1)", "must be __key__"),
    ("SELECT * FROM K WHERE a = DATETIME('2020-02-30T00:00:00Z')", "line 1, column 36"),
    ("SELECT * FROM K WHERE a = BLOB('*')", "line 1, column 32"),
    ("SELECT * FROM K WHERE a = @1", "Absent positional binding: 1"),
    ("SELECT * FROM K WHERE a = @x", "Absent named binding: x"),
    ("SELECT COUNT(b) FROM K", "\"b\" at line 1, column 14"),
    ("SELECT COUNT(*), b FROM K", "\"b\" at line 1, column 18"),
    ("SELECT SUM(b) FROM K LIMIT 2", "\"LIMIT\" at line 1, column 22"),
  ])
  func whatCannotBeReadIsToldWithItsPlace(text: String, expected: String) {
    do throws(GatewayError) {
      _ = try statement(text)
      Issue.record("\(text) was taken")
    } catch {
      guard case .invalid(let message) = error else {
        Issue.record("\(error)")
        return
      }
      #expect(message.contains(expected), "\(message)")
    }
  }

  @Test func valuesAreBoundByNameAndPlace() throws {
    let bindings = GQLBindings(
      named: ["low": .value(.integer(2)), "unused": .value(.null), "from": .cursor([1, 2])],
      positional: [.value(.integer(3)), .value(.array([PropertyContent(.integer(1))]))])
    let query = try parsed(
      "SELECT * FROM K WHERE b >= @low AND a IN @2 LIMIT @1 OFFSET @from + @low", bindings,
      allowsLiterals: false)
    #expect(query.limit == 3)
    #expect(query.offset == 2)
    #expect(query.start == [1, 2])
    guard case .all(let parts)? = query.condition, parts.count == 2,
      case .filter(let low) = parts[0], case .isIn("a", let list) = parts[1]
    else {
      Issue.record("\(query)")
      return
    }
    #expect(low.comparison == .greaterThanOrEqual)
    #expect(list.count == 1)
    let ended = try parsed(
      "SELECT * FROM K LIMIT FIRST(5, @to)", GQLBindings(named: ["to": .cursor([9])]))
    #expect(ended.limit == 5)
    #expect(ended.end == [9])
  }

  @Test(arguments: [
    ("SELECT * FROM K WHERE b = 1", GQLBindings(), "Disallowed literal: 1"),
    ("SELECT * FROM K WHERE b IS NULL", GQLBindings(), "Disallowed literal: NULL"),
    ("SELECT * FROM K WHERE b = TRUE", GQLBindings(), "Disallowed literal: TRUE"),
    ("SELECT * FROM K WHERE b = KEY(K, 1)", GQLBindings(), "Disallowed literal: KEY"),
    ("SELECT * FROM K LIMIT 2", GQLBindings(), "Disallowed literal: 2"),
    (
      "SELECT * FROM K WHERE b = @1",
      GQLBindings(positional: [.value(.null), .value(.null)]), "Unused positional binding: 2"
    ),
    (
      "SELECT * FROM K WHERE b = @__x__", GQLBindings(named: ["__x__": .value(.null)]),
      "\"__x__\" is reserved"
    ),
    (
      "SELECT * FROM K WHERE b = @1", GQLBindings(positional: [.cursor([1])]),
      "a value, not a cursor"
    ),
    ("SELECT * FROM K", GQLBindings(named: ["x y": .value(.null)]), "\"x y\" is no name"),
    ("SELECT * FROM K", GQLBindings(named: ["1": .value(.null)]), "\"1\" is no name"),
    ("SELECT * FROM K", GQLBindings(named: ["": .value(.null)]), "\"\" is no name"),
    (
      "SELECT * FROM K OFFSET @1 + @2", GQLBindings(positional: [.cursor([1]), .cursor([2])]),
      "\"@2\" at line 1, column 29. Was expecting a number"
    ),
  ])
  func bindingsAreChecked(text: String, bindings: GQLBindings, expected: String) {
    do throws(GatewayError) {
      _ = try statement(text, bindings, allowsLiterals: false)
      Issue.record("\(text) was taken")
    } catch {
      #expect("\(error)".contains(expected), "\(error)")
    }
  }

  @Test(arguments: [
    ("SELECT COUNT(*) FROM K", ["count(upTo: nil) "]),
    (
      "SELECT COUNT(*) AS n, SUM(b) AS s, AVG(b) FROM K WHERE b > 1",
      ["count(upTo: nil) n", "sum(b) s", "average(b) "]
    ),
    (
      "AGGREGATE COUNT_UP_TO(2) AS n OVER (SELECT * FROM K LIMIT 1)", ["count(upTo: Optional(2)) n"]
    ),
    ("aggregate sum(b) over (select * from K)", ["sum(b) "]),
  ])
  func aggregationsAreRead(text: String, expected: [String]) throws {
    guard case .aggregation(let aggregation) = try statement(text) else {
      Issue.record("\(text) is no aggregation")
      return
    }
    let told = aggregation.aggregations.map { aggregation in
      let operation =
        switch aggregation.operation {
        case .count(let limit): "count(upTo: \(limit.map { "Optional(\($0))" } ?? "nil"))"
        case .sum(let property): "sum(\(property))"
        case .average(let property): "average(\(property))"
        }
      return "\(operation) \(aggregation.alias)"
    }
    #expect(told == expected)
    #expect(aggregation.query.kind == "K")
  }

  @Test func aPropertyMayBeCalledLikeAFunction() throws {
    #expect(try parsed("SELECT count, sum FROM key WHERE key = 1").projection == ["count", "sum"])
  }

  @Test func parenthesesAreBounded() {
    let deep = String(repeating: "(", count: 100_000)
    #expect(throws: GatewayError.self) { try statement("SELECT * FROM K WHERE \(deep)") }
    let arrays = String(repeating: "ARRAY(", count: 100_000)
    #expect(throws: GatewayError.self) { try statement("SELECT * FROM K WHERE a = \(arrays)") }
    let keys = String(repeating: "KEY(K, ", count: 100_000)
    #expect(throws: GatewayError.self) { try statement("SELECT * FROM K WHERE a = \(keys)") }
  }

  @Test func anEmptyCursorIsACursor() throws {
    let bindings = GQLBindings(named: ["end": .cursor([])])
    for text in ["FIRST(2, @end)", "FIRST(@end, 2)"] {
      let query = try parsed("SELECT * FROM K LIMIT \(text)", bindings)
      #expect(query.limit == 2)
      #expect(query.end == [])
    }
  }

  @Test(arguments: ["a.b", "a . b", "`a`.b", "a .\n`b`", "`a`.`b`", "`a.b`"])
  func aNameHasPoints(text: String) throws {
    #expect(try parsed("SELECT * FROM K ORDER BY \(text) DESC").orders[0].property == "a.b")
    guard case .filter(let filter)? = try parsed("SELECT * FROM K WHERE \(text)=1").condition
    else {
      Issue.record("\(text) is no property")
      return
    }
    #expect(filter.property == "a.b")
  }

  @Test func aKeyOfAnotherProjectIsNotInTheNamespaceOfTheQuery() throws {
    let query = try GQLParser.statement(
      "SELECT * FROM K WHERE a = KEY(PROJECT('x'), K, 1)", allowsLiterals: true,
      bindings: GQLBindings(), partition: PartitionID(project: "p", database: "d", namespace: "n"),
      policy: Policy())
    guard case .query(let query) = query, case .filter(let filter)? = query.condition,
      case .key(let found) = filter.value
    else {
      Issue.record("\(query)")
      return
    }
    #expect(
      found == Key(partition: PartitionID(project: "x", database: "d"), path: key(1).path))
  }

  @Test func longTextsAndListsAreNotRead() {
    let long = "SELECT * FROM K WHERE " + String(repeating: "a = 1 AND ", count: 26_213)
    func message(_ text: String) -> String {
      do throws(GatewayError) {
        _ = try statement(text)
        return "it was taken"
      } catch {
        return "\(error)"
      }
    }
    #expect(message(long) == "The GQL text is 262152 bytes, longer than 262144 bytes.")
    let values = (1...31).map(String.init).joined(separator: ",")
    #expect(
      message("SELECT * FROM K WHERE a IN ARRAY(\(values)")
        == "The array at line 1, column 28 has more than 30 values.")
  }

  @Test func timesAndNumbersAreExact() throws {
    func value(_ text: String) throws -> Value? {
      guard case .filter(let filter)? = try parsed("SELECT * FROM K WHERE a = \(text)").condition
      else { return nil }
      return filter.value
    }
    #expect(
      try value("DATETIME('2013-09-29T09:30:20.000025-08:00')")?.orderedBytes
        == Value.timestamp(Timestamp(microseconds: 1_380_475_820_000_025)).orderedBytes)
    #expect(
      try value("DATETIME('0001-01-01T00:00:00Z')")?.orderedBytes
        == Value.timestamp(Timestamp(microseconds: -62_135_596_800_000_000)).orderedBytes)
    #expect(
      try value("-9223372036854775808")?.orderedBytes == Value.integer(.min).orderedBytes)
    #expect(try value("BLOB('_-8')")?.orderedBytes == Value.blob([0xFF, 0xEF]).orderedBytes)
    #expect(try value("'it\\'s'")?.orderedBytes == Value.string("it's").orderedBytes)
    #expect(try value("'100\\%\\n'")?.orderedBytes == Value.string("100\\%\n").orderedBytes)
  }
}
