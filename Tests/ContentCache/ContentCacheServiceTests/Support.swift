import BuildProtos
import ContentCacheCore
import ContentCacheService
import Domain
import Glibc
import RPC
import ServiceRuntime
import Synchronization

/// A cache over a directory of its own, served on a unix socket in it.
final class TestCache: Sendable {
  let directory: String
  let storage: Storage
  let server: RPCServer
  let channel: RPCChannel
  let metrics = Metrics(MetricsRegistry())
  private let disk: Disk
  private let heard: Heard

  /// - Parameter directory: One that an earlier cache has left; else a new one is made.
  init(in directory: String? = nil, policy: Policy = Policy()) async throws {
    self.directory = try directory ?? Self.makeDirectory()
    self.disk = Disk(threads: 2)
    let heard = Heard()
    self.heard = heard
    self.storage = try await Storage(
      dataDirectory: self.directory, policy: policy, disk: self.disk
    ) { change in heard.changes.withLock { $0.append(change) } }
    self.server = RPCServer(services: self.storage.services(self.metrics))
    let address = try await self.server.listen(
      on: ListenAddress("unix:\(self.directory)/socket"))
    self.channel = RPCChannel(to: address)
  }

  var bytes: ByteStreamV1.ByteStreamClient { ByteStreamV1.ByteStreamClient(self.channel) }
  var cas: RemoteExecutionV2.ContentAddressableStorageClient {
    RemoteExecutionV2.ContentAddressableStorageClient(self.channel)
  }
  var logs: LogsV1.LogClient { LogsV1.LogClient(self.channel) }

  /// What was said of the disk.
  var changes: [DiskHealth.Change] { self.heard.changes.withLock { $0 } }

  private final class Heard: Sendable {
    let changes = Mutex<[DiskHealth.Change]>([])
  }

  func stop() async {
    self.storage.logs.drain()
    await self.channel.close()
    await self.server.shutdown(grace: .seconds(5))
    await self.disk.stop()
  }

  /// Files in `DATA/temporary`.
  var temporaryFiles: [String] {
    get throws { try Path.names(in: self.directory + "/temporary") }
  }

  static func makeDirectory() throws -> String {
    var template = Array("/tmp/content-cache-XXXXXX".utf8CString)
    guard let path = mkdtemp(&template) else { throw FileError("make", "/tmp") }
    return String(cString: path)
  }
}

/// Starts a cache, gives it to the test, and removes it with its directory.
func withCache(
  policy: Policy = Policy(), _ body: (TestCache) async throws -> Void
) async throws {
  let cache = try await TestCache(policy: policy)
  do {
    try await body(cache)
  } catch {
    await cache.stop()
    throw error
  }
  await cache.stop()
  removeTree(cache.directory)
}

func removeTree(_ path: String) {
  for name in (try? Path.names(in: path)) ?? [] {
    let child = "\(path)/\(name)"
    if unlink(child) != 0 { removeTree(child) }
  }
  rmdir(path)
}

/// Bytes that look like nothing in particular, the same for the same seed.
func noise(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
  var state = seed
  return (0..<count).map { _ in
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return UInt8(truncatingIfNeeded: state >> 33)
  }
}

extension TestCache {
  /// Writes a blob over ByteStream in chunks.
  func write(
    _ bytes: [UInt8], as digest: Domain.Digest, id: String = "u-1", from offset: Int = 0,
    upTo end: Int? = nil, chunk: Int = 100_000, finish: Bool = true
  ) async throws -> Int64 {
    let call = try await self.bytes.write()
    let end = end ?? bytes.count
    var position = offset
    repeat {
      let next = min(position + chunk, end)
      try await call.send(
        ByteStreamV1.WriteRequest(
          resourceName: position == offset
            ? "uploads/\(id)/blobs/\(digest.hash)/\(digest.size)" : "",
          writeOffset: Int64(position), finishWrite: finish && next == end,
          data: Array(bytes[position..<next])))
      position = next
    } while position < end
    return try await call.finish().committedSize
  }

  /// Reads a blob over ByteStream.
  func read(
    _ digest: Domain.Digest, offset: Int64 = 0, limit: Int64 = 0
  ) async throws -> [UInt8] {
    var bytes: [UInt8] = []
    let responses = try await self.bytes.read(
      ByteStreamV1.ReadRequest(
        resourceName: "blobs/\(digest.hash)/\(digest.size)", readOffset: offset,
        readLimit: limit))
    for try await response in responses { bytes += response.data }
    return bytes
  }

  /// Appends chunks to a log on one stream.
  func append(
    _ chunks: [(offset: Int64, data: [UInt8])], to name: String, seal: Bool = false
  ) async throws -> LogsV1.AppendLogResponse {
    let call = try await self.logs.appendLog()
    for (index, chunk) in chunks.enumerated() {
      try await call.send(
        LogsV1.AppendLogRequest(
          name: index == 0 ? name : "", offset: chunk.offset, data: chunk.data,
          seal: seal && index == chunks.count - 1))
    }
    return try await call.finish()
  }

  /// Reads a log; with `follow` until its seal.
  func readLog(
    _ name: String, follow: Bool = false
  ) async throws -> (bytes: [UInt8], complete: Bool) {
    var bytes: [UInt8] = []
    let responses = try await self.logs.readLog(
      LogsV1.ReadLogRequest(name: name, follow: follow))
    for try await response in responses {
      guard response.offset == Int64(bytes.count) else {
        throw RPCError(.dataLoss, "offset \(response.offset) after \(bytes.count) bytes")
      }
      bytes += response.data
      if response.complete { return (bytes, true) }
    }
    return (bytes, false)
  }
}

/// The code of the error that `body` throws.
func failure(_ body: () async throws -> Void) async -> StatusCode? {
  do {
    try await body()
    return nil
  } catch {
    return (error as? RPCError)?.code
  }
}
