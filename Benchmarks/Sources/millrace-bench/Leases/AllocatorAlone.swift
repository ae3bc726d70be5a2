import BuildProtos
import FoundationEssentials
import Glibc
import RPC

/// An executor-allocator with a Redis of its own, and nothing else of a farm.
struct AllocatorAlone: Sendable {
  /// What runs, and how to call it.
  struct Running: Sendable {
    var client: AllocatorV1.AllocatorClient
    var address: String
    /// By name.
    var processes: [(name: String, pid: pid_t)]
  }

  private static let startLimit = Duration.seconds(20)
  private static let pause = Duration.milliseconds(20)

  /// The directory of the programs.
  var programs: String

  /// Starts both, runs `body`, and ends them, whether `body` returned or threw.
  func run<Value: Sendable>(
    heartbeat: Duration, _ body: (Running) async throws -> Value
  ) async throws -> Value {
    let program = "\(self.programs)/millrace-executor-allocator"
    guard access(program, X_OK) == 0 else {
      throw BenchmarkFailure(
        "there is no \(program): make it with `swift build -c release`, or give --bin")
    }
    let directory = try LocalStack.temporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory) }
    let socket = "\(directory)/redis.sock"
    let port = try Ports.freeBlock()
    let redis = try ChildProcess(
      [
        "/usr/bin/env", "redis-server", "--port", "0", "--unixsocket", socket, "--save", "",
        "--appendonly", "no", "--dir", directory,
      ], environment: [:], output: "\(directory)/redis.log")
    defer { redis.signal(SIGKILL) }
    let allocator = try ChildProcess(
      [
        program, "--redis", "unix:\(socket)", "--listen", "127.0.0.1:\(port)", "--admin-listen",
        "127.0.0.1:\(port + 1)", "--heartbeat-interval",
        "\(Int(heartbeat.seconds * 1_000))ms",
      ], environment: [:], output: "\(directory)/allocator.log")
    defer { allocator.signal(SIGKILL) }
    let address = "127.0.0.1:\(port)"
    let channel = try RPCChannel(to: address)
    let client = AllocatorV1.AllocatorClient(channel)
    let result: Result<Value, any Error>
    do {
      try await Self.waitUntilReady(client, allocator, log: "\(directory)/allocator.log")
      result = .success(
        try await body(
          Running(
            client: client, address: address,
            processes: [("executor-allocator", allocator.id), ("redis", redis.id)]))
      )
    } catch {
      result = .failure(error)
    }
    await channel.close()
    return try result.get()
  }

  private static func waitUntilReady(
    _ client: AllocatorV1.AllocatorClient, _ allocator: ChildProcess, log: String
  ) async throws {
    let end = ContinuousClock.now + self.startLimit
    while true {
      do {
        _ = try await client.listExecutors(.init(), options: CallOptions(timeout: .seconds(1)))
        return
      } catch {
        guard !allocator.hasEnded, .now < end else {
          let said = (try? String(contentsOfFile: log, encoding: .utf8)) ?? ""
          throw BenchmarkFailure("the allocator did not start: \(error)\n\(said.suffix(4_000))")
        }
      }
      try await Task.sleep(for: self.pause)
    }
  }
}
