import InteropProtos
import RPC

/// The cases' names, as every implementation spells them.
enum Case: String, CaseIterable {
  case emptyUnary = "empty_unary"
  case largeUnary = "large_unary"
  case cacheableUnary = "cacheable_unary"
  case clientCompressedUnary = "client_compressed_unary"
  case serverCompressedUnary = "server_compressed_unary"
  case clientStreaming = "client_streaming"
  case clientCompressedStreaming = "client_compressed_streaming"
  case serverStreaming = "server_streaming"
  case serverCompressedStreaming = "server_compressed_streaming"
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
  case concurrentLargeUnary = "concurrent_large_unary"
  case rpcSoak = "rpc_soak"
  case channelSoak = "channel_soak"
  case loadReportOfACall = "orca_per_rpc"
  case loadReportsBesideCalls = "orca_oob"
}

/// What a case expected and did not get.
struct Mismatch: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) { self.description = description }
}

/// `doc/interop-test-descriptions.md` of the gRPC project, "Client".
struct Cases: Sendable {
  private static let requestSizes = [27_182, 8, 1_828, 45_904]
  private static let responseSizes: [Int32] = [31_415, 9, 2_653, 58_979]

  private static let concurrentCalls = 100

  let channel: RPCChannel
  private let connect: @Sendable ([any ClientInterceptor]) throws -> RPCChannel
  /// Whether the server tells requests that should be compressed from those that are.
  private let probesCompression: Bool
  private let soak: Soak
  var service: Interop.TestClient { Interop.TestClient(self.channel) }
  let options = CallOptions(timeout: .seconds(20))
  private let compressed = CallOptions(timeout: .seconds(20), compression: .gzip)

  init(
    connect: @escaping @Sendable ([any ClientInterceptor]) throws -> RPCChannel,
    probesCompression: Bool,
    soak: Soak
  ) throws {
    self.channel = try connect([])
    self.connect = connect
    self.probesCompression = probesCompression
    self.soak = soak
  }

  func run(_ testCase: Case) async throws {
    switch testCase {
    case .emptyUnary: try await self.emptyUnary()
    case .largeUnary: try await self.largeUnary()
    case .cacheableUnary: try await self.cacheableUnary()
    case .clientCompressedUnary: try await self.clientCompressedUnary()
    case .serverCompressedUnary: try await self.serverCompressedUnary()
    case .clientStreaming: try await self.clientStreaming()
    case .clientCompressedStreaming: try await self.clientCompressedStreaming()
    case .serverStreaming: try await self.serverStreaming()
    case .serverCompressedStreaming: try await self.serverCompressedStreaming()
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
    case .concurrentLargeUnary: try await self.concurrentLargeUnary()
    case .rpcSoak:
      try await self.soak.run { try await self.soak.call(self.channel) }
    case .channelSoak:
      try await self.soak.run {
        let channel = try self.connect([])
        do {
          try await self.soak.call(channel)
        } catch {
          await channel.close()
          throw error
        }
        await channel.close()
      }
    case .loadReportOfACall: try await self.loadReportOfACall()
    case .loadReportsBesideCalls: try await self.loadReportsBesideCalls()
    }
  }

  private func emptyUnary() async throws {
    let response = try await self.service.emptyCall(Interop.Empty(), options: self.options)
    try self.check(response == Interop.Empty(), "the response is not empty")
  }

  private func largeUnary() async throws {
    try await self.largeUnary(Interop.SimpleRequest(), self.options)
  }

  private func largeUnary(
    _ request: Interop.SimpleRequest, _ options: CallOptions, on channel: RPCChannel? = nil
  ) async throws {
    var request = request
    request.responseSize = 314_159
    request.payload = self.payload(271_828)
    let service = Interop.TestClient(channel ?? self.channel)
    let body = try await service.unaryCall(request, options: options).payload?.body ?? []
    try self.check(body.count == 314_159, "the response has \(body.count) bytes")
    try self.check(body.allSatisfy { $0 == 0 }, "the response is not made of zeros")
  }

  private func cacheableUnary() async throws {
    // Twice the same: with a proxy between, the second answer may be its own.
    var options = self.options
    options.metadata = ["x-user-ip": "1.2.3.4"]
    let request = Interop.SimpleRequest(payload: Interop.Payload(body: Array("now".utf8)))
    for _ in 1...2 {
      let response = try await self.service.cacheableUnaryCall(request, options: options)
      try self.check(response.payload?.body == request.payload?.body, "the payload is another")
    }
  }

  private func clientCompressedUnary() async throws {
    let expecting = Interop.SimpleRequest(expectCompressed: Interop.BoolValue(value: true))
    if self.probesCompression {
      try await self.expect(.invalidArgument) { try await self.largeUnary(expecting, self.options) }
    }
    try await self.largeUnary(expecting, self.compressed)
    try await self.largeUnary(
      Interop.SimpleRequest(expectCompressed: Interop.BoolValue(value: false)), self.options)
  }

  private func serverCompressedUnary() async throws {
    let ends = CallEnds()
    let channel = try self.connect([ends])
    do {
      for value in [true, false] {
        try await self.largeUnary(
          Interop.SimpleRequest(responseCompressed: Interop.BoolValue(value: value)), self.options,
          on: channel)
        let count = await ends.next()?.receivedCompressedMessages
        try self.check(
          count == (value ? 1 : 0),
          "\(String(describing: count)) responses were compressed, asked for \(value)")
      }
    } catch {
      await channel.close()
      throw error
    }
    await channel.close()
  }

  private func concurrentLargeUnary() async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      let channel = self.channel
      let request = Interop.SimpleRequest(
        responseSize: 314_159, payload: self.payload(271_828))
      for _ in 0..<Self.concurrentCalls {
        group.addTask {
          let response = try await Interop.TestClient(channel).unaryCall(
            request, options: CallOptions(timeout: .seconds(60)))
          guard response.payload?.body.count == 314_159 else {
            throw Mismatch("the response's size is another")
          }
        }
      }
      try await group.waitForAll()
    }
  }

  private func clientStreaming() async throws {
    let call = try await self.service.streamingInputCall(options: self.options)
    for size in Self.requestSizes {
      try await call.send(Interop.StreamingInputCallRequest(payload: self.payload(size)))
    }
    let size = try await call.finish().aggregatedPayloadSize
    try self.check(size == 74_922, "the server counted \(size)")
  }

  private func clientCompressedStreaming() async throws {
    let first = Interop.StreamingInputCallRequest(
      payload: self.payload(27_182), expectCompressed: Interop.BoolValue(value: true))
    let second = Interop.StreamingInputCallRequest(
      payload: self.payload(45_904), expectCompressed: Interop.BoolValue(value: false))
    if self.probesCompression {
      try await self.expect(.invalidArgument) {
        let call = try await self.service.streamingInputCall(options: self.options)
        try await call.send(first)
        _ = try await call.finish()
      }
    }
    let call = try await self.service.streamingInputCall(options: self.compressed)
    try await call.send(first)
    try await call.send(second, compressed: false)
    let size = try await call.finish().aggregatedPayloadSize
    try self.check(size == 73_086, "the server counted \(size)")
  }

  private func serverStreaming() async throws {
    let responses = try await self.service.streamingOutputCall(
      self.request(Self.responseSizes), options: self.options)
    var sizes: [Int32] = []
    for try await response in responses { sizes.append(self.size(response)) }
    try self.check(sizes == Self.responseSizes, "the sizes are \(sizes)")
  }

  private func serverCompressedStreaming() async throws {
    let expected: [(size: Int32, isCompressed: Bool)] = [(31_415, true), (92_653, false)]
    let parameters = expected.map { size, isCompressed in
      Interop.ResponseParameters(size: size, compressed: Interop.BoolValue(value: isCompressed))
    }
    let responses = try await self.service.streamingOutputCall(
      Interop.StreamingOutputCallRequest(responseParameters: parameters), options: self.options)
    var iterator = responses.makeAsyncIterator()
    for (size, isCompressed) in expected {
      let received = try await iterator.next().map(self.size)
      try self.check(
        received == size, "asked for \(size), got \(String(describing: received))")
      try self.check(
        iterator.wasCompressed == isCompressed,
        "a response of \(size) bytes was compressed: \(iterator.wasCompressed)")
    }
    try self.check(try await iterator.next() == nil, "there is a response too many")
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
    let received = ReceivedMetadata()
    options.receivedMetadata = received
    _ = try await self.service.unaryCall(
      Interop.SimpleRequest(responseSize: 314_159, payload: self.payload(271_828)),
      options: options)
    try self.checkMetadata(received.initial, received.trailing)
    options.receivedMetadata = nil
    let call = try await self.service.fullDuplexCall(options: options)
    try await call.send(self.request([314_159], payload: 271_828))
    await call.finishSending()
    let initial = try await call.responses.initialMetadata
    for try await _ in call.responses {}
    try self.checkMetadata(initial, call.responses.trailingMetadata ?? Metadata())
  }

  private func checkMetadata(_ initial: Metadata, _ trailing: Metadata) throws {
    try self.check(
      initial["x-grpc-test-echo-initial"] == "test_initial_metadata_value",
      "the initial metadata is \(initial)")
    try self.check(
      trailing.binary(for: "x-grpc-test-echo-trailing-bin") == [0xab, 0xab, 0xab],
      "the trailing metadata is \(trailing)")
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
