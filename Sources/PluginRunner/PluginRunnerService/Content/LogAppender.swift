import BuildProtos
import RPC

/// Carries one attempt's log to the content-cache.
///
/// A stream takes a window of bytes and is finished to learn that they are durable; what is not
/// acknowledged is kept and sent again, from the offset the cache names, when a stream is lost.
struct LogAppender {
  /// Bytes sent and not acknowledged: kept in memory, so a bound on it.
  static let windowBytes = 4 << 20
  /// How long the rest of a log that has ended is tried while the cache is away: a restart's time,
  /// with room. Then the attempt ends without it, and says so.
  static let sealLimit = Duration.seconds(60)
  /// How long a cache whose disk is full is tried while steps run. It says so at once, and the step
  /// that waits for it may hold what would have to be freed: only what others free meanwhile helps.
  static let fullLimit = Duration.seconds(5)
  /// The same for a log that has ended: the attempt's workspace is removed meanwhile, which makes room.
  static let fullSealLimit = Duration.seconds(20)
  static let firstBackoff = Duration.milliseconds(50)
  static let maximumBackoff = Duration.seconds(2)

  let client: LogsV1.LogClient
  let name: String
  let buffer: LogBuffer
  var sealLimit = LogAppender.sealLimit
  var fullLimit = LogAppender.fullLimit
  /// Hears once, while the log goes on, that the cache has had no room for it for too long, and why.
  /// What is kept is tried on, in the hope of room once the attempt has ended.
  var refused: @Sendable (String) -> Void = { _ in }
  let clock = ContinuousClock()

  /// What became of the log.
  struct End: Sendable, Hashable {
    var bytes: Int64
    var problem: String?
  }

  private typealias Call = ClientStreamingCall<LogsV1.AppendLogRequest, LogsV1.AppendLogResponse>

  /// Takes everything out of the buffer to its end, then seals the log. Where nothing came there is
  /// no log either: a file, its seal and three waits for the disk would say as much.
  func run() async -> End {
    var window = Window()
    var call: Call?
    var ended = false
    var isRefused = false
    var fullSince: ContinuousClock.Instant?
    while !ended {
      if window.bytes < Self.windowBytes {
        if let chunk = await self.buffer.next() {
          window.chunks.append(chunk)
          window.bytes += chunk.count
        } else {
          ended = true
          if window.isUnused { break }
        }
      }
      let isFull = window.bytes >= Self.windowBytes
      var backoff = Self.firstBackoff
      var endedAt: ContinuousClock.Instant?
      var hasFailed = false
      while true {
        do {
          // A stream takes bytes before it is known whether anybody is there. Once one was lost,
          // nothing is sent, and no more taken from the buffer, until the cache has answered.
          if hasFailed { try await self.resume(&window) }
          // Once it was full, each chunk is asked for: a stream takes many before it says that it is.
          let closing = isFull || ended || fullSince != nil
          try await self.advance(&window, &call, closing: closing, sealing: ended)
          if closing { fullSince = nil }
          break
        } catch let error as Lost {
          return self.abandon(window, error.description)
        } catch {
          hasFailed = true
          call?.cancel()
          call = nil
          // While this goes on nothing is taken out, and only the buffer knows that it has ended.
          let now = self.clock.now
          if endedAt == nil, ended || self.buffer.hasEnded { endedAt = now }
          let isOutOfSpace = (error as? RPCError)?.isOutOfSpace == true
          fullSince = isOutOfSpace ? fullSince ?? now : nil
          if let problem = self.givesUp(error, isOutOfSpace, endedFor: endedAt.map { now - $0 }) {
            return self.abandon(window, problem)
          }
          if let since = fullSince, now - since > self.fullLimit, !isRefused {
            isRefused = true
            self.buffer.isRefused(because: "the content-cache's disk was full")
            self.refused(self.words(for: error))
          }
          // Cancellation is the runner's own end: no time is left for a cache that is away.
          guard (try? await Task.sleep(for: backoff)) != nil else {
            return self.abandon(window, "the runner ended before its log was saved")
          }
          backoff = min(backoff * 2, Self.maximumBackoff)
        }
      }
    }
    let missing = self.buffer.droppedBytes
    return End(
      bytes: window.acknowledged,
      problem: missing > 0
        ? "the log lacks \(missing) bytes: \(self.buffer.obstacle) when a step was stopped" : nil
    )
  }

  /// What is kept until the cache has it for good.
  private struct Window {
    /// Size of the log that is durable.
    var acknowledged: Int64 = 0
    var chunks: [[UInt8]] = []
    var bytes = 0
    /// Chunks that the open stream has.
    var sent = 0
    var sealed = false

    /// Nothing was taken out of the buffer yet.
    var isUnused: Bool { self.acknowledged == 0 && self.chunks.isEmpty }
  }

  /// The cache has less than it acknowledged.
  private struct Lost: Error, CustomStringConvertible {
    var description: String
  }

  /// Sends what the stream does not have yet; with `closing`, finishes it and lets go what it took.
  private func advance(
    _ window: inout Window, _ call: inout Call?, closing: Bool, sealing: Bool
  ) async throws {
    if window.sealed { return }
    let open: Call
    if let call {
      open = call
    } else {
      open = try await self.client.appendLog()
      call = open
      window.sent = 0
    }
    var offset = window.acknowledged
    for chunk in window.chunks.prefix(window.sent) { offset += Int64(chunk.count) }
    while window.sent < window.chunks.count {
      let chunk = window.chunks[window.sent]
      try await open.send(
        LogsV1.AppendLogRequest(name: self.name, offset: offset, data: chunk))
      offset += Int64(chunk.count)
      window.sent += 1
    }
    guard closing else { return }
    if sealing {
      try await open.send(LogsV1.AppendLogRequest(name: self.name, offset: offset, seal: true))
    }
    let answer = try await open.finish()
    call = nil
    guard answer.sizeBytes >= offset else {
      throw RPCError(.dataLoss, "the log \(self.name) has \(answer.sizeBytes) of \(offset) bytes")
    }
    window = Window(acknowledged: offset, sealed: sealing)
  }

  /// Asks the cache what it has, and forgets that much.
  private func resume(_ window: inout Window) async throws {
    var state = LogsV1.GetLogResponse()
    do {
      state = try await self.client.getLog(
        LogsV1.GetLogRequest(name: self.name), options: CallOptions(timeout: .seconds(5)))
    } catch let error as RPCError where error.code == .notFound {}
    guard state.sizeBytes >= window.acknowledged else {
      throw Lost(
        description: "the content-cache lost the log \(self.name): it has \(state.sizeBytes) of "
          + "\(window.acknowledged) bytes")
    }
    while let chunk = window.chunks.first,
      window.acknowledged + Int64(chunk.count) <= state.sizeBytes
    {
      window.acknowledged += Int64(chunk.count)
      window.bytes -= chunk.count
      window.chunks.removeFirst()
    }
    window.sent = 0
    window.sealed = state.sealed
  }

  /// Why another try is useless, or nil.
  private func givesUp(_ error: any Error, _ isFull: Bool, endedFor: Duration?) -> String? {
    let limit = isFull ? min(Self.fullSealLimit, self.sealLimit) : self.sealLimit
    if let endedFor, endedFor > limit { return self.words(for: error) }
    guard let refusal = error as? RPCError else { return nil }
    switch refusal.code {
    case .invalidArgument, .unimplemented, .permissionDenied, .unauthenticated:
      return self.words(for: error)
    default:
      return nil
    }
  }

  private func words(for error: any Error) -> String {
    let why = (error as? RPCError).flatMap { $0.isOutOfSpace ? $0.message : nil } ?? "\(error)"
    return "the log \(self.name) could not be saved: \(why)"
  }

  private func abandon(_ window: Window, _ problem: String) -> End {
    self.buffer.abandon()
    return End(bytes: window.acknowledged, problem: problem)
  }
}
