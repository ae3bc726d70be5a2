import NIOCore
import RPCCompression
import RPCCore
import RPCHTTP2
import Synchronization

/// What a writer writes to: a stream's outbound queue, on its loop.
protocol OutboundStream: AnyObject, Sendable {
  /// Appends bytes; nothing once the stream is over.
  func appendOutbound(_ bytes: UnsafeRawBufferPointer)
  /// Makes room for a message with its prefix and returns where it goes; nil once the stream is
  /// over.
  func reserveOutbound(_ count: Int) -> UnsafeMutableRawPointer?
  /// What was appended or reserved is complete.
  func outboundAppended()
  /// How messages are compressed that are to be. On any thread.
  var compression: Compression { get }
  /// The largest message that is sent. On any thread.
  var maximumMessageBytes: Int { get }
}

/// Sends messages on a stream from any executor, in order, and holds the sender back while the
/// peer does not read.
final class StreamWriter: Sendable {
  private struct State {
    /// Framed messages on their way to the loop.
    var queued: [UInt8] = []
    var transferIsDue = false
    /// Bytes in `queued` and in the stream's outbound queue.
    var pendingBytes = 0
    var waiters: [(id: Int, continuation: UnsafeContinuation<Void, any Error>)] = []
    var nextWaiter = 0
    var closed: RPCError?
    var sentMessages = 0
    var sentBytes = 0
  }

  /// Bytes that may wait to be sent before `send` suspends; it goes on at half of that.
  private static let highWaterBytes = 256 << 10

  private let executor: LoopExecutor
  private let state = Mutex(State())

  init(executor: LoopExecutor) {
    self.executor = executor
  }

  /// Messages that were sent, and their bytes with the prefixes.
  var sent: (messages: Int, bytes: Int) {
    self.state.withLock { ($0.sentMessages, $0.sentBytes) }
  }

  /// Sends a message. Suspends while too much waits to be sent.
  ///
  /// - Parameter compressed: Whether the stream's compression is used.
  /// - Throws: `RPCError` when the stream is over, or the message larger than may be sent.
  func send(
    _ message: some RPCMessage, on stream: some OutboundStream, compressed: Bool = true
  ) async throws {
    let isFull: Bool
    if self.executor.inEventLoop, !compressed || stream.compression == .identity {
      isFull = try self.sendOnLoop(message, stream)
    } else {
      isFull = try self.sendFramed(message, stream, compressed: compressed)
    }
    if isFull { try await self.waitForRoom() }
  }

  /// Moves messages that were sent off the loop into the stream's queue. On the loop.
  func transfer(to stream: some OutboundStream) {
    let bytes = self.state.withLock { state in
      state.transferIsDue = false
      let bytes = state.queued
      state.queued = []
      return bytes
    }
    guard !bytes.isEmpty else { return }
    bytes.withUnsafeBytes { stream.appendOutbound($0) }
    stream.outboundAppended()
  }

  /// The stream's queue has been read down. On the loop.
  func drained(remaining: Int) {
    let waiters = self.state.withLock { state in
      state.pendingBytes = remaining + state.queued.count
      guard state.pendingBytes <= Self.highWaterBytes / 2, !state.waiters.isEmpty else {
        return [(id: Int, continuation: UnsafeContinuation<Void, any Error>)]()
      }
      defer { state.waiters.removeAll() }
      return state.waiters
    }
    for waiter in waiters { waiter.continuation.resume() }
  }

  /// The stream is over: what is sent from now on, and who waits, gets this error.
  func close(_ error: RPCError) {
    let waiters = self.state.withLock { state in
      if state.closed == nil { state.closed = error }
      defer { state.waiters.removeAll() }
      return state.waiters
    }
    for waiter in waiters { waiter.continuation.resume(throwing: error) }
  }

  private func sendOnLoop(_ message: some RPCMessage, _ stream: some OutboundStream) throws -> Bool
  {
    // Messages that this sender sent from another executor come first.
    self.transfer(to: stream)
    if let closed = self.state.withLock({ $0.closed }) { throw closed }
    var count = 0
    let limit = stream.maximumMessageBytes
    try message.encode { size throws(RPCError) in
      guard size <= limit else { throw tooLarge(size, limit) }
      count = size + MessageDeframer.prefixBytes
      guard let target = stream.reserveOutbound(count) else {
        throw RPCError(.cancelled, "the stream is over")
      }
      writePrefix(size, to: target)
      return target + MessageDeframer.prefixBytes
    }
    let isFull = self.state.withLock { state in
      state.sentMessages += 1
      state.sentBytes += count
      state.pendingBytes += count
      return state.pendingBytes > Self.highWaterBytes
    }
    stream.outboundAppended()
    return isFull
  }

  /// Frames the message wherever the sender runs, and has the loop take it.
  private func sendFramed(
    _ message: some RPCMessage, _ stream: some OutboundStream, compressed: Bool
  ) throws -> Bool {
    let bytes = try frame(
      message, compressed ? stream.compression : .identity, limit: stream.maximumMessageBytes)
    let (transfer, isFull) = try self.state.withLock { state in
      if let closed = state.closed { throw closed }
      state.queued.append(contentsOf: bytes)
      state.sentMessages += 1
      state.sentBytes += bytes.count
      state.pendingBytes += bytes.count
      defer { state.transferIsDue = true }
      return (!state.transferIsDue, state.pendingBytes > Self.highWaterBytes)
    }
    if transfer { self.executor.eventLoop.execute { self.transfer(to: stream) } }
    return isFull
  }

  private func waitForRoom() async throws {
    let id = self.state.withLock { state in
      state.nextWaiter += 1
      return state.nextWaiter
    }
    try await withTaskCancellationHandler {
      try await withUnsafeThrowingContinuation { continuation in
        let outcome: Result<Void, any Error>? = self.state.withLock { state in
          if let closed = state.closed { return .failure(closed) }
          if state.pendingBytes <= Self.highWaterBytes / 2 { return .success(()) }
          if Task.isCancelled { return .failure(Self.cancelled) }
          state.waiters.append((id, continuation))
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
      state.waiters.firstIndex { $0.id == id }.map { state.waiters.remove(at: $0) }
    }
    waiter?.continuation.resume(throwing: Self.cancelled)
  }

  private static let cancelled = RPCError(.cancelled, "the sending task was cancelled")
}

/// A message with its flag and length before it.
func frame(
  _ message: some RPCMessage, _ compression: Compression, limit: Int
) throws(RPCError) -> [UInt8] {
  if compression != .identity {
    let plain = message.encoded()
    guard plain.count <= limit else { throw tooLarge(plain.count, limit) }
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

/// What a message that may not be sent fails with.
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
