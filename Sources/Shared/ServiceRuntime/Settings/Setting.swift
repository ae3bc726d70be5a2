/// One thing an operator can set: a flag, an environment variable and a key of the
/// configuration file, with a default that works.
///
///     Setting("redis", default: "127.0.0.1:6379", help: "Redis, HOST:PORT or unix:PATH")
///
/// is `--redis`, `MILLRACE_REDIS` and `redis:`.
package struct Setting: Sendable, Hashable {
  /// What a value must look like; checked before the service starts, so that every wrong value is
  /// told at once.
  package enum Kind: Sendable, Hashable {
    case string
    case integer
    case boolean
    /// "250ms", "5s", "10m", "2h".
    case duration
    /// "512", "64KiB", "4GiB", "2GB".
    case byteCount
    /// `HOST:PORT` or `unix:PATH`.
    case address
    /// One of these words.
    case choice([String])
  }

  /// Lower-case words joined by hyphens.
  package let name: String
  package let kind: Kind
  package let defaultText: String
  /// One sentence without a period.
  package let help: String

  /// - Precondition: The name is lower-case words joined by hyphens, and the default is a value of
  ///   the kind.
  package init(_ name: String, default defaultText: String, kind: Kind = .string, help: String) {
    precondition(
      !name.isEmpty && name.utf8.allSatisfy { $0 == 0x2D || (0x61...0x7A).contains($0) },
      "a setting's name is lower-case words joined by hyphens, not \"\(name)\"")
    self.name = name
    self.kind = kind
    self.defaultText = defaultText
    self.help = help
    if let reason = kind.complaint(about: defaultText) {
      preconditionFailure("the default of \(name), \"\(defaultText)\", is wrong: \(reason)")
    }
  }

  /// `--redis`.
  package var flag: String { "--\(self.name)" }

  /// `MILLRACE_REDIS`.
  package var environmentName: String {
    "MILLRACE_" + String(self.name.map { $0 == "-" ? "_" : $0 }).uppercased()
  }
}

/// Where a setting's value was given.
package enum SettingSource: Sendable, Hashable, CustomStringConvertible {
  case defaultValue
  case file(path: String, line: Int)
  case environment(name: String)
  case flag(String)

  package var description: String {
    switch self {
    case .defaultValue: "default"
    case .file(let path, let line): "\(path):\(line)"
    case .environment(let name): "environment variable \(name)"
    case .flag(let flag): "flag \(flag)"
    }
  }
}

/// A value that a setting cannot have.
package struct SettingError: Error, Sendable, Hashable, CustomStringConvertible {
  package let setting: String
  package let value: String
  package let source: SettingSource
  /// What is wrong and what would be right.
  package let reason: String

  package init(setting: String, value: String, source: SettingSource, reason: String) {
    self.setting = setting
    self.value = value
    self.source = source
    self.reason = reason
  }

  package var description: String {
    "\(self.setting) cannot be \"\(self.value)\" (\(self.source)): \(self.reason)"
  }
}
