import Yams

/// The YAML file of `--config`: one key for each setting.
package enum ConfigurationFile {
  /// One line of it.
  package struct Entry: Sendable, Hashable {
    package var name: String
    package var text: String
    package var line: Int
  }

  /// A configuration is a page; what is larger is some other file.
  package static let maximumBytes = 1 << 20

  /// The settings that a file gives.
  ///
  /// - Throws: ``InvocationError`` with every unknown key, repeated key and unusable value.
  package static func read(
    _ text: String, path: String, settings: [Setting]
  ) throws(InvocationError) -> [Entry] {
    let root: Node?
    do {
      root = try Yams.compose(yaml: text)
    } catch {
      throw InvocationError(lines: ["\(path): \(self.firstLine(of: error))"])
    }
    guard let root else { return [] }
    guard let mapping = root.mapping else {
      if root.scalar?.string.isEmpty ?? false { return [] }
      throw InvocationError(lines: [
        "\(path):\(root.mark?.line ?? 1): expected settings, one \"name: value\" on each line"
      ])
    }
    var entries: [Entry] = []
    var lines: [String] = []
    for (key, value) in mapping {
      let line = key.mark?.line ?? 1
      let name = key.scalar?.string ?? ""
      guard name != "config", settings.contains(where: { $0.name == name }) else {
        let hint = Invocation.hint(for: name, in: settings, prefix: "")
        lines.append("\(path):\(line): there is no setting \"\(name)\"" + hint)
        continue
      }
      guard let text = self.text(value) else {
        lines.append("\(path):\(line): \(name) must be one value or a list of values")
        continue
      }
      entries.append(Entry(name: name, text: text, line: line))
    }
    guard lines.isEmpty else { throw InvocationError(lines: lines) }
    return entries
  }

  /// The file with every setting at its default, which `services/<name>/config.yaml` is.
  package static func defaults(program: String, settings: [Setting]) -> String {
    var text = """
      # \(program): every setting at its default.
      # A flag goes before its environment variable, which goes before this file.

      """
    for setting in settings where setting.name != "config" {
      text += """

        # \(setting.help).
        # Flag \(setting.flag), environment variable \(setting.environmentName).
        \(setting.name): \(self.quoted(setting.defaultText))

        """
    }
    return text
  }

  private static func text(_ node: Node) -> String? {
    if let scalar = node.scalar { return scalar.string }
    guard let sequence = node.sequence else { return nil }
    let words = sequence.compactMap { $0.scalar?.string }
    return words.count == sequence.count ? words.joined(separator: ",") : nil
  }

  /// Bare where nobody could read it as anything else.
  private static func quoted(_ text: String) -> String {
    let isPlain =
      !text.isEmpty
      && text.utf8.allSatisfy {
        (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0)
          || $0 == 0x2D || $0 == 0x2E || $0 == 0x2F || $0 == 0x5F
      } && text.utf8.first != 0x2D
    if isPlain { return text }
    let escaped = text.flatMap { $0 == "\"" || $0 == "\\" ? ["\\", $0] : [$0] }
    return "\"\(String(escaped))\""
  }

  /// The parser's own message, which goes on with a picture of the place.
  private static func firstLine(of error: any Error) -> String {
    if case YamlError.duplicatedKeysInMapping(let duplicates, let context) = error {
      return "line \(context.mark.line): repeated: \(duplicates.sorted().joined(separator: ", "))"
    }
    let line = "\(error)".prefix { $0 != "\n" }
    return line.hasSuffix(":") ? String(line.dropLast()) : String(line)
  }
}
