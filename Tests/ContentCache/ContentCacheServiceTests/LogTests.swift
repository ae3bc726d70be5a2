import BuildProtos
import ContentCacheCore
import ContentCacheService
import Domain
import RPC
import Testing

@Suite struct Logs {
  @Test func aLogThatWasSealedIsABlob() async throws {
    try await withCache { cache in
      let bytes = noise(200_000)
      let response = try await cache.append(
        [(0, Array(bytes[..<70_000])), (70_000, Array(bytes[70_000...]))], to: "b/j/1",
        seal: true)
      #expect(response.sizeBytes == 200_000)
      #expect(response.digest?.hash == contentDigest(of: bytes).hash)
      #expect(try await cache.read(contentDigest(of: bytes)) == bytes)
      let log = try await cache.readLog("b/j/1")
      #expect(log.bytes == bytes)
      #expect(log.complete)
      let status = try await cache.logs.getLog(LogsV1.GetLogRequest(name: "b/j/1"))
      #expect(status.sealed)
      #expect(status.digest == response.digest)
    }
  }

  @Test func severalFollowersSeeEveryByteOfALogThatBeginsAfterThem() async throws {
    try await withCache { cache in
      let bytes = noise(1_000_000)
      try await withThrowingTaskGroup(of: [UInt8].self) { group in
        for _ in 0..<4 {
          group.addTask { try await cache.readLog("live", follow: true).bytes }
        }
        let call = try await cache.logs.appendLog()
        for start in stride(from: 0, to: bytes.count, by: 10_000) {
          try await call.send(
            LogsV1.AppendLogRequest(
              name: start == 0 ? "live" : "", offset: Int64(start),
              data: Array(bytes[start..<start + 10_000])))
        }
        try await call.send(LogsV1.AppendLogRequest(offset: 1_000_000, seal: true))
        _ = try await call.finish()
        for try await seen in group { #expect(seen == bytes) }
      }
    }
  }

  @Test func aFollowerGetsWhatIsThereBeforeMoreComes() async throws {
    try await withCache { cache in
      _ = try await cache.append([(0, Array("one".utf8))], to: "log")
      var follower = try await cache.logs.readLog(
        LogsV1.ReadLogRequest(name: "log", follow: true)
      ).makeAsyncIterator()
      #expect(try await follower.next()?.data == Array("one".utf8))
      _ = try await cache.append([(3, Array("two".utf8))], to: "log", seal: true)
      #expect(try await follower.next()?.data == Array("two".utf8))
      #expect(try await follower.next()?.complete == true)
    }
  }

  @Test func whatWasSentTwiceIsWrittenOnce() async throws {
    try await withCache { cache in
      _ = try await cache.append([(0, Array("hello ".utf8))], to: "log")
      let response = try await cache.append([(0, Array("hello world".utf8))], to: "log")
      #expect(response.sizeBytes == 11)
      #expect(try await cache.readLog("log").bytes == Array("hello world".utf8))
      #expect(try await cache.readLog("log").complete == false)
    }
  }

  @Test func aGapIsRefused() async throws {
    try await withCache { cache in
      #expect(
        await failure { _ = try await cache.append([(1, [1])], to: "log") } == .outOfRange)
      #expect(
        await failure { _ = try await cache.logs.getLog(LogsV1.GetLogRequest(name: "log")) }
          == .notFound)
    }
  }

  @Test func aSealedLogTakesRepetitionsOnly() async throws {
    try await withCache { cache in
      let first = try await cache.append([(0, [1, 2])], to: "log", seal: true)
      let again = try await cache.append([(0, [1, 2])], to: "log", seal: true)
      #expect(first == again)
      #expect(
        await failure { _ = try await cache.append([(2, [3])], to: "log") }
          == .failedPrecondition)
    }
  }

  @Test func aLogWithoutBytesCanBeSealed() async throws {
    try await withCache { cache in
      let response = try await cache.append([(0, [])], to: "log", seal: true)
      #expect(response.digest?.hash == Domain.Digest.empty.hash)
      let log = try await cache.readLog("log", follow: true)
      #expect(log.bytes == [])
      #expect(log.complete)
    }
  }

  @Test func afterARestartALogGoesOnWhereItsFileEnds() async throws {
    let first = try await TestCache()
    let bytes = noise(150_000)
    _ = try await first.append([(0, Array(bytes[..<90_000]))], to: "open")
    _ = try await first.append([(0, [7])], to: "sealed", seal: true)
    await first.stop()
    let second = try await TestCache(in: first.directory)
    #expect(
      try await second.logs.getLog(LogsV1.GetLogRequest(name: "open")).sizeBytes == 90_000)
    let response = try await second.append(
      [(90_000, Array(bytes[90_000...]))], to: "open", seal: true)
    #expect(response.digest?.hash == contentDigest(of: bytes).hash)
    let sealed = try await second.readLog("sealed")
    #expect(sealed.bytes == [7])
    #expect(sealed.complete)
    await second.stop()
    removeTree(first.directory)
  }

  @Test(arguments: ["../../../etc/passwd", "/etc/passwd", "a\0b", "..", "🦆/\n"])
  func aHostileNameStaysInTheLogs(name: String) async throws {
    try await withCache { cache in
      _ = try await cache.append([(0, [1])], to: name)
      #expect(try await cache.readLog(name).bytes == [1])
      let files = try Path.names(in: cache.directory + "/logs").flatMap {
        try Path.names(in: cache.directory + "/logs/" + $0)
      }
      #expect(files.count == 1)
      #expect(files.first?.count == 62 + ".log".count)
    }
  }

  @Test(arguments: ["", String(repeating: "a", count: 513)])
  func aNameHasAShortestAndALongestLength(name: String) async throws {
    try await withCache { cache in
      #expect(
        await failure { _ = try await cache.append([(0, [1])], to: name) } == .invalidArgument)
      #expect(await failure { _ = try await cache.readLog(name) } == .invalidArgument)
    }
  }

  @Test func drainingEndsFollowersSoThatTheyComeBack() async throws {
    try await withCache { cache in
      _ = try await cache.append([(0, [1])], to: "log")
      var follower = try await cache.logs.readLog(
        LogsV1.ReadLogRequest(name: "log", follow: true)
      ).makeAsyncIterator()
      _ = try await follower.next()
      cache.storage.logs.drain()
      do {
        _ = try await follower.next()
        Issue.record("the follower went on")
      } catch {
        #expect((error as? RPCError)?.code == .unavailable)
      }
    }
  }
}
