import NIOCore
import RPCCompression
import RPCCore
import RPCHTTP2
import Synchronization

/// What a writer writes to: a stream's outbound queue, on its loop. It takes messages in parts, too,
/// and nothing once it is over.
@usableFromInline
protocol OutboundStream: MessageSink, Sendable {
  /// Makes room for a message with its prefix and returns where it goes; nil once the stream is
  /// over.
  func reserveOutbound(_ count: Int) -> UnsafeMutableRawPointer?
  /// What was appended or reserved is complete.
  func outboundAppended()
  /// What waits to be sent.
  var outboundBytes: Int { get }
  /// The largest message that is sent. On any thread.
  var maximumMessageBytes: Int { get }
}

/// Sends messages on a stream from any executor, in order, and holds the sender back while the
/// peer does not read.
///
/// A sender on the loop writes straight into the stream's queue, without a lock unless one from
/// elsewhere, a wait or the end is in the way (`isSimple`). `@unchecked Sendable`: what is neither
/// in the mutex nor atomic is the loop's.
@usableFromInline
final class StreamWriter: @unchecked Sendable {
  private typealias Waiter = (id: Int, continuation: UnsafeContinuation<Void, any Error>)

  private struct State {
    /// Framed messages on their way to the loop.
    var queued: [UInt8] = []
    var transferIsDue = false
    var waiters: [Waiter] = []
    var nextWaiter = 0
    var closed: RPCError?
    /// The application has said that nothing more comes.
    var hasEnded = false
    var sentMessages = 0
    var sentBytes = 0
  }

  /// Bytes that may wait to be sent before `send` suspends; it goes on at half of that. What a sender on the
  /// loop has written goes out when it waits: with much more, the peer would have nothing to do meanwhile.
  private static let highWaterBytes = 64 << 10

  private let executor: LoopExecutor
  private let fixedCompression: Compression
  /// A server's call, which may change its compression.
  private let context: ServerContext?
  private let state = Mutex(State())
  /// Nothing is queued, nobody waits, and the stream is open.
  private let isSimple = Atomic(true)
  /// Bytes in the stream's outbound queue.
  private let outboundBytes = Atomic(0)
  /// What was sent on the loop.
  @exclusivity(unchecked) private var sentOnLoop = (messages: 0, bytes: 0)

  init(
    executor: LoopExecutor, compression: Compression = .identity, context: ServerContext? = nil
  ) {
    self.executor = executor
    self.fixedCompression = compression
    self.context = context
  }

  /// How messages are compressed that are to be. On any thread, also when the stream is over.
  @usableFromInline
  var compression: Compression {
    guard let context = self.context else { return self.fixedCompression }
    return context.isPlain ? .identity : context.responseCompression
  }

  /// Messages that were sent, and their bytes without prefixes. On the loop.
  var sent: (messages: Int, bytes: Int) {
    let elsewhere = self.state.withLock { ($0.sentMessages, $0.sentBytes) }
    return (self.sentOnLoop.messages + elsewhere.0, self.sentOnLoop.bytes + elsewhere.1)
  }

  /// Sends a message. Suspends while too much waits to be sent.
  ///
  /// - Parameter compressed: Whether the stream's compression is used.
  /// - Throws: `RPCError` when the stream is over, or the message larger than may be sent.
  @inlinable
  func send<Message: RPCMessage>(
    _ message: Message, on stream: some OutboundStream, compressed: Bool = true
  ) async throws {
    let isFull: Bool
    if self.sendsOnLoop(compressed: compressed) {
      try self.prepare(stream)
      try message.encode(
        reserving: { size throws(RPCError) in try self.reserve(size, on: stream) },
        parting: { size throws(RPCError) in try self.part(size, on: stream) })
      isFull = self.appended(to: stream)
    } else {
      let bytes = try frame(
        message, compressed ? self.compression : .identity, limit: stream.maximumMessageBytes)
      isFull = try self.queue(bytes, for: stream)
    }
    if isFull { try await self.waitForRoom() }
  }

  @usableFromInline
  func sendsOnLoop(compressed: Bool) -> Bool {
    self.executor.inEventLoop && (!compressed || self.compression == .identity)
  }

  /// Sees to it that what was sent before from elsewhere comes first.
  @usableFromInline
  func prepare(_ stream: some OutboundStream) throws {
    guard !self.isSimple.load(ordering: .acquiring) else { return }
    self.transfer(to: stream)
    if let refusal = self.state.withLock({ Self.refusal($0) }) { throw refusal }
  }

  /// Where a message of that size goes, behind its prefix.
  @usableFromInline
  func reserve(
    _ size: Int, on stream: some OutboundStream
  ) throws(RPCError) -> UnsafeMutableRawPointer {
    try self.begin(size, room: size, on: stream)
  }

  /// What takes the parts of a message of that size.
  @usableFromInline
  func part(_ size: Int, on stream: some OutboundStream) throws(RPCError) -> any MessageSink {
    _ = try self.begin(size, room: 0, on: stream)
    return stream
  }

  /// - Parameter room: What is reserved of it behind its prefix.
  private func begin(
    _ size: Int, room: Int, on stream: some OutboundStream
  ) throws(RPCError) -> UnsafeMutableRawPointer {
    guard size <= stream.maximumMessageBytes else {
      throw tooLarge(size, stream.maximumMessageBytes)
    }
    guard let target = stream.reserveOutbound(room + MessageDeframer.prefixBytes) else {
      throw RPCError(.cancelled, "the stream is over")
    }
    writePrefix(size, to: target)
    self.sentOnLoop.messages += 1
    self.sentOnLoop.bytes += size
    return target + MessageDeframer.prefixBytes
  }

  /// The message is written. True if too much waits.
  @usableFromInline
  func appended(to stream: some OutboundStream) -> Bool {
    let bytes = stream.outboundBytes
    self.outboundBytes.store(bytes, ordering: .relaxed)
    stream.outboundAppended()
    return bytes > Self.highWaterBytes
  }

  /// Moves messages that were sent off the loop into the stream's queue. On the loop.
  func transfer(to stream: some OutboundStream) {
    guard !self.isSimple.load(ordering: .acquiring) else { return }
    let bytes = self.state.withLock { state in
      state.transferIsDue = false
      let bytes = state.queued
      state.queued = []
      self.update(state)
      return bytes
    }
    guard !bytes.isEmpty else { return }
    stream.take(bytes)
    self.outboundBytes.store(stream.outboundBytes, ordering: .relaxed)
    stream.outboundAppended()
  }

  /// The stream's queue has been read down. On the loop.
  func drained(remaining: Int) {
    // Either this sees that somebody waits, or who waits sees how little is left.
    self.outboundBytes.store(remaining, ordering: .sequentiallyConsistent)
    guard !self.isSimple.load(ordering: .sequentiallyConsistent) else { return }
    let waiters = self.state.withLock { state in
      guard remaining + state.queued.count <= Self.highWaterBytes / 2 else {
        return [Waiter]()
      }
      let waiters = state.waiters
      state.waiters = []
      self.update(state)
      return waiters
    }
    for waiter in waiters { waiter.continuation.resume() }
  }

  /// The stream is over: what is sent from now on, and who waits, gets this error.
  func close(_ error: RPCError) {
    let waiters = self.state.withLock { state in
      if state.closed == nil { state.closed = error }
      let waiters = state.waiters
      state.waiters = []
      self.update(state)
      return waiters
    }
    for waiter in waiters { waiter.continuation.resume(throwing: error) }
  }

  /// Has the loop take a message that was framed elsewhere.
  @usableFromInline
  func queue(_ bytes: [UInt8], for stream: some OutboundStream) throws -> Bool {
    let (transfer, isFull) = try self.state.withLock { state in
      if let refusal = Self.refusal(state) { throw refusal }
      if state.queued.isEmpty { state.queued = bytes } else { state.queued += bytes }
      state.sentMessages += 1
      state.sentBytes += bytes.count - MessageDeframer.prefixBytes
      self.update(state)
      let waiting = state.queued.count + self.outboundBytes.load(ordering: .relaxed)
      defer { state.transferIsDue = true }
      return (!state.transferIsDue, waiting > Self.highWaterBytes)
    }
    if transfer { self.executor.eventLoop.execute { self.transfer(to: stream) } }
    return isFull
  }

  /// Refuses what is sent from now on. What was sent before is on its way, and who waits behind that goes
  /// on.
  ///
  /// - Returns: False if that was said before.
  func end() -> Bool {
    let waiters = self.state.withLock { state -> [Waiter]? in
      guard !state.hasEnded else { return nil }
      state.hasEnded = true
      let waiters = state.waiters
      state.waiters = []
      self.update(state)
      return waiters
    }
    for waiter in waiters ?? [] { waiter.continuation.resume() }
    return waiters != nil
  }

  private static func refusal(_ state: State) -> RPCError? {
    guard state.hasEnded else { return state.closed }
    return RPCError(.failedPrecondition, "a message was sent behind the end of the requests")
  }

  /// Under the lock, after every change.
  private func update(_ state: State) {
    self.isSimple.store(
      state.queued.isEmpty && state.waiters.isEmpty && state.closed == nil && !state.hasEnded,
      ordering: .sequentiallyConsistent)
  }

  @usableFromInline
  func waitForRoom() async throws {
    let id = self.state.withLock { state in
      state.nextWaiter += 1
      return state.nextWaiter
    }
    try await withTaskCancellationHandler {
      try await withUnsafeThrowingContinuation { continuation in
        let outcome: Result<Void, any Error>? = self.state.withLock { state in
          if let closed = state.closed { return .failure(closed) }
          if Task.isCancelled { return .failure(Self.cancelled) }
          if state.hasEnded { return .success(()) }
          state.waiters.append((id, continuation))
          self.update(state)
          // Drained before the loop could know of the waiter.
          if self.outboundBytes.load(ordering: .sequentiallyConsistent) + state.queued.count
            <= Self.highWaterBytes / 2
          {
            state.waiters.removeLast()
            self.update(state)
            return .success(())
          }
          return nil
        }
        if let outcome { continuation.resume(with: outcome) }
        // Cancelled between the check and the append: the handler found nothing to resume.
        if outcome == nil, Task.isCancelled { self.cancelWaiter(id) }
      }
    } onCancel: {
      self.cancelWaiter(id)
    }
  }

  private func cancelWaiter(_ id: Int) {
    let waiter = self.state.withLock { state in
      let waiter = state.waiters.firstIndex { $0.id == id }.map { state.waiters.remove(at: $0) }
      self.update(state)
      return waiter
    }
    waiter?.continuation.resume(throwing: Self.cancelled)
  }

  private static let cancelled = RPCError(.cancelled, "the sending task was cancelled")
}

/// A message's encoding, if it is no larger than that.
@usableFromInline
func encoded(_ message: some RPCMessage, limit: Int) throws(RPCError) -> [UInt8] {
  var bytes: [UInt8] = []
  try message.encode { size throws(RPCError) in
    guard size <= limit else { throw tooLarge(size, limit) }
    bytes = [UInt8](unsafeUninitializedCapacity: max(size, 1)) { _, initialized in
      initialized = size
    }
    // The array is neither copied nor changed before `encode` returns: its storage stays.
    return bytes.withUnsafeMutableBytes { $0.baseAddress! }
  }
  return bytes
}

/// A message with its flag and length before it.
@usableFromInline
func frame(
  _ message: some RPCMessage, _ compression: Compression, limit: Int
) throws(RPCError) -> [UInt8] {
  if compression != .identity {
    let plain = try encoded(message, limit: limit)
    let small = plain.withUnsafeBytes { MessageCodec.compress($0, compression) }
    return [1] + withUnsafeBytes(of: UInt32(small.count).bigEndian) { Array($0) } + small
  }
  var bytes: [UInt8] = []
  try message.encode { size throws(RPCError) in
    guard size <= limit else { throw tooLarge(size, limit) }
    let count = size + MessageDeframer.prefixBytes
    bytes = [UInt8](unsafeUninitializedCapacity: count) { _, initialized in initialized = count }
    // The array is neither copied nor changed before `encode` returns: its storage stays.
    return bytes.withUnsafeMutableBytes { buffer in
      writePrefix(size, to: buffer.baseAddress!)
      return buffer.baseAddress! + MessageDeframer.prefixBytes
    }
  }
  return bytes
}

/// The flag and the size, most significant byte first.
func writePrefix(_ size: Int, isCompressed: Bool = false, to target: UnsafeMutableRawPointer) {
  target.storeBytes(of: isCompressed ? 1 : 0, as: UInt8.self)
  target.storeBytes(of: UInt32(size).bigEndian, toByteOffset: 1, as: UInt32.self)
}

/// No encoding of protobuf is larger: <https://protobuf.dev/programming-guides/encoding>.
let largestMessageBytes = Int(Int32.max)

/// What a message that may not be sent fails with.
@usableFromInline
func tooLarge(_ size: Int, _ limit: Int) -> RPCError {
  RPCError(.resourceExhausted, "a message of \(size) bytes is larger than the limit of \(limit)")
}

/// A message that came, whole again if it was compressed.
///
/// - Parameter limit: The largest message that is accepted, uncompressed.
func withPlainMessage<Result>(
  _ bytes: UnsafeRawBufferPointer, isCompressed: Bool, _ encoding: Compression, limit: Int,
  _ body: (UnsafeRawBufferPointer) -> Result
) throws(RPCError) -> Result {
  guard isCompressed else { return body(bytes) }
  guard encoding != .identity else {
    throw RPCError(
      .internalError, "a message is compressed, though grpc-encoding does not say how")
  }
  let plain: [UInt8]
  do throws(MessageCodec.Failure) {
    plain = try MessageCodec.decompress(bytes, encoding, limit: limit)
  } catch {
    switch error {
    case .malformed(let encoding):
      throw RPCError(.internalError, "a compressed message is no \(encoding.rawValue)")
    case .tooLarge(let limit):
      throw RPCError(
        .resourceExhausted, "a message is larger than the limit of \(limit) bytes uncompressed")
    }
  }
  return plain.withUnsafeBytes(body)
}
