import BuildProtos
import ContentCacheCore
import Domain
import RPC
import ServiceRuntime

/// Reads and writes blobs of any size: `google.bytestream.ByteStream`.
struct ByteStreamHandlers: ByteStreamV1.ByteStreamService {
  let blobs: BlobStore
  let uploads: UploadStore
  let disk: Disk
  let policy: Policy
  let health: DiskHealth
  let metrics: Metrics

  func read(
    _ request: ByteStreamV1.ReadRequest, responses: ResponseWriter<ByteStreamV1.ReadResponse>,
    context: ServerContext
  ) async throws {
    do {
      let digest = try self.readable(request)
      var offset = request.readOffset
      let end =
        request.readLimit == 0
        ? digest.size : offset + min(request.readLimit, digest.size - offset)
      guard digest != .empty else { return }
      let blobs = self.blobs
      let file = try await self.disk.run { try blobs.open(digest) }
      while offset < end {
        let start = offset
        let count = Int(min(end - start, Int64(self.policy.readChunkBytes)))
        let bytes = try await self.disk.run { try file.read(count, at: start) }
        guard bytes.count == count else {
          throw RPCError(.dataLoss, "\(file.path) is shorter than it was")
        }
        try await responses.send(ByteStreamV1.ReadResponse(data: bytes))
        self.metrics.blobBytesRead.increment(by: Int64(bytes.count))
        offset += Int64(count)
      }
    } catch {
      throw Mapping.rpcError(error)
    }
  }

  func write(
    _ requests: RequestStream<ByteStreamV1.WriteRequest>, context: ServerContext
  ) async throws -> ByteStreamV1.WriteResponse {
    do {
      var iterator = requests.makeAsyncIterator()
      guard let first = try await iterator.next() else {
        throw RPCError(.invalidArgument, "a write begins with a message, and there was none")
      }
      guard
        case .upload(let id, let digest) = try ResourceName(
          first.resourceName, policy: self.policy)
      else {
        throw ResourceName.ParseError.shape(first.resourceName)
      }
      // Its bytes are never asked for: it is always there.
      if digest == .empty { return ByteStreamV1.WriteResponse(committedSize: 0) }
      let upload = try self.uploads.open(
        UploadStore.Key(id: id, digest: digest), now: monotonicNow())
      defer { self.uploads.close(upload, now: monotonicNow()) }
      return try await self.write(first, &iterator, upload)
    } catch {
      if case UploadStore.Failure.blob(.mismatch) = error {
        self.metrics.digestMismatches.increment(by: 1)
      }
      self.health.failed(error)
      throw Mapping.rpcError(error)
    }
  }

  func queryWriteStatus(
    _ request: ByteStreamV1.QueryWriteStatusRequest, context: ServerContext
  ) async throws -> ByteStreamV1.QueryWriteStatusResponse {
    do {
      guard
        case .upload(let id, let digest) = try ResourceName(
          request.resourceName, policy: self.policy)
      else {
        throw ResourceName.ParseError.shape(request.resourceName)
      }
      let blobs = self.blobs
      if try await self.disk.run({ try blobs.contains(digest) }) {
        return ByteStreamV1.QueryWriteStatusResponse(committedSize: digest.size, complete: true)
      }
      guard let committed = self.uploads.committed(UploadStore.Key(id: id, digest: digest)) else {
        throw RPCError(.notFound, "upload \(shortened(id)) is not known: begin it again")
      }
      return ByteStreamV1.QueryWriteStatusResponse(committedSize: committed)
    } catch {
      throw Mapping.rpcError(error)
    }
  }

  private func readable(_ request: ByteStreamV1.ReadRequest) throws -> Digest {
    guard case .blob(let digest) = try ResourceName(request.resourceName, policy: self.policy)
    else {
      throw ResourceName.ParseError.shape(request.resourceName)
    }
    guard request.readOffset >= 0, request.readLimit >= 0 else {
      throw RPCError(
        .invalidArgument,
        "read_offset \(request.readOffset) and read_limit \(request.readLimit) must not be negative"
      )
    }
    guard request.readOffset <= digest.size else {
      throw RPCError(
        .outOfRange, "read_offset \(request.readOffset) is beyond the blob's end at \(digest.size)")
    }
    return digest
  }

  private func write(
    _ first: ByteStreamV1.WriteRequest,
    _ iterator: inout RequestStream<ByteStreamV1.WriteRequest>.AsyncIterator,
    _ upload: OpenUpload
  ) async throws -> ByteStreamV1.WriteResponse {
    let (blobs, uploads, size) = (self.blobs, self.uploads, upload.key.digest.size)
    var next: ByteStreamV1.WriteRequest? = first
    var committed: Int64 = 0
    var isFirst = true
    while let request = next {
      guard request.resourceName.isEmpty || request.resourceName == first.resourceName else {
        throw RPCError(
          .invalidArgument,
          "a write has one resource name, and \"\(shortened(request.resourceName))\" is another")
      }
      let askFirst = isFirst
      let (progress, isStored) = try await self.disk.run { () -> (UploadStore.Progress, Bool) in
        // Once, before anything is stored: for whom the blob is there already.
        if askFirst, try blobs.contains(upload.key.digest) {
          uploads.abandon(upload)
          return (.finished, false)
        }
        let progress = try uploads.receive(
          request.data, at: request.writeOffset, finish: request.finishWrite, for: upload)
        // What is not whole yet may be in memory.
        return (progress, progress == .finished)
      }
      if isStored { self.health.wrote() }
      self.metrics.blobBytesWritten.increment(by: Int64(request.data.count))
      switch progress {
      case .finished: return ByteStreamV1.WriteResponse(committedSize: size)
      case .committed(let bytes): committed = bytes
      }
      isFirst = false
      next = try await iterator.next()
    }
    // The client has stopped without finishing; it may go on in another call.
    return ByteStreamV1.WriteResponse(committedSize: committed)
  }
}

/// Time on a clock that never goes back.
func monotonicNow() -> Duration {
  processStart.duration(to: .now)
}

private let processStart = ContinuousClock.Instant.now
