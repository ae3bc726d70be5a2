import Domain

/// Values and cursors that a caller binds to a GQL text.
package struct GQLBindings: Sendable {
  /// One of them.
  package enum Binding: Sendable {
    case value(Value)
    case cursor([UInt8])
  }

  /// By name, for `@name`.
  package var named: [Name: Binding]
  /// For `@1` and so on.
  package var positional: [Binding]

  package init(named: [Name: Binding] = [:], positional: [Binding] = []) {
    self.named = named
    self.positional = positional
  }

  func check() throws(GatewayError) {
    for name in self.named.keys.sorted() {
      if name.isReserved {
        throw .invalid("The GQL query parameter name \"\(name)\" is reserved.")
      }
      if !GQLLexer.isName(name.text) {
        throw .invalid("\"\(name)\" is no name of a GQL query parameter.")
      }
    }
  }
}

/// Reads values in a GQL text: literals and bindings.
struct GQLValues {
  private let bindings: GQLBindings
  private let allowsLiterals: Bool
  /// Where keys are that do not say.
  let partition: PartitionID
  /// Values that an array in the text may have: no operator takes more.
  private let longestArray: Int
  private var usedPositions: Set<Int> = []

  init(
    bindings: GQLBindings, allowsLiterals: Bool, partition: PartitionID, longestArray: Int
  ) {
    self.bindings = bindings
    self.allowsLiterals = allowsLiterals
    self.partition = partition
    self.longestArray = longestArray
  }

  /// A name that nothing uses may stand in several texts' bindings; a position may not.
  func checkUsed() throws(GatewayError) {
    for position in self.bindings.positional.indices where !self.usedPositions.contains(position) {
      throw .invalid("Unused positional binding: \(position + 1).")
    }
  }

  func checkLiteral(_ token: GQLToken) throws(GatewayError) {
    if !self.allowsLiterals {
      throw .invalid(
        "Disallowed literal: \(token.text) at line \(token.line), column \(token.column).")
    }
  }

  private static let functions = ["KEY", "ARRAY", "BLOB", "DATETIME"]

  /// Whether a value stands here, and no property.
  func beginsValue(_ tokens: GQLTokens) -> Bool {
    switch tokens.current.content {
    case .string, .integer, .double, .binding, .symbol("-"), .symbol("+"): true
    case .word(let word):
      ["NULL", "TRUE", "FALSE"].contains(word.uppercased()) || tokens.isFunction(Self.functions)
    case .quotedName, .symbol, .end: false
    }
  }

  /// A value or a bound cursor.
  mutating func bound(_ tokens: inout GQLTokens) throws(GatewayError) -> GQLBindings.Binding {
    if case .binding(let name) = tokens.current.content {
      let binding = try self.binding(name, tokens.current)
      tokens.skip()
      return binding
    }
    return .value(try self.value(&tokens))
  }

  mutating func value(_ tokens: inout GQLTokens) throws(GatewayError) -> Value {
    let token = tokens.current
    if case .binding(let name) = token.content {
      guard case .value(let value) = try self.binding(name, token) else {
        throw tokens.error(expected: "a value, not a cursor")
      }
      tokens.skip()
      return value
    }
    if !self.beginsValue(tokens) { throw tokens.error(expected: "a value") }
    try self.checkLiteral(token)
    if tokens.isFunction(Self.functions) { return try self.call(&tokens) }
    tokens.skip()
    switch token.content {
    case .string(let text): return .string(text)
    case .integer(.min):
      // The lexer's sign for a number that only a minus puts in range.
      throw .invalid(
        "Invalid integer literal \"\(token.text)\" at line \(token.line), column "
          + "\(token.column).")
    case .integer(let number): return .integer(number)
    case .double(let number): return .double(number)
    case .symbol(let sign):
      let number = tokens.current
      guard number.isNext(to: token) else { throw tokens.error(expected: "a number", at: token) }
      tokens.skip()
      switch number.content {
      // The least number has no positive; wrapping gives it back as it is.
      case .integer(let number) where sign == "-": return .integer(0 &- number)
      case .integer(let number) where number != .min: return .integer(number)
      case .double(let number): return .double(sign == "-" ? -number : number)
      default: throw tokens.error(expected: "a number", at: number)
      }
    default:
      switch token.text.uppercased() {
      case "TRUE": return .boolean(true)
      case "FALSE": return .boolean(false)
      default: return .null
      }
    }
  }

  private mutating func binding(
    _ name: String, _ token: GQLToken
  ) throws(GatewayError) -> GQLBindings.Binding {
    let place = "line \(token.line), column \(token.column)"
    if let position = Int(name) {
      guard self.bindings.positional.indices.contains(position - 1) else {
        throw .invalid("Absent positional binding: \(name) at \(place).")
      }
      self.usedPositions.insert(position - 1)
      return self.bindings.positional[position - 1]
    }
    guard let binding = self.bindings.named[Name(name)] else {
      throw .invalid("Absent named binding: \(name) at \(place).")
    }
    return binding
  }

  // MARK: - Functions

  private mutating func call(_ tokens: inout GQLTokens) throws(GatewayError) -> Value {
    let function = tokens.current
    tokens.skip()
    try tokens.expectSymbol("(")
    let value: Value
    switch function.text.uppercased() {
    case "KEY": value = .key(try self.key(&tokens))
    case "ARRAY":
      var elements: [PropertyContent] = []
      if tokens.current.content != .symbol(")") {
        repeat {
          if tokens.isFunction(["ARRAY"]) {
            throw tokens.error(expected: "a value that is no array, for arrays hold none")
          }
          if elements.count == self.longestArray {
            throw .invalid(
              "The array at line \(function.line), column \(function.column) has more than "
                + "\(self.longestArray) values.")
          }
          elements.append(PropertyContent(try self.value(&tokens)))
        } while tokens.takesSymbol(",")
      }
      value = .array(elements)
    case "BLOB":
      let token = tokens.current
      guard let bytes = Base64.decoded(try Self.text(&tokens)) else {
        throw tokens.error(expected: "base64", at: token)
      }
      value = .blob(bytes)
    default:
      let token = tokens.current
      guard let time = DateTimeText.timestamp(try Self.text(&tokens)) else {
        throw tokens.error(expected: "a time such as '2013-09-29T09:30:20.00002-08:00'", at: token)
      }
      value = .timestamp(time)
    }
    try tokens.expectSymbol(")")
    return value
  }

  private static func text(_ tokens: inout GQLTokens) throws(GatewayError) -> String {
    guard case .string(let text) = tokens.current.content else {
      throw tokens.error(expected: "a text in quotes")
    }
    tokens.skip()
    return text
  }

  /// `[PROJECT('p'),] [NAMESPACE('n'),] kind, id or name, ...`.
  private mutating func key(_ tokens: inout GQLTokens) throws(GatewayError) -> Key {
    var key = Key(partition: self.partition, path: [])
    for scope in ["PROJECT", "NAMESPACE"] where tokens.isFunction([scope]) {
      tokens.skip()
      try tokens.expectSymbol("(")
      let name = Name(try Self.text(&tokens))
      if scope == "PROJECT" {
        // The query's namespace is another project's, so Google's servers have it; not its database.
        key.partition.project = name
        key.partition.namespace = ""
      } else {
        key.partition.namespace = name
      }
      try tokens.expectSymbol(")")
      try tokens.expectSymbol(",")
    }
    repeat {
      let kind = try tokens.name()
      try tokens.expectSymbol(",")
      let token = tokens.current
      if tokens.isFunction(Self.functions) { throw tokens.error(expected: "an id or a name") }
      switch try self.value(&tokens) {
      case .integer(let id): key.path.append(PathElement(kind: kind, identity: .id(id)))
      case .string(let name):
        key.path.append(PathElement(kind: kind, identity: .name(Name(name))))
      default: throw tokens.error(expected: "an id or a name", at: token)
      }
    } while tokens.takesSymbol(",")
    return key
  }
}
