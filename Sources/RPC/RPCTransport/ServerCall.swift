import RPCCore

extension ServerStream {
  /// Runs the handler of a call that streams, and ends the call.
  func run(
    _ handler: @escaping @Sendable (ServerContext, StreamWriter) async throws -> Void
  ) {
    let context = self.handlerBegins()
    let writer = self.makeWriter()
    self.run(context) {
      do {
        if self.isIntercepted {
          try await self.intercept(context) { try await handler(context, writer) }
        } else {
          try await handler(context, writer)
        }
        self.finish()
      } catch {
        self.fail(error)
      }
    }
  }
}

/// The requests of a call with any number of them: the handler starts with the headers and reads as
/// it likes.
final class RequestQueue<Request: RPCMessage>: RequestSink {
  private let stream: ServerStream
  private let queue: MessageQueue<Request>

  /// The requests that the stream will bring.
  static func receiving(from stream: ServerStream) -> RequestStream<Request> {
    let queue = MessageQueue<Request>(bound: MessageQueueBound.bytes) {
      stream.executor.execute { stream.roomAgain() }
    }
    stream.receive(into: RequestQueue(stream, queue))
    return RequestStream(queue: queue)
  }

  private init(_ stream: ServerStream, _ queue: MessageQueue<Request>) {
    self.stream = stream
    self.queue = queue
  }

  func messageReceived(_ bytes: UnsafeRawBufferPointer, isCompressed: Bool) {
    guard let message: Request = decode(bytes, for: self.stream) else { return }
    if !self.queue.append(message, bytes: bytes.count, isCompressed: isCompressed) {
      self.stream.holdBack()
    }
  }

  func endReceived() {
    self.queue.end(.success(()))
  }

  func cancelled(_ error: RPCError) {
    self.queue.end(.failure(error), discarding: true)
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
