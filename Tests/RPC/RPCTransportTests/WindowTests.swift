import RPCCore
import RPCTesting
import Testing

@testable import RPCTransport

/// Windows of streams as a peer sees them, and many calls at once behind them.
@Suite(.serialized, .timeLimit(.minutes(1))) struct WindowTests {
  /// What the server opens stream 1 by, until it has read all that was sent so far.
  private static func opened(_ peer: ScriptedPeer) async throws -> Int {
    var opened = 0
    try await peer.send(.ping, body: [UInt8](repeating: 9, count: 8))
    while let frame = try await peer.frame() {
      if frame.kind == .windowUpdate, frame.stream == 1 { opened += Int(frame.number(at: 0)) }
      if frame.kind == .settings, !frame.isAcknowledgement {
        try await peer.send(.settings, flags: 1)
      }
      #expect(frame.kind != .goAway && frame.kind != .reset)
      if frame.kind == .ping, frame.isAcknowledgement { break }
    }
    return opened
  }

  /// Sends messages of 10 bytes in frames padded to 216, as many as the window lets through.
  ///
  /// - Returns: Bytes that went through; 256 KiB are enough.
  private static func sendPadded(_ peer: ScriptedPeer, room start: Int) async throws -> Int {
    var room = start
    var sent = 0
    let message: [UInt8] = [0, 0, 0, 0, 10] + [UInt8](repeating: 1, count: 10)
    let frame = [UInt8(200)] + message + [UInt8](repeating: 0, count: 200)
    while sent < 1 << 18 {
      while room >= frame.count {
        try await peer.send(.data, flags: 8, stream: 1, body: frame)
        room -= frame.count
        sent += frame.count
      }
      var opened = try await Self.opened(peer)
      if opened == 0 {
        // A second chance.
        try await Task.sleep(for: .milliseconds(200))
        opened = try await Self.opened(peer)
      }
      if opened == 0 { break }
      room += opened
    }
    return sent
  }

  /// A server that is asked often, and sent little.
  private static var patient: RPCServer.Configuration {
    var configuration = RPCServer.Configuration()
    configuration.emptyFrames.burst = 1_000_000
    configuration.minimumPingInterval = .zero
    return configuration
  }

  @Test func paddingIsGivenBack() async throws {
    try await withPeer(TestService(), Self.patient) { peer in
      try await peer.begin(Methods.client)
      let sent = try await Self.sendPadded(peer, room: 65_536)
      #expect(sent >= 1 << 18)
    }
  }

  @Test func paddingIsGivenBackBehindALargeMessage() async throws {
    try await withPeer(TestService(), Self.patient) { peer in
      try await peer.begin(Methods.client)
      var room = 65_536
      let size = 2 << 20
      try await peer.send(
        data: [0] + ScriptedPeer.bytes(UInt32(size)) + [UInt8](repeating: 1, count: 1_000),
        stream: 1,
        ends: false)
      room -= 1_005
      let opened = try #require(try await peer.frame(.windowUpdate) { $0.stream == 1 })
      room += Int(opened.number(at: 0))
      var rest = size - 1_000
      while rest > 0 {
        let part = min(rest, 16_384)
        try await peer.send(data: [UInt8](repeating: 1, count: part), stream: 1, ends: false)
        rest -= part
        room -= part
      }
      let sent = try await Self.sendPadded(peer, room: room)
      #expect(sent >= 1 << 18)
    }
  }

  /// A client that says much before it knows the server's SETTINGS, whose window is smaller than what is
  /// the rule.
  @Test func anEarlyBurstIsGivenBackUnderASmallWindow() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumStreamWindow = 16_384
    configuration.minimumPingInterval = .zero
    try await withServer(TestService(), configuration: configuration) { channel, _ in
      let peer = try await ScriptedPeer.client(
        of: try ListenAddress("\(channel.target)"), greets: false)
      var bytes = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
      bytes += ScriptedPeer.frame(.settings)
      bytes += ScriptedPeer.frame(
        .headers, flags: 4, stream: 1,
        body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.client.path)))
      var sent = 0
      for _ in 0..<29 {
        bytes += ScriptedPeer.frame(
          .data, stream: 1, body: [0, 0, 0, 3, 232] + [UInt8](repeating: 1, count: 1_000))
        sent += 1_005
      }
      try await peer.send(bytes: bytes)
      var room = 65_535 - sent
      // Its SETTINGS.
      while let frame = try await peer.frame() {
        if frame.kind == .settings, !frame.isAcknowledgement {
          room += 16_384 - 65_535
          try await peer.send(.settings, flags: 1)
          break
        }
      }
      for _ in 0..<5 {
        room += try await Self.opened(peer)
        try await Task.sleep(for: .milliseconds(50))
      }
      #expect(room > 0)
      await peer.close()
    }
  }

  /// Endless responses to a client whose connection window is what RFC 9113 begins with.
  @Test func noEndlessResponseStarvesBehindANarrowConnection() async throws {
    var service = TestService()
    service.server = { _, responses, _ in
      let blob = Blob([UInt8](repeating: 1, count: 100_000))
      while true { try await responses.send(blob) }
    }
    try await withServer(service) { channel, _ in
      let peer = try await ScriptedPeer.client(
        of: try ListenAddress("\(channel.target)"), greets: false)
      var bytes = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
      bytes += ScriptedPeer.frame(.settings, body: [0, 4] + ScriptedPeer.bytes(UInt32(Int32.max)))
      for stream in [1, 3, 5, 7] as [UInt32] {
        bytes += ScriptedPeer.frame(
          .headers, flags: 4, stream: stream,
          body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.server.path)))
        bytes += ScriptedPeer.frame(.data, flags: 1, stream: stream, body: [0, 0, 0, 0, 1, 49])
      }
      try await peer.send(bytes: bytes)
      var received: [UInt32: Int] = [1: 0, 3: 0, 5: 0, 7: 0]
      var total = 0
      var untold = 0
      while total < 8 << 20, let frame = try await peer.frame() {
        guard frame.kind == .data else { continue }
        received[frame.stream, default: 0] += frame.body.count
        total += frame.body.count
        untold += frame.body.count
        if untold >= 32_768 {
          try await peer.send(.windowUpdate, body: ScriptedPeer.bytes(UInt32(untold)))
          untold = 0
        }
      }
      #expect(received.values.min()! > 1 << 19)
      await peer.close()
    }
  }

  private actor Log {
    private(set) var other: [String] = []
    func bad(_ what: String) { self.other.append(what) }
  }

  static func blob(_ count: Int) -> Blob {
    var bytes = noise(count)
    // What the test's message takes for another size, or for malformed.
    if count > 0 { bytes[0] = 1 }
    return Blob(bytes)
  }

  static let sizes = [0, 1, 500, 9_999, 10_000, 17_000, 64_000, 70_000, 300_000]

  @Test func manyCallsOfAllSizes() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumConcurrentCallsPerConnection = 12
    try await withServer(TestService(), configuration: configuration) { channel, _ in
      let outcome = Log()
      await withTaskGroup(of: Void.self) { group in
        for index in 0..<25 {
          group.addTask {
            let request = Self.blob(Self.sizes.randomElement()!)
            let task = Task {
              return try await channel.unary(Methods.unary, request)
            }
            let cancels = index % 4 == 0
            if cancels {
              try? await Task.sleep(for: .microseconds(Int.random(in: 0..<200_000)))
              task.cancel()
            }
            do {
              let reply = try await task.value
              let isSame = reply == request
              if !isSame { await outcome.bad("another answer to \(request.bytes.count) bytes") }
            } catch {
              if !cancels { await outcome.bad("\(error)") }
            }
          }
        }
      }
      #expect(await outcome.other == [])
    }
  }

  @Test func bothWaysWithSlowReaders() async throws {
    try await withServer { channel, _ in
      let bad = Log()
      await withTaskGroup(of: Void.self) { group in
        for _ in 0..<6 {
          group.addTask {
            do {
              let sizes = (0..<10).map { _ in Self.sizes.randomElement()! }
              let messages = sizes.map { Self.blob($0) }
              let call = try await channel.bidirectional(Methods.both)
              let sending = Task {
                for message in messages {
                  try await call.send(message)
                  if Int.random(in: 0..<4) == 0 { try await Task.sleep(for: .milliseconds(5)) }
                }
                await call.finishSending()
              }
              var index = 0
              for try await reply in call.responses {
                if reply != messages[index] { await bad.bad("differs at \(index)") }
                index += 1
                if Int.random(in: 0..<3) == 0 { try await Task.sleep(for: .milliseconds(10)) }
              }
              if index != messages.count { await bad.bad("only \(index)") }
              try await sending.value
            } catch { await bad.bad("\(error)") }
          }
        }
      }
      #expect(await bad.other == [])
    }
  }
}
