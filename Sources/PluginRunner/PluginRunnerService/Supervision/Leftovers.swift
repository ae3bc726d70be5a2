import Glibc

/// Processes that an earlier incarnation of this runner left, by the mark in their environment.
package enum Leftovers {
  /// Every step and plugin has this variable; its value is the runner's data directory.
  package static let mark = "MILLRACE_RUNNER"
  /// The same for one attempt; its value is the attempt's folder.
  package static let attemptMark = "MILLRACE_ATTEMPT_FOLDER"

  static let marks = [Self.mark, Self.attemptMark]

  /// Ends them all, and those they make meanwhile. Says how many there were.
  package static func kill(markedWith value: String, attemptFolder: String? = nil) -> Int {
    var killed: Set<pid_t> = []
    // A fork outruns one scan, not ten.
    for _ in 0..<10 {
      let found = self.find(markedWith: value, attemptFolder: attemptFolder)
      if found.isEmpty { break }
      for pid in found {
        _ = Glibc.kill(pid, SIGKILL)
        killed.insert(pid)
      }
    }
    return killed.count
  }

  /// The marked processes that live; with an attempt's folder, that attempt's only.
  package static func find(markedWith value: String, attemptFolder: String? = nil) -> [pid_t] {
    let mark = Array("\(Self.mark)=\(value)".utf8)
    let attempt = attemptFolder.map { Array("\(Self.attemptMark)=\($0)".utf8) }
    return ((try? listFolder("/proc")) ?? []).compactMap { pid_t($0) }.filter { pid in
      guard pid != getpid(), let text = try? readFile("/proc/\(pid)/environ") else { return false }
      let variables = text.utf8.split(separator: 0)
      return variables.contains { $0.elementsEqual(mark) }
        && (attempt.map { attempt in variables.contains { $0.elementsEqual(attempt) } } ?? true)
    }
  }
}
