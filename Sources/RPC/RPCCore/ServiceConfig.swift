/// How a channel treats the calls of its methods: timeouts, retries, hedging.
///
/// The same as gRPC's service config (`grpc/service_config/service_config.proto` and `A6` of the
/// gRPC project's proposals); ``MethodConfig`` entries for one method come before those for its
/// service, and those before the one for everything.
public struct ServiceConfig: Sendable, Hashable {
  /// What applies to which methods; order does not matter.
  public var methods: [MethodConfig]
  /// Nil: retries are bounded by their own count only.
  public var retryThrottling: RetryThrottling?
  /// Nil: as the channel's configuration says.
  public var loadBalancing: LoadBalancing?

  /// A config; without arguments, calls are made once, without bounds but their own.
  public init(
    methods: [MethodConfig] = [], retryThrottling: RetryThrottling? = nil,
    loadBalancing: LoadBalancing? = nil
  ) {
    self.methods = methods
    self.retryThrottling = retryThrottling
    self.loadBalancing = loadBalancing
  }

  /// What applies to a method.
  ///
  /// - Parameter path: `/package.Service/Method`.
  public func method(_ path: String) -> MethodConfig? {
    let parts = path.split(separator: "/", omittingEmptySubsequences: true)
    guard parts.count == 2 else { return nil }
    let (service, name) = (String(parts[0]), String(parts[1]))
    var best: (rank: Int, config: MethodConfig)?
    for config in self.methods {
      for wanted in config.names {
        let rank: Int
        switch (wanted.service, wanted.method) {
        case (service, name): rank = 3
        case (service, ""): rank = 2
        case ("", ""): rank = 1
        default: continue
        }
        if rank > best?.rank ?? 0 { best = (rank, config) }
      }
    }
    return best?.config
  }
}

/// What applies to some methods.
public struct MethodConfig: Sendable, Hashable {
  /// A method; an empty method is all of the service, an empty service is everything.
  public struct Name: Sendable, Hashable {
    /// `package.Service`; empty is every service.
    public var service: String
    /// The method's name without its service; empty is every method.
    public var method: String

    /// A method, a service's every method, or everything.
    public init(service: String = "", method: String = "") {
      self.service = service
      self.method = method
    }
  }

  /// What happens to a call whose attempt failed.
  public enum Resilience: Sendable, Hashable {
    /// It fails.
    case none
    /// It is made again.
    case retry(RetryPolicy)
    /// Others were made beside it, or are.
    case hedge(HedgingPolicy)
  }

  /// Which methods.
  public var names: [Name]
  /// The smaller of this and the call's own applies.
  public var timeout: Duration?
  /// Nil: as the call says.
  public var waitForReady: Bool?
  /// What happens after an attempt that failed.
  public var resilience: Resilience
  /// The largest request, in bytes; the smaller of this and the call's own applies.
  public var maximumRequestBytes: Int?
  /// The largest response, in bytes; the smaller of this and the call's own applies.
  public var maximumResponseBytes: Int?

  /// What applies to the methods of these names; what is not given is left to each call.
  public init(
    names: [Name], timeout: Duration? = nil, waitForReady: Bool? = nil,
    resilience: Resilience = .none, maximumRequestBytes: Int? = nil,
    maximumResponseBytes: Int? = nil
  ) {
    self.names = names
    self.timeout = timeout
    self.waitForReady = waitForReady
    self.resilience = resilience
    self.maximumRequestBytes = maximumRequestBytes
    self.maximumResponseBytes = maximumResponseBytes
  }
}

/// Tries a call again, one attempt after the other.
public struct RetryPolicy: Sendable, Hashable {
  /// Attempts in all, from 2; more than ``maximumAttemptsOfAny`` are not made.
  public var maximumAttempts: Int
  /// The delay before the second attempt, give or take a fifth.
  public var initialBackoff: Duration
  /// No delay is longer, the fifth aside.
  public var maximumBackoff: Duration
  /// What each further failure multiplies the delay by.
  public var backoffMultiplier: Double
  /// Statuses after which another attempt is made.
  public var retryableCodes: Set<StatusCode>

  /// The most attempts that any policy gets.
  public static let maximumAttemptsOfAny = 5

  /// A policy that has so many attempts; the delays between them begin with 100 ms, double, and end
  /// with 2 s unless they are given.
  public init(
    maximumAttempts: Int, initialBackoff: Duration = .milliseconds(100),
    maximumBackoff: Duration = .seconds(2), backoffMultiplier: Double = 2,
    retryableCodes: Set<StatusCode> = [.unavailable]
  ) {
    self.maximumAttempts = maximumAttempts
    self.initialBackoff = initialBackoff
    self.maximumBackoff = maximumBackoff
    self.backoffMultiplier = backoffMultiplier
    self.retryableCodes = retryableCodes
  }
}

/// Makes further attempts at a call while earlier ones are still under way, and takes the first
/// answer. For methods that may run several times.
public struct HedgingPolicy: Sendable, Hashable {
  /// Attempts in all, from 2; more than ``RetryPolicy/maximumAttemptsOfAny`` are not made.
  public var maximumAttempts: Int
  /// From one attempt to the next; zero makes all of them at once.
  public var delay: Duration
  /// Statuses after which the other attempts go on; any other ends the call.
  public var nonFatalCodes: Set<StatusCode>

  /// A policy that has so many attempts, with the delay between them.
  public init(
    maximumAttempts: Int, delay: Duration, nonFatalCodes: Set<StatusCode> = [.unavailable]
  ) {
    self.maximumAttempts = maximumAttempts
    self.delay = delay
    self.nonFatalCodes = nonFatalCodes
  }
}

/// Stops retries while most calls fail: each failure takes a token, each success brings back
/// `tokenRatio`, and retries are made while more than half of the tokens are there.
public struct RetryThrottling: Sendable, Hashable {
  /// Above 0, up to 1,000.
  public var maximumTokens: Double
  /// What a success brings back.
  public var tokenRatio: Double

  /// So many tokens at first and at most, and what a success brings back.
  public init(maximumTokens: Double, tokenRatio: Double) {
    self.maximumTokens = maximumTokens
    self.tokenRatio = tokenRatio
  }
}

/// Which of a target's addresses calls go to.
public enum LoadBalancing: Sendable, Hashable {
  /// The first that answers, until it is lost.
  case pickFirst
  /// All that answer, in turn.
  case roundRobin
}
