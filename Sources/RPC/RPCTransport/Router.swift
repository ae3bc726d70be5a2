import RPCCore

/// A service that a server can offer. Generated protocols conform; an implementation of one of
/// them is all that a server needs.
public protocol RPCService: Sendable {
  /// What reflection tells about the service.
  var descriptor: ServiceDescriptor { get }
  /// Adds the service's methods.
  func registerMethods(with router: inout Router)
}

/// Which method a path means. Filled by services before the server starts, then only read.
public struct Router: Sendable {
  private var routes: [Route?] = Array(repeating: nil, count: 16)
  private var count = 0

  /// No methods.
  public init() {}

  /// Adds a method with one request and one response.
  @inlinable
  public mutating func unary<Request, Response>(
    _ method: MethodDescriptor<Request, Response>,
    handler: @escaping @Sendable (Request, ServerContext) async throws -> Response
  ) {
    self.add(
      Route(method.path) { stream in UnaryServerCall(stream: stream, handler: handler) })
  }

  /// Adds a method with one request and a stream of responses.
  public mutating func serverStreaming<Request, Response>(
    _ method: MethodDescriptor<Request, Response>,
    handler:
      @escaping @Sendable (Request, ResponseWriter<Response>, ServerContext) async throws -> Void
  ) {
    self.add(
      Route(method.path) { stream in
        ServerStreamingCall<Request, Response>(stream: stream, handler: handler)
      })
  }

  /// Adds a method with a stream of requests and one response.
  public mutating func clientStreaming<Request, Response>(
    _ method: MethodDescriptor<Request, Response>,
    handler: @escaping @Sendable (RequestStream<Request>, ServerContext) async throws -> Response
  ) {
    self.add(
      Route(method.path) { stream in
        StreamingServerCall<Request>(stream: stream) { requests, context, stream, writer in
          let response = try await handler(requests, context)
          try await writer.send(response, on: stream)
        }
      })
  }

  /// Adds a method with streams both ways.
  public mutating func bidirectional<Request, Response>(
    _ method: MethodDescriptor<Request, Response>,
    handler:
      @escaping @Sendable (
        RequestStream<Request>, ResponseWriter<Response>, ServerContext
      ) async throws -> Void
  ) {
    self.add(
      Route(method.path) { stream in
        StreamingServerCall<Request>(stream: stream) { requests, context, stream, writer in
          try await handler(requests, ResponseWriter(stream: stream, writer: writer), context)
        }
      })
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

  @usableFromInline
  mutating func add(_ route: Route) {
    let exists = route.path.utf8.withContiguousStorageIfAvailable { self.find($0) != nil }
    precondition(exists != true, "two services of one server define \(route.path)")
    precondition(
      isMethodPath(route.path), "a method's path is /package.Service/Method, not \"\(route.path)\"")
    if (self.count + 1) * 2 > self.routes.count {
      let old = self.routes
      self.routes = Array(repeating: nil, count: old.count * 2)
      for case let route? in old { self.insert(route) }
    }
    self.insert(route)
    self.count += 1
  }

  private mutating func insert(_ route: Route) {
    var slot = route.bytes.withUnsafeBufferPointer(Self.hash) & (self.routes.count - 1)
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

/// A method and how a call to it begins.
@usableFromInline
final class Route: Sendable {
  let path: String
  let bytes: [UInt8]
  let makeCall: @Sendable (ServerStream) -> any ServerCall

  @usableFromInline
  init(_ path: String, makeCall: @escaping @Sendable (ServerStream) -> any ServerCall) {
    self.path = path
    self.bytes = Array(path.utf8)
    self.makeCall = makeCall
  }

  func matches(_ path: UnsafeBufferPointer<UInt8>) -> Bool {
    self.bytes.count == path.count && self.bytes.elementsEqual(path)
  }
}
