import NIOCore
import RPCCore
import RPCHTTP2

/// A call as its shape sees it: what comes back, and how it ends. Told on the loop.
protocol ClientCall: AnyObject, Sendable {
  func initialMetadataReceived(_ metadata: Metadata)
  /// A whole message. The bytes are valid during the call only. False holds the server back until
  /// the call says ``ClientStream/roomAgain()``.
  func messageReceived(_ bytes: UnsafeRawBufferPointer) throws(MessageDecodingError) -> Bool
  /// The last event: trailing metadata after an OK, or the error.
  func ended(_ result: Result<Metadata, RPCError>)
}

/// The client's side of one stream.
///
///     waiting ──start──▶ open ──┐
///        └────── finish ────────┴──▶ finished
///
/// A call waits until its channel has a connection, is open while it has a stream, and is finished
/// once: by the server's trailers, a reset, the deadline, a cancellation, or a lost connection,
/// whichever comes first. `@unchecked Sendable`: only the loop touches it; ``StreamWriter`` is the
/// way in from elsewhere.
final class ClientStream: HTTP2StreamEvents, OutboundStream, @unchecked Sendable {
  private enum State { case waiting, open, finished }

  let executor: LoopExecutor
  let writer: StreamWriter
  let options: CallOptions
  let deadline: Deadline?
  private let path: String
  private var call: (any ClientCall)?
  private var state = State.waiting
  private var connection: Connection?
  private var stream: HTTP2Stream?
  private var head: ResponseHead? = ResponseHead()
  private var isPastHead = false
  private var deframer: MessageDeframer
  private var unconsumedBytes = 0
  private var isHeldBack = false
  private var wantsEnd = false
  /// What was sent before there was a stream.
  private var early: [UInt8]
  private var deadlineTimer: Scheduled<Void>?
  /// Tells the channel that a call that waits needs to wait no more.
  var onFinish: (() -> Void)?

  /// - Parameters:
  ///   - request: A framed message that is sent at once, and after which the client's side ends;
  ///     nil for a stream of requests.
  init(
    path: String, options: CallOptions, request: [UInt8]?, executor: LoopExecutor,
    call: any ClientCall
  ) {
    self.path = path
    self.options = options
    self.deadline = options.timeout.map(Deadline.after)
    self.executor = executor
    self.writer = StreamWriter(executor: executor)
    self.call = call
    self.deframer = MessageDeframer(limit: options.maximumResponseBytes)
    self.early = request ?? []
    self.wantsEnd = request != nil
  }

  var isFinished: Bool { self.state == .finished }

  // MARK: - From the channel

  /// Begins the time that the call has. Before it waits or starts.
  func beginDeadline() {
    guard let deadline = self.deadline, self.state == .waiting else { return }
    let remaining = deadline.remaining
    guard remaining > .zero else {
      self.finish(.failure(self.deadlineError))
      return
    }
    self.deadlineTimer = self.executor.eventLoop.scheduleTask(in: TimeAmount(remaining)) {
      self.cancel(self.deadlineError)
    }
  }

  /// Sends the request on a connection.
  func start(on connection: Connection, authority: String) {
    guard self.state == .waiting, let session = connection.session else { return }
    var fields = HeaderFields()
    fields.add(":method", "POST")
    fields.add(":scheme", "http")
    fields.add(":path", self.path)
    fields.add(":authority", authority)
    fields.add("te", "trailers")
    fields.add("content-type", "application/grpc")
    fields.add("user-agent", "grpc-swift-millrace/0.1")
    if let deadline = self.deadline {
      fields.add("grpc-timeout", TimeoutHeader.encode(max(.zero, deadline.remaining)))
    }
    fields.add(self.options.metadata)
    let stream = HTTP2Stream(owner: self)
    self.state = .open
    self.connection = connection
    self.stream = stream
    self.early.withUnsafeBytes { stream.outbound.append($0) }
    self.early = []
    self.writer.transfer(to: self)
    session.submitRequest(fields, on: stream)
    if self.wantsEnd { session.endOutbound(stream) }
    connection.needsFlush()
  }

  /// Ends the call from our side; the server is told if it knows of it.
  func cancel(_ error: RPCError) {
    guard self.state != .finished else { return }
    if let stream = self.stream {
      self.connection?.session?.reset(stream, code: 0x8)
      self.connection?.needsFlush()
    }
    self.finish(.failure(error))
  }

  /// Nothing more will be sent.
  func endOutbound() {
    self.writer.transfer(to: self)
    self.wantsEnd = true
    guard let stream = self.stream else { return }
    self.connection?.session?.endOutbound(stream)
    self.connection?.needsFlush()
  }

  /// The application has read what it was behind with.
  func roomAgain() {
    self.isHeldBack = false
    self.openWindow()
  }

  // MARK: - From the session

  func headersBegan() {
    self.head = ResponseHead()
  }

  func headerReceived(name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>) {
    self.head?.receive(name: name, value: value)
  }

  func headersEnded(endOfStream: Bool) {
    guard self.state == .open, let head = self.head.take() else { return }
    if !self.isPastHead {
      // RFC 9113, section 8.1: any number of interim responses come before the final one.
      if (100..<200).contains(head.httpStatus) { return }
      self.isPastHead = true
      guard head.httpStatus == 200, head.isGRPC || head.code != nil else {
        let what =
          head.httpStatus == 200
          ? "a response that is not gRPC" : "HTTP status \(head.httpStatus)"
        self.cancel(
          RPCError(
            head.code ?? StatusCode(httpStatus: head.httpStatus),
            head.message.isEmpty ? "the server answered with \(what)" : head.message,
            metadata: head.metadata))
        return
      }
      if let encoding = head.unknownEncoding {
        self.cancel(RPCError(.internalError, "the server sent the encoding \(encoding) unasked"))
        return
      }
      if !endOfStream {
        self.call?.initialMetadataReceived(head.metadata)
        return
      }
    }
    guard self.deframer.isAtBoundary else {
      self.finish(.failure(RPCError(.internalError, "the response ended within a message")))
      return
    }
    switch head.code {
    case .ok: self.finish(.success(head.metadata))
    case let code?: self.finish(.failure(RPCError(code, head.message, metadata: head.metadata)))
    case nil: self.finish(.failure(RPCError(.unknown, "the server sent no grpc-status")))
    }
  }

  func dataReceived(_ bytes: UnsafeRawBufferPointer) {
    guard self.state == .open, let call = self.call else {
      self.open(bytes.count)
      return
    }
    self.unconsumedBytes += bytes.count
    var failure: RPCError?
    do {
      try self.deframer.append(bytes) { message in
        guard failure == nil else { return }
        do throws(MessageDecodingError) {
          if try !call.messageReceived(message) { self.isHeldBack = true }
        } catch {
          failure = RPCError(.internalError, "the response cannot be read: \(error)")
        }
      }
    } catch {
      failure = error.error
    }
    if let failure { self.cancel(failure) }
    if !self.isHeldBack { self.openWindow() }
  }

  func endReceived() {
    guard self.state == .open else { return }
    self.finish(.failure(RPCError(.internalError, "the server ended the stream without a status")))
  }

  func outboundDrained(remaining: Int) {
    self.writer.drained(remaining: remaining)
  }

  func closed(code: UInt32) {
    if self.state == .open {
      if let reason = (self.connection?.owner as? ClientConnection)?.lossReason {
        self.finish(.failure(RPCError(.unavailable, "the connection was lost: \(reason)")))
      } else {
        self.finish(
          .failure(
            RPCError(
              StatusCode(resetCode: code), "the server reset the stream with HTTP/2 error \(code)"
            )))
      }
    }
    self.stream = nil
    self.connection = nil
  }

  // MARK: - From the writer

  func reserveOutbound(_ count: Int) -> UnsafeMutableRawPointer? {
    // Before there is a stream, the writer's own queue would do; the loop is not held back by it.
    if self.state == .waiting { return nil }
    return self.stream?.outbound.reserve(count)
  }

  func appendOutbound(_ bytes: UnsafeRawBufferPointer) {
    switch self.state {
    case .waiting: self.early.append(contentsOf: bytes)
    case .open: self.stream?.outbound.append(bytes)
    case .finished: break
    }
  }

  func outboundAppended() {
    guard self.state == .open, let stream = self.stream else { return }
    self.connection?.session?.outboundGrew(stream)
    self.connection?.needsFlush()
  }

  // MARK: -

  private var deadlineError: RPCError {
    RPCError(
      .deadlineExceeded, "\(self.path) took longer than \(self.options.timeout ?? .zero)")
  }

  private func finish(_ result: Result<Metadata, RPCError>) {
    guard self.state != .finished else { return }
    self.state = .finished
    self.deadlineTimer?.cancel()
    self.deadlineTimer = nil
    self.early = []
    switch result {
    case .success: self.writer.close(RPCError(.cancelled, "the server has ended the call"))
    case .failure(let error): self.writer.close(error)
    }
    self.openWindow()
    let call = self.call
    self.call = nil
    self.onFinish?()
    self.onFinish = nil
    call?.ended(result)
    // The server answered before it had the whole request: the rest is not wanted.
    if let stream = self.stream, case .success = result, !self.wantsEnd {
      self.connection?.session?.reset(stream, code: 0x8)
      self.connection?.needsFlush()
    }
  }

  private func openWindow() {
    let count = self.unconsumedBytes
    self.unconsumedBytes = 0
    self.open(count)
  }

  private func open(_ count: Int) {
    guard count > 0, let stream = self.stream, let session = self.connection?.session
    else { return }
    session.consume(count, on: stream)
    self.connection?.needsFlush()
  }
}
