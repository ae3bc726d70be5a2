import NIOCore
import NIOPosix
import NIOSSL
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
    // MARK: Calls

    /// The largest request message, in bytes, uncompressed; a larger one fails its call with
    /// `resourceExhausted`.
    public var maximumRequestBytes = CallOptions.defaultMaximumMessageBytes
    /// How responses are compressed for clients that understand it; see
    /// ``ServerContext/responseCompression``.
    public var responseCompression = Compression.identity
    /// Stand before every call, the first outermost.
    public var interceptors: [any ServerInterceptor] = []
    /// Who hears of every call, whatever the interceptors do with it.
    public var observers: [any ServerObserver] = []
    /// Nil: plain text.
    public var tls: ServerTLS?

    // MARK: What clients may do

    /// Calls that one connection may have open. A client is told, and queues what is beyond; a call
    /// of one that does not is refused (RST_STREAM with REFUSED_STREAM).
    public var maximumConcurrentCallsPerConnection = 1_000
    /// Calls of one connection that are open, and handlers that have not returned though their client
    /// has left the call. Calls beyond are refused (RST_STREAM with REFUSED_STREAM).
    public var maximumRunningCallsPerConnection = 2_000
    /// The same for the whole server; each connection may have its part (this, divided by
    /// ``maximumConnections``) whatever others take.
    public var maximumRunningCalls = 100_000
    /// Connections at a time; one more is closed at once.
    public var maximumConnections = 10_000
    /// Connections that wait to be accepted.
    public var backlog = 1_024
    /// The largest header list of a request, counted as in RFC 9113, section 6.5.2; a larger one
    /// fails its call with `resourceExhausted`.
    public var maximumHeaderListBytes = 16 << 10
    /// CONTINUATION frames of one header list (CVE-2024-28182).
    public var maximumContinuationFrames = 8
    /// Calls that a client may reset (CVE-2023-44487), at once and with each second.
    public var receivedResets = RateLimit(burst: 1_000, perSecond: 200)
    /// Resets that a client may make the server send by breaking rules (CVE-2025-8671).
    public var provokedResets = RateLimit(burst: 200, perSecond: 20)
    /// Frames that carry nothing: PING, SETTINGS, PRIORITY, empty DATA (CVE-2019-9512 and others),
    /// those of types that HTTP/2 does not know, and DATA of ours that the client's windows cut to a
    /// few bytes (CVE-2019-9511). Every frame that does carry something makes up for one.
    public var emptyFrames = RateLimit(burst: 1_000, perSecond: 100)
    /// WINDOW_UPDATE frames, beside two for each DATA frame that the client is sent: clients that
    /// measure their way open the windows of all calls several times a second.
    public var windowUpdates = RateLimit(burst: 10_000, perSecond: 10_000)
    /// Frames that may wait for a client that does not read, beside those of its calls.
    public var maximumQueuedFrames = 10_000
    /// What the window of a call grows to, in bytes: how much of its requests may wait here unread.
    public var maximumStreamWindow = 8 << 20
    /// Bytes of metadata and messages that are held, of one connection: what handlers were given and
    /// have not answered, requests that are not whole or not read, responses that the client has not
    /// taken. The call that would go beyond fails with
    /// `resourceExhausted`, and from half of it on windows are narrow.
    public var maximumBufferedBytesPerConnection = 256 << 20
    /// The same for the whole server; each connection may have its part (this, divided by
    /// ``maximumConnections``) whatever others take.
    public var maximumBufferedBytes = 1 << 30

    // MARK: Time

    /// From accepting a connection to the client's SETTINGS, TLS included; as long again, before that, while changed
    /// certificates are read.
    public var handshakeTimeout = Duration.seconds(10)
    /// A request's header list takes no longer.
    public var headerTimeout = Duration.seconds(10)
    /// Calls end whose client sends less than a kilobyte in this time of a request that is not whole;
    /// where memory or running calls are short, or the connection is to end, those, too, whose
    /// client takes less of their responses. A connection ends whose client takes nothing at all.
    public var stalledCallTimeout = Duration.seconds(120)
    /// Pings clients that are silent, to notice that they are gone.
    public var keepalive: Keepalive? = Keepalive(interval: .seconds(300), withoutCalls: true)
    /// A client may not ping more often, two times forgiven.
    public var minimumPingInterval = Duration.seconds(5)
    /// Without calls a client may ping once in two hours unless this is set.
    public var permitsPingsWithoutCalls = false
    /// A connection without calls is closed after this; nil: never.
    public var maximumConnectionIdle: Duration?
    /// A connection is closed after this, give or take a tenth, so that clients spread over
    /// servers; nil: never.
    public var maximumConnectionAge: Duration?
    /// Calls that are open then have this long to end; nil: as long as they take.
    public var maximumConnectionAgeGrace: Duration?
    /// How long the end of a connection waits for a peer that does not answer the ping before it, and,
    /// after its last call, for one that does not go.
    public var closeTimeout = Duration.seconds(2)

    /// Told of clients that went too far, and whose connection or calls were ended for it.
    public var attackNoticed: (@Sendable (_ peer: String, _ what: String) -> Void)?

    /// Everything at its default.
    public init() {}
  }

  /// How often something may happen: at once, and with each further second.
  public struct RateLimit: Sendable, Hashable {
    /// How many at once.
    public var burst: Int
    /// How many more with each second, up to the burst.
    public var perSecond: Int

    /// So many at once, and so many more with each second.
    public init(burst: Int, perSecond: Int) {
      self.burst = burst
      self.perSecond = perSecond
    }

    fileprivate var bucket: TokenBucket.Limit {
      .init(burst: self.burst, perSecond: self.perSecond)
    }
  }

  private struct State {
    var listeners: [any Channel] = []
    var connections: [ObjectIdentifier: ServerConnection] = [:]
    /// Accepted, and waiting for changed certificates to be read.
    var waiting: [ObjectIdentifier: any Channel] = [:]
    var isShuttingDown = false
    var drained: [CheckedContinuation<Void, Never>] = []
  }

  private let router: Router
  private let configuration: Configuration
  /// What is wrong with services or configuration; nil: nothing.
  package let mistake: ConfigurationError?
  private let group: any EventLoopGroup
  private let load: ServerLoad
  private let tls = Mutex<ServerTLSContext?>(nil)
  private let state = Mutex(State())

  /// Makes a server; it takes calls once it listens.
  ///
  /// What is wrong with services or configuration is told when the server is to listen.
  ///
  /// - Parameters:
  ///   - services: Whose methods it has, each method once. Health and reflection are services like
  ///     others.
  ///   - configuration: Limits, security and who is told of what.
  ///   - group: Over whose event loops its connections are spread; a call's handler starts on that of
  ///     its connection. Outlives the server: what waits on a loop that was shut down waits for ever.
  public init(
    services: [any RPCService], configuration: Configuration = Configuration(),
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) {
    var router = Router()
    for service in services { service.registerMethods(with: &router) }
    router.observe(by: configuration.observers)
    self.router = router
    self.configuration = configuration
    do throws(ConfigurationError) {
      try configuration.check()
      self.mistake = router.mistake
    } catch {
      self.mistake = error
    }
    self.group = group
    self.load = ServerLoad(report: configuration.attackNoticed)
  }

  /// Takes calls on an address; may be called several times.
  ///
  /// - Returns: The address that is really listened on: with port 0 the system chose one.
  /// - Throws: ``RPCCore/ConfigurationError``: a setting cannot be; ``TLSError``: certificate or key
  ///   are of no use; ``ListenError``: the address cannot be had, or the server was shut down.
  public func listen(on address: ListenAddress) async throws -> ListenAddress {
    if let mistake = self.mistake { throw mistake }
    if let mistake = address.mistake() { throw ListenError(address: address, reason: mistake) }
    if let tls = self.configuration.tls {
      let context = try ServerTLSContext(tls)
      self.tls.withLock { if $0 == nil { $0 = context } }
    }
    let bootstrap = ServerBootstrap(group: self.group)
      .serverChannelOption(.backlog, value: CInt(clamping: self.configuration.backlog))
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .serverChannelInitializer { [load] channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(
            AcceptPause { load.attacked(by: "unknown", $0) })
        }
      }
      .childChannelOption(
        .writeBufferWaterMark, value: .init(low: 64 << 10, high: 256 << 10)
      )
      .childChannelOption(
        .recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 64 << 10)
      )
      .childChannelInitializer { channel in
        guard let tls = self.tls.withLock({ $0 }) else {
          return channel.eventLoop.makeCompletedFuture { try self.accept(channel) }
        }
        do {
          try self.waits(channel)
        } catch {
          return channel.eventLoop.makeFailedFuture(error)
        }
        return tls.current(
          for: channel, patience: self.configuration.handshakeTimeout
        ).flatMapThrowing { context in
          try self.accept(channel, tls: context)
        }.always { _ in self.waitsNoMore(channel) }
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
    if isLate {
      try? await channel.close()
      throw ListenError(address: address, reason: "the server was shut down")
    }
    if case .tcp(let host, _) = address, let port = channel.localAddress?.port {
      return .tcp(host: host, port: port)
    }
    return address
  }

  /// Why an address cannot be listened on.
  public struct ListenError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What was to be listened on.
    public let address: ListenAddress
    /// For people: what the system says.
    public let reason: String
    /// The address and the reason, in a sentence.
    public var description: String { "cannot listen on \(self.address): \(self.reason)" }
  }

  /// Takes no further calls, waits for those that are open, and closes all connections.
  ///
  /// - Parameter grace: Calls that are still open then are cancelled; at once if it is not above
  ///   zero.
  public func shutdown(grace: Duration) async {
    let (listeners, connections, waiting) = self.state.withLock { state in
      state.isShuttingDown = true
      return (state.listeners, Array(state.connections.values), Array(state.waiting.values))
    }
    for channel in waiting { try? await channel.close() }
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

  package var isShuttingDown: Bool { self.state.withLock { $0.isShuttingDown } }

  package var requiresClientCertificates: Bool {
    if case .required? = self.configuration.tls?.clientCertificates { true } else { false }
  }

  /// Serves a connection that was made elsewhere. On its loop.
  ///
  /// - Parameters:
  ///   - tls: What it is to begin with.
  ///   - identity: Who is at the other end, where no TLS tells.
  package func accept(
    _ channel: any Channel, tls: NIOSSLContext? = nil, identity: PeerIdentity? = nil
  ) throws {
    if let mistake = self.mistake { throw mistake }
    let id = ObjectIdentifier(channel)
    let owner = ServerConnection(
      router: self.router, configuration: self.configuration, load: self.load)
    let connection = Connection(
      .server, executor: .of(channel.eventLoop), configuration: self.http2, life: self.life,
      owner: owner, peerIdentity: identity)
    owner.connection = connection
    let (isLate, isFull) = self.state.withLock { state in
      state.waiting[id] = nil
      guard state.connections.count < self.configuration.maximumConnections else {
        return (false, true)
      }
      state.connections[id] = owner
      return (state.isShuttingDown, false)
    }
    if isFull { throw self.tooManyConnections(channel) }
    // Not only when it was active before: while the listener closes, what it has just accepted is
    // closed without having begun.
    channel.closeFuture.whenComplete { _ in self.closed(id) }
    if let tls {
      try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: tls))
    }
    try channel.pipeline.syncOperations.addHandler(connection)
    if isLate { owner.beginShutdown() }
  }

  /// A connection that is to begin with TLS is one from when it is accepted.
  private func waits(_ channel: any Channel) throws {
    let isFull = try self.state.withLock { state in
      if state.isShuttingDown { throw ChannelError.ioOnClosedChannel }
      let count = state.connections.count + state.waiting.count
      guard count < self.configuration.maximumConnections else { return true }
      state.waiting[ObjectIdentifier(channel)] = channel
      return false
    }
    if isFull { throw self.tooManyConnections(channel) }
  }

  private func waitsNoMore(_ channel: any Channel) {
    self.state.withLock { $0.waiting[ObjectIdentifier(channel)] = nil }
  }

  private func tooManyConnections(_ channel: any Channel) -> TooManyConnections {
    self.load.attacked(
      by: peerText(channel.remoteAddress),
      "\(self.configuration.maximumConnections) connections are open already")
    return TooManyConnections()
  }

  private struct TooManyConnections: Error {}

  private var http2: HTTP2Session.Configuration {
    let own = self.configuration
    var http2 = HTTP2Session.Configuration()
    http2.maximumConcurrentStreams = UInt32(clamping: own.maximumConcurrentCallsPerConnection)
    http2.maximumHeaderListBytes = UInt32(clamping: own.maximumHeaderListBytes)
    http2.maximumContinuationFrames = own.maximumContinuationFrames
    http2.maximumStreamWindow = Int32(clamping: own.maximumStreamWindow)
    http2.streamWindow = min(http2.streamWindow, http2.maximumStreamWindow)
    http2.receivedResets = own.receivedResets.bucket
    http2.provokedResets = own.provokedResets.bucket
    http2.emptyFrames = own.emptyFrames.bucket
    http2.windowUpdates = own.windowUpdates.bucket
    http2.maximumQueuedFrames = min(own.maximumQueuedFrames, Int(Int32.max))
    return http2
  }

  private var life: ConnectionLife.Limits {
    let own = self.configuration
    var life = ConnectionLife.Limits(handshake: own.handshakeTimeout)
    life.headers = own.headerTimeout
    life.keepaliveInterval = own.keepalive?.interval
    life.keepaliveTimeout = own.keepalive?.timeout ?? .seconds(20)
    life.keepaliveWithoutCalls = own.keepalive?.withoutCalls ?? false
    life.idle = own.maximumConnectionIdle
    // `A9` of the gRPC project's proposals: so that not all connections end at once.
    life.age = own.maximumConnectionAge.map { min($0, .century) * Double.random(in: 0.9...1.1) }
    life.ageGrace = own.maximumConnectionAgeGrace
    life.stallCheck = own.stalledCallTimeout
    return life
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
