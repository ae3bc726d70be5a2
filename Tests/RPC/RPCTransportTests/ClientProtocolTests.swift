import NIOCore
import NIOPosix
import RPCCompression
import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
import Testing

/// gRPC's `doc/PROTOCOL-HTTP2.md` and RFC 9113 as our client's peer sees them, frame by frame.
@Suite(.timeLimit(.minutes(1))) struct ClientProtocolTests {
  /// A unary call, answered by a script; how it ended.
  private func call(
    options: CallOptions = CallOptions(),
    _ script: @Sendable @escaping (ScriptedPeer, ScriptedPeer.Frame) async throws -> Void
  ) async throws -> Result<Blob, RPCError> {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { () -> Result<Blob, RPCError> in
      do {
        return .success(try await channel.unary(Methods.unary, Blob("hello"), options: options))
      } catch let error as RPCError {
        return .failure(error)
      }
    }
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    try await script(peer, head)
    let result = try await call.value
    await channel.close()
    return result
  }

  private func error(
    _ script: @Sendable @escaping (ScriptedPeer, ScriptedPeer.Frame) async throws -> Void
  ) async throws -> RPCError {
    switch try await self.call(script) {
    case .success: return RPCError(.unknown, "it succeeded")
    case .failure(let error): return error
    }
  }

  // MARK: Requests

  @Test func aRequestHasItsFieldsInOrderAndNoOthers() async throws {
    let fields = Mutex<[String]>([])
    var metadata: Metadata = [
      "mine": " spaced ", "te": "gzip", "grpc-timeout": "1n", "content-type": "text/plain",
      "user-agent": "me", "Upper": "lower",
    ]
    metadata.add(binary: [0xfb, 0xff, 0], for: "b-bin")
    let result = try await self.call(
      options: CallOptions(timeout: .seconds(3_600), metadata: metadata)
    ) { peer, head in
      fields.withLock { $0 = head.fields.map { "\($0.name)=\($0.value)" } }
      try await peer.respond(stream: head.stream)
      try await peer.send(message: [], stream: head.stream)
      try await peer.end(stream: head.stream)
    }
    #expect(throws: Never.self) { try result.get() }
    var all = fields.withLock { $0 }
    let timeout = all.firstIndex { $0.hasPrefix("grpc-timeout=") }.map { all.remove(at: $0) }
    #expect(timeout?.hasSuffix("m") == true)
    #expect(
      all == [
        ":method=POST", ":scheme=http", ":path=/test.Test/Unary", ":authority=localhost",
        "te=trailers", "content-type=application/grpc", "user-agent=grpc-swift-millrace/0.1",
        "grpc-accept-encoding=identity,gzip,deflate", "mine=spaced", "upper=lower", "b-bin=+/8A",
      ])
  }

  /// What a server sends that no client can take.
  enum BadMessage: CaseIterable {
    case flag, undecodable, tooLarge, notGzip

    var frame: [UInt8] {
      func prefixed(_ flag: UInt8, _ bytes: [UInt8]) -> [UInt8] {
        [flag] + ScriptedPeer.bytes(UInt32(bytes.count)) + bytes
      }
      return switch self {
      case .flag: prefixed(7, [1])
      case .undecodable: prefixed(0, [0xff])
      case .tooLarge: [0] + ScriptedPeer.bytes(300_001)
      case .notGzip: prefixed(1, [1, 2, 3])
      }
    }

    var code: StatusCode { self == .tooLarge ? .resourceExhausted : .internalError }
  }

  /// However far behind the reader is: the server's OK says nothing of what could not be delivered.
  @Test(arguments: BadMessage.allCases, [false, true])
  func aBadMessageIsNoGoodEndWheneverItIsRead(bad: BadMessage, isBehind: Bool) async throws {
    var options = CallOptions()
    options.maximumResponseBytes = 300_000
    let (channel, peers) = ScriptedPeer.server()
    let responses: Task<ResponseStream<Blob>, any Error> = Task { [options] in
      try await channel.serverStreaming(Methods.server, Blob("1"), options: options)
    }
    let peer = try await peers.next()
    let stream = try #require(try await peer.frame(.headers)).stream
    try await peer.respond(stream: stream, more: [("grpc-encoding", "gzip")])
    var iterator = try await responses.value.makeAsyncIterator()
    // More than waits for a reader, in less than a window.
    let large = [UInt8](repeating: 1, count: 300_000)
    let small = large.withUnsafeBytes { MessageCodec.compress($0, .gzip) }
    func send(_ bytes: [UInt8]) async throws {
      try await peer.send(data: bytes, stream: stream, ends: false)
    }
    try await send([1] + ScriptedPeer.bytes(UInt32(small.count)) + small)
    if !isBehind { #expect(try await iterator.next()?.bytes.count == 300_000) }
    try await send(bad.frame)
    try await peer.end(stream: stream)
    // Once this is answered, the client has it all.
    try await peer.send(.ping, body: [UInt8](repeating: 7, count: 8))
    _ = try await peer.frame(.ping) { $0.isAcknowledgement }
    if isBehind { #expect(try await iterator.next()?.bytes.count == 300_000) }
    let error = await #expect(throws: RPCError.self) { try await iterator.next() }
    #expect(error?.code == bad.code)
    await channel.close()
  }

  enum LateEnd: CaseIterable { case reset, lost, trailers }

  /// Behind what a slow reader has not read: a part of a message, and the end.
  @Test(arguments: LateEnd.allCases)
  func theEndOfAStreamIsWhatItWasThoughItsReaderComesLate(end: LateEnd) async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = try await channel.bidirectional(Methods.both)
    let peer = try await peers.next()
    let stream = try #require(try await peer.frame(.headers)).stream
    try await peer.respond(stream: stream, more: [("grpc-encoding", "gzip")])
    let large = [UInt8](repeating: 1, count: 300_000)
    let small = large.withUnsafeBytes { MessageCodec.compress($0, .gzip) }
    try await peer.send(
      data: [1] + ScriptedPeer.bytes(UInt32(small.count)) + small, stream: stream, ends: false)
    try await peer.send(message: [2], stream: stream)
    if end != .trailers {
      try await peer.send(data: [0, 0, 0, 0, 100, 1], stream: stream, ends: false)
    }
    let sending = Task {
      while true { try await call.send(Blob([UInt8](repeating: 1, count: 100_000))) }
    }
    switch end {
    case .reset: try await peer.send(.reset, stream: stream, body: ScriptedPeer.bytes(8))
    case .lost: await peer.close()
    case .trailers: try await peer.end(stream: stream, status: .resourceExhausted)
    }
    let code: StatusCode =
      switch end {
      case .reset: .cancelled
      case .lost: .unavailable
      case .trailers: .resourceExhausted
      }
    // Nobody reads yet, and who sends learns of it all the same.
    let sent = await #expect(throws: RPCError.self) { try await sending.value }
    #expect(sent?.code == code)
    var responses = call.responses.makeAsyncIterator()
    #expect(try await responses.next()?.bytes.count == 300_000)
    #expect(try await responses.next()?.bytes == [2])
    let error = await #expect(throws: RPCError.self) { try await responses.next() }
    #expect(error?.code == code)
    await channel.close()
  }

  @Test func anOKThatDoesNotComeAsOneIsNone() async throws {
    let error = try await self.error { peer, head in
      try await peer.sendHeaders(
        [(":status", "502"), ("content-type", "text/html"), ("grpc-status", "0")],
        stream: head.stream, endsStream: true)
    }
    #expect(error.code == .unavailable)
  }

  // Were there something of a call left that is over, it would be written to.
  @Test func aFaultOfTheConnectionIsNoCallsThatIsOver() async throws {
    let (channel, peers) = ScriptedPeer.server()
    for round in 0..<2 {
      let call = Task { try await channel.unary(Methods.unary, Blob("hello")) }
      let peer = try await peers.next()
      let head = try #require(try await peer.frame(.headers))
      try await peer.respond(stream: head.stream)
      try await peer.send(message: [UInt8(round)], stream: head.stream)
      try await peer.end(stream: head.stream)
      #expect(try await call.value.bytes == [UInt8(round)])
      // More than a window can be: RFC 9113, section 6.9.1.
      try await peer.send(.windowUpdate, body: ScriptedPeer.bytes(0x7fff_ffff))
      let goAway = try await peer.frame(.goAway)
      #expect(goAway?.number(at: 4) == 3)
      #expect(try await peer.frame() == nil)
    }
    await channel.close()
  }

  @Test func pushIsSwitchedOff() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { try await channel.unary(Methods.unary, Blob()) }
    let settings = try await peers.next().frame()
    #expect(settings?.kind == .settings)
    let body = settings?.body ?? []
    let entries = stride(from: 0, to: body.count, by: 6).map { Array(body[$0..<$0 + 6]) }
    #expect(entries.contains([0, 2, 0, 0, 0, 0]))
    call.cancel()
    _ = try? await call.value
    await channel.close()
  }

  @Test func aCallThatIsCancelledIsResetWithCancel() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { try await channel.unary(Methods.unary, Blob()) }
    let peer = try await peers.next()
    _ = try await peer.frame(.headers)
    call.cancel()
    #expect(try await peer.frame(.reset)?.number(at: 0) == 8)
    await #expect(throws: RPCError.self) { try await call.value }
    await channel.close()
  }

  @Test func aCallThatIsLateIsResetWithCancel() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let first = Task { try await channel.unary(Methods.unary, Blob()) }
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    try await peer.end(stream: head.stream, status: .aborted, isTrailersOnly: true)
    await #expect(throws: RPCError.self) { try await first.value }
    var timeout = Duration.milliseconds(50)
    var codes: [UInt32] = []
    // On a busy machine a deadline may pass before its call has left.
    while codes.isEmpty {
      let options = CallOptions(timeout: timeout)
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob(), options: options)
      }
      #expect(error?.code == .deadlineExceeded)
      try await peer.send(.ping, body: [UInt8](repeating: 1, count: 8))
      while let frame = try await peer.frame(), frame.kind != .ping {
        if frame.kind == .reset { codes.append(frame.number(at: 0)) }
      }
      timeout *= 2
    }
    #expect(codes == [8])
    await channel.close()
  }

  // MARK: Responses

  @Test(arguments: [
    (400, StatusCode.internalError), (401, .unauthenticated), (403, .permissionDenied),
    (404, .unimplemented), (429, .unavailable), (502, .unavailable), (503, .unavailable),
    (504, .unavailable), (500, .unknown), (302, .unknown), (200, .unknown),
  ])
  func httpsStatusIsMapped(status: Int, code: StatusCode) async throws {
    let error = try await self.error { peer, head in
      try await peer.sendHeaders(
        [(":status", "\(status)"), ("content-type", "text/html")], stream: head.stream)
      try await peer.send(data: Array("<html>".utf8), stream: head.stream, ends: true)
    }
    #expect(error.code == code)
  }

  @Test(arguments: [
    (0 as UInt32, StatusCode.internalError), (1, .internalError), (2, .internalError),
    (3, .internalError),
    (4, .internalError), (6, .internalError), (8, .cancelled), (9, .internalError),
    (10, .internalError), (11, .resourceExhausted), (12, .permissionDenied),
  ])
  func aResetIsMapped(code: UInt32, status: StatusCode) async throws {
    let error = try await self.error { peer, head in
      try await peer.send(.reset, stream: head.stream, body: ScriptedPeer.bytes(code))
    }
    #expect(error.code == status)
  }

  @Test func aRefusalBehindTheHeadersIsUnavailable() async throws {
    let error = try await self.error { peer, head in
      try await peer.respond(stream: head.stream)
      try await peer.send(.reset, stream: head.stream, body: ScriptedPeer.bytes(7))
    }
    #expect(error.code == .unavailable)
  }

  @Test func interimResponsesAreSkipped() async throws {
    let result = try await self.call { peer, head in
      try await peer.sendHeaders([(":status", "100")], stream: head.stream)
      try await peer.sendHeaders([(":status", "103"), ("link", "x")], stream: head.stream)
      try await peer.respond(stream: head.stream)
      try await peer.send(message: Array("final".utf8), stream: head.stream)
      try await peer.end(stream: head.stream)
    }
    #expect(try result.get().text == "final")
  }

  @Test func trailersOnlyIsAStatusWithItsMessage() async throws {
    let error = try await self.error { peer, head in
      try await peer.end(
        stream: head.stream, status: .notFound, isTrailersOnly: true,
        more: [("grpc-message", "100%25 %C3%BCn%zz %4"), ("mine", "x"), ("a-bin", "YQ==")])
    }
    #expect(error.code == .notFound)
    #expect(error.message == "100% ün%zz %4")
    #expect(error.metadata["mine"] == "x")
    #expect(error.metadata.binary(for: "a-bin") == Array("a".utf8))
  }

  @Test(arguments: [nil, "", "x", "99", "-1", "0x", "100", "17"])
  func aStatusThatIsNoneIsUnknown(status: String?) async throws {
    let error = try await self.error { peer, head in
      try await peer.respond(stream: head.stream)
      try await peer.send(message: [], stream: head.stream)
      try await peer.sendHeaders(
        [("mine", "x")] + (status.map { [("grpc-status", $0)] } ?? []), stream: head.stream,
        endsStream: true)
    }
    #expect(error.code == .unknown)
  }

  @Test func anEndWithoutTrailersIsInternal() async throws {
    let error = try await self.error { peer, head in
      try await peer.respond(stream: head.stream)
      try await peer.send(message: [], stream: head.stream, ends: true)
    }
    #expect(error.code == .internalError)
  }

  @Test func anEndWithinAMessageIsInternal() async throws {
    let error = try await self.error { peer, head in
      try await peer.respond(stream: head.stream)
      try await peer.send(data: [0, 0, 0, 0, 5, 1], stream: head.stream, ends: false)
      try await peer.end(stream: head.stream)
    }
    #expect(error.code == .internalError)
    #expect(error.message.contains("within a message"))
  }

  @Test func aUnaryCallTakesExactlyOneResponse() async throws {
    for count in [0, 2] {
      let error = try await self.error { peer, head in
        try await peer.respond(stream: head.stream)
        for _ in 0..<count { try await peer.send(message: [], stream: head.stream) }
        // The second one is enough: a server may never end.
        if count == 0 { try await peer.end(stream: head.stream) }
      }
      #expect(error.code == .unimplemented)
    }
  }

  @Test(arguments: ["gzip", nil, "snappy"])
  func aCompressedResponseThatCannotBeReadIsInternal(encoding: String?) async throws {
    let error = try await self.error { peer, head in
      try await peer.respond(
        stream: head.stream, more: encoding.map { [("grpc-encoding", $0)] } ?? [])
      try await peer.send(data: [1, 0, 0, 0, 1, 7], stream: head.stream, ends: false)
    }
    #expect(error.code == .internalError)
  }

  @Test(arguments: [
    ("X-Upper", "a"), ("connection", "close"), ("transfer-encoding", "chunked"), ("x", "a\n"),
    (":path", "/"), ("content-length", "7"),
  ])
  func aMalformedResponseIsInternalAndReset(name: String, value: String) async throws {
    let error = try await self.error { peer, head in
      try await peer.sendHeaders(
        [(":status", "200")] + (name.hasPrefix(":") ? [(name, value)] : [])
          + [("content-type", "application/grpc")] + (name.hasPrefix(":") ? [] : [(name, value)]),
        stream: head.stream)
      if name == "content-length" {
        try await peer.send(message: [], stream: head.stream)
        try await peer.end(stream: head.stream)
      }
      #expect(try await peer.frame(.reset)?.number(at: 0) == 1)
    }
    #expect(error.code == .internalError)
  }

  @Test func unknownFramesSettingsAndPaddingAreTaken() async throws {
    let result = try await self.call { peer, head in
      try await peer.send(bytes: [0, 0, 3, 0x42, 0xff, 0, 0, 0, 0, 1, 2, 3])
      try await peer.send(.settings, body: [0xf0, 0x0d, 1, 2, 3, 4])
      try await peer.respond(stream: head.stream)
      try await peer.send(
        .data, flags: 8, stream: head.stream, body: [3, 0, 0, 0, 0, 1, 0x78, 0, 0, 0])
      try await peer.send(.priority, stream: head.stream, body: [0, 0, 0, 0, 1])
      try await peer.end(stream: head.stream)
    }
    #expect(try result.get().text == "x")
  }

  // MARK: Connections

  @Test(arguments: [
    ScriptedPeer.frame(
      .pushPromise, flags: 4, stream: 1,
      body: [0, 0, 0, 2] + ScriptedPeer.block(ScriptedPeer.requestFields("/x/y"))),
    ScriptedPeer.frame(
      .headers, flags: 5, stream: 2, body: ScriptedPeer.block([(":status", "200")])),
  ])
  func aServerThatBeginsStreamsIsLeft(bytes: [UInt8]) async throws {
    let error = try await self.error { peer, _ in
      // From now on it counts that the client wants no pushes.
      try await peer.send(.settings, flags: 1)
      try await peer.send(bytes: bytes)
      #expect(try await peer.frame(.goAway)?.number(at: 4) == 1)
    }
    #expect(error.code == .unavailable)
  }

  @Test func pingsAreAnswered() async throws {
    _ = try await self.error { peer, head in
      let body: [UInt8] = [8, 7, 6, 5, 4, 3, 2, 1]
      try await peer.send(.ping, body: body)
      let answer = try await peer.frame(.ping)
      #expect(answer?.isAcknowledgement == true)
      #expect(answer?.body == body)
      try await peer.end(stream: head.stream, status: .aborted, isTrailersOnly: true)
    }
  }

  @Test func aStreamLimitThatShrinksMakesCallsWait() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let first = Task { try await channel.unary(Methods.unary, Blob("1")) }
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    try await peer.send(.settings, body: [0, 3] + ScriptedPeer.bytes(1))
    _ = try await peer.frame(.settings) { $0.isAcknowledgement }
    let second = Task { try await channel.unary(Methods.unary, Blob("2")) }
    // Time for a call that does not wait: the first's end comes behind the answer to a ping.
    for _ in 0..<20 {
      try await peer.send(.ping, body: [UInt8](repeating: 1, count: 8))
      let frame = try await peer.frame { $0.kind != .data && $0.kind != .windowUpdate }
      #expect(frame?.kind == .ping)
    }
    try await peer.respond(stream: head.stream)
    try await peer.send(message: Array("a".utf8), stream: head.stream)
    try await peer.end(stream: head.stream)
    #expect(try await first.value.text == "a")
    let next = try #require(try await peer.frame(.headers))
    #expect(next.stream > head.stream)
    try await peer.respond(stream: next.stream)
    try await peer.send(message: Array("b".utf8), stream: next.stream)
    try await peer.end(stream: next.stream)
    #expect(try await second.value.text == "b")
    await channel.close()
  }

  @Test func aCallBelowGoAwaysLastStreamGoesOnAndNewOnesGoElsewhere() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let old = Task { try await channel.unary(Methods.unary, Blob("old")) }
    let first = try await peers.next()
    let head = try #require(try await first.frame(.headers))
    try await first.send(.goAway, body: ScriptedPeer.bytes(head.stream) + ScriptedPeer.bytes(0))
    try await first.send(.ping, body: [UInt8](repeating: 1, count: 8))
    _ = try await first.frame(.ping) { $0.isAcknowledgement }
    let new = Task { try await channel.unary(Methods.unary, Blob("new")) }
    let second = try await peers.next()
    let other = try #require(try await second.frame(.headers))
    for (peer, stream, text) in [(second, other.stream, "new"), (first, head.stream, "old")] {
      try await peer.respond(stream: stream)
      try await peer.send(message: Array(text.utf8), stream: stream)
      try await peer.end(stream: stream)
    }
    #expect(try await old.value.text == "old")
    #expect(try await new.value.text == "new")
    await channel.close()
  }

  @Test func aWindowOfNothingHoldsTheRequestBack() async throws {
    let (channel, peers) = ScriptedPeer.server(greets: false)
    let call = Task { try await channel.unary(Methods.unary, Blob("hello")) }
    let peer = try await peers.next()
    try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(0))
    let head = try #require(try await peer.frame(.headers))
    try await peer.send(.ping, body: [UInt8](repeating: 1, count: 8))
    let answer = try await peer.frame { $0.kind != .settings }
    #expect(answer?.kind == .ping)
    try await peer.send(.windowUpdate, stream: head.stream, body: ScriptedPeer.bytes(100))
    let data = try await peer.frame(.data)
    #expect(data?.body == [0, 0, 0, 0, 5] + Array("hello".utf8))
    try await peer.respond(stream: head.stream)
    try await peer.send(message: [], stream: head.stream)
    try await peer.end(stream: head.stream)
    _ = try await call.value
    await channel.close()
  }

  @Test func anAnswerBeforeTheRequestsEndIsTaken() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call: ClientStreamingCall<Blob, Blob> = try await channel.clientStreaming(Methods.client)
    try await call.send(Blob("first"))
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    try await peer.respond(stream: head.stream)
    try await peer.send(message: Array("enough".utf8), stream: head.stream)
    try await peer.end(stream: head.stream)
    try await peer.send(.reset, stream: head.stream, body: ScriptedPeer.bytes(0))
    #expect(try await call.finish().text == "enough")
    await channel.close()
  }
  /// What is kept for another attempt does not wait to be sent: a sender that wrote message by message, each
  /// behind a turn of the loop, would take a frame for each.
  @Test func aStreamOfRequestsGoesOutInFewFramesWhileTheServerIsSilent() async throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let (channel, peers) = ScriptedPeer.server(group: group)
    let call: ClientStreamingCall<Blob, Blob> = try await channel.clientStreaming(Methods.client)
    let message = Blob([UInt8](repeating: 7, count: 95))
    let sender = Task(executorPreference: group.next().callExecutor) {
      for _ in 0..<2_000 { try await call.send(message) }
      return try await call.finish().text
    }
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    var (frames, bytes) = (0, 0)
    while bytes < 2_000 * 100, let data = try await peer.frame(.data) {
      frames += 1
      bytes += data.body.count
    }
    #expect(frames < 500)
    try await peer.respond(stream: head.stream)
    try await peer.send(message: Array("done".utf8), stream: head.stream)
    try await peer.end(stream: head.stream)
    #expect(try await sender.value == "done")
    await channel.close()
    try await group.shutdownGracefully()
  }
}
