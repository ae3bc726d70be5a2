import Domain

/// One thing that is wrong in a millrace.yaml.
package struct PipelineMistake: Hashable, Sendable, CustomStringConvertible {
  /// From 1.
  package var line: Int
  /// In characters, from 1.
  package var column: Int
  /// What is wrong, with the value.
  package var message: String
  /// What would be right; may be empty.
  package var suggestion: String

  package init(line: Int, column: Int, message: String, suggestion: String) {
    self.line = line
    self.column = column
    self.message = message.limited(toBytes: Self.maximumMessageBytes)
    self.suggestion = suggestion.limited(toBytes: Self.maximumSuggestionBytes)
  }

  /// Messages quote what people wrote, and lists of what there is.
  private static let maximumMessageBytes = 300
  private static let maximumSuggestionBytes = 200

  package var description: String {
    "\(self.line):\(self.column): \(self.message)"
      + (self.suggestion.isEmpty ? "" : "; \(self.suggestion)")
  }
}

/// Every mistake of a millrace.yaml, in the order of the file.
package struct PipelineMistakes: Error, Hashable, Sendable, CustomStringConvertible {
  /// The name to use for the file.
  package var path: String
  /// At least one, at most ``maximumCount``; the last may say how many more there are.
  package private(set) var mistakes: [PipelineMistake]
  /// All that were found, with those that are left out.
  package let count: Int

  /// - Parameter count: How many were found, where these are the first of them.
  package init(path: String, mistakes: [PipelineMistake], count: Int? = nil) {
    self.path = path
    self.mistakes = mistakes
    self.count = count ?? mistakes.count
    if self.count > self.mistakes.count { self.leaveOut(behind: mistakes.count - 1) }
  }

  /// More than these help nobody, and an error has to fit into a call's trailers.
  package static let maximumCount = 50

  /// At most so many lines, 2 at least.
  package func limited(to lines: Int) -> Self {
    guard lines < self.mistakes.count else { return self }
    var fewer = self
    fewer.leaveOut(behind: lines - 1)
    return fewer
  }

  /// Has one line stand for all mistakes behind the first ones.
  private mutating func leaveOut(behind first: Int) {
    self.mistakes.removeLast(self.mistakes.count - first - 1)
    self.mistakes[first].message = "and \(self.count - first) more mistakes"
    self.mistakes[first].suggestion = ""
  }

  /// A line for each, as compilers write them.
  package var description: String {
    self.mistakes.map { "\(self.path):\($0)" }.joined(separator: "\n")
  }
}
