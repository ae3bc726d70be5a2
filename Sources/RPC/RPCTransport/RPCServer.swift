import NIOCore
import NIOPosix
import RPCCore
import RPCHTTP2
import Synchronization

/// A gRPC server: services on one or several addresses.
///
///     let server = RPCServer(services: [Greeter()])
///     let address = try await server.listen(on: ListenAddress("127.0.0.1:50051"))
///     ...
///     await server.shutdown(grace: .seconds(10))
///
/// A call's handler starts on its connection's event loop and must not block it.
public final class RPCServer: Sendable {
  /// Limits and windows; every one has a default that fits a service among services.
  public struct Configuration: Sendable {
    /// The largest request message; a larger one fails its call with `resourceExhausted`.
    public var maximumRequestBytes = CallOptions.defaultMaximumMessageBytes
    /// Calls that one connection may have open; a client queues what is beyond.
    public var maximumConcurrentCallsPerConnection = 1_000
    /// The largest header list of a request, counted as in RFC 9113, section 6.5.2.
    public var maximumHeaderListBytes = 64 << 10
    /// Connections that wait to be accepted.
    public var backlog = 1_024
    /// How long the end of a connection waits, after its last call, for a peer that does not
    /// answer or does not read.
    public var closeTimeout = Duration.seconds(2)

    public init() {}
  }

  private struct State {
    var listeners: [any Channel] = []
    var connections: [ObjectIdentifier: ServerConnection] = [:]
    var isShuttingDown = false
    var drained: [CheckedContinuation<Void, Never>] = []
  }

  private let router: Router
  private let configuration: Configuration
  private let group: any EventLoopGroup
  private let state = Mutex(State())

  /// Makes a server; it takes calls once it listens.
  ///
  /// - Precondition: No two of the services define the same method.
  public init(
    services: [any RPCService], configuration: Configuration = Configuration(),
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) {
    var router = Router()
    for service in services { service.registerMethods(with: &router) }
    self.router = router
    self.configuration = configuration
    self.group = group
  }

  /// Takes calls on an address; may be called several times.
  ///
  /// - Returns: The address that is really listened on: with port 0 the system chose one.
  /// - Throws: ``ListenError``.
  public func listen(on address: ListenAddress) async throws -> ListenAddress {
    let bootstrap = ServerBootstrap(group: self.group)
      .serverChannelOption(.backlog, value: CInt(self.configuration.backlog))
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelOption(
        .writeBufferWaterMark, value: .init(low: 64 << 10, high: 256 << 10)
      )
      .childChannelOption(
        .recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 64 << 10)
      )
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try self.accept(channel) }
      }
    let channel: any Channel
    do {
      switch address {
      case .tcp(let host, let port):
        channel = try await bootstrap.childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
          .bind(host: host, port: port).get()
      case .unix(let path):
        try await self.refuseLiveSocket(path)
        channel = try await bootstrap.bind(
          unixDomainSocketPath: path, cleanupExistingSocketFile: true
        ).get()
      }
    } catch let error as ListenError {
      throw error
    } catch {
      throw ListenError(address: address, reason: describe(error))
    }
    let isLate = self.state.withLock { state in
      state.listeners.append(channel)
      return state.isShuttingDown
    }
    if isLate { channel.close(promise: nil) }
    if case .tcp(let host, _) = address, let port = channel.localAddress?.port {
      return .tcp(host: host, port: port)
    }
    return address
  }

  /// Why an address cannot be listened on.
  public struct ListenError: Error, Sendable, Hashable, CustomStringConvertible {
    public let address: ListenAddress
    public let reason: String
    public var description: String { "cannot listen on \(self.address): \(self.reason)" }
  }

  /// Takes no further calls, waits for those that are open, and closes all connections.
  ///
  /// - Parameter grace: Calls that are still open then are cancelled.
  public func shutdown(grace: Duration) async {
    let (listeners, connections) = self.state.withLock { state in
      state.isShuttingDown = true
      return (state.listeners, Array(state.connections.values))
    }
    for listener in listeners { try? await listener.close() }
    for connection in connections {
      connection.connection?.executor.execute { connection.beginShutdown() }
    }
    let timer = self.group.next().scheduleTask(in: TimeAmount(grace)) { self.closeAll() }
    await withCheckedContinuation { continuation in
      let isDone = self.state.withLock { state in
        if state.connections.isEmpty { return true }
        state.drained.append(continuation)
        return false
      }
      if isDone { continuation.resume() }
    }
    timer.cancel()
  }

  private func closeAll() {
    for connection in self.state.withLock({ Array($0.connections.values) }) {
      guard let transport = connection.connection else { continue }
      transport.executor.execute { transport.close("the server is shutting down") }
    }
  }

  private func accept(_ channel: any Channel) throws {
    var http2 = HTTP2Session.Configuration()
    http2.maximumConcurrentStreams = UInt32(
      clamping: self.configuration.maximumConcurrentCallsPerConnection)
    http2.maximumHeaderListBytes = UInt32(clamping: self.configuration.maximumHeaderListBytes)
    let id = ObjectIdentifier(channel)
    let owner = ServerConnection(router: self.router, configuration: self.configuration)
    let connection = Connection(
      .server, executor: .of(channel.eventLoop), configuration: http2, owner: owner)
    owner.connection = connection
    let isLate = self.state.withLock { state in
      state.connections[id] = owner
      return state.isShuttingDown
    }
    // Not only when it was active before: while the listener closes, what it has just accepted is
    // closed without having begun.
    channel.closeFuture.whenComplete { _ in self.closed(id) }
    try channel.pipeline.syncOperations.addHandler(connection)
    if isLate { owner.beginShutdown() }
  }

  private func closed(_ id: ObjectIdentifier) {
    let drained = self.state.withLock { state in
      state.connections[id] = nil
      guard state.connections.isEmpty else { return [CheckedContinuation<Void, Never>]() }
      defer { state.drained = [] }
      return state.drained
    }
    for continuation in drained { continuation.resume() }
  }

  /// A socket file that nobody serves any more is replaced; one that is served is not.
  private func refuseLiveSocket(_ path: String) async throws {
    let probe = ClientBootstrap(group: self.group).connectTimeout(.seconds(1))
    guard let channel = try? await probe.connect(unixDomainSocketPath: path).get() else { return }
    try? await channel.close()
    throw ListenError(address: .unix(path: path), reason: "another process serves it")
  }
}
