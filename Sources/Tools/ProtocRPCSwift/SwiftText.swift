/// Swift source as it grows, line by line.
struct SwiftText {
  private(set) var text = ""
  private var depth = 0

  mutating func line(_ line: String = "") {
    if !line.isEmpty { self.text += String(repeating: "  ", count: self.depth) + line }
    self.text += "\n"
  }

  /// A head with its braces and what is between them.
  mutating func block<E: Error>(
    _ head: String, _ body: (inout SwiftText) throws(E) -> Void
  ) throws(E) {
    self.line("\(head) {")
    self.depth += 1
    try body(&self)
    self.depth -= 1
    self.line("}")
  }

  /// A call, on one line where it fits.
  mutating func call(_ function: String, _ arguments: [String]) {
    let whole = "\(function)(\(arguments.joined(separator: ", ")))"
    guard whole.count + 2 * self.depth > 100 else { return self.line(whole) }
    self.line("\(function)(")
    for (index, argument) in arguments.enumerated() {
      self.line("  \(argument)\(index + 1 < arguments.count ? "," : ")")")
    }
  }

  /// `case` lines stand one level out.
  mutating func caseLine(_ line: String) {
    self.depth -= 1
    self.line(line)
    self.depth += 1
  }

  /// A proto's comment as a doc comment, or `fallback` where it has none.
  mutating func document(_ comment: String, fallback: String? = nil) {
    var lines = comment.split(separator: "\n", omittingEmptySubsequences: false).map { line in
      String(line.hasPrefix(" ") ? line.dropFirst() : line)
    }
    while lines.last?.allSatisfy({ $0 == " " }) == true { lines.removeLast() }
    while lines.first?.allSatisfy({ $0 == " " }) == true { lines.removeFirst() }
    if lines.isEmpty, let fallback { lines = [fallback] }
    for line in lines { self.line(line.isEmpty ? "///" : "/// \(line)") }
  }
}
