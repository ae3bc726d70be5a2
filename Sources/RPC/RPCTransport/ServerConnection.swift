import NIOCore
import RPCCore
import RPCHTTP2
import Synchronization

/// The server's side of one connection: makes a stream for each request and drains in the end.
///
///     serving ──beginShutdown──▶ announcing ──ping answered──▶ draining ──last stream──▶ closed
///
/// The announcement and the ping before the final GOAWAY let calls that are on their way arrive:
/// RFC 9113, section 6.8. A peer that has no call open and does not go is waited for no longer than
/// the close timeout. Confined to the loop of its connection.
final class ServerConnection: ConnectionOwner, @unchecked Sendable {
  private enum State { case serving, announcing, draining, closed }

  let router: Router
  let configuration: RPCServer.Configuration
  private let load: ServerLoad
  private var state = State.serving
  private(set) var openCalls = 0
  /// Handlers that have not returned; a call that the client resets may leave one behind.
  private var runningHandlers = 0
  /// What all streams hold of large requests that are not whole.
  private var unfinishedBytes = 0
  private(set) var isGreeted = false
  private(set) var idleSince = NIODeadline.now()
  private var pings: PingEnforcement
  private var closeTimer: Scheduled<Void>?
  /// Streams that are over, to be used again.
  @exclusivity(unchecked) private var spares: [ServerStream] = []
  private static let maximumSpares = 128
  private var trimIsPlanned = false
  /// What the call before asked for: mostly the next one asks for the same.
  @exclusivity(unchecked) private var lastRoute: Route?
  @exclusivity(unchecked) var lastMetadata = Metadata()
  private(set) lazy var peer = ConnectionPeer(
    address: self.connection?.peer ?? "unknown", identity: self.connection?.peerIdentity)
  /// Set once, right after both are made.
  weak var connection: Connection?

  init(router: Router, configuration: RPCServer.Configuration, load: ServerLoad) {
    self.router = router
    self.configuration = configuration
    self.load = load
    self.pings = PingEnforcement(
      minimumInterval: configuration.minimumPingInterval,
      permitsWithoutCalls: configuration.permitsPingsWithoutCalls)
  }

  var closeTimeout: Duration { self.configuration.closeTimeout }

  func streamBegan() -> HTTP2Stream? {
    guard let connection = self.connection, self.state != .closed else { return nil }
    // Refused, and so tried again by the client elsewhere or later.
    guard self.runningHandlers < self.configuration.maximumRunningCallsPerConnection,
      self.load.running < self.configuration.maximumRunningCalls
    else { return nil }
    self.openCalls += 1
    // A call that was under way when the shutdown began.
    self.closeTimer?.cancel()
    self.closeTimer = nil
    if var spare = self.spares.popLast(), isKnownUniquelyReferenced(&spare) {
      spare.reuse()
      return spare
    }
    return ServerStream(connection: connection, server: self)
  }

  func streamClosed(_ stream: ServerStream) {
    self.openCalls -= 1
    // A handler may still hold it: that is seen when it is to be used again.
    if self.state != .closed, self.spares.count < Self.maximumSpares { self.spares.append(stream) }
    if self.openCalls == 0 { self.becameIdle() }
    // The session says so itself once GOAWAY is out and no stream is left.
    if self.state == .draining { self.connection?.needsFlush() }
    self.lastCallMayHaveEnded()
  }

  /// Gives back, after a while without calls, what is kept for the next ones.
  private func becameIdle() {
    self.idleSince = .now()
    guard !self.trimIsPlanned, !self.spares.isEmpty, let connection = self.connection
    else { return }
    self.trimIsPlanned = true
    connection.executor.eventLoop.scheduleTask(in: Self.trimDelay) { [weak self] in
      guard let self else { return }
      self.trimIsPlanned = false
      guard self.openCalls == 0 else { return }
      self.spares = []
      self.connection?.trim()
    }
  }

  private static let trimDelay = TimeAmount.seconds(2)

  func route(for path: UnsafeBufferPointer<UInt8>) -> Route? {
    if let last = self.lastRoute, last.matches(path) { return last }
    let route = self.router.find(path)
    if route != nil { self.lastRoute = route }
    return route
  }

  func handlerBegan() {
    self.runningHandlers += 1
    self.load.began()
  }

  func handlerEnded() {
    self.runningHandlers -= 1
    self.load.ended()
  }

  /// A stream holds so many bytes of an unfinished request more, or less.
  ///
  /// - Throws: What the call ends with that would take more than there is. It has been counted.
  func unfinishedGrew(by count: Int) throws(RPCError) {
    self.unfinishedBytes += count
    let total = self.load.unfinishedGrew(by: count)
    guard count > 0 else { return }
    let limit = self.configuration.maximumUnfinishedRequestBytesPerConnection
    guard self.unfinishedBytes <= limit else {
      throw RPCError(
        .resourceExhausted,
        "the unfinished requests of this connection hold \(self.unfinishedBytes) bytes, the limit is"
          + " \(limit)")
    }
    guard total <= self.configuration.maximumUnfinishedRequestBytes else {
      throw RPCError(
        .resourceExhausted,
        "the unfinished requests of all connections hold \(total) bytes, the limit is"
          + " \(self.configuration.maximumUnfinishedRequestBytes)")
    }
  }

  func settingsReceived() {
    guard !self.isGreeted else { return }
    self.isGreeted = true
    self.connection?.greeted()
  }

  func streamNumbersRanOut() {}

  func goAwayReceived(lastStreamID: Int32, code: UInt32, text: String) {}

  func pingReceived() {
    let isFine = self.pings.pingReceived(
      hasCalls: self.openCalls > 0, sent: self.connection?.session?.callFramesSent ?? 0,
      at: Duration(.now()))
    guard !isFine else { return }
    // The words that gRPC's clients know.
    self.connection?.terminate("too_many_pings")
  }

  func pingAcknowledged(_ purpose: HTTP2Session.Ping) {
    self.connection?.pingAnswered()
    guard purpose == .shutdown, self.state == .announcing else { return }
    self.state = .draining
    self.connection?.session?.refuseNewStreams()
    self.connection?.needsFlush()
  }

  func peerWentTooFar(_ what: String) {
    self.load.attacked(by: self.peer.address, what)
    self.connection?.terminate(what)
  }

  func mayLeave(_ reason: String) { self.beginShutdown() }

  func streamsStalled(_ count: Int) {
    self.load.attacked(
      by: self.peer.address, "\(count) calls were reset: their responses were not read")
  }

  func connectionWillClose(_ reason: String) {}

  func connectionClosed(_ reason: String) {
    self.state = .closed
    self.spares = []
    self.closeTimer?.cancel()
    self.closeTimer = nil
  }

  /// Takes no more calls and closes when the last one is over.
  func beginShutdown() {
    guard self.state == .serving, let session = self.connection?.session else { return }
    self.state = .announcing
    session.announceShutdown()
    // A ping overtakes what waits to be sent, and its answer would say nothing of the notice.
    if self.isGreeted { self.connection?.flush() }
    session.ping(.shutdown)
    self.connection?.needsFlush()
    self.lastCallMayHaveEnded()
  }

  private func lastCallMayHaveEnded() {
    guard self.state == .announcing || self.state == .draining, self.openCalls == 0,
      self.closeTimer == nil, let connection = self.connection
    else { return }
    self.closeTimer = connection.executor.eventLoop.scheduleTask(
      in: TimeAmount(self.configuration.closeTimeout)
    ) {
      self.connection?.close("the server is shutting down")
    }
  }
}

/// What all connections of a server have in common.
final class ServerLoad: Sendable {
  private let handlers = Atomic<Int>(0)
  private let unfinishedBytes = Atomic<Int>(0)
  private let report: (@Sendable (_ peer: String, _ what: String) -> Void)?

  init(report: (@Sendable (_ peer: String, _ what: String) -> Void)?) {
    self.report = report
  }

  var running: Int { self.handlers.load(ordering: .relaxed) }
  func began() { self.handlers.add(1, ordering: .relaxed) }
  func ended() { self.handlers.subtract(1, ordering: .relaxed) }

  /// - Returns: What all connections hold of unfinished requests now.
  func unfinishedGrew(by count: Int) -> Int {
    self.unfinishedBytes.add(count, ordering: .relaxed).newValue
  }

  func attacked(by peer: String, _ what: String) { self.report?(peer, what) }
}
