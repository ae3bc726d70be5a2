import BuildProtos
import CommandLineInterface
import RPC
import Synchronization
import Testing

/// A scheduler that has one build, and a cache that has its logs, in one server.
private final class FakeStack: SchedulerV1.SchedulerService, LogsV1.LogService {
  /// What each call of WatchBuild sends, and how it ends.
  private let watches: Mutex<[(states: [SchedulerV1.Build], end: RPCError?)]>
  private let logs: [String: (bytes: [UInt8], isSealed: Bool)]
  let askedAfter = Mutex<[Int64]>([])

  init(
    watches: [(states: [SchedulerV1.Build], end: RPCError?)],
    logs: [String: (bytes: [UInt8], isSealed: Bool)]
  ) {
    self.watches = Mutex(watches)
    self.logs = logs
  }

  var descriptor: ServiceDescriptor { SchedulerV1.schedulerServiceDescriptor }

  func registerMethods(with router: inout Router) {
    router.serverStreaming(SchedulerV1.SchedulerMethods.watchBuild) {
      try await self.watchBuild($0, responses: $1, context: $2)
    }
    router.serverStreaming(LogsV1.LogMethods.readLog) {
      try await self.readLog($0, responses: $1, context: $2)
    }
  }

  func watchBuild(
    _ request: SchedulerV1.WatchBuildRequest,
    responses: ResponseWriter<SchedulerV1.WatchBuildResponse>, context: ServerContext
  ) async throws {
    self.askedAfter.withLock { $0.append(request.afterRevision) }
    let watch = self.watches.withLock { $0.isEmpty ? nil : $0.removeFirst() }
    guard let watch else { throw RPCError(.notFound, "there is no build \(request.buildID)") }
    for state in watch.states {
      try await responses.send(SchedulerV1.WatchBuildResponse(build: state))
    }
    if let end = watch.end { throw end }
  }

  func readLog(
    _ request: LogsV1.ReadLogRequest, responses: ResponseWriter<LogsV1.ReadLogResponse>,
    context: ServerContext
  ) async throws {
    guard let log = self.logs[request.name] else {
      throw RPCError(.notFound, "there is no log \(request.name)")
    }
    // In small pieces, so that lines and headings fall between them.
    var offset = Int(request.offset)
    while offset < log.bytes.count {
      let end = min(offset + 7, log.bytes.count)
      try await responses.send(
        LogsV1.ReadLogResponse(offset: Int64(offset), data: Array(log.bytes[offset..<end])))
      offset = end
    }
    if log.isSealed {
      try await responses.send(LogsV1.ReadLogResponse(offset: Int64(offset), complete: true))
    } else if request.follow {
      // Never sealed: the runner is gone.
      try await Task.sleep(for: .seconds(1_000_000))
    }
  }

  func submitBuild(
    _ request: SchedulerV1.SubmitBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.SubmitBuildResponse { throw Self.notServed }
  func getBuild(
    _ request: SchedulerV1.GetBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.GetBuildResponse { throw Self.notServed }
  func listBuilds(
    _ request: SchedulerV1.ListBuildsRequest, context: ServerContext
  ) async throws -> SchedulerV1.ListBuildsResponse { throw Self.notServed }
  func cancelBuild(
    _ request: SchedulerV1.CancelBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.CancelBuildResponse { throw Self.notServed }
  func retryBuild(
    _ request: SchedulerV1.RetryBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.RetryBuildResponse { throw Self.notServed }
  func appendLog(
    _ requests: RequestStream<LogsV1.AppendLogRequest>, context: ServerContext
  ) async throws -> LogsV1.AppendLogResponse { throw Self.notServed }
  func getLog(
    _ request: LogsV1.GetLogRequest, context: ServerContext
  ) async throws -> LogsV1.GetLogResponse { throw Self.notServed }

  private static let notServed = RPCError(.unimplemented, "not part of this test")
}

/// Keeps what it is shown.
private final class Recorder: Presenter {
  let shown = Mutex<[String]>([])

  func update(_ build: SchedulerV1.Build) async {}
  func heading(_ step: TypesV1.StepStatus, of job: String) async {
    self.shown.withLock { $0.append("\(job): # \(step.name)") }
  }
  func lines(_ lines: [ArraySlice<UInt8>], of job: String) async {
    self.shown.withLock { shown in
      shown += lines.map { "\(job): \(String(decoding: $0, as: UTF8.self))" }
    }
  }
  func note(_ text: String?) async {}
  func finish() async {}
}

@Suite struct Following {
  private func build(
    revision: Int64, finished: Bool, outcome: TypesV1.Outcome = .succeeded,
    steps: [(name: String, start: Int64, end: Int64?)]
  ) -> SchedulerV1.Build {
    SchedulerV1.Build(
      id: "b1", state: finished ? .finished : .running,
      outcome: finished ? outcome : .unspecified, revision: revision,
      jobs: [
        SchedulerV1.Job(
          id: "test", state: finished ? .finished : .running,
          outcome: finished ? outcome : .unspecified,
          attempts: [
            SchedulerV1.Attempt(
              number: 1, outcome: finished ? outcome : .unspecified,
              steps: steps.enumerated().map { index, step in
                TypesV1.StepStatus(
                  index: Int32(index), name: step.name,
                  state: step.end == nil ? .running : .finished,
                  outcome: step.end == nil ? .unspecified : .succeeded, logStart: step.start,
                  logEnd: step.end ?? 0)
              }, logName: "log")
          ])
      ])
  }

  private func follow(
    _ fake: FakeStack, sealGrace: Duration = BuildFollower.sealGrace
  ) async throws -> (build: SchedulerV1.Build, shown: [String]) {
    let server = RPCServer(services: [fake])
    let address = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    let recorder = Recorder()
    let connection = Connections.Connection("fake", address)
    let follower = BuildFollower(
      stack: Connections(scheduler: connection, cache: connection, allocator: connection),
      presenter: recorder, sealGrace: sealGrace)
    let result: Result<SchedulerV1.Build, any Error>
    do { result = .success(try await follower.follow("b1")) } catch { result = .failure(error) }
    await server.shutdown(grace: .zero)
    return (try result.get(), recorder.shown.withLock { $0 })
  }

  @Test func linesStandUnderTheirSteps() async throws {
    let fake = FakeStack(
      watches: [
        (
          [
            self.build(revision: 1, finished: false, steps: [("one", 0, nil)]),
            self.build(
              revision: 2, finished: true, steps: [("one", 0, 12), ("two", 12, 12), ("x", 12, 16)]
            ),
          ], nil
        )
      ], logs: ["log": (Array("first\nmore\n\nlast".utf8), true)])
    let (build, shown) = try await self.follow(fake)
    #expect(build.outcome == .succeeded)
    #expect(
      shown == [
        "test: # one", "test: first", "test: more", "test: ", "test: # two", "test: # x",
        "test: last",
      ])
  }

  @Test func aWatchThatIsLostGoesOnBehindWhatWasSeen() async throws {
    let fake = FakeStack(
      watches: [
        (
          [self.build(revision: 3, finished: false, steps: [("one", 0, nil)])],
          RPCError(.unavailable, "the scheduler is about to end")
        ),
        ([], RPCError(.unavailable, "it is not back yet")),
        ([self.build(revision: 5, finished: true, steps: [("one", 0, 3)])], nil),
      ], logs: ["log": (Array("ok\n".utf8), true)])
    let (build, shown) = try await self.follow(fake)
    #expect(build.revision == 5)
    #expect(shown == ["test: # one", "test: ok"])
    #expect(fake.askedAfter.withLock { $0 } == [0, 3, 3])
  }

  @Test func aLogThatIsNeverSealedDoesNotHoldTheEnd() async throws {
    let fake = FakeStack(
      watches: [
        (
          [
            self.build(
              revision: 1, finished: true, outcome: .executorLost, steps: [("one", 0, nil)])
          ], nil
        )
      ], logs: ["log": (Array("half\na li".utf8), false)])
    let (build, shown) = try await self.follow(fake, sealGrace: .milliseconds(1))
    #expect(build.outcome == .executorLost)
    #expect(shown == ["test: # one", "test: half", "test: a li"])
  }

  @Test func aBuildThatIsNotThereEndsTheCommand() async throws {
    let fake = FakeStack(watches: [], logs: [:])
    await #expect(throws: CommandFailure(.usage, "there is no build b1")) {
      _ = try await self.follow(fake)
    }
  }
}
