import RPCCore

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

extension ServiceConfig {
  /// Why a text is no service config.
  public struct ParseError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The field with its place, its value, and what is expected there: `methodConfig[1].timeout is
    /// "5"; expected a duration like "1.5s"`.
    public let description: String
  }

  /// Reads gRPC's canonical JSON, for example
  ///
  ///     {"methodConfig": [{
  ///       "name": [{"service": "helloworld.Greeter"}],
  ///       "timeout": "2.5s",
  ///       "retryPolicy": {
  ///         "maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
  ///         "retryableStatusCodes": ["UNAVAILABLE"]
  ///       }
  ///     }]}
  ///
  /// See `doc/service_config.md` of the gRPC project. Of `loadBalancingConfig` the first policy that
  /// is known applies, `pick_first` or `round_robin`; where it is absent, `loadBalancingPolicy`. As in all
  /// of protobuf's JSON a number may stand in quotation marks, and null is the same as nothing.
  public init(json: String) throws(ParseError) {
    let value: JSONValue
    do {
      value = try JSONDecoder().decode(JSONValue.self, from: Data(json.utf8))
    } catch DecodingError.dataCorrupted(let context) where !context.codingPath.isEmpty {
      throw ParseError(
        description: "\(JSONField.place(context.codingPath)) is wrong: \(context.debugDescription)")
    } catch {
      throw ParseError(description: "the service config is no JSON")
    }
    self.init()
    let root = JSONField(place: "", value: value)
    var seen: Set<MethodConfig.Name> = []
    for method in try root.fieldIfAny("methodConfig")?.list() ?? [] {
      self.methods.append(try MethodConfig(method, besides: &seen))
    }
    self.retryThrottling = try root.fieldIfAny("retryThrottling").map(RetryThrottling.init)
    self.loadBalancing = try LoadBalancing(root)
    do throws(ConfigurationError) {
      try self.check()
    } catch {
      throw ParseError(description: "the service config is wrong: \(error)")
    }
  }
}

extension LoadBalancing {
  fileprivate init?(_ root: JSONField) throws(ServiceConfig.ParseError) {
    let named: [String: LoadBalancing] = ["pick_first": .pickFirst, "round_robin": .roundRobin]
    let expected = "pick_first or round_robin"
    if let entries = try root.fieldIfAny("loadBalancingConfig") {
      var first: LoadBalancing?
      for entry in try entries.list() {
        let policies = try entry.object().keys
        guard let name = policies.first, policies.count == 1 else {
          throw entry.error(expected: "one policy")
        }
        first = first ?? named[name]
      }
      guard let first else { throw entries.error(expected: "\(expected) among the policies") }
      self = first
    } else if let policy = try root.fieldIfAny("loadBalancingPolicy") {
      guard let known = named[try policy.text().lowercased()] else {
        throw policy.error(expected: expected)
      }
      self = known
    } else {
      return nil
    }
  }
}

extension RetryThrottling {
  fileprivate init(_ field: JSONField) throws(ServiceConfig.ParseError) {
    self.init(
      maximumTokens: try field.field("maxTokens").number(
        "a number above 0, up to 1000", where: { $0 > 0 && $0 <= 1_000 }),
      tokenRatio: try field.field("tokenRatio").number("a number above 0", where: { $0 > 0 }))
  }
}

extension MethodConfig {
  fileprivate init(
    _ field: JSONField, besides seen: inout Set<Name>
  ) throws(ServiceConfig.ParseError) {
    self.init(names: [])
    for element in try field.field("name").list() {
      let name = try Name(element)
      guard seen.insert(name).inserted else {
        throw element.error(expected: "every name once")
      }
      self.names.append(name)
    }
    self.timeout = try field.fieldIfAny("timeout").map { timeout throws(ServiceConfig.ParseError) in
      try timeout.duration(isAboveZero: true)
    }
    self.waitForReady = try field.fieldIfAny("waitForReady")?.boolean()
    self.maximumRequestBytes = try field.fieldIfAny("maxRequestMessageBytes")?.wholeNumber(from: 0)
    self.maximumResponseBytes =
      try field.fieldIfAny("maxResponseMessageBytes")?.wholeNumber(from: 0)
    let (retry, hedging) = (
      try field.fieldIfAny("retryPolicy"), try field.fieldIfAny("hedgingPolicy")
    )
    switch (retry, hedging) {
    case (nil, nil): self.resilience = .none
    case (let retry?, nil): self.resilience = .retry(try RetryPolicy(retry))
    case (nil, let hedging?): self.resilience = .hedge(try HedgingPolicy(hedging))
    case (_?, _?):
      throw ServiceConfig.ParseError(
        description: "\(field.place) has both retryPolicy and hedgingPolicy; expected one of them")
    }
  }
}

extension MethodConfig.Name {
  fileprivate init(_ field: JSONField) throws(ServiceConfig.ParseError) {
    self.init()
    let service = try field.fieldIfAny("service")
    let method = try field.fieldIfAny("method")
    self.service = try service?.text() ?? ""
    self.method = try method?.text() ?? ""
    if let service, self.service.contains("/") {
      throw service.error(expected: "a service like package.Service")
    }
    if let method, self.method.contains("/") {
      throw method.error(expected: "a method like Method")
    }
    if let method, self.service.isEmpty && !self.method.isEmpty {
      throw method.error(expected: "a service for it")
    }
  }
}

extension RetryPolicy {
  fileprivate init(_ field: JSONField) throws(ServiceConfig.ParseError) {
    self.init(
      maximumAttempts: try field.field("maxAttempts").wholeNumber(from: 2),
      initialBackoff: try field.field("initialBackoff").duration(isAboveZero: true),
      maximumBackoff: try field.field("maxBackoff").duration(isAboveZero: true),
      backoffMultiplier: try field.field("backoffMultiplier").number(
        "a number above 0", where: { $0 > 0 }))
    let codes = try field.field("retryableStatusCodes")
    self.retryableCodes = try codes.statuses()
    guard !self.retryableCodes.isEmpty else { throw codes.error(expected: "one status at least") }
  }
}

extension HedgingPolicy {
  fileprivate init(_ field: JSONField) throws(ServiceConfig.ParseError) {
    self.init(
      maximumAttempts: try field.field("maxAttempts").wholeNumber(from: 2),
      delay: try field.fieldIfAny("hedgingDelay")?.duration(isAboveZero: false) ?? .zero,
      nonFatalCodes: try field.fieldIfAny("nonFatalStatusCodes")?.statuses() ?? [])
  }
}

/// Any JSON.
private enum JSONValue: Decodable {
  case null
  case boolean(Bool)
  case whole(Int)
  case number(Double)
  case text(String)
  case list([JSONValue])
  case object([String: JSONValue])

  private struct Key: CodingKey {
    let stringValue: String
    var intValue: Int? { nil }

    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }

  init(from decoder: any Decoder) throws {
    if let container = try? decoder.container(keyedBy: Key.self) {
      var members: [String: JSONValue] = [:]
      for key in container.allKeys {
        members[key.stringValue] = try container.decode(JSONValue.self, forKey: key)
      }
      self = .object(members)
      return
    }
    if var container = try? decoder.unkeyedContainer() {
      var elements: [JSONValue] = []
      while !container.isAtEnd { elements.append(try container.decode(JSONValue.self)) }
      self = .list(elements)
      return
    }
    let container = try decoder.singleValueContainer()
    if container.decodeNil() {
      self = .null
    } else if let value = try? container.decode(Bool.self) {
      self = .boolean(value)
    } else if let value = try? container.decode(String.self) {
      self = .text(value)
    } else if let value = try? container.decode(Int.self) {
      self = .whole(value)
    } else if let value = try? container.decode(Double.self), value.isFinite {
      self = .number(value)
    } else {
      throw DecodingError.dataCorruptedError(
        in: container, debugDescription: "no number is as large")
    }
  }
}

extension JSONValue: CustomStringConvertible {
  var description: String {
    switch self {
    case .null: "null"
    case .boolean(let value): "\(value)"
    case .whole(let value): "\(value)"
    case .number(let value): "\(value)"
    case .text(let value): value.debugDescription
    case .list(let elements): "[\(elements.map(\.description).joined(separator: ", "))]"
    case .object(let members):
      "{"
        + members.sorted { $0.key < $1.key }
        .map { "\($0.key.debugDescription): \($0.value)" }.joined(separator: ", ") + "}"
    }
  }
}

/// A value with its place: each reading of it that fails names both.
private struct JSONField {
  /// For example `methodConfig[1].timeout`; empty is the whole.
  let place: String
  let value: JSONValue

  private static let shownCharacters = 100

  static func place(_ keys: [any CodingKey]) -> String {
    keys.reduce("") { place, key in
      if let index = key.intValue { return "\(place)[\(index)]" }
      return place.isEmpty ? key.stringValue : "\(place).\(key.stringValue)"
    }
  }

  func error(expected: String) -> ServiceConfig.ParseError {
    let place = self.place.isEmpty ? "the service config" : self.place
    let value = "\(self.value)"
    let shown =
      value.count > Self.shownCharacters ? "\(value.prefix(Self.shownCharacters))…" : value
    return ServiceConfig.ParseError(description: "\(place) is \(shown); expected \(expected)")
  }

  func object() throws(ServiceConfig.ParseError) -> [String: JSONValue] {
    guard case .object(let members) = self.value else { throw self.error(expected: "an object") }
    return members
  }

  /// Nil: there is none, or null.
  func fieldIfAny(_ name: String) throws(ServiceConfig.ParseError) -> JSONField? {
    switch try self.object()[name] {
    case nil, .null?: nil
    case let value?:
      JSONField(place: self.place.isEmpty ? name : "\(self.place).\(name)", value: value)
    }
  }

  func field(_ name: String) throws(ServiceConfig.ParseError) -> JSONField {
    if let field = try self.fieldIfAny(name) { return field }
    throw ServiceConfig.ParseError(description: "\(self.place) has no \"\(name)\"")
  }

  func list() throws(ServiceConfig.ParseError) -> [JSONField] {
    guard case .list(let elements) = self.value else { throw self.error(expected: "a list") }
    return elements.enumerated().map {
      JSONField(place: "\(self.place)[\($0.offset)]", value: $0.element)
    }
  }

  func text() throws(ServiceConfig.ParseError) -> String {
    guard case .text(let text) = self.value else { throw self.error(expected: "text") }
    return text
  }

  func boolean() throws(ServiceConfig.ParseError) -> Bool {
    guard case .boolean(let value) = self.value else { throw self.error(expected: "true or false") }
    return value
  }

  func wholeNumber(from least: Int) throws(ServiceConfig.ParseError) -> Int {
    let value: Int? =
      switch self.value {
      case .whole(let value): value
      case .number(let value): Int(exactly: value)
      case .text(let text) where Self.isNumber(text): Int(text)
      default: nil
      }
    guard let value, value >= least else {
      throw self.error(expected: "a whole number from \(least)")
    }
    return value
  }

  func number(
    _ expected: String, where isRight: (Double) -> Bool
  ) throws(ServiceConfig.ParseError) -> Double {
    let value: Double? =
      switch self.value {
      case .whole(let value): Double(value)
      case .number(let value): value
      case .text(let text) where Self.isNumber(text): Double(text)
      default: nil
      }
    guard let value, value.isFinite, isRight(value) else { throw self.error(expected: expected) }
    return value
  }

  /// `1.5s`: digits, up to nine more behind a point, and the unit.
  func duration(isAboveZero: Bool) throws(ServiceConfig.ParseError) -> Duration {
    guard case .text(let text) = self.value, let duration = Self.duration(text) else {
      throw self.error(expected: "a duration like \"1.5s\"")
    }
    guard !isAboveZero || duration > .zero else {
      throw self.error(expected: "a duration above zero")
    }
    return duration
  }

  private static func duration(_ text: String) -> Duration? {
    guard text.hasSuffix("s") else { return nil }
    let parts = text.dropLast().split(
      separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.allSatisfy({ !$0.isEmpty && $0.utf8.allSatisfy(Self.isDigit) }),
      let seconds = Int64(parts[0]), seconds <= Self.longestDuration
    else { return nil }
    guard parts.count == 2 else { return .seconds(seconds) }
    let fraction = parts[1]
    guard fraction.utf8.count <= 9,
      let nanoseconds = Int64(fraction + String(repeating: "0", count: 9 - fraction.utf8.count))
    else { return nil }
    return .seconds(seconds) + .nanoseconds(nanoseconds)
  }

  /// The most seconds of a `google.protobuf.Duration`: ten thousand years.
  private static let longestDuration: Int64 = 315_576_000_000

  /// What JSON takes for a number, and Swift reads as such.
  private static func isNumber(_ text: String) -> Bool {
    guard let first = text.utf8.first, first == UInt8(ascii: "-") || Self.isDigit(first) else {
      return false
    }
    return text.utf8.allSatisfy { Self.isDigit($0) || "+-.eE".utf8.contains($0) }
  }

  private static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }

  /// Statuses by name or number: those of calls that failed.
  func statuses() throws(ServiceConfig.ParseError) -> Set<StatusCode> {
    var codes: Set<StatusCode> = []
    for element in try self.list() { codes.insert(try element.failedStatus()) }
    return codes
  }

  private func failedStatus() throws(ServiceConfig.ParseError) -> StatusCode {
    let code: StatusCode? =
      switch self.value {
      case .whole(let number): StatusCode(rawValue: number)
      case .number(let number): Int(exactly: number).flatMap(StatusCode.init(rawValue:))
      case .text(let name):
        Int(name).flatMap(StatusCode.init(rawValue:))
          ?? StatusCode.allCases.first { $0.description == name.uppercased() }
      default: nil
      }
    guard let code, code != .ok else {
      throw self.error(expected: "the status of a call that failed, like \"UNAVAILABLE\" or 14")
    }
    return code
  }
}
