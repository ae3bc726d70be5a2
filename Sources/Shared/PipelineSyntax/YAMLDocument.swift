import Domain
import Yams

/// A YAML text as one tree, or why it is none.
///
/// Yams stops at the first duplicate key, and expands aliases before anyone can count what they
/// come to. Both are taken out of its hands: an alias `*x` and a duplicate key are handed to it
/// with their first character replaced by one that no pipeline uses, so that every column stays
/// where it was, and are put right again when its nodes are taken over.
struct YAMLDocument {
  var root: YAMLValue
  /// Duplicate keys; what they hold is left out of the tree.
  var mistakes: [PipelineMistake]

  /// A text that is no YAML at all.
  struct SyntaxError: Error {
    var mistake: PipelineMistake
  }

  /// Stands for the `*` of an alias. Private-use characters mean nothing in any text.
  private static let aliasSign: Unicode.Scalar = "\u{E000}"
  /// Stand for the first character of a key that was there before, one for each.
  private static let duplicateSigns: ClosedRange<Unicode.Scalar> = "\u{E001}"..."\u{E0FF}"
  /// Far more than a build's record has room for. What follows takes time for each.
  private static let maximumValues = 50_000
  /// Each one costs a pass over the text.
  private static let maximumDuplicates = 20

  init(parsing text: String) throws(SyntaxError) {
    if let place = Self.place(
      of: text, where: { $0 == Self.aliasSign || Self.duplicateSigns.contains($0) })
    {
      throw SyntaxError(
        mistake: PipelineMistake(
          line: place.line, column: place.column,
          message: "a private-use character, which means nothing",
          suggestion: "remove it"))
    }
    var mistakes: [PipelineMistake] = []
    var scalars = Self.withAliasesHidden(Array(text.unicodeScalars))
    while true {
      switch try Self.attempt(scalars) {
      case .tree(let root):
        self.root = root
        self.mistakes = mistakes
        return
      case .duplicates(let duplicates):
        for duplicate in duplicates {
          mistakes.append(
            PipelineMistake(
              line: duplicate.line, column: duplicate.column,
              message: "the key \"\(duplicate.key.shortened)\" is here a second time",
              suggestion: "line \(duplicate.firstLine) has it first; keep one of them"))
          guard mistakes.count <= Self.maximumDuplicates,
            let sign = Unicode.Scalar(Self.duplicateSigns.lowerBound.value + UInt32(mistakes.count))
          else { throw SyntaxError(mistake: mistakes[0]) }
          scalars[duplicate.offset] = sign
        }
      }
    }
  }

  // MARK: Reading

  private struct Duplicate {
    var key: String
    var line: Int
    var column: Int
    var firstLine: Int
    /// In the scalars of the text.
    var offset: Int
  }

  private enum Attempt {
    case tree(YAMLValue)
    case duplicates([Duplicate])
  }

  private static func attempt(_ scalars: [Unicode.Scalar]) throws(SyntaxError) -> Attempt {
    var text = String.UnicodeScalarView()
    text.append(contentsOf: scalars)
    do {
      // Nodes hold their anchors weakly; the parser keeps them.
      // What a plain scalar means is ours to say: no regular expression need look at each.
      let parser = try Parser(yaml: String(text), resolver: .basic)
      let node = try parser.singleRoot()
      return try withExtendedLifetime(parser) {
        guard let node else {
          throw SyntaxError(
            mistake: PipelineMistake(
              line: 1, column: 1, message: "the file is empty",
              suggestion: "a pipeline has at least `jobs`"))
        }
        var reading = Reading()
        return .tree(try reading.value(node))
      }
    } catch let error as SyntaxError {
      throw error
    } catch YamlError.duplicatedKeysInMapping(let keys, let context) {
      // The error's place may be of any of them: look in the text for the others.
      let found = Self.duplicates(of: keys, from: context.mark, in: scalars)
      guard !found.isEmpty else {
        throw SyntaxError(
          mistake: PipelineMistake(
            line: context.mark.line, column: context.mark.column,
            message: "the key \"\(keys.first ?? "")\" is here more than once",
            suggestion: "keep one of them"))
      }
      return .duplicates(found)
    } catch {
      throw Self.syntaxError(error)
    }
  }

  /// Where one mapping has keys again: on lines with the same indentation as the first, before
  /// the text goes back to a lesser one.
  private static func duplicates(
    of keys: [String], from mark: Mark, in scalars: [Unicode.Scalar]
  ) -> [Duplicate] {
    let lines = Self.lineStarts(scalars)
    var found: [Duplicate] = []
    for key in keys {
      let wanted = Array(key.unicodeScalars)
      // Yams names one of the places and not the first: look at all of the file's.
      var places: [(line: Int, column: Int, offset: Int)] = []
      for (line, start) in lines.enumerated() {
        let end = line + 1 < lines.count ? lines[line + 1] : scalars.count
        var offset = start
        while offset < end, " -\"'?{,".unicodeScalars.contains(scalars[offset]) { offset += 1 }
        guard offset + wanted.count <= end,
          scalars[offset..<(offset + wanted.count)].elementsEqual(wanted)
        else { continue }
        let rest = scalars[(offset + wanted.count)..<end].drop {
          " \"'".unicodeScalars.contains($0)
        }
        if rest.first == ":" { places.append((line, offset - start, offset)) }
      }
      let first = places.first { $0.line + 1 == mark.line } ?? places.first
      guard let first else { continue }
      let siblings = places.filter { $0.column == first.column }
      // Those in the same run of lines that never go back to a lesser indentation.
      let run = Self.run(around: first.line, indentation: first.column, lines: lines, scalars)
      let inRun = siblings.filter { run.contains($0.line) }
      for place in inRun.dropFirst() {
        found.append(
          Duplicate(
            key: key, line: place.line + 1, column: place.column + 1,
            firstLine: inRun[0].line + 1, offset: place.offset))
      }
    }
    return found
  }

  private static func run(
    around line: Int, indentation: Int, lines: [Int], _ scalars: [Unicode.Scalar]
  ) -> ClosedRange<Int> {
    func isLess(_ index: Int) -> Bool {
      let end = index + 1 < lines.count ? lines[index + 1] : scalars.count
      let text = scalars[lines[index]..<end]
      let indent = text.prefix { $0 == " " || $0 == "-" }.count
      guard let first = text.dropFirst(indent).first, first != "\n", first != "#" else {
        return false
      }
      return indent < indentation
    }
    /// The dash of a list's item begins another mapping.
    func beginsItem(_ index: Int) -> Bool {
      let end = index + 1 < lines.count ? lines[index + 1] : scalars.count
      let text = scalars[lines[index]..<end].prefix(indentation)
      return text.contains("-")
    }
    var first = line
    while first > 0, !beginsItem(first), !isLess(first - 1) { first -= 1 }
    var last = line
    while last + 1 < lines.count, !isLess(last + 1), !beginsItem(last + 1) { last += 1 }
    return first...last
  }

  private static func lineStarts(_ scalars: [Unicode.Scalar]) -> [Int] {
    [0] + scalars.indices.filter { scalars[$0] == "\n" }.map { $0 + 1 }
  }

  private static func syntaxError(_ error: any Error) -> SyntaxError {
    func make(_ line: Int, _ column: Int, _ context: String?, _ problem: String) -> SyntaxError {
      SyntaxError(
        mistake: PipelineMistake(
          line: max(1, line), column: max(1, column),
          message: "no YAML: " + (context.map { "\($0), " } ?? "") + problem,
          suggestion: problem.contains("cannot start any token")
            ? "put the text in quotes" : "check indentation, quotes and brackets nearby"))
    }
    switch error {
    case YamlError.scanner(let context, let problem, let mark, _),
      YamlError.parser(let context, let problem, let mark, _),
      YamlError.composer(let context, let problem, let mark, _):
      // What was never closed is wrong where it was opened.
      let place = problem.contains("end of stream") ? context?.mark ?? mark : mark
      return make(place.line, place.column, context?.text, problem)
    case YamlError.reader(let problem, let offset, _, let yaml):
      let place = Self.place(of: yaml, offset: offset ?? 0)
      return make(place.line, place.column, nil, problem)
    default:
      return make(1, 1, nil, "\(error)")
    }
  }

  private static func place(
    of text: String, where isWanted: (Unicode.Scalar) -> Bool
  ) -> (line: Int, column: Int)? {
    var (line, column) = (1, 1)
    for scalar in text.unicodeScalars {
      if isWanted(scalar) { return (line, column) }
      if scalar == "\n" { (line, column) = (line + 1, 1) } else { column += 1 }
    }
    return nil
  }

  private static func place(of text: String, offset: Int) -> (line: Int, column: Int) {
    var (line, column) = (1, 1)
    for character in text.prefix(offset) {
      if character.isNewline { (line, column) = (line + 1, 1) } else { column += 1 }
    }
    return (line, column)
  }

  // MARK: Aliases

  /// The text with the star of everything that could be an alias replaced. What turns out to be
  /// something else gets it back.
  private static func withAliasesHidden(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var result = scalars
    for index in scalars.indices.dropLast()
    where scalars[index] == "*" && scalars[index + 1].isAnchorName {
      let before = index > 0 ? scalars[index - 1] : "\n"
      if " \t\n[{,:?-".unicodeScalars.contains(before) { result[index] = Self.aliasSign }
    }
    return result
  }

  /// Turns Yams' nodes into ours, putting aliased values where their aliases stand. Values share
  /// their storage, so a bomb of aliases costs as little as it takes to write it.
  private struct Reading {
    private var anchors: [String: YAMLValue] = [:]

    private func bounded(_ value: YAMLValue, size: Int) throws(SyntaxError) -> YAMLValue {
      guard size <= YAMLDocument.maximumValues else {
        throw SyntaxError(
          mistake: PipelineMistake(
            line: value.line, column: value.column,
            message: "more than \(YAMLDocument.maximumValues) values, each alias counted in full",
            suggestion: "write fewer; move scripts and data into files of their own"))
      }
      var value = value
      value.size = size
      return value
    }

    mutating func value(_ node: Node) throws(SyntaxError) -> YAMLValue {
      let (line, column) = (node.mark?.line ?? 1, node.mark?.column ?? 1)
      let value: YAMLValue
      switch node {
      case .scalar(let scalar):
        let isPlain = scalar.style == .plain || scalar.style == .any
        if isPlain, scalar.string.unicodeScalars.first == YAMLDocument.aliasSign {
          return try self.aliased(String(scalar.string.dropFirst()), line: line, column: column)
        }
        value = YAMLValue(
          content: .scalar(Self.restored(scalar.string), isPlain: isPlain), line: line,
          column: column)
      case .sequence(let sequence):
        var items: [YAMLValue] = []
        var size = 1
        for item in sequence {
          items.append(try self.value(item))
          size += items.last?.size ?? 0
        }
        value = try self.bounded(
          YAMLValue(content: .sequence(items), line: line, column: column), size: size)
      case .mapping(let mapping):
        var entries: [YAMLValue.Entry] = []
        var size = 1
        for (key, content) in mapping {
          let isDuplicate =
            (key.scalar?.string.unicodeScalars.first)
            .map(YAMLDocument.duplicateSigns.contains) ?? false
          let entry = YAMLValue.Entry(
            key: try self.value(key), value: try self.value(content))
          if !isDuplicate { entries.append(entry) }
          size += entry.key.size + entry.value.size
        }
        value = try self.bounded(
          YAMLValue(content: .mapping(entries), line: line, column: column), size: size)
      case .alias:
        // Only written by Yams' encoder.
        value = YAMLValue(content: .scalar("", isPlain: true), line: line, column: column)
      }
      if let anchor = node.anchor { self.anchors[anchor.rawValue] = value }
      return value
    }

    private func aliased(_ name: String, line: Int, column: Int) throws(SyntaxError) -> YAMLValue {
      if let value = self.anchors[name] { return value }
      throw SyntaxError(
        mistake: PipelineMistake(
          line: line, column: column, message: "*\(name.shortened) names no anchor above it",
          suggestion: name.nearest(in: self.anchors.keys.sorted()).map { "did you mean *\($0)?" }
            ?? "an anchor is written &\(name.shortened)"))
    }

    private static func restored(_ text: String) -> String {
      guard text.unicodeScalars.contains(YAMLDocument.aliasSign) else { return text }
      var scalars = String.UnicodeScalarView()
      scalars.append(
        contentsOf: text.unicodeScalars.map { $0 == YAMLDocument.aliasSign ? "*" : $0 })
      return String(scalars)
    }
  }
}

extension Unicode.Scalar {
  fileprivate var isAnchorName: Bool {
    switch self {
    case "a"..."z", "A"..."Z", "0"..."9", "_", "-": true
    default: false
    }
  }
}
