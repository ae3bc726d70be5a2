import NIOCore
import RPCCore
import Synchronization

/// Messages that a peer sent and the application has not read yet: filled on the event loop,
/// emptied by one reader on any executor.
///
/// It holds as many bytes as ``bound`` before the stream's window stays shut, plus what the peer may
/// still send into the window.
final class MessageQueue<Message: Sendable>: Sendable {
  /// A message, and how it came.
  struct Received: Sendable {
    var message: Message
    var isCompressed: Bool
  }

  private struct State {
    var messages = CircularBuffer<(message: Received, bytes: Int)>()
    var heldBytes = 0
    var ending: Result<Void, RPCError>?
    var reader: UnsafeContinuation<Received?, any Error>?
    /// The loop has been told so, and wants to know when there is room again.
    var isFull = false
  }

  private let state = Mutex(State())
  private let bound: Int
  private let roomAgain: @Sendable () -> Void

  /// - Parameters:
  ///   - bound: Bytes of unread messages above which the window is not opened.
  ///   - roomAgain: Called, on any thread, when a full queue has been read down.
  init(bound: Int, roomAgain: @escaping @Sendable () -> Void) {
    self.bound = bound
    self.roomAgain = roomAgain
  }

  /// Adds a message; false when the queue is full, and `roomAgain` follows.
  func append(_ message: Message, bytes: Int, isCompressed: Bool = false) -> Bool {
    let message = Received(message: message, isCompressed: isCompressed)
    let (reader, hasRoom) = self.state.withLock { state in
      guard state.ending == nil else {
        return (UnsafeContinuation<Received?, any Error>?.none, true)
      }
      if let reader = state.reader {
        state.reader = nil
        return (reader, true)
      }
      state.messages.append((message, bytes))
      state.heldBytes += bytes
      // Full until it has been read down: the loop waits for that, not for the bound.
      if state.heldBytes > self.bound { state.isFull = true }
      return (nil, !state.isFull)
    }
    reader?.resume(returning: message)
    return hasRoom
  }

  /// Nothing follows. What is queued is still read, unless the end is a failure of the stream
  /// itself (`discarding`).
  func end(_ ending: Result<Void, RPCError>, discarding: Bool = false) {
    let reader = self.state.withLock { state in
      guard state.ending == nil else { return UnsafeContinuation<Received?, any Error>?.none }
      state.ending = ending
      if discarding { state.messages.removeAll() }
      defer { state.reader = nil }
      return state.reader
    }
    if let reader { self.resume(reader, ending) }
  }

  func next() async throws -> Received? {
    if let result = try self.take() { return result.message }
    return try await withTaskCancellationHandler {
      try await withUnsafeThrowingContinuation { continuation in
        self.read(continuation)
      }
    } onCancel: {
      let reader = self.state.withLock { state in
        defer { state.reader = nil }
        return state.reader
      }
      reader?.resume(throwing: RPCError(.cancelled, "the reading task was cancelled"))
    }
  }

  /// What can be said at once: a message, the end (a nil message), or nothing yet (nil).
  private func take() throws -> (message: Received?, Void)? {
    let (first, ending, opened) = self.state.withLock { state in
      guard let first = state.messages.popFirst() else {
        return ((message: Received, bytes: Int)?.none, state.ending, false)
      }
      state.heldBytes -= first.bytes
      let opened = state.isFull && state.heldBytes <= self.bound / 2
      if opened { state.isFull = false }
      return (first, nil, opened)
    }
    if opened { self.roomAgain() }
    if let first { return (first.message, ()) }
    guard let ending else { return nil }
    try ending.get()
    return (nil, ())
  }

  private func read(_ continuation: UnsafeContinuation<Received?, any Error>) {
    if Task.isCancelled {
      continuation.resume(throwing: RPCError(.cancelled, "the reading task was cancelled"))
      return
    }
    // A message or the end may have come since `take`.
    let isWaiting = self.state.withLock { state in
      guard state.messages.isEmpty, state.ending == nil else { return false }
      precondition(state.reader == nil, "a stream of messages is read by one task at a time")
      state.reader = continuation
      return true
    }
    guard !isWaiting else {
      // Cancelled between the check and the store: the handler found no reader to resume.
      if Task.isCancelled {
        let reader = self.state.withLock { state in
          defer { state.reader = nil }
          return state.reader
        }
        reader?.resume(throwing: RPCError(.cancelled, "the reading task was cancelled"))
      }
      return
    }
    do {
      continuation.resume(returning: try self.take()?.message)
    } catch {
      continuation.resume(throwing: error)
    }
  }

  private func resume(
    _ reader: UnsafeContinuation<Received?, any Error>, _ ending: Result<Void, RPCError>
  ) {
    switch ending {
    case .success: reader.resume(returning: nil)
    case .failure(let error): reader.resume(throwing: error)
    }
  }
}
