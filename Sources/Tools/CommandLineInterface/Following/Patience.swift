import RPC

/// How long a command bears with a service that does not answer, or has no room.
package struct Patience: Hashable, Sendable {
  /// A scheduler or cache that is started again is back within seconds; a machine within minutes.
  package static let limit = Duration.seconds(300)
  package static let shortestDelay = Duration.milliseconds(100)
  package static let longestDelay = Duration.seconds(2)

  private var since: ContinuousClock.Instant?
  private var delay = Self.shortestDelay

  package init() {}

  /// Whether the call may have another answer when it is made again: the service is away, or has
  /// said when it has room. Without that, `resourceExhausted` is about the call itself.
  package static func bears(_ error: RPCError) -> Bool {
    switch error.code {
    case .unavailable, .deadlineExceeded: true
    case .resourceExhausted: error.retryDelay != nil
    default: false
    }
  }

  /// The service has taken up a call.
  package mutating func answered() {
    self = Patience()
  }

  /// A call has failed.
  ///
  /// - Returns: How long to wait before the next one; nil when waiting is of no use, or has been
  ///   long enough.
  package mutating func failed(
    _ error: RPCError, at now: ContinuousClock.Instant
  ) -> Duration? {
    guard Self.bears(error) else { return nil }
    let since = self.since ?? now
    self.since = since
    let delay = error.retryDelay ?? self.delay
    guard since.duration(to: now) + delay <= Self.limit else { return nil }
    self.delay = min(self.delay * 2, Self.longestDelay)
    return delay
  }
}

/// A service during one command: tells once that it is away, however many calls notice, and once
/// that it is back.
actor ServiceContact {
  private let peer: Peer
  private let presenter: any Presenter
  private var hasAnswered: Bool
  private var isAway = false

  /// - Parameter hasAnswered: Before the first answer, an address that nobody serves is a mistake
  ///   rather than a service that is started again.
  init(_ peer: Peer, _ presenter: any Presenter, hasAnswered: Bool) {
    self.peer = peer
    self.presenter = presenter
    self.hasAnswered = hasAnswered
  }

  /// The service has taken up a call.
  func answered() async {
    self.hasAnswered = true
    guard self.isAway else { return }
    self.isAway = false
    await self.presenter.note(nil, about: .service(self.peer.name))
  }

  /// A call has failed: returns when it is to be made again, or throws the error when waiting is of
  /// no use.
  func failed(_ error: RPCError, _ patience: inout Patience) async throws {
    guard self.hasAnswered || !self.peer.isNobody(error),
      let delay = patience.failed(error, at: .now)
    else { throw error }
    if !self.isAway {
      self.isAway = true
      let text =
        error.code == .resourceExhausted
        ? "the \(self.peer.name) has no room: \(Sanitizer.line(error.message))"
        : "lost the \(self.peer.name) at \(self.peer.address)"
      await self.presenter.note(text + "; trying again", about: .service(self.peer.name))
    }
    try await Task.sleep(for: delay)
  }
}
