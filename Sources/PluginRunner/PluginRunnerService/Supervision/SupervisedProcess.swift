import CProcess
import Domain
import Glibc
import PluginKit
import Synchronization

/// A program that runs under `millrace-step-supervisor`: all its descendants end with it, with an
/// order to, or with the runner.
package final class SupervisedProcess: Sendable {
  /// What to start, and with what.
  package struct Launch: Sendable {
    /// The supervisor's path.
    package var supervisor: String
    /// A program that makes the sandbox, with its arguments; empty is none.
    package var sandbox: [String] = []
    package var arguments: [String]
    /// The program's alone: a pipeline may have set it, and the supervisor and what makes the sandbox
    /// are outside.
    package var environment: [String: String]
    /// The program's working directory; nil is where the sandbox begins.
    package var directory: String?
    /// `cgroup.procs` files that the program joins.
    package var cgroups: [Descriptor] = []

    package init(
      supervisor: String, sandbox: [String] = [], arguments: [String],
      environment: [String: String], directory: String? = nil, cgroups: [Descriptor] = []
    ) {
      self.supervisor = supervisor
      self.sandbox = sandbox
      self.arguments = arguments
      self.environment = environment
      self.directory = directory
      self.cgroups = cgroups
    }
  }

  /// How it all ended, once no process was left.
  package enum Exit: Hashable, Sendable {
    case exited(code: Int32, signal: Int32, cpu: Duration, peakMemory: ByteCount)
    /// The program never began.
    case notStarted(String)
    /// The supervisor itself was ended by somebody; what it watched over may live on.
    case supervisorLost(String)
  }

  /// The child of ours: the sandbox program, or the supervisor.
  package let pid: pid_t
  private let control: Descriptor
  private let exit = Promise<Exit>()
  private let sweeps = Mutex(Sweeps())

  /// Orders to sweep that have not been carried out.
  private struct Sweeps {
    var waiting: [Promise<Void>] = []
    /// No supervisor is left to do it, and nothing left to sweep.
    var isOver = false
    /// The newest process at the last one, and when that was; and whether it was the newest at the one
    /// before, too: a process has its number a moment before anybody can see it.
    var last: (newest: pid_t, time: ContinuousClock.Instant, isOld: Bool)?
  }

  /// Starts the program. Its standard streams are the three descriptors.
  package static func launch(
    _ launch: Launch, input: Int32, output: Int32, error: Int32
  ) throws(SystemError) -> SupervisedProcess {
    let (ours, theirs) = try Descriptor.socketPair()
    var arguments = launch.sandbox + [launch.supervisor]
    if let directory = launch.directory { arguments += ["--chdir", directory] }
    if !launch.cgroups.isEmpty { arguments += ["--cgroups", "\(launch.cgroups.count)"] }
    arguments += ["--"] + launch.arguments
    let environment = try Self.file(launch.environment)
    let passed = [input, output, error, theirs.raw, environment.raw] + launch.cgroups.map(\.raw)
    let pid = try spawn(
      arguments, environment: Self.outside(launch.environment), descriptors: passed)
    theirs.close()
    return SupervisedProcess(pid: pid, control: ours)
  }

  /// The environment as the supervisor takes it.
  static func file(_ environment: [String: String]) throws(SystemError) -> Descriptor {
    try Descriptor.memory(
      "environment", environment.flatMap { Array("\($0.key)=\($0.value)".utf8) + [0] })
  }

  /// What the supervisor and the sandbox's program get of it: where programs are, which is the
  /// runner's word, and the marks that leftovers are found by.
  private static func outside(_ environment: [String: String]) -> [String] {
    let path = AttemptRun.systemEnvironment["PATH"].map { ["PATH=\($0)"] } ?? []
    return path + Leftovers.marks.compactMap { name in environment[name].map { "\(name)=\($0)" } }
  }

  private init(pid: pid_t, control: Descriptor) {
    self.pid = pid
    self.control = control
    Threads.start("step-\(pid)") { [self] in self.watch() }
  }

  /// SIGTERM to the program's process group.
  package func terminate() { self.order("t") }

  /// SIGKILL to the whole tree.
  package func kill() { self.order("k") }

  /// SIGKILL to everything but the program itself. Waits until that has been done: whatever the
  /// program starts from then on is left alone.
  package func sweep() async {
    let swept = Promise<Void>()
    let newest = millrace_newest_process()
    let now = ContinuousClock.now
    let isNeeded = self.sweeps.withLock { sweeps in
      let last = sweeps.last.flatMap { now - $0.time < Self.newestIsSure ? $0 : nil }
      let isOld = last?.newest == newest
      sweeps.last = newest > 0 ? (newest, now, isOld) : nil
      // No process was started since it was last looked what there is.
      if isOld, last?.isOld == true { return false }
      if !sweeps.isOver { sweeps.waiting.append(swept) }
      return !sweeps.isOver
    }
    guard isNeeded else { return }
    self.order("s")
    await swept.value()
  }

  /// Waits until no process is left.
  package func ended() async -> Exit { await self.exit.value() }

  private static let newestIsSure = Duration.milliseconds(millrace_newest_process_milliseconds())

  private func order(_ letter: Unicode.Scalar) {
    var byte = UInt8(letter.value)
    // A supervisor that is gone has nothing left to be told.
    _ = self.control.use { send($0, &byte, 1, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)) }
  }

  /// Reads the supervisor's lines to their end, then takes its exit status off the system.
  private func watch() {
    var line = [UInt8]()
    var said: Exit?
    var chunk = [UInt8](repeating: 0, count: 512)
    // A longer line would not be its words.
    while line.count < 4_096 {
      let count = recv(self.control.raw, &chunk, chunk.count, 0)
      if count < 0 && errno == EINTR { continue }
      if count <= 0 { break }
      for byte in chunk[..<count] {
        guard byte == UInt8(ascii: "\n") else {
          line.append(byte)
          continue
        }
        let text = String(decoding: line, as: UTF8.self)
        line.removeAll(keepingCapacity: true)
        if text == "swept" { self.sweptOnce() } else { said = Self.exit(from: text) ?? said }
      }
    }
    let waiting = self.sweeps.withLock { sweeps in
      sweeps.isOver = true
      defer { sweeps.waiting = [] }
      return sweeps.waiting
    }
    for sweep in waiting { sweep.fulfil(()) }
    if said == nil { _ = Glibc.kill(self.pid, SIGKILL) }
    var status: Int32 = 0
    while waitpid(self.pid, &status, 0) < 0 && errno == EINTR {}
    self.control.close()
    self.exit.fulfil(said ?? .supervisorLost("its supervisor ended with status \(status)"))
  }

  private func sweptOnce() {
    let first = self.sweeps.withLock { sweeps in
      sweeps.waiting.isEmpty ? nil : sweeps.waiting.removeFirst()
    }
    first?.fulfil(())
  }

  private static func exit(from text: String) -> Exit? {
    for line in text.split(separator: "\n") {
      let words = line.split(separator: " ")
      let numbers = words.dropFirst().compactMap { Int64($0) }
      if words.first == "exited", numbers.count == 4 {
        return .exited(
          code: Int32(clamping: numbers[0]), signal: Int32(clamping: numbers[1]),
          cpu: .microseconds(numbers[2]), peakMemory: ByteCount(numbers[3]))
      }
      if words.first == "failed", numbers.count == 2 {
        let reason = String(cString: strerror(Int32(clamping: numbers[0])))
        switch numbers[1] {
        case 1: return .notStarted("cannot join its cgroup: \(reason)")
        case 2: return .notStarted("cannot enter its working directory: \(reason)")
        case 3: return .notStarted("cannot execute the program: \(reason)")
        case 4: return .notStarted("cannot read its environment: \(reason)")
        default: return .notStarted("cannot make a process: \(reason)")
        }
      }
    }
    return nil
  }
}

/// Starts a program in a session of its own; it gets exactly these descriptors, from 0 on.
func spawn(
  _ arguments: [String], environment: [String], descriptors: [Int32]
) throws(SystemError) -> pid_t {
  var argv = arguments.map { strdup($0) } + [nil]
  var envp = environment.map { strdup($0) } + [nil]
  defer { for string in argv + envp { free(string) } }
  var pid: pid_t = 0
  let result = millrace_spawn(&pid, &argv, &envp, descriptors, Int32(descriptors.count))
  guard result == 0 else { throw SystemError("start", arguments[0], code: result) }
  return pid
}
