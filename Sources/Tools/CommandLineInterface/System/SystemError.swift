import Glibc

/// A system call that failed, as a sentence.
package struct SystemError: Error, Hashable, Sendable, CustomStringConvertible {
  /// "cannot open /etc/shadow: permission denied".
  package let description: String
  package let number: CInt

  package init(_ operation: String, number: CInt = errno) {
    self.number = number
    self.description = "cannot \(operation): \(Self.text(number))"
  }

  package static func text(_ number: CInt) -> String {
    String(cString: strerror(number)).lowercased()
  }
}

/// Files, directories and the environment. Calls block: commands call them from tasks that have
/// nothing else to do.
package enum Files {
  /// A variable of the environment; an empty one counts as none.
  package static func environment(_ name: String) -> String? {
    guard let value = getenv(name) else { return nil }
    let text = String(cString: value)
    return text.isEmpty ? nil : text
  }

  /// What kind of file a path names, links not followed; nil if there is none.
  package static func status(_ path: String) -> stat? {
    var status = stat()
    return lstat(path, &status) == 0 ? status : nil
  }

  /// What kind of file a path names, links not followed; nil if there is none.
  package static func status(_ path: BytePath) throws(SystemError) -> stat? {
    var status = stat()
    if lstat(path.cString, &status) == 0 { return status }
    guard errno == ENOENT || errno == ENOTDIR else { throw SystemError("look at \(path)") }
    return nil
  }

  /// Where a symbolic link leads.
  package static func target(of link: BytePath) throws(SystemError) -> BytePath {
    var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
    let count = buffer.withUnsafeMutableBytes {
      readlink(link.cString, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
    }
    guard count >= 0 else { throw SystemError("read link \(link)") }
    return BytePath(buffer.prefix(count))
  }

  package static func isDirectory(_ path: String) -> Bool {
    var status = stat()
    return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
  }

  /// "a directory", "a pipe": what a path leads to; nil for a regular file, and where there is none.
  package static func specialKind(of path: String) -> String? {
    var status = stat()
    guard stat(path, &status) == 0 else { return nil }
    switch status.st_mode & S_IFMT {
    case S_IFREG: return nil
    case S_IFDIR: return "a directory"
    case S_IFIFO: return "a pipe"
    case S_IFSOCK: return "a socket"
    default: return "a device"
    }
  }

  package static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }
  package static func isExecutable(_ path: String) -> Bool { access(path, X_OK) == 0 }

  /// The path with links resolved and no dots; nil if it does not exist.
  package static func real(_ path: String) -> String? {
    guard let resolved = realpath(path, nil) else { return nil }
    defer { free(resolved) }
    return String(cString: resolved)
  }

  /// The path from the root, without asking the disk.
  package static func absolute(_ path: String) -> String {
    if path.hasPrefix("/") { return path }
    guard let directory = getcwd(nil, 0) else { return path }
    defer { free(directory) }
    return String(cString: directory) + "/" + path
  }

  /// Makes a directory and those above it.
  package static func makeDirectories(_ path: String, mode: mode_t = 0o755) throws(SystemError) {
    var made = path.hasPrefix("/") ? "" : "."
    for part in path.split(separator: "/") {
      made += "/" + part
      if mkdir(made, mode) != 0, errno != EEXIST { throw SystemError("make directory \(made)") }
    }
    guard self.isDirectory(path) else {
      throw SystemError("make directory \(path)", number: ENOTDIR)
    }
  }

  /// The names in a directory, sorted by their bytes.
  package static func names(in directory: BytePath) throws(SystemError) -> [BytePath] {
    guard let stream = opendir(directory.cString) else { throw SystemError("list \(directory)") }
    defer { closedir(stream) }
    var names: [BytePath] = []
    while let entry = readdir(stream) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { BytePath($0.prefix { $0 != 0 }) }
      if name != "." && name != ".." { names.append(name) }
    }
    return names.sorted()
  }

  /// A whole file.
  ///
  /// - Parameter limit: A longer one is refused.
  package static func read(_ path: String, limit: Int) throws(SystemError) -> [UInt8] {
    let file = try OpenFile(path, O_RDONLY)
    let bytes = try file.read(limit + 1)
    guard bytes.count <= limit else { throw SystemError("read \(path)", number: EFBIG) }
    return bytes
  }

  /// Writes a file that others see whole or not at all.
  package static func replace(_ path: String, with bytes: [UInt8]) throws(SystemError) {
    let temporary = "\(path).\(getpid()).new"
    try OpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC).write(bytes)
    guard rename(temporary, path) == 0 else { throw SystemError("rename to \(path)") }
  }

  /// An open file without a name, in `$TMPDIR`.
  package static func temporary() throws(SystemError) -> OpenFile {
    let directory = self.environment("TMPDIR") ?? "/tmp"
    var template = Array("\(directory)/millrace-XXXXXX".utf8CString)
    let descriptor = mkstemp(&template)
    guard descriptor >= 0 else { throw SystemError("make a temporary file in \(directory)") }
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    unlink(template)
    return OpenFile(descriptor: descriptor, path: "a temporary file in \(directory)")
  }

  /// The directory of this program's executable.
  package static var executableDirectory: String {
    let path = self.real("/proc/self/exe") ?? self.real(CommandLine.arguments[0]) ?? "."
    return String(path[..<(path.lastIndex(of: "/") ?? path.endIndex)])
  }
}

/// An open file, closed when the last reference goes.
///
/// Each caller reads and writes it from one task at a time: the position is the file's.
package final class OpenFile: Sendable {
  package let descriptor: CInt
  package let path: String

  package convenience init(
    _ path: String, _ flags: CInt, mode: mode_t = 0o644
  ) throws(SystemError) {
    try self.init(BytePath(path), flags, mode: mode)
  }

  package init(_ path: BytePath, _ flags: CInt, mode: mode_t = 0o644) throws(SystemError) {
    self.descriptor = open(path.cString, flags | O_CLOEXEC, mode)
    self.path = path.description
    if self.descriptor < 0 { throw SystemError("open \(path)") }
  }

  init(descriptor: CInt, path: String) {
    self.descriptor = descriptor
    self.path = path
  }

  deinit { close(self.descriptor) }

  package func write(_ bytes: some Collection<UInt8>) throws(SystemError) {
    let number: CInt = Array(bytes).withUnsafeBytes { buffer in
      var done = 0
      while done < buffer.count {
        let count = Glibc.write(self.descriptor, buffer.baseAddress! + done, buffer.count - done)
        if count < 0 {
          if errno == EINTR { continue }
          return errno
        }
        done += count
      }
      return 0
    }
    if number != 0 { throw SystemError("write \(self.path)", number: number) }
  }

  /// Up to `count` bytes from the position; fewer only at the end.
  package func read(_ count: Int) throws(SystemError) -> [UInt8] {
    var number: CInt = 0
    let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      while initialized < count {
        let got = Glibc.read(
          self.descriptor, buffer.baseAddress! + initialized, count - initialized)
        if got < 0 {
          if errno == EINTR { continue }
          number = errno
          return
        }
        if got == 0 { return }
        initialized += got
      }
    }
    if number != 0 { throw SystemError("read \(self.path)", number: number) }
    return bytes
  }

  /// Goes to an offset.
  package func seek(to offset: Int64) throws(SystemError) {
    guard lseek(self.descriptor, Int(offset), SEEK_SET) >= 0 else {
      throw SystemError("seek in \(self.path)")
    }
  }

  /// Takes the file for this process alone; false if another process has it.
  package func lock() throws(SystemError) -> Bool {
    if flock(self.descriptor, LOCK_EX | LOCK_NB) == 0 { return true }
    if errno == EWOULDBLOCK { return false }
    throw SystemError("lock \(self.path)")
  }
}
