/// A word of a GQL text, with its place.
struct GQLToken: Hashable, Sendable {
  enum Content: Hashable, Sendable {
    /// A name or a keyword, as it was written; names may have points in them.
    case word(String)
    /// A name of which some part stands between backquotes: never a keyword.
    case quotedName(String)
    case string(String)
    case integer(Int64)
    case double(Double)
    /// `@name` or `@1`, without the sign.
    case binding(String)
    case symbol(String)
    case end
  }

  var content: Content
  /// As it was written.
  var text: String
  var line: Int
  var column: Int

  /// Whether it is the next character behind a symbol.
  func isNext(to symbol: GQLToken) -> Bool {
    self.line == symbol.line && self.column == symbol.column + 1
  }
}

/// Takes a GQL text apart.
struct GQLLexer {
  private let scalars: String.UnicodeScalarView
  private var index: String.Index
  private var line = 1
  private var column = 1

  private init(_ text: String) {
    self.scalars = text.unicodeScalars
    self.index = text.startIndex
  }

  /// Whether a text is one name, as it stands behind "@".
  static func isName(_ text: String) -> Bool {
    guard let first = text.unicodeScalars.first else { return false }
    return self.beginsName(first)
      && text.unicodeScalars.allSatisfy { self.beginsName($0) || self.isDigit($0) }
  }

  /// All words of a text, the end last.
  static func tokens(of text: String) throws(GatewayError) -> [GQLToken] {
    var lexer = Self(text)
    var tokens: [GQLToken] = []
    repeat { tokens.append(try lexer.next()) } while tokens.last?.content != .end
    return tokens
  }

  private var current: Unicode.Scalar? {
    self.index < self.scalars.endIndex ? self.scalars[self.index] : nil
  }

  /// The one behind ``current``, which is no end.
  private var following: Unicode.Scalar? {
    let index = self.scalars.index(after: self.index)
    return index < self.scalars.endIndex ? self.scalars[index] : nil
  }

  private mutating func advance() {
    if self.current == "\n" {
      self.line += 1
      self.column = 1
    } else {
      self.column += 1
    }
    self.scalars.formIndex(after: &self.index)
  }

  private mutating func next() throws(GatewayError) -> GQLToken {
    self.skipWhitespace()
    let (begin, line, column) = (self.index, self.line, self.column)
    let content = try self.content()
    return GQLToken(
      content: content, text: String(self.scalars[begin..<self.index]), line: line, column: column)
  }

  private mutating func content() throws(GatewayError) -> GQLToken.Content {
    guard let scalar = self.current else { return .end }
    if Self.beginsPath(scalar) { return try self.path() }
    if scalar == "'" || scalar == "\"" { return .string(try self.quoted(by: scalar)) }
    if scalar == "@" {
      self.advance()
      let name = self.name()
      if name.isEmpty { throw self.error("a binding needs a name or a number behind \"@\"") }
      return .binding(name)
    }
    if Self.isDigit(scalar)
      || scalar == "." && (self.following.map(Self.isDigit) ?? false)
    {
      return try self.number()
    }
    return .symbol(try self.symbol(scalar))
  }

  private mutating func symbol(_ scalar: Unicode.Scalar) throws(GatewayError) -> String {
    switch scalar {
    case "<", ">", "!":
      guard self.following == "=" else { break }
      self.advance()
      self.advance()
      return "\(scalar)="
    default: break
    }
    switch scalar {
    case "=", "<", ">", "(", ")", ",", "*", "+", "-":
      self.advance()
      return String(scalar)
    default: throw self.error("encountered \"\(scalar)\"")
    }
  }

  private static func isWhitespace(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar {
    case " ", "\t", "\n", "\r": true
    default: false
    }
  }

  private static func isDigit(_ scalar: Unicode.Scalar) -> Bool { ("0"..."9").contains(scalar) }

  // Unicode's properties are dear to ask for, and most of a query is ASCII.
  private static func beginsName(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar {
    case "a"..."z", "A"..."Z", "_", "$": true
    default: !scalar.isASCII && scalar.properties.isAlphabetic
    }
  }

  private static func beginsPath(_ scalar: Unicode.Scalar) -> Bool {
    scalar == "`" || self.beginsName(scalar)
  }

  /// Names with points between them, around which white space may be.
  private mutating func path() throws(GatewayError) -> GQLToken.Content {
    var path = ""
    var isQuoted = false
    while true {
      if self.current == "`" {
        path += try self.quoted(by: "`")
        isQuoted = true
      } else {
        path += self.name()
      }
      guard self.takesPoint() else { return isQuoted ? .quotedName(path) : .word(path) }
      path += "."
    }
  }

  /// Passes a point if a further name stands behind it.
  private mutating func takesPoint() -> Bool {
    let (index, line, column) = (self.index, self.line, self.column)
    self.skipWhitespace()
    if self.current == "." {
      self.advance()
      self.skipWhitespace()
      if let scalar = self.current, Self.beginsPath(scalar) { return true }
    }
    (self.index, self.line, self.column) = (index, line, column)
    return false
  }

  private mutating func skipWhitespace() {
    while let scalar = self.current, Self.isWhitespace(scalar) { self.advance() }
  }

  private mutating func name() -> String {
    let begin = self.index
    while let scalar = self.current, Self.beginsName(scalar) || Self.isDigit(scalar) {
      self.advance()
    }
    return String(self.scalars[begin..<self.index])
  }

  /// A text between quotes, on one line; a quote in it is doubled, or behind a backslash.
  private mutating func quoted(by quote: Unicode.Scalar) throws(GatewayError) -> String {
    let (line, column) = (self.line, self.column)
    var text = ""
    self.advance()
    while let scalar = self.current {
      self.advance()
      if scalar == quote {
        guard self.current == quote else { return text }
        self.advance()
        text.unicodeScalars.append(quote)
      } else if scalar == "\\" {
        guard let escaped = self.current else { break }
        guard let meaning = Self.meaning(ofEscaped: escaped) else {
          throw self.error("\"\\\(escaped)\" stands for nothing")
        }
        self.advance()
        text += meaning
      } else if scalar == "\n" {
        break
      } else {
        text.unicodeScalars.append(scalar)
      }
    }
    throw .invalid(
      "Lexical error at line \(self.line), column \(self.column): the line ends inside the quotes "
        + "that begin at line \(line), column \(column).")
  }

  private static func meaning(ofEscaped scalar: Unicode.Scalar) -> String? {
    switch scalar {
    case "n": "\n"
    case "r": "\r"
    case "t": "\t"
    case "0": "\0"
    case "b": "\u{8}"
    case "Z": "\u{1A}"
    case "'", "\"", "`", "\\": String(scalar)
    // As in patterns of SQL, where they stand for themselves so.
    case "%", "_": "\\\(scalar)"
    default: nil
    }
  }

  private mutating func number() throws(GatewayError) -> GQLToken.Content {
    let place = "line \(self.line), column \(self.column)"
    var text = ""
    var isDouble = false
    while let scalar = self.current {
      let isSign =
        (scalar == "+" || scalar == "-") && (text.last == "e" || text.last == "E")
      let isPart = scalar == "." || scalar == "e" || scalar == "E"
      guard Self.isDigit(scalar) || isPart || isSign else { break }
      isDouble = isDouble || isPart
      text.unicodeScalars.append(scalar)
      self.advance()
    }
    if isDouble {
      guard let number = Double(text) else {
        throw .invalid("Invalid double literal \"\(text)\" at \(place).")
      }
      return .double(number)
    }
    if let number = Int64(text) { return .integer(number) }
    // What only its sign puts in range: the parser negates it without overflow.
    if text == "\(Int64.max.magnitude + 1)" { return .integer(.min) }
    throw .invalid("Invalid integer literal \"\(text)\" at \(place).")
  }

  private func error(_ what: String) -> GatewayError {
    .invalid("Lexical error at line \(self.line), column \(self.column): \(what).")
  }
}
