import Domain

/// What expressions may speak of at one place of a pipeline.
struct Scope {
  /// `matrix`, `env`, `needs`, `steps`.
  var contexts: [String]
  /// Nil: any name is allowed.
  var matrix: [String]?
  var needs: [String] = []
  /// Ids of the steps before this one.
  var steps: [String] = []
}

/// The text of the file, to find the place of what stands inside a scalar.
struct SourceText {
  private let lines: [Substring]
  /// Characters that are looked through for one place; beyond them the value's own will do.
  private static let maximumSearch = 10_000

  init(_ text: String) {
    self.lines = text.split(omittingEmptySubsequences: false) { $0.isNewline }
  }

  /// The place `offset` characters behind an occurrence of `${{` in the value that begins there;
  /// without an offset, where the expression's first word stands.
  func place(
    ofOccurrence occurrence: Int, offset: Int?, behind value: YAMLValue
  ) -> (line: Int, column: Int) {
    var left = occurrence
    var budget = Self.maximumSearch
    for index in max(0, value.line - 1)..<max(value.line, self.lines.count) {
      guard index < self.lines.count, budget > 0 else { break }
      let line = Array(self.lines[index].prefix(budget))
      budget -= line.count + 1
      var column = index == value.line - 1 ? value.column - 1 : 0
      while column + 2 < line.count {
        if line[column] == "$", line[column + 1] == "{", line[column + 2] == "{" {
          if left == 0 {
            let blanks = line[(column + 3)...].prefix { $0 == " " }.count
            return (index + 1, column + 4 + (offset ?? blanks))
          }
          left -= 1
        }
        column += 1
      }
    }
    return (value.line, value.column)
  }

  /// Whether the value that begins there is in quotes, and so begins a character later.
  func isQuoted(_ value: YAMLValue) -> Bool {
    guard value.line >= 1, value.line <= self.lines.count, value.column <= Self.maximumSearch
    else { return false }
    let line = self.lines[value.line - 1]
    let first = line.dropFirst(value.column - 1).first
    return first == "\"" || first == "'"
  }
}

extension PipelineReader {
  /// A text in which expressions may stand; notes those that are wrong.
  mutating func template(_ value: YAMLValue, _ name: String, _ scope: Scope) -> String? {
    guard let text = self.text(value, name) else { return nil }
    do {
      let template = try Template(parsing: text)
      var occurrence = 0
      for case .expression(let expression) in template.parts {
        for path in expression.references where !self.hasEnough {
          if let (message, suggestion) = self.refusal(of: path, in: scope) {
            let source = self.source
            self.note(
              source.place(ofOccurrence: occurrence, offset: nil, behind: value), message,
              suggestion)
          }
        }
        occurrence += 1
      }
      return text
    } catch {
      let source = self.source
      self.note(
        source.place(ofOccurrence: error.occurrence, offset: error.offset, behind: value),
        "a bad expression in `\(name)`: \(error.message)",
        "an expression looks like ${{ matrix.os == 'linux' }}")
      return nil
    }
  }

  /// An `if`; notes what is wrong in it.
  mutating func condition(_ value: YAMLValue, _ scope: Scope) -> String? {
    guard let text = self.text(value, "if") else { return nil }
    do {
      let condition = try Condition(parsing: text)
      for path in condition.expression?.references ?? [] where !self.hasEnough {
        if let (message, suggestion) = self.refusal(of: path, in: scope) {
          self.note(value, message, suggestion)
        }
      }
      return text
    } catch {
      let start = value.column + (self.source.isQuoted(value) ? 1 : 0)
      self.note(
        (value.line, start + error.offset), "a bad expression in `if`: \(error.message)",
        "a condition looks like matrix.os == 'linux' && success()")
      return nil
    }
  }

  /// Why a path of names means nothing here, and what would.
  private func refusal(of path: [String], in scope: Scope) -> (message: String, String)? {
    let written = path.joined(separator: ".")
    func refused(_ why: String, _ word: String, _ known: [String]) -> (String, String) {
      (
        why,
        word.nearest(in: known).map { "did you mean \"\($0)\"?" }
          ?? (known.isEmpty ? "there is none here" : "there are \(known.listed)")
      )
    }
    guard scope.contexts.contains(path[0]) else {
      return refused("\"\(written)\" means nothing here", path[0], scope.contexts)
    }
    guard path.count >= 2 else {
      return ("\"\(written)\" alone has no value", "name a part of it: \(written).name")
    }
    switch path[0] {
    case "matrix":
      guard let known = scope.matrix, !known.contains(path[1]) else { return nil }
      return refused("the matrix has no \"\(path[1])\"", path[1], known)
    case "needs":
      guard scope.needs.contains(path[1]) else {
        return refused("\"\(path[1])\" is not among this job's `needs`", path[1], scope.needs)
      }
      return path.count == 3 && path[2] == "result"
        ? nil : ("\"\(written)\" has no value", "write needs.\(path[1]).result")
    case "steps":
      guard scope.steps.contains(path[1]) else {
        return refused("no step before this one has the id \"\(path[1])\"", path[1], scope.steps)
      }
      let isKnown =
        path.count == 3 && path[2] == "outcome" || path.count == 4 && path[2] == "outputs"
      return isKnown
        ? nil
        : (
          "\"\(written)\" has no value",
          "write steps.\(path[1]).outcome or steps.\(path[1]).outputs.name"
        )
    default:
      return nil
    }
  }
}
