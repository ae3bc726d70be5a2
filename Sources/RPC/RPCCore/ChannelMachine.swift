/// Where a channel's calls go: its addresses, the links to them, and whether calls start, wait or
/// fail. A channel without its sockets.
///
///     link: idle ──connect──▶ connecting ──▶ ready ──lost──▶ idle
///                                  │  ▲
///                                  ▼  │ delay over
///                               failing
///
/// With ``LoadBalancing/pickFirst`` links are tried in the order of the addresses, each a little
/// after the one before (RFC 8305, section 5), until one is ready; then the others are given up.
/// With ``LoadBalancing/roundRobin`` there is a link to each address, and those that are ready take
/// calls in turn. While no link is ready, calls wait; once every link is failing, those fail that do
/// not wait for ready (`doc/connectivity-semantics-and-api.md` of the gRPC project).
package struct ChannelMachine: Sendable {
  package typealias LinkID = Int

  package struct Policy: Sendable, Hashable {
    package var balancing = LoadBalancing.pickFirst
    package var backoff = Backoff()
    /// From one attempt to the next address's.
    package var attemptDelay = Duration.milliseconds(250)
    /// Names are not asked for more often.
    package var resolutionInterval = Duration.seconds(1)
    /// Whether asking again can answer something else.
    package var isConstant = false

    package init() {}
  }

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
    package func delay(failures: Int, random: Double) -> Duration {
      let maximum = min(self.maximum, .century)
      var delay = min(self.initial, maximum)
      for _ in 1..<max(1, failures) where delay < maximum {
        delay = delay * self.multiplier
      }
      return min(delay, maximum) * (1 + self.jitter * random)
    }
  }

  package enum Effect: Hashable, Sendable {
    case resolve
    case connect(LinkID, ListenAddress)
    /// Give up a link: its connection is closed once its calls are over.
    case drop(LinkID)
    case setTimer(Timer, after: Duration)
    /// Offer the waiting calls again.
    case startWaitingCalls
    /// Fail the waiting calls that do not wait for ready.
    case failWaitingCalls(String)
  }

  package enum Timer: Hashable, Sendable {
    /// The time of a failing link is over.
    case link(LinkID)
    /// The next address may be tried beside those before it.
    case nextAddress
    /// Names may be asked for once more.
    case resolve
    /// A name that led nowhere may be asked for once more.
    case failedResolution
  }

  /// What is to become of a call.
  package enum Admission: Hashable, Sendable {
    case start(LinkID)
    case wait([Effect])
    /// There is no connection, and the call does not wait for one.
    case fail(String)
    case refuse
  }

  private enum LinkState: Hashable {
    case idle, connecting, ready
    case failing
  }

  private struct Link {
    var address: ListenAddress
    var state = LinkState.idle
    var failures = 0
  }

  private enum Resolution { case none, underWay, done, failed }

  private let policy: Policy
  private var links: [LinkID: Link] = [:]
  /// In the order of the addresses.
  private var order: [LinkID] = []
  private var nextID = 0
  private var turn = 0
  private var resolution = Resolution.none
  private var resolutionFailures = 0
  /// The names are to be asked for when the interval is over.
  private var isResolutionHeld = false
  private var wantsResolution = false
  /// The timer for the next address is set.
  private var nextAddressIsDue = false
  private var lastFailure = ""
  private var isShutDown = false
  /// Every link has failed since one was ready, or there is none: calls that do not wait fail until
  /// one is ready, or there is one that was not tried. A timer or an attempt is then under way.
  private var isFailing = false

  package init(_ policy: Policy) {
    self.policy = policy
  }

  // MARK: Calls

  package mutating func callArrived(waitsForReady: Bool) -> Admission {
    if self.isShutDown { return .refuse }
    if let link = self.pick() { return .start(link) }
    if self.isFailing, !waitsForReady { return .fail(self.lastFailure) }
    var effects: [Effect] = []
    self.connect(&effects)
    return .wait(effects)
  }

  private mutating func pick() -> LinkID? {
    guard !self.order.isEmpty else { return nil }
    for offset in 0..<self.order.count {
      let place = (self.turn + offset) % self.order.count
      guard self.links[self.order[place]]?.state == .ready else { continue }
      if self.policy.balancing == .roundRobin { self.turn = (place + 1) % self.order.count }
      return self.order[place]
    }
    return nil
  }

  // MARK: Names

  /// The name's addresses; they replace those before.
  package mutating func resolved(_ addresses: [ListenAddress], callsAreWaiting: Bool) -> [Effect] {
    guard !self.isShutDown else { return [] }
    guard !addresses.isEmpty else {
      return self.resolutionFailed(
        "the name has no address", callsAreWaiting: callsAreWaiting, random: 0)
    }
    self.resolution = .done
    self.resolutionFailures = 0
    var effects: [Effect] = []
    var seen: Set<ListenAddress> = []
    var order: [LinkID] = []
    for address in addresses where seen.insert(address).inserted {
      if let known = self.order.first(where: { self.links[$0]?.address == address }) {
        order.append(known)
      } else {
        self.nextID += 1
        self.links[self.nextID] = Link(address: address)
        order.append(self.nextID)
      }
    }
    for gone in self.order where !order.contains(gone) {
      self.links[gone] = nil
      effects.append(.drop(gone))
    }
    let hasNew = order.contains { !self.order.contains($0) }
    self.order = order
    self.turn = 0
    let states = order.compactMap { self.links[$0]?.state }
    if hasNew || !states.contains(where: { $0 == .connecting || $0 == .failing }) {
      // What failed is not all there is, or what would have ended the failing is gone.
      self.isFailing = false
    } else if states.allSatisfy({ $0 == .failing }) {
      self.isFailing = true
      effects.append(.failWaitingCalls(self.lastFailure))
    }
    if callsAreWaiting || self.policy.balancing == .roundRobin { self.connect(&effects) }
    return effects
  }

  package mutating func resolutionFailed(
    _ reason: String, callsAreWaiting: Bool, random: Double
  ) -> [Effect] {
    guard !self.isShutDown else { return [] }
    self.resolutionFailures += 1
    // Addresses that were good are still better than none.
    if !self.order.isEmpty {
      self.resolution = .done
      var effects: [Effect] = []
      if callsAreWaiting { self.connect(&effects) }
      return effects
    }
    self.resolution = .failed
    self.lastFailure = reason
    self.isFailing = true
    return [
      .setTimer(
        .failedResolution,
        after: self.policy.backoff.delay(failures: self.resolutionFailures, random: random)),
      .failWaitingCalls(reason),
    ]
  }

  private mutating func resolve(_ effects: inout [Effect]) {
    guard self.resolution != .underWay, !(self.policy.isConstant && self.resolution == .done) else {
      return
    }
    guard !self.isResolutionHeld else {
      self.wantsResolution = true
      return
    }
    self.resolution = .underWay
    self.isResolutionHeld = true
    effects += [.setTimer(.resolve, after: self.policy.resolutionInterval), .resolve]
  }

  // MARK: Links

  /// Goes on towards a ready link.
  private mutating func connect(_ effects: inout [Effect]) {
    guard !self.order.isEmpty else {
      if self.resolution == .none { self.resolve(&effects) }
      return
    }
    switch self.policy.balancing {
    case .roundRobin:
      for id in self.order where self.links[id]?.state == .idle { self.connect(id, &effects) }
    case .pickFirst:
      guard !self.links.values.contains(where: { $0.state == .ready }) else { return }
      if self.links.values.contains(where: { $0.state == .connecting }) {
        self.planNextAddress(&effects)
      } else {
        self.connectNext(&effects)
      }
    }
  }

  private mutating func connectNext(_ effects: inout [Effect]) {
    guard let next = self.order.first(where: { self.links[$0]?.state == .idle }) else { return }
    self.connect(next, &effects)
    self.planNextAddress(&effects)
  }

  private mutating func planNextAddress(_ effects: inout [Effect]) {
    guard !self.nextAddressIsDue,
      self.order.contains(where: { self.links[$0]?.state == .idle })
    else { return }
    self.nextAddressIsDue = true
    effects.append(.setTimer(.nextAddress, after: self.policy.attemptDelay))
  }

  private mutating func connect(_ id: LinkID, _ effects: inout [Effect]) {
    guard let address = self.links[id]?.address else { return }
    self.links[id]?.state = .connecting
    effects.append(.connect(id, address))
  }

  /// A link is ready; false: nobody wants it any more, its connection is to be closed.
  package mutating func connected(_ id: LinkID) -> [Effect]? {
    guard !self.isShutDown, self.links[id]?.state == .connecting else { return nil }
    self.links[id]?.state = .ready
    self.isFailing = false
    var effects: [Effect] = []
    if self.policy.balancing == .pickFirst {
      self.links[id]?.failures = 0
      for other in self.order where other != id {
        if self.links[other]?.state == .connecting { effects.append(.drop(other)) }
        self.links[other]?.state = .idle
        self.links[other]?.failures = 0
      }
    }
    return effects + [.startWaitingCalls]
  }

  /// - Parameter random: From -1 to 1, for the jitter.
  package mutating func connectFailed(
    _ id: LinkID, _ reason: String, callsAreWaiting: Bool, random: Double
  ) -> [Effect] {
    // A link that was dropped meanwhile, or a channel that was closed.
    guard !self.isShutDown, let link = self.links[id], link.state == .connecting else { return [] }
    let failures = link.failures + 1
    self.links[id]?.failures = failures
    self.links[id]?.state = .failing
    self.lastFailure = reason
    var effects: [Effect] = [
      .setTimer(.link(id), after: self.policy.backoff.delay(failures: failures, random: random))
    ]
    if self.policy.balancing == .pickFirst,
      !self.links.values.contains(where: { $0.state == .connecting })
    {
      self.connectNext(&effects)
    }
    if !self.links.values.contains(where: { $0.state == .connecting || $0.state == .ready }) {
      self.isFailing = true
      effects.append(.failWaitingCalls(reason))
    }
    self.resolve(&effects)
    return effects
  }

  /// A ready link's connection ended, or its peer asked to leave it.
  ///
  /// - Parameters:
  ///   - wasUseful: A call was answered on it, or it lasted. A server that greets and leaves is as good
  ///     as one that is not there: whoever connects by itself must not do so without a pause.
  ///   - random: From -1 to 1, for the jitter.
  package mutating func lost(
    _ id: LinkID, wasUseful: Bool, callsAreWaiting: Bool, random: Double
  ) -> [Effect] {
    guard !self.isShutDown, let link = self.links[id], link.state == .ready else { return [] }
    var effects: [Effect] = []
    if self.policy.balancing == .roundRobin, !wasUseful {
      // Calls are not failed for it: they wait for the next attempt, or go elsewhere.
      self.links[id]?.failures = link.failures + 1
      self.links[id]?.state = .failing
      let delay = self.policy.backoff.delay(failures: link.failures + 1, random: random)
      effects.append(.setTimer(.link(id), after: delay))
    } else {
      self.links[id]?.failures = 0
      self.links[id]?.state = .idle
    }
    self.resolve(&effects)
    if callsAreWaiting || self.policy.balancing == .roundRobin { self.connect(&effects) }
    return effects
  }

  package mutating func timerFired(
    _ timer: Timer, callsAreWaiting: Bool
  ) -> [Effect] {
    guard !self.isShutDown else { return [] }
    var effects: [Effect] = []
    switch timer {
    case .link(let id):
      guard self.links[id]?.state == .failing else { return [] }
      self.links[id]?.state = .idle
      // The next call tries at once, and waits for that attempt instead of failing.
      if !callsAreWaiting, self.policy.balancing == .pickFirst { self.isFailing = false }
      if callsAreWaiting || self.policy.balancing == .roundRobin { self.connect(&effects) }
    case .nextAddress:
      self.nextAddressIsDue = false
      guard self.links.values.contains(where: { $0.state == .connecting }) else { return [] }
      self.connectNext(&effects)
    case .resolve:
      self.isResolutionHeld = false
      guard self.wantsResolution else { return [] }
      self.wantsResolution = false
      self.resolve(&effects)
    case .failedResolution:
      guard self.resolution == .failed else { return [] }
      self.resolution = .none
      self.isFailing = self.isFailing && callsAreWaiting
      if callsAreWaiting { self.resolve(&effects) }
    }
    return effects
  }

  package mutating func shutDown() {
    self.isShutDown = true
  }
}
