import Crypto

/// A process of the local stack: what it is, and where it listens.
package struct PlannedProcess: Hashable, Sendable {
  /// "scheduler", "plugin-runner-2": the name of its log and of its data directory.
  package var name: String
  /// The program's file, or "redis-server".
  package var program: String
  package var address: String
  /// Empty for Redis.
  package var admin: String
  package var arguments: [String]
}

/// Which processes a local stack has, on which ports.
package struct StackPlan: Hashable, Sendable {
  /// The first of the contract's ports.
  package static let defaultBasePort = 7_101
  /// Metrics and health are that far above the calls.
  package static let adminOffset = 100
  /// More runners than that hardly fit on one machine, and would meet the admin ports.
  package static let maximumRunners = 64

  /// In the order in which they are started.
  package let processes: [PlannedProcess]
  package let addresses: StackFile.Addresses

  /// - Parameters:
  ///   - programs: The directory of the service programs.
  ///   - socket: Of Redis.
  ///   - machine: What the runners share.
  package init(
    data: String, programs: String, socket: String, basePort: Int, runners: Int,
    machine: Machine, drainGraceSeconds: Int
  ) {
    func address(_ offset: Int) -> String { "127.0.0.1:\(basePort + offset)" }
    let addresses = StackFile.Addresses(
      scheduler: address(0), allocator: address(1), gateway: address(3), cache: address(4))
    func service(
      _ program: String, _ name: String, _ offset: Int, _ peers: [String]
    ) -> PlannedProcess {
      let admin = address(offset + Self.adminOffset)
      return PlannedProcess(
        name: name, program: "\(programs)/millrace-\(program)", address: address(offset),
        admin: admin,
        arguments: [
          "--listen", address(offset), "--admin-listen", admin, "--data", "\(data)/\(name)",
          "--drain-grace", "\(drainGraceSeconds)s",
        ] + peers)
    }
    var processes = [
      // A cache that is rebuilt from heartbeats: nothing of it is kept on the disk.
      PlannedProcess(
        name: "redis", program: "redis-server", address: "unix:\(socket)", admin: "",
        arguments: [
          "--port", "0", "--unixsocket", socket, "--unixsocketperm", "600", "--save", "",
          "--appendonly", "no", "--daemonize", "no", "--dir", data, "--maxmemory-policy",
          "noeviction",
        ]),
      service("datastore-gateway", "datastore-gateway", 3, []),
      service("content-cache", "content-cache", 4, []),
      service("executor-allocator", "executor-allocator", 1, ["--redis", "unix:\(socket)"]),
      service(
        "scheduler", "scheduler", 0,
        ["--gateway", addresses.gateway, "--allocator", addresses.allocator]),
    ]
    for number in 1...max(1, runners) {
      // The first one has the contract's port; the others follow behind those of all services.
      processes.append(
        service(
          "plugin-runner", "plugin-runner-\(number)", number == 1 ? 2 : 8 + number,
          [
            "--allocator", addresses.allocator, "--cache", addresses.cache, "--executor-id",
            // What the other processes keep is as little a step's as the runner's own.
            "runner-\(number)", "--hidden", data,
          ] + machine.flags(ofEachOf: runners)))
    }
    self.processes = processes
    self.addresses = addresses
  }

  /// The names in the order in which they are ended: those that use others first.
  package var drainOrder: [String] {
    self.processes.map(\.name).filter { $0.hasPrefix("plugin-runner") }
      + ["scheduler", "executor-allocator", "content-cache", "datastore-gateway", "redis"]
  }

  /// The directory of Redis' socket, which is this user's alone.
  ///
  /// Steps run as the same user: a directory of the data's would not stop them. Their sandbox has a
  /// `/tmp` of its own; what lies here is out of their sight. The path is short enough for a socket.
  package static func socketDirectory(data: String, user: UInt32) -> String {
    "/tmp/millrace-\(user)-\(hexadecimal(SHA256.hash(data: Array(data.utf8)).prefix(6)))"
  }
}
