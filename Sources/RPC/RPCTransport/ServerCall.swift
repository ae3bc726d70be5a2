import RPCCore

extension ServerStream {
  /// Ends a call of which a request is no message: the client's fault. Each shape decodes for itself, for a
  /// message that comes out of a common function is copied.
  @usableFromInline
  func isNoMessage(_ name: String, _ error: any Error) {
    self.breakOff(RPCError(.internalError, "the request is no \(name): \(error)"))
  }

  /// Runs the handler of a call that streams, and ends the call.
  @usableFromInline
  func run(
    _ handler: @escaping @Sendable (ServerContext, StreamWriter) async throws -> Void
  ) {
    let job = HandlerJob(self)
    let writer = self.makeWriter(job.context)
    if self.isIntercepted {
      self.run(job, HandlerJob.intercepted { try await handler($0.context, writer) })
    } else {
      self.run(job) { job in
        do {
          try await handler(job.context, writer)
          job.stream.finish()
        } catch {
          job.stream.fail(error)
        }
      }
    }
  }
}

/// The requests of one call, in the order they were sent. Read by one task.
///
/// Ends when the client has sent everything; throws ``RPCCore/RPCError`` when it leaves or the
/// deadline passes. What is not read holds the client back.
public struct RequestStream<Message: RPCMessage>: AsyncSequence, Sendable {
  @usableFromInline let queue: MessageQueue<Message>

  /// The requests that the stream will bring.
  @inlinable
  init(from stream: ServerStream) {
    let queue = MessageQueue<Message> { stream.roomAgain() }
    self.queue = queue
    stream.receive(
      into: RequestSink(
        message: { bytes, isCompressed in
          do {
            let hasRoom = queue.append(
              try Message(decoding: bytes, taking: &stream.decodedBytes),
              bytes: stream.decodedBytes, isCompressed: isCompressed)
            if !hasRoom { stream.holdBack() }
          } catch {
            stream.isNoMessage(Message.messageName, error)
          }
        },
        end: { queue.end($0, discarding: $1) }, heldBytes: { queue.countedBytes() }))
  }

  /// Reads the requests.
  public struct AsyncIterator: AsyncIteratorProtocol {
    @usableFromInline let queue: MessageQueue<Message>
    @usableFromInline var lastWasCompressed = false

    /// Whether the message that ``next()`` returned last had come compressed.
    public var wasCompressed: Bool { self.lastWasCompressed }

    @inlinable
    init(queue: MessageQueue<Message>) { self.queue = queue }

    /// The next request; nil once the client has sent everything.
    ///
    /// - Throws: ``RPCCore/RPCError``: the client has left, or the deadline has passed.
    @inlinable
    public mutating func next() async throws -> Message? {
      guard let next = try await self.queue.next() else { return nil }
      self.lastWasCompressed = next.isCompressed
      return next.message
    }
  }

  /// Reads from where the last reader stopped: each request comes once.
  @inlinable
  public func makeAsyncIterator() -> AsyncIterator {
    AsyncIterator(queue: self.queue)
  }
}

/// Where a handler sends its responses.
public struct ResponseWriter<Message: RPCMessage>: Sendable {
  @usableFromInline let stream: ServerStream
  @usableFromInline let writer: StreamWriter

  @inlinable
  init(stream: ServerStream, writer: StreamWriter) {
    self.stream = stream
    self.writer = writer
  }

  /// Sends a response. Suspends while the client does not read.
  ///
  /// - Parameter compressed: Whether the call's compression is used, if it has one; see
  ///   ``ServerContext/responseCompression``.
  /// - Throws: ``RPCCore/RPCError`` once the call is over.
  @inlinable
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
