import NIOCore
import RPCCompression
import RPCCore
import RPCHTTP2

/// Takes the requests of a call that may have any number of them. On the loop.
@usableFromInline
final class RequestSink {
  /// A whole message, and whether it came compressed. The bytes are valid during the call only.
  let message: (UnsafeRawBufferPointer, Bool) -> Void
  /// Nothing follows: the client has sent everything, or the call is over before its handler, and
  /// what has not been read is dropped (true).
  let end: (Result<Void, RPCError>, Bool) -> Void
  /// What has not been read, in bytes. Asked after every change, and ``ServerStream/roomAgain()`` says
  /// when it has become less.
  let heldBytes: () -> Int

  @usableFromInline
  init(
    message: @escaping (UnsafeRawBufferPointer, Bool) -> Void,
    end: @escaping (Result<Void, RPCError>, Bool) -> Void, heldBytes: @escaping () -> Int
  ) {
    self.message = message
    self.end = end
    self.heldBytes = heldBytes
  }
}

/// The server's side of one stream: headers to a route, bytes to messages, a result to trailers.
///
///     head ──headers end──▶ open ──trailers are queued, or the stream is gone──▶ finished
///
/// A connection uses its streams again, with the memory that they have: what belongs to one call is
/// in ``Call``. `@unchecked Sendable`: handlers on any executor hold it, but only the loop touches
/// it; ``StreamWriter`` and ``MessageQueue`` are the ways in from elsewhere.
@usableFromInline
final class ServerStream: HTTP2Stream, @unchecked Sendable {
  enum Phase { case head, open, finished }
  /// A call has its place among those that run as long as it is there, or its handler is.
  private enum HandlerPhase {
    case none
    case due
    /// It is due, and the call has ended.
    case late
    case running
  }

  struct Call {
    var phase = Phase.head
    /// The server's router keeps it.
    var route: Unmanaged<Route>?
    var unknownPath = ""
    var deadline: Deadline?
    var context: ServerContext? {
      didSet { self.contextInPlace = self.context.map { Unmanaged.passUnretained($0) } }
    }
    /// The context, for questions that are not worth counting a reference.
    private(set) var contextInPlace: Unmanaged<ServerContext>?
    /// Somebody wants to know what becomes of the method's calls.
    var isObserved = false
    /// Nil for a call with one request.
    var sink: RequestSink?
    /// It runs the call's handler, and lives as long as that does.
    var handler: Unmanaged<HandlerTask>?
    /// Made by the calls that stream; a unary call's one response goes out without it.
    var writer: StreamWriter?
    var headersSent = false
    /// The window stays shut, for the sink is full.
    var isHeldBack = false
    /// Body bytes for which the window has not been opened again.
    var unconsumedBytes = 0
    /// The client has sent everything, and some of it waits for the sink.
    var endIsDue = false
    /// Of a message that had not come whole at the last look: which it was, and how much of it was there.
    var partAtCheck: (message: Int, bytes: Int)?
    /// What the handler has of the call as long as it runs: metadata and, if there is one, the request.
    var givenBytes = 0
    /// The metadata's part of that.
    var metadataBytes = 0
    /// What the stream holds of metadata and messages, as the connection has counted it.
    var heldBytes = 0
    var received = (messages: 0, bytes: 0, compressed: 0)
    /// The one response, which does not go through the writer.
    var responseBytes: Int?
    /// What it was compressed by, if it was taken before the end: it is too late to say otherwise.
    var encoding: Compression?
    /// How it ended; nil while it has not.
    var code: StatusCode?
    /// What the call ends with, whatever its handler says: it wanted to say too much.
    var refusal: RPCError?
    var began: NIODeadline
  }

  let connection: Connection
  /// The connection's.
  @usableFromInline let executor: LoopExecutor
  let deadlineTimer = LoopTimer()
  private let server: ServerConnection
  @exclusivity(unchecked) private var head = RequestHead()
  @exclusivity(unchecked) private var deframer: MessageDeframer
  /// The deframer is at work, and hands on messages: whatever they bring about, it is forgotten what it
  /// holds only behind that.
  @exclusivity(unchecked) private var isDeframing = false
  @exclusivity(unchecked) private var resetIsDue = false
  @exclusivity(unchecked) var call: Call
  /// About what the message that was decoded last takes.
  @exclusivity(unchecked) @usableFromInline var decodedBytes = 0
  @exclusivity(unchecked) private var handlerPhase = HandlerPhase.none

  init(connection: Connection, server: ServerConnection) {
    self.connection = connection
    self.executor = connection.executor
    self.server = server
    self.deframer = MessageDeframer(limit: server.configuration.maximumRequestBytes)
    self.call = Call(began: connection.lastReadTime)
    super.init()
  }

  /// Makes a stream that is over one that has not begun.
  func reuse() {
    self.renew()
    self.call.phase = .head
    self.call.began = self.connection.lastReadTime
  }

  @usableFromInline var isFinished: Bool { self.call.phase == .finished }
  var context: ServerContext? { self.call.context }
  /// The handler has said nothing yet but messages, and nobody waits for the end.
  var isPlain: Bool {
    self.call.contextInPlace?._withUnsafeGuaranteedRef { $0.isPlain } ?? true
  }

  // MARK: - From the session

  override func headerReceived(
    name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>
  ) {
    // A request's trailers mean nothing to gRPC.
    guard self.call.phase == .head else { return }
    if name.equals(":path") {
      self.take(self.server.route(for: value))
      if self.call.route == nil { self.call.unknownPath = excerpt(value) }
    } else {
      self.head.receive(name: name, value: value)
    }
  }

  private func take(_ route: Unmanaged<Route>?) {
    self.call.route = route
    self.call.isObserved = route?._withUnsafeGuaranteedRef { !$0.observers.isEmpty } ?? false
  }

  override func headersAreAsBefore() {
    guard self.call.phase == .head, let known = self.server.knownHead else { return }
    self.head.assume(known)
    self.take(self.server.knownRoute)
  }

  override func headersTooLarge(bytes: Int, limit: Int) {
    // Trailers that are too large mean as little as others.
    guard self.call.phase == .head else { return }
    self.fail(
      RPCError(
        .resourceExhausted,
        "the request's header list of \(bytes) bytes is larger than the limit of \(limit)"))
    // What came of it has not been counted.
    self.head.reset()
  }

  override func headersEnded(endOfStream: Bool) {
    guard self.call.phase == .head else { return }
    // What is unknown is told field by field each time.
    if !self.head.isAssumed, self.call.route != nil, self.head.isWorthKeeping,
      self.connection.session?.remembersHeaders == true
    {
      self.server.know(self.head, self.call.route)
      self.knowsHeaders()
    }
    self.begin()
  }

  /// The request's headers have come.
  private func begin() {
    // HPACK makes much of it out of a few bytes.
    self.call.metadataBytes = self.head.heldBytes
    self.call.givenBytes = self.call.metadataBytes
    if self.call.givenBytes >= Self.smallestHeld {
      self.countHeld()
      guard self.call.phase == .head else { return }
    }
    guard self.head.isPost, self.head.isGRPC else {
      // `doc/PROTOCOL-HTTP2.md`, "Responses": another content type gets HTTP's 415.
      var fields = HeaderFields()
      fields.add(":status", self.head.isPost ? "415" : "405")
      self.finish(trailersOnly: fields)
      return
    }
    guard let route = self.call.route else {
      self.fail(RPCError(.unimplemented, "there is no method \(self.call.unknownPath)"))
      return
    }
    if let encoding = self.head.unknownEncoding {
      self.fail(
        RPCError(
          .unimplemented, "the encoding \(encoding) is not understood",
          metadata: ["grpc-accept-encoding": "\(Compression.accepted)"]))
      return
    }
    if let timeout = self.head.badTimeout {
      self.fail(RPCError(.internalError, "\"\(timeout)\" is no grpc-timeout"))
      return
    }
    if let timeout = self.head.timeout {
      guard timeout > .zero else {
        self.deadlinePassed()
        return
      }
      self.call.deadline = .after(timeout)
      self.executor.timers.start(self.deadlineTimer, in: timeout) { self.deadlinePassed() }
    }
    self.call.phase = .open
    route._withUnsafeGuaranteedRef { route in
      route.many?(self)
    }
  }

  override func dataReceived(_ bytes: UnsafeRawBufferPointer) {
    guard self.call.phase == .open else {
      self.open(bytes.count)
      return
    }
    self.call.unconsumedBytes += bytes.count
    self.deframe { stream throws(MessageDeframer.Failure) in
      guard let sink = stream.call.sink else { return try stream.deframer.hold(bytes) }
      if stream.call.isHeldBack {
        stream.deframer.keep(bytes)
      } else {
        try stream.deframer.append(bytes) {
          stream.messageReceived($0, isCompressed: $1, by: sink)
        }
      }
    }
    if self.call.sink != nil || self.deframer.heldBytes >= Self.smallestHeld
      || self.call.heldBytes > 0
    {
      self.countHeld()
    }
    if !self.call.isHeldBack { self.wantMore() }
  }

  /// Opens the window for what follows, and at once for all of a large message that has begun.
  private func wantMore() {
    self.openWindow()
    if self.deframer.missingBytes > 0 {
      self.connection.withSession { $0.expect(self.deframer.missingBytes, on: self) }
    }
  }

  /// Has the deframer work, and ends the call if what came is malformed.
  @inline(__always)
  private func deframe(_ body: (ServerStream) throws(MessageDeframer.Failure) -> Void) {
    self.isDeframing = true
    var failure: MessageDeframer.Failure?
    do {
      try body(self)
    } catch {
      failure = error
    }
    self.isDeframing = false
    if self.resetIsDue { self.forgetReceived() }
    if let failure { self.breakOff(failure.error) }
  }

  /// Drops what came of the request and was not handed on.
  private func forgetReceived() {
    self.resetIsDue = self.isDeframing
    if !self.isDeframing { self.deframer.reset() }
  }

  /// - Returns: Whether the sink takes another.
  private func messageReceived(
    _ bytes: UnsafeRawBufferPointer, isCompressed: Bool, by sink: RequestSink
  ) -> Bool {
    // One that comes in the same frame as what ended the call.
    guard self.call.phase == .open else { return true }
    self.withPlain(bytes, isCompressed) { sink.message($0, isCompressed) }
    return !self.call.isHeldBack
  }

  /// Calls `body` with a message as its sender had it, or ends the call.
  private func withPlain(
    _ bytes: UnsafeRawBufferPointer, _ isCompressed: Bool, _ body: (UnsafeRawBufferPointer) -> Void
  ) {
    self.count(bytes, isCompressed)
    guard isCompressed else { return body(bytes) }
    self.decompress(bytes, body)
  }

  private func count(_ message: UnsafeRawBufferPointer, _ isCompressed: Bool) {
    self.call.received.messages += 1
    self.call.received.bytes += message.count
    if isCompressed { self.call.received.compressed += 1 }
  }

  private func decompress(
    _ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void
  ) {
    do throws(RPCError) {
      try withPlainMessage(
        bytes, isCompressed: true, self.head.encoding,
        limit: self.server.configuration.maximumRequestBytes, body)
    } catch {
      self.breakOff(error)
    }
  }

  /// The sink is full: the window stays shut until ``roomAgain()``.
  @usableFromInline
  func holdBack() { self.call.isHeldBack = true }

  /// The application has read what it was behind with. On any thread.
  @usableFromInline
  func roomAgain() {
    self.executor.execute { self.readOn() }
  }

  /// Goes on with what came while the sink was full.
  private func readOn() {
    self.call.isHeldBack = false
    if self.call.phase == .open, let sink = self.call.sink, self.deframer.hasBacklog {
      self.deframe { stream throws(MessageDeframer.Failure) in
        try stream.deframer.resume { stream.messageReceived($0, isCompressed: $1, by: sink) }
      }
    }
    self.countHeld()
    guard !self.call.isHeldBack else { return }
    self.wantMore()
    guard self.call.endIsDue, !self.deframer.hasBacklog else { return }
    self.call.endIsDue = false
    self.endReceived()
  }

  override func endReceived() {
    guard self.call.phase == .open else { return }
    guard !self.deframer.hasBacklog else {
      self.call.endIsDue = true
      return
    }
    guard self.deframer.isAtBoundary else {
      self.breakOff(RPCError(.internalError, "the request ended within a message"))
      return
    }
    if let sink = self.call.sink { return sink.end(.success(()), false) }
    var hasRequest = false
    self.call.route?._withUnsafeGuaranteedRef { route in
      guard route.takesOne else { return }
      self.deframe { stream in
        let served: Void? = stream.deframer.withHeld { message, isCompressed in
          stream.count(message, isCompressed)
          guard isCompressed else { return route.serve(stream, message) }
          stream.decompress(message) { route.serve(stream, $0) }
        }
        hasRequest = served != nil
      }
    }
    guard hasRequest else {
      self.breakOff(RPCError(.unimplemented, "this call takes one request, and got none"))
      return
    }
    // The handler has the message; its bytes are of no more use.
    self.forgetReceived()
    if self.hasHandler { self.call.givenBytes += self.decodedBytes }
    if self.call.givenBytes >= Self.smallestHeld || self.call.heldBytes > 0 { self.countHeld() }
  }

  /// A request that never comes whole would hold its call's place for ever, and what has come of it.
  override func endsForSilence(minimum: Int) -> Bool {
    guard self.call.phase == .open, self.owesPart else {
      self.call.partAtCheck = nil
      return false
    }
    let (message, count) = (self.call.received.messages, self.deframer.heldBytes)
    let last = self.call.partAtCheck
    self.call.partAtCheck = (message, count)
    guard let last, last.message == message, count - last.bytes < minimum else { return false }
    self.breakOff(
      RPCError(
        .deadlineExceeded,
        "\(self.call.sink == nil ? "the request" : "request \(message + 1)") did not come whole: "
          + "\(count) bytes of it, \(count - last.bytes) of them in the last "
          + "\(self.server.configuration.stalledCallTimeout)"))
    return true
  }

  /// The client has yet to send the rest of something: its only request, or one of many that has begun.
  private var owesPart: Bool {
    if self.call.sink == nil { return self.call.context == nil }
    return !self.deframer.isAtBoundary && !self.deframer.hasBacklog && !self.call.isHeldBack
  }

  override func outboundDrained(remaining: Int) {
    if self.call.heldBytes > 0 { self.countHeld() }
    self.call.writer?.drained(remaining: remaining)
  }

  override func closed(code: UInt32) {
    self.executor.timers.stop(self.deadlineTimer)
    let wasFinished = self.isFinished
    self.call.phase = .finished
    if !wasFinished, self.call.code == nil { self.call.code = .cancelled }
    // A response that an interceptor still holds.
    if !wasFinished, !self.call.headersSent { self.call.responseBytes = nil }
    // Whoever asks from now on asks after the end, also where it was the server's.
    self.summarize(isEarly: !wasFinished || self.hasHandler)
    if !wasFinished {
      let error = RPCError(.cancelled, "the client left the call")
      self.call.writer?.close(error)
      self.tellHandler(error)
    }
    let held = self.call.heldBytes
    let given = self.call.givenBytes + (self.call.sink?.heldBytes() ?? 0)
    self.call = Call(phase: .finished, began: self.call.began)
    // A handler that is deaf to the end of its call keeps what it was given, or has taken.
    if self.hasHandler, given >= Self.smallestHeld {
      self.call.givenBytes = given
      self.call.heldBytes = given
    }
    if held != self.call.heldBytes { _ = self.server.holds(self.call.heldBytes - held) }
    // What it keeps for the next call, a connection keeps while it is idle.
    self.clearOutbound()
    self.forgetReceived()
    self.head.reset()
    if !self.hasHandler { self.server.callEnded() }
    self.server.streamClosed(self)
  }

  // MARK: - From the call

  /// The handler's view of the call. Made when the handler is about to begin.
  func makeContext() -> ServerContext {
    let context = ServerContext(
      method: self.call.route?._withUnsafeGuaranteedRef { $0.path } ?? "",
      metadata: self.head.takeMetadata(like: &self.server.lastMetadata),
      deadline: self.call.deadline, peer: self.server.peer,
      compression: self.server.configuration.responseCompression,
      accepted: self.head.acceptedEncodings,
      requestWasCompressed: self.call.received.compressed > 0)
    self.call.context = context
    if self.call.isObserved { self.forEachObserver { $0.callBegan() } }
    return context
  }

  func forEachObserver(_ body: (any MethodObserver) -> Void) {
    self.call.route?._withUnsafeGuaranteedRef { $0.observers.forEach(body) }
  }

  private var hasHandler: Bool { self.handlerPhase != .none }

  /// Runs a handler on the loop, which ends the call. Its task is cancelled if the call ends before it.
  @usableFromInline
  func run(_ job: consuming HandlerJob, _ body: @escaping HandlerJob.Body) {
    job.body = body
    self.handlerPhase = .due
    self.executor.serve(consume job)
  }

  /// - Returns: Whether it is to be cancelled: the call has ended already.
  func handlerBegan(in task: HandlerTask) -> Bool {
    defer { self.handlerPhase = .running }
    if self.handlerPhase == .late { return true }
    self.call.handler = Unmanaged.passUnretained(task)
    return false
  }

  func handlerEnded() {
    self.call.handler = nil
    self.handlerPhase = .none
    guard self.isClosed else {
      self.call.givenBytes = self.call.metadataBytes
      if self.call.heldBytes > 0 { self.countHeld() }
      return
    }
    // It was deaf to the end of its call.
    if self.call.heldBytes > 0 { _ = self.server.holds(-self.call.heldBytes) }
    self.call.heldBytes = 0
    self.server.callEnded()
  }

  /// Where the call's requests go from now on. For calls with any number of them.
  @usableFromInline
  func receive(into sink: RequestSink) { self.call.sink = sink }

  func tellHandler(_ error: RPCError) {
    self.call.sink?.end(.failure(error), true)
    if let handler = self.call.handler.take() {
      handler._withUnsafeGuaranteedRef { $0.cancel() }
    } else if self.handlerPhase == .due {
      self.handlerPhase = .late
    }
  }

  // MARK: - Handlers

  @usableFromInline
  var isIntercepted: Bool { !self.server.configuration.interceptors.isEmpty }

  var interceptors: [any ServerInterceptor] { self.server.configuration.interceptors }

  /// The way in for messages from any executor. Made by a call of a streaming shape before its
  /// handler begins, and there from then on.
  func makeWriter(_ context: ServerContext) -> StreamWriter {
    let writer = StreamWriter(executor: self.executor, context: context)
    self.call.writer = writer
    return writer
  }

  // MARK: - Memory

  /// Less is not worth counting: what small calls pay for a limit is a comparison.
  static let smallestHeld = 4 << 10

  /// Tells the connection what the stream holds: what its handler was given, requests that are not
  /// whole or not read, responses that the client has not taken. Ends the call where that is too much.
  func countHeld() {
    if let error = self.heldTooMuch() { self.giveUp(error) }
  }

  /// - Returns: What the call is to end with, for it holds more than there is room for.
  private func heldTooMuch() -> RPCError? {
    var held = self.call.givenBytes + self.deframer.heldBytes + self.outboundCount
    // Not bound to a name, which would count a reference for each message.
    if self.call.sink != nil { held += self.call.sink!.heldBytes() }
    if held < Self.smallestHeld { held = 0 }
    let more = held - self.call.heldBytes
    guard more != 0 else { return nil }
    self.call.heldBytes = held
    return self.server.holds(more)
  }

  /// Whether the one response has room among what waits; if not, the call has ended with an error.
  func makesRoomForResponse() -> Bool {
    guard self.outboundCount >= Self.smallestHeld, let error = self.heldTooMuch() else {
      return true
    }
    self.giveUp(error)
    return false
  }

  private func giveUp(_ error: RPCError) {
    guard !self.isFinished, !self.call.headersSent else {
      // Whatever is said stands behind what the client does not take. RFC 9113, section 7:
      // ENHANCE_YOUR_CALM, which gRPC's clients know as RESOURCE_EXHAUSTED.
      if !self.isFinished {
        self.call.code = error.code
        self.call.writer?.close(error)
      }
      self.connection.session?.reset(self, code: 0xb)
      self.connection.needsFlush()
      return
    }
    self.clearOutbound()
    self.forgetReceived()
    self.breakOff(error)
    // A handler that runs has what it was given until it ends.
    if !self.hasHandler {
      self.head.reset()
      self.call.givenBytes = 0
    }
    _ = self.heldTooMuch()
  }

  // MARK: - The window

  func openWindow() {
    let count = self.call.unconsumedBytes
    self.call.unconsumedBytes = 0
    self.open(count)
  }

  private func open(_ count: Int) {
    guard count > 0, !self.isClosed else { return }
    self.connection.withSession { $0.consume(count, on: self) }
    self.connection.needsFlush()
  }
}

/// What a peer sent, as an error may repeat it.
private func excerpt(_ text: UnsafeBufferPointer<UInt8>) -> String {
  String(decoding: text.prefix(200), as: UTF8.self) + (text.count > 200 ? "..." : "")
}

extension TimeAmount {
  /// As NIO's timers take it: what is below zero is due, and what is longer than a century never
  /// fires anyway. No number overflows.
  init(_ duration: Duration) {
    let (seconds, attoseconds) = min(max(duration, .zero), .century).components
    self = .nanoseconds(seconds * 1_000_000_000 + attoseconds / 1_000_000_000)
  }
}
