import Domain
import Glibc
import PluginKit
import Synchronization
import Testing

@testable import PluginRunnerService

/// Programs that the build put beside the tests.
enum Programs {
  static let folder: String = {
    guard let real = realpath("/proc/self/exe", nil) else { return "." }
    defer { free(real) }
    let path = String(cString: real)
    return path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
  }()

  static var supervisor: String { self.folder + "/millrace-step-supervisor" }
  static var corePlugin: String { self.folder + "/millrace-core-plugin" }
}

/// What this machine lets a runner do: tests of what it does not are skipped, and say so.
enum Machine {
  static let limitsMemory: Bool = {
    let cgroups = Cgroups.probe(name: "millrace-test-\(getpid())-probe")
    defer { cgroups.remove() }
    return cgroups.limitsMemory
  }()

  static let hasBubblewrap: Bool = {
    guard let folder = try? TestFolder() else { return false }
    let choice = Sandbox.choose(
      "bubblewrap", supervisor: Programs.supervisor, dataDirectory: folder.path)
    return choice.map { $0.0 != .none } ?? false
  }()
}

extension Trait where Self == ConditionTrait {
  static var needsMemoryCgroup: Self {
    .enabled(if: Machine.limitsMemory, "no cgroup that limits memory is writable here")
  }

  static var needsBubblewrap: Self {
    .enabled(if: Machine.hasBubblewrap, "there is no bwrap, or it may not make namespaces here")
  }
}

/// A folder for one test, removed with it.
final class TestFolder: Sendable {
  let path: String

  init() throws {
    var template = Array("/tmp/millrace-test-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw SystemError("make", "a folder in /tmp") }
    self.path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  deinit {
    try? removeTree(self.path)
  }
}

/// A program under the supervisor, with its output.
struct Supervised {
  let process: SupervisedProcess
  private let output: Promise<String>

  init(
    _ script: String, sandbox: [String] = [], directory: String? = nil,
    environment: [String: String] = [:], cgroup: StepCgroup? = nil
  ) throws {
    let nothing = try Descriptor.open("/dev/null", O_RDONLY)
    let (read, write) = try Descriptor.pipe()
    var variables = ["PATH": "/usr/local/bin:/usr/bin:/bin"]
    variables.merge(environment) { _, own in own }
    self.process = try SupervisedProcess.launch(
      SupervisedProcess.Launch(
        supervisor: Programs.supervisor, sandbox: sandbox,
        arguments: ["bash", "-c", script], environment: variables, directory: directory,
        cgroups: cgroup?.folders.map(\.procs) ?? []),
      input: nothing.raw, output: write.raw, error: write.raw)
    write.close()
    let output = Promise<String>()
    self.output = output
    Thread.start {
      var text: [UInt8] = []
      var chunk = [UInt8](repeating: 0, count: 4_096)
      while case let count = Glibc.read(read.raw, &chunk, chunk.count), count > 0 {
        text += chunk[..<count]
      }
      output.fulfil(String(decoding: text, as: UTF8.self))
    }
  }

  func text() async -> String { await self.output.value() }
}

/// A named pipe that scripts write to when they have come to a point: tests wait for it, not for
/// time.
struct Gate {
  let path: String

  init(in folder: TestFolder) throws { try self.init(at: folder.path + "/gate") }

  init(at path: String) throws {
    self.path = path
    guard mkfifo(self.path, 0o666) == 0 else { throw SystemError("make", self.path) }
  }

  /// Waits for the next line.
  func line() async -> String {
    let path = self.path
    return await withCheckedContinuation { continuation in
      Thread.start {
        let file = open(path, O_RDONLY)
        var bytes = [UInt8](repeating: 0, count: 4_096)
        let count = max(0, Glibc.read(file, &bytes, bytes.count))
        close(file)
        continuation.resume(returning: String(decoding: bytes[..<count], as: UTF8.self))
      }
    }
  }
}

/// A short name for the runner's threads.
enum Thread {
  static func start(_ body: @escaping @Sendable () -> Void) {
    Threads.start("test", body)
  }
}

@Suite struct SupervisionTests {
  @Test(arguments: [("exit 0", Int32(0), Int32(0)), ("exit 7", 7, 0), ("kill -11 $$", -1, 11)])
  func anEndIsReportedAsItWas(script: String, code: Int32, signal: Int32) async throws {
    let supervised = try Supervised(script)
    guard case .exited(let gotCode, let gotSignal, _, let peak) = await supervised.process.ended()
    else {
      Issue.record("the program did not end by itself")
      return
    }
    #expect(gotCode == code)
    #expect(gotSignal == signal)
    #expect(peak.bytes > 100_000)
  }

  @Test func processorTimeOfGrandchildrenIsCounted() async throws {
    let busy = "for i in 1 2; do (i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done) & done; wait"
    guard case .exited(0, 0, let cpu, _) = await (try Supervised(busy)).process.ended() else {
      Issue.record("the program did not end well")
      return
    }
    #expect(cpu > .milliseconds(20))
  }

  @Test func aProgramThatIsNotThereIsSaidSo() async throws {
    let nothing = try Descriptor.open("/dev/null", O_RDWR)
    let process = try SupervisedProcess.launch(
      SupervisedProcess.Launch(
        supervisor: Programs.supervisor, arguments: ["no-such-program"], environment: [:]),
      input: nothing.raw, output: nothing.raw, error: nothing.raw)
    #expect(
      await process.ended()
        == .notStarted("cannot execute the program: No such file or directory"))
  }

  @Test func aMissingWorkingDirectoryIsSaidSo() async throws {
    let supervised = try Supervised("true", directory: "/no/such/folder")
    #expect(
      await supervised.process.ended()
        == .notStarted("cannot enter its working directory: No such file or directory"))
  }

  /// Children that ignore SIGTERM, in sessions of their own, orphaned.
  static let escape = """
    trap '' TERM
    (trap '' TERM; setsid bash -c 'trap "" TERM; sleep 1000' & setsid sleep 1000 &)
    sleep 1000 &
    echo ready > $GATE
    while :; do sleep 1000; done
    """

  @Test func aKillTakesEverySessionAndOrphanAlong() async throws {
    let folder = try TestFolder()
    let gate = try Gate(in: folder)
    let supervised = try Supervised(
      Self.escape, environment: ["GATE": gate.path, Leftovers.mark: folder.path])
    #expect(await gate.line() == "ready\n")
    supervised.process.terminate()
    #expect(Leftovers.find(markedWith: folder.path).count >= 4)
    supervised.process.kill()
    guard case .exited(_, let signal, _, _) = await supervised.process.ended() else {
      Issue.record("the supervisor was lost")
      return
    }
    #expect(signal == 9)
    #expect(Leftovers.find(markedWith: folder.path) == [])
  }

  @Test func whatAStepLeavesBehindEndsWithIt() async throws {
    let folder = try TestFolder()
    let supervised = try Supervised(
      "setsid sleep 1000 & setsid bash -c 'trap \"\" TERM; sleep 1000' & exit 3",
      environment: [Leftovers.mark: folder.path])
    guard case .exited(3, 0, _, _) = await supervised.process.ended() else {
      Issue.record("the program did not end with its code")
      return
    }
    #expect(Leftovers.find(markedWith: folder.path) == [])
    #expect(await supervised.text() == "")
  }

  @Test func aLostSupervisorIsToldAndTheMarkFindsTheRest() async throws {
    let folder = try TestFolder()
    let gate = try Gate(in: folder)
    let supervised = try Supervised(
      "setsid sleep 1000 & echo ready > $GATE; sleep 1000",
      environment: ["GATE": gate.path, Leftovers.mark: folder.path])
    _ = await gate.line()
    kill(supervised.process.pid, SIGKILL)
    guard case .supervisorLost = await supervised.process.ended() else {
      Issue.record("the loss was not told")
      return
    }
    #expect(Leftovers.kill(markedWith: folder.path) >= 1)
    #expect(Leftovers.find(markedWith: folder.path) == [])
  }

  @Test func aTermSignalReachesTheGroup() async throws {
    let folder = try TestFolder()
    let gate = try Gate(in: folder)
    let supervised = try Supervised(
      "trap 'exit 42' TERM; echo ready > $GATE; while :; do sleep 1000 & wait; done",
      environment: ["GATE": gate.path])
    _ = await gate.line()
    supervised.process.terminate()
    guard case .exited(42, 0, _, _) = await supervised.process.ended() else {
      Issue.record("the trap did not run")
      return
    }
  }
}

@Suite struct CgroupTests {
  @Test(.needsMemoryCgroup) func memoryBeyondTheLimitIsToldApart() async throws {
    let cgroups = Cgroups.probe(name: "millrace-test-\(getpid())-oom")
    defer { cgroups.remove() }
    let group = cgroups.make("step", memory: .mebibytes(48))
    let supervised = try Supervised(
      "x=$(head -c 200000000 /dev/zero | tr '\\0' 'x'); echo ${#x}", cgroup: group)
    let end = await supervised.process.ended()
    #expect(end != .exited(code: 0, signal: 0, cpu: .zero, peakMemory: ByteCount(0)))
    #expect(group.ranOutOfMemory)
    #expect((group.peakMemory ?? ByteCount(0)) > .mebibytes(30))
    group.remove()
    #expect(group.folders.allSatisfy { !isFolder($0.path) })
  }

  @Test func aStepWithinItsLimitIsNotCalledOutOfMemory() async throws {
    let cgroups = Cgroups.probe(name: "millrace-test-\(getpid())-ok")
    defer { cgroups.remove() }
    let group = cgroups.make("step", memory: .mebibytes(64))
    _ = await (try Supervised("true", cgroup: group)).process.ended()
    #expect(!group.ranOutOfMemory)
    group.remove()
  }
}

@Suite struct SandboxTests {
  /// An attempt's folders, and bubblewrap's words for them.
  func sandboxed(
    _ data: TestFolder, files: (Workspace) throws -> [String] = { _ in [] }
  ) throws -> (Workspace, words: [String]) {
    let workspace = Workspace(root: data.path + "/workspaces", attempt: "a")
    try workspace.make()
    let (sandbox, _) = try #require(
      Sandbox.choose("bubblewrap", supervisor: Programs.supervisor, dataDirectory: data.path))
    let words = sandbox.command(
      workspace: workspace, files: try files(workspace), dataDirectory: data.path,
      supervisor: Programs.supervisor)
    return (workspace, words)
  }

  @Test(.needsBubblewrap)
  func aStepSeesTheSystemToReadItsFolderToWriteAndNothingOfOthers() async throws {
    let data = try TestFolder()
    let (workspace, words) = try self.sandboxed(data)
    try makeFolders(data.path + "/workspaces/other")
    let supervised = try Supervised(
      """
      touch here /tmp/there && echo writes
      touch /usr/forbidden 2>/dev/null || echo system-is-read-only
      mount -o remount,rw / 2>/dev/null || echo no-remount
      ls \(data.path)/workspaces
      kill -9 1; echo $$
      """, sandbox: words, directory: workspace.work)
    guard case .exited(0, 0, _, _) = await supervised.process.ended() else {
      Issue.record("the sandboxed program failed: \(await supervised.text())")
      return
    }
    let lines = await supervised.text().split(separator: "\n")
    let own = workspace.folder.split(separator: "/").last ?? ""
    #expect(lines.prefix(4) == ["writes", "system-is-read-only", "no-remount", own])
    #expect(Int(lines.last ?? "").map { $0 < 100 } == true)
    #expect(access(workspace.work + "/here", F_OK) == 0)
    #expect(access(workspace.temporary + "/there", F_OK) == 0)
  }

  @Test(.needsBubblewrap) func aStepDoesNotSeeWhatIsHidden() async throws {
    // Beside the tests: below /tmp nothing is seen anyway.
    let farm = Programs.folder + "/farm-\(getpid())"
    try makeFolders(farm + "/gateway")
    try makeFolders(farm + "/runner")
    defer { try? removeTree(farm) }
    try createFile(farm + "/gateway/db", [1], mode: 0o644)
    let workspace = Workspace(root: farm + "/runner/workspaces", attempt: "a")
    try workspace.make()
    let (sandbox, _) = try #require(
      Sandbox.choose(
        "bubblewrap", supervisor: Programs.supervisor, dataDirectory: farm + "/runner",
        hidden: [farm]))
    let supervised = try Supervised(
      "ls \(farm); echo x > file && ls \(farm)/runner/workspaces/*/work",
      sandbox: sandbox.command(
        workspace: workspace, dataDirectory: farm + "/runner", hidden: [farm],
        supervisor: Programs.supervisor),
      directory: workspace.work)
    _ = await supervised.process.ended()
    #expect(await supervised.text() == "runner\nfile\n")
  }

  /// The runner and its plugins go into the same folders, with more rights.
  @Test(.needsBubblewrap) func aStepCannotLeadTheRunnerAstray() async throws {
    let data = try TestFolder()
    let (workspace, words) = try self.sandboxed(data) { workspace in
      try createFile(workspace.scratch + "/script", Array("runner's".utf8), mode: 0o644)
      try createFile(workspace.scratch + "/outputs", [], mode: 0o644)
      return [workspace.scratch + "/outputs"]
    }
    let supervised = try Supervised(
      """
      cd ..
      echo mine > scratch/script
      rm -f scratch/outputs scratch/script
      ln -s /etc/passwd scratch/source.archive
      for name in work home scratch; do mv $name $name.old && ln -s /etc $name; done
      echo a=1 >> scratch/outputs
      """, sandbox: words, directory: workspace.work)
    guard case .exited(0, 0, _, _) = await supervised.process.ended() else {
      Issue.record("the sandboxed program failed: \(await supervised.text())")
      return
    }
    #expect(try listFolder(workspace.folder) == ["home", "plugin", "scratch", "tmp", "work"])
    #expect([workspace.work, workspace.home, workspace.scratch].allSatisfy(isFolder))
    #expect(try listFolder(workspace.scratch) == ["outputs", "script"])
    #expect(try readFile(workspace.scratch + "/script") == "runner's")
    #expect(try readFile(workspace.scratch + "/outputs") == "a=1\n")
  }

  /// A library that is loaded by whatever starts with the environment, as `LD_PRELOAD` has it.
  @Test(.needsBubblewrap, arguments: [true, false])
  func aStepsEnvironmentIsNotThatOfWhatContainsIt(sandboxed: Bool) async throws {
    let data = try TestFolder()
    let (workspace, words) = try self.sandboxed(data)
    let supervised = try Supervised(
      "echo $LD_PRELOAD; tr '\\0' '\\n' < /proc/$PPID/environ", sandbox: sandboxed ? words : [],
      directory: workspace.work,
      environment: ["LD_PRELOAD": "/no/such/library.so", Leftovers.mark: data.path])
    _ = await supervised.process.ended()
    let lines = await supervised.text().split(separator: "\n")
    #expect(lines.contains("/no/such/library.so"))
    #expect(lines.contains("\(Leftovers.mark)=\(data.path)"))
    #expect(!lines.contains("LD_PRELOAD=/no/such/library.so"))
  }

  @Test(.needsBubblewrap) func aKillEndsTheSandbox() async throws {
    let data = try TestFolder()
    let (workspace, words) = try self.sandboxed(data)
    let gate = try Gate(at: workspace.work + "/gate")
    let supervised = try Supervised(
      SupervisionTests.escape, sandbox: words, directory: workspace.work,
      environment: ["GATE": gate.path, Leftovers.mark: data.path])
    #expect(await gate.line() == "ready\n")
    supervised.process.kill()
    let end = await supervised.process.ended()
    guard case .exited(_, 9, _, _) = end else {
      Issue.record("the program was not killed: \(end), \(await supervised.text())")
      return
    }
    #expect(Leftovers.find(markedWith: data.path) == [])
  }

  /// bubblewrap's own process only waits: the supervisor inside has the socket to the runner.
  @Test(.needsBubblewrap) func aStepOutlivesTheProgramThatMadeItsSandbox() async throws {
    let data = try TestFolder()
    let (workspace, words) = try self.sandboxed(data)
    let ready = try Gate(at: workspace.work + "/ready")
    let go = try Gate(at: workspace.work + "/go")
    let supervised = try Supervised(
      "echo ready > ready; cat go; exit 5", sandbox: words, directory: workspace.work,
      environment: [Leftovers.mark: data.path])
    #expect(await ready.line() == "ready\n")
    kill(supervised.process.pid, SIGKILL)
    Thread.start {
      let file = open(go.path, O_WRONLY)
      _ = write(file, "go\n", 3)
      close(file)
    }
    let end = await supervised.process.ended()
    guard case .exited(5, 0, _, _) = end else {
      Issue.record("the program did not end with its code: \(end)")
      return
    }
    #expect(await supervised.text() == "go\n")
    #expect(Leftovers.find(markedWith: data.path) == [])
  }

  @Test func anUnknownSandboxIsNone() {
    #expect(Sandbox.choose("chroot", supervisor: "", dataDirectory: "/") == nil)
  }
}

/// A plugin's call begins right after the one before was swept up.
@Test(.timeLimit(.minutes(1)))
func whatIsStartedAfterASweepIsLeftAlone() async throws {
  let (input, say) = try Descriptor.pipe()
  let (hear, output) = try Descriptor.pipe()
  let process = try SupervisedProcess.launch(
    SupervisedProcess.Launch(
      supervisor: Programs.supervisor,
      arguments: ["sh", "-c", "while read line; do sleep 60 & echo $!; done"],
      environment: ["PATH": "/usr/local/bin:/usr/bin:/bin"]),
    input: input.raw, output: output.raw, error: output.raw)
  input.close()
  output.close()

  func startChild() async throws -> pid_t {
    try await blocking { () throws(SystemError) -> pid_t in
      guard write(say.raw, "\n", 1) == 1 else { throw SystemError("write to", "sh") }
      var text = [UInt8](repeating: 0, count: 32)
      let count = read(hear.raw, &text, text.count)
      return pid_t(String(decoding: text.prefix(max(0, count)), as: UTF8.self).dropLast()) ?? -1
    }
  }
  func lives(_ child: pid_t) -> Bool {
    let state = (try? readFile("/proc/\(child)/stat"))?.split(separator: ")").last?.first {
      $0 != " "
    }
    return state.map { $0 != "Z" } ?? false
  }
  // The first sweep looks at every process, those that follow at the newest ones.
  for _ in 0..<50 {
    let before = try await startChild()
    await process.sweep()
    let after = try await startChild()
    #expect(before > 0 && after > 0)
    // Another turn of the shell: a signal that was on its way would have arrived.
    _ = try await startChild()
    #expect(lives(after))
    // Killed it is; a busy machine takes more turns to be done with it.
    while lives(before) { _ = try await startChild() }
  }
  process.kill()
  _ = await process.ended()
  // Nobody is left to do it.
  await process.sweep()
}
