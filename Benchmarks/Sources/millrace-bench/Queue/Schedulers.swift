import FoundationEssentials
import Glibc

/// Schedulers that share a datastore-gateway of their own.
struct Schedulers: Sendable {
  /// One of them.
  struct Member: Sendable {
    var process: ChildProcess
    var address: String
  }

  private let programs: String
  private let directory: String
  private let gateway: ChildProcess
  private let gatewayAddress: String
  private let allocator: String
  private let maximumQueued: Int

  /// Starts the gateway, runs `body`, which starts schedulers as it likes, and ends the gateway.
  static func run<Value: Sendable>(
    programs: String, allocator: String, maximumQueued: Int,
    _ body: (Schedulers) async throws -> Value
  ) async throws -> Value {
    let directory = try LocalStack.temporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory) }
    let port = try Ports.freeBlock()
    let address = "127.0.0.1:\(port)"
    let gateway = try ChildProcess(
      [
        "\(programs)/millrace-datastore-gateway", "--data", "\(directory)/gateway", "--listen",
        address, "--admin-listen", "127.0.0.1:\(port + 1)",
      ], environment: [:], output: "\(directory)/gateway.log")
    defer { gateway.signal(SIGKILL) }
    return try await body(
      Schedulers(
        programs: programs, directory: directory, gateway: gateway, gatewayAddress: address,
        allocator: allocator, maximumQueued: maximumQueued))
  }

  /// Starts one more.
  func start(_ name: String) throws -> Member {
    let port = try Ports.freeBlock()
    let address = "127.0.0.1:\(port)"
    let process = try ChildProcess(
      [
        "\(self.programs)/millrace-scheduler", "--data", "\(self.directory)/\(name)", "--listen",
        address, "--admin-listen", "127.0.0.1:\(port + 1)", "--gateway", self.gatewayAddress,
        "--allocator", self.allocator, "--max-queued-jobs", "\(self.maximumQueued)",
      ], environment: [:], output: "\(self.directory)/\(name).log")
    return Member(process: process, address: address)
  }

  var gatewayProcess: (name: String, pid: pid_t) { ("datastore-gateway", self.gateway.id) }
}
