/// The words of a GQL text, read from the first to the last.
struct GQLTokens {
  private let tokens: [GQLToken]
  private var offset = 0

  /// - Parameter tokens: The end last.
  init(_ tokens: [GQLToken]) {
    self.tokens = tokens
  }

  var current: GQLToken { self.tokens[self.offset] }

  private var following: GQLToken { self.tokens[min(self.offset + 1, self.tokens.count - 1)] }

  /// Goes on to the next word; the end stays.
  mutating func skip() {
    self.offset = min(self.offset + 1, self.tokens.count - 1)
  }

  private func isKeyword(_ keyword: String) -> Bool {
    guard case .word(let word) = self.current.content else { return false }
    return word.uppercased() == keyword
  }

  /// Whether one of these keywords stands here, and a parenthesis behind it.
  func isFunction(_ keywords: [String]) -> Bool {
    self.following.content == .symbol("(") && keywords.contains(where: self.isKeyword)
  }

  mutating func takes(_ keyword: String) -> Bool {
    guard self.isKeyword(keyword) else { return false }
    self.skip()
    return true
  }

  mutating func takesSymbol(_ symbol: String) -> Bool {
    guard self.current.content == .symbol(symbol) else { return false }
    self.skip()
    return true
  }

  mutating func expect(_ keyword: String) throws(GatewayError) {
    if !self.takes(keyword) { throw self.error(expected: keyword) }
  }

  mutating func expectSymbol(_ symbol: String) throws(GatewayError) {
    if !self.takesSymbol(symbol) { throw self.error(expected: "\"\(symbol)\"") }
  }

  func expectEnd() throws(GatewayError) {
    if self.current.content != .end { throw self.error(expected: "the end of the query") }
  }

  /// Words that begin or join clauses, and so are no names unless they are quoted.
  private static let reserved: Set<String> = [
    "SELECT", "FROM", "WHERE", "AND", "OR", "ORDER", "GROUP", "BY", "LIMIT", "OFFSET", "DISTINCT",
    "IN", "IS", "NOT", "CONTAINS", "HAS", "AS", "ASC", "DESC", "NULL", "TRUE", "FALSE",
  ]

  mutating func name() throws(GatewayError) -> Name {
    switch self.current.content {
    case .word(let word) where !Self.reserved.contains(word.uppercased()):
      self.skip()
      return Name(word)
    case .quotedName(let name):
      self.skip()
      return Name(name)
    default: throw self.error(expected: "a name")
    }
  }

  mutating func comparison() throws(GatewayError) -> Query.Comparison {
    let comparison: Query.Comparison
    switch self.current.content {
    case .symbol("="): comparison = .equal
    case .symbol("!="): comparison = .notEqual
    case .symbol("<"): comparison = .lessThan
    case .symbol("<="): comparison = .lessThanOrEqual
    case .symbol(">"): comparison = .greaterThan
    case .symbol(">="): comparison = .greaterThanOrEqual
    default: throw self.error(expected: "an operator")
    }
    self.skip()
    return comparison
  }

  /// The error of a word that cannot stand where it stands.
  func error(expected: String, at token: GQLToken? = nil) -> GatewayError {
    let token = token ?? self.current
    let text = token.content == .end ? "<EOF>" : token.text
    return .invalid(
      "Encountered \"\(text)\" at line \(token.line), column \(token.column). Was expecting "
        + "\(expected).")
  }
}
