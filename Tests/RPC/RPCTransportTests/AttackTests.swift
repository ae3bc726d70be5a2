import NIOCore
import NIOPosix
import RPCCompression
import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// Peers that mean harm. Each attack is made on one connection while another is served; what it may
/// cost is bounded, and the attacker is told so where there is a limit for it.
@Suite(.serialized, .timeLimit(.minutes(2))) struct AttackTests {
  /// What the server under attack has seen.
  private final class Witness: Sendable {
    let running = Atomic(0)
    let mostRunning = Atomic(0)
    let isOver = Atomic(false)
    let noticed = Mutex<[String]>([])

    func enter() {
      let now = self.running.add(1, ordering: .relaxed).newValue
      _ = self.mostRunning.max(now, ordering: .relaxed)
    }
    func leave() { self.running.subtract(1, ordering: .relaxed) }
  }

  /// Bytes that the process holds; where the system does not say, nothing grows.
  private static var residentBytes: Int {
    guard let file = fopen("/proc/self/statm", "r") else { return 0 }
    defer { fclose(file) }
    var text = [CChar](repeating: 0, count: 128)
    guard fgets(&text, CInt(text.count), file) != nil else { return 0 }
    let fields = String(decoding: text.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      .split(separator: " ")
    return fields.count > 1 ? (Int(fields[1]) ?? 0) * Int(getpagesize()) : 0
  }

  /// CPU time that a server on this loop has taken, with its handlers.
  private static func cpuTime(of loop: any EventLoop) async throws -> Duration {
    try await loop.submit {
      var time = timespec()
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
      return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
    }.get()
  }

  /// Runs an attack on a server, calls the server from elsewhere all the while, and checks that neither
  /// memory nor CPU time have grown with the attack: memory by no more than tests take that run at the
  /// same time, CPU time by far less than what a flood costs that goes on: 0.2 s are the most that any of
  /// them takes without optimisation.
  private static func attack(
    _ configuration: RPCServer.Configuration = RPCServer.Configuration(),
    service: TestService = TestService(), mayGrow: Int = 256 << 20,
    mayTake: Duration = .seconds(5),
    _ body: (ListenAddress, Witness) async throws -> Void
  ) async throws {
    let witness = Witness()
    var service = service
    let unary = service.unary
    service.unary = { request, context in
      witness.enter()
      defer { witness.leave() }
      return try await unary(request, context)
    }
    var configuration = configuration
    configuration.attackNoticed = { _, what in witness.noticed.withLock { $0.append(what) } }
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let memory = Self.residentBytes
    try await withServer(service, configuration: configuration, group: group) { channel, _ in
      try await withThrowingTaskGroup(of: Int.self) { tasks in
        tasks.addTask {
          var served = 0
          var slowest = Duration.zero
          let clock = ContinuousClock()
          repeat {
            let begin = clock.now
            let responses: ResponseStream<Blob> = try await channel.serverStreaming(
              Methods.server, Blob("2"), options: CallOptions(timeout: .seconds(20)))
            for try await _ in responses { served += 1 }
            slowest = max(slowest, clock.now - begin)
            // Leaves the CPU time to the attack.
            try await Task.sleep(for: .milliseconds(5))
          } while !witness.isOver.load(ordering: .relaxed)
          // With all tests at once on few cores; it is milliseconds alone.
          #expect(slowest < .seconds(10))
          return served
        }
        try await body(try ListenAddress("\(channel.target)"), witness)
        witness.isOver.store(true, ordering: .relaxed)
        let served = try await tasks.next()
        #expect(served ?? 0 >= 2)
      }
    }
    let taken = try await Self.cpuTime(of: group.next())
    #expect(taken < mayTake)
    #expect(Self.residentBytes - memory < mayGrow)
    try await group.shutdownGracefully()
  }

  /// Reads to the end of a connection; the code of the GOAWAY that came last.
  private static func goAway(_ peer: ScriptedPeer) async throws -> UInt32? {
    var code: UInt32?
    while let frame = try await peer.frame() {
      if frame.kind == .goAway { code = frame.number(at: 4) }
    }
    return code
  }

  /// Sends until the server has had enough, and says so by its code; false if it never had.
  private static func flood(
    _ peer: ScriptedPeer, rounds: Int, code: UInt32 = 0xb, _ bytes: (Int) -> [UInt8]
  ) async throws -> Bool {
    let reader = Task { try await Self.goAway(peer) }
    for round in 0..<rounds {
      do { try await peer.send(bytes: bytes(round)) } catch { break }
    }
    let ranOut = Signal()
    let patience = Task {
      try await Task.sleep(for: .seconds(60))
      await ranOut.set()
      await peer.close()
    }
    // A GOAWAY may be lost with a socket that is closed on what was not read.
    if let last = try? await reader.value { #expect(last == code) }
    patience.cancel()
    await peer.close()
    return await !ranOut.isSet
  }

  @Test func rapidResetEndsTheConnectionAndHandlersAreCapped() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumRunningCallsPerConnection = 50
    var service = TestService()
    let release = Signal()
    // Deaf to cancellation: what a reset leaves behind.
    service.unary = { request, _ in
      await release.wait()
      return request
    }
    try await Self.attack(configuration, service: service) { address, witness in
      let peer = try await ScriptedPeer.client(of: address)
      let ended = try await Self.flood(peer, rounds: 200) { round in
        (0..<50).flatMap { index in
          let stream = UInt32(round * 100 + index * 2 + 1)
          let message: [UInt8] = [0, 0, 0, 0, 0]
          return ScriptedPeer.frame(
            .headers, flags: 4, stream: stream,
            body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path)))
            + ScriptedPeer.frame(.data, flags: 1, stream: stream, body: message)
            + ScriptedPeer.frame(.reset, stream: stream, body: ScriptedPeer.bytes(8))
        }
      }
      #expect(ended)
      #expect(witness.mostRunning.load(ordering: .relaxed) <= 50)
      await release.set()
    }
  }

  /// Whoever is told by GOAWAY that a stream was not seen makes the call again: so it must not have been.
  @Test func noCallBehindTheGoawayOfARapidResetIsServed() async throws {
    let noticed = Mutex<[String]>([])
    let served = Mutex<[UInt32]>([])
    var configuration = RPCServer.Configuration()
    configuration.attackNoticed = { _, what in noticed.withLock { $0.append(what) } }
    configuration.receivedResets = .init(burst: 20, perSecond: 1)
    var service = TestService()
    service.unary = { request, context in
      if let stream = context.metadata["stream"].flatMap({ UInt32($0) }) {
        served.withLock { $0.append(stream) }
      }
      return request
    }
    try await withServer(service, configuration: configuration) { channel, _ in
      let peer = try await ScriptedPeer.client(of: try ListenAddress("\(channel.target)"))
      // All in one write, so that much of it is read behind the reset that is too many.
      let flood = (0..<100).flatMap { index in
        let stream = UInt32(index * 2 + 1)
        let fields = ScriptedPeer.requestFields(Methods.unary.path) + [("stream", "\(stream)")]
        return ScriptedPeer.frame(
          .headers, flags: 4, stream: stream, body: ScriptedPeer.block(fields))
          + ScriptedPeer.frame(.data, flags: 1, stream: stream, body: [0, 0, 0, 0, 0])
          + (index < 30
            ? ScriptedPeer.frame(.reset, stream: stream, body: ScriptedPeer.bytes(8)) : [])
      }
      try? await peer.send(bytes: flood)
      var last: UInt32?
      var code: UInt32?
      while let frame = try? await peer.frame() {
        if frame.kind == .goAway {
          last = frame.number(at: 0)
          code = frame.number(at: 4)
        }
      }
      #expect(code == 0xb)
      let bound = try #require(last)
      #expect(served.withLock { $0 }.allSatisfy { $0 <= bound })
      #expect(noticed.withLock { $0.count } == 1)
    }
  }

  @Test func resetsThatThePeerMakesUsSendEndTheConnection() async throws {
    try await Self.attack { address, witness in
      let peer = try await ScriptedPeer.client(of: address)
      // Beyond 2^31 - 1 a window is a stream's error: RFC 9113, section 6.9.1.
      let ended = try await Self.flood(peer, rounds: 100) { round in
        (0..<20).flatMap { index in
          let stream = UInt32(round * 40 + index * 2 + 1)
          return ScriptedPeer.frame(
            .headers, flags: 4, stream: stream,
            body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path)))
            + ScriptedPeer.frame(
              .windowUpdate, stream: stream, body: ScriptedPeer.bytes(0x7fff_ffff))
        }
      }
      #expect(ended)
      #expect(witness.noticed.withLock { $0 } == ["it makes us reset too many streams"])
    }
  }

  @Test func aContinuationFloodEndsTheConnection() async throws {
    try await Self.attack { address, witness in
      let peer = try await ScriptedPeer.client(of: address)
      try await peer.send(.headers, stream: 1, body: ScriptedPeer.block([(":method", "POST")]))
      let ended = try await Self.flood(peer, rounds: 1_000) { round in
        ScriptedPeer.frame(
          .continuation, stream: 1, body: ScriptedPeer.block([("x-\(round)", "y")]))
      }
      #expect(ended)
      #expect(witness.noticed.withLock { $0.count } == 1)
    }
  }

  @Test func aHeaderListThatIsTooLargeFailsItsCallAlone() async throws {
    try await Self.attack { address, _ in
      let peer = try await ScriptedPeer.client(of: address)
      let large = (0..<10).map { ("x-\($0)", String(repeating: "a", count: 1_500)) }
      // HPACK lets one byte stand for a field of the dynamic table: kilobytes for each.
      var block = ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path))
      let value = String(repeating: "b", count: 3_000)
      block += [0x40, 1] + Array("x".utf8) + [127, 0xb9, 0x16] + Array(value.utf8)
      block += [UInt8](repeating: 0x80 | 62, count: 3_000)
      try await peer.send(.headers, flags: 5, stream: 1, body: block)
      let answer = try await peer.frame(.headers)
      #expect(answer?["grpc-status"] == "8")
      // The connection is as good as before.
      try await peer.begin(Methods.unary, stream: 3, more: large)
      try await peer.send(message: [], stream: 3, ends: true)
      let next = try await peer.frame(.headers) { $0.endsStream && $0.stream == 3 }
      #expect(next?["grpc-status"] == "0")
      await peer.close()
    }
  }

  @Test(arguments: [ScriptedPeer.Kind.ping, .settings, .priority, .windowUpdate, .goAway, .data])
  func framesThatCarryNothingEndTheConnection(kind: ScriptedPeer.Kind) async throws {
    var configuration = RPCServer.Configuration()
    configuration.windowUpdates = .init(burst: 100, perSecond: 1)
    try await Self.attack(configuration) { address, witness in
      let peer = try await ScriptedPeer.client(of: address)
      try await peer.begin(Methods.client, stream: 1)
      let frame: [UInt8] =
        switch kind {
        case .ping: ScriptedPeer.frame(.ping, body: [UInt8](repeating: 1, count: 8))
        case .settings: ScriptedPeer.frame(.settings)
        case .goAway: ScriptedPeer.frame(.goAway, body: [UInt8](repeating: 0, count: 8))
        case .priority: ScriptedPeer.frame(.priority, stream: 1, body: [0, 0, 0, 0, 1])
        case .windowUpdate:
          ScriptedPeer.frame(.windowUpdate, stream: 1, body: ScriptedPeer.bytes(1))
        default: ScriptedPeer.frame(.data, stream: 1)
        }
      let ended = try await Self.flood(peer, rounds: 200) { _ in
        (0..<50).flatMap { _ in frame }
      }
      #expect(ended)
      #expect(witness.noticed.withLock { $0.count } == 1)
    }
  }

  // Calls pay for some of them, and what comes for a call that is over is no call.
  @Test func headersOfACallThatIsOverPayForNothing() async throws {
    try await Self.attack { address, witness in
      let peer = try await ScriptedPeer.client(of: address)
      try await peer.begin(Methods.unary)
      try await peer.send(message: [], ends: true)
      _ = try await peer.frame(.headers) { $0.endsStream }
      let pair =
        ScriptedPeer.frame(.settings)
        + ScriptedPeer.frame(.headers, flags: 5, stream: 1, body: [0x88])
      let ended = try await Self.flood(peer, rounds: 200) { _ in (0..<50).flatMap { _ in pair } }
      #expect(ended)
      #expect(witness.noticed.withLock { $0.count } == 1)
    }
  }

  // Answers pile up that it does not read (CVE-2019-9512), however many of them it may ask for.
  @Test(arguments: [ScriptedPeer.Kind.ping, .settings])
  func whoDoesNotReadItsAnswersLosesTheConnection(kind: ScriptedPeer.Kind) async throws {
    var configuration = RPCServer.Configuration()
    configuration.emptyFrames = .init(burst: 1_000_000, perSecond: 1_000_000)
    configuration.minimumPingInterval = .zero
    configuration.permitsPingsWithoutCalls = true
    configuration.maximumQueuedFrames = 200
    // Hundreds of thousands of answers fit into the sockets.
    try await Self.attack(configuration, mayTake: .seconds(20)) { address, witness in
      let peer = try await ScriptedPeer.client(of: address)
      let frame = ScriptedPeer.frame(kind, body: kind == .ping ? [1, 1, 1, 1, 1, 1, 1, 1] : [])
      // More than sockets hold.
      let frames = (0..<1_000).flatMap { _ in frame }
      while witness.noticed.withLock({ $0.isEmpty }) {
        do { try await peer.send(bytes: frames) } catch { break }
      }
      await peer.close()
      #expect(witness.noticed.withLock { $0.allSatisfy { $0.contains("does not read") } })
      #expect(witness.noticed.withLock { $0.count } == 1)
    }
  }

  // A few bytes each, of which one stands for kilobytes: its streams are refused in vain.
  @Test func headerListsFarBeyondTheLimitEndTheConnection() async throws {
    try await Self.attack { address, witness in
      let peer = try await ScriptedPeer.client(of: address)
      let value = String(repeating: "b", count: 4_000)
      let named = [0x40, 1] + Array("x".utf8) + [127, 0xa1, 0x1e] + Array(value.utf8)
      let ended = try await Self.flood(peer, rounds: 50) { round in
        var block = ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path))
        if round == 0 { block += named }
        block += [UInt8](repeating: 0x80 | 62, count: 12_000)
        return ScriptedPeer.frame(.headers, flags: 5, stream: UInt32(round * 2 + 1), body: block)
      }
      #expect(ended)
      #expect(witness.noticed.withLock { $0.contains { $0.contains("header lists") } })
    }
  }

  @Test func bombsInRequestsAreRefusedAtTheLimit() async throws {
    let bomb = [UInt8](repeating: 0, count: 64 << 20)
      .withUnsafeBytes { MessageCodec.compress($0, .gzip) }
    var configuration = RPCServer.Configuration()
    configuration.maximumRequestBytes = 256 << 10
    try await Self.attack(configuration) { address, _ in
      let peer = try await ScriptedPeer.client(of: address)
      for stream in [1, 3, 5, 7] as [UInt32] {
        try await peer.begin(Methods.unary, stream: stream, more: [("grpc-encoding", "gzip")])
        let message = [1] + ScriptedPeer.bytes(UInt32(bomb.count)) + bomb
        for start in stride(from: 0, to: message.count, by: 16_000) {
          let part = Array(message[start..<min(start + 16_000, message.count)])
          try await peer.send(data: part, stream: stream, ends: start + 16_000 >= message.count)
        }
        let end = try await peer.frame(.headers) { $0.endsStream }
        #expect(end?["grpc-status"] == "8")
      }
      await peer.close()
    }
  }

  // One that nobody knows, one that nghttp2 does (ALTSVC), the last; with and without a body.
  @Test(arguments: [0x42, 0xa, 0xff] as [UInt8], [0, 100] as [UInt8])
  func framesOfUnknownTypesEndTheConnection(type: UInt8, length: UInt8) async throws {
    try await Self.attack { address, witness in
      let peer = try await ScriptedPeer.client(of: address)
      try await peer.begin(Methods.client, stream: 1)
      let frame = [0, 0, length, type, 0, 0, 0, 0, 1] + [UInt8](repeating: 7, count: Int(length))
      let ended = try await Self.flood(peer, rounds: 200) { _ in
        (0..<50).flatMap { _ in frame }
      }
      #expect(ended)
      #expect(witness.noticed.withLock { !$0.isEmpty })
    }
  }

  @Test func aWindowThatStaysShutResetsItsCallWhereThatTakesTheRoomOfOthers() async throws {
    var configuration = RPCServer.Configuration()
    configuration.stalledCallTimeout = .milliseconds(100)
    // The responses that wait take more than half of it, and not all.
    configuration.maximumBufferedBytesPerConnection = 128 << 10
    var service = TestService()
    let ended = Signal()
    service.both = { _, responses, _ in
      do {
        while true { try await responses.send(Blob([UInt8](repeating: 0, count: 32 << 10))) }
      } catch {
        await ended.set()
      }
    }
    try await Self.attack(configuration, service: service) { address, witness in
      let peer = try await ScriptedPeer.client(of: address, greets: false)
      try await peer.send(bytes: Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8))
      // A window of one byte.
      try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(1))
      try await peer.begin(Methods.both, stream: 1)
      let reset = try await peer.frame(.reset)
      // CANCEL: it was not for want of all room.
      #expect(reset?.stream == 1 && reset?.number(at: 0) == 8)
      await ended.wait()
      #expect(witness.noticed.withLock { $0.count } == 1)
      await peer.close()
    }
  }

  @Test func aRequestThatNeverComesWholeEndsAfterAWhile() async throws {
    var configuration = RPCServer.Configuration()
    configuration.stalledCallTimeout = .milliseconds(100)
    try await Self.attack(configuration) { address, witness in
      let peer = try await ScriptedPeer.client(of: address)
      try await peer.begin(Methods.unary, stream: 1)
      try await peer.begin(Methods.unary, stream: 3)
      try await peer.send(data: [0, 0, 0, 0, 9, 1, 2], stream: 3, ends: false)
      // Whoever streams may take as long as it likes, from one message to the next.
      try await peer.begin(Methods.client, stream: 5)
      try await peer.send(message: [1, 2], stream: 5)
      try await peer.begin(Methods.client, stream: 7)
      try await peer.send(message: [1, 2], stream: 7)
      try await peer.send(data: [0, 0, 0, 0, 9, 1, 2], stream: 7, ends: false)
      for _ in 0..<3 {
        let end = try await peer.frame(.headers) { $0.endsStream }
        #expect(end?["grpc-status"] == "4" && [1, 3, 7].contains(end?.stream))
        if end?.stream == 7 {
          #expect(end?["grpc-message"]?.hasPrefix("request 2 did not come whole: 2 bytes") == true)
        }
      }
      try await peer.send(message: [1], stream: 5, ends: true)
      let end = try await peer.frame(.headers) { $0.endsStream }
      #expect(end?["grpc-status"] == "0" && end?.stream == 5)
      await peer.close()
    }
  }

  // Data dribble (CVE-2019-9511): each SETTINGS frame opens every window by a byte.
  /// What it was sent is in no stream any more, but in the sockets; and it is not silent.
  @Test func whoTakesNothingOfWhatIsOnItsWayLosesTheConnection() async throws {
    var configuration = RPCServer.Configuration()
    configuration.stalledCallTimeout = .milliseconds(300)
    var service = TestService()
    service.unary = { _, _ in Blob([UInt8](repeating: 1, count: 1_500_000)) }
    try await Self.attack(configuration, service: service) { address, witness in
      let peer = try await ScriptedPeer.client(of: address, receiveBuffer: 16 << 10)
      try await peer.begin(Methods.unary)
      try await peer.send(message: [], ends: true)
      let patience = ContinuousClock.now + .seconds(60)
      var isOpen = true
      while isOpen, .now < patience {
        try await Task.sleep(for: .milliseconds(50))
        do {
          try await peer.send(.windowUpdate, body: ScriptedPeer.bytes(1))
        } catch {
          isOpen = false
        }
      }
      #expect(!isOpen)
      #expect(!witness.noticed.withLock { $0.isEmpty })
      await peer.close()
    }
  }

  @Test func whoHasBytesSentOneByOneLosesTheConnection() async throws {
    var configuration = RPCServer.Configuration()
    configuration.emptyFrames = .init(burst: 100, perSecond: 1)
    var service = TestService()
    service.server = { _, responses, _ in
      for _ in 0..<2 { try await responses.send(Blob([UInt8](repeating: 0, count: 32 << 10))) }
    }
    try await Self.attack(configuration, service: service) { address, witness in
      let peer = try await ScriptedPeer.client(of: address, greets: false)
      try await peer.send(bytes: Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8))
      try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(0))
      for index in 0..<50 as Range<UInt32> {
        try await peer.begin(Methods.server, stream: index * 2 + 1)
        try await peer.send(message: [], stream: index * 2 + 1, ends: true)
      }
      var hasEnded = false
      for window in 1...10 as ClosedRange<UInt32> where !hasEnded {
        try? await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(window))
        // The bytes that this window lets through come before the next one: together they would be
        // fewer frames.
        for _ in 0..<50 where !hasEnded {
          hasEnded = (try? await peer.frame(.data)) == nil
        }
      }
      #expect(hasEnded)
      #expect(witness.noticed.withLock { $0.contains { $0.contains("by a few bytes") } })
      await peer.close()
    }
  }

  // gRPC's C core does so in each round of its bandwidth probe.
  @Test func whoOpensTheWindowsOfManyCallsAgainAndAgainIsServed() async throws {
    var configuration = RPCServer.Configuration()
    configuration.minimumPingInterval = .zero
    let release = Signal()
    var service = TestService()
    service.client = { _, _ in
      await release.wait()
      return Blob([1])
    }
    try await withServer(service, configuration: configuration) { channel, _ in
      let peer = try await ScriptedPeer.client(
        of: try ListenAddress("\(channel.target)"), greets: false)
      try await peer.send(bytes: Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8))
      // Windows that may still be opened.
      try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(1 << 16))
      let streams = (0..<300).map { UInt32($0 * 2 + 1) }
      for stream in streams { try await peer.begin(Methods.client, stream: stream) }
      for round in 0..<20 {
        let updates = streams.flatMap {
          ScriptedPeer.frame(.windowUpdate, stream: $0, body: ScriptedPeer.bytes(100))
        }
        try await peer.send(bytes: updates)
        let mark = [UInt8](repeating: UInt8(round), count: 8)
        try await peer.send(.ping, body: mark)
        while let frame = try await peer.frame() {
          #expect(frame.kind != .goAway, "\(String(decoding: frame.body, as: UTF8.self))")
          if frame.kind == .ping, frame.body == mark { break }
        }
      }
      for stream in streams { try await peer.send(.data, flags: 1, stream: stream) }
      await release.set()
      var answered = 0
      while answered < streams.count, let frame = try await peer.frame() {
        #expect(frame.kind != .goAway)
        if frame.kind == .data { answered += 1 }
      }
      #expect(answered == streams.count)
      await peer.close()
    }
  }

  @Test func aRefusedCallLeavesItsConnectionAlone() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumConcurrentCallsPerConnection = 1
    configuration.maximumRunningCallsPerConnection = 1
    configuration.headerTimeout = .milliseconds(200)
    try await withServer(configuration: configuration) { channel, _ in
      let address = try ListenAddress("\(channel.target)")
      let peer = try await ScriptedPeer.client(of: address)
      try await peer.begin(Methods.client, stream: 1)
      try await peer.begin(Methods.client, stream: 3)
      let reset = try await peer.frame(.reset)
      #expect(reset?.stream == 3)
      // One whose headers do not end, begun later, loses its connection.
      let slow = try await ScriptedPeer.client(of: address)
      try await slow.send(
        .headers, stream: 1,
        body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.client.path)))
      while try await slow.frame() != nil {}
      try await peer.send(.ping, body: [UInt8](repeating: 5, count: 8))
      let answer = try await peer.frame(.ping) { $0.isAcknowledgement }
      #expect(answer != nil)
      await peer.close()
      await slow.close()
    }
  }

  @Test func callsOfManyLeaveEveryConnectionItsPart() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumRunningCalls = 8
    configuration.maximumConnections = 4
    try await withServer(configuration: configuration) { channel, _ in
      let address = try ListenAddress("\(channel.target)")
      let greedy = try await ScriptedPeer.client(of: address)
      for index in 0..<8 as Range<UInt32> {
        try await greedy.begin(Methods.unary, stream: index * 2 + 1)
      }
      try await greedy.send(.ping, body: [UInt8](repeating: 0, count: 8))
      _ = try await greedy.frame(.ping) { $0.isAcknowledgement }
      let modest = try await ScriptedPeer.client(of: address)
      for index in 0..<3 as Range<UInt32> {
        try await modest.begin(Methods.unary, stream: index * 2 + 1)
      }
      let refused = try await modest.frame(.reset)
      #expect(refused?.stream == 5)
      try await modest.send(message: [1], stream: 1, ends: true)
      let answer = try await modest.frame(.data)
      #expect(answer?.stream == 1)
      await greedy.close()
      await modest.close()
    }
  }

  // Their handlers would all begin at once, when the requests come.
  @Test func callsThatWaitForTheirRequestsCountAsRunning() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumRunningCalls = 10
    try await withServer(configuration: configuration) { channel, _ in
      let address = try ListenAddress("\(channel.target)")
      let peers = [
        try await ScriptedPeer.client(of: address), try await ScriptedPeer.client(of: address),
      ]
      for peer in peers {
        for index in 0..<8 as Range<UInt32> {
          try await peer.begin(Methods.unary, stream: index * 2 + 1)
        }
        // All of them have been read when this is answered.
        try await peer.send(.ping, body: [UInt8](repeating: 0, count: 8))
        if peer === peers[0] { _ = try await peer.frame(.ping) { $0.isAcknowledgement } }
      }
      var refused: Set<UInt32> = []
      while refused.count < 6, let frame = try await peers[1].frame() {
        // REFUSED_STREAM.
        if frame.kind == .reset, frame.number(at: 0) == 7 { refused.insert(frame.stream) }
      }
      #expect(refused == [5, 7, 9, 11, 13, 15])
      for peer in peers { await peer.close() }
    }
  }

  @Test func whoDoesNotAnswerTheLastPingIsDrainedAllTheSame() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumConnectionAge = .milliseconds(50)
    configuration.closeTimeout = .milliseconds(50)
    try await withServer(configuration: configuration) { channel, _ in
      let peer = try await ScriptedPeer.client(of: try ListenAddress("\(channel.target)"))
      try await peer.begin(Methods.client)
      let notice = try await peer.frame(.goAway)
      #expect(notice?.number(at: 0) == 0x7fff_ffff)
      let last = try await peer.frame(.goAway)
      #expect(last?.number(at: 0) == 1)
      await peer.close()
    }
  }

  @Test func headersThatComeByteByByteCloseTheConnection() async throws {
    var configuration = RPCServer.Configuration()
    configuration.headerTimeout = .milliseconds(200)
    try await Self.attack(configuration) { address, _ in
      let peer = try await ScriptedPeer.client(of: address)
      let frame = ScriptedPeer.frame(
        .headers, flags: 1, stream: 1,
        body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path)))
      let reader = Task { try await Self.goAway(peer) }
      for byte in frame {
        do { try await peer.send(bytes: [byte]) } catch { break }
      }
      // It has no END_HEADERS: the list is still open, and stays so.
      _ = try await reader.value
    }
  }

  @Test func whoDoesNotGreetIsClosed() async throws {
    var configuration = RPCServer.Configuration()
    configuration.handshakeTimeout = .milliseconds(100)
    try await Self.attack(configuration) { address, _ in
      let silent = try await ScriptedPeer.client(of: address, greets: false)
      _ = try await Self.goAway(silent)
    }
  }

  @Test func aPeerThatIsGoneIsNoticedByPings() async throws {
    var configuration = RPCServer.Configuration()
    configuration.keepalive = Keepalive(
      interval: .milliseconds(50), timeout: .milliseconds(100), withoutCalls: true)
    try await Self.attack(configuration) { address, _ in
      let peer = try await ScriptedPeer.client(of: address)
      #expect(try await peer.frame(.ping) != nil)
      _ = try await Self.goAway(peer)
    }
  }

  /// Sends the first 96 KiB of a request of 1 MiB, as far as the windows let it.
  ///
  /// - Returns: What the call was answered with; nil if the server waits for the rest.
  private static func beginLargeRequest(
    _ peer: ScriptedPeer, stream: UInt32
  ) async throws -> ScriptedPeer.Frame? {
    try await peer.begin(Methods.unary, stream: stream)
    try await peer.send(data: [0, 0, 0x10, 0, 0], stream: stream, ends: false)
    let chunk = [UInt8](repeating: 1, count: 16 << 10)
    for _ in 0..<3 { try await peer.send(data: chunk, stream: stream, ends: false) }
    while let frame = try await peer.frame() {
      if frame.kind == .headers { return frame }
      if frame.kind == .windowUpdate, frame.stream == stream { break }
    }
    for _ in 0..<3 { try await peer.send(data: chunk, stream: stream, ends: false) }
    // The answer to a ping overtakes other frames, but not those of the read before.
    for _ in 0..<2 {
      try await peer.send(.ping, body: [UInt8](repeating: 0, count: 8))
      while let frame = try await peer.frame() {
        if frame.kind == .headers { return frame }
        if frame.kind == .ping, frame.isAcknowledgement { break }
      }
    }
    return nil
  }

  // By one connection, and by several that keep within what each of them may.
  @Test(arguments: [true, false])
  func requestsThatDoNotEndHoldNoMoreThanTheyMay(onOneConnection: Bool) async throws {
    // Room for three.
    var configuration = RPCServer.Configuration()
    configuration.minimumPingInterval = .zero
    if onOneConnection {
      configuration.maximumBufferedBytesPerConnection = 300 << 10
    } else {
      configuration.maximumBufferedBytes = 300 << 10
    }
    try await Self.attack(configuration) { address, _ in
      var peers: [ScriptedPeer] = []
      for stream in [1, 3, 5, 7] as [UInt32] {
        if peers.isEmpty || !onOneConnection {
          peers.append(try await ScriptedPeer.client(of: address))
        }
        let answer = try await Self.beginLargeRequest(peers[peers.count - 1], stream: stream)
        #expect(answer?["grpc-status"] == (stream == 7 ? "8" : nil))
        if stream == 7 {
          #expect(answer?["grpc-message"]?.contains("what the calls of") == true)
        }
      }
      // There is room again once one of them has gone.
      if onOneConnection {
        try await peers[0].send(.reset, stream: 1, body: ScriptedPeer.bytes(8))
      } else {
        await peers.removeFirst().close()
      }
      var stream: UInt32 = 9
      while try await Self.beginLargeRequest(peers[peers.count - 1], stream: stream) != nil {
        // The end of a connection is noticed a little later.
        try await Task.sleep(for: .milliseconds(20))
        stream += 2
        try #require(stream < 200)
      }
      for peer in peers { await peer.close() }
    }
  }

  @Test func connectionsBeyondTheirNumberAreClosed() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumConnections = 10
    try await Self.attack(configuration) { address, witness in
      var peers: [ScriptedPeer] = []
      // One is the witness's own.
      for _ in 0..<40 {
        guard let peer = try? await ScriptedPeer.client(of: address) else { continue }
        peers.append(peer)
      }
      while witness.noticed.withLock({ $0.count }) < 31 { await Task.yield() }
      for peer in peers { await peer.close() }
      #expect(witness.noticed.withLock { $0.allSatisfy { $0.contains("10 connections") } })
    }
  }

  @Test func aServerThatFloodsItsClientIsLeft() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = Task { try await channel.unary(Methods.unary, Blob()) }
    let peer = try await peers.next()
    _ = try await peer.frame(.headers)
    let settings = (0..<50).flatMap { _ in ScriptedPeer.frame(.settings) }
    for _ in 0..<200 {
      do { try await peer.send(bytes: settings) } catch { break }
    }
    let error = await #expect(throws: RPCError.self) { try await call.value }
    #expect(error?.code == .unavailable)
    await channel.close()
  }

  // A server that is full, or answers before it has read, is no attacker: NO_ERROR, CANCEL.
  @Test(arguments: [0, 8] as [UInt32])
  func aServerMayResetAllThatItsClientBegins(code: UInt32) async throws {
    let (channel, peers) = ScriptedPeer.server()
    let first = Task { try await channel.unary(Methods.unary, Blob()) }
    let peer = try await peers.next()
    _ = try await peer.frame(.headers)
    for round in 0..<30 {
      try await withThrowingTaskGroup(of: StatusCode?.self) { group in
        for _ in 0..<100 {
          group.addTask {
            let error = await #expect(throws: RPCError.self) {
              try await channel.unary(Methods.unary, Blob())
            }
            return error?.code
          }
        }
        for _ in 0..<100 {
          let begun = try #require(try await peer.frame(.headers), "in round \(round)")
          if code == 0 {
            try await peer.end(
              stream: begun.stream, status: .unimplemented, isTrailersOnly: true)
          }
          try await peer.send(.reset, stream: begun.stream, body: ScriptedPeer.bytes(code))
        }
        let expected = code == 0 ? StatusCode.unimplemented : .cancelled
        for try await code in group { #expect(code == expected) }
      }
    }
    try await peer.respond(stream: 1)
    try await peer.send(message: [], stream: 1)
    try await peer.end(stream: 1)
    _ = try await first.value
    await channel.close()
  }
}
