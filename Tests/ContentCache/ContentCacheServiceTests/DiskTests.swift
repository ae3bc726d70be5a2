import BuildProtos
import ContentCacheCore
import ContentCacheService
import Domain
import Glibc
import RPC
import Synchronization
import Testing

@Suite struct DiskTests {
  @Test func aDiskThatIsFullIsToldToTheCallerAndOnceToTheLog() async throws {
    try await withCache { cache in
      // What is written there finds no space.
      for name in ["a", "b"] { symlink("/dev/full", cache.storage.logs.path(of: name) + ".log") }
      for name in ["a", "b", "a"] {
        let error = await #expect(throws: RPCError.self) {
          _ = try await cache.append([(0, [1])], to: name)
        }
        #expect(error?.code == .resourceExhausted)
        #expect(error?.retryDelay == .seconds(30))
      }
      #expect(await failure { _ = try await cache.append([(7, [1])], to: "c") } == .outOfRange)
      let path = cache.storage.logs.path(of: "a") + ".log"
      #expect(cache.changes == [.failing("no space left on the device of \(path)")])
    }
  }

  @Test func blobsThatAreNotStoredAreTold() async throws {
    try await withCache { cache in
      let bytes = noise(10)
      // A folder where the blob belongs.
      mkdir(cache.storage.blobs.path(of: contentDigest(of: bytes)), 0o755)
      _ = try await cache.cas.batchUpdateBlobs(
        RemoteExecutionV2.BatchUpdateBlobsRequest(requests: [
          .init(digest: proto(contentDigest(of: bytes)), data: bytes)
        ]))
      _ = await failure { _ = try await cache.write(bytes, as: contentDigest(of: bytes)) }
      #expect(cache.changes.count == 1)
    }
  }

  @Test func aDiskIsShortOfRoomBelowItsReserve() async throws {
    try await withCache { cache in
      #expect(cache.storage.health.shortage(reserve: 1) == nil)
      let shortage = cache.storage.health.shortage(reserve: .max)
      #expect(shortage?.hasPrefix("the disk of \(cache.directory) is full: ") == true)
    }
  }
}

@Suite struct DiskHealthTests {
  private final class Heard: Sendable {
    let changes = Mutex<[DiskHealth.Change]>([])
  }

  private func health(_ quietTime: Duration) -> (DiskHealth, Heard) {
    let heard = Heard()
    let health = DiskHealth("/", quietTime: quietTime) { change in
      heard.changes.withLock { $0.append(change) }
    }
    return (health, heard)
  }

  @Test func eachChangeIsToldOnce() {
    let (health, heard) = self.health(.zero)
    health.wrote()
    for _ in 0..<2 { health.failed(LogStore.Failure.outOfSpace(path: "/a")) }
    for _ in 0..<2 { health.wrote() }
    health.failed(BlobStore.Failure.file(FileError("write", "/b", number: EIO)))
    #expect(
      heard.changes.withLock { $0 } == [
        .failing("no space left on the device of /a"), .well,
        .failing("cannot write /b: input/output error"),
      ])
  }

  @Test func aDiskThatFailsNowAndThenIsToldOnce() {
    let (health, heard) = self.health(.seconds(3_600))
    for _ in 0..<100 {
      health.failed(LogStore.Failure.outOfSpace(path: "/a"))
      health.wrote()
    }
    #expect(heard.changes.withLock { $0 }.count == 1)
  }

  @Test func whatCallersDoWrongIsNoFaultOfTheDisk() {
    let (health, heard) = self.health(.zero)
    health.failed(LogStore.Failure.tooManyLogs(limit: 1))
    health.failed(BlobStore.Failure.missing(.empty))
    health.failed(UploadStore.Failure.tooMany(limit: 1))
    health.failed(RPCError(.invalidArgument, "x"))
    health.failed(CancellationError())
    #expect(heard.changes.withLock { $0 }.isEmpty)
  }
}
