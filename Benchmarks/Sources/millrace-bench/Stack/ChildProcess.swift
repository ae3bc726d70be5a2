import Glibc
import Synchronization

/// A program that this process started, in a process group of its own: Ctrl-C on the terminal does
/// not reach it, so that it is ended once, and in order.
final class ChildProcess: Sendable {
  let id: pid_t
  /// It has been waited for: the number may be another process' by now.
  private let isReaped = Mutex(false)

  /// Starts a program.
  ///
  /// - Parameters:
  ///   - arguments: The program's path, and what it is given.
  ///   - environment: On top of this process' own.
  ///   - output: The file that gets what it says.
  init(_ arguments: [String], environment added: [String: String], output: String) throws {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(
      &actions, STDOUT_FILENO, output, O_WRONLY | O_CREAT | O_APPEND, 0o644)
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)

    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    // The threads that run tasks have all signals blocked, which the program would inherit.
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETPGROUP) | Int16(POSIX_SPAWN_SETSIGMASK))

    var argv = arguments.map { strdup($0) } + [nil]
    var envp = Self.environment(with: added).map { strdup($0) } + [nil]
    defer { for string in argv + envp { free(string) } }
    var pid: pid_t = 0
    let number = posix_spawn(&pid, arguments[0], &actions, &attributes, &argv, &envp)
    guard number == 0 else {
      throw BenchmarkFailure("cannot start \(arguments[0]): \(String(cString: strerror(number)))")
    }
    self.id = pid
  }

  /// Whether it has ended.
  var hasEnded: Bool {
    self.isReaped.withLock { isReaped in
      var status: CInt = 0
      if !isReaped, waitpid(self.id, &status, WNOHANG) == self.id { isReaped = true }
      return isReaped
    }
  }

  /// Sends a signal, unless it has ended.
  func signal(_ number: CInt) {
    self.isReaped.withLock { isReaped in
      if !isReaped { kill(self.id, number) }
    }
  }

  private static func environment(with added: [String: String]) -> [String] {
    var entries: [String] = []
    var entry = environ
    while let text = entry.pointee {
      let pair = String(cString: text)
      if added[String(pair.prefix { $0 != "=" })] == nil { entries.append(pair) }
      entry += 1
    }
    return entries + added.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
  }
}
