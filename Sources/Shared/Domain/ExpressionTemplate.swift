/// Text in which `${{ ... }}` stands for what the expression in it comes to.
package struct Template: Hashable, Sendable {
  package enum Part: Hashable, Sendable {
    case text(String)
    case expression(Expression)
  }

  package let parts: [Part]

  /// Where a text holds an expression that is none.
  package struct ParseError: Error, Hashable, Sendable {
    /// Which `${{` of the text, from 0.
    package var occurrence: Int
    /// Characters behind that `${{`.
    package var offset: Int
    package var message: String
  }

  package init(parsing text: String) throws(ParseError) {
    // Most texts hold no expression: those must cost nothing.
    guard text.contains(substring: "${{") else {
      self.parts = text.isEmpty ? [] : [.text(text)]
      return
    }
    var parts: [Part] = []
    var literal = ""
    let characters = Array(text)
    var position = 0
    var occurrence = 0
    while position < characters.count {
      guard characters[position...].starts(with: ["$", "{", "{"]) else {
        literal.append(characters[position])
        position += 1
        continue
      }
      let start = position + 3
      guard let end = Self.end(of: characters, from: start) else {
        throw ParseError(
          occurrence: occurrence, offset: 0, message: "\"${{\" without its closing \"}}\"")
      }
      if !literal.isEmpty { parts.append(.text(literal)) }
      literal = ""
      do {
        parts.append(.expression(try Expression(parsing: String(characters[start..<end]))))
      } catch {
        throw ParseError(occurrence: occurrence, offset: error.offset, message: error.message)
      }
      occurrence += 1
      position = end + 2
    }
    if !literal.isEmpty { parts.append(.text(literal)) }
    self.parts = parts
  }

  /// The position of `}}`, which inside 'text' ends nothing.
  private static func end(of characters: [Character], from start: Int) -> Int? {
    var quoted = false
    var position = start
    while position + 1 < characters.count {
      if characters[position] == "'" { quoted.toggle() }
      if !quoted, characters[position] == "}", characters[position + 1] == "}" { return position }
      position += 1
    }
    return nil
  }

  /// Whether no expression is in it.
  package var isPlain: Bool {
    self.parts.allSatisfy { if case .text = $0 { true } else { false } }
  }

  /// Every path of names in it.
  package var references: [[String]] {
    self.parts.flatMap { part -> [[String]] in
      if case .expression(let expression) = part { expression.references } else { [] }
    }
  }

  /// The text with every expression replaced by what it comes to.
  package func text(_ status: StatusFacts = StatusFacts(), _ lookup: Expression.Lookup) -> String {
    self.parts.reduce(into: "") { text, part in
      switch part {
      case .text(let literal): text += literal
      case .expression(let expression): text += expression.value(status, lookup).text
      }
    }
  }

  /// The text with those names put in that have a value already. What cannot be decided yet stays
  /// `${{ ... }}`, for who knows more.
  package func partialText(_ known: Expression.Lookup) -> String {
    self.parts.reduce(into: "") { text, part in
      switch part {
      case .text(let literal): text += literal
      case .expression(let expression):
        let left = expression.substituting(known)
        let value = left.isConstant ? left.value(StatusFacts(), { _ in nil }).text : nil
        // A value that looks like an expression must not become one in the next hands.
        if let value, !value.contains(substring: "${{") {
          text += value
        } else {
          text += "${{ \(left) }}"
        }
      }
    }
  }
}

/// An `if:`: an expression, with or without `${{ }}` around it.
///
/// One that calls no status function means `success() && ...`; an empty one `success()`.
package struct Condition: Hashable, Sendable {
  package let expression: Expression?

  package init(parsing text: String) throws(Expression.ParseError) {
    let range = Self.expressionRange(in: Array(text))
    guard !range.isEmpty else {
      self.expression = nil
      return
    }
    do {
      self.expression = try Expression(parsing: String(Array(text)[range]))
    } catch {
      throw Expression.ParseError(
        offset: error.offset + range.lowerBound, message: error.message)
    }
  }

  /// Where the expression itself stands: without blanks around it, and without `${{ }}`.
  private static func expressionRange(in text: [Character]) -> Range<Int> {
    guard let first = text.firstIndex(where: { !$0.isWhitespace }),
      let last = text.lastIndex(where: { !$0.isWhitespace })
    else { return 0..<0 }
    let trimmed = text[first...last]
    // `${{ a }} && ${{ b }}` is not one expression in brackets; it fails to parse as it should.
    if trimmed.count >= 5, trimmed.starts(with: ["$", "{", "{"]), trimmed.suffix(2) == ["}", "}"] {
      return (first + 3)..<(last - 1)
    }
    return first..<(last + 1)
  }

  /// Whether what it stands on is to be done.
  package func holds(_ status: StatusFacts, _ lookup: Expression.Lookup) -> Bool {
    guard let expression else { return status.isFine }
    if !expression.asksStatus, !status.isFine { return false }
    return expression.value(status, lookup).isTrue
  }

  /// The condition as text, with those names put in that have a value already.
  package func partialText(_ known: Expression.Lookup) -> String {
    self.expression.map { "\($0.substituting(known))" } ?? ""
  }
}
