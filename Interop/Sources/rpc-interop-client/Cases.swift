import InteropProtos
import RPC

/// The cases' names, as every implementation spells them.
enum Case: String, CaseIterable {
  case emptyUnary = "empty_unary"
  case largeUnary = "large_unary"
  case clientStreaming = "client_streaming"
  case serverStreaming = "server_streaming"
  case pingPong = "ping_pong"
  case emptyStream = "empty_stream"
  case timeoutOnSleepingServer = "timeout_on_sleeping_server"
  case cancelAfterBegin = "cancel_after_begin"
  case cancelAfterFirstResponse = "cancel_after_first_response"
  case customMetadata = "custom_metadata"
  case statusCodeAndMessage = "status_code_and_message"
  case specialStatusMessage = "special_status_message"
  case unimplementedMethod = "unimplemented_method"
  case unimplementedService = "unimplemented_service"
}

/// What a case expected and did not get.
struct Mismatch: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) { self.description = description }
}

/// `doc/interop-test-descriptions.md` of the gRPC project, "Client".
struct Cases {
  private static let requestSizes = [27_182, 8, 1_828, 45_904]
  private static let responseSizes: [Int32] = [31_415, 9, 2_653, 58_979]

  let channel: RPCChannel
  private var service: Interop.TestClient { Interop.TestClient(self.channel) }
  private let options = CallOptions(timeout: .seconds(20))

  init(channel: RPCChannel) { self.channel = channel }

  func run(_ testCase: Case) async throws {
    switch testCase {
    case .emptyUnary: try await self.emptyUnary()
    case .largeUnary: try await self.largeUnary()
    case .clientStreaming: try await self.clientStreaming()
    case .serverStreaming: try await self.serverStreaming()
    case .pingPong: try await self.pingPong()
    case .emptyStream: try await self.emptyStream()
    case .timeoutOnSleepingServer: try await self.timeoutOnSleepingServer()
    case .cancelAfterBegin: try await self.cancelAfterBegin()
    case .cancelAfterFirstResponse: try await self.cancelAfterFirstResponse()
    case .customMetadata: try await self.customMetadata()
    case .statusCodeAndMessage: try await self.status("test status message")
    case .specialStatusMessage:
      try await self.status(
        "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n")
    case .unimplementedMethod:
      try await self.expect(.unimplemented) {
        _ = try await self.service.unimplementedCall(Interop.Empty(), options: self.options)
      }
    case .unimplementedService:
      let client = Interop.UnimplementedClient(self.channel)
      try await self.expect(.unimplemented) {
        _ = try await client.unimplementedCall(Interop.Empty(), options: self.options)
      }
    }
  }

  private func emptyUnary() async throws {
    let response = try await self.service.emptyCall(Interop.Empty(), options: self.options)
    try self.check(response == Interop.Empty(), "the response is not empty")
  }

  private func largeUnary() async throws {
    let response = try await self.service.unaryCall(
      Interop.SimpleRequest(responseSize: 314_159, payload: self.payload(271_828)),
      options: self.options)
    try self.check(response.payload?.body.count == 314_159, "the response's size is another")
  }

  private func clientStreaming() async throws {
    let call = try await self.service.streamingInputCall(options: self.options)
    for size in Self.requestSizes {
      try await call.send(Interop.StreamingInputCallRequest(payload: self.payload(size)))
    }
    let size = try await call.finish().aggregatedPayloadSize
    try self.check(size == 74_922, "the server counted \(size)")
  }

  private func serverStreaming() async throws {
    let responses = try await self.service.streamingOutputCall(
      self.request(Self.responseSizes), options: self.options)
    var sizes: [Int32] = []
    for try await response in responses { sizes.append(self.size(response)) }
    try self.check(sizes == Self.responseSizes, "the sizes are \(sizes)")
  }

  private func pingPong() async throws {
    let call = try await self.service.fullDuplexCall(options: self.options)
    var responses = call.responses.makeAsyncIterator()
    for (request, response) in zip(Self.requestSizes, Self.responseSizes) {
      try await call.send(self.request([response], payload: request))
      let size = try await responses.next().map(self.size)
      try self.check(size == response, "asked for \(response), got \(String(describing: size))")
    }
    await call.finishSending()
    try self.check(try await responses.next() == nil, "there is a response too many")
  }

  private func emptyStream() async throws {
    let call = try await self.service.fullDuplexCall(options: self.options)
    await call.finishSending()
    for try await _ in call.responses { throw Mismatch("there is a response") }
  }

  private func timeoutOnSleepingServer() async throws {
    try await self.expect(.deadlineExceeded) {
      let call = try await self.service.fullDuplexCall(
        options: CallOptions(timeout: .milliseconds(1)))
      // The deadline may pass before the request is out.
      try? await call.send(self.request([31_415], payload: 27_182, interval: 2_000_000))
      for try await _ in call.responses {}
    }
  }

  private func cancelAfterBegin() async throws {
    let call = try await self.service.streamingInputCall(options: self.options)
    call.cancel()
    try await self.expect(.cancelled) { _ = try await call.finish() }
  }

  private func cancelAfterFirstResponse() async throws {
    let call = try await self.service.fullDuplexCall(options: self.options)
    try await call.send(self.request([31_415], payload: 27_182))
    var responses = call.responses.makeAsyncIterator()
    _ = try await responses.next()
    call.cancel()
    try await self.expect(.cancelled) { while try await responses.next() != nil {} }
  }

  private func customMetadata() async throws {
    var metadata: Metadata = ["x-grpc-test-echo-initial": "test_initial_metadata_value"]
    metadata.add(binary: [0xab, 0xab, 0xab], for: "x-grpc-test-echo-trailing-bin")
    var options = self.options
    options.metadata = metadata
    let call = try await self.service.fullDuplexCall(options: options)
    try await call.send(self.request([314_159], payload: 271_828))
    await call.finishSending()
    let initial = try await call.responses.initialMetadata
    for try await _ in call.responses {}
    try self.check(
      initial["x-grpc-test-echo-initial"] == "test_initial_metadata_value",
      "the initial metadata is \(initial)")
    let trailing = call.responses.trailingMetadata
    try self.check(
      trailing?.binary(for: "x-grpc-test-echo-trailing-bin") == [0xab, 0xab, 0xab],
      "the trailing metadata is \(String(describing: trailing))")
  }

  private func status(_ message: String) async throws {
    let status = Interop.EchoStatus(code: 2, message: message)
    try await self.expect(.unknown, message) {
      _ = try await self.service.unaryCall(
        Interop.SimpleRequest(responseStatus: status), options: self.options)
    }
    try await self.expect(.unknown, message) {
      let call = try await self.service.fullDuplexCall(options: self.options)
      try await call.send(Interop.StreamingOutputCallRequest(responseStatus: status))
      await call.finishSending()
      for try await _ in call.responses {}
    }
  }

  // MARK: -

  private func payload(_ size: Int) -> Interop.Payload {
    Interop.Payload(body: [UInt8](repeating: 0, count: size))
  }

  private func size(_ response: Interop.StreamingOutputCallResponse) -> Int32 {
    Int32(clamping: response.payload?.body.count ?? 0)
  }

  private func request(
    _ sizes: [Int32], payload: Int = 0, interval: Int32 = 0
  ) -> Interop.StreamingOutputCallRequest {
    Interop.StreamingOutputCallRequest(
      responseParameters: sizes.map {
        Interop.ResponseParameters(size: $0, intervalUs: interval)
      },
      payload: self.payload(payload))
  }

  private func check(_ condition: Bool, _ otherwise: String) throws {
    if !condition { throw Mismatch(otherwise) }
  }

  private func expect(
    _ code: StatusCode, _ message: String? = nil, _ body: () async throws -> Void
  ) async throws {
    do {
      try await body()
    } catch let error as RPCError {
      try self.check(error.code == code, "expected \(code), got \(error)")
      if let message { try self.check(error.message == message, "the message is \(error)") }
      return
    }
    throw Mismatch("expected \(code), got OK")
  }
}
