import ArgumentParser
import InteropProtos
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

  @Option(name: .customLong("test_case"), help: "A case's name, or all.")
  var testCase = "all"

  func run() async throws {
    let chosen = Case.allCases.filter { self.testCase == "all" || $0.rawValue == self.testCase }
    guard !chosen.isEmpty else {
      let names = Case.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("there is no case \(self.testCase); there are \(names)")
    }
    let channel = RPCChannel(to: .tcp(host: self.host, port: self.port))
    let cases = Cases(channel: channel)
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
    await channel.close()
    print("\(chosen.count - failed) passed, \(failed) failed")
    if failed > 0 { throw ExitCode.failure }
  }
}
