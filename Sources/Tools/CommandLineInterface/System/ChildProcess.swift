import Glibc
import Synchronization

/// How a process ended.
package enum ProcessEnd: Hashable, Sendable, CustomStringConvertible {
  case exited(code: CInt)
  case signalled(number: CInt)

  /// Whether the process ended itself.
  package var isByItself: Bool {
    if case .exited = self { true } else { false }
  }

  package var description: String {
    switch self {
    case .exited(let code): "exit code \(code)"
    case .signalled(let number): "signal \(number)"
    }
  }
}

/// A program that was started as a child of this process, in a process group of its own: Ctrl-C on
/// the terminal reaches only this process, which then ends its children in order.
package final class ChildProcess: Sendable {
  /// What to start.
  package struct Command: Sendable {
    package var program: String
    package var arguments: [String] = []
    /// On top of this process' environment.
    package var environment: [String: String] = [:]
    /// Variables of this process that it does not get.
    package var removedEnvironment: Set<String> = []
    /// Its standard input; nil is /dev/null.
    package var input: OpenFile?
    /// Its standard output; nil is /dev/null.
    package var output: OpenFile?
    /// Its standard error; nil is where its standard output goes.
    package var errors: OpenFile?

    package init(_ program: String, _ arguments: [String] = []) {
      self.program = program
      self.arguments = arguments
    }
  }

  package let id: pid_t
  private let ended: Mutex<(end: ProcessEnd?, waiters: [CheckedContinuation<ProcessEnd, Never>])>

  private init(_ id: pid_t) {
    self.id = id
    self.ended = Mutex((nil, []))
  }

  /// Starts a program. The thread that starts it stays until the program ends: PR_SET_PDEATHSIG,
  /// which ``Watched`` uses, is about the thread that made the child.
  package static func start(_ command: Command) async throws -> ChildProcess {
    try await withCheckedThrowingContinuation { continuation in
      startThread {
        let child: ChildProcess
        do {
          child = ChildProcess(try self.spawn(command))
        } catch {
          return continuation.resume(throwing: error)
        }
        continuation.resume(returning: child)
        child.waitForEnd()
      }
    }
  }

  /// Runs a program to its end.
  package static func run(_ command: Command) async throws -> ProcessEnd {
    await (try self.start(command)).end()
  }

  /// Suspends until it has ended.
  package func end() async -> ProcessEnd {
    await withCheckedContinuation { continuation in
      let end = self.ended.withLock { state in
        if state.end == nil { state.waiters.append(continuation) }
        return state.end
      }
      if let end { continuation.resume(returning: end) }
    }
  }

  /// How it ended; nil while it runs.
  package var hasEnded: ProcessEnd? { self.ended.withLock { $0.end } }

  /// Sends a signal, unless it has ended.
  package func signal(_ number: CInt) {
    // Under the lock: once it is reaped, the number may be another process'.
    self.ended.withLock { state in
      if state.end == nil { kill(self.id, number) }
    }
  }

  private func waitForEnd() {
    // Waits without reaping, so that `signal` never meets a number that is free again.
    var information = siginfo_t()
    while waitid(P_PID, id_t(self.id), &information, WEXITED | WNOWAIT) != 0 && errno == EINTR {}
    let waiters = self.ended.withLock { state in
      var status: CInt = 0
      while waitpid(self.id, &status, 0) < 0 && errno == EINTR {}
      let end: ProcessEnd =
        status & 0x7f == 0
        ? .exited(code: (status >> 8) & 0xff) : .signalled(number: status & 0x7f)
      state.end = end
      defer { state.waiters = [] }
      return state.waiters.map { ($0, end) }
    }
    for (waiter, end) in waiters { waiter.resume(returning: end) }
  }

  private static func spawn(_ command: Command) throws(SystemError) -> pid_t {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    if let input = command.input {
      posix_spawn_file_actions_adddup2(&actions, input.descriptor, STDIN_FILENO)
    } else {
      posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
    }
    if let output = command.output {
      posix_spawn_file_actions_adddup2(&actions, output.descriptor, STDOUT_FILENO)
    } else {
      posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
    }
    posix_spawn_file_actions_adddup2(
      &actions, command.errors?.descriptor ?? STDOUT_FILENO, STDERR_FILENO)

    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    // What this process ignores or blocks, its children must not.
    var signals = sigset_t()
    sigemptyset(&signals)
    posix_spawnattr_setsigmask(&attributes, &signals)
    for number in [SIGINT, SIGTERM, SIGHUP, SIGPIPE] { sigaddset(&signals, number) }
    posix_spawnattr_setsigdefault(&attributes, &signals)
    posix_spawnattr_setpgroup(&attributes, 0)
    posix_spawnattr_setflags(
      &attributes,
      Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP))

    let arguments = [command.program] + command.arguments
    let environment = self.environment(
      with: command.environment, without: command.removedEnvironment)
    var id: pid_t = 0
    let number = withCStrings(arguments) { arguments in
      withCStrings(environment) { environment in
        posix_spawnp(&id, command.program, &actions, &attributes, arguments, environment)
      }
    }
    guard number == 0 else { throw SystemError("start \(command.program)", number: number) }
    return id
  }

  private static func environment(
    with added: [String: String], without removed: Set<String>
  ) -> [String] {
    var entries: [String] = []
    var entry = environ
    while let text = entry.pointee {
      let pair = String(cString: text)
      let name = String(pair.prefix { $0 != "=" })
      if added[name] == nil, !removed.contains(name) { entries.append(pair) }
      entry += 1
    }
    return entries + added.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
  }
}

/// C strings that live as long as the call, ended by nil.
func withCStrings<Result>(
  _ strings: [String], _ body: ([UnsafeMutablePointer<CChar>?]) -> Result
) -> Result {
  var pointers: [UnsafeMutablePointer<CChar>?] = strings.map { strdup($0) }
  pointers.append(nil)
  defer { for pointer in pointers { free(pointer) } }
  return body(pointers)
}

/// Runs `body` on a thread of its own, which may block.
func startThread(_ body: @escaping @Sendable () -> Void) {
  final class Box: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var thread = pthread_t()
  let box = Unmanaged.passRetained(Box(body))
  let result = pthread_create(
    &thread, nil,
    { argument in
      Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue().body()
      return nil
    }, box.toOpaque())
  precondition(result == 0, "no thread can be made: \(SystemError.text(result))")
  pthread_detach(thread)
}
