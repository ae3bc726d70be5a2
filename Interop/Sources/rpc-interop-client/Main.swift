import ArgumentParser
import InteropArguments
import RPC

/// Runs gRPC's interoperability cases against a server.
@main
struct InteropClient: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rpc-interop-client",
    abstract: "Runs gRPC's interoperability cases against a server.")

  @Option(name: .customLong("server_host"), help: "The server's host: a name or an address.")
  var host = "127.0.0.1"

  @Option(name: .customLong("server_port"), help: "The server's port.")
  var port: Int

  @Option(
    name: .customLong("test_case"), help: "A case's name, several with commas between, or all.")
  var testCase = "all"

  @Option(name: .customLong("use_tls"), help: "true, or by itself: connect with TLS.")
  var useTLS: Bool?

  @Option(
    name: .customLong("use_test_ca"),
    help: "true, or by itself: trust the certificates of --ca_file instead of the system's.")
  var useTestCA: Bool?

  @Option(name: .customLong("ca_file"), help: "Whom to trust, as PEM.")
  var caFile: String?

  @Option(
    name: .customLong("server_host_override"),
    help: "The name that the server's certificate is for, and that calls name as their authority.")
  var hostOverride: String?

  @Option(
    name: .customLong("skip_compressed_probe"),
    help:
      "true, or by itself: do not expect the server to notice requests that should be compressed and are not."
  )
  var skipProbe: Bool?

  @Option(name: .customLong("service_config_json"), help: "The channel's service config.")
  var serviceConfig: String?

  @Option(
    name: .customLong("additional_metadata"),
    help: "Sent with every call: NAME:VALUE, several with semicolons between.")
  var additionalMetadata: String?

  @Option(
    name: .customLong("soak_num_threads"),
    help: "How many make the iterations of a soak at once, each its part.")
  var soakThreads = 1

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

  static func main() async {
    let flags: Set = ["--use_tls", "--use_test_ca", "--skip_compressed_probe"]
    await self.main(spelledOut(CommandLine.arguments.dropFirst(), flags: flags))
  }

  func validate() throws {
    if self.useTestCA == true && self.caFile == nil {
      throw ValidationError("--use_test_ca wants --ca_file: no certificates are built in")
    }
    guard self.soakThreads > 0, self.soakIterations.isMultiple(of: self.soakThreads) else {
      throw ValidationError(
        "--soak_iterations is \(self.soakIterations), --soak_num_threads \(self.soakThreads): each "
          + "thread makes as many as the others")
    }
    _ = try self.configuration()
    _ = try self.chosen()
  }

  func run() async throws {
    let chosen = try self.chosen()
    let configuration = try self.configuration()
    let target = self.target
    let cases = try Cases(
      connect: { interceptors in
        var configuration = configuration
        configuration.interceptors += interceptors
        return try RPCChannel(to: target, configuration: configuration)
      }, probesCompression: self.skipProbe != true,
      soak: Soak(
        iterations: self.soakIterations, threads: self.soakThreads,
        maximumFailures: self.soakMaximumFailures,
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

  /// Of a host that is an address of IPv6, with brackets or without, too.
  private var target: String {
    let isBracketed = self.host.hasPrefix("[") && self.host.hasSuffix("]")
    let host = isBracketed ? String(self.host.dropFirst().dropLast()) : self.host
    return "\(ListenAddress.tcp(host: host, port: self.port))"
  }

  /// How all channels to the server are made.
  private func configuration() throws -> RPCChannel.Configuration {
    var configuration = RPCChannel.Configuration()
    configuration.authority = self.hostOverride
    if self.useTLS == true {
      configuration.tls = ClientTLS(
        trustRoots: self.caFile.map { .file($0) } ?? .system, serverName: self.hostOverride)
    }
    do {
      if let json = self.serviceConfig {
        configuration.serviceConfig = try ServiceConfig(json: json)
      }
    } catch {
      throw ValidationError("--service_config_json: \(error)")
    }
    do {
      if let text = self.additionalMetadata {
        configuration.interceptors.append(try MoreMetadata(text))
      }
    } catch {
      throw ValidationError("--additional_metadata: \(error)")
    }
    return configuration
  }
}
