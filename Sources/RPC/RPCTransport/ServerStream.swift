import NIOCore
import RPCCompression
import RPCCore
import RPCHTTP2

/// Takes the requests of a call that may have any number of them. On the loop.
@usableFromInline
struct RequestSink {
  /// A whole message, and whether it came compressed. The bytes are valid during the call only.
  let message: (UnsafeRawBufferPointer, Bool) -> Void
  /// Nothing follows: the client has sent everything, or the call is over before its handler, and
  /// what has not been read is dropped (true).
  let end: (Result<Void, RPCError>, Bool) -> Void

  @usableFromInline
  init(
    message: @escaping (UnsafeRawBufferPointer, Bool) -> Void,
    end: @escaping (Result<Void, RPCError>, Bool) -> Void
  ) {
    self.message = message
    self.end = end
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
final class ServerStream: HTTP2Stream, OutboundStream, @unchecked Sendable {
  enum Phase { case head, open, finished }

  struct Call {
    var phase = Phase.head
    var route: Route?
    var unknownPath = ""
    var deadline: Deadline?
    var deadlineTimer: Scheduled<Void>?
    var context: ServerContext?
    /// Nil for a call with one request.
    var sink: RequestSink?
    var handler: HandlerTask?
    /// Made by the calls that stream; a unary call's one response goes out without it.
    var writer: StreamWriter?
    var headersSent = false
    /// The window stays shut, for the sink is full.
    var isHeldBack = false
    /// Body bytes for which the window has not been opened again.
    var unconsumedBytes = 0
    /// Bytes of a request that is not whole, as the connection has counted them.
    var unfinishedBytes = 0
    var received = (messages: 0, bytes: 0, compressed: 0)
    /// The one response, which does not go through the writer.
    var responseBytes: Int?
    /// How it ended; nil while it has not.
    var code: StatusCode?
    /// What the call ends with, whatever its handler says: it wanted to say too much.
    var refusal: RPCError?
    var began: NIODeadline
  }

  let connection: Connection
  private let server: ServerConnection
  @exclusivity(unchecked) private var head = RequestHead()
  @exclusivity(unchecked) private var deframer: MessageDeframer
  @exclusivity(unchecked) var call: Call

  init(connection: Connection, server: ServerConnection) {
    self.connection = connection
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

  @usableFromInline var executor: LoopExecutor { self.connection.executor }
  @usableFromInline var isFinished: Bool { self.call.phase == .finished }
  var context: ServerContext? { self.call.context }

  // MARK: - From the session

  override func headerReceived(
    name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>
  ) {
    // A request's trailers mean nothing to gRPC.
    guard self.call.phase == .head else { return }
    if name.equals(":path") {
      self.call.route = self.server.route(for: value)
      if self.call.route == nil { self.call.unknownPath = excerpt(value) }
    } else {
      self.head.receive(name: name, value: value)
    }
  }

  override func headersTooLarge(bytes: Int, limit: Int) {
    // Trailers that are too large mean as little as others.
    guard self.call.phase == .head else { return }
    self.fail(
      RPCError(
        .resourceExhausted,
        "the request's header list of \(bytes) bytes is larger than the limit of \(limit)"))
  }

  override func headersEnded(endOfStream: Bool) {
    guard self.call.phase == .head else { return }
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
      self.call.deadline = .after(timeout)
      self.call.deadlineTimer = self.executor.eventLoop.scheduleTask(in: TimeAmount(timeout)) {
        self.deadlinePassed()
      }
    }
    self.call.phase = .open
    if case .many(let begin) = route.shape { begin(self) }
  }

  override func dataReceived(_ bytes: UnsafeRawBufferPointer) {
    guard self.call.phase == .open else {
      self.open(bytes.count)
      return
    }
    self.call.unconsumedBytes += bytes.count
    do {
      if let sink = self.call.sink {
        try self.deframer.append(bytes) { self.messageReceived($0, isCompressed: $1, by: sink) }
      } else {
        try self.deframer.hold(bytes)
      }
    } catch {
      self.breakOff(error.error)
    }
    self.countUnfinished(self.deframer.heldBytes)
    if !self.call.isHeldBack { self.openWindow() }
  }

  private func messageReceived(
    _ bytes: UnsafeRawBufferPointer, isCompressed: Bool, by sink: RequestSink
  ) {
    // One that comes in the same frame as what ended the call.
    guard self.call.phase == .open else { return }
    self.withPlain(bytes, isCompressed) { sink.message($0, isCompressed) }
  }

  /// Calls `body` with a message as its sender had it, or ends the call.
  private func withPlain(
    _ bytes: UnsafeRawBufferPointer, _ isCompressed: Bool, _ body: (UnsafeRawBufferPointer) -> Void
  ) {
    self.call.received.messages += 1
    self.call.received.bytes += bytes.count
    guard isCompressed else { return body(bytes) }
    self.call.received.compressed += 1
    do throws(RPCError) {
      try withPlainMessage(
        bytes, isCompressed: true, self.head.encoding,
        limit: self.server.configuration.maximumRequestBytes, body)
    } catch {
      self.breakOff(error)
    }
  }

  /// Counts what the deframer holds, in steps: small requests are not worth it.
  private func countUnfinished(_ held: Int) {
    let counted = self.call.unfinishedBytes
    guard held - counted > Self.unfinishedStep || held < counted else { return }
    self.call.unfinishedBytes = held
    do {
      try self.server.unfinishedGrew(by: held - counted)
    } catch {
      self.breakOff(error)
      self.deframer.reset()
      self.countUnfinished(0)
    }
  }

  private static let unfinishedStep = 64 << 10

  /// The sink is full: the window stays shut until ``roomAgain()``.
  @usableFromInline
  func holdBack() { self.call.isHeldBack = true }

  /// The application has read what it was behind with. On any thread.
  @usableFromInline
  func roomAgain() {
    self.executor.execute {
      self.call.isHeldBack = false
      self.openWindow()
    }
  }

  override func endReceived() {
    guard self.call.phase == .open else { return }
    guard self.deframer.isAtBoundary else {
      self.breakOff(RPCError(.internalError, "the request ended within a message"))
      return
    }
    guard case .single(let serve)? = self.call.route?.shape else {
      self.call.sink?.end(.success(()), false)
      return
    }
    let hasRequest: Void? = self.deframer.withHeld { message, isCompressed in
      self.withPlain(message, isCompressed) { serve(self, $0) }
    }
    guard hasRequest != nil else {
      self.breakOff(RPCError(.unimplemented, "this call takes one request, and got none"))
      return
    }
    // The handler has the message; its bytes are of no more use.
    self.deframer.reset()
    self.countUnfinished(0)
  }

  override func outboundDrained(remaining: Int) {
    self.call.writer?.drained(remaining: remaining)
  }

  override func closed(code: UInt32) {
    self.call.deadlineTimer?.cancel()
    let wasFinished = self.isFinished
    self.call.phase = .finished
    if !wasFinished { self.call.code = .cancelled }
    self.summarize(isEarly: !wasFinished)
    if !wasFinished {
      let error = RPCError(.cancelled, "the client left the call")
      self.call.writer?.close(error)
      self.tellHandler(error)
    }
    self.countUnfinished(0)
    self.call = Call(phase: .finished, began: self.call.began)
    // What it keeps for the next call, a connection keeps while it is idle.
    self.outbound.clear()
    self.deframer.reset()
    self.head.reset()
    self.server.streamClosed(self)
  }

  // MARK: - From the call

  /// The handler's view of the call. Made when the handler is about to begin.
  @usableFromInline
  func handlerBegins() -> ServerContext {
    let context = ServerContext(
      method: self.call.route?.path ?? "",
      metadata: self.head.takeMetadata(like: &self.server.lastMetadata),
      deadline: self.call.deadline, peer: self.server.peer,
      compression: self.server.configuration.responseCompression,
      accepted: self.head.acceptedEncodings,
      requestWasCompressed: self.call.received.compressed > 0)
    self.call.context = context
    for observer in self.call.route?.observers ?? [] { observer.callBegan() }
    self.server.handlerBegan()
    return context
  }

  /// Runs a handler on the loop. Its task is cancelled if the call ends before it.
  ///
  /// - Parameter body: Ends the call.
  @usableFromInline
  func run(_ context: ServerContext, _ body: @escaping @Sendable () async -> Void) {
    let handler = HandlerTask.spare(on: self.executor)
    self.call.handler = handler
    handler.run(HandlerTask.Job(stream: self, context: context, body: body))
  }

  func handlerEnded() {
    self.call.handler = nil
    self.server.handlerEnded()
  }

  /// Where the call's requests go from now on. For calls with any number of them.
  @usableFromInline
  func receive(into sink: RequestSink) { self.call.sink = sink }

  func tellHandler(_ error: RPCError) {
    self.call.sink?.end(.failure(error), true)
    self.call.handler?.cancel()
    self.call.handler = nil
  }

  // MARK: - Handlers

  @usableFromInline
  var isIntercepted: Bool { !self.server.configuration.interceptors.isEmpty }

  /// Runs a call's handler behind the interceptors.
  @usableFromInline
  func intercept<Response>(
    _ context: ServerContext, _ handler: () async throws -> Response
  ) async throws -> Response {
    var response = Response?.none
    try await intercepted(by: self.server.configuration.interceptors[...], context) {
      response = try await handler()
    }
    guard let response else {
      throw RPCError(.internalError, "an interceptor has kept the call from its handler")
    }
    return response
  }

  /// The way in for messages from any executor. Made by a call of a streaming shape before its
  /// handler begins, and there from then on.
  func makeWriter() -> StreamWriter {
    let writer = StreamWriter(executor: self.executor)
    self.call.writer = writer
    return writer
  }

  // MARK: - From the writer

  @usableFromInline
  var compression: Compression {
    guard let context = self.context, !context.isPlain else { return .identity }
    return context.responseCompression
  }
  @usableFromInline var maximumMessageBytes: Int { largestMessageBytes }
  @usableFromInline var outboundBytes: Int { self.outbound.count }

  @usableFromInline
  func reserveOutbound(_ count: Int) -> UnsafeMutableRawPointer? {
    self.isFinished ? nil : self.outbound.reserve(count)
  }

  @usableFromInline
  func appendOutbound(_ bytes: UnsafeRawBufferPointer) {
    if !self.isFinished { self.outbound.append(bytes) }
  }

  @usableFromInline
  func outboundAppended() {
    guard let session = self.connection.session, !self.isFinished else { return }
    if self.call.headersSent {
      session.outboundGrew(self)
    } else {
      self.sendHeaders()
    }
    self.connection.needsFlush()
  }

  // MARK: - The window

  func openWindow() {
    let count = self.call.unconsumedBytes
    self.call.unconsumedBytes = 0
    self.open(count)
  }

  private func open(_ count: Int) {
    guard count > 0, !self.isClosed, let session = self.connection.session else { return }
    session.consume(count, on: self)
    self.connection.needsFlush()
  }
}

/// What a peer sent, as an error may repeat it.
private func excerpt(_ text: UnsafeBufferPointer<UInt8>) -> String {
  String(decoding: text.prefix(200), as: UTF8.self) + (text.count > 200 ? "..." : "")
}

extension TimeAmount {
  /// As NIO's timers take it; what is longer than 292 years never fires anyway.
  init(_ duration: Duration) {
    let (seconds, attoseconds) = duration.components
    let (nanoseconds, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    self =
      overflow ? .hours(24 * 365 * 100) : .nanoseconds(nanoseconds + attoseconds / 1_000_000_000)
  }
}
