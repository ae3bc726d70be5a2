import BuildProtos
import Domain
import Glibc
import Logging
import NIOPosix
import RPC
import ServiceRuntime
import Synchronization
import Testing

@testable import PluginRunnerService

/// A content-cache in memory: logs by name, blobs by hash.
final class MemoryCache: LogsV1.LogService, Sendable {
  struct Log {
    var bytes: [UInt8] = []
    var sealed = false
  }

  /// Calls that are taken up and never answered.
  enum Stall { case nothing, logs, reads, writes, room }

  let logs = Mutex<[String: Log]>([:])
  let blobs = Mutex<[String: [UInt8]]>([:])
  private let stall = Mutex((what: Stall.nothing, reached: Promise<Void>()))

  /// From now on these calls hang; the promise is fulfilled by the first that does.
  @discardableResult func stall(_ what: Stall) -> Promise<Void> {
    let reached = Promise<Void>()
    self.stall.withLock { $0 = (what, reached) }
    return reached
  }

  /// Hangs, until the caller is gone, if calls of this kind are to.
  func passThrough(_ what: Stall) async throws {
    let (stalled, reached) = self.stall.withLock { $0 }
    guard stalled == what else { return }
    reached.fulfil(())
    try await Task.sleep(for: .seconds(86_400))
  }

  /// Fails like a cache that is down, while calls of this kind hang.
  func refuse(_ what: Stall) throws {
    let (stalled, reached) = self.stall.withLock { $0 }
    guard stalled == what else { return }
    reached.fulfil(())
    throw RPCError(.unavailable, "the cache is away")
  }

  /// Fails like a cache whose disk is full, if there is to be no room.
  func store() throws {
    guard self.stall.withLock({ $0.what }) == .room else { return }
    throw RPCError(.resourceExhausted, "no space left on the device", retryDelay: .seconds(30))
  }

  func appendLog(
    _ requests: RequestStream<LogsV1.AppendLogRequest>, context: ServerContext
  ) async throws -> LogsV1.AppendLogResponse {
    var name = ""
    for try await request in requests {
      try self.refuse(.logs)
      if !request.name.isEmpty { name = request.name }
      self.logs.withLock { logs in
        logs[name, default: Log()].bytes += request.data
        if request.seal { logs[name]?.sealed = true }
      }
    }
    let name2 = name
    return LogsV1.AppendLogResponse(
      sizeBytes: self.logs.withLock { Int64($0[name2]?.bytes.count ?? 0) })
  }

  func readLog(
    _ request: LogsV1.ReadLogRequest, responses: ResponseWriter<LogsV1.ReadLogResponse>,
    context: ServerContext
  ) async throws {}

  func getLog(
    _ request: LogsV1.GetLogRequest, context: ServerContext
  ) async throws -> LogsV1.GetLogResponse {
    try self.refuse(.logs)
    throw RPCError(.notFound, request.name)
  }

  func text(of log: String) -> String {
    String(decoding: self.logs.withLock { $0[log]?.bytes ?? [] }, as: UTF8.self)
  }
}

/// The blobs of a `MemoryCache`.
struct MemoryBlobs: RemoteExecutionV2.ContentAddressableStorageService {
  let cache: MemoryCache

  func findMissingBlobs(
    _ request: RemoteExecutionV2.FindMissingBlobsRequest, context: ServerContext
  ) async throws -> RemoteExecutionV2.FindMissingBlobsResponse {
    RemoteExecutionV2.FindMissingBlobsResponse(
      missingBlobDigests: self.cache.blobs.withLock { blobs in
        request.blobDigests.filter { blobs[$0.hash] == nil }
      })
  }

  func batchUpdateBlobs(
    _ request: RemoteExecutionV2.BatchUpdateBlobsRequest, context: ServerContext
  ) async throws -> RemoteExecutionV2.BatchUpdateBlobsResponse {
    try self.cache.store()
    for entry in request.requests {
      self.cache.blobs.withLock { $0[entry.digest?.hash ?? ""] = entry.data }
    }
    return RemoteExecutionV2.BatchUpdateBlobsResponse()
  }

  func batchReadBlobs(
    _ request: RemoteExecutionV2.BatchReadBlobsRequest, context: ServerContext
  ) async throws -> RemoteExecutionV2.BatchReadBlobsResponse {
    throw RPCError(.unimplemented, "the runner does not ask for this")
  }

  func getTree(
    _ request: RemoteExecutionV2.GetTreeRequest,
    responses: ResponseWriter<RemoteExecutionV2.GetTreeResponse>, context: ServerContext
  ) async throws {}
}

/// Streams of a `MemoryCache`'s blobs.
struct MemoryStreams: ByteStreamV1.ByteStreamService {
  let cache: MemoryCache

  func read(
    _ request: ByteStreamV1.ReadRequest, responses: ResponseWriter<ByteStreamV1.ReadResponse>,
    context: ServerContext
  ) async throws {
    try await self.cache.passThrough(.reads)
    let hash = String(request.resourceName.split(separator: "/").dropLast().last ?? "")
    guard let data = self.cache.blobs.withLock({ $0[hash] }) else {
      throw RPCError(.notFound, hash)
    }
    var rest = data[...]
    while !rest.isEmpty {
      try await responses.send(ByteStreamV1.ReadResponse(data: Array(rest.prefix(65_536))))
      rest = rest.dropFirst(65_536)
    }
  }

  func write(
    _ requests: RequestStream<ByteStreamV1.WriteRequest>, context: ServerContext
  ) async throws -> ByteStreamV1.WriteResponse {
    var name = ""
    var data: [UInt8] = []
    for try await request in requests {
      try await self.cache.passThrough(.writes)
      if name.isEmpty { name = request.resourceName }
      data += request.data
    }
    let hash = String(name.split(separator: "/").dropLast().last ?? "")
    let bytes = data
    self.cache.blobs.withLock { $0[hash] = bytes }
    return ByteStreamV1.WriteResponse(committedSize: Int64(data.count))
  }

  func queryWriteStatus(
    _ request: ByteStreamV1.QueryWriteStatusRequest, context: ServerContext
  ) async throws -> ByteStreamV1.QueryWriteStatusResponse {
    throw RPCError(.unimplemented, "the runner does not ask for this")
  }
}

/// A runner with its driver, served over a socket, beside a cache in memory.
final class RunnerWorld: Sendable {
  let folder: TestFolder
  let cache = MemoryCache()
  let client: RunnerV1.RunnerClient
  let runner: Runner
  private let servers: [RPCServer]
  private let channel: RPCChannel
  private let running: Task<Void, any Error>

  init(
    sandbox: String = "none", plugins: [String: String] = [:], slots: Int = 2,
    stopGrace: String = "200ms"
  ) async throws {
    let folder = try TestFolder()
    self.folder = folder
    let cacheServer = RPCServer(services: [
      self.cache, MemoryBlobs(cache: self.cache), MemoryStreams(cache: self.cache),
    ])
    let address = try await cacheServer.listen(on: ListenAddress("127.0.0.1:0"))
    try makeFolders(folder.path + "/plugins")
    for (name, script) in plugins {
      try createFile("\(folder.path)/plugins/\(name)", Array(script.utf8), mode: 0o755)
    }
    try makeFolders(folder.path + "/data")
    let settings = SettingValues(
      ServiceRuntime.commonSettings(of: Runner.self) + Runner.settings,
      values: [
        "cache": "\(address)", "allocator": "127.0.0.1:1", "sandbox": sandbox,
        "plugins": folder.path + "/plugins", "programs": Programs.folder, "slots": "\(slots)",
        "stop-grace": stopGrace, "cpu": "64", "memory": "64GiB",
      ])
    self.runner = try await Runner(
      ServiceEnvironment(
        settings: settings, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
        metrics: MetricsRegistry(), eventLoopGroup: MultiThreadedEventLoopGroup.singleton,
        dataDirectory: folder.path + "/data", listen: ListenAddress("127.0.0.1:0")))
    let server = RPCServer(services: self.runner.services)
    let own = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    self.servers = [cacheServer, server]
    self.channel = RPCChannel(to: own)
    self.client = RunnerV1.RunnerClient(self.channel)
    let runner = self.runner
    self.running = Task { try await runner.run() }
  }

  /// Ends everything; nothing of it may be left.
  func end() async {
    self.running.cancel()
    _ = await self.running.result
    await self.channel.close()
    for server in self.servers { await server.shutdown(grace: .zero) }
    #expect(Leftovers.find(markedWith: self.dataDirectory) == [])
    #expect((try? listFolder(self.dataDirectory + "/workspaces")) == [])
  }

  var dataDirectory: String {
    guard let real = realpath(self.folder.path + "/data", nil) else { return "" }
    defer { free(real) }
    return String(cString: real)
  }

  /// The job, with what every job needs.
  func job(
    _ steps: [RunnerV1.StepSpec], attempt: String = "b/j/1", lease: String = "lease-1"
  ) -> RunnerV1.JobSpec {
    RunnerV1.JobSpec(
      attemptID: attempt, buildID: "b", jobID: "j", attempt: 1, project: "p", leaseID: lease,
      fencingToken: 1,
      resources: TypesV1.Resources(cpuMillis: 1_000, memoryBytes: 1 << 30, slots: 1),
      steps: steps, logName: "builds/\(attempt)")
  }

  /// Runs a job to its end.
  func run(_ job: RunnerV1.JobSpec) async throws -> Ended {
    var ended = Ended()
    for try await response in try await self.client.runJob(RunnerV1.RunJobRequest(job: job)) {
      if let event = response.event { ended.events.append(event) }
    }
    ended.log = self.cache.text(of: job.logName)
    return ended
  }
}

/// A job's events, and its log.
struct Ended {
  var events: [RunnerV1.JobEvent] = []
  var log = ""

  var finish: RunnerV1.JobFinished? {
    if case .finished(let finish)? = self.events.last?.what { finish } else { nil }
  }

  /// Each step's last state.
  var steps: [TypesV1.StepStatus] {
    var last: [Int32: TypesV1.StepStatus] = [:]
    for event in self.events { if case .step(let step) = event.what { last[step.index] = step } }
    return last.keys.sorted().compactMap { last[$0] }
  }

  var artifacts: [TypesV1.Artifact] {
    self.events.compactMap { if case .artifact(let artifact) = $0.what { artifact } else { nil } }
  }
}

func run(_ script: String, id: String = "", if condition: String = "") -> RunnerV1.StepSpec {
  RunnerV1.StepSpec(id: id, action: .run(script), condition: condition)
}
