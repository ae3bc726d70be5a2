import Glibc

/// What the kernel tells of one process; see proc(5).
struct ProcessStatus: Sendable {
  /// A file of /proc that we read is shorter.
  private static let maximumBytes = 16 << 10
  private static let ticksInSecond = max(1, sysconf(CInt(_SC_CLK_TCK)))

  var pid: pid_t
  var parent: pid_t
  /// User and system time of all its threads.
  var cpuTime: Duration
  /// That of its children that have ended and been waited for, and of theirs.
  var endedChildrenCPUTime: Duration

  /// Nil: there is no such process.
  init?(_ pid: pid_t) {
    // The name may hold anything; the fields begin behind its parenthesis, with the third.
    guard let text = Self.read("/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else {
      return nil
    }
    let fields = text[end...].split(separator: " ").dropFirst().map { Int64($0) ?? 0 }
    guard fields.count > 14 else { return nil }
    func time(_ user: Int, _ system: Int) -> Duration {
      .microseconds((fields[user - 3] + fields[system - 3]) * 1_000_000 / Int64(Self.ticksInSecond))
    }
    self.pid = pid
    self.parent = pid_t(fields[4 - 3])
    self.cpuTime = time(14, 15)
    self.endedChildrenCPUTime = time(16, 17)
  }

  /// The most memory that a process has had resident, in bytes.
  static func peakMemory(of pid: pid_t) -> Int64? {
    guard let text = self.read("/proc/\(pid)/status") else { return nil }
    let line = text.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
    let number = line?.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first
    return number.flatMap { Int64($0) }.map { $0 * 1_024 }
  }

  /// Every process of this machine.
  static var all: [ProcessStatus] {
    guard let directory = opendir("/proc") else { return [] }
    defer { closedir(directory) }
    var found: [ProcessStatus] = []
    while let entry = readdir(directory) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if let pid = pid_t(name), let status = ProcessStatus(pid) { found.append(status) }
    }
    return found
  }

  private static func read(_ path: String) -> String? {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var bytes = [UInt8](repeating: 0, count: self.maximumBytes)
    let count = Glibc.read(file, &bytes, bytes.count)
    return count > 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
  }
}
