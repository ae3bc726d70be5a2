import ContentCacheCore
import Domain
import Testing

private let digest = Digest(hash: String(repeating: "0", count: 64), size: 10)

@Suite struct Uploads {
  @Test func anUploadInOneChunkIsFinished() throws {
    var upload = Upload(digest, now: .zero)
    let writer = upload.writerOpened()
    let effect = try upload.chunkReceived(by: writer, offset: 0, count: 10, finish: true)
    #expect(effect == .finish(skipping: 0))
  }

  @Test func theEndMayComeWithoutData() throws {
    var upload = Upload(digest, now: .zero)
    let writer = upload.writerOpened()
    _ = try upload.chunkReceived(by: writer, offset: 0, count: 10, finish: false)
    upload.stored(10)
    let effect = try upload.chunkReceived(by: writer, offset: 10, count: 0, finish: true)
    #expect(effect == .finish(skipping: 0))
  }

  @Test func anotherStreamGoesOnWhereTheFirstOneStopped() throws {
    var upload = Upload(digest, now: .zero)
    let first = upload.writerOpened()
    let effect = try upload.chunkReceived(by: first, offset: 0, count: 4, finish: false)
    #expect(effect == .store(skipping: 0))
    upload.stored(4)
    upload.writerClosed(first, now: .seconds(5))
    #expect(upload.idleSince == .seconds(5))
    let second = upload.writerOpened()
    #expect(upload.idleSince == nil)
    let resumed = try upload.chunkReceived(by: second, offset: 4, count: 6, finish: true)
    #expect(resumed == .finish(skipping: 0))
  }

  @Test func bytesThatAreThereAreSkipped() throws {
    var upload = Upload(digest, now: .zero)
    let writer = upload.writerOpened()
    _ = try upload.chunkReceived(by: writer, offset: 0, count: 4, finish: false)
    upload.stored(4)
    let effect = try upload.chunkReceived(by: writer, offset: 2, count: 8, finish: true)
    #expect(effect == .finish(skipping: 2))
  }

  @Test func aChunkThatLeavesAGapIsRefused() {
    var upload = Upload(digest, now: .zero)
    let writer = upload.writerOpened()
    #expect(throws: Upload.Refusal.gap(offset: 3, committed: 0)) {
      try upload.chunkReceived(by: writer, offset: 3, count: 1, finish: false)
    }
  }

  @Test(arguments: [(Int64(0), 11), (Int64(-1), 1)])
  func aChunkOutsideTheBlobIsRefused(offset: Int64, count: Int) {
    var upload = Upload(digest, now: .zero)
    let writer = upload.writerOpened()
    #expect(throws: Upload.Refusal.self) {
      try upload.chunkReceived(by: writer, offset: offset, count: count, finish: false)
    }
  }

  @Test func anEndBeforeTheSizeIsRefused() {
    var upload = Upload(digest, now: .zero)
    let writer = upload.writerOpened()
    #expect(throws: Upload.Refusal.tooShort(end: 9, size: 10)) {
      try upload.chunkReceived(by: writer, offset: 0, count: 9, finish: true)
    }
  }

  @Test func aNewerStreamTakesOverFromOneThatStillLives() throws {
    var upload = Upload(digest, now: .zero)
    let first = upload.writerOpened()
    let second = upload.writerOpened()
    #expect(throws: Upload.Refusal.superseded) {
      try upload.chunkReceived(by: first, offset: 0, count: 1, finish: false)
    }
    upload.writerClosed(first, now: .seconds(1))
    #expect(upload.idleSince == nil)
    let effect = try upload.chunkReceived(by: second, offset: 0, count: 1, finish: false)
    #expect(effect == .store(skipping: 0))
  }
}
