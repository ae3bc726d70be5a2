import FoundationEssentials
import Glibc

/// `stack.json` of a running `millrace up`: its processes, and where they listen.
struct StackFile: Decodable, Sendable {
  struct Addresses: Decodable, Sendable {
    var scheduler: String
    var allocator: String
  }

  struct Process: Decodable, Sendable {
    var name: String
    var pid: pid_t
  }

  /// Of `millrace up` itself.
  var pid: pid_t
  var data: String
  var addresses: Addresses
  var processes: [Process]

  /// Nil: none runs on this data directory, or it is not up yet.
  static func read(in data: String) -> StackFile? {
    guard let text = try? Data(contentsOf: URL(filePath: "\(data)/stack.json")),
      let file = try? JSONDecoder().decode(StackFile.self, from: text),
      // One that was killed leaves it behind. EPERM: it lives, and is another user's.
      kill(file.pid, 0) == 0 || errno == EPERM
    else { return nil }
    return file
  }
}
