import NIOCore
import NIOPosix
import RPCCore
import RPCHTTP2
import Synchronization

/// A way to one server, over one connection that is made when the first call needs it and made
/// again when it is lost.
///
///     let channel = try RPCChannel(to: "127.0.0.1:50051")
///     let greeter = GreeterClient(channel)
///     let reply = try await greeter.sayHello(HelloRequest(name: "you"))
///
/// Calls may be made from anywhere; a call that is made on the channel's own event loop does not
/// leave it.
public final class RPCChannel: Sendable {
  /// Pings a server that is silent, to notice that it is gone.
  public struct Keepalive: Sendable {
    /// How long a server may be silent, while calls are open, before it is pinged.
    public var interval: Duration
    /// How long it may be silent after that.
    public var timeout: Duration

    public init(interval: Duration, timeout: Duration) {
      self.interval = interval
      self.timeout = timeout
    }
  }

  public struct Configuration: Sendable {
    /// How long making a connection may take, HTTP/2's greeting included.
    public var connectTimeout = Duration.seconds(10)
    /// The delay after a connection that could not be made; grows by 1.6 with each failure.
    public var initialBackoff = Duration.milliseconds(200)
    /// No delay between two attempts is longer.
    public var maximumBackoff = Duration.seconds(10)
    /// Calls that may wait for a connection; one more fails with `resourceExhausted`.
    public var maximumWaitingCalls = 10_000
    /// Nil never pings.
    public var keepalive: Keepalive? = Keepalive(interval: .seconds(10), timeout: .seconds(10))

    public init() {}
  }

  /// `host:port` or `unix:path`.
  public let target: ListenAddress
  private let core: ChannelCore

  /// Makes a channel; nothing is connected yet.
  ///
  /// - Throws: ``RPCCore/ListenAddress/ParseError``: the target is no address.
  public convenience init(
    to target: String, configuration: Configuration = Configuration(),
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) throws {
    self.init(to: try ListenAddress(target), configuration: configuration, group: group)
  }

  public init(
    to target: ListenAddress, configuration: Configuration = Configuration(),
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) {
    self.target = target
    self.core = ChannelCore(target: target, configuration: configuration, eventLoop: group.next())
  }

  /// Makes no further calls, cancels those that are open, and closes the connection.
  public func close() async {
    await withCheckedContinuation { continuation in
      let core = self.core
      core.executor.execute { core.shutDown { continuation.resume() } }
    }
  }

  deinit {
    let core = self.core
    core.executor.execute { core.shutDown {} }
  }

  // MARK: - What generated stubs call

  public func unary<Request, Response>(
    _ method: MethodDescriptor<Request, Response>, _ request: Request,
    options: CallOptions = CallOptions()
  ) async throws -> Response {
    let core = self.core
    let call = UnaryClientCall<Response>()
    let stream = ClientStream(
      path: method.path, options: options, request: frame(request), executor: core.executor,
      call: call)
    return try await withTaskCancellationHandler {
      try await withUnsafeThrowingContinuation { continuation in
        core.executor.execute {
          call.wait(continuation)
          core.begin(stream)
        }
      }
    } onCancel: {
      // If this comes before `begin`, the stream is finished first and never starts.
      core.executor.eventLoop.execute {
        stream.cancel(RPCError(.cancelled, "the calling task was cancelled"))
      }
    }
  }

  public func serverStreaming<Request, Response>(
    _ method: MethodDescriptor<Request, Response>, _ request: Request,
    options: CallOptions = CallOptions()
  ) async throws -> ResponseStream<Response> {
    self.begin(method, request: frame(request), options: options)
  }

  public func clientStreaming<Request, Response>(
    _ method: MethodDescriptor<Request, Response>, options: CallOptions = CallOptions()
  ) async throws -> ClientStreamingCall<Request, Response> {
    ClientStreamingCall(responses: self.begin(method, request: nil, options: options))
  }

  public func bidirectional<Request, Response>(
    _ method: MethodDescriptor<Request, Response>, options: CallOptions = CallOptions()
  ) async throws -> BidirectionalCall<Request, Response> {
    BidirectionalCall(responses: self.begin(method, request: nil, options: options))
  }

  private func begin<Request, Response>(
    _ method: MethodDescriptor<Request, Response>, request: [UInt8]?, options: CallOptions
  ) -> ResponseStream<Response> {
    let core = self.core
    // The queue tells the stream of room, and the stream tells the queue of messages: the weak
    // end is filled in once both are there.
    let room = WeakStream()
    let call = StreamingClientCall<Response> { room.roomAgain() }
    let stream = ClientStream(
      path: method.path, options: options, request: request, executor: core.executor, call: call)
    room.stream.withLock { $0 = Weak(stream) }
    core.executor.execute { core.begin(stream) }
    return ResponseStream(call: call, handle: CallHandle(stream))
  }
}

private struct Weak: Sendable {
  weak let stream: ClientStream?
  init(_ stream: ClientStream) { self.stream = stream }
}

private final class WeakStream: Sendable {
  let stream = Mutex<Weak?>(nil)

  func roomAgain() {
    guard let stream = self.stream.withLock({ $0?.stream }) else { return }
    stream.executor.execute { stream.roomAgain() }
  }
}

/// A channel on its event loop: the state machine, its socket, and the calls that wait for it.
/// `@unchecked Sendable`: only the loop touches it.
final class ChannelCore: ClientConnectionOwner, @unchecked Sendable {
  let executor: LoopExecutor
  private let target: ListenAddress
  private let configuration: RPCChannel.Configuration
  private var machine: ConnectivityStateMachine
  private var waiting: [ObjectIdentifier: (order: Int, stream: ClientStream)] = [:]
  private var nextOrder = 0
  /// The connection that new calls start on.
  private var current: Connection?
  /// Made, but not yet greeted; or retired, with calls that are still open.
  private var others: [ObjectIdentifier: Connection] = [:]
  private var greetingTimer: Scheduled<Void>?
  private var lastFailure = ""
  private var isShutDown = false
  private var onClosed: [() -> Void] = []

  init(target: ListenAddress, configuration: RPCChannel.Configuration, eventLoop: any EventLoop) {
    self.target = target
    self.configuration = configuration
    self.executor = LoopExecutor.of(eventLoop)
    self.machine = ConnectivityStateMachine(
      backoff: .init(
        initial: configuration.initialBackoff, maximum: configuration.maximumBackoff))
  }

  private var authority: String {
    switch self.target {
    case .tcp: self.target.description
    case .unix: "localhost"
    }
  }

  // MARK: - Calls

  func begin(_ stream: ClientStream) {
    guard !stream.isFinished else { return }
    stream.beginDeadline()
    guard !stream.isFinished else { return }
    switch self.machine.callArrived(waitsForReady: stream.options.waitForReady) {
    case .start:
      self.start(stream)
    case .wait(let effect):
      guard self.waiting.count < self.configuration.maximumWaitingCalls else {
        stream.cancel(
          RPCError(
            .resourceExhausted,
            "\(self.waiting.count) calls wait for a connection to \(self.target) already"))
        return
      }
      let id = ObjectIdentifier(stream)
      self.nextOrder += 1
      self.waiting[id] = (self.nextOrder, stream)
      stream.onFinish = { [unowned self] in self.waiting[id] = nil }
      self.perform(effect)
    case .fail:
      stream.cancel(self.unavailable)
    case .refuse:
      stream.cancel(RPCError(.unavailable, "the channel to \(self.target) was closed"))
    }
  }

  private func start(_ stream: ClientStream) {
    guard let current = self.current else {
      preconditionFailure("a ready channel has a connection")
    }
    stream.start(on: current, authority: self.authority)
  }

  private var unavailable: RPCError {
    RPCError(.unavailable, "cannot connect to \(self.target): \(self.lastFailure)")
  }

  private func perform(_ effect: ConnectivityStateMachine.Effect) {
    switch effect {
    case .none:
      break
    case .connect:
      self.connect()
    case .startWaitingCalls:
      let streams = self.waiting.values.sorted { $0.order < $1.order }
      self.waiting = [:]
      for (_, stream) in streams {
        stream.onFinish = nil
        self.start(stream)
      }
    case .failWaitingCalls(let delay):
      let error = self.unavailable
      for (_, stream) in self.waiting.values.sorted(by: { $0.order < $1.order })
      where !stream.options.waitForReady {
        stream.cancel(error)
      }
      self.executor.eventLoop.scheduleTask(in: TimeAmount(delay)) {
        self.perform(self.machine.timerFired(callsAreWaiting: !self.waiting.isEmpty))
      }
    }
  }

  // MARK: - The connection

  private func connect() {
    var http2 = HTTP2Session.Configuration()
    http2.maximumHeaderListBytes = 64 << 10
    let executor = self.executor
    let owner = ClientConnection(channel: self, keepalive: self.configuration.keepalive)
    let connection = Connection(.client, executor: executor, configuration: http2, owner: owner)
    owner.connection = connection
    let bootstrap = ClientBootstrap(group: executor.eventLoop)
      .connectTimeout(TimeAmount(self.configuration.connectTimeout))
      .channelOption(.writeBufferWaterMark, value: .init(low: 64 << 10, high: 256 << 10))
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 64 << 10))
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(connection)
        }
      }
    let connecting: EventLoopFuture<any Channel>
    switch self.target {
    case .tcp(let host, let port):
      connecting = bootstrap.channelOption(.tcpOption(.tcp_nodelay), value: 1)
        .connect(host: host, port: port)
    case .unix(let path):
      connecting = bootstrap.connect(unixDomainSocketPath: path)
    }
    connecting.whenComplete { result in
      switch result {
      case .failure(let error):
        self.connectFailed(describe(error))
      case .success(let channel):
        self.others[ObjectIdentifier(connection)] = connection
        self.awaitGreeting(channel)
      }
    }
  }

  /// A server that accepts and says nothing is no server.
  private func awaitGreeting(_ channel: any Channel) {
    if self.isShutDown { return channel.close(promise: nil) }
    self.greetingTimer = self.executor.eventLoop.scheduleTask(
      in: TimeAmount(self.configuration.connectTimeout)
    ) {
      channel.close(promise: nil)
    }
  }

  private func connectFailed(_ reason: String) {
    self.lastFailure = reason
    self.perform(self.machine.connectFailed(random: .random(in: -1...1)))
  }

  func connectionReady(_ connection: Connection) {
    self.greetingTimer?.cancel()
    self.greetingTimer = nil
    self.others[ObjectIdentifier(connection)] = nil
    if self.isShutDown { return connection.close("the channel was closed") }
    self.current = connection
    self.perform(self.machine.connected())
  }

  func connectionRetired(_ connection: Connection) {
    guard self.current === connection else { return }
    self.current = nil
    self.others[ObjectIdentifier(connection)] = connection
    self.perform(self.machine.connectionLost(callsAreWaiting: !self.waiting.isEmpty))
  }

  func connectionClosed(_ connection: Connection, _ reason: String) {
    let wasRetired = (connection.owner as? ClientConnection)?.wasReady ?? false
    if self.current === connection {
      self.current = nil
      self.lastFailure = reason
      self.perform(self.machine.connectionLost(callsAreWaiting: !self.waiting.isEmpty))
    } else if self.others.removeValue(forKey: ObjectIdentifier(connection)) != nil, !wasRetired {
      self.greetingTimer?.cancel()
      self.greetingTimer = nil
      self.connectFailed("it does not speak HTTP/2 (\(reason))")
    }
    self.reportClosed()
  }

  func shutDown(_ done: @escaping () -> Void) {
    self.isShutDown = true
    self.machine.shutDown()
    self.onClosed.append(done)
    for (_, stream) in self.waiting.values.sorted(by: { $0.order < $1.order }) {
      stream.cancel(RPCError(.unavailable, "the channel to \(self.target) was closed"))
    }
    self.current?.close("the channel was closed")
    for connection in self.others.values { connection.close("the channel was closed") }
    self.reportClosed()
  }

  private func reportClosed() {
    guard self.isShutDown, self.current == nil, self.others.isEmpty else { return }
    for done in self.onClosed { done() }
    self.onClosed = []
  }
}
