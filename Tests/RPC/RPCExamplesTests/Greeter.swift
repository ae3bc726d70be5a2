// [docs: quick-start-service]
import RPC

struct Greeter: GreeterV1.GreeterService {
  func sayHello(
    _ request: GreeterV1.HelloRequest, context: ServerContext
  ) async throws -> GreeterV1.HelloReply {
    guard !request.name.isEmpty else { throw RPCError(.invalidArgument, "the name is empty") }
    return GreeterV1.HelloReply(text: "Hello, \(request.name)")
  }
}
// [end]
