import RPCCore

/// One request, one response: the handler starts when the request is whole.
///
/// Inlinable, so that a service's own module makes a form of it for the messages at hand; nothing
/// else on the way of a call is generic.
@usableFromInline
final class UnaryServerCall<Request: RPCMessage, Response: RPCMessage>: ServerCall {
  @usableFromInline
  typealias Handler = @Sendable (Request, ServerContext) async throws -> Response

  @usableFromInline let stream: ServerStream
  @usableFromInline let handler: Handler
  @exclusivity(unchecked) @usableFromInline var request: Request?
  @exclusivity(unchecked) @usableFromInline var task: Task<Void, Never>?

  @inlinable
  init(stream: ServerStream, handler: @escaping Handler) {
    self.stream = stream
    self.handler = handler
  }

  @inlinable
  func messageReceived(_ bytes: UnsafeRawBufferPointer, isCompressed: Bool) {
    guard self.request == nil else { return self.stream.refuseSecondRequest() }
    self.request = decode(bytes, for: self.stream)
    if isCompressed { self.stream.noteCompressedRequest() }
  }

  @inlinable
  func endReceived() {
    guard let request = self.request, let context = self.stream.context else {
      return self.stream.refuseNoRequest()
    }
    // The handler's alone from now on: one reference, no copy.
    self.request = nil
    let (stream, handler) = (self.stream, self.handler)
    stream.handlerBegins()
    let task = Task.immediate(executorPreference: stream.executor) {
      var response = Response?.none
      await stream.serve(context) {
        response = try await handler(request, context)
      } finish: {
        if let response {
          stream.finish(with: response)
        } else {
          stream.failWithoutResponse()
        }
      }
    }
    if !stream.isFinished { self.task = task }
  }

  @inlinable
  func cancelled(_ error: RPCError) {
    self.task?.cancel()
    self.task = nil
  }
}

extension ServerStream {
  @usableFromInline
  func refuseSecondRequest() {
    self.breakOff(RPCError(.unimplemented, "a unary call takes one request, and got another"))
  }

  @usableFromInline
  func noteCompressedRequest() { self.context?.requestWasCompressed = true }

  @usableFromInline
  func refuseNoRequest() {
    self.breakOff(RPCError(.unimplemented, "a unary call takes one request, and got none"))
  }

  @usableFromInline
  func failWithoutResponse() {
    self.fail(RPCError(.internalError, "an interceptor has kept the call from its handler"))
  }
}

/// One request, many responses.
final class ServerStreamingCall<Request: RPCMessage, Response: RPCMessage>: ServerCall {
  typealias Handler =
    @Sendable (Request, ResponseWriter<Response>, ServerContext) async throws -> Void

  private let stream: ServerStream
  private let handler: Handler
  private var request: Request?
  private var task: Task<Void, Never>?

  init(stream: ServerStream, handler: @escaping Handler) {
    self.stream = stream
    self.handler = handler
  }

  func messageReceived(_ bytes: UnsafeRawBufferPointer, isCompressed: Bool) {
    guard self.request == nil else {
      self.stream.breakOff(RPCError(.unimplemented, "this call takes one request, and got another"))
      return
    }
    self.request = decode(bytes, for: self.stream)
    if isCompressed { self.stream.context?.requestWasCompressed = true }
  }

  func endReceived() {
    guard let request = self.request, let context = self.stream.context else {
      self.stream.breakOff(RPCError(.unimplemented, "this call takes one request, and got none"))
      return
    }
    let (stream, handler) = (self.stream, self.handler)
    stream.handlerBegins()
    let writer = stream.makeWriter()
    let task = Task.immediate(executorPreference: stream.executor) {
      await stream.serve(context) {
        try await handler(request, ResponseWriter(stream: stream, writer: writer), context)
      } finish: {
        stream.finish()
      }
    }
    if !stream.isFinished { self.task = task }
  }

  func cancelled(_ error: RPCError) {
    self.task?.cancel()
    self.task = nil
  }
}

/// Many requests: the handler starts with the headers and reads as it likes.
final class StreamingServerCall<Request: RPCMessage>: ServerCall {
  typealias Handler =
    @Sendable (
      RequestStream<Request>, ServerContext, ServerStream, StreamWriter
    ) async throws -> Void

  private let stream: ServerStream
  private let queue: MessageQueue<Request>
  private var task: Task<Void, Never>?

  init(stream: ServerStream, handler: @escaping Handler) {
    self.stream = stream
    self.queue = MessageQueue(bound: MessageQueueBound.bytes) {
      stream.executor.execute { stream.roomAgain() }
    }
    guard let context = stream.context else { return }
    let requests = RequestStream(queue: self.queue)
    stream.handlerBegins()
    let writer = stream.makeWriter()
    let task = Task.immediate(executorPreference: stream.executor) {
      await stream.serve(context) {
        try await handler(requests, context, stream, writer)
      } finish: {
        stream.finish()
      }
    }
    if !stream.isFinished { self.task = task }
  }

  func messageReceived(_ bytes: UnsafeRawBufferPointer, isCompressed: Bool) {
    guard let message: Request = decode(bytes, for: self.stream) else { return }
    if !self.queue.append(message, bytes: bytes.count, isCompressed: isCompressed) {
      self.stream.isHeldBack = true
    }
  }

  func endReceived() {
    self.queue.end(.success(()))
  }

  func cancelled(_ error: RPCError) {
    self.queue.end(.failure(error), discarding: true)
    self.task?.cancel()
    self.task = nil
  }
}

enum MessageQueueBound {
  /// Unread messages of one stream: enough to keep a reader busy between two turns of the loop.
  static let bytes = 256 << 10
}

/// The message, or nil and a call that has failed: bytes that are no message are the client's
/// fault.
@inlinable
func decode<Message: RPCMessage>(
  _ bytes: UnsafeRawBufferPointer, for stream: ServerStream
) -> Message? {
  do {
    return try Message(decoding: bytes)
  } catch {
    stream.breakOff(
      RPCError(.internalError, "the request is no \(Message.messageName): \(error)"))
    return nil
  }
}

/// The requests of one call, in the order they were sent. Read by one task.
///
/// Ends when the client has sent everything; throws ``RPCCore/RPCError`` when it leaves or the
/// deadline passes. What is not read holds the client back.
public struct RequestStream<Message: RPCMessage>: AsyncSequence, Sendable {
  let queue: MessageQueue<Message>

  /// Reads the requests.
  public struct AsyncIterator: AsyncIteratorProtocol {
    let queue: MessageQueue<Message>
    /// Whether the message that ``next()`` returned last had come compressed.
    public private(set) var wasCompressed = false

    init(queue: MessageQueue<Message>) { self.queue = queue }

    /// The next request; nil once the client has sent everything.
    ///
    /// - Throws: ``RPCCore/RPCError``: the client has left, or the deadline has passed.
    public mutating func next() async throws -> Message? {
      guard let next = try await self.queue.next() else { return nil }
      self.wasCompressed = next.isCompressed
      return next.message
    }
  }

  /// Reads from where the last reader stopped: each request comes once.
  public func makeAsyncIterator() -> AsyncIterator {
    AsyncIterator(queue: self.queue)
  }
}

/// Where a handler sends its responses.
public struct ResponseWriter<Message: RPCMessage>: Sendable {
  let stream: ServerStream
  let writer: StreamWriter

  /// Sends a response. Suspends while the client does not read.
  ///
  /// - Parameter compressed: Whether the call's compression is used, if it has one; see
  ///   ``ServerContext/responseCompression``.
  /// - Throws: ``RPCCore/RPCError`` once the call is over.
  public func send(_ message: Message, compressed: Bool = true) async throws {
    try await self.writer.send(message, on: self.stream, compressed: compressed)
  }

  /// Sends the initial metadata now instead of with the first response, so that the client knows
  /// that the call has been taken up.
  public func sendInitialMetadata() {
    let stream = self.stream
    stream.executor.execute { stream.outboundAppended() }
  }
}
