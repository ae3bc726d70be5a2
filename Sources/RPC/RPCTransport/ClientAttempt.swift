import NIOCore
import RPCCompression
import RPCCore
import RPCHTTP2

/// How an attempt at a call ended.
struct AttemptEnd {
  var result: Result<Metadata, RPCError>
  /// The server's application has not seen the call, for certain.
  var isUnprocessed = false
  /// The server said how: it has sent all that it wanted to.
  var isByTrailers = false
}

/// One attempt at a call: a stream on a connection, its headers and its messages.
///
/// It ends once: by the server's trailers, a reset, a cancellation, or a lost connection. Confined to
/// its loop.
final class ClientAttempt: HTTP2Stream {
  /// How much of the call's replay buffer has been queued here.
  @exclusivity(unchecked) var replayed = 0
  private let connection: Connection
  private let client: ClientConnection?
  @exclusivity(unchecked) private var head: ResponseHead? = ResponseHead()
  @exclusivity(unchecked) private var isPastHead = false
  @exclusivity(unchecked) private var isEnded = false
  private var encoding = Compression.identity
  @exclusivity(unchecked) private var deframer: MessageDeframer
  private let limit: Int
  @exclusivity(unchecked) private var unconsumedBytes = 0
  @exclusivity(unchecked) private var isHeldBack = false
  /// How the attempt ends once the application has read what came before the end.
  @exclusivity(unchecked) private var dueEnd: AttemptEnd?
  /// Why the messages cannot be gone on with.
  private var messageFault: RPCError?
  /// The call that it is for, until it has ended.
  @exclusivity(unchecked) private var call: ClientStream?

  init(of call: ClientStream, on connection: Connection, maximumResponseBytes: Int) {
    self.call = call
    self.connection = connection
    self.client = connection.client
    self.limit = maximumResponseBytes
    self.deframer = MessageDeframer(limit: maximumResponseBytes)
    super.init()
  }

  // MARK: - From the call

  func submit(_ fields: consuming HeaderFields) {
    guard !self.isClosed, let session = self.connection.session else { return }
    session.submitRequest(fields, on: self)
    self.connection.needsFlush()
  }

  func outboundGrew() {
    guard !self.isClosed else { return }
    self.connection.withSession { $0.outboundGrew(self) }
    self.connection.needsFlush()
  }

  func endOutbound() {
    guard !self.isClosed else { return }
    self.connection.session?.endOutbound(self)
    self.connection.needsFlush()
  }

  /// Nobody wants it any more: the server is told, the call is not.
  func abandon() {
    self.isEnded = true
    self.call = nil
    self.deframer.reset()
    guard !self.isClosed else { return }
    self.connection.session?.reset(self, code: 0x8)
    self.connection.needsFlush()
    self.openWindow()
  }

  /// The application has read what it was behind with.
  func roomAgain() {
    self.isHeldBack = false
    guard !self.isEnded else { return }
    if self.deframer.hasBacklog {
      self.receive { (attempt, call) throws(MessageDeframer.Failure) in
        try attempt.deframer.resume { attempt.messageReceived($0, $1, of: call) }
      }
    }
    guard !self.isHeldBack else { return }
    self.wantMore()
    guard !self.deframer.hasBacklog, let end = self.dueEnd.take() else { return }
    self.end(end.isByTrailers && !self.deframer.isAtBoundary ? Self.endedWithinAMessage : end)
  }

  private static let endedWithinAMessage = AttemptEnd(
    result: .failure(RPCError(.internalError, "the response ended within a message")))

  // MARK: - From the session

  override func headersBegan() {
    self.head = ResponseHead()
  }

  override func headerReceived(name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>)
  {
    self.head?.receive(name: name, value: value)
  }

  override func headersTooLarge(bytes: Int, limit: Int) {
    self.breakOff(
      RPCError(
        .resourceExhausted,
        "the response's header list of \(bytes) bytes is larger than the limit of \(limit)"))
  }

  override func headersEnded(endOfStream: Bool) {
    guard !self.isEnded, let head = self.head.take() else { return }
    if !self.isPastHead {
      // RFC 9113, section 8.1: any number of interim responses come before the final one.
      if (100..<200).contains(head.httpStatus) { return }
      self.isPastHead = true
      self.client?.callAnswered()
      guard head.httpStatus == 200, head.isGRPC || head.code != nil else {
        let what =
          head.httpStatus == 200
          ? "a response that is not gRPC" : "HTTP status \(head.httpStatus)"
        // An OK is not believed that does not come as one.
        let code = head.code == .ok ? nil : head.code
        self.breakOff(
          RPCError(
            code ?? StatusCode(httpStatus: head.httpStatus),
            head.message.isEmpty ? "the server answered with \(what)" : head.message,
            metadata: head.metadata))
        return
      }
      if let encoding = head.unknownEncoding {
        self.breakOff(
          RPCError(.internalError, "the server sent the encoding \(encoding) unasked"))
        return
      }
      if !endOfStream {
        self.encoding = head.encoding
        self.call?.responseBegan(self, head.metadata)
        return
      }
    }
    guard self.deframer.isAtBoundary || self.deframer.hasBacklog else {
      self.end(Self.endedWithinAMessage)
      return
    }
    let result: Result<Metadata, RPCError> =
      switch head.code {
      case .ok: .success(head.metadata)
      case let code?: .failure(RPCError(code, head.message, metadata: head.metadata))
      case nil: .failure(RPCError(.unknown, "the server sent no grpc-status"))
      }
    self.end(AttemptEnd(result: result, isByTrailers: true))
  }

  override func dataReceived(_ bytes: UnsafeRawBufferPointer) {
    guard !self.isEnded else {
      self.open(bytes.count)
      return
    }
    self.unconsumedBytes += bytes.count
    if self.isHeldBack {
      self.deframer.keep(bytes)
      return
    }
    self.receive { (attempt, call) throws(MessageDeframer.Failure) in
      try attempt.deframer.append(bytes) { attempt.messageReceived($0, $1, of: call) }
    }
    if !self.isHeldBack { self.wantMore() }
  }

  /// Opens the window for what follows, and at once for all of a large message that has begun.
  private func wantMore() {
    self.openWindow()
    if self.deframer.missingBytes > 0 {
      self.connection.withSession { $0.expect(self.deframer.missingBytes, on: self) }
    }
  }

  /// Runs what takes messages apart; where they are none, the call ends.
  private func receive(
    _ body: (ClientAttempt, ClientStream) throws(MessageDeframer.Failure) -> Void
  ) {
    guard let call = self.call else { return }
    do {
      try body(self, call)
    } catch {
      self.note(error.error)
    }
    // Not from within the taking apart: the end forgets what is left.
    if let error = self.messageFault.take() { self.breakOff(error) }
  }

  /// - Returns: Whether the application takes another.
  private func messageReceived(
    _ bytes: UnsafeRawBufferPointer, _ isCompressed: Bool, of call: ClientStream
  ) -> Bool {
    guard self.messageFault == nil else { return true }
    do throws(RPCError) {
      try self.deliver(bytes, isCompressed, to: call)
    } catch {
      self.note(error)
    }
    return !self.isHeldBack
  }

  private func note(_ error: RPCError) {
    if self.messageFault == nil { self.messageFault = error }
  }

  private func deliver(
    _ bytes: UnsafeRawBufferPointer, _ isCompressed: Bool, to call: ClientStream
  ) throws(RPCError) {
    let result = try withPlainMessage(
      bytes, isCompressed: isCompressed, self.encoding, limit: self.limit
    ) { message -> Result<Bool, RPCError> in
      do throws(RPCError) {
        return .success(
          try call.messageReceived(
            message, wireBytes: bytes.count, isCompressed: isCompressed))
      } catch {
        return .failure(error)
      }
    }
    if !(try result.get()) { self.isHeldBack = true }
  }

  override func endReceived() {
    self.end(
      .failure(RPCError(.internalError, "the server ended the stream without a status")))
  }

  override func outboundDrained(remaining: Int) {
    if !self.isEnded { self.call?.outboundDrained(self, remaining: remaining) }
  }

  override func closed(code: UInt32) {
    if !self.isEnded, self.dueEnd == nil {
      if let reason = self.client?.lossReason {
        // A request that was held back, for the server's limit of streams, was seen by nobody.
        self.end(
          .failure(RPCError(.unavailable, "the connection was lost: \(reason)")),
          isUnprocessed: !self.hasLeft)
      } else {
        self.end(
          .failure(
            RPCError(StatusCode(resetCode: code), self.endInWords(code))),
          // RFC 9113, section 8.7.
          isUnprocessed: code == 0x7 && !self.isPastHead)
      }
    }
    self.client?.callEnded()
  }

  /// Who ended the stream before its time, and why.
  private func endInWords(_ code: UInt32) -> String {
    let name = http2ErrorName(code)
    if self.wasResetByPeer { return "the server reset the stream with \(name)" }
    if code == 0x7 {
      // Closed on this side alone: the server never began it.
      return self.client?.goAway.map { "the server refused the call with \($0)" }
        ?? "the connection takes no more calls"
    }
    return "the response is malformed, and this side reset the stream with \(name): "
      + (self.fault ?? "its body breaks a rule of HTTP/2")
  }

  // MARK: -

  /// The server broke a rule: its answer is not waited for.
  private func breakOff(_ error: RPCError) {
    if !self.isClosed {
      self.connection.session?.reset(self, code: 0x8)
      self.connection.needsFlush()
    }
    self.deframer.reset()
    // The server's own end stands behind what is wrong.
    self.dueEnd = nil
    self.end(.failure(error))
  }

  private func end(_ result: Result<Metadata, RPCError>, isUnprocessed: Bool = false) {
    self.end(AttemptEnd(result: result, isUnprocessed: isUnprocessed))
  }

  private func end(_ end: AttemptEnd) {
    guard !self.isEnded, self.dueEnd == nil else { return }
    guard !self.deframer.hasBacklog else {
      self.dueEnd = end
      // Whoever reads has yet to come to it; nobody sends any more.
      self.call?.attemptIsOver(self, end)
      return
    }
    self.isEnded = true
    self.openWindow()
    let call = self.call.take()
    call?.attemptEnded(self, end)
  }

  private func openWindow() {
    let count = self.unconsumedBytes
    self.unconsumedBytes = 0
    self.open(count)
  }

  private func open(_ count: Int) {
    guard count > 0, !self.isClosed else { return }
    self.connection.withSession { $0.consume(count, on: self) }
    self.connection.needsFlush()
  }
}
