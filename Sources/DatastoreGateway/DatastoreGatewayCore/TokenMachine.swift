/// One access token for all callers: fetched when the first of them needs it, and again before it
/// ends.
///
///     none --needed--> fetching (effect: fetch), whoever else comes waits
///     fetching --fetched--> fresh; --failed--> failed: for a moment all callers are told the same
///     fresh --needed, near its end--> fresh, and a fetch under way (effect: use it, and fetch)
///     fresh --refused by the server--> none
///
/// Whoever is told to fetch calls ``fetched(_:lifetime:at:)`` or ``failed(_:at:)`` once, and answers
/// the waiters that come back. Times are durations since one and the same moment.
package struct TokenMachine<Waiter: Sendable, Failure: Error & Sendable>: ~Copyable {
  package enum Effect: Sendable {
    case use(String)
    /// The token is good still; another is to be fetched meanwhile.
    case useAndFetch(String)
    /// The caller waits, and a token is to be fetched.
    case fetch
    /// The caller waits for a fetch that is under way.
    case wait
    case fail(Failure)
  }

  private struct Token {
    var text: String
    /// When another is to be fetched, and when it is not used any more.
    var renewal: Duration
    var end: Duration
  }

  private enum State {
    case none
    case fetching([Waiter])
    case fresh(Token, isFetching: Bool)
    case failed(Failure, until: Duration)
  }

  private var state = State.none

  /// A token is renewed so long before its end, or at half of its life if that is later: Google's
  /// libraries take 225 s.
  private static var margin: Duration { .seconds(225) }
  /// A token is not used so shortly before its end: the call takes a while, and clocks differ.
  private static var reserve: Duration { .seconds(10) }
  /// After a failure no other fetch is made for so long.
  private static var pause: Duration { .seconds(1) }

  package init() {}

  /// A call needs a token.
  ///
  /// - Parameter waiter: Kept if the effect is to fetch or to wait.
  package mutating func needed(by waiter: Waiter, at now: Duration) -> Effect {
    switch self.state {
    case .none: return self.begin(waiter)
    case .failed(let failure, let until):
      return now < until ? .fail(failure) : self.begin(waiter)
    case .fetching(var waiters):
      waiters.append(waiter)
      self.state = .fetching(waiters)
      return .wait
    case .fresh(let token, let isFetching):
      if now >= token.end {
        if !isFetching { return self.begin(waiter) }
        self.state = .fetching([waiter])
        return .wait
      }
      if isFetching || now < token.renewal { return .use(token.text) }
      self.state = .fresh(token, isFetching: true)
      return .useAndFetch(token.text)
    }
  }

  private mutating func begin(_ waiter: Waiter) -> Effect {
    self.state = .fetching([waiter])
    return .fetch
  }

  /// - Returns: Who waits for it.
  package mutating func fetched(
    _ text: String, lifetime: Duration, at now: Duration
  ) -> [Waiter] {
    let waiters = self.waiters
    let end = now + max(lifetime - Self.reserve, .zero)
    self.state = .fresh(
      Token(text: text, renewal: now + max(lifetime - Self.margin, lifetime / 2), end: end),
      isFetching: false)
    return waiters
  }

  /// - Returns: Who is to be told. A token that is good still stays in use.
  package mutating func failed(_ failure: Failure, at now: Duration) -> [Waiter] {
    let waiters = self.waiters
    if case .fresh(var token, _) = self.state, now < token.end {
      token.renewal = now + Self.pause
      self.state = .fresh(token, isFetching: false)
    } else {
      self.state = .failed(failure, until: now + Self.pause)
    }
    return waiters
  }

  /// A server took this token for none: nobody uses it any more.
  package mutating func refused(_ text: String) {
    guard case .fresh(let token, let isFetching) = self.state, token.text == text else { return }
    self.state = isFetching ? .fetching([]) : .none
  }

  private var waiters: [Waiter] {
    if case .fetching(let waiters) = self.state { waiters } else { [] }
  }
}
