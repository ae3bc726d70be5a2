/// What stands between `${{` and `}}`, parsed.
///
/// Its words are those of GitHub Actions: null, booleans, numbers, 'text', contexts such as
/// `matrix.os` or `matrix['os']`, `!`, `<`, `<=`, `>`, `>=`, `==`, `!=`, `&&`, `||`, parentheses,
/// and the functions of ``Function``. Pure: contexts come in through a ``Lookup``.
package struct Expression: Hashable, Sendable, CustomStringConvertible {
  /// Answers what a path of names means, `["matrix", "os"]`; nil is a name that has no value here.
  package typealias Lookup = ([String]) -> ExpressionValue?

  /// What can be called.
  package enum Function: String, Hashable, Sendable, CaseIterable {
    /// Nothing before has failed, and nobody has cancelled.
    case success
    /// Something before has failed, and nobody has cancelled.
    case failure
    case always
    case cancelled
    /// Whether text contains other text, without regard to case.
    case contains
    case startsWith
    case endsWith

    var arity: Int {
      switch self {
      case .success, .failure, .always, .cancelled: 0
      case .contains, .startsWith, .endsWith: 2
      }
    }

    /// Whether it asks how things stand.
    var isStatus: Bool { self.arity == 0 }
  }

  enum Comparison: String, Hashable, Sendable {
    case equal = "=="
    case notEqual = "!="
    case less = "<"
    case lessOrEqual = "<="
    case greater = ">"
    case greaterOrEqual = ">="
  }

  indirect enum Node: Hashable, Sendable {
    case literal(ExpressionValue)
    case reference([String])
    case call(Function, [Node])
    case not(Node)
    case and(Node, Node)
    case or(Node, Node)
    case compare(Comparison, Node, Node)
  }

  var root: Node

  init(root: Node) {
    self.root = root
  }

  /// What it comes to.
  package func value(_ status: StatusFacts, _ lookup: Lookup) -> ExpressionValue {
    Self.evaluate(self.root, status, lookup)
  }

  private static func evaluate(
    _ node: Node, _ status: StatusFacts, _ lookup: Lookup
  ) -> ExpressionValue {
    switch node {
    case .literal(let value): return value
    case .reference(let path): return lookup(path) ?? .null
    case .not(let inner): return .bool(!Self.evaluate(inner, status, lookup).isTrue)
    // `&&` and `||` come to one of their sides, so that `matrix.cc || 'cc'` is a default.
    case .and(let left, let right):
      let value = Self.evaluate(left, status, lookup)
      return value.isTrue ? Self.evaluate(right, status, lookup) : value
    case .or(let left, let right):
      let value = Self.evaluate(left, status, lookup)
      return value.isTrue ? value : Self.evaluate(right, status, lookup)
    case .compare(let comparison, let left, let right):
      let (left, right) = (
        Self.evaluate(left, status, lookup), Self.evaluate(right, status, lookup)
      )
      switch comparison {
      case .equal: return .bool(left.isEqual(to: right))
      case .notEqual: return .bool(!left.isEqual(to: right))
      case .less: return .bool(left.isLess(than: right))
      case .lessOrEqual: return .bool(left.isLess(than: right) || left.isEqual(to: right))
      case .greater: return .bool(right.isLess(than: left))
      case .greaterOrEqual: return .bool(right.isLess(than: left) || left.isEqual(to: right))
      }
    case .call(let function, let arguments):
      let texts = arguments.map { Self.evaluate($0, status, lookup).text.lowercased() }
      switch function {
      case .success: return .bool(status.isFine)
      case .failure: return .bool(status.anyFailed && !status.cancelled)
      case .always: return .bool(true)
      case .cancelled: return .bool(status.cancelled)
      case .contains: return .bool(texts[0].contains(substring: texts[1]))
      case .startsWith: return .bool(texts[0].hasPrefix(texts[1]))
      case .endsWith: return .bool(texts[0].hasSuffix(texts[1]))
      }
    }
  }

  /// The expression with every name that `known` has a value for replaced by that value.
  package func substituting(_ known: Lookup) -> Expression {
    Expression(root: Self.substitute(self.root, known))
  }

  private static func substitute(_ node: Node, _ known: Lookup) -> Node {
    switch node {
    case .literal: node
    case .reference(let path): known(path).map { .literal($0) } ?? node
    case .not(let inner): .not(Self.substitute(inner, known))
    case .and(let left, let right):
      .and(Self.substitute(left, known), Self.substitute(right, known))
    case .or(let left, let right):
      .or(Self.substitute(left, known), Self.substitute(right, known))
    case .compare(let comparison, let left, let right):
      .compare(comparison, Self.substitute(left, known), Self.substitute(right, known))
    case .call(let function, let arguments):
      .call(function, arguments.map { Self.substitute($0, known) })
    }
  }

  /// Whether it comes to the same everywhere: it names no context and asks for no status.
  package var isConstant: Bool {
    self.references.isEmpty && !self.asksStatus
  }

  /// Every path of names in it, in the order they are written.
  package var references: [[String]] {
    var found: [[String]] = []
    Self.visit(self.root) { if case .reference(let path) = $0 { found.append(path) } }
    return found
  }

  /// Whether it calls success(), failure(), always() or cancelled(): a condition that does not
  /// means `success() && ...`.
  package var asksStatus: Bool {
    var found = false
    Self.visit(self.root) {
      if case .call(let function, _) = $0, function.isStatus { found = true }
    }
    return found
  }

  private static func visit(_ node: Node, _ body: (Node) -> Void) {
    body(node)
    switch node {
    case .literal, .reference: break
    case .not(let inner): Self.visit(inner, body)
    case .and(let left, let right), .or(let left, let right), .compare(_, let left, let right):
      Self.visit(left, body)
      Self.visit(right, body)
    case .call(_, let arguments): for argument in arguments { Self.visit(argument, body) }
    }
  }

  /// The expression as text that parses to the same expression.
  package var description: String { Self.write(self.root) }

  private static func write(_ node: Node) -> String {
    switch node {
    case .literal(let value): return value.literal
    case .reference(let path):
      // A name that is no word stands in brackets.
      return path.dropFirst().reduce(path[0]) { text, name in
        name.allSatisfy(\.isExpressionWord) && name.first?.isNumber == false
          ? "\(text).\(name)" : "\(text)[\(ExpressionValue.string(name).literal)]"
      }
    case .not(let inner): return "!\(Self.write(inner))"
    case .and(let left, let right): return "(\(Self.write(left)) && \(Self.write(right)))"
    case .or(let left, let right): return "(\(Self.write(left)) || \(Self.write(right)))"
    case .compare(let comparison, let left, let right):
      return "(\(Self.write(left)) \(comparison.rawValue) \(Self.write(right)))"
    case .call(let function, let arguments):
      return "\(function.rawValue)(\(arguments.map(Self.write).joined(separator: ", ")))"
    }
  }
}

/// How things stand where a condition is asked: what `success()` and its siblings look at.
package struct StatusFacts: Hashable, Sendable {
  /// Something that came before did not succeed.
  package var anyFailed: Bool
  package var cancelled: Bool
  /// Something that this stands on was skipped: no success, and no failure either.
  package var anySkipped: Bool

  package init(anyFailed: Bool = false, cancelled: Bool = false, anySkipped: Bool = false) {
    self.anyFailed = anyFailed
    self.cancelled = cancelled
    self.anySkipped = anySkipped
  }

  /// Whether `success()` holds.
  package var isFine: Bool { !self.anyFailed && !self.cancelled && !self.anySkipped }
}

extension Character {
  /// Whether it may stand in a name: a letter, a digit, `_` or `-`.
  var isExpressionWord: Bool {
    self.isASCII && (self.isLetter || self.isNumber || self == "_" || self == "-")
  }
}

extension String {
  /// Whether `other` stands somewhere in it. (The standard library's own takes a pattern engine.)
  func contains(substring other: String) -> Bool {
    guard let first = other.utf8.first else { return true }
    // Most texts do not even hold that.
    let mayHold = self.utf8.withContiguousStorageIfAvailable { $0.contains(first) } ?? true
    if !mayHold { return false }
    let (text, wanted) = (Array(self.utf8), Array(other.utf8))
    guard wanted.count <= text.count else { return false }
    return (0...(text.count - wanted.count)).contains { start in
      text[start..<(start + wanted.count)].elementsEqual(wanted)
    }
  }
}
