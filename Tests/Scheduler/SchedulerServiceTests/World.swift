import BuildProtos
import DatastoreGatewayCore
import DatastoreGatewayService
import Glibc
import Logging
import NIOPosix
import RPC
import SchedulerService
import ServiceRuntime
import Testing

let quietLogger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

/// A folder of one test's own: sockets and the gateway's file.
struct TestFolder: Sendable {
  let path: String

  init() throws {
    var template = Array("/tmp/millrace-scheduler-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw RPCError(.internalError, "no folder in /tmp") }
    self.path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  func socket(_ name: String) -> ListenAddress { .unix(path: "\(self.path)/\(name).sock") }

  func remove() {
    for name in ["store", "store-wal", "store-shm"] { unlink("\(self.path)/\(name)") }
    rmdir(self.path)
  }
}

/// All that is around a scheduler: a real gateway over a store of the test's, an allocator and a
/// runner that do what the test says.
struct World: Sendable {
  let allocator: AllocatorStub
  let runner: RunnerStub
  let gateway: DatastoreV1.DatastoreClient
  let folder: TestFolder

  static func with(_ body: (World) async throws -> Void) async throws {
    let folder = try TestFolder()
    let runner = RunnerStub()
    let allocator = AllocatorStub(runnerAddress: "\(folder.socket("runner"))")
    var configuration = SQLiteStore.Configuration(path: "\(folder.path)/store")
    configuration.readers = 2
    let metrics = Metrics(MetricsRegistry())
    let store = try SQLiteStore(configuration, metrics: metrics, logger: quietLogger)
    let servers = [
      "gateway": RPCServer(services: [
        DatastoreGateway.service(
          over: store, policy: configuration.policy, metrics: metrics, logger: quietLogger,
          clock: { .now })
      ]),
      "allocator": RPCServer(services: [allocator]),
      "runner": RPCServer(services: [runner]),
    ]
    for (name, server) in servers { _ = try await server.listen(on: folder.socket(name)) }
    let channel = RPCChannel(to: folder.socket("gateway"))
    let result: Result<Void, any Error>
    do {
      try await body(
        World(
          allocator: allocator, runner: runner, gateway: DatastoreV1.DatastoreClient(channel),
          folder: folder))
      result = .success(())
    } catch {
      result = .failure(error)
    }
    await channel.close()
    for server in servers.values { await server.shutdown(grace: .zero) }
    folder.remove()
    try result.get()
  }

  /// Runs a scheduler while `body` runs; it ends as one that is killed does: without a word.
  func withScheduler<Value>(
    _ settings: [String: String] = [:],
    _ body: (SchedulerV1.SchedulerClient) async throws -> Value
  ) async throws -> Value {
    let address = self.folder.socket("scheduler")
    let group = MultiThreadedEventLoopGroup.singleton
    let values = settings.merging([
      "gateway": "\(self.folder.socket("gateway"))",
      "allocator": "\(self.folder.socket("allocator"))",
    ]) { $1 }
    let program = try await SchedulerProgram(
      ServiceEnvironment(
        settings: SettingValues(SchedulerProgram.settings, values: values), logger: quietLogger,
        metrics: MetricsRegistry(), eventLoopGroup: group, dataDirectory: "/nonexistent",
        listen: address))
    let server = RPCServer(services: program.services, group: group)
    _ = try await server.listen(on: address)
    let channel = RPCChannel(to: address, group: group)
    let work = Task { try await program.run() }
    let result: Result<Value, any Error>
    do {
      while await program.readiness() != .ready { try await Task.sleep(for: .milliseconds(2)) }
      result = .success(try await body(SchedulerV1.SchedulerClient(channel)))
    } catch {
      result = .failure(error)
    }
    await channel.close()
    work.cancel()
    _ = await work.result
    await server.shutdown(grace: .zero)
    return try result.get()
  }
}

extension SchedulerV1.SchedulerClient {
  static var oneStep: String {
    """
    jobs:
      a:
        steps:
          - run: make
    """
  }

  @discardableResult
  func submit(
    _ key: String, _ pipeline: String = Self.oneStep, project: String = "lua"
  ) async throws -> SchedulerV1.SubmitBuildResponse {
    try await self.submitBuild(
      SchedulerV1.SubmitBuildRequest(
        project: project, idempotencyKey: key, pipeline: Array(pipeline.utf8)))
  }

  /// The build once it is finished.
  func finished(_ build: String) async throws -> SchedulerV1.Build {
    try await self.watched(build) { $0.state == .finished }
  }

  /// The first state of a build that is as wanted.
  func watched(
    _ build: String, until isWanted: (SchedulerV1.Build) -> Bool
  ) async throws -> SchedulerV1.Build {
    let responses = try await self.watchBuild(SchedulerV1.WatchBuildRequest(buildID: build))
    var revision: Int64 = 0
    for try await response in responses {
      let state = try #require(response.build)
      #expect(state.revision > revision)
      revision = state.revision
      if isWanted(state) { return state }
    }
    throw RPCError(.internalError, "the watch of \(build) ended")
  }
}

/// The status with which a call fails; nil if it does not.
func failure(_ body: () async throws -> Void) async -> RPCError? {
  do {
    try await body()
    return nil
  } catch {
    return error as? RPCError ?? RPCError(.unknown, "\(error)")
  }
}
