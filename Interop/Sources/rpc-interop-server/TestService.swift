import InteropProtos
import RPC

/// `doc/interop-test-descriptions.md` of the gRPC project, "Server".
struct TestService: Interop.TestService {
  let reports: LoadReports

  func emptyCall(_ request: Interop.Empty, context: ServerContext) async throws -> Interop.Empty {
    self.echoMetadata(context)
    return Interop.Empty()
  }

  func unaryCall(
    _ request: Interop.SimpleRequest, context: ServerContext
  ) async throws -> Interop.SimpleResponse {
    var trailing = Metadata()
    if let report = request.orcaPerQueryReport {
      trailing.add(binary: ORCA.OrcaLoadReport(report).encoded(), for: "endpoint-load-metrics-bin")
    }
    self.echoMetadata(context, beside: trailing)
    try self.check(request.expectCompressed, wasCompressed: context.requestWasCompressed)
    try self.answer(request.responseStatus)
    context.responseCompression = request.responseCompressed?.value == true ? .gzip : .identity
    return Interop.SimpleResponse(payload: try payload(request.responseSize))
  }

  func cacheableUnaryCall(
    _ request: Interop.SimpleRequest, context: ServerContext
  ) async throws -> Interop.SimpleResponse {
    // Sixty seconds, as other implementations tell proxies.
    context.setInitialMetadata(["cache-control": "max-age=60, public"])
    return Interop.SimpleResponse(payload: request.payload)
  }

  func streamingOutputCall(
    _ request: Interop.StreamingOutputCallRequest,
    responses: ResponseWriter<Interop.StreamingOutputCallResponse>, context: ServerContext
  ) async throws {
    self.echoMetadata(context)
    try await self.send(request.responseParameters, to: responses, context)
    try self.answer(request.responseStatus)
  }

  func streamingInputCall(
    _ requests: RequestStream<Interop.StreamingInputCallRequest>, context: ServerContext
  ) async throws -> Interop.StreamingInputCallResponse {
    self.echoMetadata(context)
    var size = 0
    var iterator = requests.makeAsyncIterator()
    while let request = try await iterator.next() {
      try self.check(request.expectCompressed, wasCompressed: iterator.wasCompressed)
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
      if let report = request.orcaOobReport { self.reports.tell(report) }
      try await self.send(request.responseParameters, to: responses, context)
    }
  }

  func unimplementedCall(
    _ request: Interop.Empty, context: ServerContext
  ) async throws -> Interop.Empty {
    throw RPCError(.unimplemented, "UnimplementedCall is not implemented, as its name says")
  }

  private func send(
    _ parameters: [Interop.ResponseParameters],
    to responses: ResponseWriter<Interop.StreamingOutputCallResponse>, _ context: ServerContext
  ) async throws {
    // The call's compression goes out with the first response; each one says whether it is used.
    if parameters.contains(where: { $0.compressed?.value == true }) {
      context.responseCompression = .gzip
    }
    for parameter in parameters {
      if parameter.intervalUs > 0 {
        try await Task.sleep(for: .microseconds(parameter.intervalUs))
      }
      try await responses.send(
        Interop.StreamingOutputCallResponse(payload: try payload(parameter.size)),
        compressed: parameter.compressed?.value == true)
    }
  }

  private func echoMetadata(_ context: ServerContext, beside trailing: Metadata = Metadata()) {
    var trailing = trailing
    if let initial = context.metadata["x-grpc-test-echo-initial"] {
      context.setInitialMetadata(["x-grpc-test-echo-initial": initial])
    }
    if let value = context.metadata.binary(for: "x-grpc-test-echo-trailing-bin") {
      trailing.add(binary: value, for: "x-grpc-test-echo-trailing-bin")
    }
    context.setTrailingMetadata(trailing)
  }

  private func answer(_ status: Interop.EchoStatus?) throws {
    guard let status, status.code != 0 else { return }
    throw RPCError(StatusCode(rawValue: Int(status.code)) ?? .unknown, status.message)
  }

  private func check(_ expectation: Interop.BoolValue?, wasCompressed: Bool) throws {
    guard let expectation, expectation.value != wasCompressed else { return }
    throw RPCError(
      .invalidArgument,
      wasCompressed
        ? "the request is compressed, and should not be"
        : "the request should be compressed, and is not")
  }
}

private func payload(_ size: Int32) throws -> Interop.Payload {
  guard (0...(64 << 20)).contains(size) else {
    throw RPCError(.invalidArgument, "a response of \(size) bytes is not to be had")
  }
  return Interop.Payload(body: [UInt8](repeating: 0, count: Int(size)))
}
