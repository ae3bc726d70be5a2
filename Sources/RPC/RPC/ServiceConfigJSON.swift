import RPCCore

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

extension ServiceConfig {
  /// Why a text is no service config.
  public struct ParseError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The field, and what is wrong with it.
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
  /// is known applies: `pick_first` or `round_robin`.
  public init(json: String) throws(ParseError) {
    let file: File
    do {
      file = try JSONDecoder().decode(File.self, from: Data(json.utf8))
    } catch let error as DecodingError {
      throw ParseError(description: "the service config is wrong: \(Self.words(error))")
    } catch {
      throw ParseError(description: "the service config is wrong: \(error)")
    }
    self.init()
    for method in file.methodConfig ?? [] { self.methods.append(try MethodConfig(method)) }
    if let throttling = file.retryThrottling {
      guard throttling.maxTokens > 0, throttling.maxTokens <= 1_000, throttling.tokenRatio > 0
      else {
        throw ParseError(
          description: "retryThrottling has maxTokens \(throttling.maxTokens) and tokenRatio "
            + "\(throttling.tokenRatio); they are up to 1000 and more than 0")
      }
      self.retryThrottling = RetryThrottling(
        maximumTokens: throttling.maxTokens, tokenRatio: throttling.tokenRatio)
    }
    if let policies = file.loadBalancingConfig {
      let known = policies.lazy.compactMap { policy -> LoadBalancing? in
        if policy["round_robin"] != nil { return .roundRobin }
        return policy["pick_first"] != nil ? .pickFirst : nil
      }
      guard let first = known.first else {
        throw ParseError(
          description: "loadBalancingConfig has none of pick_first and round_robin")
      }
      self.loadBalancing = first
    }
    do throws(ConfigurationError) {
      try self.check()
    } catch {
      throw ParseError(description: "the service config is wrong: \(error)")
    }
  }

  private static func words(_ error: DecodingError) -> String {
    switch error {
    case .keyNotFound(let key, let context):
      "\(self.path(context.codingPath))has no \"\(key.stringValue)\""
    case .typeMismatch(_, let context), .valueNotFound(_, let context),
      .dataCorrupted(let context):
      self.path(context.codingPath) + context.debugDescription
    @unknown default: "\(error)"
    }
  }

  private static func path(_ keys: [any CodingKey]) -> String {
    keys.isEmpty ? "" : keys.map(\.stringValue).joined(separator: ".") + ": "
  }

  // What the JSON looks like.

  fileprivate struct File: Decodable {
    var methodConfig: [Method]?
    var retryThrottling: Throttling?
    var loadBalancingConfig: [[String: Anything]]?
  }

  fileprivate struct Anything: Decodable {
    init(from decoder: any Decoder) {}
  }

  fileprivate struct Throttling: Decodable {
    var maxTokens: Double
    var tokenRatio: Double
  }

  fileprivate struct Method: Decodable {
    struct Name: Decodable {
      var service: String?
      var method: String?
    }

    struct Retry: Decodable {
      var maxAttempts: Whole
      var initialBackoff: String
      var maxBackoff: String
      var backoffMultiplier: Double
      var retryableStatusCodes: [Code]
    }

    struct Hedging: Decodable {
      var maxAttempts: Whole
      var hedgingDelay: String?
      var nonFatalStatusCodes: [Code]?
    }

    var name: [Name]
    var waitForReady: Bool?
    var timeout: String?
    var maxRequestMessageBytes: Whole?
    var maxResponseMessageBytes: Whole?
    var retryPolicy: Retry?
    var hedgingPolicy: Hedging?
  }

  /// A number without a fraction: Foundation calls any other invalid JSON.
  fileprivate struct Whole: Decodable {
    var value: Int

    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      let number = try container.decode(Double.self)
      guard let value = Int(exactly: number) else {
        throw DecodingError.dataCorruptedError(
          in: container, debugDescription: "\(number) is no whole number")
      }
      self.value = value
    }
  }

  /// A status by its name or number.
  fileprivate struct Code: Decodable {
    var code: StatusCode

    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let number = try? container.decode(Double.self) {
        let whole = Int(exactly: number)
        guard let code = whole.flatMap(StatusCode.init(rawValue:)) else {
          throw DecodingError.dataCorruptedError(
            in: container,
            debugDescription: "there is no status \(whole.map(String.init) ?? "\(number)")")
        }
        self.code = code
        return
      }
      let name = try container.decode(String.self)
      guard let code = StatusCode.allCases.first(where: { $0.description == name.uppercased() })
      else {
        throw DecodingError.dataCorruptedError(
          in: container, debugDescription: "there is no status \"\(name)\"")
      }
      self.code = code
    }
  }
}

extension MethodConfig {
  fileprivate init(_ method: ServiceConfig.Method) throws(ServiceConfig.ParseError) {
    guard method.retryPolicy == nil || method.hedgingPolicy == nil else {
      throw ServiceConfig.ParseError(
        description: "a methodConfig has both retryPolicy and hedgingPolicy")
    }
    for (field, bytes) in [
      ("maxRequestMessageBytes", method.maxRequestMessageBytes?.value),
      ("maxResponseMessageBytes", method.maxResponseMessageBytes?.value),
    ] {
      guard let bytes, bytes < 0 else { continue }
      throw ServiceConfig.ParseError(description: "\(field) is \(bytes); it is 0 or more")
    }
    self.init(
      names: method.name.map { Name(service: $0.service ?? "", method: $0.method ?? "") },
      timeout: try Duration(json: method.timeout, "timeout"), waitForReady: method.waitForReady,
      maximumRequestBytes: method.maxRequestMessageBytes?.value,
      maximumResponseBytes: method.maxResponseMessageBytes?.value)
    if let retry = method.retryPolicy {
      let codes = Set(retry.retryableStatusCodes.map(\.code))
      try Self.checkAttempts(retry.maxAttempts.value, of: "retryPolicy")
      let initial = try Self.backoff(retry.initialBackoff, "initialBackoff")
      let longest = try Self.backoff(retry.maxBackoff, "maxBackoff")
      guard retry.backoffMultiplier > 0 else {
        throw ServiceConfig.ParseError(
          description: "retryPolicy: backoffMultiplier is \(retry.backoffMultiplier); it is more "
            + "than 0")
      }
      guard !codes.isEmpty else {
        throw ServiceConfig.ParseError(
          description: "retryPolicy: retryableStatusCodes is empty; it has one status at least")
      }
      self.resilience = .retry(
        RetryPolicy(
          maximumAttempts: retry.maxAttempts.value, initialBackoff: initial,
          maximumBackoff: longest,
          backoffMultiplier: retry.backoffMultiplier, retryableCodes: codes))
    } else if let hedging = method.hedgingPolicy {
      try Self.checkAttempts(hedging.maxAttempts.value, of: "hedgingPolicy")
      self.resilience = .hedge(
        HedgingPolicy(
          maximumAttempts: hedging.maxAttempts.value,
          delay: try Duration(json: hedging.hedgingDelay, "hedgingDelay") ?? .zero,
          nonFatalCodes: Set(hedging.nonFatalStatusCodes?.map(\.code) ?? [])))
    }
  }

  private static func checkAttempts(
    _ count: Int, of policy: String
  ) throws(ServiceConfig.ParseError) {
    guard count < 2 else { return }
    throw ServiceConfig.ParseError(
      description: "\(policy): maxAttempts is \(count); it is 2 or more")
  }

  private static func backoff(
    _ json: String, _ field: String
  ) throws(ServiceConfig.ParseError) -> Duration {
    guard let backoff = try Duration(json: json, field), backoff > .zero else {
      throw ServiceConfig.ParseError(
        description: "retryPolicy: \(field) is \"\(json)\"; it is more than 0")
    }
    return backoff
  }
}

extension Duration {
  /// `1.5s`, as protobuf's JSON has it; nil for nil.
  fileprivate init?(json: String?, _ field: String) throws(ServiceConfig.ParseError) {
    guard let json else { return nil }
    guard json.hasSuffix("s"), let seconds = Double(json.dropLast()), seconds >= 0,
      seconds < 1e9
    else {
      throw ServiceConfig.ParseError(
        description: "\(field) is \"\(json)\"; a duration is written like \"1.5s\"")
    }
    self = .nanoseconds(Int64((seconds * 1e9).rounded()))
  }
}
