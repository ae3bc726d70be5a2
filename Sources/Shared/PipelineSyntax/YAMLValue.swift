/// A node of a YAML document, with its place in the text.
struct YAMLValue {
  enum Content {
    case scalar(String, isPlain: Bool)
    case sequence([YAMLValue])
    case mapping([Entry])
  }

  struct Entry {
    var key: YAMLValue
    var value: YAMLValue
  }

  var content: Content
  /// From 1; a value that came through an alias stands where it was written.
  var line: Int
  var column: Int
  /// Values in it, itself and what stands for its aliases included; bounded by the document.
  var size = 1

  /// Whether nothing is written there, or `null`.
  var isNull: Bool {
    if case .scalar(let text, isPlain: true) = self.content {
      return ["", "~", "null", "Null", "NULL"].contains(text)
    }
    return false
  }

  /// The text of a scalar, whatever YAML takes it for.
  var text: String? {
    if case .scalar(let text, _) = self.content { return text }
    return nil
  }

  /// What it is, for people.
  var kind: String {
    switch self.content {
    case .scalar where self.isNull: "nothing"
    case .scalar(let text, _): "\"\(text.shortened)\""
    case .sequence: "a list"
    case .mapping: "a mapping"
    }
  }
}

extension String {
  /// Its first line, and not all of that if it is long: for messages.
  var shortened: String {
    let line = self.prefix { !$0.isNewline }
    return line.count > 60 ? "\(line.prefix(57))..." : line.count < self.count ? "\(line)..." : self
  }
}
