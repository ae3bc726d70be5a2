import ArgumentParser
import RPC

/// Runs gRPC's interoperability cases against a server.
@main
struct InteropClient: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rpc-interop-client",
    abstract: "Runs gRPC's interoperability cases against a server.")

  @Option(name: .customLong("server_host"), help: "The server's host.")
  var host = "127.0.0.1"

  @Option(name: .customLong("server_port"), help: "The server's port.")
  var port: Int

  @Option(
    name: .customLong("test_case"), help: "A case's name, several with commas between, or all.")
  var testCase = "all"

  @Option(name: .customLong("use_tls"), defaultAsFlag: true, help: "Connect with TLS.")
  var useTLS: Bool?

  @Option(
    name: .customLong("use_test_ca"), defaultAsFlag: true,
    help: "Trust the certificates of --ca_file instead of the system's.")
  var useTestCA: Bool?

  @Option(name: .customLong("ca_file"), help: "Whom to trust, as PEM.")
  var caFile: String?

  @Option(
    name: .customLong("server_host_override"),
    help: "The name that the server's certificate is for, and that calls name as their authority.")
  var hostOverride: String?

  @Option(
    name: .customLong("skip_compressed_probe"), defaultAsFlag: true,
    help: "Do not expect the server to notice requests that should be compressed and are not.")
  var skipProbe: Bool?

  @Option(name: .customLong("soak_iterations"))
  var soakIterations = 1_000

  @Option(name: .customLong("soak_max_failures"))
  var soakMaximumFailures = 0

  @Option(name: .customLong("soak_per_iteration_max_acceptable_latency_ms"))
  var soakLatency = 1_000

  @Option(name: .customLong("soak_min_time_ms_between_rpcs"))
  var soakInterval = 0

  @Option(name: .customLong("soak_overall_timeout_seconds"))
  var soakTimeout = 10

  @Option(name: .customLong("soak_request_size"))
  var soakRequestSize = 271_828

  @Option(name: .customLong("soak_response_size"))
  var soakResponseSize = 314_159

  func validate() throws {
    if self.useTestCA == true && self.caFile == nil {
      throw ValidationError("--use_test_ca wants --ca_file: no certificates are built in")
    }
    _ = try self.chosen()
  }

  func run() async throws {
    let chosen = try self.chosen()
    let cases = try Cases(
      connect: { try self.connect($0) }, probesCompression: self.skipProbe != true,
      soak: Soak(
        iterations: self.soakIterations, maximumFailures: self.soakMaximumFailures,
        maximumLatency: .milliseconds(self.soakLatency),
        interval: .milliseconds(self.soakInterval), timeout: .seconds(self.soakTimeout),
        requestSize: self.soakRequestSize, responseSize: self.soakResponseSize))
    var failed = 0
    for testCase in chosen {
      do {
        try await cases.run(testCase)
        print("ok   \(testCase.rawValue)")
      } catch {
        failed += 1
        print("FAIL \(testCase.rawValue): \(error)")
      }
    }
    await cases.channel.close()
    print("\(chosen.count - failed) passed, \(failed) failed")
    if failed > 0 { throw ExitCode.failure }
  }

  private func chosen() throws -> [Case] {
    if self.testCase == "all" { return Case.allCases }
    return try self.testCase.split(separator: ",").map { name in
      guard let found = Case(rawValue: String(name)) else {
        let names = Case.allCases.map(\.rawValue).joined(separator: ", ")
        throw ValidationError("there is no case \(name); there are \(names)")
      }
      return found
    }
  }

  /// Another channel to the server.
  private func connect(_ interceptors: [any ClientInterceptor]) throws -> RPCChannel {
    var configuration = RPCChannel.Configuration()
    configuration.interceptors = interceptors
    configuration.authority = self.hostOverride
    if self.useTLS == true {
      configuration.tls = ClientTLS(
        trustRoots: self.caFile.map { .file($0) } ?? .system, serverName: self.hostOverride)
    }
    return try RPCChannel(to: "\(self.host):\(self.port)", configuration: configuration)
  }
}
