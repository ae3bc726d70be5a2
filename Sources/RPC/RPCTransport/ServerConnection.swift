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
  /// Calls that are open, and handlers that a call has left behind.
  private var runningCalls = 0
  /// What all streams hold of metadata and messages, and what of it the server knows.
  private(set) var heldBytes = 0
  private var reportedBytes = 0
  private var hasNarrowWindows = false
  private(set) var isGreeted = false
  private(set) var idleSince = NIODeadline.now()
  private var pings: PingEnforcement
  private let closeTimer = LoopTimer()
  /// Streams that are over, to be used again.
  @exclusivity(unchecked) private var spares: [ServerStream] = []
  private static let maximumSpares = 128
  private var trimIsPlanned = false
  @exclusivity(unchecked) var lastMetadata = Metadata()
  /// Of a call before, whose fields a call may bring again; with the route that they led to.
  @exclusivity(unchecked) private(set) var knownHead: KnownHead?
  @exclusivity(unchecked) private(set) var knownRoute: Unmanaged<Route>?
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
  var stalledTimeout: Duration { self.configuration.stalledCallTimeout }

  func streamBegan() -> HTTP2Stream? {
    // The last GOAWAY names the last stream when it is made, and may wait for room in the socket.
    guard self.state == .serving || self.state == .announcing else { return nil }
    // Refused, and so tried again by the client elsewhere or later.
    guard self.mayRunAnother, let stream = self.newStream() else { return nil }
    self.openCalls += 1
    self.runningCalls += 1
    self.load.began()
    // A call that was under way when the shutdown began.
    if self.closeTimer.isRunning { stream.executor.timers.stop(self.closeTimer) }
    return stream
  }

  private func newStream() -> ServerStream? {
    if var spare = self.spares.popLast(), isKnownUniquelyReferenced(&spare) {
      spare.reuse()
      return consume spare
    }
    return self.connection.map { ServerStream(connection: $0, server: self) }
  }

  private var mayRunAnother: Bool {
    let (own, limits) = (self.runningCalls, self.configuration)
    guard own < limits.maximumRunningCallsPerConnection else { return false }
    // Beyond the limit each connection keeps its part, whoever has used up the rest.
    return self.load.running < limits.maximumRunningCalls
      || own < limits.maximumRunningCalls / limits.maximumConnections
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
    guard !self.trimIsPlanned, !self.spares.isEmpty, self.state != .closed,
      let connection = self.connection, connection.isActive
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

  /// Keeps a call's head and route for those that follow with the same fields.
  func know(_ head: borrowing RequestHead, _ route: Unmanaged<Route>?) {
    self.knownHead = KnownHead(head)
    self.knownRoute = route
  }

  /// The router keeps it as long as this lives, and streams that live longer keep this.
  func route(for path: UnsafeBufferPointer<UInt8>) -> Unmanaged<Route>? {
    // Mostly the next call asks for the same.
    if let known = self.knownRoute, known._withUnsafeGuaranteedRef({ $0.matches(path) }) {
      return known
    }
    return self.router.find(path).map { Unmanaged.passUnretained($0) }
  }

  /// Neither a call nor its handler is left.
  func callEnded() {
    self.runningCalls -= 1
    self.load.ended()
  }

  /// A stream holds so many bytes of metadata and messages more, or less.
  ///
  /// - Returns: What the call ends with that holds more than there is room for. It has been counted.
  func holds(_ more: Int) -> RPCError? {
    self.heldBytes += more
    // What handlers give back that outlive their connection comes in no further step.
    if abs(self.heldBytes - self.reportedBytes) >= Self.reportStep || self.state == .closed {
      self.reportHeld()
    }
    let limit = self.configuration.maximumBufferedBytesPerConnection
    let (total, all) = (self.load.heldBytes, self.configuration.maximumBufferedBytes)
    // Wide windows let more come than there is room for, from those who may be slow to be read.
    let narrow = self.heldBytes > limit / 2 || total > all / 2
    if narrow != self.hasNarrowWindows {
      self.hasNarrowWindows = narrow
      self.connection?.session?.hasNarrowWindows = narrow
    }
    guard more > 0 else { return nil }
    guard self.heldBytes <= limit else {
      return RPCError(
        .resourceExhausted,
        "what the calls of this connection hold takes \(self.heldBytes) bytes, the limit is \(limit)"
      )
    }
    // Beyond the limit each connection keeps its part, whoever has used up the rest.
    guard total <= all || self.heldBytes <= all / self.configuration.maximumConnections else {
      return RPCError(
        .resourceExhausted,
        "what the calls of all connections hold takes \(total) bytes, the limit is \(all)")
    }
    return nil
  }

  /// What may be held without the server as a whole knowing it.
  private static let reportStep = 16 << 10

  private func reportHeld() {
    self.load.hold(self.heldBytes - self.reportedBytes)
    self.reportedBytes = self.heldBytes
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
    self.load.attacked(by: self.peer.address, "it pings too often")
    // The words that gRPC's clients know.
    self.connection?.terminate("too_many_pings")
  }

  func pingAcknowledged(_ purpose: HTTP2Session.Ping) {
    self.connection?.pingAnswered()
    if purpose == .shutdown { self.drain() }
  }

  /// The client has heard that no more calls are taken, or has had the time to.
  private func drain() {
    guard self.state == .announcing else { return }
    self.state = .draining
    self.connection?.session?.refuseNewStreams()
    self.connection?.needsFlush()
  }

  func peerWentTooFar(_ what: String) {
    self.load.attacked(by: self.peer.address, what)
    self.connection?.terminate(what)
  }

  func mayLeave(_ reason: String) { self.beginShutdown() }

  var isShortOfRoom: Bool {
    let limits = self.configuration
    func isShort(_ own: Int, _ all: Int, of limit: Int) -> Bool {
      all > limit / 2 && own > limit / 2 / limits.maximumConnections
    }
    return self.state != .serving
      || self.heldBytes > limits.maximumBufferedBytesPerConnection / 2
      || isShort(self.heldBytes, self.load.heldBytes, of: limits.maximumBufferedBytes)
      || isShort(self.runningCalls, self.load.running, of: limits.maximumRunningCalls)
  }

  func callsStalled(_ count: Int) {
    // Of a server that goes it is no attack to read slowly.
    guard self.state == .serving else { return }
    self.load.attacked(
      by: self.peer.address,
      "\(count) calls were ended: their responses are not read, or their requests do not come")
  }

  func peerTakesNothing() {
    self.load.attacked(
      by: self.peer.address, "its connection was ended: it takes nothing of what it is sent")
  }

  func connectionWillClose(_ reason: String) {}

  func connectionClosed(_ reason: String) {
    self.state = .closed
    self.reportHeld()
    self.spares = []
    self.connection?.executor.timers.stop(self.closeTimer)
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
    // A client that leaves the ping unanswered would go on as if nothing had been said.
    self.connection?.executor.eventLoop.scheduleTask(
      in: TimeAmount(self.configuration.closeTimeout)
    ) { [weak self] in self?.drain() }
    self.lastCallMayHaveEnded()
  }

  private func lastCallMayHaveEnded() {
    guard self.state == .announcing || self.state == .draining, self.openCalls == 0,
      !self.closeTimer.isRunning, let connection = self.connection
    else { return }
    connection.executor.timers.start(self.closeTimer, in: self.configuration.closeTimeout) {
      // A call that comes now is refused, and goes elsewhere.
      self.state = .draining
      self.connection?.session?.refuseNewStreams()
      self.connection?.flush()
      self.connection?.closeWhenTaken("the server is shutting down")
    }
  }
}

/// What all connections of a server have in common.
final class ServerLoad: Sendable {
  private let handlers = Atomic<Int>(0)
  private let held = Atomic<Int>(0)
  private let report: (@Sendable (_ peer: String, _ what: String) -> Void)?

  init(report: (@Sendable (_ peer: String, _ what: String) -> Void)?) {
    self.report = report
  }

  var running: Int { self.handlers.load(ordering: .relaxed) }
  func began() { self.handlers.add(1, ordering: .relaxed) }
  func ended() { self.handlers.subtract(1, ordering: .relaxed) }

  /// What all connections hold of metadata and messages, but for what each of them has not reported.
  var heldBytes: Int { self.held.load(ordering: .relaxed) }
  func hold(_ more: Int) { self.held.add(more, ordering: .relaxed) }

  func attacked(by peer: String, _ what: String) { self.report?(peer, what) }
}
