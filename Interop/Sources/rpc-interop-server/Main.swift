import ArgumentParser
import Glibc
import InteropArguments
import RPC

/// Serves gRPC's interoperability tests, with health and reflection.
@main
struct InteropServer: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rpc-interop-server", abstract: "Serves grpc.testing.TestService.")

  @Option(name: .customLong("port"), help: "The port on 127.0.0.1; 0 takes a free one.")
  var port = 0

  @Option(name: .customLong("use_tls"), help: "true, or by itself: serve TLS.")
  var useTLS: Bool?

  @Option(name: .customLong("tls_cert_file"), help: "The certificate chain, as PEM.")
  var certificateFile: String?

  @Option(name: .customLong("tls_key_file"), help: "Its private key, as PEM.")
  var keyFile: String?

  static func main() async {
    await self.main(spelledOut(CommandLine.arguments.dropFirst(), flags: ["--use_tls"]))
  }

  func validate() throws {
    if self.useTLS == true && (self.certificateFile == nil || self.keyFile == nil) {
      throw ValidationError("--use_tls wants --tls_cert_file and --tls_key_file")
    }
  }

  func run() async throws {
    var configuration = RPCServer.Configuration()
    if self.useTLS == true, let certificate = self.certificateFile, let key = self.keyFile {
      configuration.tls = ServerTLS(
        identity: TLSIdentity(certificateChainFile: certificate, privateKeyFile: key))
    }
    let reports = LoadReports()
    let services: [any RPCService] = [TestService(reports: reports), reports, HealthService()]
    let reflection = ReflectionService(services: services)
    let server = RPCServer(
      services: services + [reflection, reflection.alpha],
      configuration: configuration)
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: self.port))
    print("listening on \(address)")
    // Whoever waits for the line may read it from a pipe, where it would stay in the buffer.
    fflush(nil)
    try await Task.sleep(for: .seconds(365 * 86_400))
  }
}
