import ArgumentParser
import Glibc
import InteropProtos
import RPC

/// Serves gRPC's interoperability tests, with health and reflection.
@main
struct InteropServer: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rpc-interop-server", abstract: "Serves grpc.testing.TestService.")

  @Option(name: .customLong("port"), help: "The port on 127.0.0.1; 0 takes a free one.")
  var port = 0

  func run() async throws {
    let service = TestService()
    let reflection = ReflectionService(services: [service, HealthService()])
    let server = RPCServer(services: [service, HealthService(), reflection, reflection.alpha])
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: self.port))
    print("listening on \(address)")
    // Whoever waits for the line may read it from a pipe, where it would stay in the buffer.
    fflush(nil)
    try await Task.sleep(for: .seconds(365 * 86_400))
  }
}

/// `doc/interop-test-descriptions.md` of the gRPC project, "Server".
struct TestService: Interop.TestService {
  func emptyCall(_ request: Interop.Empty, context: ServerContext) async throws -> Interop.Empty {
    self.echoMetadata(context)
    return Interop.Empty()
  }

  func unaryCall(
    _ request: Interop.SimpleRequest, context: ServerContext
  ) async throws -> Interop.SimpleResponse {
    self.echoMetadata(context)
    try self.refuse(uncompressed: request.expectCompressed)
    try self.answer(request.responseStatus)
    return Interop.SimpleResponse(payload: try payload(request.responseSize))
  }

  func streamingOutputCall(
    _ request: Interop.StreamingOutputCallRequest,
    responses: ResponseWriter<Interop.StreamingOutputCallResponse>, context: ServerContext
  ) async throws {
    self.echoMetadata(context)
    try await self.send(request.responseParameters, to: responses)
    try self.answer(request.responseStatus)
  }

  func streamingInputCall(
    _ requests: RequestStream<Interop.StreamingInputCallRequest>, context: ServerContext
  ) async throws -> Interop.StreamingInputCallResponse {
    self.echoMetadata(context)
    var size = 0
    for try await request in requests {
      try self.refuse(uncompressed: request.expectCompressed)
      size += request.payload?.body.count ?? 0
    }
    return Interop.StreamingInputCallResponse(aggregatedPayloadSize: Int32(clamping: size))
  }

  func fullDuplexCall(
    _ requests: RequestStream<Interop.StreamingOutputCallRequest>,
    responses: ResponseWriter<Interop.StreamingOutputCallResponse>, context: ServerContext
  ) async throws {
    self.echoMetadata(context)
    for try await request in requests {
      try self.answer(request.responseStatus)
      try await self.send(request.responseParameters, to: responses)
    }
  }

  func unimplementedCall(
    _ request: Interop.Empty, context: ServerContext
  ) async throws -> Interop.Empty {
    throw RPCError(.unimplemented, "UnimplementedCall is not implemented, as its name says")
  }

  private func send(
    _ parameters: [Interop.ResponseParameters],
    to responses: ResponseWriter<Interop.StreamingOutputCallResponse>
  ) async throws {
    for parameter in parameters {
      if parameter.intervalUs > 0 {
        try await Task.sleep(for: .microseconds(parameter.intervalUs))
      }
      try await responses.send(
        Interop.StreamingOutputCallResponse(payload: try payload(parameter.size)))
    }
  }

  private func echoMetadata(_ context: ServerContext) {
    if let initial = context.metadata["x-grpc-test-echo-initial"] {
      context.setInitialMetadata(["x-grpc-test-echo-initial": initial])
    }
    if let trailing = context.metadata.binary(for: "x-grpc-test-echo-trailing-bin") {
      var metadata = Metadata()
      metadata.add(binary: trailing, for: "x-grpc-test-echo-trailing-bin")
      context.setTrailingMetadata(metadata)
    }
  }

  private func answer(_ status: Interop.EchoStatus?) throws {
    guard let status, status.code != 0 else { return }
    throw RPCError(StatusCode(rawValue: Int(status.code)) ?? .unknown, status.message)
  }

  /// Messages are not compressed by this server's library yet, so one that should be is not.
  private func refuse(uncompressed expectation: Interop.BoolValue?) throws {
    guard expectation?.value == true else { return }
    throw RPCError(.invalidArgument, "the request should be compressed, and is not")
  }
}

private func payload(_ size: Int32) throws -> Interop.Payload {
  guard (0...(64 << 20)).contains(size) else {
    throw RPCError(.invalidArgument, "a response of \(size) bytes is not to be had")
  }
  return Interop.Payload(body: [UInt8](repeating: 0, count: Int(size)))
}
