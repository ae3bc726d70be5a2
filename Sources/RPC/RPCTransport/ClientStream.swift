import NIOCore
import RPCCore
import RPCHTTP2

/// A call as its shape sees it: what comes back, and how it ends. Told on the loop.
@usableFromInline
protocol ClientCall: AnyObject, Sendable {
  func initialMetadataReceived(_ metadata: Metadata)
  /// A whole message. The bytes are valid during the call only. False holds the server back until
  /// the call says ``ClientStream/roomAgain()``; an error ends the call.
  func messageReceived(
    _ bytes: UnsafeRawBufferPointer, isCompressed: Bool
  ) throws(RPCError) -> Bool
  /// The last event: trailing metadata after an OK, or the error.
  func ended(_ result: Result<Metadata, RPCError>)
}

/// The client's side of one call, over all of its attempts.
///
///     waiting ──started──▶ trying ──response begins──▶ committed
///        │  ▲                │                             │
///        │  └──try again─────┤                             │
///        └──────────────▶ finished ◀───────────────────────┘
///
/// What was sent is kept until one attempt is committed to, so that another can begin with it; more
/// than ``maximumReplayBytes`` is not kept but moved to the attempt that is there.
/// The call is finished once: by its committed attempt, the last one that failed, the deadline or a
/// cancellation, whichever comes first. `@unchecked Sendable`: only the loop touches it;
/// ``StreamWriter`` is the way in from elsewhere.
@usableFromInline
final class ClientStream: OutboundStream, @unchecked Sendable {
  /// What the call is made with, service config and all.
  struct Terms {
    var path: String
    var began: ContinuousClock.Instant
    var metadata: Metadata
    var timeout: Duration?
    var deadline: Deadline?
    var waitsForReady: Bool
    var maximumRequestBytes: Int
    var maximumResponseBytes: Int
    var compression: Compression
    var resilience: MethodConfig.Resilience
    var received: ReceivedMetadata?
    var onEnd: [@Sendable (CallSummary) -> Void]
  }

  /// What was sent is kept up to this; then the call is committed to the attempt it has.
  private static let maximumReplayBytes = 256 << 10

  let executor: LoopExecutor
  @usableFromInline let writer: StreamWriter
  let terms: Terms
  @exclusivity(unchecked) private var call: (any ClientCall)?
  private weak var channel: ChannelCore?
  @exclusivity(unchecked) private var attempts: [ClientAttempt] = []
  @exclusivity(unchecked) private var committed: ClientAttempt? {
    didSet { self.committedInPlace = self.committed.map { Unmanaged.passUnretained($0) } }
  }
  /// The same, for what each message asks: no reference is counted.
  @exclusivity(unchecked) private var committedInPlace: Unmanaged<ClientAttempt>?
  @exclusivity(unchecked) private var isFinishedForGood = false
  @exclusivity(unchecked) private var replay = BodyQueue()
  @exclusivity(unchecked) private var wantsEnd = false
  @exclusivity(unchecked) private var retries: RetryState
  /// Attempts that are planned: a delay that runs, or a place among the waiting calls.
  @exclusivity(unchecked) private var planned = 0
  private var lastError: RPCError?
  /// A request has gone out, or its headers.
  @exclusivity(unchecked) private var hasLeft = false
  /// Why the call still waits for a connection.
  private var whyNotReady: String?
  private var hedgeTimer: LoopTimer?
  private var retryTimers: [LoopTimer] = []
  @exclusivity(unchecked) private var deadlineTimer: LoopTimer?
  @exclusivity(unchecked) private var received = (messages: 0, bytes: 0, compressed: 0)
  /// What the one request takes; nil: they come from the writer.
  @exclusivity(unchecked) private var requestBytes: Int?
  /// Tells the channel that a call that waits needs to wait no more.
  @exclusivity(unchecked) var onFinish: (() -> Void)?

  init(_ terms: Terms, executor: LoopExecutor, call: any ClientCall) {
    self.terms = terms
    self.executor = executor
    self.writer = StreamWriter(executor: executor, compression: terms.compression)
    self.call = call
    self.retries = RetryState(terms.resilience)
    terms.received?.callBegan()
  }

  /// Takes the one request, framed, behind which the client's side ends. Before the loop knows the
  /// call.
  @inlinable
  func setRequest(_ message: some RPCMessage) throws(RPCError) {
    if self.compression == .identity {
      try message.encode(
        reserving: { size throws(RPCError) in try self.reserveRequest(size) },
        parting: { size throws(RPCError) in try self.partRequest(size) })
    } else {
      self.setRequest(framed: try frame(message, self.compression, limit: self.maximumMessageBytes))
    }
  }

  @usableFromInline
  func reserveRequest(_ size: Int) throws(RPCError) -> UnsafeMutableRawPointer {
    try self.beginRequest(size, room: size)
  }

  /// - Parameter room: What is reserved of it behind its prefix.
  private func beginRequest(
    _ size: Int, room: Int
  ) throws(RPCError) -> UnsafeMutableRawPointer {
    guard size <= self.maximumMessageBytes else { throw tooLarge(size, self.maximumMessageBytes) }
    let target = self.replay.reserve(room + MessageDeframer.prefixBytes)
    writePrefix(size, to: target)
    self.requestBytes = size
    self.wantsEnd = true
    return target + MessageDeframer.prefixBytes
  }

  /// The same for one that comes in parts.
  @usableFromInline
  func partRequest(_ size: Int) throws(RPCError) -> any MessageSink {
    _ = try self.beginRequest(size, room: 0)
    return self
  }

  @usableFromInline
  func setRequest(framed bytes: [UInt8]) {
    self.requestBytes = bytes.count - MessageDeframer.prefixBytes
    self.replay.append(bytes)
    self.wantsEnd = true
  }

  var isFinished: Bool { self.isFinishedForGood }
  var waitsForReady: Bool { self.terms.waitsForReady }
  @usableFromInline var compression: Compression { self.terms.compression }
  @usableFromInline var maximumMessageBytes: Int { self.terms.maximumRequestBytes }
  @usableFromInline
  var outboundBytes: Int {
    if let committed = self.committedInPlace {
      return committed._withUnsafeGuaranteedRef { $0.outbound.count }
    }
    // What attempts have sent is kept, and does not wait.
    if self.attempts.isEmpty { return self.replay.count }
    return self.attempts.reduce(0) {
      max($0, $1.outbound.count + self.replay.count - $1.replayed)
    }
  }

  // MARK: - From the channel

  /// Begins the time that the call has. Before it waits or starts.
  func begin(in channel: ChannelCore) {
    self.channel = channel
    self.planned = 1
    guard let deadline = self.terms.deadline, !self.isFinished else { return }
    let remaining = deadline.remaining
    guard remaining > .zero else {
      self.finish(
        .failure(
          RPCError(
            .deadlineExceeded, "the deadline of \(self.terms.path) had passed before it began")))
      return
    }
    self.deadlineTimer = self.executor.timers.start(in: remaining) {
      self.cancel(self.deadlineError)
    }
  }

  /// Makes an attempt on a connection.
  func start(on connection: Connection, authority: String, scheme: StaticString) {
    guard !self.isFinished else { return }
    if self.committed == nil { self.writer.transfer(to: self) }
    // Bound to the attempt it has; perhaps only now, for that was too much to keep.
    guard self.committed == nil else { return self.plannedAttemptFell() }
    self.planned -= 1
    var fields = HeaderFields()
    fields.add(":method", "POST")
    if scheme.utf8CodeUnitCount == 5 {
      fields.add(":scheme", "https")
    } else {
      fields.add(":scheme", "http")
    }
    fields.add(":path", self.terms.path)
    fields.add(":authority", authority)
    fields.add("te", "trailers")
    fields.add("content-type", "application/grpc")
    fields.add("user-agent", "grpc-swift-millrace/0.1")
    fields.add("grpc-accept-encoding", Compression.accepted)
    if self.terms.compression != .identity {
      fields.add("grpc-encoding", self.terms.compression.header)
    }
    if let deadline = self.terms.deadline {
      fields.add("grpc-timeout", TimeoutHeader.encode(max(.zero, deadline.remaining)))
    }
    let previous = self.retries.attempts
    if previous > 0 { fields.add("grpc-previous-rpc-attempts", String(previous)) }
    fields.add(self.terms.metadata)
    let size = fields.size
    guard size <= HeaderFields.maximumSize else {
      self.finish(
        .failure(
          RPCError(
            .resourceExhausted,
            "the request's headers of \(size) bytes are larger than the limit of "
              + "\(HeaderFields.maximumSize)")))
      return
    }
    let attempt = ClientAttempt(
      of: self, on: connection, maximumResponseBytes: self.terms.maximumResponseBytes)
    self.attempts.append(attempt)
    let nextHedge = self.retries.attemptStarted()
    if self.replay.count > Self.maximumReplayBytes {
      self.commit(to: attempt)
    } else {
      self.pump(attempt)
    }
    attempt.submit(fields)
    self.whyNotReady = nil
    if self.wantsEnd { attempt.endOutbound() }
    self.planHedge(after: nextHedge)
  }

  /// Ends the call from our side; the server is told if it knows of it.
  func cancel(_ error: RPCError) {
    self.finish(.failure(error))
  }

  /// The channel has no connection for an attempt.
  func unavailable(_ error: RPCError) {
    self.plannedAttemptFell()
    // Other attempts of a hedged call may still succeed.
    if self.attempts.isEmpty, self.planned == 0 { self.finish(.failure(error)) }
  }

  /// There is no server that an attempt could be made with: as if it had failed.
  func notConnected(_ error: RPCError) {
    guard !self.isFinished else { return }
    self.planned -= 1
    let nextHedge = self.retries.attemptStarted()
    self.lastError = error
    self.failed(error, isUnprocessed: false, isFromServer: false)
    if self.planned == 0 { self.planHedge(after: nextHedge) }
  }

  /// Another attempt waits for a connection: this one will not.
  func attemptIsPlannedAlready() { self.plannedAttemptFell() }

  private func plannedAttemptFell() {
    self.planned -= 1
    self.retries.plannedAttemptFell()
  }

  /// Nothing more will be sent: the writer takes nothing any more.
  func endOutbound() {
    self.writer.transfer(to: self)
    self.wantsEnd = true
    for attempt in self.attempts { attempt.endOutbound() }
  }

  /// The application has read what it was behind with. On any thread.
  func roomAgain() {
    self.executor.execute { self.committed?.roomAgain() }
  }

  // MARK: - From attempts

  /// A response has begun: no other attempt is of interest.
  func responseBegan(_ attempt: ClientAttempt, _ metadata: Metadata) {
    self.commit(to: attempt)
    self.terms.received?.responseBegan(metadata)
    self.call?.initialMetadataReceived(metadata)
  }

  func messageReceived(
    _ bytes: UnsafeRawBufferPointer, wireBytes: Int, isCompressed: Bool
  ) throws(RPCError) -> Bool {
    guard let call = self.call else { return true }
    self.received.messages += 1
    self.received.bytes += wireBytes
    if isCompressed { self.received.compressed += 1 }
    return try call.messageReceived(bytes, isCompressed: isCompressed)
  }

  func outboundDrained(_ attempt: ClientAttempt, remaining: Int) {
    if self.committed == nil || self.committed === attempt {
      self.writer.drained(remaining: remaining)
    }
  }

  /// An attempt is over, of which responses wait to be read: ``attemptEnded(_:_:)`` follows behind them.
  func attemptIsOver(_ attempt: ClientAttempt, _ end: AttemptEnd) {
    if self.committed === attempt { self.writer.close(Self.error(ofSendingAfter: end.result)) }
  }

  private static func error(ofSendingAfter result: Result<Metadata, RPCError>) -> RPCError {
    switch result {
    case .success: RPCError(.cancelled, "the server has ended the call")
    case .failure(let error): error
    }
  }

  func attemptEnded(_ attempt: ClientAttempt, _ end: AttemptEnd) {
    self.attempts.removeAll { $0 === attempt }
    if attempt.hasLeft { self.hasLeft = true }
    // The server answered before it had the whole request: the rest is not wanted.
    if !attempt.hasEnded { attempt.abandon() }
    guard !self.isFinished else { return }
    switch end.result {
    case .success:
      self.channel?.throttle?.succeeded()
      self.finish(end.result)
    case .failure(let error):
      if self.committed != nil, !(end.isUnprocessed && self.takeBack(from: attempt)) {
        return self.finish(end.result)
      }
      self.lastError = error
      self.failed(error, isUnprocessed: end.isUnprocessed, isFromServer: true)
    }
  }

  private func failed(_ error: RPCError, isUnprocessed: Bool, isFromServer: Bool) {
    let othersAreOpen = !self.attempts.isEmpty || self.planned > 0
    var throttle = self.channel?.throttle
    let decision = self.retries.failed(
      RetryState.Failure(
        code: error.code, pushback: error.pushback, isUnprocessed: isUnprocessed),
      othersAreOpen: othersAreOpen, canReplay: self.committed == nil, throttle: &throttle,
      random: .random(in: -1...1))
    self.channel?.throttle = throttle
    switch decision {
    case .goOn: break
    case .giveUp:
      // That there is no server for one attempt says nothing about those that have one.
      if isFromServer || !othersAreOpen { self.finish(.failure(error)) }
    case .moveOn(let delay):
      self.tryAgain(after: delay)
    case .tryAgain(let delay):
      // The next hedge comes so much behind this attempt.
      self.executor.timers.stop(self.hedgeTimer)
      self.tryAgain(after: delay)
    }
  }

  /// - Parameter delay: Nil: there is to be none.
  private func planHedge(after delay: Duration?) {
    guard let delay, !self.isFinished, self.committed == nil,
      !(self.hedgeTimer?.isRunning ?? false)
    else { return }
    self.hedgeTimer = self.executor.timers.start(in: delay) {
      guard !self.isFinished, self.committed == nil,
        self.retries.hedgeIsDue(self.channel?.throttle)
      else { return }
      self.tryAgain(after: .zero)
    }
  }

  private func tryAgain(after delay: Duration) {
    self.planned += 1
    guard let channel = self.channel, channel.mayTryAgain(self) else {
      self.unavailable(self.lastError ?? RPCError(.unavailable, "the channel was closed"))
      return
    }
    // Never at once: the connection is still telling its streams of its end.
    let timer = self.executor.timers.start(in: delay) {
      guard !self.isFinished else { return }
      guard self.committed == nil else { return self.plannedAttemptFell() }
      channel.admit(self)
    }
    self.retryTimers.append(timer)
  }

  private func commit(to attempt: ClientAttempt) {
    guard self.committed == nil else { return }
    if attempt.replayed == 0, attempt.outbound.isEmpty, !attempt.isClosed {
      // A large request is not copied.
      swap(&attempt.outbound, &self.replay)
    } else {
      self.pump(attempt)
    }
    self.committed = attempt
    // Its end is its connection's from now on.
    self.dropRetries()
    self.replay.reset()
    self.executor.timers.stop(self.hedgeTimer)
    for other in self.attempts where other !== attempt { other.abandon() }
    self.attempts = [attempt]
  }

  /// No attempt that waits for its time is made any more.
  private func dropRetries() {
    if self.retryTimers.isEmpty { return }
    for timer in self.retryTimers where timer.isRunning {
      self.executor.timers.stop(timer)
      self.plannedAttemptFell()
    }
    self.retryTimers = []
    self.channel?.triesNoMore(self)
  }

  /// Frees the call from an attempt that the server has not seen, with what was to be sent on it.
  ///
  /// - Returns: Whether all of that is still there.
  private func takeBack(from attempt: ClientAttempt) -> Bool {
    guard self.committed === attempt, !attempt.hasSentBytes else { return false }
    swap(&attempt.outbound, &self.replay)
    self.committed = nil
    return true
  }

  // MARK: - From the writer

  @usableFromInline
  func reserveOutbound(_ count: Int) -> UnsafeMutableRawPointer? {
    if self.isFinished { return nil }
    guard let committed = self.committedInPlace else { return self.replay.reserve(count) }
    return committed._withUnsafeGuaranteedRef { $0.isClosed ? nil : $0.outbound.reserve(count) }
  }

  @usableFromInline
  func take(_ bytes: UnsafeRawBufferPointer) {
    if self.isFinished { return }
    guard let committed = self.committed else { return self.replay.append(bytes) }
    if !committed.isClosed { committed.outbound.append(bytes) }
  }

  @usableFromInline
  func take(_ array: [UInt8]) {
    if self.isFinished { return }
    guard let committed = self.committed else { return self.replay.append(array) }
    if !committed.isClosed { committed.outbound.append(array) }
  }

  @usableFromInline
  func outboundAppended() {
    if let committed = self.committedInPlace {
      return committed._withUnsafeGuaranteedRef { $0.outboundGrew() }
    }
    for attempt in self.attempts {
      self.pump(attempt)
      attempt.outboundGrew()
    }
    if self.replay.count > Self.maximumReplayBytes, let last = self.attempts.last {
      self.commit(to: last)
    }
  }

  /// Queues what an attempt has not got yet.
  private func pump(_ attempt: ClientAttempt) {
    guard self.committed == nil, attempt.replayed < self.replay.count else { return }
    guard !attempt.isClosed else { return }
    attempt.outbound.append(self.replay, from: attempt.replayed)
    attempt.replayed = self.replay.count
  }

  // MARK: -

  private var deadlineError: RPCError {
    let waited = self.whyNotReady.map { ", and there was no connection: \($0)" } ?? ""
    return RPCError(
      .deadlineExceeded,
      "\(self.terms.path) took longer than \(self.terms.timeout ?? .zero)\(waited)")
  }

  /// There is no connection yet, and this call may wait for one.
  func stillWaits(_ reason: String) { self.whyNotReady = reason }

  private func finish(_ result: Result<Metadata, RPCError>) {
    guard !self.isFinished else { return }
    self.isFinishedForGood = true
    self.executor.timers.stop(self.deadlineTimer)
    self.executor.timers.stop(self.hedgeTimer)
    self.dropRetries()
    self.replay.reset()
    self.writer.close(Self.error(ofSendingAfter: result))
    switch result {
    case .success(let trailing): self.terms.received?.callEnded(trailing)
    case .failure(let error): self.terms.received?.callEnded(error.metadata)
    }
    for attempt in self.attempts {
      if attempt.hasLeft { self.hasLeft = true }
      attempt.abandon()
    }
    self.attempts = []
    self.committed = nil
    let call = self.call
    self.call = nil
    self.onFinish?()
    self.onFinish = nil
    self.summarize(result)
    call?.ended(result)
  }

  private func summarize(_ result: Result<Metadata, RPCError>) {
    guard !self.terms.onEnd.isEmpty else { return }
    var sent = self.writer.sent
    if let bytes = self.requestBytes, self.hasLeft {
      sent.messages += 1
      sent.bytes += bytes
    }
    var code = StatusCode.ok
    if case .failure(let error) = result { code = error.code }
    let summary = CallSummary(
      method: self.terms.path, code: code, duration: self.terms.began.duration(to: .now),
      sentMessages: sent.messages, sentBytes: sent.bytes, receivedMessages: self.received.messages,
      receivedBytes: self.received.bytes,
      receivedCompressedMessages: self.received.compressed,
      attempts: self.hasLeft ? self.retries.attempts : 0)
    for observer in self.terms.onEnd { observer(summary) }
  }
}

extension RPCError {
  /// What `grpc-retry-pushback-ms` says.
  fileprivate var pushback: RetryState.Pushback {
    guard self.metadata["grpc-retry-pushback-ms"] != nil else { return .none }
    return self.retryDelay.map { .after($0) } ?? .never
  }
}
