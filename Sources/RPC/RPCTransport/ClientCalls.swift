import RPCCore
import Synchronization

/// Where the one response of a call is put. The loop fills it before the caller may look.
@usableFromInline
final class ResponseSlot<Response: RPCMessage>: @unchecked Sendable {
  @exclusivity(unchecked) @usableFromInline var message: Response?
  @usableFromInline init() {}
}

/// A response and about the memory it takes, or why its call fails.
@inlinable
func decodeResponse<Response: RPCMessage>(
  _ bytes: UnsafeRawBufferPointer
) throws(RPCError) -> (response: Response, memory: Int) {
  do {
    var memory = 0
    let response = try Response(decoding: bytes, taking: &memory)
    return (response, memory)
  } catch {
    throw RPCError(.internalError, "the response cannot be read: \(error)")
  }
}

/// A call with one request and one response: a continuation that is resumed once.
///
/// `@unchecked Sendable`: set up before it is handed to the loop, then only the loop touches it.
@usableFromInline
final class UnaryClientCall: ClientCall, @unchecked Sendable {
  @usableFromInline
  typealias Receive = (UnsafeRawBufferPointer) throws(RPCError) -> Void

  private let receive: Receive
  @exclusivity(unchecked) private var isAnswered = false
  @exclusivity(unchecked) private var continuation: UnsafeContinuation<Void, any Error>?
  /// How it ended, if that came before anybody waited.
  private var ending: Result<Metadata, RPCError>?

  /// - Parameter receive: Takes the response.
  @usableFromInline
  init(receive: @escaping Receive) {
    self.receive = receive
  }

  /// Resumes the continuation when the call has ended, or at once if it has. On the loop.
  func wait(_ continuation: UnsafeContinuation<Void, any Error>) {
    self.continuation = continuation
    if let ending = self.ending { self.ended(ending) }
  }

  @usableFromInline func initialMetadataReceived(_ metadata: Metadata) {}

  @usableFromInline
  func messageReceived(
    _ bytes: UnsafeRawBufferPointer, isCompressed: Bool
  ) throws(RPCError) -> Bool {
    guard !self.isAnswered else { throw Self.tooManyResponses }
    try self.receive(bytes)
    self.isAnswered = true
    return true
  }

  @usableFromInline
  func ended(_ result: Result<Metadata, RPCError>) {
    guard let continuation = self.continuation else {
      // A task that was cancelled before it made the call.
      self.ending = result
      return
    }
    self.continuation = nil
    switch result {
    case .failure(let error): continuation.resume(throwing: error)
    case .success where self.isAnswered: continuation.resume()
    case .success:
      continuation.resume(
        throwing: RPCError(.unimplemented, "a unary call was answered OK with no response"))
    }
  }

  private static let tooManyResponses = RPCError(
    .unimplemented, "a unary call was answered with more than one response")
}

/// A call whose responses are read one by one.
@usableFromInline
final class StreamingClientCall: ClientCall, @unchecked Sendable {
  private struct State {
    var initial: Metadata?
    var trailing: Metadata?
    var ending: RPCError?
    var isEnded = false
    var waiters: [(id: Int, continuation: UnsafeContinuation<Metadata, any Error>)] = []
    var nextWaiter = 0
  }

  /// Takes a response, and whether it came compressed; false when the reader is behind.
  @usableFromInline
  typealias Receive = (UnsafeRawBufferPointer, Bool) throws(RPCError) -> Bool

  private let receive: Receive
  private let end: (Result<Void, RPCError>) -> Void
  private let state = Mutex(State())

  @usableFromInline
  init(receive: @escaping Receive, end: @escaping (Result<Void, RPCError>) -> Void) {
    self.receive = receive
    self.end = end
  }

  @usableFromInline
  func initialMetadataReceived(_ metadata: Metadata) {
    let waiters = self.state.withLock { state in
      state.initial = metadata
      defer { state.waiters = [] }
      return state.waiters
    }
    for waiter in waiters { waiter.continuation.resume(returning: metadata) }
  }

  @usableFromInline
  func messageReceived(
    _ bytes: UnsafeRawBufferPointer, isCompressed: Bool
  ) throws(RPCError) -> Bool {
    try self.receive(bytes, isCompressed)
  }

  @usableFromInline
  func ended(_ result: Result<Metadata, RPCError>) {
    let waiters = self.state.withLock { state in
      state.isEnded = true
      switch result {
      case .success(let trailing): state.trailing = trailing
      case .failure(let error):
        state.trailing = error.metadata
        state.ending = error
      }
      defer { state.waiters = [] }
      return state.waiters
    }
    for waiter in waiters {
      switch result {
      case .success: waiter.continuation.resume(returning: Metadata())
      case .failure(let error): waiter.continuation.resume(throwing: error)
      }
    }
    self.end(result.map { _ in () })
  }

  var trailingMetadata: Metadata? { self.state.withLock { $0.trailing } }

  func initialMetadata() async throws -> Metadata {
    let id = self.state.withLock { state in
      state.nextWaiter += 1
      return state.nextWaiter
    }
    return try await withTaskCancellationHandler {
      try await withUnsafeThrowingContinuation { continuation in
        let known: Result<Metadata, any Error>? = self.state.withLock { state in
          if let initial = state.initial { return .success(initial) }
          if let ending = state.ending { return .failure(ending) }
          if state.isEnded { return .success(Metadata()) }
          if Task.isCancelled { return .failure(Self.cancelled) }
          state.waiters.append((id, continuation))
          return nil
        }
        if let known { continuation.resume(with: known) }
        // Cancelled between the check and the append: the handler found nothing to resume.
        if known == nil, Task.isCancelled { self.cancelWaiter(id) }
      }
    } onCancel: {
      self.cancelWaiter(id)
    }
  }

  private func cancelWaiter(_ id: Int) {
    let waiter = self.state.withLock { state in
      state.waiters.firstIndex { $0.id == id }.map { state.waiters.remove(at: $0) }
    }
    waiter?.continuation.resume(throwing: Self.cancelled)
  }

  private static var cancelled: RPCError {
    RPCError(.cancelled, "the task that waited for the initial metadata was cancelled")
  }
}

/// Keeps a call alive, and its channel: when the last one who could read it lets go, the call is
/// cancelled.
@usableFromInline
final class CallHandle: Sendable {
  @usableFromInline let stream: ClientStream
  private let channel: RPCChannel

  @usableFromInline
  init(_ stream: ClientStream, of channel: RPCChannel) {
    self.stream = stream
    self.channel = channel
  }

  func cancel() {
    let stream = self.stream
    stream.executor.execute {
      stream.cancel(RPCError(.cancelled, "the call was cancelled"))
    }
  }

  deinit {
    let stream = self.stream
    stream.executor.execute {
      stream.cancel(RPCError(.cancelled, "nobody reads the call's responses any more"))
    }
  }
}

/// The responses of one call, in the order they were sent. Read by one task.
///
/// Ends after the server's OK; throws ``RPCCore/RPCError`` for any other status. What is not read
/// holds the server back. The call is cancelled when this and everything that was made of it is
/// let go.
public struct ResponseStream<Message: RPCMessage>: AsyncSequence, Sendable {
  @usableFromInline let queue: MessageQueue<Message>
  @usableFromInline let call: StreamingClientCall
  @usableFromInline let handle: CallHandle

  @inlinable
  init(queue: MessageQueue<Message>, call: StreamingClientCall, handle: CallHandle) {
    self.queue = queue
    self.call = call
    self.handle = handle
  }

  /// Reads the responses.
  public struct AsyncIterator: AsyncIteratorProtocol {
    @usableFromInline let queue: MessageQueue<Message>
    @usableFromInline let handle: CallHandle
    @usableFromInline var lastWasCompressed = false

    /// Whether the message that ``next()`` returned last had come compressed.
    public var wasCompressed: Bool { self.lastWasCompressed }

    @inlinable
    init(queue: MessageQueue<Message>, handle: CallHandle) {
      self.queue = queue
      self.handle = handle
    }

    /// The next response; nil after the server's OK.
    ///
    /// - Throws: ``RPCCore/RPCError``: the call's status.
    @inlinable
    public mutating func next() async throws -> Message? {
      guard let next = try await self.queue.next() else { return nil }
      self.lastWasCompressed = next.isCompressed
      return next.message
    }
  }

  /// Reads from where the last reader stopped: each response comes once.
  @inlinable
  public func makeAsyncIterator() -> AsyncIterator {
    AsyncIterator(queue: self.queue, handle: self.handle)
  }

  /// Ends the call; reading it throws `cancelled`.
  public func cancel() {
    self.handle.cancel()
  }

  /// What the server sent before its first response. Suspends until it is there; empty if the call
  /// ended well without any. Throws the call's status if it failed before.
  public var initialMetadata: Metadata {
    get async throws { try await self.call.initialMetadata() }
  }

  /// What the server sent with its status; nil until then.
  public var trailingMetadata: Metadata? { self.call.trailingMetadata }
}

/// A call with a stream of requests and one response.
public final class ClientStreamingCall<Request: RPCMessage, Response: RPCMessage>: Sendable {
  @usableFromInline let responses: ResponseStream<Response>

  @inlinable
  init(responses: ResponseStream<Response>) {
    self.responses = responses
  }

  /// Sends a request. Suspends while the server does not read.
  ///
  /// - Parameter compressed: Whether the call's compression is used, if it has one.
  /// - Throws: ``RPCCore/RPCError``: the call's status, if the server has ended it.
  @inlinable
  public func send(_ request: Request, compressed: Bool = true) async throws {
    let stream = self.responses.handle.stream
    try await stream.writer.send(request, on: stream, compressed: compressed)
  }

  /// Ends the requests and waits for the response, once.
  ///
  /// - Throws: ``RPCCore/RPCError``: the call's status.
  public func finish() async throws -> Response {
    guard self.responses.handle.stream.finishSending() else {
      throw RPCError(.failedPrecondition, "finish() was called before, and has the call's response")
    }
    var iterator = self.responses.makeAsyncIterator()
    guard let response = try await iterator.next() else {
      throw RPCError(.unimplemented, "the call was answered OK with no response")
    }
    // The status comes behind the response, and may be an error.
    while try await iterator.next() != nil {
      throw RPCError(.unimplemented, "the call was answered with more than one response")
    }
    return response
  }

  /// What the server sent before its response. Suspends until it is there; empty if the call ended
  /// well without any. Throws the call's status if it failed before.
  public var initialMetadata: Metadata {
    get async throws { try await self.responses.initialMetadata }
  }

  /// What the server sent with its status; nil until then.
  public var trailingMetadata: Metadata? { self.responses.trailingMetadata }

  /// Ends the call without a response.
  public func cancel() {
    self.responses.cancel()
  }
}

/// A call with streams both ways.
public final class BidirectionalCall<Request: RPCMessage, Response: RPCMessage>: Sendable {
  /// What the server sends.
  public let responses: ResponseStream<Response>

  @inlinable
  init(responses: ResponseStream<Response>) {
    self.responses = responses
  }

  /// Sends a request. Suspends while the server does not read.
  ///
  /// - Parameter compressed: Whether the call's compression is used, if it has one.
  /// - Throws: ``RPCCore/RPCError``: the call's status, if the server has ended it.
  @inlinable
  public func send(_ request: Request, compressed: Bool = true) async throws {
    let stream = self.responses.handle.stream
    try await stream.writer.send(request, on: stream, compressed: compressed)
  }

  /// Ends the requests; responses go on.
  public func finishSending() async {
    _ = self.responses.handle.stream.finishSending()
  }

  /// Ends the call.
  public func cancel() {
    self.responses.cancel()
  }
}

extension ClientStream {
  /// ``endOutbound()`` from anywhere; false if it was called before.
  fileprivate func finishSending() -> Bool {
    guard self.writer.end() else { return false }
    self.executor.execute { self.endOutbound() }
    return true
  }
}
