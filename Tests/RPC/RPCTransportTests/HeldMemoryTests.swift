import NIOPosix
import RPCCompression
import RPCCore
import RPCTesting
import Synchronization
import Testing

@testable import RPCTransport

/// Peers that make a server hold what nobody takes: the server stops taking it, or the call that asks
/// for too much ends.
@Suite(.serialized, .timeLimit(.minutes(1))) struct HeldMemoryTests {
  private static let greeting = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

  /// SETTINGS_INITIAL_WINDOW_SIZE.
  private static func window(_ size: UInt32) -> [UInt8] { [0, 4] + ScriptedPeer.bytes(size) }

  /// The frames of some kinds that the server sends on streams until it has read all that was sent so
  /// far.
  private static func answers(
    _ peer: ScriptedPeer, _ kinds: Set<ScriptedPeer.Kind>
  ) async throws -> [ScriptedPeer.Frame] {
    var frames: [ScriptedPeer.Frame] = []
    // The answer to the first overtakes other frames.
    var pings = 2
    try await peer.send(.ping, body: [UInt8](repeating: 9, count: 8))
    while let frame = try await peer.frame() {
      if frame.kind == .ping, frame.isAcknowledgement {
        pings -= 1
        if pings == 0 { break }
        try await peer.send(.ping, body: [UInt8](repeating: 9, count: 8))
      }
      if let kind = frame.kind, kinds.contains(kind), frame.stream > 0 { frames.append(frame) }
    }
    return frames
  }

  // They take a few bytes on the wire and an allocation or two each.
  @Test func emptyMessagesThatNobodyReadsShutTheWindow() async throws {
    let release = Signal()
    var service = TestService()
    service.client = { requests, _ in
      await release.wait()
      var count = 0
      for try await _ in requests { count += 1 }
      return Blob("\(count)")
    }
    try await withPeer(service) { peer in
      try await peer.begin(Methods.client)
      let some = [UInt8](repeating: 0, count: 16_380)
      for _ in 0..<4 { try await peer.send(data: some, ends: false) }
      #expect(try await Self.answers(peer, [.windowUpdate]).isEmpty)
      // What was kept is read in the end, whole.
      await release.set()
      let update = try await peer.frame(.windowUpdate) { $0.stream == 1 }
      #expect(update != nil)
      try await peer.send(data: some, ends: true)
      let data = try #require(try await peer.frame(.data))
      #expect(String(decoding: data.body.dropFirst(5), as: UTF8.self) == "\(5 * 16_380 / 5)")
    }
  }

  @Test func messagesThatNobodyReadsAreNotDecompressed() async throws {
    let release = Signal()
    var service = TestService()
    service.client = { requests, _ in
      await release.wait()
      var sizes = 0
      for try await request in requests { sizes += request.bytes.count }
      return Blob("\(sizes)")
    }
    let bomb = [UInt8](repeating: 0, count: 256 << 10).withUnsafeBytes {
      MessageCodec.compress($0, .gzip)
    }
    let message = [1] + ScriptedPeer.bytes(UInt32(bomb.count)) + bomb
    let count = 6
    var configuration = RPCServer.Configuration()
    // Room for what comes compressed, and for two messages.
    configuration.maximumBufferedBytesPerConnection = 700 << 10
    try await withPeer(service, configuration) { peer in
      try await peer.begin(Methods.client, more: [("grpc-encoding", "gzip")])
      let bytes = (0..<count).flatMap { _ in message }
      for start in stride(from: 0, to: bytes.count, by: 16_384) {
        let end = min(start + 16_384, bytes.count)
        try await peer.send(data: Array(bytes[start..<end]), ends: end == bytes.count)
      }
      // The call goes on.
      #expect(try await Self.answers(peer, [.headers, .reset]).isEmpty)
      await release.set()
      let data = try #require(try await peer.frame(.data))
      #expect(String(decoding: data.body.dropFirst(5), as: UTF8.self) == "\(count * (256 << 10))")
    }
  }

  @Test func responsesThatNobodyTakesEndTheCallsThatHaveNoRoom() async throws {
    var service = TestService()
    service.unary = { _, _ in Blob([UInt8](repeating: 1, count: 1 << 20)) }
    var configuration = RPCServer.Configuration()
    configuration.maximumBufferedBytesPerConnection = 4 << 20
    try await withPeer(service, configuration, greets: false) { peer in
      try await peer.send(bytes: Self.greeting)
      try await peer.send(.settings, body: Self.window(0))
      for index in 0..<10 as Range<UInt32> {
        try await peer.begin(Methods.unary, stream: index * 2 + 1)
        try await peer.send(message: [], stream: index * 2 + 1, ends: true)
      }
      var waiting = 0
      var refused = 0
      while waiting + refused < 10, let frame = try await peer.frame(.headers) {
        if frame["grpc-status"] == "8" { refused += 1 } else { waiting += 1 }
      }
      #expect(waiting == 3)
      #expect(refused == 7)
      // What waits is given away.
      try await peer.send(.settings, body: Self.window(2 << 20))
      try await peer.send(.windowUpdate, body: ScriptedPeer.bytes(16 << 20))
      for _ in 0..<3 {
        let end = try await peer.frame(.headers) { $0.endsStream }
        #expect(end?["grpc-status"] == "0")
      }
      try await peer.begin(Methods.unary, stream: 101)
      try await peer.send(message: [], stream: 101, ends: true)
      let end = try await peer.frame(.headers) { $0.endsStream }
      #expect(end?["grpc-status"] == "0")
    }
  }

  @Test func aStreamOfResponsesThatNobodyTakesIsResetWhereThereIsNoRoom() async throws {
    var service = TestService()
    let failed = Signal()
    let told = Mutex<StatusCode?>(nil)
    service.server = { _, responses, _ in
      do {
        while true { try await responses.send(Blob([UInt8](repeating: 1, count: 30 << 10))) }
      } catch {
        told.withLock { $0 = (error as? RPCError)?.code }
        await failed.set()
        throw error
      }
    }
    var configuration = RPCServer.Configuration()
    configuration.maximumBufferedBytesPerConnection = 150 << 10
    try await withPeer(service, configuration, greets: false) { peer in
      try await peer.send(bytes: Self.greeting)
      try await peer.send(.settings, body: Self.window(0))
      for stream in [1, 3] as [UInt32] {
        try await peer.begin(Methods.server, stream: stream)
        try await peer.send(message: [], stream: stream, ends: true)
      }
      let reset = try await peer.frame(.reset)
      // ENHANCE_YOUR_CALM.
      #expect(reset?.number(at: 0) == 0xb)
      await failed.wait()
      #expect(told.withLock { $0 } == .resourceExhausted)
    }
  }

  // What is compressed waits beside the stream until its call ends: both ends of it would be the call's.
  @Test(arguments: [true, false])
  func aResponseThatIsTooMuchEndsItsCallOnce(isWell: Bool) async throws {
    var service = TestService()
    service.both = { _, responses, context in
      context.responseCompression = .gzip
      var random = SystemRandomNumberGenerator()
      try await responses.send(
        Blob((0..<200 << 10).map { _ in UInt8.random(in: 0...255, using: &random) }))
      if !isWell { throw RPCError(.dataLoss, "no") }
    }
    var configuration = RPCServer.Configuration()
    configuration.maximumBufferedBytesPerConnection = 100 << 10
    try await withPeer(service, configuration) { peer in
      try await peer.begin(Methods.both, more: [("grpc-accept-encoding", "gzip")])
      let end = try #require(try await peer.frame(.headers))
      #expect(end.endsStream && end["grpc-status"] == "8")
      // The client has not ended its side: it is told to stop, once.
      let resets = try await Self.answers(peer, [.reset, .headers])
      #expect(resets.map { $0.number(at: 0) } == [0])
    }
  }

  // Thousands of requests of some kilobytes are as much as one of megabytes.
  @Test func smallRequestsThatDoNotEndCountAsLargeOnesDo() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumBufferedBytesPerConnection = 100 << 10
    try await withPeer(TestService(), configuration) { peer in
      var refused = 0
      for index in 0..<20 as Range<UInt32> {
        try await peer.begin(Methods.unary, stream: index * 2 + 1)
        let beginning = [0, 0, 0, 0x40, 0] + [UInt8](repeating: 1, count: 10 << 10)
        try await peer.send(data: beginning, stream: index * 2 + 1, ends: false)
      }
      for frame in try await Self.answers(peer, [.headers]) {
        #expect(frame["grpc-status"] == "8")
        refused += 1
      }
      #expect(refused == 10)
    }
  }

  // HPACK makes ten kilobytes of each out of a few bytes.
  @Test(arguments: [true, false])
  func metadataOfOpenCallsCounts(isOneField: Bool) async throws {
    let release = Signal()
    var service = TestService()
    service.both = { _, _, _ in await release.wait() }
    var configuration = RPCServer.Configuration()
    configuration.maximumBufferedBytesPerConnection = 105 << 10
    configuration.maximumHeaderListBytes = 64 << 10
    try await withPeer(service, configuration) { peer in
      // One large field, or many that are next to nothing on the wire.
      let much =
        isOneField
        ? [("x-much", String(repeating: "1", count: 10 << 10))]
        : Array(repeating: ("x", ""), count: (10 << 10) / 13)
      // Half of them wait for their request; the others' handlers run.
      for index in 0..<20 as Range<UInt32> {
        if index % 2 == 0 {
          try await peer.begin(Methods.unary, stream: index * 2 + 1, more: much)
        } else {
          try await peer.begin(Methods.both, stream: index * 2 + 1, more: much)
        }
      }
      let refused = try await Self.answers(peer, [.headers])
      #expect(refused.map(\.stream) == (10..<20).map { $0 * 2 + 1 })
      #expect(refused.allSatisfy { $0["grpc-status"] == "8" })
      // What ends makes room.
      await release.set()
      for _ in 0..<5 { _ = try await peer.frame(.headers) { $0.endsStream } }
      try await peer.begin(Methods.unary, stream: 101, more: much)
      try await peer.send(message: [], stream: 101, ends: true)
      let end = try await peer.frame(.headers) { $0.endsStream && $0.stream == 101 }
      #expect(end?["grpc-status"] == "0")
    }
  }

  /// Some hundred bytes, of which gzip makes a quarter of a megabyte.
  private static let message: [UInt8] = {
    let request = [UInt8](repeating: 0, count: 256 << 10).withUnsafeBytes {
      MessageCodec.compress($0, .gzip)
    }
    return [1] + ScriptedPeer.bytes(UInt32(request.count)) + request
  }()

  @Test func requestsThatHandlersHaveCountUntilTheyEnd() async throws {
    let release = Signal()
    var service = TestService()
    // Deaf to the end of its call.
    service.unary = { _, _ in
      await release.wait()
      return Blob()
    }
    var configuration = RPCServer.Configuration()
    configuration.maximumBufferedBytesPerConnection = 1_100 << 10
    try await withPeer(service, configuration) { peer in
      var stream: UInt32 = 1
      func call() async throws {
        try await peer.begin(Methods.unary, stream: stream, more: [("grpc-encoding", "gzip")])
        try await peer.send(data: Self.message, stream: stream, ends: true)
        stream += 2
      }
      for _ in 0..<10 { try await call() }
      let refused = try await Self.answers(peer, [.headers])
      #expect(refused.map { $0["grpc-status"] } == Array(repeating: "8", count: 6))
      for stream in [1, 3, 5, 7] as [UInt32] {
        try await peer.send(.reset, stream: stream, body: ScriptedPeer.bytes(8))
      }
      try await call()
      #expect(try await Self.answers(peer, [.headers]).map { $0["grpc-status"] } == ["8"])
      await release.set()
      // Sooner or later the handlers have seen it.
      var status: String?
      while status != "0" {
        try await call()
        status = try await peer.frame(.headers) { $0.endsStream }?["grpc-status"]
      }
    }
  }

  @Test func requestsCountByWhatTheyTakeDecoded() async throws {
    let release = Signal()
    var service = TestService()
    service.unary = { _, _ in
      await release.wait()
      return Blob()
    }
    service.client = { _, _ in
      await release.wait()
      return Blob()
    }
    var configuration = RPCServer.Configuration()
    configuration.maximumBufferedBytesPerConnection = 350_000
    try await withPeer(service, configuration) { peer in
      let request = [0xfe] + [UInt8](repeating: 0, count: 99)
      for index in 0..<3 as Range<UInt32> {
        try await peer.begin(Methods.unary, stream: 2 * index + 1)
        try await peer.send(message: request, stream: 2 * index + 1, ends: true)
      }
      #expect(try await Self.answers(peer, [.headers]).isEmpty)
      // The same among requests of a stream that nobody reads.
      try await peer.begin(Methods.client, stream: 7)
      try await peer.send(message: request, stream: 7, ends: false)
      #expect(try await Self.answers(peer, [.headers]).map { $0["grpc-status"] } == ["8"])
      await release.set()
    }
  }

  @Test func whatADeafReaderHasTakenCountsUntilItEnds() async throws {
    let release = Signal()
    let (taken, takes) = AsyncStream.makeStream(of: Void.self)
    var service = TestService()
    service.client = { requests, _ in
      for try await _ in requests {
        takes.yield()
        await release.wait()
      }
      return Blob()
    }
    var configuration = RPCServer.Configuration()
    configuration.maximumBufferedBytesPerConnection = 1_100 << 10
    try await withPeer(service, configuration) { peer in
      var stream: UInt32 = 1
      func call(ends: Bool) async throws {
        try await peer.begin(Methods.client, stream: stream, more: [("grpc-encoding", "gzip")])
        try await peer.send(data: Self.message, stream: stream, ends: ends)
        stream += 2
      }
      for _ in 0..<4 { try await call(ends: false) }
      var left = 4
      for await _ in taken {
        left -= 1
        if left == 0 { break }
      }
      for stream in [1, 3, 5, 7] as [UInt32] {
        try await peer.send(.reset, stream: stream, body: ScriptedPeer.bytes(8))
      }
      try await call(ends: true)
      #expect(try await Self.answers(peer, [.headers]).map { $0["grpc-status"] } == ["8"])
      await release.set()
      // Sooner or later the handlers have seen it.
      var status: String?
      while status != "0" {
        try await call(ends: true)
        status = try await peer.frame(.headers) { $0.endsStream }?["grpc-status"]
      }
    }
  }

  @Test func windowsThatHaveGrownAreNarrowAgainWhenThereIsNoRoom() async throws {
    let release = Signal()
    var service = TestService()
    service.client = { requests, _ in
      var size = 0
      for try await request in requests { size += request.bytes.count }
      return Blob("\(size)")
    }
    service.both = { _, _, _ in await release.wait() }
    var configuration = RPCServer.Configuration()
    configuration.maximumBufferedBytesPerConnection = 400 << 10
    try await withPeer(service, configuration) { peer in
      // Answers pings late, and sends all that it may: the window grows.
      try await peer.begin(Methods.client, stream: 1)
      var room = 65_536
      var window: UInt32 = 65_536
      var sent = 0
      var pings: [(body: [UInt8], sent: Int)] = []
      while window == 65_536 {
        while room >= 1_005 {
          try await peer.send(message: [UInt8](repeating: 1, count: 1_000), stream: 1)
          room -= 1_005
          sent += 1_005
        }
        let frame = try #require(try await peer.frame())
        switch frame.kind {
        case .ping where !frame.isAcknowledgement: pings.append((frame.body, sent))
        case .windowUpdate where frame.stream == 1: room += Int(frame.number(at: 0))
        case .settings where frame.body.count == 6:
          window = frame.number(at: 2)
          // Until then it does not count.
          try await peer.send(.settings, flags: 1)
        default: break
        }
        // Two windows after the question.
        if let ping = pings.first, sent - ping.sent >= 2 * 65_536 {
          pings.removeFirst()
          try await peer.send(.ping, flags: 1, body: ping.body)
        }
      }
      #expect(window > 65_536)
      // Nobody reads these. Each is within the window of the beginning: how far it has grown is a
      // matter of how fast things went.
      for stream in [3, 5, 7, 9] as [UInt32] {
        try await peer.begin(Methods.both, stream: stream)
        for _ in 0..<4 {
          try await peer.send(message: [UInt8](repeating: 1, count: 16_000), stream: stream)
        }
      }
      let settings = try await peer.frame(.settings) { $0.body.count == 6 }
      #expect(settings?.number(at: 2) == 65_536)
      await release.set()
    }
  }

  // MARK: A client

  @Test func responsesThatAreNotReadShutTheWindowAndComeBeforeTheEnd() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { try await channel.serverStreaming(Methods.server, Blob("x")) }
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    try await peer.respond(stream: head.stream)
    for _ in 0..<4 {
      try await peer.send(
        data: [UInt8](repeating: 0, count: 16_380), stream: head.stream, ends: false)
    }
    #expect(try await Self.answers(peer, [.windowUpdate]).isEmpty)
    try await peer.end(stream: head.stream, status: .aborted)
    // The end has come, and is told behind what came before it.
    _ = try await Self.answers(peer, [])
    var count = 0
    let error = await #expect(throws: RPCError.self) {
      for try await response in try await call.value where response.bytes.isEmpty { count += 1 }
    }
    #expect(error?.code == .aborted)
    #expect(count == 4 * 16_380 / 5)
    await channel.close()
  }

  @Test func aResponseThatIsCutOffBehindOthersIsNoEnd() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { try await channel.serverStreaming(Methods.server, Blob("x")) }
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    try await peer.respond(stream: head.stream)
    for _ in 0..<3 {
      try await peer.send(
        data: [UInt8](repeating: 0, count: 16_380), stream: head.stream, ends: false)
    }
    try await peer.send(data: [0, 0, 0, 0, 9, 1], stream: head.stream, ends: false)
    try await peer.end(stream: head.stream)
    _ = try await Self.answers(peer, [])
    var count = 0
    let error = await #expect(throws: RPCError.self) {
      for try await response in try await call.value where response.bytes.isEmpty { count += 1 }
    }
    #expect(error?.code == .internalError)
    #expect(count == 3 * 16_380 / 5)
    await channel.close()
  }

  /// The contexts of calls, which an application may keep.
  private static let contexts = Mutex<[ServerContext]>([])

  private struct Keeping: RPCService {
    static let method = MethodDescriptor<Counted, Blob>("/test.Test/Keep")
    var descriptor: ServiceDescriptor { TestService().descriptor }
    func registerMethods(with router: inout Router) {
      router.unary(Self.method) { _, context in
        HeldMemoryTests.contexts.withLock { $0.append(context) }
        return Blob("taken by nobody")
      }
    }
  }

  /// A request that says how many of it there are.
  private struct Counted: RPCMessage {
    static let alive = Mutex(0)
    private final class Token: Sendable {
      init() { Counted.alive.withLock { $0 += 1 } }
      deinit { Counted.alive.withLock { $0 -= 1 } }
    }
    static var messageName: String { "test.Counted" }
    private let token = Token()
    init() {}
    init(decoding bytes: UnsafeRawBufferPointer) throws(MessageDecodingError) {}
    func encode<Refusal: Error>(
      reserving: (Int) throws(Refusal) -> UnsafeMutableRawPointer
    ) throws(Refusal) { _ = try reserving(0) }
    static func == (one: Counted, other: Counted) -> Bool { one.token === other.token }
    func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self.token)) }
  }

  // It counts against the limits as long as its handler runs, so it must not be kept for longer.
  @Test func aRequestGoesWithItsHandlerWhoeverKeepsItsContextOrTakesNoResponse() async throws {
    let server = RPCServer(
      services: [Keeping()], configuration: RPCServer.Configuration(),
      group: MultiThreadedEventLoopGroup.singleton)
    let address = try await server.listen(on: .tcp(host: "127.0.0.1", port: 0))
    let peer = try await ScriptedPeer.client(of: address, greets: false)
    try await peer.send(bytes: Self.greeting)
    try await peer.send(.settings, body: Self.window(0))
    for index in 0..<5 as Range<UInt32> {
      try await peer.begin(Keeping.method, stream: index * 2 + 1)
      try await peer.send(message: [], stream: index * 2 + 1, ends: true)
      #expect(try await peer.frame(.headers)?["grpc-status"] == nil)
    }
    #expect(try await Self.answers(peer, [.data, .headers]).isEmpty)
    #expect(Self.contexts.withLock { $0.count } == 5)
    #expect(Counted.alive.withLock { $0 } == 0)
    Self.contexts.withLock { $0 = [] }
    await peer.close()
    await server.shutdown(grace: .zero)
  }
}
