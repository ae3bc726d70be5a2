import NIOCore
import NIOPosix
import RPCCore
import RPCHTTP2
import Synchronization

/// A way to a service, over connections that are made when a call needs one and made again when they
/// are lost.
///
///     let channel = try RPCChannel(to: "127.0.0.1:50051")
///     let greeter = GreeterClient(channel)
///     let reply = try await greeter.sayHello(HelloRequest(name: "you"))
///
/// Calls may be made from anywhere; a call that is made on the channel's own event loop does not
/// leave it.
public final class RPCChannel: Sendable {
  /// How a channel connects and calls; every setting has a default that works.
  public struct Configuration: Sendable {
    /// Which of the target's addresses calls go to.
    public var loadBalancing = LoadBalancing.pickFirst
    /// Timeouts, retries and hedging of methods.
    public var serviceConfig = ServiceConfig()
    /// Nil: plain text.
    public var tls: ClientTLS?
    /// What `:authority` says; nil: the target.
    public var authority: String?
    /// How long making a connection may take, HTTP/2's greeting included.
    public var connectTimeout = Duration.seconds(10)
    /// The delay after a connection that could not be made; each further failure multiplies it by
    /// 1.6, and it strays by a fifth.
    public var initialBackoff = Duration.milliseconds(200)
    /// No delay between two attempts is longer.
    public var maximumBackoff = Duration.seconds(10)
    /// Calls that may wait, for a connection or for a server that takes no more at once; one more fails
    /// with `resourceExhausted`.
    public var maximumWaitingCalls = 10_000
    /// Pings a server that is silent, to notice that it is gone. Nil never does. A server may take
    /// frequent pings for an attack: gRPC's own allow one in five minutes unless they are told
    /// otherwise.
    public var keepalive: Keepalive?
    /// How long data may be on its way without being acknowledged before the connection is lost
    /// (RFC 5482), on systems that know of it. Notices a dead peer without pings.
    public var unacknowledgedTimeout: Duration? = .seconds(20)
    /// A connection without calls is closed after this.
    public var idleTimeout: Duration? = .seconds(1_800)
    /// The largest header list of a response, in bytes as RFC 9113, section 6.5.2, counts them; a
    /// larger one fails its call with `resourceExhausted`.
    public var maximumHeaderListBytes = 64 << 10
    /// What a call's window grows to, in bytes: how much of its responses may wait here unread.
    public var maximumStreamWindow = 8 << 20
    /// Asked before each call, in this order.
    public var interceptors: [any ClientInterceptor] = []

    /// Everything at its default.
    public init() {}
  }

  /// What the channel is a way to.
  public let target: ChannelTarget
  let core: ChannelCore
  private let configuration: Configuration
  /// What is wrong with target or configuration: every call fails with it.
  private let mistake: ConfigurationError?
  private let isClosed = Atomic(false)

  /// Makes a channel; nothing is connected yet.
  ///
  /// - Parameters:
  ///   - target: See ``RPCCore/ChannelTarget``.
  ///   - configuration: What is wrong with it is thrown.
  ///   - group: Whose event loop the channel lives on: one of them, for all its connections.
  ///     Outlives the channel: what waits on a loop that was shut down waits for ever.
  /// - Throws: ``RPCCore/ListenAddress/ParseError``: the target is no address;
  ///   ``RPCCore/ConfigurationError``: a setting cannot be.
  public convenience init(
    to target: String, configuration: Configuration = Configuration(),
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) throws {
    self.init(to: try ChannelTarget(target), configuration: configuration, group: group)
    if let mistake = self.mistake { throw mistake }
  }

  /// Makes a channel to one address; nothing is connected yet.
  public convenience init(
    to address: ListenAddress, configuration: Configuration = Configuration(),
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) {
    self.init(to: ChannelTarget(address), configuration: configuration, group: group)
  }

  /// Makes a channel to a target; nothing is connected yet.
  ///
  /// - Parameters:
  ///   - target: What the channel is a way to.
  ///   - configuration: What is wrong with it is told by the calls, which fail with `invalidArgument`.
  ///   - group: Whose event loop the channel lives on: one of them, for all its connections.
  ///     Outlives the channel: what waits on a loop that was shut down waits for ever.
  public convenience init(
    to target: ChannelTarget, configuration: Configuration = Configuration(),
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) {
    self.init(
      to: target, configuration: configuration,
      dialer: SocketDialer(target: target, configuration: configuration), group: group)
  }

  package init(
    to target: ChannelTarget, configuration: Configuration, dialer: any Dialer,
    group: any EventLoopGroup
  ) {
    self.target = target
    self.configuration = configuration
    do throws(ConfigurationError) {
      if let mistake = target.mistake {
        throw ConfigurationError("the channel's target", target, expected: "an address: \(mistake)")
      }
      try configuration.check()
      self.mistake = nil
    } catch {
      self.mistake = error
    }
    self.core = ChannelCore(
      target: target, configuration: configuration, dialer: dialer, eventLoop: group.next())
  }

  /// Makes no further calls, cancels those that are open, and closes the connections.
  public func close() async {
    await withCheckedContinuation { continuation in
      let core = self.core
      core.executor.execute { core.shutDown { continuation.resume() } }
    }
    self.isClosed.store(true, ordering: .releasing)
  }

  deinit {
    if self.isClosed.load(ordering: .acquiring) { return }
    let core = self.core
    core.executor.execute { core.shutDown {} }
  }

  // MARK: - What generated stubs call

  /// Makes a call with one request and one response.
  ///
  /// - Throws: ``RPCCore/RPCError``: the call's status, or one that this side made: `unavailable` (no
  ///   connection), `deadlineExceeded`, `cancelled`, `resourceExhausted` (a message is too large, or
  ///   too many calls wait), `invalidArgument` (a setting, an option or a name that cannot be).
  @inlinable
  public func unary<Request, Response>(
    _ method: MethodDescriptor<Request, Response>, _ request: Request,
    options: CallOptions = CallOptions()
  ) async throws -> Response {
    let slot = ResponseSlot<Response>()
    let call = UnaryClientCall { bytes throws(RPCError) in
      slot.message = try decodeResponse(bytes).response
    }
    let stream =
      self.isIntercepted
      ? try await self.interceptedStream(of: method, options, call)
      : try self.stream(of: method, options, call)
    try self.set(request, of: stream)
    try await self.make(call, on: stream)
    // The call ends well with one response only.
    return slot.message!
  }

  /// Begins a call with one request and a stream of responses.
  ///
  /// - Returns: At once; the call's status comes with the responses.
  /// - Throws: ``RPCCore/RPCError``: the request is too large, or an interceptor has refused.
  @inlinable
  public func serverStreaming<Request, Response>(
    _ method: MethodDescriptor<Request, Response>, _ request: Request,
    options: CallOptions = CallOptions()
  ) async throws -> ResponseStream<Response> {
    let responses = try await self.responses(of: method, options)
    try self.set(request, of: responses.handle.stream)
    self.begin(responses.handle.stream)
    return responses
  }

  /// Begins a call with a stream of requests and one response.
  ///
  /// - Throws: ``RPCCore/RPCError``: an interceptor has refused.
  @inlinable
  public func clientStreaming<Request, Response>(
    _ method: MethodDescriptor<Request, Response>, options: CallOptions = CallOptions()
  ) async throws -> ClientStreamingCall<Request, Response> {
    let responses = try await self.responses(of: method, options)
    self.begin(responses.handle.stream)
    return ClientStreamingCall(responses: responses)
  }

  /// Begins a call with streams both ways.
  ///
  /// - Throws: ``RPCCore/RPCError``: an interceptor has refused.
  @inlinable
  public func bidirectional<Request, Response>(
    _ method: MethodDescriptor<Request, Response>, options: CallOptions = CallOptions()
  ) async throws -> BidirectionalCall<Request, Response> {
    let responses = try await self.responses(of: method, options)
    self.begin(responses.handle.stream)
    return BidirectionalCall(responses: responses)
  }

  // MARK: - Calls

  @usableFromInline var isIntercepted: Bool { !self.configuration.interceptors.isEmpty }

  @usableFromInline
  func stream<Request, Response>(
    of method: MethodDescriptor<Request, Response>, _ options: CallOptions, _ call: any ClientCall
  ) throws -> ClientStream {
    guard method.isWellFormed else { throw method.error }
    let terms = try self.terms(method.path, options, [])
    return ClientStream(terms, executor: self.core.executor, call: call)
  }

  @usableFromInline
  func interceptedStream<Request, Response>(
    of method: MethodDescriptor<Request, Response>, _ options: CallOptions, _ call: any ClientCall
  ) async throws -> ClientStream {
    guard method.isWellFormed else { throw method.error }
    let terms = try await self.interceptedTerms(method.path, options)
    return ClientStream(terms, executor: self.core.executor, call: call)
  }

  /// Gives a call its request, or ends it: whoever hears of its end does so then too.
  @inlinable
  func set(_ request: some RPCMessage, of stream: ClientStream) throws(RPCError) {
    do {
      try stream.setRequest(request)
    } catch {
      self.giveUp(stream, error)
      throw error
    }
  }

  @usableFromInline
  func giveUp(_ stream: ClientStream, _ error: RPCError) {
    self.core.executor.execute { stream.cancel(error) }
  }

  /// Returns when the call has ended well.
  @usableFromInline
  func make(_ call: UnaryClientCall, on stream: ClientStream) async throws {
    let core = self.core
    try await withTaskCancellationHandler {
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

  @usableFromInline
  func begin(_ stream: ClientStream) {
    let core = self.core
    core.executor.execute { core.begin(stream) }
  }

  /// A call that streams, not begun yet.
  @inlinable
  func responses<Request, Response>(
    of method: MethodDescriptor<Request, Response>, _ options: CallOptions
  ) async throws -> ResponseStream<Response> {
    // The queue tells the stream of room, and the stream tells the queue of messages: the weak
    // end is filled in once both are there.
    let room = StreamRoom()
    let queue = MessageQueue<Response> { room.again() }
    let call = StreamingClientCall(
      receive: { bytes, isCompressed throws(RPCError) in
        let (response, memory): (Response, Int) = try decodeResponse(bytes)
        return queue.append(response, bytes: memory, isCompressed: isCompressed)
      }, end: { queue.end($0) })
    let stream =
      self.isIntercepted
      ? try await self.interceptedStream(of: method, options, call)
      : try self.stream(of: method, options, call)
    room.set(stream)
    return ResponseStream(queue: queue, call: call, handle: CallHandle(stream, of: self))
  }

  // MARK: - Terms

  private func interceptedTerms(
    _ path: String, _ options: CallOptions
  ) async throws -> ClientStream.Terms {
    let begin = ContinuousClock.now
    var call = OutgoingCall(method: path, target: self.target, options: options)
    do {
      for interceptor in self.configuration.interceptors { try await interceptor.intercept(&call) }
      return try self.terms(path, call.options, call.observers, since: begin)
    } catch {
      // Those who were asked before wait for the end, on the loop.
      let error =
        error as? RPCError
        ?? (error is CancellationError
          ? RPCError(.cancelled, "the calling task was cancelled")
          : RPCError(.unknown, "\(error)"))
      try? await self.core.executor.eventLoop.submit { [call] in call.ended(with: error.code) }
        .get()
      throw error
    }
  }

  /// - Parameter begin: When the call began: before its interceptors, if it has any.
  private func terms(
    _ path: String, _ options: CallOptions, _ observers: [@Sendable (CallSummary) -> Void],
    since begin: ContinuousClock.Instant = .now
  ) throws(RPCError) -> ClientStream.Terms {
    do throws(ConfigurationError) {
      if let mistake = self.mistake { throw mistake }
      try options.check()
    } catch {
      throw error.callError
    }
    let method =
      self.configuration.serviceConfig.methods.isEmpty
      ? nil : self.configuration.serviceConfig.method(path)
    func least(_ own: Int?, _ configured: Int?) -> Int? {
      guard let own, let configured else { return own ?? configured }
      return min(own, configured)
    }
    var timeout = options.timeout
    if let limit = method?.timeout { timeout = min(timeout ?? limit, limit) }
    var deadline = timeout.map { Deadline.after($0, from: begin) }
    if options.inheritsDeadline, let outer = ServerContext.current?.deadline,
      outer < deadline ?? outer || deadline == nil
    {
      deadline = outer
      timeout = max(.zero, outer.remaining)
    }
    return ClientStream.Terms(
      path: path, began: begin, metadata: options.metadata, timeout: timeout, deadline: deadline,
      waitsForReady: options.waitForReady ?? method?.waitForReady ?? false,
      maximumRequestBytes: min(
        least(options.maximumRequestBytes, method?.maximumRequestBytes) ?? .max,
        largestMessageBytes),
      maximumResponseBytes: least(options.maximumResponseBytes, method?.maximumResponseBytes)
        ?? CallOptions.defaultMaximumMessageBytes,
      compression: options.compression, resilience: method?.resilience ?? .none,
      received: options.receivedMetadata, onEnd: observers)
  }
}

/// Pings a peer that is silent.
public struct Keepalive: Sendable, Hashable {
  /// How long a peer may be silent before it is pinged.
  public var interval: Duration
  /// How long it may be silent after that.
  public var timeout: Duration
  /// Whether a connection without calls is pinged too.
  public var withoutCalls: Bool

  /// Pings after `interval` of silence, and gives the connection up after `timeout` more.
  ///
  /// - Parameters:
  ///   - interval: Silence before a ping.
  ///   - timeout: Silence behind it, until the connection is given up.
  ///   - withoutCalls: Whether a connection without calls is pinged too.
  public init(interval: Duration, timeout: Duration = .seconds(20), withoutCalls: Bool = false) {
    self.interval = interval
    self.timeout = timeout
    self.withoutCalls = withoutCalls
  }
}

/// Tells a stream that its reader has caught up, without keeping it.
@usableFromInline
final class StreamRoom: Sendable {
  private struct Weak: Sendable {
    weak let stream: ClientStream?
  }

  private let stream = Mutex<Weak?>(nil)

  @usableFromInline init() {}

  @usableFromInline
  func set(_ stream: ClientStream) {
    self.stream.withLock { $0 = Weak(stream: stream) }
  }

  @usableFromInline
  func again() {
    self.stream.withLock { $0?.stream }?.roomAgain()
  }
}
