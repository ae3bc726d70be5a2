import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import RPC

/// An address of a token server's: `https://HOST[:PORT]/PATH`.
struct HTTPAddress: Sendable, Hashable, CustomStringConvertible {
  let isSecure: Bool
  let host: String
  let port: Int
  /// With what follows it; "/" at least.
  let path: String

  /// Nil for a text that is no such address.
  init?(_ text: String) {
    let isSecure = text.hasPrefix("https://")
    guard isSecure || text.hasPrefix("http://") else { return nil }
    let rest = text.dropFirst(isSecure ? 8 : 7)
    let authority = rest.prefix { $0 != "/" }
    let path = rest.dropFirst(authority.count)
    let parts = authority.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count <= 2, let host = parts.first, !host.isEmpty, !authority.contains("@") else {
      return nil
    }
    if parts.count == 2 {
      guard let port = Int(parts[1]), (1...65_535).contains(port) else { return nil }
      self.port = port
    } else {
      self.port = isSecure ? 443 : 80
    }
    guard path.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else { return nil }
    self.isSecure = isSecure
    self.host = String(host)
    self.path = path.isEmpty ? "/" : String(path)
  }

  var authority: String {
    self.port == (self.isSecure ? 443 : 80) ? self.host : "\(self.host):\(self.port)"
  }

  var description: String { "\(self.isSecure ? "https" : "http")://\(self.authority)\(self.path)" }
}

/// One request over HTTP/1.1 on a connection of its own: token servers are asked once an hour.
struct HTTPExchange: Sendable {
  struct Request: Sendable {
    var method: HTTPMethod
    var address: HTTPAddress
    var headers: [(String, String)] = []
    var body: [UInt8] = []
  }

  struct Answer: Sendable {
    var status: Int
    var headers: HTTPHeaders
    var body: [UInt8]
  }

  struct Failure: Error, CustomStringConvertible {
    var description: String
  }

  let group: any EventLoopGroup
  let trustRoots: ClientTLS.TrustRoots
  /// How long it may take in all.
  var timeout = Duration.seconds(10)

  /// No token server says more.
  private static let maximumBodyBytes = 1 << 20

  func run(_ request: Request) async throws(Failure) -> Answer {
    do {
      return try await self.begin(request).get()
    } catch let error as Failure {
      throw error
    } catch {
      throw Failure(description: "\(request.address): \(error)")
    }
  }

  private func begin(_ request: Request) -> EventLoopFuture<Answer> {
    let eventLoop = self.group.next()
    let answered = eventLoop.makePromise(of: Answer.self)
    let place = "\(request.address)"
    let timeout = eventLoop.scheduleTask(in: .nanoseconds(Int64(self.timeout / .nanoseconds(1)))) {
      answered.fail(Failure(description: "\(place): no answer in time"))
    }
    let context: NIOSSLContext?
    do {
      context = request.address.isSecure ? try self.sslContext() : nil
    } catch {
      timeout.cancel()
      answered.fail(Failure(description: "\(place): \(error)"))
      return answered.futureResult
    }
    let connected = ClientBootstrap(group: eventLoop)
      .connectTimeout(.nanoseconds(Int64(self.timeout / .nanoseconds(1))))
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          if let context {
            try channel.pipeline.syncOperations.addHandler(
              NIOSSLClientHandler(
                context: context, serverHostname: request.address.host.serverName))
          }
          try channel.pipeline.syncOperations.addHTTPClientHandlers()
          try channel.pipeline.syncOperations.addHandler(
            Collector(request, answered, limit: Self.maximumBodyBytes))
        }
      }
      .connect(host: request.address.host, port: request.address.port)
    connected.whenFailure { answered.fail(Failure(description: "\(place): \(Self.words($0))")) }
    connected.whenSuccess { channel in
      answered.futureResult.whenComplete { _ in channel.close(promise: nil) }
    }
    answered.futureResult.whenComplete { _ in timeout.cancel() }
    return answered.futureResult
  }

  private func sslContext() throws -> NIOSSLContext {
    var configuration = TLSConfiguration.makeClientConfiguration()
    switch self.trustRoots {
    case .system: break
    case .file(let path): configuration.trustRoots = .file(path)
    case .anybody: configuration.certificateVerification = .none
    }
    return try NIOSSLContext(configuration: configuration)
  }

  fileprivate static func words(_ error: any Error) -> String {
    switch error {
    case let error as NIOConnectionError:
      error.connectionErrors.first.map { "\($0.error)" }
        ?? (error.dnsAError ?? error.dnsAAAAError).map { "\($0)" } ?? "no address for the name"
    case ChannelError.connectTimeout: "the server cannot be reached in time"
    default: "\(error)"
    }
  }

  /// Sends the request when the connection is there, and collects the answer.
  private final class Collector: ChannelInboundHandler {
    typealias InboundIn = HTTPClientResponsePart
    typealias OutboundOut = HTTPClientRequestPart

    private let request: Request
    private let answered: EventLoopPromise<Answer>
    private let limit: Int
    private var answer = Answer(status: 0, headers: HTTPHeaders(), body: [])

    init(_ request: Request, _ answered: EventLoopPromise<Answer>, limit: Int) {
      self.request = request
      self.answered = answered
      self.limit = limit
    }

    func channelActive(context: ChannelHandlerContext) {
      var head = HTTPRequestHead(
        version: .http1_1, method: self.request.method, uri: self.request.address.path)
      head.headers.add(name: "host", value: self.request.address.authority)
      head.headers.add(name: "connection", value: "close")
      if !self.request.body.isEmpty {
        head.headers.add(name: "content-length", value: "\(self.request.body.count)")
      }
      for (name, value) in self.request.headers { head.headers.add(name: name, value: value) }
      context.write(self.wrapOutboundOut(.head(head)), promise: nil)
      if !self.request.body.isEmpty {
        let body = context.channel.allocator.buffer(bytes: self.request.body)
        context.write(self.wrapOutboundOut(.body(.byteBuffer(body))), promise: nil)
      }
      context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      switch self.unwrapInboundIn(data) {
      case .head(let head):
        self.answer.status = Int(head.status.code)
        self.answer.headers = head.headers
      case .body(let part):
        guard self.answer.body.count + part.readableBytes <= self.limit else {
          return self.fail("the answer is longer than \(self.limit) bytes")
        }
        self.answer.body += part.readableBytesView
      case .end: self.answered.succeed(self.answer)
      }
    }

    func channelInactive(context: ChannelHandlerContext) {
      // Without effect behind an answer.
      self.fail("the connection ended before the answer")
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
      self.fail(HTTPExchange.words(error))
    }

    private func fail(_ reason: String) {
      self.answered.fail(Failure(description: "\(self.request.address): \(reason)"))
    }
  }
}

extension String {
  /// The name for TLS' server name indication; an address is none (RFC 6066, section 3).
  fileprivate var serverName: String? {
    (try? SocketAddress(ipAddress: self, port: 0)) == nil ? self : nil
  }
}
