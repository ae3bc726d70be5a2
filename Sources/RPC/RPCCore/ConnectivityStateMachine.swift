/// When a channel connects, waits, and gives up: a channel's state without its socket.
///
///     idle ──callArrived──▶ connecting ──connected──▶ ready
///      ▲                       │  ▲                     │
///      │              connectFailed  timerFired with    │ connectionLost
///      │                       ▼  │  calls waiting      ▼
///      └──timerFired───── backingOff              idle or connecting
///
/// The delays are those of `doc/connection-backoff.md` of the gRPC project, with bounds fit for
/// services that stand beside each other.
package struct ConnectivityStateMachine: ~Copyable {
  package struct Backoff: Sendable, Hashable {
    /// The delay after the first failure.
    package var initial: Duration
    /// What each further failure multiplies the delay by.
    package var multiplier: Double
    /// No delay is longer, jitter aside.
    package var maximum: Duration
    /// How far a delay strays to either side, as a share of itself.
    package var jitter: Double

    package init(
      initial: Duration = .milliseconds(200), multiplier: Double = 1.6,
      maximum: Duration = .seconds(10), jitter: Double = 0.2
    ) {
      self.initial = initial
      self.multiplier = multiplier
      self.maximum = maximum
      self.jitter = jitter
    }

    /// The delay after `failures` failures in a row.
    ///
    /// - Parameter random: From -1 to 1.
    func delay(failures: Int, random: Double) -> Duration {
      var delay = self.initial
      for _ in 1..<max(1, failures) where delay < self.maximum {
        delay = delay * self.multiplier
      }
      return min(delay, self.maximum) * (1 + self.jitter * random)
    }
  }

  package enum Effect: Hashable, Sendable {
    case connect
    /// Hand the waiting calls to the connection.
    case startWaitingCalls
    /// Fail the waiting calls that do not wait for ready, and come back after the delay.
    case failWaitingCalls(retryAfter: Duration)
    case none
  }

  /// What is to become of a call that arrives.
  package enum Admission: Hashable, Sendable {
    case start
    case wait(Effect)
    /// There is no connection, and the call does not wait for one.
    case fail
    case refuse
  }

  private enum State {
    case idle
    case connecting(failures: Int)
    case ready
    case backingOff(failures: Int)
    case shutDown
  }

  private let backoff: Backoff
  private var state = State.idle

  package init(backoff: Backoff = Backoff()) {
    self.backoff = backoff
  }

  package mutating func callArrived(waitsForReady: Bool) -> Admission {
    switch self.state {
    case .idle:
      self.state = .connecting(failures: 0)
      return .wait(.connect)
    case .connecting(let failures):
      // After a failure the channel is in what gRPC calls TRANSIENT_FAILURE until it is ready.
      return failures == 0 || waitsForReady ? .wait(.none) : .fail
    case .ready:
      return .start
    case .backingOff:
      return waitsForReady ? .wait(.none) : .fail
    case .shutDown:
      return .refuse
    }
  }

  package mutating func connected() -> Effect {
    switch self.state {
    case .connecting:
      self.state = .ready
      return .startWaitingCalls
    case .shutDown:
      // The channel was closed while the connection was being made.
      return .none
    case .idle, .ready, .backingOff:
      preconditionFailure("connected without having asked for a connection")
    }
  }

  /// - Parameter random: From -1 to 1, for the jitter.
  package mutating func connectFailed(random: Double) -> Effect {
    switch self.state {
    case .connecting(let failures):
      self.state = .backingOff(failures: failures + 1)
      return .failWaitingCalls(
        retryAfter: self.backoff.delay(failures: failures + 1, random: random))
    case .shutDown:
      return .none
    case .idle, .ready, .backingOff:
      preconditionFailure("a connection failed that was not asked for")
    }
  }

  /// The delay of ``Effect/failWaitingCalls(retryAfter:)`` is over.
  package mutating func timerFired(callsAreWaiting: Bool) -> Effect {
    guard case .backingOff(let failures) = self.state else {
      // The channel was closed meanwhile.
      return .none
    }
    guard callsAreWaiting else {
      // The next call tries at once: it waits for that attempt instead of failing.
      self.state = .idle
      return .none
    }
    self.state = .connecting(failures: failures)
    return .connect
  }

  /// The connection ended, or the peer asked to leave it.
  package mutating func connectionLost(callsAreWaiting: Bool) -> Effect {
    guard case .ready = self.state else {
      // A connection that had been left already, or the channel was closed.
      return .none
    }
    self.state = callsAreWaiting ? .connecting(failures: 0) : .idle
    return callsAreWaiting ? .connect : .none
  }

  package mutating func shutDown() {
    self.state = .shutDown
  }
}
