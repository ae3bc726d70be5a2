import BuildProtos
import Domain
import Glibc
import RPC
import Synchronization
import Testing

@testable import PluginRunnerService

/// Whole jobs, over a socket, with real processes.
@Suite(.serialized) struct RunnerTests {
  @Test func aJobRunsItsStepsInOneWorkspace() async throws {
    try await self.runStepsInOneWorkspace(sandbox: "none")
  }

  @Test(.needsBubblewrap) func aJobRunsItsSandboxedStepsInOneWorkspace() async throws {
    try await self.runStepsInOneWorkspace(sandbox: "bubblewrap")
  }

  private func runStepsInOneWorkspace(sandbox: String) async throws {
    let world = try await RunnerWorld(sandbox: sandbox)
    let ended = try await world.run(
      world.job([
        run("echo one; echo value > file; echo answer=42 >> $MILLRACE_OUTPUT", id: "first"),
        run("cat file; echo got ${{ steps.first.outputs.answer }} >&2; pwd; echo $HOME"),
      ]))
    #expect(ended.finish?.outcome == .succeeded, "\(ended)")
    let lines = ended.log.split(separator: "\n").map(String.init)
    #expect(lines.prefix(3) == ["one", "value", "got 42"])
    #expect(lines.dropFirst(3).first?.hasSuffix("/work") == true)
    #expect(ended.steps.map(\.logStart) == [0, 4])
    #expect(ended.finish?.logBytes == Int64(ended.log.utf8.count))
    #expect(ended.events.map(\.sequence) == Array(1...Int64(ended.events.count)))
    #expect((ended.steps.first?.usage?.cpuMicros ?? 0) > 0)
    await world.end()
  }

  @Test func aFailingStepHasItsExitCodeAndItsLastWords() async throws {
    let world = try await RunnerWorld()
    let ended = try await world.run(world.job([run("echo before\nls /no/such\necho after")]))
    #expect(ended.finish?.outcome == .failed)
    #expect(ended.steps.first?.exitCode == 2)
    #expect(ended.log.hasPrefix("before\n"))
    #expect(!ended.log.contains("after"))
    await world.end()
  }

  @Test func aStoppedJobLeavesNoProcess() async throws {
    try await self.stopJob(sandbox: "none")
  }

  @Test(.needsBubblewrap) func aStoppedJobLeavesNoSandboxedProcess() async throws {
    try await self.stopJob(sandbox: "bubblewrap")
  }

  private func stopJob(sandbox: String) async throws {
    let world = try await RunnerWorld(sandbox: sandbox)
    let script = """
      trap '' TERM
      (trap '' TERM; setsid bash -c 'trap "" TERM; sleep 1000' & setsid sleep 1000 &)
      echo ready
      while :; do sleep 1000; done
      """
    let job = world.job([run(script), run("echo cleanup", if: "always()")])
    let running = Task { try await world.run(job) }
    await world.waitForLog("builds/b/j/1", "ready\n")
    #expect(Leftovers.find(markedWith: world.dataDirectory).count >= 3)
    _ = try await world.client.stopJob(
      RunnerV1.StopJobRequest(attemptID: "b/j/1", reason: "by ann", outcome: .cancelled))
    let ended = try await running.value
    #expect(ended.finish?.outcome == .cancelled)
    #expect(ended.finish?.message == "by ann")
    #expect(ended.log == "ready\ncleanup\n")
    #expect(Leftovers.find(markedWith: world.dataDirectory) == [])
    await world.end()
  }

  /// Stops the job that is described, and waits for its end.
  private func stop(_ world: RunnerWorld, _ running: Task<Ended, any Error>) async throws -> Ended {
    _ = try await world.client.stopJob(
      RunnerV1.StopJobRequest(attemptID: "b/j/1", reason: "by ann", outcome: .cancelled))
    return try await running.value
  }

  @Test(.timeLimit(.minutes(1)), arguments: ["run", "plugin"])
  func aStepIsStoppedWhileTheCacheIsAway(kind: String) async throws {
    // Until they are killed they write more than what may wait.
    let world = try await RunnerWorld(plugins: ["talker": Talker.script], stopGrace: "1s")
    let refused = world.cache.stall(.logs)
    let step =
      kind == "run"
      ? run("trap '' TERM; yes") : RunnerV1.StepSpec(action: .uses("talker"))
    let running = Task { try await world.run(world.job([step])) }
    await refused.value()
    _ = try await world.client.stopJob(
      RunnerV1.StopJobRequest(attemptID: "b/j/1", reason: "by ann", outcome: .cancelled))
    let request = RunnerV1.AttachJobRequest(attemptID: "b/j/1")
    for try await response in try await world.client.attachJob(request) {
      if case .step(let step) = response.event?.what, step.state == .finished { break }
    }
    // Only the step's end came while nothing was saved; the log's needs the cache, or a minute.
    world.cache.stall(.nothing)
    let ended = try await running.value
    let message = ended.finish?.message ?? ""
    #expect(ended.finish?.outcome == .cancelled, "\(message)")
    if kind == "run" {
      #expect(message.hasPrefix("by ann; the log lacks "), "\(message)")
      let saysSo = ended.log.contains(" bytes of output are missing here: ")
      #expect(saysSo)
    }
    #expect(ended.finish?.logBytes == Int64(ended.log.utf8.count))
    await world.end()
  }

  @Test(.timeLimit(.minutes(1))) func theFetchOfTheSourceEndsWithItsStep() async throws {
    let world = try await RunnerWorld()
    let reached = world.cache.stall(.reads)
    var job = world.job([RunnerV1.StepSpec(action: .uses("checkout"))])
    job.source = TypesV1.Source(
      origin: .archive(
        TypesV1.BlobDigest(hash: String(repeating: "0", count: 64), sizeBytes: 5_000_000)))
    let described = job
    let running = Task { try await world.run(described) }
    await reached.value()
    let ended = try await self.stop(world, running)
    #expect(ended.finish?.outcome == .cancelled)
    await world.end()
  }

  @Test(.timeLimit(.minutes(1))) func theUploadOfArtifactsEndsWithItsStep() async throws {
    let world = try await RunnerWorld()
    let reached = world.cache.stall(.writes)
    let job = world.job([
      run("head -c 3000000 /dev/zero > big"),
      RunnerV1.StepSpec(action: .uses("artifacts"), with: ["path": "big"]),
    ])
    let running = Task { try await world.run(job) }
    await reached.value()
    let ended = try await self.stop(world, running)
    #expect(ended.finish?.outcome == .cancelled)
    #expect(ended.artifacts.isEmpty)
    await world.end()
  }

  /// The cache asks for half a minute before each try, and the step holds its workspace meanwhile.
  @Test(.timeLimit(.minutes(1))) func artifactsThatFindNoRoomFailTheirStepSoon() async throws {
    let world = try await RunnerWorld()
    world.cache.stall(.room)
    let ended = try await world.run(
      world.job([
        run("echo built > small"),
        RunnerV1.StepSpec(action: .uses("artifacts"), with: ["path": "small"]),
      ]))
    #expect(ended.finish?.outcome == .failed)
    #expect(ended.finish?.message.contains("no space left on the device") == true)
    await world.end()
  }

  @Test func aStepBeyondItsTimeIsTimedOut() async throws {
    let world = try await RunnerWorld()
    var step = run("trap '' TERM; while :; do sleep 1000; done")
    step.timeout = GoogleProtobuf.Duration(nanos: 100_000_000)
    let ended = try await world.run(world.job([step]))
    #expect(ended.finish?.outcome == .timedOut)
    #expect(ended.steps.first?.message == "step 1 ran longer than its 100 ms")
    await world.end()
  }

  @Test(arguments: [10_000_000_000, Int64.max])
  func aTimeoutThatNoClockHasIsRefusedAndTheRunnerLivesOn(seconds: Int64) async throws {
    let world = try await RunnerWorld()
    let timeout = GoogleProtobuf.Duration(seconds: seconds, nanos: 1_999_999_999)
    var (job, step) = (world.job([run("true")]), run("true"))
    job.timeout = timeout
    step.timeout = timeout
    for (job, field) in [
      (job, "job.timeout"), (world.job([run("true"), step]), "job.steps[1].timeout"),
    ] {
      let refusal = await #expect(throws: RPCError.self) { _ = try await world.run(job) }
      #expect(refusal?.code == .invalidArgument)
      #expect(refusal?.message.contains("\(field) is \(seconds) s") == true)
    }
    job.timeout = GoogleProtobuf.Duration(seconds: 30 * 86_400)
    #expect(try await world.run(job).finish?.outcome == .succeeded)
    await world.end()
  }

  @Test func aLostStreamIsTakenUpByAttach() async throws {
    let world = try await RunnerWorld()
    let gate = try Gate(in: world.folder)
    let job = world.job([run("cat \(gate.path)"), run("echo done")])
    let first = try await world.client.runJob(RunnerV1.RunJobRequest(job: job))
    var seen: Int64 = 0
    for try await response in first {
      seen = response.event?.sequence ?? 0
      if seen == 2 { break }
    }
    first.cancel()
    let attached = Task {
      var sequences: [Int64] = []
      let request = RunnerV1.AttachJobRequest(attemptID: "b/j/1", afterSequence: 2)
      for try await response in try await world.client.attachJob(request) {
        sequences.append(response.event?.sequence ?? 0)
      }
      return sequences
    }
    Thread.start {
      let file = open(gate.path, O_WRONLY)
      _ = write(file, "go\n", 3)
      close(file)
    }
    #expect(try await attached.value == [3, 4, 5, 6])
    await #expect(throws: RPCError.self) {
      let request = RunnerV1.AttachJobRequest(attemptID: "unknown")
      for try await _ in try await world.client.attachJob(request) {}
    }
    await world.end()
  }

  @Test func anUnknownPluginRejectsTheJobWithTheKnownOnes() async throws {
    let world = try await RunnerWorld()
    let ended = try await world.run(world.job([RunnerV1.StepSpec(action: .uses("nothing"))]))
    #expect(ended.finish?.outcome == .rejected)
    #expect(ended.finish?.message.contains("has artifacts, checkout, webhook") == true)
    await world.end()
  }

  @Test func sourceIsCheckedOutAndArtifactsAreKept() async throws {
    let world = try await RunnerWorld()
    try makeFolders(world.folder.path + "/source/sub")
    try createFile(
      world.folder.path + "/source/sub/build.sh", Array("#!/bin/sh\necho built > out.bin\n".utf8),
      mode: 0o755)
    let archive = world.folder.path + "/source.tgz"
    let tar = try Supervised("tar czf \(archive) -C \(world.folder.path)/source .")
    _ = await tar.process.ended()
    let digest = try await BlobStore.digest(of: archive)
    let bytes = try readBytes(archive)
    world.cache.blobs.withLock { $0[digest.hash] = bytes }
    var job = world.job([
      RunnerV1.StepSpec(action: .uses("checkout")),
      run("cd sub && ./build.sh && chmod 755 out.bin && head -c 3000000 /dev/zero > big.bin"),
      RunnerV1.StepSpec(
        action: .uses("artifacts"), with: ["path": "sub/*.bin\n!sub/none", "name": "result"]),
    ])
    job.source = TypesV1.Source(
      origin: .archive(TypesV1.BlobDigest(hash: digest.hash, sizeBytes: digest.size)))
    let ended = try await world.run(job)
    #expect(ended.finish?.outcome == .succeeded, "\(ended.finish?.message ?? "") \(ended.log)")
    #expect(ended.artifacts.map(\.path) == ["sub/big.bin", "sub/out.bin"])
    #expect(ended.artifacts.last?.mode == 0o755)
    let kept = world.cache.blobs.withLock { $0[ended.artifacts.last?.digest?.hash ?? ""] }
    #expect(kept == Array("built\n".utf8))
    #expect(
      world.cache.blobs.withLock { $0[ended.artifacts.first?.digest?.hash ?? ""]?.count }
        == 3_000_000)
    await world.end()
  }

  @Test(arguments: [
    ("crash", "#!/bin/sh\nexit 3\n", "ended with exit code 3"),
    ("garbage", "#!/bin/sh\nhead -c 100 /dev/urandom | tr '\\000-\\377' '\\377'\nsleep 1000\n", ""),
    ("flood", "#!/bin/sh\nprintf '\\377\\377\\377\\177xxxx'; sleep 1000\n", "at most 4194304"),
  ])
  func aBrokenPluginFailsItsStepAndTheRunnerLivesOn(
    name: String, script: String, message: String
  ) async throws {
    let world = try await RunnerWorld(plugins: [name: script])
    let ended = try await world.run(world.job([RunnerV1.StepSpec(action: .uses(name))]))
    #expect(ended.finish?.outcome == .failed)
    #expect(ended.finish?.message.contains("the plugin \(name)") == true)
    #expect(ended.finish?.message.contains(message) == true, "\(ended.finish?.message ?? "")")
    let next = try await world.run(world.job([run("echo alive")], attempt: "c/j/1", lease: "l2"))
    #expect(next.log == "alive\n")
    await world.end()
  }

  @Test func aRunnerRefusesWhatItCannotHold() async throws {
    let world = try await RunnerWorld(slots: 1)
    let gate = try Gate(in: world.folder)
    let job = world.job([run("echo in > \(gate.path); cat \(gate.path)")])
    let running = Task { try await world.run(job) }
    _ = await gate.line()
    let refusal = await #expect(throws: RPCError.self) {
      _ = try await world.run(world.job([run("true")], attempt: "c/j/1", lease: "l2"))
    }
    #expect(refusal?.code == .resourceExhausted)
    let held = try await world.client.listJobs(RunnerV1.ListJobsRequest())
    #expect(held.jobs.map(\.attemptID) == ["b/j/1"])
    Thread.start { close(open(gate.path, O_WRONLY)) }
    #expect(try await running.value.finish?.outcome == .succeeded)
    let stale = await #expect(throws: RPCError.self) {
      _ = try await world.run(world.job([run("true")], attempt: "d/j/1"))
    }
    #expect(stale?.code == .failedPrecondition)
    await world.end()
  }

  @Test func aLogOfManyMegabytesArrivesComplete() async throws {
    let world = try await RunnerWorld()
    let count = 30_000_000
    let ended = try await world.run(
      world.job([run("head -c \(count) /dev/zero | tr '\\0' x")]))
    #expect(ended.finish?.outcome == .succeeded)
    #expect(ended.finish?.logBytes == Int64(count))
    #expect(ended.log.utf8.count == count)
    await world.end()
  }

  @Test func aRunnerThatEndsTakesItsStepsAlong() async throws {
    let world = try await RunnerWorld()
    let job = world.job([run("setsid sleep 1000 & echo ready; sleep 1000")])
    let running = Task { try await world.run(job) }
    await world.waitForLog("builds/b/j/1", "ready\n")
    await world.end()
    _ = await running.result
  }
}

extension RunnerWorld {
  /// Waits until a log has this text.
  func waitForLog(_ name: String, _ text: String) async {
    while self.cache.text(of: name) != text { await Task.yield() }
  }
}

func readBytes(_ path: String) throws -> [UInt8] {
  let file = try Descriptor.open(path, O_RDONLY)
  var bytes: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 65_536)
  while case let count = read(file.raw, &chunk, chunk.count), count > 0 { bytes += chunk[..<count] }
  return bytes
}
