import NIOCore
import NIOPosix
import RPCCore
import RPCHTTP2

/// A channel on its event loop: the state machine, its links, and the calls that wait for one.
/// `@unchecked Sendable`: only the loop touches it.
final class ChannelCore: ClientConnectionOwner, @unchecked Sendable {
  let executor: LoopExecutor
  /// Over all calls; nil: there is none.
  var throttle: RetryThrottle?
  private let target: ChannelTarget
  private let configuration: RPCChannel.Configuration
  private let dialer: any Dialer
  private let authority: String
  private let scheme: StaticString
  private var machine: ChannelMachine
  private var waiting: [ObjectIdentifier: (order: Int, stream: ClientStream)] = [:]
  private var nextOrder = 0
  /// Calls that were tried, and are or were to be tried again.
  private var retried: [ObjectIdentifier: ClientStream] = [:]
  /// A link's connection: being made, or greeted, or in use.
  private var links: [ChannelMachine.LinkID: Connection] = [:]
  /// Whose link a connection is; those that were retired are nobody's.
  private var linkOf: [ObjectIdentifier: ChannelMachine.LinkID] = [:]
  /// Every connection that is not closed.
  private(set) var connections: [ObjectIdentifier: Connection] = [:]
  private var keepalive: Keepalive?
  /// A server that wants fewer pings does not make us ping less often than once a day.
  private static let seldomKeepalive = Duration.seconds(86_400)
  private var isShutDown = false
  private var onClosed: [() -> Void] = []

  init(
    target: ChannelTarget, configuration: RPCChannel.Configuration, dialer: any Dialer,
    eventLoop: any EventLoop
  ) {
    self.target = target
    self.configuration = configuration
    self.dialer = dialer
    self.executor = LoopExecutor.of(eventLoop)
    self.keepalive = configuration.keepalive
    self.throttle = configuration.serviceConfig.retryThrottling.map(RetryThrottle.init)
    self.authority = configuration.authority ?? target.authority
    self.scheme = configuration.tls == nil ? "http" : "https"
    var policy = ChannelMachine.Policy()
    policy.balancing = configuration.serviceConfig.loadBalancing ?? configuration.loadBalancing
    policy.backoff = .init(
      initial: configuration.initialBackoff, maximum: configuration.maximumBackoff)
    if case .addresses = target.kind { policy.isConstant = true }
    self.machine = ChannelMachine(policy)
  }

  // MARK: - Calls

  func begin(_ stream: ClientStream) {
    guard !stream.isFinished else { return }
    stream.begin(in: self)
    guard !stream.isFinished else { return }
    self.admit(stream)
  }

  /// Makes an attempt at a call, now or when there is a connection.
  func admit(_ stream: ClientStream) {
    switch self.machine.callArrived(waitsForReady: stream.waitsForReady) {
    case .start(let link):
      self.start(stream, on: link)
    case .wait(let effects):
      // Whether or not this call may wait: the machine counts on them.
      defer { self.perform(effects) }
      let id = ObjectIdentifier(stream)
      // One place is enough for all of a hedged call's attempts.
      if self.waiting[id] != nil { return stream.attemptIsPlannedAlready() }
      guard self.mayWait(stream, "for a connection to \(self.target)") else { return }
      self.nextOrder += 1
      self.waiting[id] = (self.nextOrder, stream)
      stream.onFinish = { [weak self] in self?.waiting[id] = nil }
    case .fail(let reason):
      stream.notConnected(self.unavailable(reason))
    case .refuse:
      stream.unavailable(self.closedError)
    }
  }

  /// Whether a call that was tried may be tried again: not where the channel was closed. ``triesNoMore(_:)``
  /// follows.
  func mayTryAgain(_ stream: ClientStream) -> Bool {
    guard !self.isShutDown else { return false }
    self.retried[ObjectIdentifier(stream)] = stream
    return true
  }

  func triesNoMore(_ stream: ClientStream) { self.retried[ObjectIdentifier(stream)] = nil }

  private func start(_ stream: ClientStream, on link: ChannelMachine.LinkID) {
    guard let connection = self.links[link] else {
      preconditionFailure("a link that is ready has a connection")
    }
    if let session = connection.session, session.isFull,
      !self.mayWait(stream, "behind the limit of streams of \(self.target)")
    {
      return
    }
    stream.start(on: connection, authority: self.authority, scheme: self.scheme)
  }

  /// Calls that have not gone out: there is no connection, or its server takes no more at once.
  var waitingCalls: Int {
    self.connections.values.reduce(self.waiting.count) { $0 + ($1.session?.queuedStreams ?? 0) }
  }

  /// Whether one more call may wait; otherwise its attempt ends here.
  private func mayWait(_ stream: ClientStream, _ whereTo: String) -> Bool {
    let count = self.waitingCalls
    if count < self.configuration.maximumWaitingCalls { return true }
    stream.unavailable(
      RPCError(.resourceExhausted, "\(count) calls wait already; this one would wait \(whereTo)"))
    return false
  }

  private func unavailable(_ reason: String) -> RPCError {
    RPCError(.unavailable, "cannot connect to \(self.target): \(reason)")
  }

  private var closedError: RPCError {
    RPCError(.unavailable, "the channel to \(self.target) was closed")
  }

  private var waitingInOrder: [ClientStream] {
    self.waiting.values.sorted { $0.order < $1.order }.map(\.stream)
  }

  // MARK: - Effects

  private func perform(_ effects: [ChannelMachine.Effect]) {
    for effect in effects {
      switch effect {
      case .resolve: self.resolve()
      case .connect(let link, let address): self.connect(link, to: address)
      case .drop(let link): self.drop(link)
      case .setTimer(let timer, let delay):
        self.executor.eventLoop.scheduleTask(in: TimeAmount(delay)) { [weak self] in
          guard let self else { return }
          self.perform(
            self.machine.timerFired(timer, callsAreWaiting: !self.waiting.isEmpty))
        }
      case .startWaitingCalls: self.startWaitingCalls()
      case .failWaitingCalls(let reason):
        let error = self.unavailable(reason)
        for stream in self.waitingInOrder {
          if stream.waitsForReady {
            stream.stillWaits(reason)
          } else {
            self.forget(stream)
            stream.notConnected(error)
          }
        }
      }
    }
  }

  private func startWaitingCalls() {
    let streams = self.waitingInOrder
    self.waiting = [:]
    for stream in streams {
      stream.onFinish = nil
      self.admit(stream)
    }
  }

  private func forget(_ stream: ClientStream) {
    self.waiting[ObjectIdentifier(stream)] = nil
    stream.onFinish = nil
  }

  private func resolve() {
    self.dialer.resolve(self.target, on: self.executor.eventLoop) { result in
      let callsAreWaiting = !self.waiting.isEmpty
      switch result {
      case .success(let addresses):
        self.perform(self.machine.resolved(addresses, callsAreWaiting: callsAreWaiting))
      case .failure(let error):
        self.perform(
          self.machine.resolutionFailed(
            error.reason, callsAreWaiting: callsAreWaiting, random: .random(in: -1...1)))
      }
    }
  }

  // MARK: - Connections

  private func connect(_ link: ChannelMachine.LinkID, to address: ListenAddress) {
    var http2 = HTTP2Session.Configuration()
    http2.maximumHeaderListBytes = UInt32(clamping: self.configuration.maximumHeaderListBytes)
    http2.maximumStreamWindow = Int32(clamping: self.configuration.maximumStreamWindow)
    http2.streamWindow = min(http2.streamWindow, http2.maximumStreamWindow)
    var limits = ConnectionLife.Limits(handshake: self.configuration.connectTimeout)
    limits.idle = self.configuration.idleTimeout
    if let keepalive = self.keepalive {
      limits.keepaliveInterval = keepalive.interval
      limits.keepaliveTimeout = keepalive.timeout
      limits.keepaliveWithoutCalls = keepalive.withoutCalls
    }
    let owner = ClientConnection(channel: self)
    let connection = Connection(
      .client, executor: self.executor, configuration: http2, life: limits, owner: owner)
    owner.connection = connection
    let id = ObjectIdentifier(connection)
    self.links[link] = connection
    self.linkOf[id] = link
    self.connections[id] = connection
    self.dialer.connect(to: address, connection, on: self.executor.eventLoop) { failure in
      guard let failure else {
        if self.isShutDown || self.linkOf[id] == nil {
          connection.close("nobody wants the connection any more")
        }
        return
      }
      self.connections[id] = nil
      self.ended(link, connection, failure.reason)
      self.reportClosed()
    }
  }

  /// A connection that is being made came to nothing.
  private func ended(
    _ link: ChannelMachine.LinkID, _ connection: Connection, _ reason: String
  ) {
    guard self.linkOf.removeValue(forKey: ObjectIdentifier(connection)) != nil else { return }
    self.links[link] = nil
    self.perform(
      self.machine.connectFailed(
        link, reason, callsAreWaiting: !self.waiting.isEmpty, random: .random(in: -1...1)))
  }

  /// A link that nobody wants: its connection goes when its calls are over.
  private func drop(_ link: ChannelMachine.LinkID) {
    guard let connection = self.links.removeValue(forKey: link) else { return }
    self.linkOf[ObjectIdentifier(connection)] = nil
    connection.leave()
  }

  func connectionReady(_ connection: Connection) {
    guard !self.isShutDown, let link = self.linkOf[ObjectIdentifier(connection)],
      let effects = self.machine.connected(link)
    else { return connection.close("nobody wants the connection any more") }
    self.perform(effects)
  }

  func connectionRetired(_ connection: Connection, tooManyPings: Bool) {
    if tooManyPings, let keepalive = self.keepalive {
      // `doc/keepalive.md` of the gRPC project: twice as seldom from now on. Bounded, for a server
      // may say so as often as it likes.
      self.keepalive?.interval = max(
        keepalive.interval, min(keepalive.interval, Self.seldomKeepalive / 2) * 2)
    }
    self.lost(connection)
  }

  private func lost(_ connection: Connection) {
    guard let link = self.linkOf.removeValue(forKey: ObjectIdentifier(connection)) else { return }
    self.links[link] = nil
    self.perform(
      self.machine.lost(
        link, wasUseful: self.wasUseful(connection), callsAreWaiting: !self.waiting.isEmpty,
        random: .random(in: -1...1)))
  }

  /// Whether a connection served a call, or stayed for as long as two attempts to connect may be
  /// apart.
  private func wasUseful(_ connection: Connection) -> Bool {
    guard let client = connection.client else { return false }
    return client.hasAnswered
      || NIODeadline.now() - client.greeted >= TimeAmount(self.configuration.maximumBackoff)
  }

  func connectionClosed(_ connection: Connection, wasReady: Bool, _ reason: String) {
    self.connections[ObjectIdentifier(connection)] = nil
    if wasReady {
      self.lost(connection)
    } else if let link = self.linkOf[ObjectIdentifier(connection)] {
      self.ended(
        link, connection,
        connection.failsInTLS ? reason : "it does not speak HTTP/2 (\(reason))")
    }
    self.reportClosed()
  }

  // MARK: - The end

  func shutDown(_ done: @escaping () -> Void) {
    self.isShutDown = true
    self.machine.shutDown()
    self.dialer.channelClosed()
    self.onClosed.append(done)
    for stream in self.waitingInOrder + Array(self.retried.values) {
      stream.cancel(self.closedError)
    }
    for connection in Array(self.connections.values) { connection.close("the channel was closed") }
    self.reportClosed()
  }

  private func reportClosed() {
    guard self.isShutDown, self.connections.isEmpty else { return }
    for done in self.onClosed { done() }
    self.onClosed = []
  }
}
