import BuildProtos
import Domain
import Glibc
import PluginKit
import RPC
import Synchronization
import Testing

@testable import PluginRunnerService

/// A log service in memory that can be told to fail.
final class MemoryLogs: LogsV1.LogService {
  struct State {
    var bytes: [UInt8] = []
    var sealed = false
    /// Streams that are cut after this many messages, one after the other.
    var cuts: [Int] = []
    var streams = 0
    var isFull = false
  }

  let state: Mutex<State>
  /// No call is answered.
  private let isAway: Bool

  init(cuts: [Int] = [], isAway: Bool = false, isFull: Bool = false) {
    self.state = Mutex(State(cuts: cuts, isFull: isFull))
    self.isAway = isAway
  }

  func appendLog(
    _ requests: RequestStream<LogsV1.AppendLogRequest>, context: ServerContext
  ) async throws -> LogsV1.AppendLogResponse {
    if self.isAway { throw RPCError(.unavailable, "away") }
    var left = self.state.withLock { state in
      state.streams += 1
      return state.cuts.isEmpty ? Int.max : state.cuts.removeFirst()
    }
    for try await request in requests {
      guard left > 0 else { throw RPCError(.unavailable, "cut") }
      left -= 1
      try self.state.withLock { state in
        if state.isFull {
          throw RPCError(
            .resourceExhausted, "no space left on the device of /disk", retryDelay: .seconds(30))
        }
        guard request.offset <= Int64(state.bytes.count) else {
          throw RPCError(.outOfRange, "a gap at \(request.offset)")
        }
        state.bytes += request.data.dropFirst(state.bytes.count - Int(request.offset))
        state.sealed = state.sealed || request.seal
      }
    }
    return LogsV1.AppendLogResponse(sizeBytes: self.state.withLock { Int64($0.bytes.count) })
  }

  func readLog(
    _ request: LogsV1.ReadLogRequest, responses: ResponseWriter<LogsV1.ReadLogResponse>,
    context: ServerContext
  ) async throws {}

  func getLog(
    _ request: LogsV1.GetLogRequest, context: ServerContext
  ) async throws -> LogsV1.GetLogResponse {
    if self.isAway { throw RPCError(.unavailable, "away") }
    return self.state.withLock {
      LogsV1.GetLogResponse(sizeBytes: Int64($0.bytes.count), sealed: $0.sealed)
    }
  }
}

@Suite struct LogTests {
  /// Carries `count` bytes through an appender into `logs`.
  func carry(
    _ count: Int, to logs: MemoryLogs, sealLimit: Duration = LogAppender.sealLimit
  ) async throws -> LogAppender.End {
    let server = RPCServer(services: [logs])
    let address = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    let channel = RPCChannel(to: address)
    let buffer = LogBuffer()
    let appender = LogAppender(
      client: LogsV1.LogClient(channel), name: "log", buffer: buffer, sealLimit: sealLimit)
    Threads.start("writer") {
      var written = 0
      while written < count {
        let part = min(50_000, count - written)
        buffer.append((0..<part).map { UInt8(truncatingIfNeeded: (written + $0) % 251) }[...])
        written += part
      }
      buffer.end()
    }
    let end = await appender.run()
    await channel.close()
    await server.shutdown(grace: .zero)
    return end
  }

  func isComplete(_ logs: MemoryLogs, _ count: Int) -> Bool {
    logs.state.withLock { state in
      state.sealed && state.bytes.count == count
        && state.bytes.indices.allSatisfy { state.bytes[$0] == UInt8($0 % 251) }
    }
  }

  @Test func anAttemptThatPrintsNothingHasNoLog() async throws {
    let logs = MemoryLogs()
    #expect(try await self.carry(0, to: logs) == LogAppender.End(bytes: 0))
    #expect(logs.state.withLock { $0.streams } == 0)
  }

  @Test(arguments: [1, 300_000, 10_000_000])
  func aLogArrivesCompleteAndSealed(count: Int) async throws {
    let logs = MemoryLogs()
    #expect(try await self.carry(count, to: logs) == LogAppender.End(bytes: Int64(count)))
    #expect(self.isComplete(logs, count))
  }

  @Test func lostStreamsAreTakenUpWhereTheyBroke() async throws {
    let logs = MemoryLogs(cuts: [0, 1, 3, 0, 7])
    #expect(try await self.carry(6_000_000, to: logs) == LogAppender.End(bytes: 6_000_000))
    #expect(self.isComplete(logs, 6_000_000))
    #expect(logs.state.withLock { $0.streams } > 5)
  }

  @Test func aFullBufferMakesTheWriterWait() async throws {
    let buffer = LogBuffer()
    let finished = Promise<Void>()
    let counter = Counter64()
    Threads.start("writer") {
      for _ in 0..<64 {
        buffer.append([UInt8](repeating: 1, count: 64 << 10)[...])
        counter.add(64 << 10)
      }
      buffer.end()
      finished.fulfil(())
    }
    var taken = 0
    while let chunk = await buffer.next() {
      taken += chunk.count
      // Never more ahead than the bound and one write.
      #expect(counter.value - taken <= LogBuffer.maximumBytes + (64 << 10))
    }
    await finished.value()
    #expect(taken == 64 * (64 << 10))
  }

  @Test(.timeLimit(.minutes(1))) func aCacheThatStaysAwayDoesNotKeepALogForEver() async throws {
    let logs = MemoryLogs(isAway: true)
    let end = try await self.carry(300_000, to: logs, sealLimit: .milliseconds(50))
    #expect(end.bytes == 0)
    #expect(end.problem?.contains("could not be saved") == true, "\(end.problem ?? "")")
  }

  @Test(.timeLimit(.minutes(1))) func aFullDiskIsToldOnceAndTheLogIsSavedWhenThereIsRoom()
    async throws
  {
    // More than a window: the stream has to be finished, and so is known to be refused.
    let count = 6_000_000
    let logs = MemoryLogs(isFull: true)
    let server = RPCServer(services: [logs])
    let channel = RPCChannel(to: try await server.listen(on: ListenAddress("127.0.0.1:0")))
    let buffer = LogBuffer()
    let told = Mutex<[String]>([])
    let isTold = Promise<Void>()
    let appender = LogAppender(
      client: LogsV1.LogClient(channel), name: "b/j/1", buffer: buffer,
      fullLimit: .milliseconds(50),
      refused: { why in
        told.withLock { $0.append(why) }
        isTold.fulfil(())
      })
    let appending = Task { await appender.run() }
    Threads.start("writer") {
      buffer.append((0..<count).map { UInt8($0 % 251) }[...])
    }
    await isTold.value()
    logs.state.withLock { $0.isFull = false }
    buffer.end()
    #expect(await appending.value == LogAppender.End(bytes: Int64(count)))
    #expect(
      told.withLock { $0 }
        == ["the log b/j/1 could not be saved: no space left on the device of /disk"])
    #expect(self.isComplete(logs, count))
    await channel.close()
    await server.shutdown(grace: .zero)
  }

  @Test(.timeLimit(.minutes(1))) func aLogThatHasEndedDoesNotWaitForAFullDiskForEver() async throws
  {
    let logs = MemoryLogs(isFull: true)
    let end = try await self.carry(300_000, to: logs, sealLimit: .milliseconds(50))
    #expect(end.problem == "the log log could not be saved: no space left on the device of /disk")
  }

  @Test func whatAFullCacheLacksIsSaidInTheLog() async {
    let buffer = LogBuffer(stopPatience: .zero)
    buffer.stepBegan()
    buffer.append([UInt8](repeating: 1, count: LogBuffer.maximumBytes)[...])
    buffer.isRefused(because: "the content-cache's disk was full")
    buffer.stepStopped()
    buffer.append([1, 2, 3])
    buffer.stepEnded()
    buffer.end()
    var text: [UInt8] = []
    while let chunk = await buffer.next() { text += chunk }
    #expect(
      String(decoding: text.suffix(110), as: UTF8.self).contains(
        "[3 bytes of output are missing here: the content-cache's disk was full when the step"))
  }

  @Test(.timeLimit(.minutes(1))) func aStepThatIsToEndDoesNotWaitForACacheThatIsAway() async throws
  {
    let buffer = LogBuffer(stopPatience: .milliseconds(1))
    let (full, finished) = (Promise<Void>(), Promise<Void>())
    buffer.stepBegan()
    Threads.start("writer") {
      for _ in 0..<16 { buffer.append([UInt8](repeating: 1, count: 64 << 10)[...]) }
      full.fulfil(())
      for _ in 0..<4 { buffer.append([UInt8](repeating: 2, count: 64 << 10)[...]) }
      finished.fulfil(())
    }
    await full.value()
    buffer.stepStopped()
    await finished.value()
    #expect(buffer.size == 16 * (64 << 10))
    #expect(buffer.droppedBytes == 4 * (64 << 10))
    buffer.stepEnded()
    buffer.end()
    var text: [UInt8] = []
    while let chunk = await buffer.next() { text += chunk }
    #expect(text.count == Int(buffer.size))
    #expect(
      String(decoding: text.suffix(110), as: UTF8.self)
        .contains("\n[262144 bytes of output are missing here: the content-cache was away"))
  }

  @Test func aSlowCacheGetsAllThatAStoppedStepSays() async {
    let buffer = LogBuffer(stopPatience: .seconds(60))
    buffer.stepBegan()
    buffer.stepStopped()
    Threads.start("writer") {
      for _ in 0..<64 { buffer.append([UInt8](repeating: 1, count: 64 << 10)[...]) }
      buffer.stepEnded()
      buffer.end()
    }
    var taken = 0
    while let chunk = await buffer.next() { taken += chunk.count }
    #expect(taken == 64 * (64 << 10))
    #expect(buffer.droppedBytes == 0)
  }

  @Test func anAbandonedBufferLetsStepsEnd() async {
    let buffer = LogBuffer()
    let finished = Promise<Void>()
    Threads.start("writer") {
      for _ in 0..<100 { buffer.append([UInt8](repeating: 1, count: 64 << 10)[...]) }
      finished.fulfil(())
    }
    buffer.abandon()
    await finished.value()
    #expect(buffer.size == 100 * (64 << 10))
  }
}

/// A number that two threads share.
final class Counter64: Sendable {
  private let number = Atomic<Int>(0)

  var value: Int { self.number.load(ordering: .sequentiallyConsistent) }

  func add(_ count: Int) { self.number.add(count, ordering: .sequentiallyConsistent) }
}
