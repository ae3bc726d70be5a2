import BuildProtos
import Domain
import Glibc
import Logging
import NIOCore
import PluginRunnerCore
import RPC
import ServiceRuntime
import Synchronization

/// Owns the core: feeds it inputs, carries out its effects in their order, and answers those who
/// stream events.
final class Driver: Sendable {
  /// What the driver acts with.
  struct Tools: Sendable {
    var configuration: Configuration
    var sandbox: Sandbox
    var cgroups: Cgroups
    var plugins: PluginHost
    var logs: LogsV1.LogClient
    var blobs: BlobStore
    var workspaces: WorkspaceStore
    var loop: any EventLoop
    var logger: Logger
    var metrics: RunnerMetrics
  }

  /// One thing to do, with what it concerns.
  private struct Work: Sendable {
    var effect: Effect
    var run: AttemptRun
  }

  /// Attempts that the core has forgotten and that may still be at hand here: all of them are looked
  /// for at once, which takes a while.
  private static let maximumForgotten = 256

  private struct State {
    var core: PluginRunner
    var runs: [AttemptID: AttemptRun] = [:]
  }

  let tools: Tools
  private let state: Mutex<State>
  /// In order, and filled under the lock, so that effects are carried out as they were decided.
  /// Its length is bounded by the jobs held: a handful of effects each.
  private let work: AsyncStream<Work>
  private let queue: AsyncStream<Work>.Continuation
  private let steps: ScriptStep

  init(core: PluginRunner, tools: Tools) {
    self.tools = tools
    self.state = Mutex(State(core: core))
    (self.work, self.queue) = AsyncStream.makeStream(of: Work.self)
    self.steps = ScriptStep(
      supervisor: tools.configuration.supervisor, sandbox: tools.sandbox, cgroups: tools.cgroups,
      dataDirectory: tools.configuration.dataDirectory, hidden: tools.configuration.hidden)
  }

  // MARK: Inputs

  /// Reads or changes the core, and has its effects carried out.
  private func change<Failure: Error>(
    _ body: (inout State) throws(Failure) -> [Effect]
  ) throws(Failure) {
    try self.state.withLock { state throws(Failure) in
      for effect in try body(&state) {
        guard let run = state.runs[effect.attempt] else { continue }
        self.queue.yield(Work(effect: effect, run: run))
      }
    }
  }

  func offered(_ spec: JobSpec, build: [UInt8]) throws(Refusal) {
    let now = Timestamp.steady
    try self.change { state throws(Refusal) in
      let effects = try state.core.offered(spec, at: now)
      if state.runs[spec.attempt] == nil {
        state.runs[spec.attempt] = AttemptRun(
          spec: spec, build: build, workspaces: self.tools.configuration.workspaces)
        self.tools.metrics.accepted.increment(by: 1)
      }
      return effects
    }
  }

  func received(_ input: JobInput, for attempt: AttemptID) {
    let now = Timestamp.steady
    self.change { state in
      let effects = state.core.received(input, for: attempt, at: now)
      if effects.contains(.released(attempt)) {
        // The core may have forgotten others with it.
        let kept = state.core.policy.maximumFinishedAttempts + state.core.running
        if state.runs.count > kept + Self.maximumForgotten {
          for known in Array(state.runs.keys) where state.core.job(known) == nil {
            state.runs[known] = nil
          }
        }
      }
      return effects
    }
  }

  func heartbeatAnswered(stopping leases: [LeaseID]) {
    let now = Timestamp.steady
    self.change { state in
      state.core.forget(endedBefore: now - state.core.policy.retention)
      for known in Array(state.runs.keys) where state.core.job(known) == nil {
        state.runs[known] = nil
      }
      return leases.isEmpty ? [] : state.core.heartbeatAnswered(stopping: leases, at: now)
    }
  }

  func drainBegan() { self.state.withLock { $0.core.drainBegan() } }

  func drainGraceEnded() {
    let now = Timestamp.steady
    self.change { $0.core.drainGraceEnded(at: now) }
  }

  /// Reads the core.
  func read<Value: Sendable>(_ body: (borrowing PluginRunner) -> Value) -> Value {
    self.state.withLock { body($0.core) }
  }

  /// The attempts that hold a share, each with all that it keeps on the disk.
  var runningWorkspaces: [(attempt: AttemptID, folder: String)] {
    self.state.withLock { state in
      state.core.heldLeases.compactMap { held in
        state.runs[held.attempt].map { (held.attempt, $0.workspace.folder) }
      }
    }
  }

  // MARK: Events

  /// An attempt's events, from behind a sequence number to its last; nil if it is not known.
  func events(of attempt: AttemptID, after sequence: Int64) -> EventSequence? {
    guard let run = self.state.withLock({ $0.runs[attempt] }) else { return nil }
    return EventSequence(driver: self, run: run, sequence: sequence)
  }

  /// Sends an attempt's events as they come.
  struct EventSequence {
    let driver: Driver
    let run: AttemptRun
    var sequence: Int64

    /// To the last one. Ends early when the caller is gone.
    func send(_ body: (JobEvent) async throws -> Void) async throws {
      var sequence = self.sequence
      // Watched first, read then: what comes between the two wakes us.
      for await _ in self.run.watch() {
        let attempt = self.run.spec.attempt
        let events = self.driver.read { Array($0.job(attempt)?.log.events(after: sequence) ?? []) }
        for event in events {
          try await body(event)
          sequence = event.sequence
          if case .finished = event.what { return }
        }
        if self.driver.read({ $0.job(attempt) == nil }) { return }
      }
      try Task.checkCancellation()
    }
  }

  // MARK: Effects

  /// Carries out effects until it is cancelled; then running steps are killed, and waited for.
  func run() async {
    await withDiscardingTaskGroup { group in
      for await work in self.work { self.carryOut(work.effect, work.run, in: &group) }
      // The process ends: nothing may be left of its steps.
      for run in self.state.withLock({ Array($0.runs.values) }) { run.endAtOnce() }
    }
    let workspaces = self.tools.configuration.workspaces
    try? await blocking { () throws(SystemError) in
      for name in try listFolder(workspaces) { try removeTree("\(workspaces)/\(name)") }
    }
  }

  private func carryOut(
    _ effect: Effect, _ run: AttemptRun, in group: inout DiscardingTaskGroup
  ) {
    switch effect {
    case .prepareWorkspace(let attempt):
      self.startLog(run, in: &group)
      group.addTask { await self.prepareWorkspace(attempt, run) }
    case .startStep(let attempt, let call):
      let control = run.began(call.index)
      group.addTask {
        var report = await self.runStep(call, run, control)
        run.buffer.stepEnded()
        report.logEnd = run.buffer.size
        self.received(.stepEnded(index: call.index, report), for: attempt)
      }
    case .terminateStep(_, let index):
      run.terminate(index)
    case .killStep(_, let index):
      run.kill(index)
    case .setTimer(let attempt, let timer, let duration):
      run.keep(
        self.tools.loop.scheduleTask(in: TimeAmount(duration)) {
          self.received(.timerFired(timer), for: attempt)
        })
    case .wrapUp(let attempt):
      if !run.hasLog { self.startLog(run, in: &group) }
      group.addTask { await self.wrapUp(attempt, run) }
    case .publish:
      run.wake()
    case .released(let attempt):
      run.release()
      self.countEnd(of: attempt)
    }
  }

  private func startLog(_ run: AttemptRun, in group: inout DiscardingTaskGroup) {
    run.logBegan()
    let appender = LogAppender(
      client: self.tools.logs, name: run.spec.logName, buffer: run.buffer,
      refused: { self.received(.outOfRoom($0), for: run.spec.attempt) })
    group.addTask { run.logEnd.fulfil(await appender.run()) }
  }

  private func prepareWorkspace(_ attempt: AttemptID, _ run: AttemptRun) async {
    do {
      try await blocking { () throws(SystemError) in
        try self.tools.workspaces.make(run.workspace)
      }
      self.received(.workspacePrepared(logBytes: run.buffer.size), for: attempt)
    } catch {
      self.received(.workspaceFailed("\(error)"), for: attempt)
    }
  }

  private func wrapUp(_ attempt: AttemptID, _ run: AttemptRun) async {
    run.buffer.end()
    do {
      try await blocking { () throws(SystemError) in
        try self.tools.workspaces.remove(run.workspace)
      }
    } catch {
      self.tools.logger.warning(
        "a workspace could not be removed", metadata: ["error": "\(error)"])
    }
    let end = await run.logEnd.value()
    self.received(.wrappedUp(logBytes: end.bytes, problem: end.problem), for: attempt)
  }

  private func countEnd(of attempt: AttemptID) {
    guard case .finished(let end)? = self.read({ $0.job(attempt)?.log.events.last?.what }) else {
      return
    }
    self.tools.metrics.ended(end)
  }

  // MARK: Steps

  private func runStep(
    _ call: StepCall, _ run: AttemptRun, _ control: StepControl
  ) async -> StepReport {
    let environment = run.environment(
      own: call.environment, dataDirectory: self.tools.configuration.dataDirectory)
    switch call.action {
    case .run(let script):
      return await self.steps.run(
        call, script: script, spec: run.spec, workspace: run.workspace, environment: environment,
        buffer: run.buffer, control: control)
    case .uses(let plugin):
      return await self.runPlugin(plugin, call, run, control, environment: environment)
    }
  }

  private func runPlugin(
    _ plugin: String, _ call: StepCall, _ run: AttemptRun, _ control: StepControl,
    environment: [String: String]
  ) async -> StepReport {
    let started = ContinuousClock.now
    var context = PluginV1.BuildContext(run, call, environment: environment)
    do {
      // What an earlier step had there is not this one's.
      if call.index > 0 {
        try await blocking { () throws(SystemError) in
          try removeTree(run.workspace.plugin)
          try makeFolders(run.workspace.plugin)
        }
      }
      if case .archive(let digest)? = run.spec.source,
        await self.tools.plugins.wantsSourceArchive(plugin)
      {
        let archive = "\(run.workspace.scratch)/source.archive"
        try await control.heeding { try await self.tools.blobs.download(digest, to: archive) }
        context.sourceArchive = archive
      }
    } catch {
      return StepReport(
        ending: .broken("the source archive could not be fetched: \(error)"),
        logEnd: run.buffer.size)
    }
    if control.isStopped {
      return StepReport(ending: .broken("it was stopped before it began"), logEnd: run.buffer.size)
    }
    let allowed = self.read { $0.job(run.spec.attempt)?.remainingArtifacts ?? 0 }
    let result = await self.tools.plugins.execute(
      plugin, context, output: run.buffer, control: control, maximumArtifacts: allowed)
    var report = StepReport(
      ending: result.ending,
      usage: Usage(wallTime: ContinuousClock.now - started), outputs: result.outputs,
      logEnd: run.buffer.size)
    if result.ending != .answered(succeeded: true, message: "") {
      report.remark = fullDisk(at: run.workspace.work) ?? ""
    }
    do {
      if !result.artifacts.isEmpty {
        try await control.heeding {
          for file in result.artifacts { try await self.keep(file, of: run) }
        }
      }
    } catch {
      report.ending = .broken("\(error)")
    }
    report.logEnd = run.buffer.size
    return report
  }

  private func keep(_ file: PluginV1.ArtifactFile, of run: AttemptRun) async throws {
    guard let path = run.workspace.resolve(file.path), path != run.workspace.work else {
      throw PluginError("the artifact \(file.path) is not a file in the workspace")
    }
    let mode = try await blocking { () throws(SystemError) -> UInt32? in
      var status = stat()
      guard stat(path, &status) == 0 else { throw SystemError("read", path) }
      return status.st_mode & S_IFMT == S_IFREG ? status.st_mode & 0o7777 : nil
    }
    guard let mode else {
      throw PluginError("the artifact \(file.path) is not a regular file")
    }
    let digest: Digest
    do {
      digest = try await self.tools.blobs.upload(path)
    } catch {
      throw PluginError("the artifact \(file.path) could not be uploaded: \(error)")
    }
    self.received(
      .artifactKept(Artifact(name: file.name, path: file.path, digest: digest, mode: mode)),
      for: run.spec.attempt)
  }
}

extension Effect {
  /// The attempt it concerns.
  var attempt: AttemptID {
    switch self {
    case .prepareWorkspace(let attempt), .startStep(let attempt, _),
      .terminateStep(let attempt, _), .killStep(let attempt, _), .setTimer(let attempt, _, _),
      .wrapUp(let attempt), .publish(let attempt), .released(let attempt):
      attempt
    }
  }
}
