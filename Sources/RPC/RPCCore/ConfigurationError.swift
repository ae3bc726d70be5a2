/// A setting that cannot be as it is.
///
/// A server throws it when it is to listen. A channel made from a text throws it at once; one made
/// otherwise fails its calls with ``RPCError`` `invalidArgument` and the same words.
public struct ConfigurationError: Error, Sendable, Hashable, CustomStringConvertible {
  /// Which, for example `RPCServer.Configuration.backlog`.
  public let setting: String
  /// What it is.
  public let value: String
  /// What it may be, for people.
  public let expected: String

  package init(_ setting: String, _ value: some Any, expected: String) {
    self.setting = setting
    self.value = "\(value)"
    self.expected = expected
  }

  /// Setting, value and what is expected, in a sentence.
  public var description: String {
    "\(self.setting) is \(self.value); expected \(self.expected)"
  }

  /// The error of a call that is to be made with such a setting.
  package var callError: RPCError { RPCError(.invalidArgument, self.description) }
}

/// Looks at the settings of one type, and throws at the first that cannot be.
package struct SettingsCheck {
  private let owner: String

  /// - Parameter owner: What the settings belong to, as a program names it.
  package init(of owner: String) {
    self.owner = owner
  }

  /// The settings of one that is itself a setting.
  package func within(_ setting: String) -> Self {
    Self(of: "\(self.owner).\(setting)")
  }

  package func number(
    _ setting: String, _ value: Int?, from least: Int
  ) throws(ConfigurationError) {
    guard let value, value < least else { return }
    throw self.error(setting, value, expected: "a number from \(least)")
  }

  package func positive(_ setting: String, _ value: Duration?) throws(ConfigurationError) {
    guard let value, value <= .zero else { return }
    throw self.error(setting, value, expected: "a duration above zero")
  }

  package func notNegative(_ setting: String, _ value: Duration?) throws(ConfigurationError) {
    guard let value, value < .zero else { return }
    throw self.error(setting, value, expected: "a duration from zero")
  }

  package func require(
    _ isRight: Bool, _ setting: String, _ value: some Any, expected: String
  ) throws(ConfigurationError) {
    guard isRight else { throw self.error(setting, value, expected: expected) }
  }

  /// Text that stands in a header: printable ASCII without spaces.
  package func headerText(_ setting: String, _ value: String?) throws(ConfigurationError) {
    guard let value else { return }
    try self.require(
      !value.isEmpty && value.utf8.allSatisfy { (0x21...0x7e).contains($0) }, setting,
      "\"\(value)\"", expected: "printable ASCII without spaces")
  }

  private func error(
    _ setting: String, _ value: some Any, expected: String
  ) -> ConfigurationError {
    ConfigurationError("\(self.owner).\(setting)", value, expected: expected)
  }
}

extension CallOptions {
  /// Throws if no call can be made with these.
  package func check() throws(ConfigurationError) {
    let settings = SettingsCheck(of: "CallOptions")
    try settings.number("maximumRequestBytes", self.maximumRequestBytes, from: 0)
    try settings.number("maximumResponseBytes", self.maximumResponseBytes, from: 0)
    if let mistake = self.metadata.mistake { throw mistake }
  }
}

extension ServiceConfig {
  /// Throws if no channel can be configured with this.
  package func check() throws(ConfigurationError) {
    var seen: Set<MethodConfig.Name> = []
    for (index, method) in self.methods.enumerated() {
      let settings = SettingsCheck(of: "ServiceConfig.methods[\(index)]")
      for name in method.names {
        try settings.require(
          !name.service.isEmpty || name.method.isEmpty, "names", "a method \"\(name.method)\"",
          expected: "a service for it")
        try settings.require(
          !name.service.contains("/") && !name.method.contains("/"), "names",
          "\"\(name.service)/\(name.method)\"",
          expected: "a service like package.Service and a method like Method")
        try settings.require(
          seen.insert(name).inserted, "names", "\"\(name.service)/\(name.method)\" once more",
          expected: "every name once")
      }
      try settings.positive("timeout", method.timeout)
      try settings.number("maximumRequestBytes", method.maximumRequestBytes, from: 0)
      try settings.number("maximumResponseBytes", method.maximumResponseBytes, from: 0)
      switch method.resilience {
      case .none: break
      case .retry(let policy): try policy.check(settings.within("resilience.retry"))
      case .hedge(let policy): try policy.check(settings.within("resilience.hedge"))
      }
    }
    if let throttling = self.retryThrottling {
      let settings = SettingsCheck(of: "ServiceConfig.retryThrottling")
      try settings.require(
        throttling.maximumTokens > 0 && throttling.maximumTokens <= 1_000, "maximumTokens",
        throttling.maximumTokens, expected: "a number above 0, up to 1000")
      try settings.require(
        throttling.tokenRatio > 0 && throttling.tokenRatio.isFinite, "tokenRatio",
        throttling.tokenRatio, expected: "a number above 0")
    }
  }
}

extension RetryPolicy {
  fileprivate func check(_ settings: SettingsCheck) throws(ConfigurationError) {
    try settings.number("maximumAttempts", self.maximumAttempts, from: 2)
    try settings.positive("initialBackoff", self.initialBackoff)
    try settings.positive("maximumBackoff", self.maximumBackoff)
    try settings.require(
      self.backoffMultiplier > 0 && self.backoffMultiplier.isFinite, "backoffMultiplier",
      self.backoffMultiplier, expected: "a number above 0")
    try settings.require(
      !self.retryableCodes.isEmpty, "retryableCodes", "empty", expected: "one status at least")
    try settings.require(
      !self.retryableCodes.contains(.ok), "retryableCodes", "OK among others",
      expected: "statuses of calls that failed")
  }
}

extension HedgingPolicy {
  fileprivate func check(_ settings: SettingsCheck) throws(ConfigurationError) {
    try settings.number("maximumAttempts", self.maximumAttempts, from: 2)
    try settings.notNegative("delay", self.delay)
    try settings.require(
      !self.nonFatalCodes.contains(.ok), "nonFatalCodes", "OK among others",
      expected: "statuses of calls that failed")
  }
}
