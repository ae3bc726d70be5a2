import BuildProtos
import ContentCacheCore
import ContentCacheService
import Domain
import Glibc
import RPC
import ServiceRuntime
import Testing

@Suite struct Blobs {
  @Test(arguments: [1, 1_000, 65_536, 65_537, 3_000_000])
  func aBlobIsReadAsItWasWritten(count: Int) async throws {
    try await withCache { cache in
      let bytes = noise(count)
      let digest = contentDigest(of: bytes)
      let committed = try await cache.write(bytes, as: digest)
      #expect(committed == Int64(count))
      #expect(try await cache.read(digest) == bytes)
      #expect(try Path.size(cache.storage.blobs.path(of: digest)) == Int64(count))
      #expect(try cache.temporaryFiles == [])
    }
  }

  @Test func partOfABlobCanBeRead() async throws {
    try await withCache { cache in
      let bytes = noise(500_000)
      let digest = contentDigest(of: bytes)
      _ = try await cache.write(bytes, as: digest)
      #expect(
        try await cache.read(digest, offset: 100, limit: 300_000) == Array(bytes[100..<300_100]))
      #expect(
        try await cache.read(digest, offset: 499_990, limit: .max) == Array(bytes[499_990...]))
      #expect(try await cache.read(digest, offset: 500_000) == [])
      #expect(await failure { _ = try await cache.read(digest, offset: 500_001) } == .outOfRange)
      #expect(
        await failure { _ = try await cache.read(digest, limit: -1) } == .invalidArgument)
    }
  }

  @Test(arguments: [1_000, 200_000])
  func bytesOfAnotherDigestAreRefusedAndLeaveNothing(count: Int) async throws {
    try await withCache { cache in
      var bytes = noise(count)
      let digest = contentDigest(of: bytes)
      bytes[count / 2] ^= 1
      #expect(
        await failure { _ = try await cache.write(bytes, as: digest) } == .invalidArgument)
      #expect(await failure { _ = try await cache.read(digest) } == .notFound)
      let left = try cache.temporaryFiles
      #expect(left == [])
      #expect(cache.storage.uploads.count == 0)
    }
  }

  @Test func anUploadThatIsLeftForTooLongLeavesNothing() async throws {
    var policy = Policy()
    policy.uploadIdleTime = .zero
    try await withCache(policy: policy) { cache in
      let bytes = noise(300_000)
      let digest = contentDigest(of: bytes)
      let committed = try await cache.write(bytes, as: digest, upTo: 200_000, finish: false)
      #expect(committed == 200_000)
      // The stream's end may reach the server behind its answer.
      while cache.storage.uploads.count > 0 { await cache.storage.sweep() }
      let left = try cache.temporaryFiles
      #expect(left == [])
    }
  }

  @Test func anUploadThatStoppedIsResumed() async throws {
    try await withCache { cache in
      let bytes = noise(300_000)
      let digest = contentDigest(of: bytes)
      #expect(try await cache.write(bytes, as: digest, upTo: 200_000, finish: false) == 200_000)
      let status = try await cache.bytes.queryWriteStatus(
        ByteStreamV1.QueryWriteStatusRequest(
          resourceName: "uploads/u-1/blobs/\(digest.hash)/\(digest.size)"))
      #expect(status.committedSize == 200_000)
      #expect(!status.complete)
      #expect(
        await failure { _ = try await cache.write(bytes, as: digest, from: 200_001) }
          == .invalidArgument)
      // The client repeats a little of what was stored.
      #expect(try await cache.write(bytes, as: digest, from: 190_000) == 300_000)
      #expect(try await cache.read(digest) == bytes)
    }
  }

  @Test func aBlobThatIsThereEndsTheCallEarly() async throws {
    try await withCache { cache in
      let bytes = noise(200_000)
      let digest = contentDigest(of: bytes)
      _ = try await cache.write(bytes, as: digest)
      #expect(try await cache.write(bytes, as: digest, id: "u-2", upTo: 10) == 200_000)
      #expect(cache.storage.uploads.count == 0)
      let status = try await cache.bytes.queryWriteStatus(
        ByteStreamV1.QueryWriteStatusRequest(
          resourceName: "uploads/u-3/blobs/\(digest.hash)/\(digest.size)"))
      #expect(status.complete)
      #expect(status.committedSize == 200_000)
    }
  }

  @Test func manyMayWriteTheSameBlobAtOnce() async throws {
    try await withCache { cache in
      let bytes = noise(400_000)
      let digest = contentDigest(of: bytes)
      try await withThrowingTaskGroup(of: Int64.self) { group in
        for number in 0..<8 {
          group.addTask { try await cache.write(bytes, as: digest, id: "u-\(number)") }
        }
        for try await committed in group { #expect(committed == 400_000) }
      }
      #expect(try await cache.read(digest) == bytes)
      #expect(try cache.temporaryFiles == [])
    }
  }

  @Test func thereIsALimitOfUploads() async throws {
    var policy = Policy()
    policy.maximumUploads = 1
    try await withCache(policy: policy) { cache in
      let (first, second) = (noise(200_000, seed: 1), noise(200_000, seed: 2))
      let open = try await cache.bytes.write()
      let digest = contentDigest(of: first)
      try await open.send(
        ByteStreamV1.WriteRequest(
          resourceName: "uploads/a/blobs/\(digest.hash)/\(digest.size)",
          data: Array(first[..<100])))
      // The first upload is there as soon as its offset can be asked for.
      while await failure({
        _ = try await cache.bytes.queryWriteStatus(
          ByteStreamV1.QueryWriteStatusRequest(
            resourceName: "uploads/a/blobs/\(digest.hash)/\(digest.size)"))
      }) == .notFound {}
      #expect(
        await failure {
          _ = try await cache.write(second, as: contentDigest(of: second))
        } == .resourceExhausted)
      // Left by its stream, it makes room.
      _ = try await open.finish()
      _ = try await cache.write(second, as: contentDigest(of: second))
    }
  }

  @Test func theEmptyBlobIsAlwaysThere() async throws {
    try await withCache { cache in
      let missing = try await cache.cas.findMissingBlobs(
        RemoteExecutionV2.FindMissingBlobsRequest(blobDigests: [proto(.empty)]))
      #expect(missing.missingBlobDigests == [])
      #expect(try await cache.read(.empty) == [])
      #expect(try await cache.write([], as: .empty) == 0)
    }
  }

  @Test func missingBlobsAreFound() async throws {
    try await withCache { cache in
      let (here, gone) = (noise(10, seed: 1), noise(10, seed: 2))
      _ = try await cache.write(here, as: contentDigest(of: here))
      let response = try await cache.cas.findMissingBlobs(
        RemoteExecutionV2.FindMissingBlobsRequest(
          blobDigests: [
            proto(contentDigest(of: here)), proto(contentDigest(of: gone)),
            proto(contentDigest(of: gone)),
          ]))
      #expect(response.missingBlobDigests == [proto(contentDigest(of: gone))])
      #expect(
        await failure {
          _ = try await cache.cas.findMissingBlobs(
            RemoteExecutionV2.FindMissingBlobsRequest(
              blobDigests: [RemoteExecutionV2.Digest(hash: "../../etc/passwd", sizeBytes: 1)]))
        } == .invalidArgument)
    }
  }

  @Test func aBatchAnswersForEachBlob() async throws {
    try await withCache { cache in
      let (good, bad) = (noise(10, seed: 1), noise(10, seed: 2))
      let update = try await cache.cas.batchUpdateBlobs(
        RemoteExecutionV2.BatchUpdateBlobsRequest(requests: [
          .init(digest: proto(contentDigest(of: good)), data: good),
          .init(digest: proto(contentDigest(of: good)), data: bad),
          .init(digest: RemoteExecutionV2.Digest(hash: "x", sizeBytes: 10), data: bad),
        ]))
      let invalid = Int32(StatusCode.invalidArgument.rawValue)
      #expect(update.responses.map { $0.status?.code } == [0, invalid, invalid])
      // What has no digest at all is no mismatch.
      #expect(cache.metrics.digestMismatches.value == 1)
      let read = try await cache.cas.batchReadBlobs(
        RemoteExecutionV2.BatchReadBlobsRequest(digests: [
          proto(contentDigest(of: good)), proto(contentDigest(of: bad)), proto(.empty),
        ]))
      #expect(
        read.responses.map { $0.status?.code } == [0, Int32(StatusCode.notFound.rawValue), 0])
      #expect(read.responses[0].data == good)
    }
  }

  @Test func aBatchHasALargestSize() async throws {
    try await withCache { cache in
      #expect(
        await failure {
          _ = try await cache.cas.batchReadBlobs(
            RemoteExecutionV2.BatchReadBlobsRequest(digests: [
              proto(Digest(hash: Digest.empty.hash, size: .max)),
              proto(Digest(hash: Digest.empty.hash, size: .max)),
            ]))
        } == .invalidArgument)
    }
  }

  @Test func aTreeIsSentWithEachDirectoryOnce() async throws {
    try await withCache { cache in
      let leaf = RemoteExecutionV2.Directory(files: [.init(name: "f", digest: proto(.empty))])
        .encoded()
      let root = RemoteExecutionV2.Directory(directories: [
        .init(name: "a", digest: proto(contentDigest(of: leaf))),
        .init(name: "b", digest: proto(contentDigest(of: leaf))),
      ]).encoded()
      for bytes in [leaf, root] { _ = try await cache.write(bytes, as: contentDigest(of: bytes)) }
      var directories: [RemoteExecutionV2.Directory] = []
      let responses = try await cache.cas.getTree(
        RemoteExecutionV2.GetTreeRequest(rootDigest: proto(contentDigest(of: root))))
      for try await response in responses { directories += response.directories }
      #expect(directories.map { $0.encoded() } == [root, leaf])
    }
  }
}

func contentDigest(of bytes: [UInt8]) -> Digest { ContentHash.digest(of: bytes) }

func proto(_ digest: Digest) -> RemoteExecutionV2.Digest {
  RemoteExecutionV2.Digest(hash: digest.hash, sizeBytes: digest.size)
}
