import BuildProtos
import ContentCacheCore
import Domain
import RPC
import ServiceRuntime

/// Live logs: `millrace.logs.v1.LogService`.
struct LogHandlers: LogsV1.LogService {
  let logs: LogStore
  let disk: Disk
  let policy: Policy
  let health: DiskHealth
  let metrics: Metrics

  func appendLog(
    _ requests: RequestStream<LogsV1.AppendLogRequest>, context: ServerContext
  ) async throws -> LogsV1.AppendLogResponse {
    do {
      var iterator = requests.makeAsyncIterator()
      guard let first = try await iterator.next() else {
        throw RPCError(.invalidArgument, "an append begins with a message, and there was none")
      }
      let log = try self.logs.open(first.name)
      defer { self.logs.close(log) }
      var next: LogsV1.AppendLogRequest? = first
      while let request = next {
        guard request.name.isEmpty || request.name == log.name else {
          throw RPCError(
            .invalidArgument,
            "a stream appends to one log, and \"\(shortened(request.name))\" is another")
        }
        let (fresh, seal) = try await self.disk.run { () -> (Int, Digest?) in
          let fresh = try log.append(request.data, at: request.offset)
          return (fresh, request.seal ? try log.seal() : nil)
        }
        self.metrics.logBytesWritten.increment(by: Int64(fresh))
        if fresh > 0 || seal != nil { self.health.wrote() }
        if let seal {
          return LogsV1.AppendLogResponse(
            sizeBytes: seal.size, digest: Mapping.blobDigest(seal))
        }
        next = try await iterator.next()
      }
      return try await self.disk.run {
        try log.synchronize()
        let status = try log.status()
        return LogsV1.AppendLogResponse(
          sizeBytes: status?.size ?? 0, digest: status?.seal.map(Mapping.blobDigest))
      }
    } catch {
      self.health.failed(error)
      throw Mapping.rpcError(error)
    }
  }

  func readLog(
    _ request: LogsV1.ReadLogRequest, responses: ResponseWriter<LogsV1.ReadLogResponse>,
    context: ServerContext
  ) async throws {
    do {
      var reader = try LogReader(
        offset: request.offset, limit: request.limit, follow: request.follow,
        chunkBytes: self.policy.logChunkBytes)
      let log = try self.logs.open(request.name)
      defer { self.logs.close(log) }
      self.metrics.logReaders.add(1)
      defer { self.metrics.logReaders.add(-1) }
      try await self.disk.run { try log.load() }
      // A reader that waits knows that it has been taken up.
      responses.sendInitialMetadata()
      while true {
        switch try reader.next(log.tail.view) {
        case .read(let offset, let count):
          let bytes = try await self.disk.run { try log.read(count, at: offset) }
          try await responses.send(LogsV1.ReadLogResponse(offset: offset, data: bytes))
          self.metrics.logBytesRead.increment(by: Int64(count))
          reader.sent(count)
        case .wait(let beyond):
          try await log.tail.grows(beyond: beyond)
        case .finish(let complete):
          if complete {
            try await responses.send(
              LogsV1.ReadLogResponse(offset: reader.offset, complete: true))
          }
          return
        }
      }
    } catch {
      throw Mapping.rpcError(error)
    }
  }

  func getLog(
    _ request: LogsV1.GetLogRequest, context: ServerContext
  ) async throws -> LogsV1.GetLogResponse {
    do {
      let log = try self.logs.open(request.name)
      defer { self.logs.close(log) }
      guard let status = try await self.disk.run({ try log.status() }) else {
        throw RPCError(.notFound, "there is no log \"\(shortened(request.name))\"")
      }
      return LogsV1.GetLogResponse(
        sizeBytes: status.size, sealed: status.seal != nil,
        digest: status.seal.map(Mapping.blobDigest))
    } catch {
      throw Mapping.rpcError(error)
    }
  }
}
