import NIOCore
import NIOPosix
import RPCCore
import RPCHTTP2
import RPCTransport
import Synchronization

/// A peer that says exactly what a test wants, frame by frame: what no well-behaved client or server
/// ever does, and at which moment.
///
///     let (channel, peers) = ScriptedPeer.server()
///     async let reply = greeter.sayHello(HelloRequest())
///     let peer = try await peers.next()
///     let request = try await peer.frame(.headers)
///     try await peer.sendHeaders([(":status", "503")], stream: request!.stream, endsStream: true)
///
/// It reads only when a test asks it to.
public final class ScriptedPeer: Sendable {
  /// HTTP/2's frame types (RFC 9113, section 6).
  public enum Kind: UInt8, Sendable {
    /// DATA: a part of a body.
    case data = 0
    /// HEADERS: a header list, or its beginning.
    case headers = 1
    /// PRIORITY, which means nothing any more.
    case priority = 2
    /// RST_STREAM: the end of a stream.
    case reset = 3
    /// SETTINGS, or the acknowledgement of the peer's.
    case settings = 4
    /// PUSH_PROMISE: a stream that the server will begin.
    case pushPromise = 5
    /// PING, or the answer to one.
    case ping = 6
    /// GOAWAY: no further streams.
    case goAway = 7
    /// WINDOW_UPDATE: more bytes may come.
    case windowUpdate = 8
    /// CONTINUATION: more of a header list.
    case continuation = 9
  }

  /// A frame as it came.
  public struct Frame: Sendable, Hashable {
    /// Its number on the wire, also of kinds that HTTP/2 does not know.
    public var type: UInt8
    /// RFC 9113, section 6: what they mean depends on the type.
    public var flags: UInt8
    /// The stream's number; 0 is the connection.
    public var stream: UInt32
    /// What is behind the nine bytes of its head, padding included.
    public var body: [UInt8]
    /// Of a HEADERS frame that holds a whole list: its fields.
    public var fields: [Field] = []

    /// A header field.
    public struct Field: Sendable, Hashable {
      /// In lower case, `:status` and the like among them.
      public var name: String
      /// As it came.
      public var value: String
    }

    /// Nil: a type that HTTP/2 does not know.
    public var kind: Kind? { Kind(rawValue: self.type) }
    /// Whether it is HEADERS or DATA with END_STREAM.
    public var endsStream: Bool { self.type <= Kind.headers.rawValue && self.flags & 1 != 0 }
    /// Whether a PING or a SETTINGS frame answers one.
    public var isAcknowledgement: Bool { self.flags & 1 != 0 }

    /// The first field of that name.
    public subscript(name: String) -> String? { self.fields.first { $0.name == name }?.value }

    /// The body's number at an offset, of four bytes: an error code or a window's increment. Zero
    /// where there are no four bytes.
    public func number(at offset: Int) -> UInt32 {
      guard offset >= 0, self.body.count - 4 >= offset else { return 0 }
      return self.body[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }
  }

  private let channel: any Channel
  private let inbox: Inbox

  private init(_ channel: any Channel, _ inbox: Inbox) {
    self.channel = channel
    self.inbox = inbox
  }

  // MARK: Making one

  /// A client of a server that listens. It has sent the preface, and settings under which the server
  /// is never held back.
  ///
  /// - Parameters:
  ///   - address: Where the server listens.
  ///   - receiveBuffer: Of the socket, in bytes: what the system takes for a peer that does not read.
  ///   - greets: False sends nothing at all.
  ///   - staysBehindEnd: Whether it goes on when the server has ended its side of the connection: until
  ///     ``close()``, or the server's.
  public static func client(
    of address: ListenAddress, receiveBuffer: Int? = nil, greets: Bool = true,
    staysBehindEnd: Bool = false
  ) async throws -> ScriptedPeer {
    let inbox = Inbox()
    var bootstrap = ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .channelOption(.autoRead, value: false)
      .channelOption(.allowRemoteHalfClosure, value: staysBehindEnd)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(inbox)
        }
      }
    if let receiveBuffer {
      bootstrap = bootstrap.channelOption(
        .socketOption(.so_rcvbuf), value: SocketOptionValue(receiveBuffer))
    }
    let channel: any Channel =
      switch address {
      case .tcp(let host, let port): try await bootstrap.connect(host: host, port: port).get()
      case .unix(let path): try await bootstrap.connect(unixDomainSocketPath: path).get()
      }
    let peer = ScriptedPeer(channel, inbox)
    if greets {
      try await peer.send(bytes: Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8))
      try await peer.sendOpenWindows()
    }
    return peer
  }

  /// A channel whose servers are scripted, and those servers in the order in which it connects to
  /// them.
  ///
  /// - Parameters:
  ///   - configuration: The channel's.
  ///   - greets: Whether a server sends its SETTINGS by itself.
  ///   - group: Whose event loops the channel and its servers live on.
  public static func server(
    configuration: RPCChannel.Configuration = RPCChannel.Configuration(), greets: Bool = true,
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) -> (channel: RPCChannel, peers: Peers) {
    let peers = Peers()
    let dialer = InMemoryDialer(
      group: group,
      accept: { channel in
        let inbox = Inbox()
        try channel.pipeline.syncOperations.addHandler(inbox)
        try channel.syncOptions?.setOption(.autoRead, value: false)
        let peer = ScriptedPeer(channel, inbox)
        if greets { channel.writeAndFlush(ByteBuffer(bytes: Self.settings), promise: nil) }
        peers.add(peer)
      }, onClose: { peers.end() })
    let channel = RPCChannel(
      to: .inMemory, configuration: configuration, dialer: dialer, group: group)
    return (channel, peers)
  }

  /// Scripted servers, one for each connection of a channel.
  public final class Peers: Sendable {
    /// There is no next server.
    public struct EndedError: Error, Sendable, Hashable, CustomStringConvertible {
      /// What has ended, for people.
      public var description: String { "the channel was closed: it connects to no further server" }
    }

    private typealias Taker = CheckedContinuation<ScriptedPeer, any Error>

    private struct State {
      var waiting: [ScriptedPeer] = []
      var takers: [(id: Int, continuation: Taker)] = []
      var nextTaker = 0
      var isEnded = false
    }

    private let state = Mutex(State())

    /// The server of the next connection.
    ///
    /// - Throws: ``EndedError``: the channel is closed, and every server of its connections taken;
    ///   `CancellationError`: the task was cancelled.
    public func next() async throws -> ScriptedPeer {
      let id = self.state.withLock { state in
        state.nextTaker += 1
        return state.nextTaker
      }
      let peer = try await withTaskCancellationHandler {
        try await withCheckedThrowingContinuation { continuation in
          let result = self.state.withLock { state -> Result<ScriptedPeer, any Error>? in
            // Whoever cancels behind this finds the taker there.
            if Task.isCancelled { return .failure(CancellationError()) }
            if !state.waiting.isEmpty { return .success(state.waiting.removeFirst()) }
            if state.isEnded { return .failure(EndedError()) }
            state.takers.append((id, continuation))
            return nil
          }
          if let result { continuation.resume(with: result) }
        }
      } onCancel: {
        let taker = self.state.withLock { state -> Taker? in
          guard let index = state.takers.firstIndex(where: { $0.id == id }) else { return nil }
          return state.takers.remove(at: index).continuation
        }
        taker?.resume(throwing: CancellationError())
      }
      // The preface is no frame.
      try await peer.skip(24)
      return peer
    }

    func add(_ peer: ScriptedPeer) {
      let taker = self.state.withLock { state -> Taker? in
        if !state.takers.isEmpty { return state.takers.removeFirst().continuation }
        state.waiting.append(peer)
        return nil
      }
      taker?.resume(returning: peer)
    }

    /// Nobody connects any more.
    func end() {
      let takers = self.state.withLock { state -> [Taker] in
        state.isEnded = true
        defer { state.takers = [] }
        return state.takers.map(\.continuation)
      }
      for taker in takers { taker.resume(throwing: EndedError()) }
    }
  }

  // MARK: Saying something

  /// Any bytes at all.
  public func send(bytes: [UInt8]) async throws {
    try await self.channel.writeAndFlush(ByteBuffer(bytes: bytes))
  }

  /// A frame, whether or not it makes sense.
  public func send(
    _ kind: Kind, flags: UInt8 = 0, stream: UInt32 = 0, body: [UInt8] = []
  ) async throws {
    try await self.send(bytes: Self.frame(kind, flags: flags, stream: stream, body: body))
  }

  /// A header list in one frame, without compression.
  public func sendHeaders(
    _ fields: [(String, String)], stream: UInt32, endsStream: Bool = false
  ) async throws {
    try await self.send(
      .headers, flags: endsStream ? 5 : 4, stream: stream, body: Self.block(fields))
  }

  /// The headers of a call.
  public func begin<Request, Response>(
    _ method: MethodDescriptor<Request, Response>, stream: UInt32 = 1,
    more: [(String, String)] = [], endsStream: Bool = false
  ) async throws {
    try await self.sendHeaders(
      Self.requestFields(method.path) + more, stream: stream, endsStream: endsStream)
  }

  /// Bytes of a body.
  public func send(data: [UInt8], stream: UInt32 = 1, ends: Bool) async throws {
    try await self.send(.data, flags: ends ? 1 : 0, stream: stream, body: data)
  }

  /// A message with its prefix.
  public func send(message: [UInt8], stream: UInt32 = 1, ends: Bool = false) async throws {
    try await self.send(
      data: [0] + Self.bytes(UInt32(message.count)) + message, stream: stream, ends: ends)
  }

  /// The headers of a response.
  public func respond(stream: UInt32, more: [(String, String)] = []) async throws {
    try await self.sendHeaders(
      [(":status", "200"), ("content-type", "application/grpc")] + more, stream: stream)
  }

  /// The trailers of a response; its only headers if none were sent before.
  public func end(
    stream: UInt32, status: StatusCode = .ok, isTrailersOnly: Bool = false,
    more: [(String, String)] = []
  ) async throws {
    let head = isTrailersOnly ? [(":status", "200"), ("content-type", "application/grpc")] : []
    try await self.sendHeaders(
      head + [("grpc-status", "\(status.rawValue)")] + more, stream: stream, endsStream: true)
  }

  /// Closes the connection, without a word.
  public func close() async {
    try? await self.channel.close()
  }

  // MARK: Hearing something

  /// The next frame; nil once the peer has ended its side of the connection, or either has closed it.
  /// Nothing is read but for this. Who asks first is answered first.
  ///
  /// - Throws: `CancellationError`: the task was cancelled; the frame is left for the next who asks.
  public func frame() async throws -> Frame? {
    let (channel, inbox) = (self.channel, self.inbox)
    let promise = channel.eventLoop.makePromise(of: Frame?.self)
    return try await withTaskCancellationHandler {
      channel.eventLoop.execute { inbox.answer(promise, from: channel) }
      // One that came before was told too early.
      if Task.isCancelled { channel.eventLoop.execute { inbox.giveUp(promise) } }
      return try await promise.futureResult.get()
    } onCancel: {
      channel.eventLoop.execute { inbox.giveUp(promise) }
    }
  }

  /// The first frame of a kind and all before it thrown away; nil if there is none.
  public func frame(
    _ kind: Kind, where isWanted: (Frame) -> Bool = { _ in true }
  ) async throws -> Frame? {
    while let frame = try await self.frame() {
      if frame.kind == kind, isWanted(frame) { return frame }
    }
    return nil
  }

  private func skip(_ count: Int) async throws {
    let inbox = self.inbox
    try await self.channel.eventLoop.submit { inbox.skipping = count }.get()
  }

  // MARK: Bytes

  /// A frame as it is on the wire (RFC 9113, section 4.1).
  public static func frame(
    _ kind: Kind, flags: UInt8 = 0, stream: UInt32 = 0, body: [UInt8] = []
  ) -> [UInt8] {
    Array(self.bytes(UInt32(body.count)).dropFirst()) + [kind.rawValue, flags]
      + self.bytes(stream) + body
  }

  /// A header block of literals without indexing (RFC 7541, section 6.2.2).
  public static func block(_ fields: [(String, String)]) -> [UInt8] {
    var block: [UInt8] = []
    for (name, value) in fields {
      block.append(0)
      for text in [name, value] { block += self.length(text.utf8.count) + Array(text.utf8) }
    }
    return block
  }

  /// The header list of a call.
  public static func requestFields(_ path: String) -> [(String, String)] {
    [
      (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test"),
      ("te", "trailers"), ("content-type", "application/grpc"),
    ]
  }

  /// The most significant byte first.
  public static func bytes(_ number: UInt32) -> [UInt8] {
    withUnsafeBytes(of: number.bigEndian) { Array($0) }
  }

  /// RFC 7541, section 5.1, with seven bits.
  private static func length(_ count: Int) -> [UInt8] {
    guard count >= 127 else { return [UInt8(count)] }
    var bytes: [UInt8] = [127]
    var rest = count - 127
    while rest >= 128 {
      bytes.append(UInt8(rest & 127) | 128)
      rest >>= 7
    }
    return bytes + [UInt8(rest)]
  }

  private static var settings: [UInt8] {
    self.frame(.settings, body: [0, 4] + self.bytes(UInt32(Int32.max)))
      + self.frame(.windowUpdate, body: self.bytes(UInt32(Int32.max) - 65_535))
  }

  private func sendOpenWindows() async throws { try await self.send(bytes: Self.settings) }
}

/// What has been read. `@unchecked Sendable`: only the loop of its channel touches it.
private final class Inbox: ChannelInboundHandler, @unchecked Sendable {
  typealias InboundIn = ByteBuffer
  /// Bytes that are no frames.
  var skipping = 0
  private var bytes = ByteBuffer()
  private let headers = HeaderDecoder()
  /// Nothing comes any more.
  private var isAtEnd = false
  private var waiters: [EventLoopPromise<ScriptedPeer.Frame?>] = []

  /// Answers with the next frame, now or when it is there.
  func answer(_ promise: EventLoopPromise<ScriptedPeer.Frame?>, from channel: any Channel) {
    self.waiters.append(promise)
    self.answer()
    if !self.waiters.isEmpty { channel.read() }
  }

  /// Nobody wants that answer any more.
  func giveUp(_ promise: EventLoopPromise<ScriptedPeer.Frame?>) {
    guard let index = self.waiters.firstIndex(of: promise) else { return }
    self.waiters.remove(at: index)
    promise.fail(CancellationError())
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var more = self.unwrapInboundIn(data)
    self.bytes.writeBuffer(&more)
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    self.answer()
    if !self.waiters.isEmpty { context.read() }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .inputClosed? = event as? ChannelEvent {
      self.isAtEnd = true
      self.answer()
    }
    context.fireUserInboundEventTriggered(event)
  }

  func channelInactive(context: ChannelHandlerContext) {
    self.isAtEnd = true
    self.answer()
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }

  /// Gives what is there to those who wait for it.
  private func answer() {
    while let waiter = self.waiters.first {
      let frame = self.nextFrame()
      guard frame != nil || self.isAtEnd else { return }
      self.waiters.removeFirst()
      waiter.succeed(frame)
    }
  }

  /// Nil: it is not whole yet.
  private func nextFrame() -> ScriptedPeer.Frame? {
    let skipped = min(self.skipping, self.bytes.readableBytes)
    self.bytes.moveReaderIndex(forwardBy: skipped)
    self.skipping -= skipped
    let start = self.bytes.readerIndex
    guard self.skipping == 0, let head = self.bytes.getBytes(at: start, length: 9) else {
      return nil
    }
    let length = head[..<3].reduce(0) { $0 << 8 | Int($1) }
    guard let body = self.bytes.getBytes(at: start + 9, length: length) else { return nil }
    self.bytes.moveReaderIndex(forwardBy: 9 + length)
    if self.bytes.readableBytes == 0 { self.bytes.clear() }
    var frame = ScriptedPeer.Frame(
      type: head[3], flags: head[4],
      stream: head[5...].reduce(0) { $0 << 8 | UInt32($1) } & 0x7fff_ffff, body: body)
    // A list over several frames is the test's own to put together.
    if frame.kind == .headers, frame.flags & 4 != 0 {
      frame.fields = (self.headers.decode(body) ?? []).map {
        ScriptedPeer.Frame.Field(name: $0.name, value: $0.value)
      }
    }
    return frame
  }
}
