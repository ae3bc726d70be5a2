import Glibc
import PluginKit

/// A program that a plugin runs: `tar`, `git`, `curl`, `cp`.
struct Program {
  /// Output kept for a message, from its end.
  private static let maximumKeptBytes = 4 << 10

  /// Runs it to its end with its output in the step's log. Cancelling the step ends it.
  static func run(
    _ arguments: [String], in directory: String, environment: [String: String] = [:],
    events: StepEvents
  ) async throws {
    let output = try await self.capture(
      arguments, in: directory, environment: environment
    ) { events.log(Array($0)) }
    guard output.status == 0 else {
      throw StepFailure("\(arguments[0]) ended with \(output.said)")
    }
  }

  /// How a program ended, and the last of what it wrote.
  struct Output: Sendable {
    var status: Int32
    var text: String

    var said: String {
      let code = self.status & 0x7F == 0 ? "exit code \(self.status >> 8 & 0xFF)" : "a signal"
      let last = self.text.split(separator: "\n").suffix(3).joined(separator: "; ")
      return last.isEmpty ? code : "\(code): \(last)"
    }
  }

  /// Runs it to its end; `each` sees its output as it comes.
  static func capture(
    _ arguments: [String], in directory: String, environment: [String: String] = [:],
    input: [UInt8] = [], each: @escaping @Sendable (ArraySlice<UInt8>) -> Void = { _ in }
  ) async throws -> Output {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { throw failure("make", "a pipe") }
    let (reading, writing) = (ends[0], ends[1])
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    defer { close(reading) }
    let source = try Self.temporaryFile(input)
    defer { close(source) }
    let pid: pid_t
    do {
      defer { close(writing) }
      pid = try Self.spawn(
        arguments, in: directory, environment: environment, input: source, output: writing)
    }
    return try await withTaskCancellationHandler {
      let output = await withCheckedContinuation { continuation in
        Threads.start("program-\(pid)") {
          continuation.resume(returning: Self.wait(pid, reading, each))
        }
      }
      try Task.checkCancellation()
      return output
    } onCancel: {
      // The group, so that what the program started ends too.
      kill(-pid, SIGTERM)
    }
  }

  private static func spawn(
    _ arguments: [String], in directory: String, environment: [String: String], input: Int32,
    output: Int32
  ) throws -> pid_t {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, input, 0)
    posix_spawn_file_actions_adddup2(&actions, output, 1)
    posix_spawn_file_actions_adddup2(&actions, output, 2)
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var all = sigset_t()
    sigfillset(&all)
    posix_spawnattr_setsigdefault(&attributes, &all)
    posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETSIGDEF) | Int16(POSIX_SPAWN_SETPGROUP))
    // `env -C` changes the folder: the C library's call for it is not in Swift's view of it.
    let words = ["env", "-C", directory] + arguments
    var argv = words.map { strdup($0) } + [nil]
    let variables = environment.isEmpty ? Self.ownEnvironment : environment
    var envp = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer { for string in argv + envp { free(string) } }
    var pid: pid_t = 0
    let result = posix_spawnp(&pid, "env", &actions, &attributes, &argv, &envp)
    guard result == 0 else { throw failure("start", arguments[0], code: result) }
    return pid
  }

  /// How text is written and how the network is reached: what a program may have of a step's
  /// environment, since none of it names anything to run.
  static let passedVariables: Set<String> = [
    "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
  ]

  /// What a program needs of the plugin's environment, which is the runner's: where the step's is
  /// not given.
  static var ownEnvironment: [String: String] {
    var variables: [String: String] = [:]
    for name in self.passedVariables.union(["PATH", "HOME"]) {
      if let value = getenv(name) { variables[name] = String(cString: value) }
    }
    return variables
  }

  private static func wait(
    _ pid: pid_t, _ reading: Int32, _ each: (ArraySlice<UInt8>) -> Void
  ) -> Output {
    var kept: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 64 << 10)
    while true {
      let count = read(reading, &chunk, chunk.count)
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { break }
      each(chunk[..<count])
      kept += chunk[..<count]
      if kept.count > Self.maximumKeptBytes {
        kept.removeFirst(kept.count - Self.maximumKeptBytes)
      }
    }
    var status: Int32 = 0
    while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
    return Output(status: status, text: String(decoding: kept, as: UTF8.self))
  }

  /// A nameless file with these bytes, to be a program's input: a pipe could fill and block.
  private static func temporaryFile(_ bytes: [UInt8]) throws -> Int32 {
    if bytes.isEmpty {
      let file = open("/dev/null", O_RDONLY | O_CLOEXEC)
      guard file >= 0 else { throw failure("open", "/dev/null") }
      return file
    }
    guard let stream = tmpfile() else { throw failure("make", "a temporary file") }
    defer { fclose(stream) }
    let file = dup(fileno(stream))
    _ = fcntl(file, F_SETFD, FD_CLOEXEC)
    try MessageFrames.write(bytes, to: file)
    lseek(file, 0, SEEK_SET)
    return file
  }
}

/// A system call that failed, as a step's failure.
func failure(_ action: String, _ path: String, code: Int32 = errno) -> StepFailure {
  let name = code == ENOSPC ? " (ENOSPC)" : ""
  return StepFailure("cannot \(action) \(path): \(String(cString: strerror(code)))\(name)")
}
