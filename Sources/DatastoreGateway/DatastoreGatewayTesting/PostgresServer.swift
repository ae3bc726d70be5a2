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

  /// The name of the only user who needs a password; tests make it.
  package static let guardedUser = "guarded"

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
    // All are let in but one user, who needs a password.
    guard let rules = fopen("\(self.data)/pg_hba.conf", "w") else {
      throw StartError(description: "pg_hba.conf: \(String(cString: strerror(errno)))")
    }
    fputs("local all \(Self.guardedUser) scram-sha-256\nlocal all all trust\n", rules)
    fclose(rules)
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
    var words = ["-D", self.data, "-k", self.folder, "-h", ""]
    for option in self.options { words += ["-c", option] }
    let child = try Self.spawn("\(programs)/postgres", words)
    self.process.withLock { $0 = child }
  }

  /// Ends it and all its processes as a crash would, and waits until they are gone: they have the
  /// files open.
  package func kill() {
    let child = self.process.withLock { process in
      defer { process = nil }
      return process
    }
    guard let child else { return }
    // A stopped one starts no further processes.
    Glibc.kill(child, SIGSTOP)
    let children = Self.children(of: child)
    for process in children + [child] { Glibc.kill(process, SIGKILL) }
    _ = Self.wait(child)
    while children.contains(where: { Self.parent(of: $0) != nil }) { usleep(1_000) }
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

  /// The parent of a process; `nil` if it has ended, whether somebody has asked for its status or not.
  private static func parent(of process: pid_t) -> pid_t? {
    guard let file = fopen("/proc/\(process)/stat", "r") else { return nil }
    defer { fclose(file) }
    var buffer = Array(repeating: UInt8(0), count: 1_024)
    let count = fread(&buffer, 1, buffer.count, file)
    // The name, in parentheses, may hold anything; behind it are the state and the parent.
    let words = String(decoding: buffer.prefix(count), as: UTF8.self)
      .split(separator: ")").last?.split(separator: " ")
    guard let words, words.count > 1, words[0] != "Z", words[0] != "X" else { return nil }
    return pid_t(words[1])
  }

  private static func children(of process: pid_t) -> [pid_t] {
    guard let folder = opendir("/proc") else { return [] }
    defer { closedir(folder) }
    var children: [pid_t] = []
    while let entry = readdir(folder) {
      // In place: an entry ends behind its name, and a copy of the whole field would read on.
      let name = withUnsafeBytes(of: &entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if let id = pid_t(name), self.parent(of: id) == process { children.append(id) }
    }
    return children
  }

  private static func wait(_ child: pid_t) -> Int32 {
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 && errno == EINTR {}
    return status
  }
}
