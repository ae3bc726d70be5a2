import RPCCompression
import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
import Testing

@Suite struct CompressionTests {
  private static let text = String(repeating: "water under the mill ", count: 500)

  @Test(arguments: Compression.allCases)
  func aMessageComesBackAsItWas(compression: Compression) throws {
    for bytes in [[], [7], Array(Self.text.utf8)] as [[UInt8]] {
      let small = bytes.withUnsafeBytes { MessageCodec.compress($0, compression) }
      let again = try small.withUnsafeBytes {
        try MessageCodec.decompress($0, compression, limit: bytes.count)
      }
      #expect(again == bytes)
    }
  }

  @Test(arguments: [Compression.gzip, .deflate])
  func whatIsNoSuchEncodingIsRefused(compression: Compression) throws {
    let whole = Array(Self.text.utf8).withUnsafeBytes { MessageCodec.compress($0, compression) }
    for bytes in [[], [1, 2, 3], Array(whole.dropLast()), whole + [0]] as [[UInt8]] {
      #expect(throws: MessageCodec.Failure.malformed(compression)) {
        try bytes.withUnsafeBytes { try MessageCodec.decompress($0, compression, limit: 1 << 20) }
      }
    }
  }

  @Test func aTaskOfItsOwnSendsCompressedUntilTheCallIsOver() async throws {
    let refused = Signal()
    var service = TestService()
    service.both = { _, responses, context in
      context.responseCompression = .gzip
      Task.detached {
        do {
          while true { try await responses.send(Blob(Self.text)) }
        } catch {
          await refused.set()
        }
      }
      try await Task.sleep(for: .seconds(60))
    }
    try await withServer(service) { channel, _ in
      let call: BidirectionalCall<Blob, Blob> = try await channel.bidirectional(Methods.both)
      var iterator = call.responses.makeAsyncIterator()
      for _ in 0..<10 { #expect(try await iterator.next()?.text == Self.text) }
      #expect(iterator.wasCompressed)
      call.cancel()
      await refused.wait()
    }
  }

  @Test func aBombIsRefusedAtTheLimit() throws {
    let bomb = [UInt8](repeating: 0, count: 64 << 20)
      .withUnsafeBytes { MessageCodec.compress($0, .gzip) }
    #expect(bomb.count < 100_000)
    #expect(throws: MessageCodec.Failure.tooLarge(limit: 1_000)) {
      try bomb.withUnsafeBytes { try MessageCodec.decompress($0, .gzip, limit: 1_000) }
    }
  }

  @Test(arguments: [Compression.gzip, .deflate])
  func requestsAndResponsesTravelCompressed(compression: Compression) async throws {
    let seen = Mutex<[Bool]>([])
    var service = TestService()
    service.unary = { request, context in
      seen.withLock { $0.append(context.requestWasCompressed) }
      context.responseCompression = compression
      return request
    }
    service.both = { requests, responses, context in
      context.responseCompression = compression
      var iterator = requests.makeAsyncIterator()
      while let request = try await iterator.next() {
        seen.withLock { $0.append(iterator.wasCompressed) }
        try await responses.send(request, compressed: !iterator.wasCompressed)
      }
    }
    try await withServer(service) { channel, _ in
      let options = CallOptions(compression: compression)
      let answer = try await channel.unary(Methods.unary, Blob(Self.text), options: options)
      #expect(answer.text == Self.text)
      let call: BidirectionalCall<Blob, Blob> = try await channel.bidirectional(
        Methods.both, options: options)
      try await call.send(Blob(Self.text))
      try await call.send(Blob("plain"), compressed: false)
      await call.finishSending()
      var answers: [(String, Bool)] = []
      var iterator = call.responses.makeAsyncIterator()
      while let answer = try await iterator.next() {
        answers.append((answer.text, iterator.wasCompressed))
      }
      #expect(answers.map(\.0) == [Self.text, "plain"])
      #expect(answers.map(\.1) == [false, true])
    }
    #expect(seen.withLock { $0 } == [true, true, false])
  }

  @Test func aMessageThatIsTooLargeUncompressedFailsItsCallOnEitherSide() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumRequestBytes = 1_000
    configuration.responseCompression = .gzip
    var service = TestService()
    service.server = { request, responses, _ in try await responses.send(Blob(Self.text)) }
    try await withServer(service, configuration: configuration) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob(Self.text), options: CallOptions(compression: .gzip))
      }
      #expect(error?.code == .resourceExhausted)
      let responses: ResponseStream<Blob> = try await channel.serverStreaming(
        Methods.server, Blob(), options: CallOptions(maximumResponseBytes: 1_000))
      let other = await #expect(throws: RPCError.self) { for try await _ in responses {} }
      #expect(other?.code == .resourceExhausted)
      #expect(other?.message == "a message is larger than the limit of 1000 bytes uncompressed")
    }
  }

  @Test func anEncodingThatNobodyKnowsIsNamedWithThoseThatAreKnown() async throws {
    try await withServer { channel, _ in
      let client = try await ScriptedPeer.client(of: try ListenAddress("\(channel.target)"))
      try await client.begin(Methods.unary, more: [("grpc-encoding", "snappy")])
      try await client.send(data: [0, 0, 0, 0, 0], ends: true)
      let answer = try await client.frame(.headers)
      #expect(answer?["grpc-status"] == "12")
      #expect(answer?["grpc-accept-encoding"] == "identity,gzip,deflate")
      #expect(answer?["grpc-message"]?.contains("snappy") == true)
      await client.close()
    }
  }
}
