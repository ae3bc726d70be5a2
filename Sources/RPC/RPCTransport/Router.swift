import RPCCore

/// A service that a server can offer. Generated protocols conform; an implementation of one of
/// them is all that a server needs.
public protocol RPCService: Sendable {
  /// What reflection tells about the service.
  var descriptor: ServiceDescriptor { get }
  /// Adds the service's methods.
  func registerMethods(with router: inout Router)
}

/// What serves the calls of a method with one request and one response. Generated code has one for each: a type
/// is called for less than a closure.
public protocol UnaryHandler: Sendable {
  associatedtype Request: RPCMessage
  associatedtype Response: RPCMessage
  /// Serves one call. An error ends it: ``RPCCore/RPCError`` with what it says, others with `UNKNOWN`.
  func handle(_ request: Request, _ context: ServerContext) async throws -> Response
}

@usableFromInline
struct UnaryClosure<Request: RPCMessage, Response: RPCMessage>: UnaryHandler {
  @usableFromInline let closure: @Sendable (Request, ServerContext) async throws -> Response

  @inlinable
  init(closure: @escaping @Sendable (Request, ServerContext) async throws -> Response) {
    self.closure = closure
  }

  @inlinable
  func handle(_ request: Request, _ context: ServerContext) async throws -> Response {
    try await self.closure(request, context)
  }
}

/// Which method a path means. Filled by services before the server starts, then only read.
public struct Router: Sendable {
  private var routes: [Route?] = Array(repeating: nil, count: 16)
  private var count = 0
  /// What is wrong with the first method that cannot be; nil: nothing.
  private(set) var mistake: ConfigurationError?

  /// No methods.
  public init() {}

  /// Adds a method with one request and one response, served by a closure.
  @inlinable
  @inline(__always)
  public mutating func unary<Request, Response>(
    _ method: MethodDescriptor<Request, Response>,
    handler: @escaping @Sendable (Request, ServerContext) async throws -> Response
  ) {
    self.unary(method, by: UnaryClosure(closure: handler))
  }

  /// Adds a method with one request and one response.
  ///
  /// Inlined, so that a service's own module makes a form of it for the messages and the handler at
  /// hand; nothing else on the way of a call is generic.
  @inlinable
  @inline(__always)
  public mutating func unary<Handler: UnaryHandler>(
    _ method: MethodDescriptor<Handler.Request, Handler.Response>, by handler: Handler
  ) {
    typealias Job = RequestJob<Handler.Request>
    let plain: HandlerJob.Body = { job in
      let job = unsafeDowncast(job, to: Job.self)
      do {
        job.stream.finish(with: try await handler.handle(job.request, job.context))
      } catch {
        job.stream.fail(error)
      }
    }
    let intercepted = HandlerJob.intercepted { job in
      let job = unsafeDowncast(job, to: Job.self)
      try job.stream.hold(try await handler.handle(job.request, job.context))
    }
    self.addSingle(method.path) { stream, bytes in
      if let job = Job(bytes, stream) {
        stream.run(consume job, stream.isIntercepted ? intercepted : plain)
      }
    }
  }

  /// Adds a method with one request and a stream of responses.
  @inlinable
  @inline(__always)
  public mutating func serverStreaming<Request, Response>(
    _ method: MethodDescriptor<Request, Response>,
    handler:
      @escaping @Sendable (Request, ResponseWriter<Response>, ServerContext) async throws -> Void
  ) {
    self.addSingle(method.path) { stream, bytes in
      do {
        let request = try Request(decoding: bytes, taking: &stream.decodedBytes)
        stream.run { context, writer in
          try await handler(request, ResponseWriter(stream: stream, writer: writer), context)
        }
      } catch {
        stream.isNoMessage(Request.messageName, error)
      }
    }
  }

  /// Adds a method with a stream of requests and one response.
  @inlinable
  @inline(__always)
  public mutating func clientStreaming<Request, Response>(
    _ method: MethodDescriptor<Request, Response>,
    handler: @escaping @Sendable (RequestStream<Request>, ServerContext) async throws -> Response
  ) {
    self.addMany(method.path) { stream in
      let requests = RequestStream<Request>(from: stream)
      stream.run { context, writer in
        let response = try await handler(requests, context)
        try await writer.send(response, on: stream)
      }
    }
  }

  /// Adds a method with streams both ways.
  @inlinable
  @inline(__always)
  public mutating func bidirectional<Request, Response>(
    _ method: MethodDescriptor<Request, Response>,
    handler:
      @escaping @Sendable (
        RequestStream<Request>, ResponseWriter<Response>, ServerContext
      ) async throws -> Void
  ) {
    self.addMany(method.path) { stream in
      let requests = RequestStream<Request>(from: stream)
      stream.run { context, writer in
        try await handler(requests, ResponseWriter(stream: stream, writer: writer), context)
      }
    }
  }

  /// Has every method's calls told to observers.
  mutating func observe(by observers: [any ServerObserver]) {
    self.routes = self.routes.map { route in
      route.map { route in
        Route(
          route.path, single: route.single, many: route.many,
          observers: observers.map { $0.observer(ofMethod: route.path) })
      }
    }
  }

  /// The method of that path.
  func find(_ path: UnsafeBufferPointer<UInt8>) -> Route? {
    var slot = Self.hash(path) & (self.routes.count - 1)
    while let route = self.routes[slot] {
      if route.matches(path) { return route }
      slot = (slot + 1) & (self.routes.count - 1)
    }
    return nil
  }

  /// Adds a method with one request.
  @usableFromInline
  mutating func addSingle(
    _ path: String, serve: @escaping @Sendable (ServerStream, UnsafeRawBufferPointer) -> Void
  ) {
    self.add(Route(path, single: serve))
  }

  /// Adds a method with any number of requests.
  @usableFromInline
  mutating func addMany(
    _ path: String, serve: @escaping @Sendable (ServerStream) -> Void
  ) {
    self.add(Route(path, many: serve))
  }

  private mutating func add(_ route: Route) {
    guard isMethodPath(route.path) else {
      self.refuse(route, expected: "/package.Service/Method")
      return
    }
    guard route.withBytes({ self.find($0) == nil }) else {
      self.refuse(route, expected: "one service that defines it, not two")
      return
    }
    if (self.count + 1) * 2 > self.routes.count {
      let old = self.routes
      self.routes = Array(repeating: nil, count: old.count * 2)
      for case let route? in old { self.insert(route) }
    }
    self.insert(route)
    self.count += 1
  }

  private mutating func refuse(_ route: Route, expected: String) {
    guard self.mistake == nil else { return }
    self.mistake = ConfigurationError(
      "a method of RPCServer's services", "\"\(route.path)\"", expected: expected)
  }

  private mutating func insert(_ route: Route) {
    var slot = route.withBytes(Self.hash) & (self.routes.count - 1)
    while self.routes[slot] != nil { slot = (slot + 1) & (self.routes.count - 1) }
    self.routes[slot] = route
  }

  /// FNV-1a. The table holds only our own paths, so a peer cannot make it degrade.
  private static func hash(_ path: UnsafeBufferPointer<UInt8>) -> Int {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in path {
      hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
    }
    return Int(truncatingIfNeeded: hash >> 1)
  }
}

/// A method and how a call to it is served.
final class Route: Sendable {
  let path: String
  /// For calls with one request: what is done with it once the call has come whole. The bytes are valid
  /// during the call only.
  let single: (@Sendable (ServerStream, UnsafeRawBufferPointer) -> Void)?
  /// For calls with any number of them: what is done when the headers have come.
  let many: (@Sendable (ServerStream) -> Void)?
  let observers: [any MethodObserver]
  private let bytes: [UInt8]

  init(
    _ path: String, single: (@Sendable (ServerStream, UnsafeRawBufferPointer) -> Void)? = nil,
    many: (@Sendable (ServerStream) -> Void)? = nil, observers: [any MethodObserver] = []
  ) {
    self.path = path
    self.single = single
    self.many = many
    self.observers = observers
    self.bytes = Array(path.utf8)
  }

  func withBytes<Result>(_ body: (UnsafeBufferPointer<UInt8>) -> Result) -> Result {
    self.bytes.withUnsafeBufferPointer(body)
  }

  var takesOne: Bool { self.single != nil }

  /// Serves a call with one request, for which ``single`` is there.
  func serve(_ stream: ServerStream, _ request: UnsafeRawBufferPointer) {
    self.single!(stream, request)
  }

  func matches(_ path: UnsafeBufferPointer<UInt8>) -> Bool {
    self.withBytes { $0.equals(path) }
  }
}
