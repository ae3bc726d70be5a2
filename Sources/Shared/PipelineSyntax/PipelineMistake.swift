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
    self.message = message
    self.suggestion = suggestion
  }

  package var description: String {
    "\(self.line):\(self.column): \(self.message)"
      + (self.suggestion.isEmpty ? "" : "; \(self.suggestion)")
  }
}

/// Every mistake of a millrace.yaml, in the order of the file.
package struct PipelineMistakes: Error, Hashable, Sendable, CustomStringConvertible {
  /// The name to use for the file.
  package var path: String
  /// At least one, at most ``maximumCount``.
  package var mistakes: [PipelineMistake]

  package init(path: String, mistakes: [PipelineMistake]) {
    self.path = path
    self.mistakes = mistakes
  }

  /// More than these help nobody, and an error has to fit into a call's trailers.
  package static let maximumCount = 50

  /// A line for each, as compilers write them.
  package var description: String {
    self.mistakes.map { "\(self.path):\($0)" }.joined(separator: "\n")
  }
}
