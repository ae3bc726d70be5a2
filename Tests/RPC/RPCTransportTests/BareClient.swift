import NIOCore
import NIOPosix
import RPCCore

/// A client of bare HTTP/2 frames, for what our own client never does: messages without an end,
/// and sockets that are not read.
final class BareClient: Sendable {
  private let channel: any Channel
  private let inbox: Inbox

  /// Connects and sends the preface, with windows that never hold the server back.
  init(to address: ListenAddress, receiveBuffer: Int? = nil) async throws {
    guard case .tcp(let host, let port) = address else {
      preconditionFailure("\(address) has no port")
    }
    let inbox = Inbox()
    var bootstrap = ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .channelOption(.autoRead, value: false)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(inbox)
        }
      }
    if let receiveBuffer {
      bootstrap = bootstrap.channelOption(
        .socketOption(.so_rcvbuf), value: SocketOptionValue(receiveBuffer))
    }
    self.channel = try await bootstrap.connect(host: host, port: port).get()
    self.inbox = inbox
    try await self.channel.writeAndFlush(
      ByteBuffer(string: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
    let largest = UInt32(Int32.max)
    try await self.send(4, body: [0, 4] + Self.bytes(largest))
    try await self.send(8, body: Self.bytes(largest - 65_535))
  }

  /// HTTP/2's frame types that tests look for.
  enum Kind { static let data: UInt8 = 0, headers: UInt8 = 1, ping: UInt8 = 6 }

  struct Frame {
    var type: UInt8
    var flags: UInt8
    var body: [UInt8]
    var endsStream: Bool { self.type <= Kind.headers && self.flags & 1 != 0 }
    var isAcknowledgement: Bool { self.flags & 1 != 0 }
  }

  func send(_ type: UInt8, flags: UInt8 = 0, stream: UInt32 = 0, body: [UInt8] = []) async throws {
    // RFC 9113, section 4.1: 24 bits of length come first.
    var frame = ByteBuffer(bytes: Self.bytes(UInt32(body.count)).dropFirst())
    frame.writeBytes([type, flags])
    frame.writeBytes(Self.bytes(stream))
    frame.writeBytes(body)
    try await self.channel.writeAndFlush(frame)
  }

  /// Begins the call on stream 1.
  func begin<Request, Response>(_ method: MethodDescriptor<Request, Response>) async throws {
    // HPACK literals without indexing, RFC 7541, section 6.2.2; every text is below 127 bytes.
    let fields = [
      (":method", "POST"), (":scheme", "http"), (":path", method.path), (":authority", "test"),
      ("te", "trailers"), ("content-type", "application/grpc"),
    ]
    var block: [UInt8] = []
    for (name, value) in fields {
      block.append(0)
      for text in [name, value] {
        block.append(UInt8(text.utf8.count))
        block += text.utf8
      }
    }
    try await self.send(Kind.headers, flags: 4, stream: 1, body: block)
  }

  /// Sends bytes of the request's body.
  func send(data: [UInt8], ends: Bool) async throws {
    try await self.send(Kind.data, flags: ends ? 1 : 0, stream: 1, body: data)
  }

  /// The next frame; nil once the server has closed. Nothing is read but for this.
  func frame() async throws -> Frame? {
    let (channel, inbox) = (self.channel, self.inbox)
    return try await channel.eventLoop.flatSubmit {
      inbox.frame(channel)
    }.get()
  }

  /// The first frame of a type and all before it thrown away; nil if there is none.
  func frame(_ type: UInt8, where isWanted: (Frame) -> Bool = { _ in true }) async throws -> Frame?
  {
    while let frame = try await self.frame() {
      if frame.type == type, isWanted(frame) { return frame }
    }
    return nil
  }

  func close() async {
    try? await self.channel.close()
  }

  private static func bytes(_ number: UInt32) -> [UInt8] {
    withUnsafeBytes(of: number.bigEndian) { Array($0) }
  }
}

/// What has been read. `@unchecked Sendable`: only the loop of its channel touches it.
private final class Inbox: ChannelInboundHandler, @unchecked Sendable {
  typealias InboundIn = ByteBuffer
  private var bytes = ByteBuffer()
  private var isClosed = false
  private var waiter: EventLoopPromise<BareClient.Frame?>?

  func frame(_ channel: any Channel) -> EventLoopFuture<BareClient.Frame?> {
    let promise = channel.eventLoop.makePromise(of: BareClient.Frame?.self)
    self.waiter = promise
    self.answer()
    if self.waiter != nil { channel.read() }
    return promise.futureResult
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var more = self.unwrapInboundIn(data)
    self.bytes.writeBuffer(&more)
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    self.answer()
    if self.waiter != nil { context.read() }
  }

  func channelInactive(context: ChannelHandlerContext) {
    self.isClosed = true
    self.answer()
  }

  private func answer() {
    guard let waiter = self.waiter else { return }
    let start = self.bytes.readerIndex
    if let head = self.bytes.getBytes(at: start, length: 9) {
      let length = head[..<3].reduce(0) { $0 << 8 | Int($1) }
      if let body = self.bytes.getBytes(at: start + 9, length: length) {
        self.bytes.moveReaderIndex(forwardBy: 9 + length)
        if self.bytes.readableBytes == 0 { self.bytes.clear() }
        self.waiter = nil
        return waiter.succeed(BareClient.Frame(type: head[3], flags: head[4], body: body))
      }
    }
    if self.isClosed {
      self.waiter = nil
      waiter.succeed(nil)
    }
  }
}
