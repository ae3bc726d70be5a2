import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import RPC
import Synchronization

/// Serves `/metrics`, `/healthz` and `/readyz` over HTTP/1.1, to whoever watches the service.
///
/// Every connection carries one request and has ``timeLimit`` for all of it, so neither slow nor
/// idle clients hold anything for long.
package final class AdminServer: Sendable {
  /// From accepting a connection to the answer's last byte: a scrape's usual timeout.
  package static let timeLimit = TimeAmount.seconds(10)
  /// Connections at a time; scrapers and probes need a few. One more is closed at once.
  package static let maximumConnections = 64
  /// None of the requests has a body; this much is read over.
  package static let maximumBodyBytes = 4 << 10
  /// How long the service may think about its readiness before that counts as not ready.
  package static let readinessLimit = Duration.seconds(2)

  private let metrics: MetricsRegistry
  private let readiness: @Sendable () async -> Readiness
  private let group: any EventLoopGroup
  private let timeLimit: TimeAmount
  private let connections = Atomic<Int>(0)
  private let channel = Mutex<(any Channel)?>(nil)

  package init(
    metrics: MetricsRegistry, group: any EventLoopGroup,
    timeLimit: TimeAmount = AdminServer.timeLimit,
    readiness: @escaping @Sendable () async -> Readiness
  ) {
    self.metrics = metrics
    self.group = group
    self.timeLimit = timeLimit
    self.readiness = readiness
  }

  /// Begins to serve.
  ///
  /// - Returns: The address that is really listened on.
  package func listen(on address: ListenAddress) async throws -> ListenAddress {
    let bootstrap = ServerBootstrap(group: self.group)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try self.accept(channel) }
      }
    let channel: any Channel
    do {
      switch address {
      case .tcp(let host, let port):
        channel = try await bootstrap.bind(host: host, port: port).get()
      case .unix(let path):
        channel = try await bootstrap.bind(
          unixDomainSocketPath: path, cleanupExistingSocketFile: true
        ).get()
      }
    } catch {
      throw ListenFailure(address: address, reason: ListenFailure.reason(error))
    }
    self.channel.withLock { $0 = channel }
    if case .tcp(let host, _) = address, let port = channel.localAddress?.port {
      return .tcp(host: host, port: port)
    }
    return address
  }

  package func close() async {
    let channel = self.channel.withLock { $0 }
    try? await channel?.close()
  }

  private func accept(_ channel: any Channel) throws {
    guard self.connections.wrappingAdd(1, ordering: .relaxed).newValue <= Self.maximumConnections
    else {
      self.connections.wrappingSubtract(1, ordering: .relaxed)
      throw ChannelError.operationUnsupported
    }
    channel.closeFuture.whenComplete { _ in
      self.connections.wrappingSubtract(1, ordering: .relaxed)
    }
    let limit = channel.eventLoop.scheduleTask(in: self.timeLimit) {
      channel.close(promise: nil)
    }
    channel.closeFuture.whenComplete { _ in limit.cancel() }
    let pipeline = channel.pipeline.syncOperations
    try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: false)
    try pipeline.addHandler(AdminHandler(answer: self.answer))
  }

  /// The response to a request.
  private func answer(_ head: HTTPRequestHead) async -> AdminResponse {
    guard head.method == .GET || head.method == .HEAD else {
      return AdminResponse(status: .methodNotAllowed, body: "only GET and HEAD\n")
    }
    switch head.uri.prefix(while: { $0 != "?" }) {
    case "/healthz":
      return AdminResponse(body: "ok\n")
    case "/readyz":
      return Self.response(for: await self.boundedReadiness())
    case "/metrics":
      return AdminResponse(
        type: "text/plain; version=0.0.4; charset=utf-8", body: self.metrics.render())
    case "/":
      return AdminResponse(body: "/metrics\n/healthz\n/readyz\n")
    default:
      return AdminResponse(status: .notFound, body: "there are /metrics, /healthz and /readyz\n")
    }
  }

  private func boundedReadiness() async -> Readiness {
    let readiness = Mutex(Readiness.notReady("the service does not answer"))
    _ = await bounded(by: Self.readinessLimit) {
      let answer = await self.readiness()
      readiness.withLock { $0 = answer }
    }
    return readiness.withLock { $0 }
  }

  private static func response(for readiness: Readiness) -> AdminResponse {
    switch readiness {
    case .ready:
      AdminResponse(type: "application/json", body: "{\"status\":\"ready\"}\n")
    case .notReady(let reason):
      AdminResponse(
        status: .serviceUnavailable, type: "application/json",
        body: "{\"status\":\"not ready\",\"reason\":\(JSONText.quoted(reason))}\n")
    }
  }
}

/// An address that cannot be listened on, and why.
package struct ListenFailure: Error, Sendable, Hashable, CustomStringConvertible {
  package let address: ListenAddress
  package let reason: String

  package var description: String { "cannot listen on \(self.address): \(self.reason)" }

  static func reason(_ error: any Error) -> String {
    guard let error = error as? IOError else { return "\(error)" }
    return SystemError(number: error.errnoCode).description
  }
}

struct AdminResponse: Sendable {
  var status: HTTPResponseStatus = .ok
  var type = "text/plain; charset=utf-8"
  var body: String
}

/// One connection: reads one request, answers it, closes.
private final class AdminHandler: ChannelInboundHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias OutboundOut = HTTPServerResponsePart

  private let answer: @Sendable (HTTPRequestHead) async -> AdminResponse
  private var head: HTTPRequestHead?
  private var bodyBytes = 0
  private var isAnswered = false

  init(answer: @escaping @Sendable (HTTPRequestHead) async -> AdminResponse) {
    self.answer = answer
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    // What follows the first request on the connection is not looked at.
    guard !self.isAnswered else { return }
    switch self.unwrapInboundIn(data) {
    case .head(let head):
      self.head = head
    case .body(let bytes):
      self.bodyBytes += bytes.readableBytes
      if self.bodyBytes > AdminServer.maximumBodyBytes {
        self.isAnswered = true
        Self.write(
          AdminResponse(status: .payloadTooLarge, body: "no request here has a body\n"),
          isHead: false, on: context.channel)
      }
    case .end:
      guard let head = self.head else { return }
      self.isAnswered = true
      Self.answer(head, with: self.answer, on: context.channel)
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // Bytes that are no HTTP are answered with 400 by NIO's own handler, or were cut off.
    context.close(promise: nil)
  }

  private static func answer(
    _ head: HTTPRequestHead,
    with answer: @escaping @Sendable (HTTPRequestHead) async -> AdminResponse,
    on channel: any Channel
  ) {
    channel.eventLoop.makeFutureWithTask { await answer(head) }.whenSuccess { response in
      self.write(response, isHead: head.method == .HEAD, on: channel)
    }
  }

  private static func write(_ response: AdminResponse, isHead: Bool, on channel: any Channel) {
    var headers = HTTPHeaders()
    headers.add(name: "content-type", value: response.type)
    headers.add(name: "content-length", value: "\(response.body.utf8.count)")
    headers.add(name: "connection", value: "close")
    let head = HTTPResponseHead(version: .http1_1, status: response.status, headers: headers)
    channel.write(HTTPServerResponsePart.head(head), promise: nil)
    if !isHead {
      channel.write(
        HTTPServerResponsePart.body(.byteBuffer(ByteBuffer(string: response.body))), promise: nil)
    }
    channel.writeAndFlush(HTTPServerResponsePart.end(nil)).whenComplete { _ in
      channel.close(promise: nil)
    }
  }
}
