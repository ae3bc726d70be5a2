import RPC
import RPCTesting

/// A greeter made of a closure.
struct ClosureGreeter: GreeterV1.GreeterService {
  var answer: @Sendable (GreeterV1.HelloRequest, ServerContext) async throws -> String

  func sayHello(
    _ request: GreeterV1.HelloRequest, context: ServerContext
  ) async throws -> GreeterV1.HelloReply {
    GreeterV1.HelloReply(text: try await self.answer(request, context))
  }
}

/// Something that happens once, and others wait for.
struct Event: Sendable {
  private let stream: AsyncStream<Void>
  private let continuation: AsyncStream<Void>.Continuation

  init() { (self.stream, self.continuation) = AsyncStream.makeStream() }

  func happen() { self.continuation.yield() }

  func wait() async {
    for await _ in self.stream { return }
  }
}
