import FoundationEssentials
import Glibc

/// Schedulers that share a datastore-gateway of their own.
struct Schedulers: Sendable {
  /// One of them.
  struct Member: Sendable {
    var process: ChildProcess
    var address: String
    var log: String

    /// Fails if it is there no more.
    func check() throws {
      guard self.process.hasEnded else { return }
      let said = (try? String(contentsOfFile: self.log, encoding: .utf8)) ?? ""
      throw BenchmarkFailure("the scheduler has ended:\n\(said.suffix(4_000))")
    }
  }

  private let programs: String
  private let directory: String
  /// The gateway's port; two for each process follow.
  private let basePort: Int
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
    let gateway = try ChildProcess(
      [
        "\(programs)/millrace-datastore-gateway", "--data", "\(directory)/gateway", "--listen",
        "127.0.0.1:\(port)", "--admin-listen", "127.0.0.1:\(port + 1)",
      ], environment: [:], output: "\(directory)/gateway.log")
    defer { gateway.signal(SIGKILL) }
    return try await body(
      Schedulers(
        programs: programs, directory: directory, basePort: port, allocator: allocator,
        maximumQueued: maximumQueued))
  }

  /// Starts one more; each has a number of its own, from 1 on.
  func start(_ number: Int) throws -> Member {
    let port = self.basePort + 2 * number
    let log = "\(self.directory)/scheduler-\(number).log"
    let address = "127.0.0.1:\(port)"
    let process = try ChildProcess(
      [
        "\(self.programs)/millrace-scheduler", "--data", "\(self.directory)/scheduler-\(number)",
        "--listen", address, "--admin-listen", "127.0.0.1:\(port + 1)", "--gateway",
        "127.0.0.1:\(self.basePort)",
        "--allocator", self.allocator, "--max-queued-jobs", "\(self.maximumQueued)",
      ], environment: [:], output: log)
    return Member(process: process, address: address, log: log)
  }
}
