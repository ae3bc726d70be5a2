/// When a connection is asked whether its peer lives, when it is left, and when it is given up.
///
/// The shell calls ``check(_:at:)`` when the time that the last check named has come, and does what
/// it says. Moments are durations since any fixed one, on a clock that only grows.
package struct ConnectionLife: Sendable {
  package struct Limits: Sendable, Hashable {
    /// From the first byte to the peer's SETTINGS.
    package var handshake: Duration
    /// A header list that takes longer is an attack.
    package var headers: Duration?
    /// A silent peer is pinged after this.
    package var keepaliveInterval: Duration?
    /// It has this long to answer.
    package var keepaliveTimeout = Duration.seconds(20)
    /// Whether a connection without calls is pinged too.
    package var keepaliveWithoutCalls = false
    /// A connection without calls is left after this.
    package var idle: Duration?
    /// Any connection is left after this.
    package var age: Duration?
    /// Calls that are open when its age is reached may go on for this long; nil: to their end.
    package var ageGrace: Duration?
    /// How often streams are looked at that wait for a peer who does not read.
    package var stallCheck: Duration?

    package init(handshake: Duration) {
      self.handshake = handshake
    }

    /// None longer than a century, so that no sum overflows.
    var bounded: Self {
      var limits = self
      limits.handshake = min(self.handshake, .century)
      limits.headers = self.headers.map { min($0, .century) }
      limits.keepaliveInterval = self.keepaliveInterval.map { min($0, .century) }
      limits.keepaliveTimeout = min(self.keepaliveTimeout, .century)
      limits.idle = self.idle.map { min($0, .century) }
      limits.age = self.age.map { min($0, .century) }
      limits.ageGrace = self.ageGrace.map { min($0, .century) }
      limits.stallCheck = self.stallCheck.map { min($0, .century) }
      return limits
    }
  }

  /// What the shell sees when it checks.
  package struct Facts: Sendable, Hashable {
    /// The peer's SETTINGS have come.
    package var isGreeted: Bool
    package var openCalls: Int
    /// When bytes came last.
    package var lastRead: Duration
    /// When the last call ended, or the connection began.
    package var idleSince: Duration
    /// When the header list began that has not ended; nil: there is none.
    package var headersSince: Duration?

    package init(
      isGreeted: Bool, openCalls: Int, lastRead: Duration, idleSince: Duration,
      headersSince: Duration? = nil
    ) {
      self.isGreeted = isGreeted
      self.openCalls = openCalls
      self.lastRead = lastRead
      self.idleSince = idleSince
      self.headersSince = headersSince
    }
  }

  package enum Action: Sendable, Hashable {
    case ping
    case checkStalls
    /// Take no more calls, let the open ones end, close.
    case leave(String)
    case close(String)
  }

  private let limits: Limits
  private let began: Duration
  private var keepaliveInterval: Duration?
  private var pingSent: Duration?
  private var isLeft = false
  /// When its age was reached.
  private var aged: Duration?
  private var nextStallCheck: Duration?

  package init(_ limits: Limits, at now: Duration) {
    let limits = limits.bounded
    self.limits = limits
    self.began = now
    self.keepaliveInterval = limits.keepaliveInterval
    self.nextStallCheck = limits.stallCheck.map { now + $0 }
  }

  /// The keepalive ping was answered.
  package mutating func pingAnswered() { self.pingSent = nil }

  /// What is due, and when to check again.
  package mutating func check(_ facts: Facts, at now: Duration) -> (
    actions: [Action], next: Duration
  ) {
    var actions: [Action] = []
    var next = now + .seconds(3_600)
    func isDue(_ moment: Duration) -> Bool {
      if moment <= now { return true }
      next = min(next, moment)
      return false
    }
    if !facts.isGreeted {
      return isDue(self.began + self.limits.handshake)
        ? ([.close("HTTP/2 was not greeted with within \(self.limits.handshake)")], next)
        : ([], next)
    }
    if let limit = self.limits.headers {
      if let since = facts.headersSince, isDue(since + limit) {
        return ([.close("a header list took longer than \(limit)")], next)
      }
      // One that begins now is seen here first.
      _ = isDue(now + limit)
    }
    if let interval = self.keepaliveInterval {
      if facts.lastRead > self.pingSent ?? facts.lastRead { self.pingSent = nil }
      if let pingSent = self.pingSent {
        if isDue(pingSent + self.limits.keepaliveTimeout) {
          return (
            [
              .close(
                "the peer did not answer a keepalive ping within \(self.limits.keepaliveTimeout)")
            ], next
          )
        }
        // The answer may have come by then, and silence begun anew.
        _ = isDue(now + interval)
      } else if facts.openCalls > 0 || self.limits.keepaliveWithoutCalls {
        if isDue(facts.lastRead + interval) {
          actions.append(.ping)
          self.pingSent = now
          _ = isDue(now + min(interval, self.limits.keepaliveTimeout))
        }
      } else {
        // A call may begin meanwhile.
        _ = isDue(now + interval)
      }
    }
    if let stallCheck = self.nextStallCheck, let every = self.limits.stallCheck {
      if isDue(stallCheck) {
        actions.append(.checkStalls)
        self.nextStallCheck = now + every
        next = min(next, now + every)
      }
    }
    if let age = self.limits.age, isDue(self.began + age) {
      if let aged = self.aged, let grace = self.limits.ageGrace, isDue(aged + grace) {
        return ([.close("the grace for calls of a connection that is too old is over")], next)
      }
      if self.aged == nil {
        self.aged = now
        if let grace = self.limits.ageGrace { next = min(next, now + grace) }
      }
      if !self.isLeft { actions.append(.leave("the connection has reached its age of \(age)")) }
      self.isLeft = true
    } else if let idle = self.limits.idle, !self.isLeft {
      if facts.openCalls > 0 {
        _ = isDue(now + idle)
      } else if isDue(facts.idleSince + idle) {
        self.isLeft = true
        actions.append(.leave("the connection was idle for \(idle)"))
      }
    }
    return (actions, next)
  }
}

/// Whether a client pings more often than it may: `doc/keepalive.md` of the gRPC project, "server
/// enforcement".
package struct PingEnforcement: Sendable {
  /// Pings that come too early and are forgiven.
  private static let forgiven = 2
  /// Without calls, unless that is permitted.
  private static let intervalWithoutCalls = Duration.seconds(7_200)

  private let minimumInterval: Duration
  private let permitsWithoutCalls: Bool
  private var last: Duration?
  private var lastSent = 0
  private var strikes = 0

  package init(minimumInterval: Duration, permitsWithoutCalls: Bool) {
    self.minimumInterval = minimumInterval
    self.permitsWithoutCalls = permitsWithoutCalls
  }

  /// False: too many pings.
  ///
  /// - Parameter sent: Frames of calls that the client got from us so far. One that got some since
  ///   its last ping asks for the sake of flow control, and may.
  package mutating func pingReceived(hasCalls: Bool, sent: Int, at now: Duration) -> Bool {
    if sent != self.lastSent {
      self.lastSent = sent
      self.strikes = 0
      self.last = nil
    }
    let interval =
      hasCalls || self.permitsWithoutCalls ? self.minimumInterval : Self.intervalWithoutCalls
    defer { self.last = now }
    guard let last = self.last, now < last + interval else { return true }
    self.strikes += 1
    return self.strikes <= Self.forgiven
  }
}
