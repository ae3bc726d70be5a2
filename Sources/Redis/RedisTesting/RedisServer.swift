import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// A real `redis-server` for one test: a child on a unix socket in a folder of its own, which ends
/// and takes its folder with it when this is let go. It keeps nothing on disk.
package final class RedisServer: Sendable {
  /// Why a test has no server.
  package struct StartError: Error, Sendable, CustomStringConvertible {
    package let description: String
  }

  /// The program, if it is installed.
  package static let program: String? = {
    let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/usr/local/bin"
    return path.split(separator: ":").map { "\($0)/redis-server" }
      .first { access($0, X_OK) == 0 }
  }()

  /// For `.enabled(if:)` of tests that need one.
  package static var isInstalled: Bool { self.program != nil }
  package static let whyNot = "redis-server is not installed (Debian: apt install redis-server)"

  private let folder: String
  private let options: [String]
  private let process = Mutex<pid_t?>(nil)

  /// Starts a server; the socket answers soon after.
  ///
  /// - Parameter options: Further command line options, such as `--requirepass`.
  package init(options: [String] = []) throws(StartError) {
    var template = Array("/tmp/redis-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else {
      throw StartError(description: "no folder in /tmp: \(String(cString: strerror(errno)))")
    }
    self.folder = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    self.options = options
    try self.start()
  }

  deinit {
    self.kill()
    unlink(self.socket)
    rmdir(self.folder)
  }

  /// The path of its socket.
  package var socket: String { "\(self.folder)/s" }

  /// Starts it again after ``kill()``, with nothing in it.
  package func start() throws(StartError) {
    guard let program = Self.program else { throw StartError(description: Self.whyNot) }
    let words =
      [
        program, "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no",
        "--dir", self.folder, "--daemonize", "no", "--loglevel", "warning",
        "--logfile", "/dev/null",
      ] + self.options
    var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
    arguments.append(nil)
    defer { for argument in arguments { free(argument) } }
    // Not the test's own output: whoever waits for its end must not wait for a server that a crash
    // has left behind.
    var files = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&files)
    defer { posix_spawn_file_actions_destroy(&files) }
    for descriptor in [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO] {
      posix_spawn_file_actions_addopen(&files, descriptor, "/dev/null", O_RDWR, 0)
    }
    var child: pid_t = 0
    let result = posix_spawn(&child, program, &files, nil, &arguments, environ)
    guard result == 0 else {
      throw StartError(description: "\(program): \(String(cString: strerror(result)))")
    }
    self.process.withLock { $0 = child }
  }

  /// Ends it as a crash would.
  package func kill() {
    let child = self.process.withLock { process in
      defer { process = nil }
      return process
    }
    guard let child else { return }
    Self.signal(child, SIGKILL)
    var status: Int32 = 0
    waitpid(child, &status, 0)
  }

  /// Makes it hang: it keeps its connections and answers nothing.
  package func pause() {
    if let child = self.process.withLock({ $0 }) { Self.signal(child, SIGSTOP) }
  }

  package func resume() {
    if let child = self.process.withLock({ $0 }) { Self.signal(child, SIGCONT) }
  }

  private static func signal(_ child: pid_t, _ number: Int32) {
    #if canImport(Glibc)
      _ = Glibc.kill(child, number)
    #else
      _ = Darwin.kill(child, number)
    #endif
  }
}
