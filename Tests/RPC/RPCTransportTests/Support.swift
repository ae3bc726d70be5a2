import NIOCore
import NIOPosix
import RPCCore
import RPCTesting
import Testing

@testable import RPCTransport

/// A message that is its bytes: the transport's tests need no protobuf.
struct Blob: RPCMessage {
  static var messageName: String { "test.Blob" }
  var bytes: [UInt8] = []

  init() {}
  init(_ bytes: [UInt8]) { self.bytes = bytes }
  init(_ text: String) { self.bytes = Array(text.utf8) }

  init(decoding bytes: UnsafeRawBufferPointer) throws(MessageDecodingError) {
    guard bytes.first != 0xff else { throw MessageDecodingError(.malformed, in: "test.Blob") }
    self.bytes = Array(bytes)
  }

  /// One that begins with 0xfe is a thousand times larger decoded.
  init(
    decoding bytes: UnsafeRawBufferPointer, taking memory: inout Int
  ) throws(MessageDecodingError) {
    try self.init(decoding: bytes)
    memory = bytes.first == 0xfe ? 1_000 * bytes.count : bytes.count
  }

  func encode<Refusal: Error>(
    reserving: (Int) throws(Refusal) -> UnsafeMutableRawPointer
  ) throws(Refusal) {
    let target = try reserving(self.bytes.count)
    self.bytes.withUnsafeBytes { source in
      UnsafeMutableRawBufferPointer(start: target, count: source.count).copyMemory(from: source)
    }
  }

  func encode<Refusal: Error>(
    reserving: (Int) throws(Refusal) -> UnsafeMutableRawPointer,
    parting: (Int) throws(Refusal) -> any MessageSink
  ) throws(Refusal) {
    guard self.bytes.count >= 10_000 else { return try self.encode(reserving: reserving) }
    // A part that is copied, and one that may be kept.
    let sink = try parting(self.bytes.count)
    self.bytes.withUnsafeBytes { sink.take(UnsafeRawBufferPointer(rebasing: $0.prefix(1_000))) }
    sink.take(Array(self.bytes.dropFirst(1_000)))
  }

  var text: String { String(decoding: self.bytes, as: UTF8.self) }
}

private let allNoise: [UInt8] = {
  var bytes = [UInt8](repeating: 0, count: 4_000_000)
  bytes.withUnsafeMutableBytes { bytes in
    for place in stride(from: 0, to: bytes.count, by: 8) {
      bytes.storeBytes(of: .random(in: 0...(.max)), toByteOffset: place, as: UInt64.self)
    }
  }
  return bytes
}()

/// As many bytes of no order, up to three million.
func noise(_ count: Int) -> [UInt8] {
  let start = Int.random(in: 0...allNoise.count - count)
  return Array(allNoise[start..<start + count])
}

enum Methods {
  static let unary = MethodDescriptor<Blob, Blob>("/test.Test/Unary")
  static let server = MethodDescriptor<Blob, Blob>("/test.Test/Server")
  static let client = MethodDescriptor<Blob, Blob>("/test.Test/Client")
  static let both = MethodDescriptor<Blob, Blob>("/test.Test/Both")
  static let missing = MethodDescriptor<Blob, Blob>("/test.Test/Missing")
}

/// A service made of closures.
struct TestService: RPCService {
  var unary: @Sendable (Blob, ServerContext) async throws -> Blob = { request, _ in request }
  var server: @Sendable (Blob, ResponseWriter<Blob>, ServerContext) async throws -> Void = {
    request, responses, _ in
    for index in 0..<(Int(request.text) ?? 0) { try await responses.send(Blob("\(index)")) }
  }
  var client: @Sendable (RequestStream<Blob>, ServerContext) async throws -> Blob = {
    requests, _ in
    var count = 0
    for try await request in requests { count += request.bytes.count }
    return Blob("\(count)")
  }
  var both:
    @Sendable (RequestStream<Blob>, ResponseWriter<Blob>, ServerContext) async throws -> Void = {
      requests, responses, _ in
      for try await request in requests { try await responses.send(request) }
    }

  var descriptor: ServiceDescriptor {
    ServiceDescriptor(
      fullName: "test.Test", methods: ["Unary", "Server", "Client", "Both"],
      file: FileDescriptor(
        name: "test.proto", package: "test", serialized: [], symbols: [], dependencies: []))
  }

  func registerMethods(with router: inout Router) {
    router.unary(Methods.unary, handler: self.unary)
    router.serverStreaming(Methods.server, handler: self.server)
    router.clientStreaming(Methods.client, handler: self.client)
    router.bidirectional(Methods.both, handler: self.both)
  }
}

/// Runs `body` with a server on a free port and a channel to it.
func withServer(
  _ service: TestService = TestService(),
  configuration: RPCServer.Configuration = RPCServer.Configuration(),
  channelConfiguration: RPCChannel.Configuration = RPCChannel.Configuration(),
  group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
  _ body: (RPCChannel, RPCServer) async throws -> Void
) async throws {
  let server = RPCServer(services: [service], configuration: configuration, group: group)
  let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: 0))
  let channel = RPCChannel(to: address, configuration: channelConfiguration)
  let result: Result<Void, any Error>
  do {
    try await body(channel, server)
    result = .success(())
  } catch {
    result = .failure(error)
  }
  await channel.close()
  await server.shutdown(grace: .seconds(5))
  return try result.get()
}

/// Runs `body` with a server and a client of it that is scripted frame by frame.
func withPeer(
  _ service: TestService = TestService(),
  _ configuration: RPCServer.Configuration = RPCServer.Configuration(),
  greets: Bool = true, _ body: (ScriptedPeer) async throws -> Void
) async throws {
  try await withServer(service, configuration: configuration) { channel, _ in
    let peer = try await ScriptedPeer.client(
      of: try ListenAddress("\(channel.target)"), greets: greets)
    do {
      try await body(peer)
    } catch {
      await peer.close()
      throw error
    }
    await peer.close()
  }
}

/// An address that no other test comes to use, not even while nobody listens on it.
func ownAddress() -> ListenAddress {
  .unix(path: "/tmp/millrace-rpc-\(UInt64.random(in: 0...UInt64.max)).sock")
}

/// Returns once it is so; other tasks run meanwhile. A test's time limit ends it.
func waitUntil(_ isSo: () async throws -> Bool) async throws {
  while try await !isSo() {
    try Task.checkCancellation()
    await Task.yield()
  }
}

/// How many calls of a channel have not gone out.
func waitingCalls(of channel: RPCChannel) async throws -> Int {
  let core = channel.core
  return try await core.executor.eventLoop.submit { core.waitingCalls }.get()
}

/// Lets one task tell another that something has happened, without a clock.
actor Signal {
  private(set) var isSet = false
  private var waiters: [CheckedContinuation<Void, Never>] = []

  func set() {
    self.isSet = true
    for waiter in self.waiters { waiter.resume() }
    self.waiters = []
  }

  func wait() async {
    if self.isSet { return }
    await withCheckedContinuation { self.waiters.append($0) }
  }
}

extension ScriptedPeer {
  /// The first frame that is wanted.
  func frame(where isWanted: (Frame) -> Bool) async throws -> Frame? {
    while let frame = try await self.frame() {
      if isWanted(frame) { return frame }
    }
    return nil
  }
}
