import NIOCore
import RPCCompression
import RPCCore
import RPCHTTP2

/// A call as its method's type sees it: messages in, whatever the shape.
@usableFromInline
protocol ServerCall: AnyObject {
  /// A whole message. The bytes are valid during the call only.
  func messageReceived(_ bytes: UnsafeRawBufferPointer, isCompressed: Bool)
  /// The client has sent everything.
  func endReceived()
  /// The call is over before its handler: the client left or broke a rule, or the deadline passed.
  func cancelled(_ error: RPCError)
}

/// The server's side of one stream: headers to a route, bytes to messages, a result to trailers.
///
/// States: the header list comes (`head`), then the call is open (`call`), then it is finished
/// (`isFinished`: trailers are queued or the stream is gone). `@unchecked Sendable`: handlers on
/// any executor hold it, but only the loop touches it; ``StreamWriter`` and ``MessageQueue`` are
/// the ways in from elsewhere.
@usableFromInline
final class ServerStream: HTTP2StreamEvents, OutboundStream, @unchecked Sendable {
  let connection: Connection
  /// Made by the calls that stream; a unary call's one response goes out without it.
  private(set) var streamWriter: StreamWriter?
  private let server: ServerConnection
  @exclusivity(unchecked) private var head: RequestHead? = RequestHead()
  @exclusivity(unchecked) private var route: Route?
  private var unknownPath = ""
  private var encoding = Compression.identity
  @exclusivity(unchecked) private var deframer: MessageDeframer
  @exclusivity(unchecked) private var call: (any ServerCall)?
  @exclusivity(unchecked) @usableFromInline private(set) var context: ServerContext?
  @exclusivity(unchecked) private var headersSent = false
  @exclusivity(unchecked) @usableFromInline private(set) var isFinished = false
  /// Body bytes for which the window has not been opened again.
  @exclusivity(unchecked) private var unconsumedBytes = 0
  private var deadlineTimer: Scheduled<Void>?
  private let began = ContinuousClock.now
  @exclusivity(unchecked) private var received = (messages: 0, bytes: 0, compressed: 0)
  /// The one response, which does not go through the writer.
  @exclusivity(unchecked) private var responseBytes: Int?
  /// How it ended; nil while it has not.
  @exclusivity(unchecked) private var code: StatusCode?
  /// The session's stream; nil once it is closed.
  @exclusivity(unchecked) private(set) var stream: HTTP2Stream?

  init(connection: Connection, server: ServerConnection) {
    self.connection = connection
    self.server = server
    self.deframer = MessageDeframer(limit: server.configuration.maximumRequestBytes)
    self.stream = HTTP2Stream(owner: self)
  }

  @usableFromInline var executor: LoopExecutor { self.connection.executor }

  // MARK: - From the session

  func headersBegan() {}

  func headerReceived(name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>) {
    // A request's trailers mean nothing to gRPC.
    guard self.head != nil else { return }
    if name.equals(":path") {
      self.route = self.server.router.find(value)
      if self.route == nil { self.unknownPath = String(decoding: value, as: UTF8.self) }
    } else {
      self.head?.receive(name: name, value: value)
    }
  }

  func headersTooLarge(bytes: Int, limit: Int) {
    // Trailers that are too large mean as little as others.
    guard self.head.take() != nil else { return }
    self.fail(
      RPCError(
        .resourceExhausted,
        "the request's header list of \(bytes) bytes is larger than the limit of \(limit)"))
  }

  func headersEnded(endOfStream: Bool) {
    guard let head = self.head.take() else { return }
    guard head.isPost, head.isGRPC else {
      // `doc/PROTOCOL-HTTP2.md`, "Responses": another content type gets HTTP's 415.
      var fields = HeaderFields()
      fields.add(":status", head.isPost ? "415" : "405")
      self.finish(trailersOnly: fields)
      return
    }
    guard let route = self.route else {
      self.fail(RPCError(.unimplemented, "there is no method \(self.unknownPath)"))
      return
    }
    if let encoding = head.unknownEncoding {
      self.fail(
        RPCError(
          .unimplemented, "the encoding \(encoding) is not understood",
          metadata: ["grpc-accept-encoding": "\(Compression.accepted)"]))
      return
    }
    self.encoding = head.encoding
    if let timeout = head.badTimeout {
      self.fail(RPCError(.internalError, "\"\(timeout)\" is no grpc-timeout"))
      return
    }
    let deadline = head.timeout.map(Deadline.after)
    self.context = ServerContext(
      method: route.path, metadata: head.metadata, deadline: deadline, peer: self.server.peer,
      compression: self.server.configuration.responseCompression, accepted: head.acceptedEncodings)
    if let timeout = head.timeout {
      self.deadlineTimer = self.executor.eventLoop.scheduleTask(in: TimeAmount(timeout)) {
        self.deadlinePassed()
      }
    }
    self.call = route.makeCall(self)
  }

  func dataReceived(_ bytes: UnsafeRawBufferPointer) {
    guard let call = self.call, !self.isFinished else {
      self.open(bytes.count)
      return
    }
    self.unconsumedBytes += bytes.count
    do {
      try self.deframer.append(bytes) { self.messageReceived($0, isCompressed: $1, by: call) }
    } catch {
      self.breakOff(error.error)
    }
    if !self.isHeldBack { self.openWindow() }
  }

  private func messageReceived(
    _ bytes: UnsafeRawBufferPointer, isCompressed: Bool, by call: any ServerCall
  ) {
    self.received.messages += 1
    self.received.bytes += bytes.count
    guard isCompressed else { return call.messageReceived(bytes, isCompressed: false) }
    self.received.compressed += 1
    do throws(RPCError) {
      try withPlainMessage(
        bytes, isCompressed: true, self.encoding,
        limit: self.server.configuration.maximumRequestBytes
      ) { call.messageReceived($0, isCompressed: true) }
    } catch {
      self.breakOff(error)
    }
  }

  /// Set by a call whose queue is full: the window stays shut until ``roomAgain()``.
  var isHeldBack = false

  /// The application has read what it was behind with.
  func roomAgain() {
    self.isHeldBack = false
    self.openWindow()
  }

  func endReceived() {
    guard let call = self.call, !self.isFinished else { return }
    guard self.deframer.isAtBoundary else {
      self.breakOff(RPCError(.internalError, "the request ended within a message"))
      return
    }
    call.endReceived()
  }

  func outboundDrained(remaining: Int) {
    self.streamWriter?.drained(remaining: remaining)
  }

  func closed(code: UInt32) {
    self.stream = nil
    self.deadlineTimer?.cancel()
    self.deadlineTimer = nil
    let wasFinished = self.isFinished
    self.isFinished = true
    let error = RPCError(.cancelled, "the client left the call")
    if !wasFinished { self.code = .cancelled }
    self.summarize()
    self.streamWriter?.close(error)
    // A handler that has returned, or was told by `breakOff`, hears nothing more.
    if !wasFinished { self.call?.cancelled(error) }
    self.call = nil
    self.server.streamClosed()
  }

  // MARK: - From the call

  /// Ends the call with its one response.
  @inlinable
  func finish(with response: some RPCMessage) {
    guard !self.isFinished else { return }
    if self.compressesResponse {
      self.finish(compressing: response.encoded())
      return
    }
    response.encode { size in self.reserveResponse(size) }
    self.finish()
  }

  @usableFromInline var compressesResponse: Bool { self.compression != .identity }

  /// Where the one response goes, behind its prefix.
  @usableFromInline
  func reserveResponse(_ size: Int, isCompressed: Bool = false) -> UnsafeMutableRawPointer {
    // The stream is there, or the call would be finished.
    let target = self.reserveOutbound(size + MessageDeframer.prefixBytes)!
    writePrefix(size, isCompressed: isCompressed, to: target)
    self.responseBytes = size + MessageDeframer.prefixBytes
    return target + MessageDeframer.prefixBytes
  }

  @usableFromInline
  func finish(compressing response: [UInt8]) {
    let small = response.withUnsafeBytes { MessageCodec.compress($0, self.compression) }
    let target = self.reserveResponse(small.count, isCompressed: true)
    small.withUnsafeBytes { bytes in
      if let source = bytes.baseAddress { target.copyMemory(from: source, byteCount: bytes.count) }
    }
    self.finish()
  }

  /// Ends the call well, behind the responses that were sent.
  @usableFromInline
  func finish() {
    guard !self.isFinished else { return }
    self.code = .ok
    self.streamWriter?.transfer(to: self)
    if self.context?.isPlain ?? true {
      self.end()
      guard let session = self.connection.session, let stream = self.stream else { return }
      if !self.headersSent { self.sendHeaders() }
      session.endOutbound(stream, trailers: Self.plainTrailers)
      self.connection.needsFlush()
      return
    }
    var trailers = HeaderFields()
    trailers.add("grpc-status", "0")
    if let metadata = self.context?.trailingMetadata { trailers.add(metadata) }
    self.finish(trailers: trailers)
  }

  /// Ends the call before its handler: the client broke a rule, or the deadline passed. The handler
  /// is told, for ``closed(code:)`` leaves alone who has a status already.
  @usableFromInline
  func breakOff(_ error: RPCError) {
    guard !self.isFinished else { return }
    let call = self.call
    self.fail(error)
    call?.cancelled(error)
  }

  /// Ends the call with its handler's error, behind the responses that were sent.
  func fail(_ error: RPCError) {
    guard !self.isFinished else { return }
    self.code = error.code
    self.streamWriter?.transfer(to: self)
    // What the handler wanted to say first is said first; without it one header list is enough.
    if !self.headersSent, self.context?.initialMetadata.isEmpty == false { self.sendHeaders() }
    var trailers = HeaderFields()
    if !self.headersSent {
      trailers.add(":status", "200")
      trailers.add("content-type", "application/grpc")
    }
    trailers.add("grpc-status", String(error.code.rawValue))
    if !error.message.isEmpty {
      trailers.add("grpc-message", bytes: StatusMessage.encode(error.message))
    }
    trailers.add(error.metadata)
    if let metadata = self.context?.trailingMetadata { trailers.add(metadata) }
    if self.headersSent {
      self.finish(trailers: trailers)
    } else {
      self.finish(trailersOnly: trailers)
    }
  }

  /// Whatever a handler threw, as a status.
  func fail(_ error: any Error) {
    switch error {
    case let error as RPCError: self.fail(error)
    case is CancellationError: self.fail(RPCError(.cancelled, "the handler was cancelled"))
    default: self.fail(RPCError(.unknown, "\(error)"))
    }
  }

  private func deadlinePassed() {
    self.breakOff(RPCError(.deadlineExceeded, "the deadline passed while the call was served"))
  }

  private func finish(trailers: consuming HeaderFields) {
    self.end()
    guard let session = self.connection.session, let stream = self.stream else { return }
    if !self.headersSent { self.sendHeaders() }
    session.endOutbound(stream, trailers: trailers)
    self.connection.needsFlush()
  }

  private func finish(trailersOnly fields: borrowing HeaderFields) {
    self.end()
    guard let session = self.connection.session, let stream = self.stream else { return }
    session.submitTrailersOnly(fields, on: stream)
    self.connection.needsFlush()
  }

  private func end() {
    self.isFinished = true
    self.deadlineTimer?.cancel()
    self.deadlineTimer = nil
    self.streamWriter?.close(RPCError(.cancelled, "the call is over"))
    self.openWindow()
  }

  /// What most responses say.
  private static let plainHeaders = ConstantHeaderFields([
    (":status", "200"), ("content-type", "application/grpc"),
  ])
  private static let plainTrailers = ConstantHeaderFields([("grpc-status", "0")])

  private func sendHeaders() {
    self.headersSent = true
    guard let session = self.connection.session, let stream = self.stream else { return }
    if self.context?.isPlain ?? true {
      session.submitResponse(Self.plainHeaders, on: stream)
      return
    }
    var fields = HeaderFields()
    fields.add(":status", "200")
    fields.add("content-type", "application/grpc")
    let compression = self.compression
    if compression != .identity { fields.add("grpc-encoding", compression.header) }
    if let metadata = self.context?.initialMetadata { fields.add(metadata) }
    session.submitResponse(fields, on: stream)
  }

  // MARK: - Handlers

  /// Runs a call's handler behind the interceptors, and ends the call.
  ///
  /// - Parameters:
  ///   - finish: Sends what `handler` made. On the loop.
  @usableFromInline
  func serve(
    _ context: ServerContext, _ handler: () async throws -> Void, finish: () -> Void
  ) async {
    let interceptors = self.server.configuration.interceptors
    do {
      try await ServerContext.$current.withValue(context) {
        if interceptors.isEmpty {
          try await handler()
        } else {
          try await intercepted(by: interceptors[...], context, handler)
        }
      }
      finish()
    } catch {
      self.fail(error)
    }
    self.server.handlerEnded()
  }

  /// A handler begins; ``serve(_:_:finish:)`` says when it has ended.
  @usableFromInline
  func handlerBegins() { self.server.handlerBegan() }

  /// The way in for messages from any executor. Made by a call of a streaming shape before its
  /// handler begins, and there from then on.
  func makeWriter() -> StreamWriter {
    let writer = StreamWriter(executor: self.executor)
    self.streamWriter = writer
    return writer
  }

  // MARK: - From the writer

  var compression: Compression {
    guard let context = self.context, !context.isPlain else { return .identity }
    return context.responseCompression
  }
  var maximumMessageBytes: Int { .max }

  func reserveOutbound(_ count: Int) -> UnsafeMutableRawPointer? {
    self.stream?.outbound.reserve(count)
  }

  func appendOutbound(_ bytes: UnsafeRawBufferPointer) {
    self.stream?.outbound.append(bytes)
  }

  func outboundAppended() {
    guard let session = self.connection.session, let stream = self.stream, !self.isFinished
    else { return }
    if self.headersSent {
      session.outboundGrew(stream)
    } else {
      self.sendHeaders()
    }
    self.connection.needsFlush()
  }

  private func summarize() {
    guard let context = self.context, !context.isPlain else { return }
    let observers = context.takeObservers()
    guard !observers.isEmpty else { return }
    var sent = self.streamWriter?.sent ?? (messages: 0, bytes: 0)
    if let responseBytes = self.responseBytes {
      sent.messages += 1
      sent.bytes += responseBytes
    }
    let summary = CallSummary(
      method: context.method, code: self.code ?? .cancelled,
      duration: self.began.duration(to: .now), sentMessages: sent.messages, sentBytes: sent.bytes,
      receivedMessages: self.received.messages, receivedBytes: self.received.bytes,
      receivedCompressedMessages: self.received.compressed)
    for observer in observers { observer(summary) }
  }

  // MARK: - The window

  private func openWindow() {
    let count = self.unconsumedBytes
    self.unconsumedBytes = 0
    self.open(count)
  }

  private func open(_ count: Int) {
    guard count > 0, let session = self.connection.session, let stream = self.stream
    else { return }
    session.consume(count, on: stream)
    self.connection.needsFlush()
  }
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
