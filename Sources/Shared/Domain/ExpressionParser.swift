extension Expression {
  /// Why a text is no expression, and where.
  package struct ParseError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Characters from the start of the text that was parsed.
    package var offset: Int
    package var message: String

    package init(offset: Int, message: String) {
      self.offset = offset
      self.message = message
    }

    package var description: String { "\(self.message) (at character \(self.offset + 1))" }
  }

  /// Tokens in one expression: far beyond what people write, and few enough for recursion.
  static let maximumTokens = 500

  /// Parses the text between `${{` and `}}`.
  package init(parsing text: String) throws(ParseError) {
    var parser = try ExpressionParser(text)
    self.root = try parser.whole()
  }
}

/// Recursive descent over tokens; one method for each level of binding.
private struct ExpressionParser {
  enum Token: Hashable {
    case word(String)
    case number(Double)
    case string(String)
    case symbol(String)
    case end

    var shown: String {
      switch self {
      case .word(let text), .symbol(let text): "\"\(text)\""
      case .number(let value): "\"\(ExpressionValue.number(value).text)\""
      case .string(let text): "'\(text)'"
      case .end: "the end"
      }
    }
  }

  private var tokens: [(token: Token, offset: Int)] = []
  private var index = 0

  init(_ text: String) throws(Expression.ParseError) {
    self.tokens = try Self.tokens(of: Array(text))
  }

  // MARK: Tokens

  private static func tokens(
    of text: [Character]
  ) throws(Expression.ParseError) -> [(token: Token, offset: Int)] {
    var tokens: [(token: Token, offset: Int)] = []
    var position = 0
    while position < text.count {
      let start = position
      let character = text[position]
      if character.isWhitespace {
        position += 1
        continue
      }
      if tokens.count == Expression.maximumTokens {
        throw Expression.ParseError(
          offset: start, message: "more than \(Expression.maximumTokens) words and signs")
      }
      if character == "'" {
        tokens.append((.string(try Self.string(in: text, at: &position)), start))
      } else if character == "\"" {
        throw Expression.ParseError(
          offset: start, message: "text stands in single quotes: 'like this'")
      } else if character.isNumber || (character == "-" && position + 1 < text.count) {
        position += 1
        while position < text.count, text[position].isExpressionWord || text[position] == "." {
          position += 1
        }
        let word = String(text[start..<position])
        guard let number = Double(word) else {
          throw Expression.ParseError(offset: start, message: "\"\(word)\" is no number")
        }
        tokens.append((.number(number), start))
      } else if character.isExpressionWord {
        while position < text.count, text[position].isExpressionWord { position += 1 }
        tokens.append((.word(String(text[start..<position])), start))
      } else {
        let two = String(text[start..<min(start + 2, text.count)])
        if ["==", "!=", "<=", ">=", "&&", "||"].contains(two) {
          position += 2
          tokens.append((.symbol(two), start))
        } else if "!<>().[],".contains(character) {
          position += 1
          tokens.append((.symbol(String(character)), start))
        } else {
          let better = ["=": "==", "&": "&&", "|": "||"][character]
          throw Expression.ParseError(
            offset: start,
            message: "\"\(character)\" means nothing here"
              + (better.map { "; did you mean \"\($0)\"?" } ?? ""))
        }
      }
    }
    tokens.append((.end, text.count))
    return tokens
  }

  /// 'text', in which two quotes are one.
  private static func string(
    in text: [Character], at position: inout Int
  ) throws(Expression.ParseError) -> String {
    let start = position
    position += 1
    var value = ""
    while position < text.count {
      if text[position] != "'" {
        value.append(text[position])
        position += 1
      } else if position + 1 < text.count, text[position + 1] == "'" {
        value.append("'")
        position += 2
      } else {
        position += 1
        return value
      }
    }
    throw Expression.ParseError(offset: start, message: "text without its closing quote")
  }

  // MARK: Levels

  mutating func whole() throws(Expression.ParseError) -> Expression.Node {
    if self.token == .end {
      throw Expression.ParseError(offset: self.offset, message: "an empty expression")
    }
    let node = try self.or()
    guard self.token == .end else {
      throw self.unexpected("the end, an operator or a bracket")
    }
    return node
  }

  private mutating func or() throws(Expression.ParseError) -> Expression.Node {
    var node = try self.and()
    while self.takes("||") { node = .or(node, try self.and()) }
    return node
  }

  private mutating func and() throws(Expression.ParseError) -> Expression.Node {
    var node = try self.comparison()
    while self.takes("&&") { node = .and(node, try self.comparison()) }
    return node
  }

  private mutating func comparison() throws(Expression.ParseError) -> Expression.Node {
    var node = try self.unary()
    while case .symbol(let symbol) = self.token,
      let comparison = Expression.Comparison(rawValue: symbol)
    {
      self.index += 1
      node = .compare(comparison, node, try self.unary())
    }
    return node
  }

  private mutating func unary() throws(Expression.ParseError) -> Expression.Node {
    if self.takes("!") { return .not(try self.unary()) }
    if self.takes("(") {
      let node = try self.or()
      guard self.takes(")") else { throw self.unexpected("\")\"") }
      return node
    }
    return try self.operand()
  }

  private mutating func operand() throws(Expression.ParseError) -> Expression.Node {
    let start = self.offset
    switch self.token {
    case .number(let value):
      self.index += 1
      return .literal(.number(value))
    case .string(let value):
      self.index += 1
      return .literal(.string(value))
    case .word(let name):
      self.index += 1
      switch name {
      case "true": return .literal(.bool(true))
      case "false": return .literal(.bool(false))
      case "null": return .literal(.null)
      default: break
      }
      if self.takes("(") { return try self.call(name, at: start) }
      return .reference(try self.path(from: name))
    case .symbol, .end:
      throw self.unexpected("a value")
    }
  }

  private mutating func call(
    _ name: String, at start: Int
  ) throws(Expression.ParseError) -> Expression.Node {
    guard let function = Expression.Function(rawValue: name) else {
      let known = Expression.Function.allCases.map { "\($0.rawValue)()" }
      let near = name.nearest(in: Expression.Function.allCases.map(\.rawValue))
      throw Expression.ParseError(
        offset: start,
        message: "unknown function \"\(name)\"; "
          + (near.map { "did you mean \($0)()?" } ?? "there are \(known.joined(separator: ", "))"))
    }
    var arguments: [Expression.Node] = []
    if !self.takes(")") {
      repeat { arguments.append(try self.or()) } while self.takes(",")
      guard self.takes(")") else { throw self.unexpected("\",\" or \")\"") }
    }
    guard arguments.count == function.arity else {
      throw Expression.ParseError(
        offset: start, message: "\(name)() takes \(function.arity) values, not \(arguments.count)")
    }
    return .call(function, arguments)
  }

  private mutating func path(from name: String) throws(Expression.ParseError) -> [String] {
    var path = [name]
    while true {
      if self.takes(".") {
        switch self.token {
        case .word(let next): path.append(next)
        case .number(let value): path.append(ExpressionValue.number(value).text)
        case .string, .symbol, .end: throw self.unexpected("a name behind \".\"")
        }
        self.index += 1
      } else if self.takes("[") {
        guard case .string(let next) = self.token else {
          throw self.unexpected("a name in single quotes")
        }
        self.index += 1
        guard self.takes("]") else { throw self.unexpected("\"]\"") }
        path.append(next)
      } else {
        return path
      }
    }
  }

  // MARK: Reading

  private var token: Token { self.tokens[self.index].token }
  private var offset: Int { self.tokens[self.index].offset }

  private mutating func takes(_ symbol: String) -> Bool {
    guard self.token == .symbol(symbol) else { return false }
    self.index += 1
    return true
  }

  private func unexpected(_ wanted: String) -> Expression.ParseError {
    Expression.ParseError(
      offset: self.offset, message: "found \(self.token.shown) where \(wanted) should be")
  }
}
