import NIOCore
import NIOPosix
import NIOSSL
import NIOTLS
import RPCCore
import RPCHTTP2

/// Whose connection it is: the server's or the client's side of what happens on it.
protocol ConnectionOwner: HTTP2SessionDelegate {
  var connection: Connection? { get }
  /// How long a connection that is to end waits for a peer that went too far to read that.
  var closeTimeout: Duration { get }
  /// How long one that is over waits for a peer that takes nothing of what was said.
  var stalledTimeout: Duration { get }
  /// The peer's SETTINGS have come.
  var isGreeted: Bool { get }
  var openCalls: Int { get }
  /// When the last call ended, or the connection began.
  var idleSince: NIODeadline { get }
  /// The connection is to be left: old, or idle.
  func mayLeave(_ reason: String)
  /// Others need what its calls hold, or it is to end: calls that nobody reads are not kept.
  var isShortOfRoom: Bool { get }
  /// What its calls hold.
  var heldBytes: Int { get }
  /// Calls were ended because their requests do not come, or their responses are not read.
  func callsStalled(_ count: Int)
  /// The peer takes nothing at all: the connection ends.
  func peerTakesNothing()
  /// The connection is being closed, which TLS may take a while for.
  func connectionCloses()
  /// The connection is gone; its streams are told next.
  func connectionWillClose(_ reason: String)
  /// The connection is gone; every stream has been told.
  func connectionClosed(_ reason: String)
}

extension ConnectionOwner {
  func connectionCloses() {}

  func goAwaySent(code: UInt32, text: String) {
    self.connection?.blamedPeer("this side ended it with \(self.goAwayInWords(code, text))")
  }

  func goAwayInWords(_ code: UInt32, _ text: String) -> String {
    "GOAWAY, \(http2ErrorName(code))" + (text.isEmpty ? "" : " (\(printable(text).prefix(200)))")
  }
}

/// One HTTP/2 connection on its event loop: bytes between the socket and the session.
///
///     connecting ──active──▶ open ──session is over──▶ departing ──all arrived──▶ silent ──▶ closed
///
/// From each of them it may be closed at once. What it says last is brought away first
/// (``closeWhenTaken(_:)``), but to a peer that was blamed for no longer than the close timeout.
///
/// Everything is done on the loop. Reads are answered once, when all that came has been taken; a
/// peer that does not read stops us from producing, not only from sending. `@unchecked Sendable`:
/// references travel, but only the loop uses them.
final class Connection: ChannelInboundHandler, @unchecked Sendable {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  /// Bytes that are gathered before they are handed to the socket in one go.
  private static let writeBatchBytes = 128 << 10

  /// What a peer must at least take, or send, between two looks at it.
  private static let minimumProgressBytes = 1 << 10
  /// Where room is short, a peer that takes less than such a part of what its calls hold, between two
  /// looks, does not read.
  private static let partOfHeldBytes = 8

  let executor: LoopExecutor
  let owner: any ConnectionOwner
  /// The owner of a client's connection: asked for by every call, and a cast is dear.
  let client: ClientConnection?
  @exclusivity(unchecked) private(set) var session: HTTP2Session? {
    didSet { self.sessionInPlace = self.session.map { Unmanaged.passUnretained($0) } }
  }
  @exclusivity(unchecked) private var sessionInPlace: Unmanaged<HTTP2Session>?
  private let role: HTTP2Session.Role
  private let configuration: HTTP2Session.Configuration
  private let limits: ConnectionLife.Limits
  private var life: ConnectionLife?
  private let lifeTimer = LoopTimer()
  private var context: ChannelHandlerContext?
  @exclusivity(unchecked) private var output = ByteBuffer()
  @exclusivity(unchecked) private var isReading = false
  /// nghttp2 is at work on what was read, and calls back.
  @exclusivity(unchecked) private var isReceiving = false
  @exclusivity(unchecked) private var isFlushing = false
  @exclusivity(unchecked) private var flushIsDue = false
  private enum Phase {
    case connecting
    case open
    /// Nothing follows what was said; it is on its way.
    case departing
    /// The peer knows that nothing follows.
    case silent
    case closed
  }
  @exclusivity(unchecked) private var phase = Phase.connecting
  /// It closes soon, whatever the peer does.
  private var isCondemned = false
  /// Since the connection began.
  @exclusivity(unchecked) private var writtenBytes: UInt64 = 0
  /// What had arrived at the last look; nil: nothing was on its way.
  private var acknowledgedAtCheck: UInt64?
  /// Why we end it, if it is we who do.
  private var ownReason: String?
  /// What lies below HTTP/2 has failed.
  private(set) var failsInTLS = false
  /// When bytes of the peer's came last.
  private(set) var lastReadTime = NIODeadline.now()
  /// Nil: it has as long as it takes.
  @exclusivity(unchecked) private var turn: Turn?
  /// The header list that has begun and not ended, by its number, and when it began.
  private var openHeaders: (number: Int, since: NIODeadline)?
  /// Since the last read ended.
  @exclusivity(unchecked) private var takenBytes = 0
  /// What came and has to wait for the next turn; nil: nothing does.
  @exclusivity(unchecked) private var backlog: ByteBuffer?

  /// - Parameter peerIdentity: Who the peer is, where no TLS tells.
  init(
    _ role: HTTP2Session.Role, executor: LoopExecutor, configuration: HTTP2Session.Configuration,
    life: ConnectionLife.Limits, owner: any ConnectionOwner, peerIdentity: PeerIdentity? = nil
  ) {
    self.givenIdentity = peerIdentity
    self.role = role
    self.limits = life
    self.executor = executor
    self.configuration = configuration
    self.owner = owner
    self.client = owner as? ClientConnection
  }

  /// The peer's address, for people.
  var peer: String { peerText(self.context?.channel.remoteAddress) }

  private let givenIdentity: PeerIdentity?

  /// Who the peer proved to be; nil without TLS or without a certificate.
  private(set) lazy var peerIdentity: PeerIdentity? = {
    if let given = self.givenIdentity { return given }
    let handler = try? self.context?.pipeline.syncOperations.handler(type: NIOSSLServerHandler.self)
    return handler?.peerCertificate.flatMap { PeerIdentity($0) }
  }()

  // MARK: - From the pipeline

  func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
    self.output = context.channel.allocator.buffer(capacity: Self.idleOutputBytes)
    self.session = HTTP2Session(self.role, configuration: self.configuration, delegate: self.owner)
    if context.channel.isActive { self.begin() }
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    self.context = nil
  }

  /// Its socket is open: it may have further calls.
  var isActive: Bool { self.context?.channel.isActive ?? false }

  func channelActive(context: ChannelHandlerContext) {
    self.begin()
    context.fireChannelActive()
  }

  func channelInactive(context: ChannelHandlerContext) {
    self.executor.timers.stop(self.lifeTimer)
    self.takeLastBacklog()
    self.backlog = nil
    if let session = self.session {
      let reason = self.closeReason
      self.owner.connectionWillClose(reason)
      session.abandonStreams(code: 0x8)
      self.session = nil
      self.owner.connectionClosed(reason)
    }
    context.fireChannelInactive()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var bytes = self.unwrapInboundIn(data)
    self.lastReadTime = .now()
    self.executor.turns.heard()
    if !self.isReading { self.turn = Turn(began: self.lastReadTime) }
    self.isReading = true
    if self.backlog != nil {
      self.backlog?.writeBuffer(&bytes)
    } else if self.role == .server, self.executor.turns.isLate {
      let count = bytes.readableBytes
      self.rest(with: bytes, weight: count)
    } else {
      self.take(bytes, at: self.lastReadTime)
    }
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    self.readEnds()
    context.fireChannelReadComplete()
  }

  private func readEnds() {
    let begin = NIODeadline.now()
    // What the calls wrote goes out with what the session has to say.
    self.executor.readEnds(of: self)
    self.executor.turns.worked(.now() - begin, on: self.takenBytes)
    self.takenBytes = 0
    self.isReading = false
    if let session = self.session, session.isInHeaders {
      if self.openHeaders?.number != session.headerLists {
        self.openHeaders = (session.headerLists, begin)
      }
    } else {
      self.openHeaders = nil
    }
    self.flush()
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable { self.flush() }
    context.fireChannelWritabilityChanged()
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .handshakeCompleted(let negotiated)? = event as? TLSUserEvent, negotiated != "h2" {
      // RFC 9113, section 3.2.
      self.close("TLS came about without HTTP/2: the peer does not offer \"h2\" by ALPN")
    }
    context.fireUserInboundEventTriggered(event)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    switch error {
    case NIOSSLError.uncleanShutdown: break
    case is NIOSSLError, is BoringSSLError, is WrongServer: self.failsInTLS = true
    default: break
    }
    self.close(describe(error))
  }

  // MARK: - Turns

  /// What of the loop's time a connection has had since the loop looked at its sockets.
  private struct Turn {
    let began: NIODeadline
    /// Calls were served meanwhile, which has a bound of its own.
    var served = TimeAmount.zero

    func isOver(at now: NIODeadline) -> Bool {
      self.served > LoopTurns.handlersTurn || now - self.began - self.served > LoopTurns.turn
    }
  }

  /// Of a connection that has had a turn, so that others go on before it for some rests.
  private static let weightOfTurn = 1 << 20

  /// Takes what was read, until the connection has had its turn.
  private func take(_ bytes: consuming ByteBuffer, at now: NIODeadline) {
    var now = now
    while let session = self.session, bytes.readableBytes > 0 {
      if self.turn?.isOver(at: now) ?? false {
        return self.rest(with: bytes, weight: Self.weightOfTurn)
      }
      do {
        self.isReceiving = true
        defer { self.isReceiving = false }
        try bytes.readWithUnsafeReadableBytes { all in
          let slice = UnsafeRawBufferPointer(rebasing: all.prefix(LoopTurns.sliceBytes))
          try self.executor.take { try session.receive(slice) }
          self.takenBytes += slice.count
          return slice.count
        }
      } catch {
        self.isReading = false
        let reason = "\(error)"
        if (error as? HTTP2Session.Failure)?.isFlood ?? false {
          self.owner.peerWentTooFar(reason)
        } else {
          self.ownReason = reason
          // PROTOCOL_ERROR: RFC 9113, section 7.
          session.terminate(code: 0x1, reason)
        }
        self.flush()
        return self.close(reason)
      }
      var end = NIODeadline.now()
      if self.executor.isWorkDue {
        // A flush that fails closes the connection, and reads before what has come since.
        self.backlog = bytes.readableBytes > 0 ? bytes : nil
        self.executor.runDue(from: self)
        bytes = self.backlog.take() ?? ByteBuffer()
        let taken = end
        end = .now()
        self.turn?.served += end - taken
      }
      self.executor.turns.worked(end - now, on: LoopTurns.sliceBytes)
      now = end
    }
  }

  private func rest(with bytes: ByteBuffer, weight: Int) {
    self.backlog = bytes
    self.readsFromSocket(false)
    self.executor.turns.goesOnLater(weight: weight) { self.goOn() }
  }

  /// The next turn.
  func goOn() {
    guard self.session != nil, let bytes = self.backlog.take() else { return }
    let now = NIODeadline.now()
    self.turn = Turn(began: now)
    self.isReading = true
    self.take(bytes, at: now)
    self.readEnds()
    if self.backlog == nil { self.readsFromSocket(true) }
  }

  /// A server's last answers count though it has closed the connection behind them.
  private func takeLastBacklog() {
    guard self.role == .client, let bytes = self.backlog.take() else { return }
    self.turn = nil
    self.isReading = true
    self.take(bytes, at: .now())
    self.isReading = false
  }

  private func readsFromSocket(_ reads: Bool) {
    self.context?.channel.setOption(.autoRead, value: reads).whenFailure { _ in
      // Closed. Nothing more is read from it.
    }
  }

  // MARK: - To the socket

  /// Something is to be sent: at the end of this read, or of this turn of the loop.
  func needsFlush() {
    self.executor.eventLoop.assertInEventLoop()
    guard !self.isReading, !self.flushIsDue else { return }
    self.flushIsDue = true
    self.executor.flushLater(self)
  }

  /// Calls `body` with the session, if the connection is not gone, for what neither flushes nor ends it: no
  /// reference is counted.
  @inline(__always)
  func withSession(_ body: (HTTP2Session) -> Void) {
    self.sessionInPlace?._withUnsafeGuaranteedRef(body)
  }

  /// Sends what the session has to say, as far as the socket takes it.
  func flush() {
    self.flushIsDue = false
    guard let session = self.session, let context = self.context, !self.isFlushing else { return }
    // Not from within a callback of nghttp2's. The end of this read flushes.
    guard !self.isReceiving, self.phase != .silent else { return }
    self.isFlushing = true
    defer { self.isFlushing = false }
    // Unique again once the write before is done: the storage is used again.
    self.output.clear()
    do {
      while context.channel.isWritable {
        repeat {
          try self.output.writeWithUnsafeMutableBytes(
            minimumWritableBytes: HTTP2Session.minimumRegionBytes
          ) { region in try session.produce(into: region) }
        } while !session.isDrained && self.output.readableBytes < Self.writeBatchBytes
        guard self.output.readableBytes > 0 else { break }
        self.writtenBytes += UInt64(self.output.readableBytes)
        context.writeAndFlush(self.wrapOutboundOut(self.output), promise: nil)
        self.output.clear()
        if session.isDrained { break }
      }
    } catch {
      return self.close("\(error)")
    }
    if session.isOver { self.closeWhenTaken(self.closeReason) }
  }

  /// Gives back memory that only traffic needs.
  func trim() {
    self.session?.trim()
    guard self.output.capacity > Self.idleOutputBytes, !self.isFlushing, let context = self.context
    else { return }
    self.output = context.channel.allocator.buffer(capacity: Self.idleOutputBytes)
  }

  private static let idleOutputBytes = 16 << 10

  /// Ends the connection once the peer has taken what was said. To close at once would drop what the
  /// socket has no room for, which may be the end of an answer; and to one that is closed a peer says
  /// nothing without harm, for what comes back is a reset (RFC 9293, section 3.10.7.4), behind which it may
  /// not read what it has. So this side says that it has ended, and goes when the peer does, or is silent.
  func closeWhenTaken(_ reason: String) {
    guard let context = self.context, self.phase == .open else { return }
    self.phase = .departing
    self.ownReason = reason
    let departure = Departure()
    let written = context.writeAndFlush(self.wrapOutboundOut(ByteBuffer()))
    written.assumeIsolated().whenComplete { _ in
      departure.isWritten = true
      self.checkDeparture(departure)
    }
    self.checkDeparture(departure)
  }

  /// What is known of a connection that is over, and of what it has yet to bring away.
  private final class Departure {
    var isWritten = false
    var acknowledged: UInt64?
    var lastProgress = NIODeadline.now()
    /// When all had arrived.
    var arrival: NIODeadline?
    var pause = TimeAmount.milliseconds(1)
    let timer = LoopTimer()
  }

  private static let longestPause = TimeAmount.milliseconds(250)

  private func checkDeparture(_ departure: Departure) {
    guard let context = self.context, self.session != nil else { return }
    let now = NIODeadline.now()
    let socket = SocketProgress(of: context.channel, given: self.writtenBytes)
    if let acknowledged = socket?.acknowledged {
      // Of a few bytes now and then it would be years.
      let taken = acknowledged &- (departure.acknowledged ?? 0)
      if departure.acknowledged == nil || taken >= Self.minimumProgressBytes {
        departure.acknowledged = acknowledged
        departure.lastProgress = now
      }
    }
    if departure.isWritten, (socket?.waiting ?? 0) == 0, self.phase == .departing {
      self.phase = .silent
      departure.lastProgress = now
      departure.arrival = now
      context.close(mode: .output, promise: nil)
    }
    let isSilent = self.phase == .silent
    // Whoever reads what has arrived says so, for it opens its windows.
    if isSilent { departure.lastProgress = max(departure.lastProgress, self.lastReadTime) }
    // Before it has said a word, behind a handshake perhaps, there is nothing that it could take.
    let isBrief = isSilent || !self.owner.isGreeted
    let patience = isBrief ? self.owner.closeTimeout : self.owner.stalledTimeout
    // But not for ever, by a byte now and then.
    let isLate =
      departure.arrival.map { now - $0 >= TimeAmount(self.owner.stalledTimeout) } ?? false
    guard now - departure.lastProgress < TimeAmount(patience), !isLate else {
      return self.close(self.closeReason)
    }
    departure.pause = min(departure.pause * 2, Self.longestPause)
    self.executor.timers.start(departure.timer, in: Duration(departure.pause)) {
      self.checkDeparture(departure)
    }
  }

  /// What the peer's system has acknowledged since the last look, though more was on its way then and is now:
  /// what is beyond the streams' queues, here and in the kernel, no stream tells of. Nil where it has
  /// taken all of it, or nobody has looked before.
  private func takenSinceCheck() -> Int? {
    guard let channel = self.context?.channel,
      let socket = SocketProgress(of: channel, given: self.writtenBytes), socket.waiting > 0
    else {
      self.acknowledgedAtCheck = nil
      return nil
    }
    defer { self.acknowledgedAtCheck = socket.acknowledged }
    return self.acknowledgedAtCheck.map { Int(clamping: socket.acknowledged &- $0) }
  }

  private var closeReason: String { self.ownReason ?? "the peer closed the connection" }

  /// The peer was told of an error of its own that ends the connection, by nghttp2 or by us.
  func blamedPeer(_ reason: String) {
    if self.ownReason == nil { self.ownReason = reason }
    self.condemn(reason)
  }

  var isClosed: Bool { self.phase == .closed }

  func close(_ reason: String) {
    // The first reason to end it counts.
    if self.ownReason == nil || self.phase == .connecting || self.phase == .open {
      self.ownReason = reason
    }
    if self.phase != .closed {
      self.phase = .closed
      self.owner.connectionCloses()
    }
    self.context?.close(promise: nil)
  }

  /// Closes when the last call is over.
  func leave() {
    guard let session = self.session, self.phase == .open else {
      // It is still being made, or has nothing left to say.
      return self.close("nobody wants the connection any more")
    }
    // What has not gone out goes elsewhere: the peer may close behind the last call that it knows of.
    session.refuseUnsentRequests()
    session.refuseNewStreams()
    self.needsFlush()
    if session.openStreams == 0 { self.flush() }
  }

  /// Ends the connection because of what its peer does.
  func terminate(_ reason: String) {
    self.ownReason = reason
    self.session?.terminate(code: 0xb, reason)
    self.needsFlush()
    self.condemn(reason)
  }

  /// Closes soon, whether or not the peer reads what was said last, and whatever it says.
  private func condemn(_ reason: String) {
    guard !self.isCondemned else { return }
    self.isCondemned = true
    self.executor.eventLoop.scheduleTask(in: TimeAmount(self.owner.closeTimeout)) {
      self.close(self.ownReason ?? reason)
    }
  }

  // MARK: - Its life

  private func begin() {
    // Closed before it was made.
    guard self.phase != .closed else {
      self.context?.close(promise: nil)
      return
    }
    guard self.phase == .connecting else { return }
    self.phase = .open
    self.life = ConnectionLife(self.limits, at: Duration(.now()))
    self.checkLife()
    self.flush()
  }

  /// The peer's SETTINGS have come: other times count now.
  func greeted() {
    // Behind the read that they came with: from within it nothing can be sent, and a ping that ought
    // to follow a notice would overtake it.
    self.executor.timers.start(self.lifeTimer, in: .zero) { self.checkLife() }
  }

  func pingAnswered() { self.life?.pingAnswered() }

  private func checkLife() {
    guard let session = self.session else { return }
    let now = Duration(.now())
    let facts = ConnectionLife.Facts(
      isGreeted: self.owner.isGreeted, openCalls: self.owner.openCalls,
      lastRead: Duration(self.lastReadTime), idleSince: Duration(self.owner.idleSince),
      headersSince: self.openHeaders.map { Duration($0.since) })
    guard let (actions, next) = self.life?.check(facts, at: now) else { return }
    self.executor.timers.start(self.lifeTimer, in: max(.milliseconds(1), next - now)) {
      self.checkLife()
    }
    for action in actions {
      switch action {
      case .ping:
        session.ping(.keepalive)
        self.needsFlush()
      case .checkStalls:
        let isWritable = self.context?.channel.isWritable ?? false
        let taken = self.takenSinceCheck()
        // Of little that is said now and then, something is always on its way.
        if let taken, taken == 0 || (taken < Self.minimumProgressBytes && !isWritable) {
          self.owner.peerTakesNothing()
          return self.close("the peer takes nothing of what it is sent")
        }
        // Whoever reads slowly may: its window opens in lumps, and may be shut for hours. Where others need
        // what its calls hold, it must take some part of that.
        let isShort = self.owner.isShortOfRoom
        let wanted = max(Self.minimumProgressBytes, self.owner.heldBytes / Self.partOfHeldBytes)
        let isRead = taken.map { $0 >= wanted } ?? true
        let count = session.endStalledStreams(
          minimum: Self.minimumProgressBytes, share: wanted, unread: isShort,
          isConnectionRead: isRead)
        if count > 0 {
          self.owner.callsStalled(count)
          // Behind a full socket it would hear of that when it likes, and hold as much until then.
          if isShort, !isRead, !isWritable {
            return self.close("the peer reads next to nothing")
          }
          self.needsFlush()
        }
      case .leave(let reason): self.owner.mayLeave(reason)
      case .close(let reason): self.close(reason)
      }
    }
  }
}

extension Duration {
  /// Since the clock's own beginning.
  init(_ moment: NIODeadline) {
    self = .nanoseconds(Int64(clamping: moment.uptimeNanoseconds))
  }
}
