import Glibc
import Synchronization

/// A real PostgreSQL server for tests: a child on a unix socket in a folder of its own, as another
/// user where the tests run as root, whom it refuses. It ends and takes its folder with it when this
/// is let go.
package final class PostgresServer: Sendable {
  /// Why a test has no server.
  package struct StartError: Error, Sendable, CustomStringConvertible {
    package let description: String
  }

  /// The folder of the programs, if they are installed: Debian has one for each version.
  private static let programs: String? = {
    let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin"
    let versions = (12...30).reversed().map { "/usr/lib/postgresql/\($0)/bin" }
    return (versions + path.split(separator: ":").map(String.init)).first {
      access("\($0)/postgres", X_OK) == 0 && access("\($0)/initdb", X_OK) == 0
    }
  }()

  /// For `.enabled(if:)` of tests that need one.
  package static var isInstalled: Bool { self.programs != nil }
  package static let whyNot = "PostgreSQL is not installed (Debian: apt install postgresql)"

  package let folder: String
  private let options: [String]
  private let process = Mutex<pid_t?>(nil)

  /// Makes a database cluster and starts its server; the socket answers soon after.
  ///
  /// - Parameter options: Settings, such as `fsync=off`.
  package init(options: [String] = []) throws(StartError) {
    guard let programs = Self.programs else { throw StartError(description: Self.whyNot) }
    var template = Array("/tmp/millrace-pg-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else {
      throw StartError(description: "no folder in /tmp: \(String(cString: strerror(errno)))")
    }
    self.folder = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    self.options = options
    if let user = Self.user { chown(self.folder, user.uid, user.gid) }
    let status = try Self.wait(
      Self.spawn(
        "\(programs)/initdb",
        [
          "-D", self.data, "-U", "millrace", "-A", "trust", "-E", "UTF8", "--locale=C", "-N",
        ]))
    guard status == 0 else { throw StartError(description: "initdb ended with status \(status)") }
    try self.start()
  }

  deinit {
    self.kill()
    self.removeFolder()
  }

  private var data: String { "\(self.folder)/data" }

  /// The address of one of its databases.
  package func address(of database: String, user: String = "millrace") -> String {
    "postgresql://\(user)@/\(database)?host=\(self.folder)"
  }

  /// Starts it again after ``kill()``.
  package func start() throws(StartError) {
    guard let programs = Self.programs else { throw StartError(description: Self.whyNot) }
    // What a killed one leaves would name a process that may be another's by now.
    unlink("\(self.data)/postmaster.pid")
    var words = ["-D", self.data, "-k", self.folder, "-h", ""]
    for option in self.options { words += ["-c", option] }
    let child = try Self.spawn("\(programs)/postgres", words)
    self.process.withLock { $0 = child }
  }

  /// Ends it as a crash would; its children follow at once.
  package func kill() {
    let child = self.process.withLock { process in
      defer { process = nil }
      return process
    }
    guard let child else { return }
    Glibc.kill(child, SIGKILL)
    _ = Self.wait(child)
  }

  /// Makes it let nobody in, and the connections that there are hang.
  package func signal(_ number: Int32) {
    if let child = self.process.withLock({ $0 }) { Glibc.kill(child, number) }
  }

  package func removeFolder() {
    if let child = try? Self.spawn("/bin/rm", ["-rf", self.folder], isOwn: true) {
      _ = Self.wait(child)
    }
  }

  // MARK: - Processes

  /// Whom the server runs as, where it must not run as we do.
  private static var user: (uid: uid_t, gid: gid_t)? {
    guard geteuid() == 0, let entry = getpwnam("postgres") else { return nil }
    return (entry.pointee.pw_uid, entry.pointee.pw_gid)
  }

  private static func spawn(
    _ program: String, _ words: [String], isOwn: Bool = false
  ) throws(StartError) -> pid_t {
    var words = [program] + words
    if let user = self.user, !isOwn {
      words =
        [
          "/usr/bin/setpriv", "--reuid=\(user.uid)", "--regid=\(user.gid)", "--clear-groups", "--",
        ] + words
    }
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
    let result = posix_spawn(&child, words[0], &files, nil, &arguments, environ)
    guard result == 0 else {
      throw StartError(description: "\(words[0]): \(String(cString: strerror(result)))")
    }
    return child
  }

  private static func wait(_ child: pid_t) -> Int32 {
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 && errno == EINTR {}
    return status
  }
}
