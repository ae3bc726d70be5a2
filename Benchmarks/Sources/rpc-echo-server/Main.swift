import ArgumentParser
import EchoProtos
import Glibc
import NIOCore
import NIOPosix
import RPC
import RPCMetrics
import RPCTracing

/// Serves `echo.Echo` for the load generators, through generated stubs and an `async` handler.
@main
struct EchoServer: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rpc-echo-server", abstract: "Answers echo.Echo on 127.0.0.1:PORT.")

  @Argument(help: "The port; 0 takes a free one, which is printed.")
  var port: Int

  @Option(help: "Event loops, one thread each.")
  var loops = 1

  @Flag(help: "An interceptor, metrics and tracing before every call.")
  var hooks = false

  @Option(help: "A certificate chain; with --key, TLS.")
  var certificate: String?

  @Option(help: "Its private key.")
  var key: String?

  func run() throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: self.loops)
    var configuration = RPCServer.Configuration()
    configuration.maximumRequestBytes = 16 << 20
    if self.hooks {
      configuration.observers = [ServerMetrics()]
      configuration.interceptors = [ServerTracing(), Passing()]
    }
    if let certificate = self.certificate, let key = self.key {
      configuration.tls = ServerTLS(
        identity: TLSIdentity(certificateChainFile: certificate, privateKeyFile: key))
    }
    let server = RPCServer(services: [Echoing()], configuration: configuration, group: group)
    let port = self.port
    Task {
      do {
        let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: port))
        print("listening on \(address)")
        // Whoever waits for the line may read it from a pipe, where it would stay in the buffer.
        fflush(nil)
      } catch {
        print(error)
        Glibc.exit(1)
      }
    }
    // Not dispatch's main loop, which valgrind cannot follow.
    while true { pause() }
  }
}

/// Looks at a call's metadata, as those do that authenticate.
struct Passing: ServerInterceptor {
  func intercept(_ context: ServerContext, proceed: Proceed)
    async throws
  {
    if context.metadata["authorization"] == "nobody" {
      throw RPCError(.unauthenticated, "nobody may call")
    }
    try await proceed()
  }
}

struct Echoing: Echo.EchoService {
  func unary(_ request: Echo.EchoMsg, context: ServerContext) async throws -> Echo.EchoMsg {
    request
  }

  func stream(
    _ requests: RequestStream<Echo.EchoMsg>, responses: ResponseWriter<Echo.EchoMsg>,
    context: ServerContext
  ) async throws {
    for try await request in requests {
      try await responses.send(request)
    }
  }
}
