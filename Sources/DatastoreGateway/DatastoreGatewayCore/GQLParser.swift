/// Reads a query that is written in GQL.
///
///     SELECT * | __key__ | [DISTINCT [ON (names)]] names [FROM kind] [WHERE condition]
///       [GROUP BY names] [ORDER BY name [ASC | DESC], ...] [LIMIT n] [OFFSET n]
///     SELECT COUNT(*) [AS alias], SUM(name), AVG(name) [FROM kind] [WHERE condition]
///     AGGREGATE COUNT(*), COUNT_UP_TO(n), ... OVER (SELECT ...)
///
/// Errors name the line, the column and the word.
package struct GQLParser {
  /// What a text asks for.
  package enum Statement: Sendable {
    case query(Query)
    case aggregation(AggregationQuery)
  }

  var tokens: GQLTokens
  var values: GQLValues
  private let policy: Policy
  private var depth = 0

  private init(_ text: String, values: GQLValues, policy: Policy) throws(GatewayError) {
    self.tokens = GQLTokens(try GQLLexer.tokens(of: text))
    self.values = values
    self.policy = policy
  }

  /// - Parameter allowsLiterals: Whether values may stand in the text; else all must be bound.
  package static func statement(
    _ text: String, allowsLiterals: Bool, bindings: GQLBindings, partition: PartitionID,
    policy: Policy
  ) throws(GatewayError) -> Statement {
    let count = text.utf8.count
    if count > policy.maximumGQLBytes {
      throw .invalid(
        "The GQL text is \(count) bytes, longer than \(policy.maximumGQLBytes) bytes.")
    }
    var parser = try Self(
      text,
      values: GQLValues(
        bindings: bindings, allowsLiterals: allowsLiterals, partition: partition,
        longestArray: max(policy.maximumInValues, policy.maximumNotInValues)),
      policy: policy)
    try bindings.check()
    let statement = try parser.statement()
    try parser.values.checkUsed()
    return statement
  }

  private mutating func statement() throws(GatewayError) -> Statement {
    let statement: Statement
    if self.tokens.takes("AGGREGATE") {
      let aggregations = try self.aggregations()
      try self.tokens.expect("OVER")
      try self.tokens.expectSymbol("(")
      try self.tokens.expect("SELECT")
      let query = try self.query()
      try self.tokens.expectSymbol(")")
      statement = .aggregation(AggregationQuery(query: query, aggregations: aggregations))
    } else {
      try self.tokens.expect("SELECT")
      if self.tokens.isFunction(["COUNT", "COUNT_UP_TO", "SUM", "AVG"]) {
        let aggregations = try self.aggregations()
        var query = Query(partition: self.values.partition, kind: nil)
        try self.addSourceAndCondition(to: &query)
        statement = .aggregation(AggregationQuery(query: query, aggregations: aggregations))
      } else {
        statement = .query(try self.query())
      }
    }
    try self.tokens.expectEnd()
    return statement
  }

  // MARK: - Queries

  /// All that stands behind SELECT.
  private mutating func query() throws(GatewayError) -> Query {
    var query = Query(partition: self.values.partition, kind: nil)
    try self.addSelection(to: &query)
    try self.addSourceAndCondition(to: &query)
    if self.tokens.takes("GROUP") {
      try self.tokens.expect("BY")
      query.distinctOn += try self.names()
    }
    if self.tokens.takes("ORDER") {
      try self.tokens.expect("BY")
      repeat {
        let name = try self.tokens.name()
        let isDescending = self.tokens.takes("DESC")
        if !isDescending { _ = self.tokens.takes("ASC") }
        query.orders.append(Query.Order(name, isDescending: isDescending))
      } while self.tokens.takesSymbol(",")
    }
    if self.tokens.takes("LIMIT") { try self.addLimit(to: &query) }
    if self.tokens.takes("OFFSET") { try self.addOffset(to: &query) }
    return query
  }

  private mutating func addSelection(to query: inout Query) throws(GatewayError) {
    if self.tokens.takesSymbol("*") { return }
    if self.tokens.takes("DISTINCT") {
      if self.tokens.takes("ON") {
        try self.tokens.expectSymbol("(")
        query.distinctOn = try self.names()
        try self.tokens.expectSymbol(")")
        if self.tokens.takesSymbol("*") { return }
        query.projection = try self.names()
      } else {
        query.projection = try self.names()
        query.distinctOn = query.projection
      }
    } else {
      query.projection = try self.names()
    }
  }

  private mutating func names() throws(GatewayError) -> [Name] {
    var names = [try self.tokens.name()]
    while self.tokens.takesSymbol(",") { names.append(try self.tokens.name()) }
    return names
  }

  private mutating func addSourceAndCondition(to query: inout Query) throws(GatewayError) {
    if self.tokens.takes("FROM") { query.kind = try self.tokens.name() }
    if self.tokens.takes("WHERE") { query.condition = try self.anyOf() }
  }

  /// A number, or FIRST of a number and a cursor.
  private mutating func addLimit(to query: inout Query) throws(GatewayError) {
    guard self.tokens.isFunction(["FIRST"]) else {
      try self.addBound("LIMIT", to: &query)
      return
    }
    self.tokens.skip()
    try self.tokens.expectSymbol("(")
    let first = try self.addBound("LIMIT", to: &query)
    try self.tokens.expectSymbol(",")
    let place = self.tokens.current
    if try self.addBound("LIMIT", to: &query) == first {
      throw self.tokens.error(expected: "a number and a cursor", at: place)
    }
    try self.tokens.expectSymbol(")")
  }

  /// A cursor, a number, or a cursor plus a number.
  private mutating func addOffset(to query: inout Query) throws(GatewayError) {
    guard try self.addBound("OFFSET", to: &query) == .cursor, self.tokens.takesSymbol("+") else {
      return
    }
    let place = self.tokens.current
    if try self.addBound("OFFSET", to: &query) == .cursor {
      throw self.tokens.error(expected: "a number", at: place)
    }
  }

  /// What bounds results.
  private enum Bound {
    case cursor, number
  }

  @discardableResult
  private mutating func addBound(
    _ clause: String, to query: inout Query
  ) throws(GatewayError) -> Bound {
    let token = self.tokens.current
    switch try self.values.bound(&self.tokens) {
    case .cursor(let cursor):
      if clause == "LIMIT" { query.end = cursor } else { query.start = cursor }
      return .cursor
    case .value(.integer(let number)):
      guard number >= 0, let small = Int32(exactly: number) else {
        throw .invalid(
          "The \(clause.lowercased()) \(number) at line \(token.line), column \(token.column) is "
            + (number < 0 ? "< 0." : "> \(Int32.max)."))
      }
      if clause == "LIMIT" { query.limit = Int(small) } else { query.offset = Int(small) }
      return .number
    case .value: throw self.tokens.error(expected: "a number or a cursor", at: token)
    }
  }

  // MARK: - Conditions

  private mutating func anyOf() throws(GatewayError) -> Query.Condition {
    var parts = [try self.allOf()]
    while self.tokens.takes("OR") { parts.append(try self.allOf()) }
    return parts.count == 1 ? parts[0] : .any(parts)
  }

  private mutating func allOf() throws(GatewayError) -> Query.Condition {
    var parts = [try self.part()]
    while self.tokens.takes("AND") { parts.append(try self.part()) }
    return parts.count == 1 ? parts[0] : .all(parts)
  }

  private mutating func part() throws(GatewayError) -> Query.Condition {
    guard self.tokens.takesSymbol("(") else { return try self.comparison() }
    self.depth += 1
    if self.depth > self.policy.maximumConditionDepth {
      throw .invalid(
        "The query has more than \(self.policy.maximumConditionDepth) nested parentheses.")
    }
    let condition = try self.anyOf()
    try self.tokens.expectSymbol(")")
    self.depth -= 1
    return condition
  }

  private mutating func comparison() throws(GatewayError) -> Query.Condition {
    if self.values.beginsValue(self.tokens) { return try self.reversedComparison() }
    let property = try self.tokens.name()
    if self.tokens.takes("IS") {
      let token = self.tokens.current
      try self.tokens.expect("NULL")
      try self.values.checkLiteral(token)
      return .filter(Query.Filter(property, .equal, .null))
    }
    if self.tokens.takes("IN") {
      return Self.isIn(property, try self.values.value(&self.tokens))
    }
    if self.tokens.takes("NOT") {
      try self.tokens.expect("IN")
      return .isNotIn(property, try self.list())
    }
    if self.tokens.takes("CONTAINS") {
      return .filter(Query.Filter(property, .equal, try self.values.value(&self.tokens)))
    }
    if self.tokens.takes("HAS") {
      try self.tokens.expect("ANCESTOR")
      return .hasAncestor(try self.ancestor(of: property))
    }
    let comparison = try self.tokens.comparison()
    return .filter(Query.Filter(property, comparison, try self.values.value(&self.tokens)))
  }

  /// A value, an operator, then the property.
  private mutating func reversedComparison() throws(GatewayError) -> Query.Condition {
    let token = self.tokens.current
    let value = try self.values.value(&self.tokens)
    if self.tokens.takes("IN") { return Self.isIn(try self.tokens.name(), value) }
    if self.tokens.takes("HAS") {
      try self.tokens.expect("DESCENDANT")
      guard try self.tokens.name() == Query.keyProperty else {
        throw .invalid("property must be __key__")
      }
      guard case .key(let key) = value else {
        throw self.tokens.error(expected: "a key", at: token)
      }
      return .hasAncestor(key)
    }
    let comparison: Query.Comparison =
      switch try self.tokens.comparison() {
      case .lessThan: .greaterThan
      case .lessThanOrEqual: .greaterThanOrEqual
      case .greaterThan: .lessThan
      case .greaterThanOrEqual: .lessThanOrEqual
      case .equal: .equal
      case .notEqual: .notEqual
      }
    return .filter(Query.Filter(try self.tokens.name(), comparison, value))
  }

  /// On either side of IN: an array has the property's value in it, any other value is in the property.
  private static func isIn(_ property: Name, _ value: Value) -> Query.Condition {
    guard case .array(let elements) = value else {
      return .filter(Query.Filter(property, .equal, value))
    }
    return .isIn(property, elements.map(\.value))
  }

  private mutating func list() throws(GatewayError) -> [Value] {
    let token = self.tokens.current
    guard case .array(let elements) = try self.values.value(&self.tokens) else {
      throw self.tokens.error(expected: "ARRAY(...) or a binding of an array", at: token)
    }
    return elements.map(\.value)
  }

  private mutating func ancestor(of property: Name) throws(GatewayError) -> Key {
    if property != Query.keyProperty { throw .invalid("property must be __key__") }
    let token = self.tokens.current
    guard case .key(let key) = try self.values.value(&self.tokens) else {
      throw self.tokens.error(expected: "a key", at: token)
    }
    return key
  }

  // MARK: - Aggregations

  private mutating func aggregations() throws(GatewayError) -> [AggregationQuery.Aggregation] {
    var aggregations: [AggregationQuery.Aggregation] = []
    repeat {
      var aggregation = AggregationQuery.Aggregation(try self.operation())
      if self.tokens.takes("AS") { aggregation.alias = try self.tokens.name() }
      aggregations.append(aggregation)
    } while self.tokens.takesSymbol(",")
    return aggregations
  }

  private mutating func operation() throws(GatewayError) -> AggregationQuery.Operation {
    let function = self.tokens.current
    guard self.tokens.isFunction(["COUNT", "COUNT_UP_TO", "SUM", "AVG"]) else {
      throw self.tokens.error(expected: "COUNT, COUNT_UP_TO, SUM or AVG", at: function)
    }
    self.tokens.skip()
    try self.tokens.expectSymbol("(")
    let operation: AggregationQuery.Operation
    switch function.text.uppercased() {
    case "COUNT":
      if !self.tokens.takesSymbol("*") {
        let token = self.tokens.current
        throw .invalid(
          "COUNT is of all results, COUNT(*), not of \"\(token.text)\" at line \(token.line), "
            + "column \(token.column).")
      }
      operation = .count(upTo: nil)
    case "COUNT_UP_TO":
      let token = self.tokens.current
      guard case .integer(let limit) = try self.values.value(&self.tokens) else {
        throw self.tokens.error(expected: "a number", at: token)
      }
      operation = .count(upTo: limit)
    case "SUM": operation = .sum(try self.tokens.name())
    default: operation = .average(try self.tokens.name())
    }
    try self.tokens.expectSymbol(")")
    return operation
  }
}
