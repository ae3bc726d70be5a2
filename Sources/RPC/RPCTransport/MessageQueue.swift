import RPCCore
import Synchronization

/// Messages that a peer sent and the application has not read yet: filled on the event loop,
/// emptied by one reader on any executor.
///
/// It holds as many bytes as its bound, what keeping a message costs included, before
/// it wants no more. The reader takes all that has come at once, so that a message in a
/// run of them costs no lock. `@unchecked Sendable`: what is not in the mutex is the reader's, and
/// `isBeingRead` sees to it that there is one.
@usableFromInline
final class MessageQueue<Message: Sendable>: @unchecked Sendable {
  /// A message, and how it came.
  @usableFromInline
  struct Received: Sendable {
    @usableFromInline var message: Message
    @usableFromInline var isCompressed: Bool

    @inlinable
    init(message: Message, isCompressed: Bool) {
      self.message = message
      self.isCompressed = isCompressed
    }
  }

  @usableFromInline
  struct State {
    /// Optional, to be taken without being copied.
    @usableFromInline var messages: [Received?] = []
    /// Bytes in `messages` and in the reader's batch.
    @usableFromInline var heldBytes = 0
    @usableFromInline var batchBytes = 0
    @usableFromInline var ending: Result<Void, RPCError>?
    /// Waits for anything to come.
    @usableFromInline var reader: UnsafeContinuation<Void, any Error>?
    /// The loop has been told so, and wants to know when there is room again.
    @usableFromInline var isFull = false
    /// The loop counts what is held, and wants to know when it is not worth counting any more.
    @usableFromInline var isCounted = false

    @inlinable init() {}
  }

  /// Unread messages of one stream: enough to keep a reader busy between two turns of the loop.
  @usableFromInline
  static var defaultBound: Int { 256 << 10 }
  /// What a message takes beside its bytes: most of them are allocations of their own when decoded.
  @usableFromInline
  static var messageBytes: Int { MemoryLayout<Received?>.stride + 48 }
  /// Less than this is not worth counting.
  @usableFromInline
  static var smallestCount: Int { 16 << 10 }

  @usableFromInline let state = Mutex(State())
  @usableFromInline let bound: Int
  @usableFromInline let roomAgain: @Sendable () -> Void
  /// What the reader has taken, and how much of that it has returned.
  @exclusivity(unchecked) @usableFromInline var batch: [Received?] = []
  @exclusivity(unchecked) @usableFromInline var returned = 0
  @usableFromInline let isBeingRead = Atomic(false)

  /// - Parameters:
  ///   - bound: Bytes of unread messages above which the window is not opened.
  ///   - roomAgain: Called, on any thread, when a full queue has been read down, or one whose bytes
  ///     are counted.
  @inlinable
  init(bound: Int = defaultBound, roomAgain: @escaping @Sendable () -> Void) {
    self.bound = bound
    self.roomAgain = roomAgain
  }

  /// Adds a message; false when the queue is full, and `roomAgain` follows.
  @inlinable
  func append(_ message: consuming Message, bytes: Int, isCompressed: Bool = false) -> Bool {
    var message: Received? = Received(message: message, isCompressed: isCompressed)
    let (reader, hasRoom) = self.state.withLock { state in
      guard state.ending == nil else { return (UnsafeContinuation<Void, any Error>?.none, true) }
      state.messages.append(message.take())
      state.heldBytes += bytes + Self.messageBytes
      // Full until it has been read down: the loop waits for that, not for the bound.
      if state.heldBytes > self.bound { state.isFull = true }
      defer { state.reader = nil }
      return (state.reader, !state.isFull)
    }
    reader?.resume()
    return hasRoom
  }

  /// What it holds, if that is worth counting: then `roomAgain` follows when it is not any more.
  @usableFromInline
  func countedBytes() -> Int {
    self.state.withLock { state in
      state.isCounted = state.heldBytes > Self.smallestCount
      return state.isCounted ? state.heldBytes : 0
    }
  }

  /// Nothing follows. What is queued is still read, unless the end is a failure of the stream
  /// itself (`discarding`).
  @usableFromInline
  func end(_ ending: Result<Void, RPCError>, discarding: Bool = false) {
    let reader = self.state.withLock { state in
      guard state.ending == nil else { return UnsafeContinuation<Void, any Error>?.none }
      state.ending = ending
      if discarding { state.messages = [] }
      defer { state.reader = nil }
      return state.reader
    }
    reader?.resume()
  }

  /// The next message; nil after the last.
  ///
  /// - Throws: `failedPrecondition` for whoever asks while another waits; how the stream failed.
  @inlinable
  func next() async throws -> Received? {
    guard !self.isBeingRead.exchange(true, ordering: .acquiring) else { throw twoReaders }
    defer { self.isBeingRead.store(false, ordering: .releasing) }
    if let message = self.takeNext() { return message }
    while try !self.takeBatch() { try await self.wait() }
    return self.takeNext()
  }

  @inlinable
  func takeNext() -> Received? {
    guard self.returned < self.batch.count else { return nil }
    defer { self.returned += 1 }
    return self.batch[self.returned].take()
  }

  /// Takes all that has come: true if that is something, or the end.
  @inlinable
  func takeBatch() throws -> Bool {
    self.batch.removeAll(keepingCapacity: true)
    self.returned = 0
    let (ending, opened) = self.state.withLock { state in
      state.heldBytes -= state.batchBytes
      state.batchBytes = state.heldBytes
      swap(&state.messages, &self.batch)
      let opened = state.isFull && state.heldBytes <= self.bound / 2
      if opened { state.isFull = false }
      let isSmall = state.isCounted && state.heldBytes <= Self.smallestCount
      if isSmall { state.isCounted = false }
      return (state.ending, opened || isSmall)
    }
    if opened { self.roomAgain() }
    if !self.batch.isEmpty { return true }
    guard let ending else { return false }
    try ending.get()
    return true
  }

  /// Returns when something may have come.
  @usableFromInline
  func wait() async throws {
    try await withTaskCancellationHandler {
      try await withUnsafeThrowingContinuation {
        (continuation: UnsafeContinuation<Void, any Error>) in
        if Task.isCancelled {
          continuation.resume(throwing: Self.cancelled)
          return
        }
        let isWaiting = self.state.withLock { state in
          guard state.messages.isEmpty, state.ending == nil else { return false }
          state.reader = continuation
          return true
        }
        if !isWaiting {
          continuation.resume()
        } else if Task.isCancelled {
          // Cancelled between the check and the store: the handler found no reader to resume.
          self.cancelReader()
        }
      }
    } onCancel: {
      self.cancelReader()
    }
  }

  private func cancelReader() {
    let reader = self.state.withLock { state in
      defer { state.reader = nil }
      return state.reader
    }
    reader?.resume(throwing: Self.cancelled)
  }

  private static var cancelled: RPCError {
    RPCError(.cancelled, "the reading task was cancelled")
  }
}

@usableFromInline
let twoReaders = RPCError(.failedPrecondition, "a stream of messages is read by one task at a time")
