/// What a service's command line asks for.
package enum Invocation: Sendable {
  case run(SettingValues)
  case help, version, printConfiguration
}

/// Everything that is wrong with flags, environment and file, one line each.
package struct InvocationError: Error, Sendable, Hashable, CustomStringConvertible {
  package let lines: [String]
  package var description: String { self.lines.joined(separator: "\n") }
}

extension Invocation {
  /// Reads what was given: flags before environment variables before the file.
  ///
  /// - Parameters:
  ///   - settings: All settings of the program; one of them is `config`.
  ///   - arguments: Without the program's own name.
  ///   - readFile: The text of the configuration file at a path.
  package static func read(
    settings: [Setting], arguments: [String], environment: [String: String],
    readFile: (String) throws -> String
  ) throws(InvocationError) -> Invocation {
    var lines: [String] = []
    var flags: [(name: String, text: String)] = []
    var rest = arguments[...]
    while let argument = rest.popFirst() {
      switch argument {
      case "--help", "-h": return .help
      case "--version": return .version
      case "--print-config": return .printConfiguration
      default: break
      }
      guard argument.hasPrefix("--") else {
        lines.append("\"\(argument)\" is not expected: settings are flags, see --help")
        continue
      }
      let body = argument.dropFirst(2)
      let name = String(body.prefix { $0 != "=" })
      guard let setting = settings.first(where: { $0.name == name }) else {
        lines.append(
          "there is no flag --\(name)" + self.hint(for: name, in: settings, prefix: "--"))
        // Its value, if it has one, is no further mistake.
        if !body.contains("="), let next = rest.first, !next.hasPrefix("--") { rest.removeFirst() }
        continue
      }
      if body.contains("=") {
        flags.append((name, String(body.dropFirst(name.count + 1))))
      } else if setting.kind == .boolean, rest.first != "true", rest.first != "false" {
        flags.append((name, "true"))
      } else if let value = rest.popFirst() {
        flags.append((name, value))
      } else {
        lines.append("\(setting.flag) has no value")
      }
    }

    var values = SettingValues(settings)
    for setting in settings {
      // Composition tools pass an unset variable on as an empty one.
      guard let text = environment[setting.environmentName], !text.isEmpty else { continue }
      let source = SettingSource.environment(name: setting.environmentName)
      values.give(setting.name, SettingValues.Given(text: text, source: source))
    }
    for flag in flags {
      values.give(
        flag.name, SettingValues.Given(text: flag.text, source: .flag("--\(flag.name)")))
    }
    let path = values.string("config")
    if !path.isEmpty {
      do {
        let entries = try ConfigurationFile.read(readFile(path), path: path, settings: settings)
        for entry in entries {
          switch values.source(entry.name) {
          case .flag, .environment: break
          case .file, .defaultValue:
            let source = SettingSource.file(path: path, line: entry.line)
            values.give(entry.name, SettingValues.Given(text: entry.text, source: source))
          }
        }
      } catch let error as InvocationError {
        lines += error.lines
      } catch {
        lines.append(
          "config cannot be \"\(path)\" (\(values.source("config"))): \(error)")
      }
    }
    lines += values.complaints.map(\.description)
    guard lines.isEmpty else { throw InvocationError(lines: lines) }
    return .run(values)
  }

  /// ", did you mean --redis?", or nothing.
  static func hint(for name: String, in settings: [Setting], prefix: String) -> String {
    Spelling.nearest(to: name, among: settings.map(\.name))
      .map { ", did you mean \(prefix)\($0)?" } ?? ""
  }

  /// The text of `--help`.
  package static func help(program: String, summary: String, settings: [Setting]) -> String {
    var text = """
      \(program): \(summary)

      Usage: \(program) [--SETTING VALUE]...

      A flag goes before its environment variable, which goes before the file of --config.


      """
    for setting in settings {
      let value = setting.defaultText.isEmpty ? "none" : setting.defaultText
      text += "  \(setting.flag) \(setting.kind.placeholder)\n"
      text += "      \(setting.help)\n"
      text += "      default \(value); \(setting.environmentName)\n"
    }
    text += """

        --print-config
            Print a configuration file with every setting at its default
        --version
            Print the version
        --help
            Print this

      """
    return text
  }
}

extension Setting.Kind {
  /// What stands for a value in `--help`.
  var placeholder: String {
    switch self {
    case .string: "TEXT"
    case .integer: "NUMBER"
    case .boolean: "true|false"
    case .duration: "DURATION"
    case .byteCount: "SIZE"
    case .address: "ADDRESS"
    case .choice(let words): words.joined(separator: "|")
    }
  }
}
