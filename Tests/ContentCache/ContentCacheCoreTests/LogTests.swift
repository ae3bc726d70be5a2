import ContentCacheCore
import Domain
import Testing

private let seal = Digest(hash: String(repeating: "0", count: 64), size: 10)

@Suite struct LogStreams {
  @Test func aChunkAtTheEndIsWritten() throws {
    let log = LogStream(size: 7, seal: nil, policy: Policy())
    #expect(try log.chunkReceived(offset: 7, count: 3) == .write(skipping: 0))
  }

  @Test func whatWasWrittenBeforeIsSkipped() throws {
    var log = LogStream(size: 0, seal: nil, policy: Policy())
    log.written(10)
    #expect(try log.chunkReceived(offset: 0, count: 10) == .ignore)
    #expect(try log.chunkReceived(offset: 4, count: 6) == .ignore)
    #expect(try log.chunkReceived(offset: 4, count: 9) == .write(skipping: 6))
  }

  @Test func aChunkThatLeavesAGapIsRefused() {
    let log = LogStream(size: 5, seal: nil, policy: Policy())
    #expect(throws: LogStream.Refusal.gap(offset: 6, size: 5)) {
      try log.chunkReceived(offset: 6, count: 1)
    }
  }

  @Test(arguments: [Int64.min, -1])
  func aNegativeOffsetIsRefused(offset: Int64) {
    let log = LogStream(size: 5, seal: nil, policy: Policy())
    #expect(throws: LogStream.Refusal.negativeOffset(offset)) {
      try log.chunkReceived(offset: offset, count: 1)
    }
  }

  @Test func aLogHasALargestSize() {
    var policy = Policy()
    policy.maximumBlobBytes = 8
    let log = LogStream(size: 5, seal: nil, policy: policy)
    #expect(throws: LogStream.Refusal.tooLong(end: 9, maximum: 8)) {
      try log.chunkReceived(offset: 5, count: 4)
    }
    #expect(throws: LogStream.Refusal.tooLong(end: .max, maximum: 8)) {
      try log.chunkReceived(offset: .max, count: 4)
    }
  }

  @Test func aSealedLogTakesOnlyRepetitions() throws {
    var log = LogStream(size: 10, seal: nil, policy: Policy())
    let first = log.sealReceived()
    #expect(first)
    let second = log.sealReceived()
    #expect(!second)
    log.sealed(seal)
    #expect(log.seal == seal)
    #expect(try log.chunkReceived(offset: 4, count: 6) == .ignore)
    #expect(throws: LogStream.Refusal.sealed(size: 10)) {
      try log.chunkReceived(offset: 10, count: 1)
    }
  }
}

@Suite struct LogReaders {
  func reader(
    offset: Int64 = 0, limit: Int64 = 0, follow: Bool = false
  ) throws -> LogReader {
    try LogReader(offset: offset, limit: limit, follow: follow, chunkBytes: 4)
  }

  @Test func aReaderGetsChunksUntilThePresentEnd() throws {
    var reader = try self.reader()
    let view = LogView(exists: true, size: 6, isSealed: false)
    #expect(try reader.next(view) == .read(offset: 0, count: 4))
    reader.sent(4)
    #expect(try reader.next(view) == .read(offset: 4, count: 2))
    reader.sent(2)
    #expect(try reader.next(view) == .finish(complete: false))
  }

  @Test func aFollowerWaitsForMoreAndForTheSeal() throws {
    var reader = try self.reader(follow: true)
    #expect(try reader.next(.absent) == .wait(beyond: 0))
    var view = LogView(exists: true, size: 3, isSealed: false)
    #expect(try reader.next(view) == .read(offset: 0, count: 3))
    reader.sent(3)
    #expect(try reader.next(view) == .wait(beyond: 3))
    view.isSealed = true
    #expect(try reader.next(view) == .finish(complete: true))
  }

  @Test func aFollowerMayStandBeforeWhatIsStillToCome() throws {
    let reader = try self.reader(offset: 9, follow: true)
    #expect(
      try reader.next(LogView(exists: true, size: 3, isSealed: false)) == .wait(beyond: 9))
    #expect(throws: LogReader.Refusal.beyondEnd(offset: 9, size: 3)) {
      try reader.next(LogView(exists: true, size: 3, isSealed: true))
    }
  }

  @Test func aLimitEndsAReader() throws {
    var reader = try self.reader(offset: 1, limit: 2, follow: true)
    let view = LogView(exists: true, size: 6, isSealed: true)
    #expect(try reader.next(view) == .read(offset: 1, count: 2))
    reader.sent(2)
    #expect(try reader.next(view) == .finish(complete: false))
  }

  @Test func aLimitBeyondEveryNumberIsNone() throws {
    let reader = try self.reader(offset: 1, limit: .max)
    #expect(
      try reader.next(LogView(exists: true, size: 3, isSealed: true))
        == .read(offset: 1, count: 2))
  }

  @Test func readingALogThatIsNotThereIsAMistake() throws {
    let reader = try self.reader()
    #expect(throws: LogReader.Refusal.absent) { try reader.next(.absent) }
  }

  @Test func negativeNumbersAreMistakes() {
    #expect(throws: LogReader.Refusal.negative("offset", -1)) { try self.reader(offset: -1) }
    #expect(throws: LogReader.Refusal.negative("limit", -1)) { try self.reader(limit: -1) }
  }
}
