import ArgumentParser
import EchoProtos
import Glibc
import NIOCore
import NIOPosix
import RPC

/// Serves `echo.Echo` for the load generators, through generated stubs and an `async` handler.
@main
struct EchoServer: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rpc-echo-server", abstract: "Answers echo.Echo on 127.0.0.1:PORT.")

  @Argument(help: "The port; 0 takes a free one, which is printed.")
  var port: Int

  @Option(help: "Event loops, one thread each.")
  var loops = 1

  func run() async throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: self.loops)
    let server = RPCServer(services: [Echoing()], group: group)
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: self.port))
    print("listening on \(address)")
    // Whoever waits for the line may read it from a pipe, where it would stay in the buffer.
    fflush(nil)
    try await Task.sleep(for: .seconds(365 * 86_400))
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
