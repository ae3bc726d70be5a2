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
  /// How the first calls of ReadLog end, and those of CancelBuild.
  private let logFailures: Mutex<[RPCError]>
  private let cancelFailures: Mutex<[RPCError]>
  private let cancelAsked: @Sendable () -> Void
  /// After which revisions it was asked.
  let askedAfter = Mutex<[Int64]>([])
  /// Set by CancelBuild, for a watch without end to see.
  private let cancelled = AsyncStream.makeStream(of: Void.self)

  init(
    watches: [(states: [SchedulerV1.Build], end: RPCError?)],
    logs: [String: (bytes: [UInt8], isSealed: Bool)], logFailures: [RPCError] = [],
    cancelFailures: [RPCError] = [], cancelAsked: @escaping @Sendable () -> Void = {}
  ) {
    self.watches = Mutex(watches)
    self.logs = logs
    self.logFailures = Mutex(logFailures)
    self.cancelFailures = Mutex(cancelFailures)
    self.cancelAsked = cancelAsked
  }

  var descriptor: ServiceDescriptor { SchedulerV1.schedulerServiceDescriptor }

  func registerMethods(with router: inout Router) {
    router.serverStreaming(SchedulerV1.SchedulerMethods.watchBuild) {
      try await self.watchBuild($0, responses: $1, context: $2)
    }
    router.unary(SchedulerV1.SchedulerMethods.cancelBuild) {
      try await self.cancelBuild($0, context: $1)
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
      // The last state of a cancelled build follows its cancelling.
      if state.outcome == .cancelled { for await _ in self.cancelled.stream { break } }
      try await responses.send(SchedulerV1.WatchBuildResponse(build: state))
    }
    if let end = watch.end { throw end }
  }

  func cancelBuild(
    _ request: SchedulerV1.CancelBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.CancelBuildResponse {
    self.cancelAsked()
    let failure = self.cancelFailures.withLock { $0.isEmpty ? nil : $0.removeFirst() }
    if let failure { throw failure }
    self.cancelled.continuation.yield()
    return SchedulerV1.CancelBuildResponse()
  }

  func readLog(
    _ request: LogsV1.ReadLogRequest, responses: ResponseWriter<LogsV1.ReadLogResponse>,
    context: ServerContext
  ) async throws {
    let failure = self.logFailures.withLock { $0.isEmpty ? nil : $0.removeFirst() }
    if let failure { throw failure }
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
  func explainBuild(
    _ request: SchedulerV1.ExplainBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.ExplainBuildResponse { throw Self.notServed }
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
private final class Recorder: QuietPresenter {
  let shown = Mutex<[String]>([])
  let notes = Mutex<[String]>([])
  /// Raw bytes.
  let raw = Mutex<[UInt8]>([])
  private let noted: @Sendable () -> Void

  init(noted: @escaping @Sendable () -> Void = {}) {
    self.noted = noted
  }

  func heading(_ step: TypesV1.StepStatus, of origin: LogOrigin) async {
    self.shown.withLock { $0.append("\(origin.job): # \(step.name)") }
  }
  func lines(_ lines: [ArraySlice<UInt8>], of origin: LogOrigin) async {
    self.shown.withLock { shown in
      shown += lines.map { "\(origin.job): \(String(decoding: $0, as: UTF8.self))" }
    }
  }
  func bytes(_ bytes: ArraySlice<UInt8>, of origin: LogOrigin) async {
    self.raw.withLock { $0 += bytes }
  }
  func unreadable(_ reason: String, _ origin: LogOrigin) async {
    self.shown.withLock { $0.append("\(origin.job): unreadable: \(reason)") }
  }
  func note(_ text: String?, about subject: NoteSubject) async {
    // Without the address, which is another each time.
    let words = text.map { $0.split(separator: " ").filter { !$0.contains("127.0.0.1") } }
    self.notes.withLock { $0.append(words?.joined(separator: " ") ?? "no more: \(subject)") }
    self.noted()
  }
}

/// Ctrl-C, as often as a test says.
private final class FakeInterrupts: Sendable {
  private let stream = AsyncStream.makeStream(of: Void.self)

  func come() { self.stream.continuation.yield() }

  func reached() async -> Bool {
    for await _ in self.stream.stream { return true }
    return false
  }
}

@Suite(.timeLimit(.minutes(1))) struct Following {
  private static let away = RPCError(.unavailable, "the scheduler is about to end")

  private func attempt(
    _ number: Int32 = 1, outcome: TypesV1.Outcome, log: String = "log",
    steps: [(name: String, start: Int64, end: Int64?)]
  ) -> SchedulerV1.Attempt {
    SchedulerV1.Attempt(
      number: number, outcome: outcome,
      steps: steps.enumerated().map { index, step in
        TypesV1.StepStatus(
          index: Int32(index), name: step.name, state: step.end == nil ? .running : .finished,
          outcome: step.end == nil ? .unspecified : .succeeded, logStart: step.start,
          logEnd: step.end ?? 0)
      }, logName: log)
  }

  private func build(
    revision: Int64, finished: Bool, outcome: TypesV1.Outcome = .succeeded,
    jobs: [(id: String, attempts: [SchedulerV1.Attempt])]
  ) -> SchedulerV1.Build {
    SchedulerV1.Build(
      id: "b1", state: finished ? .finished : .running,
      outcome: finished ? outcome : .unspecified, revision: revision,
      jobs: jobs.map { job in
        SchedulerV1.Job(
          id: job.id, state: finished ? .finished : .running,
          outcome: finished ? outcome : .unspecified, attempts: job.attempts)
      })
  }

  private func build(
    revision: Int64, finished: Bool, outcome: TypesV1.Outcome = .succeeded,
    steps: [(name: String, start: Int64, end: Int64?)]
  ) -> SchedulerV1.Build {
    self.build(
      revision: revision, finished: finished, outcome: outcome,
      jobs: [
        ("test", [self.attempt(outcome: finished ? outcome : .unspecified, steps: steps)])
      ])
  }

  private func follow(
    _ fake: FakeStack, _ recorder: Recorder = Recorder(), isKnown: Bool = false,
    interrupts: FakeInterrupts? = nil, logs: BuildFollower.Logs = .all,
    sealGrace: Duration = BuildFollower.sealGrace
  ) async throws -> (build: SchedulerV1.Build, shown: [String]) {
    let server = RPCServer(services: [fake])
    let address = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    let connection = Connections.Connection("fake", address)
    let follower = BuildFollower(
      stack: Connections(scheduler: connection, cache: connection, allocator: connection),
      presenter: recorder, isKnown: isKnown, onInterrupt: interrupts == nil ? .end : .cancel,
      interrupted: { _ in await interrupts?.reached() ?? false }, logs: logs,
      sealGrace: sealGrace)
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

  @Test(.timeLimit(.minutes(1)))
  func anAttemptThatPrintedNothingHasNoLogToWaitFor() async throws {
    var attempt = self.attempt(outcome: .succeeded, steps: [("one", 0, 0), ("two", 0, 0)])
    attempt.usage = TypesV1.Usage()
    let fake = FakeStack(
      watches: [
        (
          [
            self.build(revision: 1, finished: false, steps: [("one", 0, nil)]),
            self.build(revision: 2, finished: true, jobs: [("test", [attempt])]),
          ], nil
        )
        // A cache waits for a log that nobody has begun.
      ], logs: ["log": ([], false)])
    let (build, shown) = try await self.follow(fake, sealGrace: .seconds(1_000_000))
    #expect(build.outcome == .succeeded)
    #expect(shown == ["test: # one", "test: # two"])
  }

  @Test func aWatchThatIsLostGoesOnWithWhatIsNew() async throws {
    let seen = self.build(revision: 3, finished: false, steps: [("one", 0, nil)])
    let fake = FakeStack(
      watches: [
        ([seen], Self.away), ([], RPCError(.unavailable, "it is not back yet")),
        ([seen, self.build(revision: 5, finished: true, steps: [("one", 0, 3)])], nil),
      ], logs: ["log": (Array("ok\n".utf8), true)])
    let recorder = Recorder()
    let (build, shown) = try await self.follow(fake, recorder)
    #expect(build.revision == 5)
    #expect(shown == ["test: # one", "test: ok"])
    // Nothing needs to change for the scheduler to be known to be back.
    #expect(fake.askedAfter.withLock { $0 } == [0, 0, 0])
    #expect(
      recorder.notes.withLock { $0 } == [
        "lost the fake at trying again", "no more: service(\"fake\")",
      ])
  }

  @Test(arguments: [false, true])
  func aSchedulerThatSaysThatItIsNotReadyIsWaitedFor(isKnown: Bool) async throws {
    let fake = FakeStack(
      watches: [([], Self.away), ([self.build(revision: 1, finished: true, steps: [])], nil)],
      logs: ["log": ([], true)])
    #expect(try await self.follow(fake, isKnown: isKnown).build.revision == 1)
  }

  @Test func anAddressThatHasNeverAnsweredIsAMistake() async throws {
    let directory = try TemporaryDirectory()
    let connection = Connections.Connection(
      "scheduler", try ListenAddress("unix:\(directory.path)/nobody"))
    let follower = BuildFollower(
      stack: Connections(scheduler: connection, cache: connection, allocator: connection),
      presenter: Recorder())
    let failure = await #expect(throws: CommandFailure.self) {
      _ = try await follower.follow("b1")
    }
    #expect(failure?.code == .infrastructure)
    #expect(failure?.lines.count == 1)
    #expect(failure?.lines.first?.hasPrefix("cannot reach the scheduler at unix:") == true)
  }

  @Test func aStackThatHasAnsweredIsWaitedFor() async throws {
    let directory = try TemporaryDirectory()
    let address = try ListenAddress("unix:\(directory.path)/socket")
    let connection = Connections.Connection("scheduler", address)
    let fake = FakeStack(
      watches: [([self.build(revision: 1, finished: true, steps: [])], nil)],
      logs: ["log": ([], true)])
    let (notes, note) = AsyncStream.makeStream(of: Void.self)
    let follower = BuildFollower(
      stack: Connections(scheduler: connection, cache: connection, allocator: connection),
      presenter: Recorder { note.yield() }, isKnown: true)
    async let build = follower.follow("b1")
    // It comes back once it was missed.
    for await _ in notes { break }
    let server = RPCServer(services: [fake])
    _ = try await server.listen(on: address)
    #expect(try await build.revision == 1)
    await server.shutdown(grace: .zero)
  }

  @Test func aSchedulerThatHasNoRoomIsWaitedFor() async throws {
    let fake = FakeStack(
      watches: [
        ([], RPCError(.resourceExhausted, "100 watches are open", retryDelay: .zero)),
        ([self.build(revision: 1, finished: true, steps: [])], nil),
      ], logs: ["log": ([], true)])
    #expect(try await self.follow(fake).build.revision == 1)
  }

  @Test func aFollowingThatFailsDoesNotWaitForItsLogs() async throws {
    // Bytes behind the last step that is known: the log's reader waits for the next one's name.
    let fake = FakeStack(
      watches: [
        (
          [self.build(revision: 1, finished: false, steps: [("one", 0, 3)])],
          RPCError(.internalError, "the record is damaged")
        )
      ], logs: ["log": (Array("ok\nmore\n".utf8), false)])
    await #expect(throws: CommandFailure.self) { _ = try await self.follow(fake) }
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

  @Test(arguments: [
    RPCError(.unavailable, "the cache drains"),
    RPCError(.resourceExhausted, "too many readers", retryDelay: .milliseconds(1)),
  ])
  func aCacheThatCannotAnswerNowIsWaitedFor(failure: RPCError) async throws {
    let fake = FakeStack(
      watches: [([self.build(revision: 1, finished: true, steps: [("one", 0, 3)])], nil)],
      logs: ["log": (Array("ok\n".utf8), true)], logFailures: [failure, failure])
    let recorder = Recorder()
    let (_, shown) = try await self.follow(fake, recorder, isKnown: true)
    #expect(shown == ["test: # one", "test: ok"])
    let notes = recorder.notes.withLock { $0 }
    #expect(notes.count == 2)
    #expect(notes.first?.hasSuffix("trying again") == true)
    #expect(notes.last == "no more: service(\"fake\")")
  }

  @Test func aLogThatIsDamagedIsToldAndTheOthersGoOn() async throws {
    let fake = FakeStack(
      watches: [
        (
          [
            self.build(
              revision: 1, finished: true,
              jobs: [
                ("bad", [self.attempt(outcome: .succeeded, log: "gone", steps: [("one", 0, 3)])]),
                ("good", [self.attempt(outcome: .succeeded, steps: [("one", 0, 3)])]),
              ])
          ], nil
        )
      ], logs: ["log": (Array("ok\n".utf8), true)],
      logFailures: [])
    let damaged = FakeStack(
      watches: [([self.build(revision: 1, finished: true, steps: [("one", 0, 3)])], nil)],
      logs: ["log": (Array("ok\n".utf8), true)],
      logFailures: [RPCError(.dataLoss, "a piece is missing")])
    let (build, shown) = try await self.follow(fake)
    #expect(build.outcome == .succeeded)
    #expect(
      Set(shown) == ["bad: unreadable: there is no log gone", "good: # one", "good: ok"])
    #expect(try await self.follow(damaged).shown == ["test: unreadable: a piece is missing"])
  }

  @Test func rawAttemptsComeOneAfterTheOther() async throws {
    let first = [UInt8](repeating: 0x31, count: 5_000)
    let second = [UInt8](repeating: 0x32, count: 5_000)
    let fake = FakeStack(
      watches: [
        (
          [
            self.build(
              revision: 1, finished: true,
              jobs: [
                (
                  "test",
                  [
                    self.attempt(1, outcome: .executorLost, log: "first", steps: []),
                    self.attempt(2, outcome: .succeeded, log: "second", steps: []),
                  ]
                )
              ])
          ], nil
        )
      ], logs: ["first": (first, false), "second": (second, true)])
    let recorder = Recorder()
    _ = try await self.follow(
      fake, recorder, logs: .raw("test"), sealGrace: .milliseconds(1))
    #expect(recorder.raw.withLock { $0 } == first + second)
  }

  @Test func aBuildThatIsNotThereEndsTheCommand() async throws {
    let fake = FakeStack(watches: [], logs: [:])
    await #expect(throws: CommandFailure(.usage, "there is no build b1")) {
      _ = try await self.follow(fake)
    }
  }

  @Test func aBuildIsCancelledOnceTheSchedulerIsBack() async throws {
    let fake = FakeStack(
      watches: [
        (
          [
            self.build(revision: 1, finished: false, steps: []),
            self.build(revision: 2, finished: true, outcome: .cancelled, steps: []),
          ], nil
        )
      ], logs: ["log": ([], true)], cancelFailures: [Self.away, Self.away])
    let interrupts = FakeInterrupts()
    interrupts.come()
    let recorder = Recorder()
    let (build, _) = try await self.follow(
      fake, recorder, isKnown: true, interrupts: interrupts)
    #expect(build.outcome == .cancelled)
    #expect(
      recorder.notes.withLock { $0.first } == "cancelling the build; Ctrl-C again leaves it")
  }

  @Test func aBuildThatCouldNotBeCancelledIsLeftWithAWord() async throws {
    let interrupts = FakeInterrupts()
    let fake = FakeStack(
      watches: [
        (
          [
            self.build(revision: 1, finished: false, steps: []),
            self.build(revision: 2, finished: true, outcome: .cancelled, steps: []),
          ], nil
        )
      ], logs: ["log": ([], true)],
      cancelFailures: [RPCError(.unavailable, "not now", retryDelay: .seconds(200))],
      cancelAsked: { interrupts.come() })
    interrupts.come()
    let failure = await #expect(throws: CommandFailure.self) {
      _ = try await self.follow(fake, isKnown: true, interrupts: interrupts)
    }
    #expect(failure?.code == .infrastructure)
    #expect(failure?.lines.first?.contains("was not cancelled") == true)
  }
}

@Suite struct Patiently {
  private let away = RPCError(.unavailable, "not now")

  @Test func itIsCountedFromTheFirstFailureSinceAnAnswer() {
    let start = ContinuousClock.now
    var patience = Patience()
    #expect(patience.failed(self.away, at: start) == Patience.shortestDelay)
    #expect(
      patience.failed(self.away, at: start + .seconds(1)) == Patience.shortestDelay * 2)
    #expect(patience.failed(self.away, at: start + Patience.limit) == nil)
    patience.answered()
    #expect(
      patience.failed(self.away, at: start + Patience.limit * 2) == Patience.shortestDelay)
  }

  @Test func theServicesOwnDelayCountsMore() {
    var patience = Patience()
    let full = RPCError(.resourceExhausted, "full", retryDelay: .seconds(7))
    #expect(patience.failed(full, at: .now) == .seconds(7))
    let forLong = RPCError(.unavailable, "closed", retryDelay: Patience.limit * 2)
    #expect(patience.failed(forLong, at: .now) == nil)
  }

  @Test(arguments: [
    RPCError(.dataLoss, "damaged"), RPCError(.notFound, "gone"),
    RPCError(.resourceExhausted, "the response is too large"),
  ])
  func whatWaitingDoesNotHelpIsNotWaitedFor(error: RPCError) {
    var patience = Patience()
    #expect(patience.failed(error, at: .now) == nil)
  }
}
