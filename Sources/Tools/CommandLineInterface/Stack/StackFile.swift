import Glibc

/// `DATA/stack.json`: what `millrace up` runs, so that other commands find it without flags.
package struct StackFile: Codable, Hashable, Sendable {
  /// Where the services listen.
  package struct Addresses: Codable, Hashable, Sendable {
    package var scheduler: String
    package var allocator: String
    package var gateway: String
    package var cache: String

    package init(scheduler: String, allocator: String, gateway: String, cache: String) {
      self.scheduler = scheduler
      self.allocator = allocator
      self.gateway = gateway
      self.cache = cache
    }
  }

  /// A process of the stack.
  package struct Process: Codable, Hashable, Sendable {
    package var name: String
    package var pid: Int32
    package var address: String
    /// Empty for Redis, which has none.
    package var admin: String
    package var log: String

    package init(name: String, pid: Int32, address: String, admin: String, log: String) {
      self.name = name
      self.pid = pid
      self.address = address
      self.admin = admin
      self.log = log
    }
  }

  package var version = 1
  /// Of `millrace up` itself.
  package var pid: Int32
  package var data: String
  package var addresses: Addresses
  package var processes: [Process]

  package init(pid: Int32, data: String, addresses: Addresses, processes: [Process]) {
    self.pid = pid
    self.data = data
    self.addresses = addresses
    self.processes = processes
  }

  /// Larger than any stack's.
  private static let maximumBytes = 1 << 20

  static func path(in data: String) -> String { "\(data)/stack.json" }

  /// The stack that runs on a data directory; nil if none does.
  package static func read(in data: String) -> StackFile? {
    guard let bytes = try? Files.read(self.path(in: data), limit: self.maximumBytes),
      let file = JSONText.decode(StackFile.self, bytes), file.version == 1,
      // Left by one that was killed. EPERM: it lives, and is another user's.
      kill(file.pid, 0) == 0 || errno == EPERM
    else { return nil }
    return file
  }

  package func write() throws(SystemError) {
    try Files.replace(
      Self.path(in: self.data), with: Array((JSONText.document(self) + "\n").utf8))
  }
}
