import RPC

/// What every setting of a program is, and where each value was given.
package struct SettingValues: Sendable {
  /// One value.
  package struct Given: Sendable, Hashable {
    package var text: String
    package var source: SettingSource
  }

  package let settings: [Setting]
  private var given: [String: Given] = [:]

  /// Every setting at its default, except those that `values` names; for tests and embedding.
  package init(_ settings: [Setting], values: [String: String] = [:]) {
    self.settings = settings
    for (name, text) in values {
      self.give(name, Given(text: text, source: .flag("--\(name)")))
    }
  }

  /// Gives a setting a value; a later one replaces an earlier one.
  ///
  /// - Precondition: There is such a setting.
  mutating func give(_ name: String, _ value: Given) {
    _ = self.setting(name)
    self.given[name] = value
  }

  /// Every wrong value, in the order of the settings.
  package var complaints: [SettingError] {
    self.settings.compactMap { setting in
      let value = self.value(setting)
      return setting.kind.complaint(about: value.text).map {
        SettingError(
          setting: setting.name, value: value.text, source: value.source, reason: $0)
      }
    }
  }

  /// Where the value was given.
  package func source(_ name: String) -> SettingSource { self.value(self.setting(name)).source }

  package func string(_ name: String) -> String { self.value(self.setting(name)).text }

  /// Comma-separated words; none for an empty value.
  package func strings(_ name: String) -> [String] {
    self.string(name).split(separator: ",").map { word in
      var word = word.drop { $0 == " " }
      while word.last == " " { word.removeLast() }
      return String(word)
    }.filter { !$0.isEmpty }
  }

  package func int(_ name: String) throws(SettingError) -> Int {
    try self.convert(name, as: .integer) { Int($0) }
  }

  /// A whole number within bounds.
  package func int(_ name: String, in range: ClosedRange<Int>) throws(SettingError) -> Int {
    let number = try self.int(name)
    guard range.contains(number) else {
      throw self.wrong(
        name, "expected a number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  package func bool(_ name: String) throws(SettingError) -> Bool {
    try self.convert(name, as: .boolean) { Setting.Kind.boolean.boolean($0) }
  }

  package func duration(_ name: String) throws(SettingError) -> Duration {
    try self.convert(name, as: .duration) { Quantity.duration($0) }
  }

  /// A number of bytes.
  package func byteCount(_ name: String) throws(SettingError) -> Int64 {
    try self.convert(name, as: .byteCount) { Quantity.byteCount($0) }
  }

  package func address(_ name: String) throws(SettingError) -> ListenAddress {
    try self.convert(name, as: .address) { try? ListenAddress($0) }
  }

  /// An error about a setting's present value, for rules that only the service knows.
  package func wrong(_ name: String, _ reason: String) -> SettingError {
    let value = self.value(self.setting(name))
    return SettingError(setting: name, value: value.text, source: value.source, reason: reason)
  }

  private func convert<Value>(
    _ name: String, as kind: Setting.Kind, _ read: (String) -> Value?
  ) throws(SettingError) -> Value {
    if let value = read(self.string(name)) { return value }
    throw self.wrong(name, kind.complaint(about: self.string(name)) ?? "it cannot be read")
  }

  private func setting(_ name: String) -> Setting {
    guard let setting = self.settings.first(where: { $0.name == name }) else {
      preconditionFailure("the setting \"\(name)\" is not declared in the program's settings")
    }
    return setting
  }

  private func value(_ setting: Setting) -> Given {
    self.given[setting.name] ?? Given(text: setting.defaultText, source: .defaultValue)
  }
}
