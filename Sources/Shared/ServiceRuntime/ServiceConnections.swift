import Logging
import RPC
import Synchronization

extension RPCChannel.Configuration {
  /// As one service is connected to another: a host that is gone sends no FIN and is noticed all the
  /// same.
  package static var toService: Self {
    var configuration = Self()
    configuration.keepalive = Keepalive(interval: .seconds(10), timeout: .seconds(10))
    return configuration
  }
}

extension RPCServer.Configuration {
  /// As a service serves: its callers may ping it, and who goes too far is logged.
  static func ofService(_ logger: Logger, maximumRequestBytes: Int?) -> Self {
    var configuration = Self()
    if let maximumRequestBytes { configuration.maximumRequestBytes = maximumRequestBytes }
    // The scheduler pings a runner that is silent for three seconds.
    configuration.minimumPingInterval = .seconds(1)
    let reports = AttackReports(logger)
    configuration.attackNoticed = { peer, what in reports.add(peer, what) }
    return configuration
  }
}

/// Logs what clients do to a server, and no more than that: not every line of a flood.
private final class AttackReports: Sendable {
  private static let interval = Duration.seconds(1)

  private let logger: Logger
  private let state = Mutex<(last: ContinuousClock.Instant?, held: Int)>((nil, 0))

  init(_ logger: Logger) { self.logger = logger }

  func add(_ peer: String, _ what: String) {
    let held = self.state.withLock { state -> Int? in
      if let last = state.last, last.duration(to: .now) < Self.interval {
        state.held += 1
        return nil
      }
      state.last = .now
      defer { state.held = 0 }
      return state.held
    }
    guard let held else { return }
    self.logger.warning(
      "a client went too far", metadata: ["peer": "\(peer)", "what": "\(what)", "more": "\(held)"])
  }
}
