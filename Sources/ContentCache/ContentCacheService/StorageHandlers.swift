import BuildProtos
import ContentCacheCore
import Domain
import RPC
import ServiceRuntime

/// Finds, reads and writes many small blobs at once: the Remote Execution API's storage.
struct StorageHandlers: RemoteExecutionV2.ContentAddressableStorageService {
  let blobs: BlobStore
  let disk: Disk
  let policy: Policy
  let health: DiskHealth
  let metrics: Metrics

  func findMissingBlobs(
    _ request: RemoteExecutionV2.FindMissingBlobsRequest, context: ServerContext
  ) async throws -> RemoteExecutionV2.FindMissingBlobsResponse {
    do {
      try Mapping.check(request.digestFunction)
      let digests = try request.blobDigests.map { try Mapping.digest($0, self.policy) }
      let blobs = self.blobs
      let missing = try await self.disk.run { try digests.filter { try !blobs.contains($0) } }
      var seen: Set<Digest> = []
      return RemoteExecutionV2.FindMissingBlobsResponse(
        missingBlobDigests: missing.filter { seen.insert($0).inserted }.map(Mapping.proto))
    } catch {
      throw Mapping.rpcError(error)
    }
  }

  func batchUpdateBlobs(
    _ request: RemoteExecutionV2.BatchUpdateBlobsRequest, context: ServerContext
  ) async throws -> RemoteExecutionV2.BatchUpdateBlobsResponse {
    try Mapping.check(request.digestFunction)
    try self.checkBatch(request.requests.map { Int64($0.data.count) })
    let (blobs, policy) = (self.blobs, self.policy)
    let requests = request.requests
    let results = try await self.disk.run {
      requests.map { request -> Result<Void, any Error> in
        do {
          guard request.compressor == .identity else {
            throw RPCError(.invalidArgument, "compressor \(request.compressor) is not supported")
          }
          try blobs.put(request.data, as: Mapping.digest(request.digest, policy))
          return .success(())
        } catch {
          return .failure(error)
        }
      }
    }
    return RemoteExecutionV2.BatchUpdateBlobsResponse(
      responses: zip(requests, results).map { request, result in
        RemoteExecutionV2.BatchUpdateBlobsResponse.Response(
          digest: request.digest, status: self.counted(result, of: request.data))
      })
  }

  /// The status of one blob that was to be stored.
  private func counted(
    _ result: Result<Void, any Error>, of data: [UInt8]
  ) -> GoogleRPC.Status {
    do {
      try result.get()
      self.metrics.blobBytesWritten.increment(by: Int64(data.count))
      self.health.wrote()
      return GoogleRPC.Status()
    } catch {
      if case BlobStore.Failure.mismatch = error { self.metrics.digestMismatches.increment(by: 1) }
      self.health.failed(error)
      return Mapping.status(error)
    }
  }

  func batchReadBlobs(
    _ request: RemoteExecutionV2.BatchReadBlobsRequest, context: ServerContext
  ) async throws -> RemoteExecutionV2.BatchReadBlobsResponse {
    try Mapping.check(request.digestFunction)
    try self.checkBatch(request.digests.map { max(0, $0.sizeBytes) })
    let (blobs, policy, digests) = (self.blobs, self.policy, request.digests)
    let responses = try await self.disk.run {
      digests.map { digest -> RemoteExecutionV2.BatchReadBlobsResponse.Response in
        do {
          let data = try blobs.read(Mapping.digest(digest, policy))
          return RemoteExecutionV2.BatchReadBlobsResponse.Response(
            digest: digest, data: data, status: GoogleRPC.Status())
        } catch {
          return RemoteExecutionV2.BatchReadBlobsResponse.Response(
            digest: digest, status: Mapping.status(error))
        }
      }
    }
    self.metrics.blobBytesRead.increment(
      by: responses.reduce(0) { $0 + Int64($1.data.count) })
    return RemoteExecutionV2.BatchReadBlobsResponse(responses: responses)
  }

  func getTree(
    _ request: RemoteExecutionV2.GetTreeRequest,
    responses: ResponseWriter<RemoteExecutionV2.GetTreeResponse>, context: ServerContext
  ) async throws {
    do {
      try Mapping.check(request.digestFunction)
      guard request.pageToken.isEmpty else {
        throw RPCError(
          .invalidArgument, "page token \"\(shortened(request.pageToken))\" is not one of ours")
      }
      let pageSize =
        request.pageSize > 0
        ? min(Int(request.pageSize), self.policy.treePageDirectories)
        : self.policy.treePageDirectories
      var queue = [try Mapping.digest(request.rootDigest, self.policy)]
      // A directory that occurs at several places is sent once.
      var known = Set(queue)
      var next = 0
      while next < queue.count {
        let page = Array(queue[next..<min(next + pageSize, queue.count)])
        next += page.count
        let directories = try await self.directories(page, isRoot: next == page.count)
        for directory in directories {
          for child in directory.directories {
            let digest = try Mapping.digest(child.digest, self.policy)
            if known.insert(digest).inserted { queue.append(digest) }
          }
        }
        guard queue.count <= self.policy.maximumTreeDirectories else {
          throw RPCError(
            .resourceExhausted,
            "the tree has more than \(self.policy.maximumTreeDirectories) directories")
        }
        try await responses.send(RemoteExecutionV2.GetTreeResponse(directories: directories))
      }
    } catch {
      throw Mapping.rpcError(error)
    }
  }

  /// Directories that are there. One below the root that is missing is left out, as the API has it.
  private func directories(
    _ digests: [Digest], isRoot: Bool
  ) async throws -> [RemoteExecutionV2.Directory] {
    let (blobs, limit) = (self.blobs, self.policy.maximumBatchBytes)
    let contents = try await self.disk.run {
      try digests.compactMap { digest -> (Digest, [UInt8])? in
        guard digest.size <= limit else {
          throw RPCError(.invalidArgument, "\(digest) is too large for a directory")
        }
        do {
          return (digest, try blobs.read(digest))
        } catch let failure as BlobStore.Failure {
          guard case .missing = failure, !isRoot else { throw failure }
          return nil
        }
      }
    }
    return try contents.map { digest, bytes in
      do {
        return try RemoteExecutionV2.Directory(decoding: bytes)
      } catch {
        throw RPCError(.invalidArgument, "blob \(digest) is no directory: \(error)")
      }
    }
  }

  private func checkBatch(_ sizes: [Int64]) throws(RPCError) {
    // Each size alone is bounded first, so that the sum cannot overflow.
    let limit = self.policy.maximumBatchBytes
    let total = sizes.reduce(Int64(0)) { $0 > limit || $1 > limit ? limit + 1 : $0 + $1 }
    guard total <= limit else {
      throw RPCError(
        .invalidArgument,
        "the batch's blobs have more than \(limit) bytes together; use ByteStream for large ones")
    }
  }
}

/// What the cache can do: the Remote Execution API's `Capabilities`.
struct CapabilitiesHandlers: RemoteExecutionV2.CapabilitiesService {
  let policy: Policy

  func getCapabilities(
    _ request: RemoteExecutionV2.GetCapabilitiesRequest, context: ServerContext
  ) async throws -> RemoteExecutionV2.ServerCapabilities {
    RemoteExecutionV2.ServerCapabilities(
      cacheCapabilities: RemoteExecutionV2.CacheCapabilities(
        digestFunctions: [.sha256],
        actionCacheUpdateCapabilities: RemoteExecutionV2.ActionCacheUpdateCapabilities(),
        maxBatchTotalSizeBytes: self.policy.maximumBatchBytes,
        symlinkAbsolutePathStrategy: .allowed,
        maxCasBlobSizeBytes: self.policy.maximumBlobBytes),
      lowApiVersion: BazelSemver.SemVer(major: 2),
      highApiVersion: BazelSemver.SemVer(major: 2, minor: 3))
  }
}
