import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
import Testing

/// What a server answered on a stream.
private struct Exchange {
  /// HEADERS of the stream.
  var heads: [ScriptedPeer.Frame] = []
  /// The bodies of its DATA.
  var data: [UInt8] = []
  /// The code of its RST_STREAM.
  var reset: UInt32?
  /// The code of the last GOAWAY.
  var goAway: UInt32?

  var status: String? { self.heads.last?["grpc-status"] }

  /// Reads what comes on a stream: to its end, or the connection's.
  static func read(_ peer: ScriptedPeer, stream: UInt32 = 1) async throws -> Exchange {
    var exchange = Exchange()
    while let frame = try await peer.frame() {
      if frame.kind == .goAway { exchange.goAway = frame.number(at: 4) }
      guard frame.stream == stream else { continue }
      switch frame.kind {
      case .headers: exchange.heads.append(frame)
      case .data: exchange.data += frame.body
      case .reset:
        exchange.reset = frame.number(at: 0)
        return exchange
      default: break
      }
      if frame.endsStream { return exchange }
    }
    return exchange
  }
}

private let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
private let empty: [UInt8] = [0, 0, 0, 0, 0]

/// gRPC's `doc/PROTOCOL-HTTP2.md` and RFC 9113 as our server's peer sees them, frame by frame. The tables
/// of `docs/rpc/protocol.md` name these tests.
@Suite(.timeLimit(.minutes(1))) struct ServerProtocolTests {
  /// A server, and a peer that has greeted it.
  private func withPeer(
    _ service: TestService = TestService(),
    configuration: RPCServer.Configuration = RPCServer.Configuration(),
    _ body: (ScriptedPeer, RPCChannel) async throws -> Void
  ) async throws {
    try await withServer(service, configuration: configuration) { channel, _ in
      let peer = try await ScriptedPeer.client(of: try ListenAddress("\(channel.target)"))
      try await body(peer, channel)
      await peer.close()
      // Whatever the peer did, others are served.
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.missing, Blob())
      }
      #expect(error?.code == .unimplemented)
    }
  }

  /// A unary call with other header fields than usual.
  private func call(
    _ service: TestService = TestService(), replacing name: String? = nil, by value: String? = nil,
    more: [(String, String)] = [], body: [UInt8] = empty
  ) async throws -> Exchange {
    var fields: [(String, String)] = []
    for field in ScriptedPeer.requestFields(Methods.unary.path) {
      if field.0 != name {
        fields.append(field)
      } else if let value {
        fields.append((field.0, value))
      }
    }
    let list = fields + more
    var exchange = Exchange()
    try await self.withPeer(service) { peer, _ in
      try await peer.sendHeaders(list, stream: 1)
      try await peer.send(data: body, ends: true)
      exchange = try await Exchange.read(peer)
    }
    return exchange
  }

  // MARK: Requests

  @Test(arguments: ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"])
  func contentTypesOfGRPCAreTaken(type: String) async throws {
    let exchange = try await self.call(replacing: "content-type", by: type)
    #expect(exchange.status == "0")
  }

  @Test(arguments: [
    "text/plain", "application/json", "application/grpc-web", "application/grpcx", nil,
  ])
  func otherContentTypesAreAnswered415(type: String?) async throws {
    let exchange = try await self.call(replacing: "content-type", by: type)
    #expect(exchange.heads.map { $0[":status"] } == ["415"])
  }

  @Test(arguments: ["GET", "PUT", "post"]) func otherMethodsAreAnswered405(method: String)
    async throws
  {
    let exchange = try await self.call(replacing: ":method", by: method)
    #expect(exchange.heads.map { $0[":status"] } == ["405"])
  }

  @Test func aMissingTEIsForgiven() async throws {
    #expect(try await self.call(replacing: "te", by: nil).status == "0")
  }

  @Test func aTEOtherThanTrailersIsMalformed() async throws {
    #expect(try await self.call(replacing: "te", by: "gzip").reset == 1)
  }

  @Test(arguments: [
    "/", "/test.Test", "/test.Test/", "/test.Test/unary", "//test.Test/Unary", "/%00",
  ])
  func unknownPathsAreUnimplemented(path: String) async throws {
    let exchange = try await self.call(replacing: ":path", by: path)
    #expect(exchange.status == "12")
    #expect(exchange.heads.count == 1)
  }

  @Test(arguments: ["", "1", "S", "-1S", "123456789S", "1s", "1 S"])
  func badTimeoutsFailTheCall(timeout: String) async throws {
    let exchange = try await self.call(more: [("grpc-timeout", timeout)])
    #expect(exchange.status == "13")
  }

  @Test(arguments: ["0n", "0S", "00000000H"])
  func aTimeoutOfNothingEndsTheCallBeforeItsHandler(timeout: String) async throws {
    var service = TestService()
    service.unary = { _, _ in throw RPCError(.aborted, "the handler began") }
    #expect(try await self.call(service, more: [("grpc-timeout", timeout)]).status == "4")
  }

  @Test(arguments: ["Application/gRPC", "application/GRPC+proto", "application/grpc ; x=y"])
  func contentTypesAreTheSameInAnyCase(type: String) async throws {
    #expect(try await self.call(replacing: "content-type", by: type).status == "0")
  }

  @Test func aTimeoutThatHasPassedEndsTheCall() async throws {
    var service = TestService()
    service.unary = { request, _ in
      try await Task.sleep(for: .seconds(60))
      return request
    }
    #expect(try await self.call(service, more: [("grpc-timeout", "1m")]).status == "4")
  }

  @Test func aRequestsTrailersMeanNothing() async throws {
    try await self.withPeer { peer, _ in
      try await peer.begin(Methods.unary)
      try await peer.send(message: Array("x".utf8))
      try await peer.sendHeaders([("grpc-status", "13"), ("x", "y")], stream: 1, endsStream: true)
      #expect(try await Exchange.read(peer).status == "0")
    }
  }

  @Test func aUnaryRequestWithoutOrWithTwoMessagesIsUnimplemented() async throws {
    try await self.withPeer { peer, _ in
      try await peer.begin(Methods.unary, stream: 1, endsStream: true)
      #expect(try await Exchange.read(peer).status == "12")
      try await peer.begin(Methods.unary, stream: 3)
      try await peer.send(data: empty + empty, stream: 3, ends: true)
      #expect(try await Exchange.read(peer, stream: 3).status == "12")
    }
  }

  // MARK: Messages

  @Test func aMessageMayBeCutAnywhereAndPadded() async throws {
    try await self.withPeer { peer, _ in
      try await peer.begin(Methods.unary)
      for byte in [0, 0, 0, 0, 3] + Array("cut".utf8) {
        // PADDED: the padding's length, the byte, the padding.
        try await peer.send(.data, flags: 8, stream: 1, body: [4, byte, 0, 0, 0, 0])
      }
      try await peer.send(data: [], ends: true)
      let exchange = try await Exchange.read(peer)
      #expect(exchange.status == "0")
      #expect(exchange.data == [0, 0, 0, 0, 3] + Array("cut".utf8))
    }
  }

  @Test(arguments: [[0, 0, 0, 0, 5, 1, 1], [0, 0], [0, 0, 0, 0, 1]] as [[UInt8]])
  func anEndWithinAMessageIsInternal(body: [UInt8]) async throws {
    #expect(try await self.call(body: body).status == "13")
  }

  @Test func aFlagThatIsNoneIsInternal() async throws {
    #expect(try await self.call(body: [2, 0, 0, 0, 0]).status == "13")
  }

  @Test func aCompressedMessageWithoutAnEncodingIsInternal() async throws {
    #expect(try await self.call(body: [1, 0, 0, 0, 1, 7]).status == "13")
    let identity = try await self.call(
      more: [("grpc-encoding", "identity")], body: [1, 0, 0, 0, 1, 7])
    #expect(identity.status == "13")
  }

  // MARK: Metadata

  @Test func metadataComesInOrderWithAndWithoutPaddingAndJoined() async throws {
    let seen = Mutex(Metadata())
    var service = TestService()
    service.unary = { request, context in
      seen.withLock { $0 = context.metadata }
      return request
    }
    let fields = [
      ("tag", "1"), ("a-bin", "YWI="), ("tag", "2"), ("b-bin", "YWI"), ("c-bin", "YQ==,YWI"),
      ("c-bin", "YWJj"), ("d-bin", "*"), ("e-bin", ""), ("grpc-future", "x"),
    ]
    let exchange = try await self.call(service, more: fields)
    #expect(exchange.status == "0")
    let metadata = seen.withLock { $0 }
    #expect(metadata.values(for: "tag") == ["1", "2"])
    #expect(metadata.binary(for: "a-bin") == Array("ab".utf8))
    #expect(metadata.binary(for: "b-bin") == Array("ab".utf8))
    #expect(metadata.binary(for: "c-bin") == Array("a".utf8))
    #expect(metadata.binaryValues(for: "c-bin") == ["a", "ab", "abc"].map { Array($0.utf8) })
    #expect(metadata.binary(for: "d-bin") == nil)
    #expect(metadata.binary(for: "e-bin") == [])
    // What is not known is the application's.
    #expect(metadata["grpc-future"] == "x")
    for name in ["te", "content-type", ":path", ":method", ":scheme", ":authority"] {
      #expect(metadata[name] == nil)
    }
  }

  @Test func namesThatAreNotTheApplicationsAreNotSent() async throws {
    var service = TestService()
    service.server = { _, responses, context in
      let metadata: Metadata = [
        "grpc-status": "5", "content-type": "text/plain", ":status": "500", "no name": "x",
        "connection": "close", "content-length": "7", "": "x", "naïve": "x", "mine": " spaced ",
        "mine-bin": "no base64!", "grpc-of-tomorrow": "x",
      ]
      context.setInitialMetadata(metadata)
      context.setTrailingMetadata(metadata)
      try await responses.send(Blob("x"))
    }
    try await self.withPeer(service) { peer, _ in
      try await peer.begin(Methods.server)
      try await peer.send(message: [], ends: true)
      let exchange = try await Exchange.read(peer)
      #expect(exchange.heads.count == 2)
      #expect(
        exchange.heads.first?.fields.map { "\($0.name)=\($0.value)" } == [
          ":status=200", "content-type=application/grpc", "mine=spaced",
        ])
      #expect(
        exchange.heads.last?.fields.map { "\($0.name)=\($0.value)" } == [
          "grpc-status=0", "mine=spaced",
        ])
    }
  }

  // MARK: Responses

  @Test func anErrorWithoutAResponseIsTrailersOnly() async throws {
    var service = TestService()
    service.unary = { _, _ in throw RPCError(.notFound, " 100% ünï\n ", metadata: ["more": "x"]) }
    let exchange = try await self.call(service)
    #expect(
      exchange.heads.map { $0.fields.map { "\($0.name)=\($0.value)" } } == [
        [
          ":status=200", "content-type=application/grpc", "grpc-status=5",
          "grpc-message=%20100%25 %C3%BCn%C3%AF%0A%20", "more=x",
        ]
      ])
    #expect(exchange.heads.first?.endsStream == true)
  }

  @Test func initialMetadataIsSentBeforeAnErrorToo() async throws {
    var service = TestService()
    service.unary = { _, context in
      context.setInitialMetadata(["first": "a"])
      throw RPCError(.notFound, "nothing")
    }
    let exchange = try await self.call(service)
    #expect(exchange.heads.map { $0["first"] } == ["a", nil])
    #expect(exchange.heads.map { $0["grpc-status"] } == [nil, "5"])
  }

  @Test func anAnswerBeforeTheRequestsEndResetsWithNoError() async throws {
    var service = TestService()
    service.client = { _, _ in Blob("early") }
    try await self.withPeer(service) { peer, _ in
      try await peer.begin(Methods.client)
      let exchange = try await Exchange.read(peer)
      #expect(exchange.status == "0")
      let reset = try await peer.frame(.reset)
      #expect(reset?.stream == 1)
      #expect(reset?.number(at: 0) == 0)
    }
  }

  // MARK: Malformed requests: RFC 9113, section 8.1.1

  @Test(arguments: [
    ("X-Upper", "a"), ("connection", "close"), ("keep-alive", "1"), ("proxy-connection", "x"),
    ("transfer-encoding", "chunked"), ("upgrade", "h2c"), ("bad name", "a"), ("x", "a\u{1}"),
    ("x", "a\n"), ("x", "a\0"), (":unknown", "a"), (":status", "200"), (":path", "/a/b"),
    ("content-length", "7"), ("content-length", "x"),
  ])
  func malformedFieldsResetTheStream(name: String, value: String) async throws {
    let exchange = try await self.call(more: [(name, value)])
    #expect(exchange.reset == 1)
    #expect(exchange.heads.isEmpty)
    #expect(exchange.goAway == nil)
  }

  @Test(arguments: [":method", ":scheme", ":path"])
  func aMissingPseudoFieldResetsTheStream(name: String) async throws {
    #expect(try await self.call(replacing: name, by: nil).reset == 1)
  }

  @Test func aPseudoFieldBehindOthersResetsTheStream() async throws {
    try await self.withPeer { peer, _ in
      let fields = ScriptedPeer.requestFields(Methods.unary.path)
      try await peer.sendHeaders(Array(fields.dropFirst()) + [fields[0]], stream: 1)
      #expect(try await Exchange.read(peer).reset == 1)
    }
  }

  @Test func aContentLengthThatFitsIsTaken() async throws {
    #expect(try await self.call(more: [("content-length", "5")]).status == "0")
  }

  // MARK: Frames: RFC 9113, sections 4 to 6

  @Test func unknownFramesSettingsAndFlagsAreIgnored() async throws {
    try await self.withPeer { peer, _ in
      // Type 0x42, on the connection and on the stream.
      try await peer.send(bytes: [0, 0, 3, 0x42, 0xff, 0, 0, 0, 0, 1, 2, 3])
      try await peer.send(.settings, body: [0xf0, 0x0d, 1, 2, 3, 4])
      try await peer.begin(Methods.unary)
      try await peer.send(bytes: [0, 0, 1, 0xee, 0, 0, 0, 0, 1, 9])
      // Flags that DATA does not have.
      try await peer.send(.data, flags: 0x41, stream: 1, body: empty)
      #expect(try await Exchange.read(peer).status == "0")
    }
  }

  @Test func paddedHeadersWithAPriorityAreTaken() async throws {
    try await self.withPeer { peer, _ in
      try await peer.send(.priority, stream: 9, body: [0, 0, 0, 3, 7])
      let block = ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path))
      // PADDED, PRIORITY and END_HEADERS.
      try await peer.send(
        .headers, flags: 0x2c, stream: 1, body: [2, 0, 0, 0, 0, 16] + block + [0, 0])
      try await peer.send(.priority, stream: 1, body: [0, 0, 0, 0, 255])
      try await peer.send(data: empty, ends: true)
      #expect(try await Exchange.read(peer).status == "0")
    }
  }

  @Test func aHeaderListMayComeInSeveralFrames() async throws {
    try await self.withPeer { peer, _ in
      let block = ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path))
      try await peer.send(.headers, stream: 1, body: Array(block[..<10]))
      try await peer.send(.continuation, stream: 1, body: Array(block[10..<20]))
      try await peer.send(.continuation, flags: 4, stream: 1, body: Array(block[20...]))
      try await peer.send(data: empty, ends: true)
      #expect(try await Exchange.read(peer).status == "0")
    }
  }

  @Test func pingsAndSettingsAreAcknowledged() async throws {
    try await self.withPeer { peer, _ in
      let body: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
      try await peer.send(.ping, body: body)
      let answer = try await peer.frame(.ping)
      #expect(answer?.isAcknowledgement == true)
      #expect(answer?.body == body)
      try await peer.send(.settings, body: [0, 1] + ScriptedPeer.bytes(0))
      let settings = try await peer.frame(.settings) { $0.isAcknowledgement }
      #expect(settings?.body == [])
    }
  }

  @Test func settingsThatChangeMeanwhileHoldOpenStreams() async throws {
    let sizes = [20, 30_000]
    var service = TestService()
    let go = Signal()
    service.server = { _, responses, _ in
      try await responses.send(Blob([UInt8](repeating: 1, count: sizes[0])))
      await go.wait()
      try await responses.send(Blob([UInt8](repeating: 2, count: sizes[1])))
    }
    try await self.withPeer(service) { peer, _ in
      try await peer.begin(Methods.server)
      try await peer.send(message: [], ends: true)
      let first = try await peer.frame(.data) { !$0.body.isEmpty }
      #expect(first?.body.count == sizes[0] + 5)
      // A window that leaves none: 2^31 - 1 less what was sent becomes less than nothing. And the
      // largest frame.
      try await peer.send(
        .settings, body: [0, 4] + ScriptedPeer.bytes(0) + [0, 5] + ScriptedPeer.bytes(20_000))
      _ = try await peer.frame(.settings) { $0.isAcknowledgement }
      await go.set()
      try await peer.send(.ping, body: [UInt8](repeating: 9, count: 8))
      // Nothing but the ping's answer comes.
      let answer = try await peer.frame()
      #expect(answer?.kind == .ping)
      try await peer.send(.windowUpdate, stream: 1, body: ScriptedPeer.bytes(1_000_000))
      var received = 0
      var largest = 0
      while received < sizes[1] + 5, let frame = try await peer.frame(.data) {
        received += frame.body.count
        largest = max(largest, frame.body.count)
      }
      #expect(received == sizes[1] + 5)
      #expect(largest <= 20_000)
    }
  }

  /// What a client must not send, and the code of the GOAWAY that answers it.
  private static let errors: [(String, [UInt8], UInt32)] = [
    ("DATA on stream 0", ScriptedPeer.frame(.data, body: [1]), 1),
    ("DATA on an idle stream", ScriptedPeer.frame(.data, stream: 5, body: [1]), 1),
    (
      "HEADERS on stream 0",
      ScriptedPeer.frame(.headers, flags: 5, body: ScriptedPeer.block([])), 1
    ),
    (
      "HEADERS on an even stream",
      ScriptedPeer.frame(
        .headers, flags: 5, stream: 2,
        body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path))), 1
    ),
    ("RST_STREAM on an idle stream", ScriptedPeer.frame(.reset, stream: 5, body: [0, 0, 0, 8]), 1),
    ("RST_STREAM of three bytes", ScriptedPeer.frame(.reset, stream: 1, body: [0, 0, 8]), 6),
    ("PRIORITY on stream 0", ScriptedPeer.frame(.priority, body: [0, 0, 0, 1, 1]), 1),
    (
      "PRIORITY of a stream that depends on itself",
      ScriptedPeer.frame(.priority, stream: 3, body: [0, 0, 0, 3, 1]), 1
    ),
    (
      "HEADERS of a stream that depends on itself",
      ScriptedPeer.frame(
        .headers, flags: 0x25, stream: 1,
        body: [0, 0, 0, 1, 1]
          + ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path))), 1
    ),
    ("SETTINGS on a stream", ScriptedPeer.frame(.settings, stream: 1), 1),
    ("SETTINGS of five bytes", ScriptedPeer.frame(.settings, body: [0, 4, 0, 0, 1]), 6),
    (
      "an acknowledgement with a body",
      ScriptedPeer.frame(.settings, flags: 1, body: [0, 4, 0, 0, 0, 1]), 6
    ),
    (
      "a window beyond 2^31 - 1",
      ScriptedPeer.frame(.settings, body: [0, 4] + ScriptedPeer.bytes(0x8000_0000)), 3
    ),
    (
      "a frame size that is too small",
      ScriptedPeer.frame(.settings, body: [0, 5] + ScriptedPeer.bytes(16_383)), 1
    ),
    (
      "an ENABLE_PUSH of 2", ScriptedPeer.frame(.settings, body: [0, 2] + ScriptedPeer.bytes(2)), 1
    ),
    ("PUSH_PROMISE", ScriptedPeer.frame(.pushPromise, flags: 4, stream: 1, body: [0, 0, 0, 2]), 1),
    (
      "PING on a stream",
      ScriptedPeer.frame(.ping, stream: 1, body: [UInt8](repeating: 0, count: 8)), 1
    ),
    ("PING of seven bytes", ScriptedPeer.frame(.ping, body: [UInt8](repeating: 0, count: 7)), 6),
    (
      "GOAWAY on a stream",
      ScriptedPeer.frame(.goAway, stream: 1, body: [UInt8](repeating: 0, count: 8)), 1
    ),
    ("WINDOW_UPDATE of zero", ScriptedPeer.frame(.windowUpdate, body: ScriptedPeer.bytes(0)), 1),
    (
      "WINDOW_UPDATE of zero on a stream",
      ScriptedPeer.frame(
        .headers, flags: 4, stream: 1,
        body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.client.path)))
        + ScriptedPeer.frame(.windowUpdate, stream: 1, body: ScriptedPeer.bytes(0)), 1
    ),
    (
      "WINDOW_UPDATE beyond 2^31 - 1",
      ScriptedPeer.frame(.windowUpdate, body: ScriptedPeer.bytes(0x7fff_ffff)), 3
    ),
    ("CONTINUATION without HEADERS", ScriptedPeer.frame(.continuation, flags: 4, stream: 1), 1),
    (
      "a frame within a header list",
      ScriptedPeer.frame(.headers, stream: 1) + ScriptedPeer.frame(.ping, body: empty + [0, 0, 0]),
      1
    ),
    (
      "padding that is longer than its frame",
      ScriptedPeer.frame(.headers, flags: 0x0c, stream: 1, body: [9, 0, 0]), 1
    ),
    (
      "a header block that is none",
      ScriptedPeer.frame(.headers, flags: 4, stream: 1, body: [0xff]), 9
    ),
    (
      "a frame larger than 16,384 bytes",
      ScriptedPeer.frame(.ping, body: [UInt8](repeating: 0, count: 16_385)), 6
    ),
  ]

  @Test(arguments: 0..<27) func connectionErrorsEndTheConnectionWithTheirCode(
    index: Int
  ) async throws {
    #expect(Self.errors.count == 27)
    let (what, bytes, code) = Self.errors[index]
    try await self.withPeer { peer, _ in
      try await peer.send(bytes: bytes)
      let exchange = try await Exchange.read(peer, stream: .max)
      #expect(exchange.goAway == code, "\(what)")
      // It was read to its end: the server has closed.
      #expect(try await peer.frame() == nil)
    }
  }

  @Test func aStreamNumberThatGoesBackBeginsNoCall() async throws {
    let calls = Atomic(0)
    let box = Counter(calls)
    var service = TestService()
    service.unary = { request, _ in
      box.value.add(1, ordering: .relaxed)
      return request
    }
    try await self.withPeer(service) { peer, _ in
      for stream in [5, 3, 7] as [UInt32] {
        try await peer.begin(Methods.unary, stream: stream)
        if stream == 3 { continue }
        try await peer.send(data: empty, stream: stream, ends: true)
        #expect(try await Exchange.read(peer, stream: stream).status == "0")
      }
    }
    #expect(box.value.load(ordering: .relaxed) == 2)
  }

  private final class Counter: Sendable {
    let value: Atomic<Int>
    init(_ value: consuming Atomic<Int>) { self.value = value }
  }

  @Test func dataBehindTheEndIsAnErrorOfTheStreamOrTheConnection() async throws {
    var service = TestService()
    let release = Signal()
    service.unary = { request, context in
      if context.metadata["slow"] != nil { await release.wait() }
      return request
    }
    try await self.withPeer(service) { peer, _ in
      try await peer.begin(Methods.unary, more: [("slow", "1")])
      try await peer.send(data: empty, ends: true)
      try await peer.send(data: empty, ends: true)
      let exchange = try await Exchange.read(peer)
      #expect(exchange.reset == 5 || exchange.goAway == 5)
      await release.set()
    }
  }

  @Test func aWindowThatIsOverrunResetsItsStream() async throws {
    var service = TestService()
    let release = Signal()
    service.client = { _, _ in
      await release.wait()
      return Blob()
    }
    try await self.withPeer(service) { peer, _ in
      try await peer.begin(Methods.client)
      // Messages of a kilobyte that nobody reads.
      let message = [0, 0, 0, 4, 0] + [UInt8](repeating: 1, count: 1_024)
      let frame = (0..<15).flatMap { _ in message }
      for _ in 0..<200 { try await peer.send(data: frame, ends: false) }
      #expect(try await Exchange.read(peer).reset == 3)
      await release.set()
    }
  }

  @Test func aWindowOfAStreamBeyondItsLimitResetsIt() async throws {
    try await self.withPeer { peer, _ in
      try await peer.begin(Methods.client)
      try await peer.send(.windowUpdate, stream: 1, body: ScriptedPeer.bytes(0x7fff_ffff))
      #expect(try await Exchange.read(peer).reset == 3)
    }
  }

  @Test func framesOfStreamsThatAreOverAreIgnored() async throws {
    try await self.withPeer { peer, _ in
      try await peer.begin(Methods.unary)
      try await peer.send(data: empty, ends: true)
      #expect(try await Exchange.read(peer).status == "0")
      try await peer.send(.windowUpdate, stream: 1, body: ScriptedPeer.bytes(10))
      try await peer.send(.reset, stream: 1, body: ScriptedPeer.bytes(8))
      try await peer.send(.priority, stream: 1, body: [0, 0, 0, 0, 1])
      try await peer.begin(Methods.unary, stream: 3)
      try await peer.send(data: empty, stream: 3, ends: true)
      #expect(try await Exchange.read(peer, stream: 3).status == "0")
    }
  }

  @Test func streamsBeyondTheLimitAreRefused() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumConcurrentCallsPerConnection = 1
    try await self.withPeer(configuration: configuration) { peer, _ in
      let settings = try await peer.frame(.settings)
      #expect(settings?.body.isEmpty == false)
      // Before this the limit is not known to the client, and not held against it.
      try await peer.send(.settings, flags: 1)
      try await peer.begin(Methods.client)
      try await peer.begin(Methods.unary, stream: 3)
      #expect(try await Exchange.read(peer, stream: 3).reset == 7)
      try await peer.send(message: [], ends: true)
      #expect(try await Exchange.read(peer).status == "0")
    }
  }

  @Test func whoKnowsTheLimitAndGoesOnLosesTheConnection() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumConcurrentCallsPerConnection = 1
    configuration.provokedResets = .init(burst: 20, perSecond: 1)
    try await self.withPeer(configuration: configuration) { peer, _ in
      try await peer.send(.settings, flags: 1)
      try await peer.begin(Methods.client)
      let block = ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path))
      // In one piece: a GOAWAY may be lost with a socket that is closed on what was not read.
      try await peer.send(
        bytes: (1...50).flatMap {
          ScriptedPeer.frame(.headers, flags: 4, stream: UInt32(2 * $0 + 1), body: block)
        })
      #expect(try await Exchange.read(peer, stream: .max).goAway == 11)
    }
  }

  @Test func theServersSettingsComeFirst() async throws {
    try await self.withPeer { peer, _ in
      let first = try await peer.frame()
      #expect(first?.kind == .settings)
      #expect(first?.isAcknowledgement == false)
    }
  }

  @Test(arguments: [
    Array("GET / HTTP/1.1\r\nHost: x\r\n\r\n".utf8), Array("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".utf8),
    // No SETTINGS behind the preface.
    preface + ScriptedPeer.frame(.ping, body: [UInt8](repeating: 0, count: 8)),
  ])
  func aPrefaceThatIsNoneClosesTheConnection(bytes: [UInt8]) async throws {
    try await withServer { channel, _ in
      let peer = try await ScriptedPeer.client(
        of: try ListenAddress("\(channel.target)"), greets: false)
      try await peer.send(bytes: bytes)
      while try await peer.frame() != nil {}
      await peer.close()
    }
  }

  @Test func aShutdownAnnouncesItselfBeforeItRefuses() async throws {
    var service = TestService()
    let release = Signal()
    service.unary = { request, _ in
      await release.wait()
      return request
    }
    var configuration = RPCServer.Configuration()
    configuration.closeTimeout = .seconds(30)
    let server = RPCServer(services: [service], configuration: configuration)
    let peer = try await ScriptedPeer.client(
      of: try await server.listen(on: ListenAddress("127.0.0.1:0")))
    try await peer.begin(Methods.unary)
    try await peer.send(data: empty, ends: true)
    // Both have come: a ping behind them is answered.
    try await peer.send(.ping, body: [UInt8](repeating: 1, count: 8))
    _ = try await peer.frame(.ping) { $0.isAcknowledgement }
    async let down: Void = server.shutdown(grace: .seconds(30))
    let notice = try await peer.frame(.goAway)
    #expect(notice?.number(at: 0) == 0x7fff_ffff)
    #expect(notice?.number(at: 4) == 0)
    let ping = try await peer.frame(.ping)
    // On its way when the notice came: it is served.
    try await peer.begin(Methods.unary, stream: 3)
    try await peer.send(data: empty, stream: 3, ends: true)
    try await peer.send(.ping, flags: 1, body: ping?.body ?? [])
    let last = try await peer.frame(.goAway)
    #expect(last?.number(at: 0) == 3)
    await release.set()
    var served: Set<UInt32> = []
    while let frame = try await peer.frame() {
      if frame.kind == .headers, frame["grpc-status"] == "0" { served.insert(frame.stream) }
    }
    #expect(served == [1, 3])
    await down
    await peer.close()
  }
}
