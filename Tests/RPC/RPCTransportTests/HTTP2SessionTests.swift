import RPCCore
import Testing

@testable import RPCHTTP2

/// Two sessions in memory, one of them a server's, with whatever windows.
@Suite(.serialized) struct HTTP2SessionTests {
  final class Delegate: HTTP2SessionDelegate {
    var makes: () -> HTTP2Stream? = { nil }
    var faults: [String] = []
    func streamBegan() -> HTTP2Stream? { self.makes() }
    func settingsReceived() {}
    func goAwayReceived(lastStreamID: Int32, code: UInt32, text: String) {
      self.faults.append("goaway \(code) \(text)")
    }
    func goAwaySent(code: UInt32, text: String) {
      self.faults.append("goaway sent \(code) \(text)")
    }
    func pingReceived() {}
    func pingAcknowledged(_ purpose: HTTP2Session.Ping) {}
    func streamNumbersRanOut() {}
    func peerWentTooFar(_ what: String) { self.faults.append(what) }
  }

  final class Stream: HTTP2Stream {
    unowned let pair: Pair
    let isServer: Bool
    var received: [UInt8] = []
    var unread = 0
    var ended = false
    var endedOut = false
    var closedCode: UInt32?
    var wasReset = false
    /// What this side will say, and how much it has.
    var body: [UInt8] = []
    var said = 0
    weak var partner: Stream?
    var headersSent = false
    var endless = false
    var staysOpen = false
    init(_ pair: Pair, isServer: Bool) {
      self.pair = pair
      self.isServer = isServer
      super.init()
    }
    var session: HTTP2Session { self.isServer ? self.pair.server : self.pair.client }
    override func headersEnded(endOfStream: Bool) {}
    override func dataReceived(_ bytes: UnsafeRawBufferPointer) {
      if !self.endless { self.received += bytes } else { self.said += bytes.count }
      self.unread += bytes.count
      if self.pair.readsAtOnce { self.read(self.unread) }
    }
    func read(_ count: Int) {
      guard !self.isClosed else {
        self.unread = 0
        return
      }
      self.unread -= count
      self.session.consume(count, on: self)
      if self.unread == 0, self.pair.expects, let partner {
        let missing = partner.body.count - self.received.count
        if missing > 0 { self.session.expect(missing, on: self) }
      }
    }
    override func endReceived() { self.ended = true }
    override func outboundDrained(remaining: Int) {
      if self.endless, self.isServer, remaining < 150_000 {
        self.outbound.append([UInt8](repeating: 1, count: 200_000))
        self.session.outboundGrew(self)
      }
    }
    override func closed(code: UInt32) { self.closedCode = code }
    /// Says the next part of the body.
    func say(_ count: Int, asArray: Bool) {
      guard !self.isClosed, !self.endedOut else { return }
      if self.isServer, !self.headersSent {
        self.headersSent = true
        var fields = HeaderFields()
        fields.add(":status", "200")
        self.session.submitResponse(fields, on: self)
      }
      let part = Array(self.body[self.said..<min(self.body.count, self.said + count)])
      self.said += part.count
      if asArray {
        self.outbound.append(part)
      } else {
        part.withUnsafeBytes { self.outbound.append($0) }
      }
      self.session.outboundGrew(self)
      if self.said == self.body.count, !self.staysOpen, Bool.random() { self.end() }
    }
    func end() {
      guard !self.isClosed, !self.endedOut, self.said == self.body.count,
        !self.isServer || self.ended
      else { return }
      if self.isServer, !self.headersSent { return self.say(0, asArray: false) }
      self.endedOut = true
      if self.isServer {
        var fields = HeaderFields()
        fields.add("grpc-status", "0")
        self.session.endOutbound(self, trailers: fields)
      } else {
        self.session.endOutbound(self)
      }
    }
  }

  final class Pair {
    let clientDelegate = Delegate()
    let serverDelegate = Delegate()
    let client: HTTP2Session
    let server: HTTP2Session
    var readsAtOnce = true
    var expects = true
    var clients: [Stream] = []
    var servers: [Stream] = []
    var toServer: [UInt8] = []
    var toClient: [UInt8] = []

    init(
      _ clientConfiguration: HTTP2Session.Configuration,
      _ serverConfiguration: HTTP2Session.Configuration
    ) {
      self.client = HTTP2Session(
        .client, configuration: clientConfiguration, delegate: self.clientDelegate)
      self.server = HTTP2Session(
        .server, configuration: serverConfiguration, delegate: self.serverDelegate)
      self.serverDelegate.makes = { [unowned self] in
        let stream = Stream(self, isServer: true)
        self.servers.append(stream)
        return stream
      }
    }

    /// A client whose streams' windows are open wide, and its connection's is not.
    static func behindNarrowConnection() -> Pair {
      var configuration = HTTP2Session.Configuration()
      configuration.connectionWindow = 65_535
      configuration.maximumStreamWindow = 8 << 20
      configuration.streamWindow = 8 << 20
      return Pair(configuration, HTTP2Session.Configuration())
    }

    func begin() -> Stream {
      let stream = Stream(self, isServer: false)
      self.clients.append(stream)
      var fields = HeaderFields()
      fields.add(":method", "POST")
      fields.add(":scheme", "http")
      fields.add(":path", "/a/b")
      fields.add(":authority", "x")
      self.client.submitRequest(fields, on: stream)
      return stream
    }

    func produce(_ session: HTTP2Session, region: Int) throws -> [UInt8] {
      try [UInt8](unsafeUninitializedCapacity: region) { buffer, count in
        count = try session.produce(into: UnsafeMutableRawBufferPointer(buffer))
      }
    }

    @discardableResult
    func deliver(toServer: Bool, _ count: Int) throws -> Int {
      let bytes = toServer ? self.toServer : self.toClient
      let part = Array(bytes.prefix(count))
      if part.isEmpty { return 0 }
      if toServer {
        self.toServer.removeFirst(part.count)
      } else {
        self.toClient.removeFirst(part.count)
      }
      try part.withUnsafeBytes { try (toServer ? self.server : self.client).receive($0) }
      return part.count
    }

    /// Pumps until nothing moves any more.
    func settle(limit: Int = 100_000) throws -> Bool {
      for _ in 0..<limit {
        self.toServer += try self.produce(self.client, region: 200_000)
        self.toClient += try self.produce(self.server, region: 200_000)
        if self.toServer.isEmpty, self.toClient.isEmpty, self.client.isDrained,
          self.server.isDrained
        {
          return true
        }
        try self.deliver(toServer: true, .max)
        try self.deliver(toServer: false, .max)
      }
      return false
    }
  }

  static func body() -> [UInt8] {
    let size = [0, 1, 100, 20_000, 65_000, 66_000, 130_000, 400_000]
      .randomElement()!
    let count = size + (size > 0 ? Int.random(in: 0..<10) : 0)
    return noise(count)
  }

  private func exchange(narrows: Bool, rounds: Int) async throws {
    for round in 0..<rounds {
      // Other tests have times to keep.
      await Task.yield()
      var configurations: [HTTP2Session.Configuration] = []
      for _ in 0..<2 {
        var configuration = HTTP2Session.Configuration()
        configuration.maximumStreamWindow = [1 << 16, 80_000, 200_000, 8 << 20].randomElement()!
        if Int.random(in: 0..<4) == 0 {
          configuration.maximumStreamWindow = [5_000, 16_384, 40_000].randomElement()!
        }
        configuration.streamWindow = min(1 << 16, configuration.maximumStreamWindow)
        configuration.connectionWindow = [65_535, 200_000, 1 << 20, 1 << 26].randomElement()!
        configuration.maximumConcurrentStreams = [3, 20, 100].randomElement()!
        configuration.emptyFrames.burst = 1_000_000
        configuration.receivedResets.burst = 1_000_000
        configuration.provokedResets.burst = 1_000_000
        configuration.windowUpdates.burst = 10_000_000
        configurations.append(configuration)
      }
      let pair = Pair(configurations[0], configurations[1])
      pair.readsAtOnce = Bool.random()
      pair.expects = Bool.random()
      let total = [2, 6, 12].randomElement()!
      var total2 = total
      let resets = Bool.random()
      for _ in 0..<(200 + total * 40) {
        switch Int.random(in: 0..<12) {
        case 0:
          guard total2 > 0 else { break }
          total2 -= 1
          let stream = pair.begin()
          stream.body = Self.body()
        case 1, 2:
          guard let stream = pair.clients.randomElement() else { break }
          stream.say(
            [1, 1_000, 17_000, 70_000, 400_000, 4_000_000].randomElement()!, asArray: Bool.random())
        case 3, 4:
          guard let stream = pair.servers.randomElement() else { break }
          if stream.partner == nil {
            stream.partner = pair.clients.first { $0.id == stream.id }
            stream.partner?.partner = stream
            stream.body = Self.body()
          }
          stream.say(
            [1, 1_000, 17_000, 70_000, 400_000, 4_000_000].randomElement()!, asArray: Bool.random())
        case 5:
          pair.toServer += try pair.produce(
            pair.client, region: [16_393, 20_000, 50_000, 500_000].randomElement()!)
        case 6:
          pair.toClient += try pair.produce(
            pair.server, region: [16_393, 20_000, 50_000, 500_000].randomElement()!)
        case 7:
          try pair.deliver(toServer: true, [1, 100, 20_000, 1_000_000].randomElement()!)
        case 8:
          try pair.deliver(toServer: false, [1, 100, 20_000, 1_000_000].randomElement()!)
        case 9:
          if let stream = (pair.clients + pair.servers).randomElement(), stream.unread > 0 {
            stream.read(Int.random(in: 1...stream.unread))
          }
        case 10:
          if narrows, Int.random(in: 0..<4) == 0 {
            let session = Bool.random() ? pair.client : pair.server
            session.hasNarrowWindows = Bool.random()
          }
        default:
          if resets, Int.random(in: 0..<6) == 0,
            let stream = (pair.clients + pair.servers).randomElement()
          {
            stream.wasReset = true
            stream.session.reset(stream, code: 8)
          }
        }
      }
      // The rest, in peace.
      pair.client.hasNarrowWindows = false
      pair.server.hasNarrowWindows = false
      while total2 > 0 {
        total2 -= 1
        pair.begin().body = Self.body()
      }
      for _ in 0..<60 {
        #expect(try pair.settle())
        for stream in pair.servers where stream.partner == nil {
          stream.partner = pair.clients.first { $0.id == stream.id }
          stream.partner?.partner = stream
          stream.body = Self.body()
        }
        for stream in pair.clients + pair.servers {
          stream.say(.max / 2, asArray: Bool.random())
          stream.end()
          if stream.unread > 0 { stream.read(stream.unread) }
        }
        pair.readsAtOnce = true
      }
      #expect(try pair.settle())
      var bad = 0
      for stream in pair.clients {
        if stream.wasReset || stream.partner?.wasReset == true || stream.closedCode == 7 {
          continue
        }
        let partner = stream.partner
        let isFine =
          stream.closedCode == 0 && stream.ended && partner?.closedCode == 0
          && stream.received == partner?.body && partner?.received == stream.body
        if !isFine {
          bad += 1
        }
      }
      #expect(bad == 0, "round \(round): \(bad) of \(pair.clients.count)")
      #expect(pair.clientDelegate.faults + pair.serverDelegate.faults == [])
      #expect(pair.client.openStreams == 0 || bad > 0)
      pair.client.abandonStreams(code: 8)
      pair.server.abandonStreams(code: 8)
    }
  }

  /// Whatever the windows, and whoever is reset: each of the others gets every byte and its trailers.
  @Test func everyByteArrives() async throws { try await self.exchange(narrows: false, rounds: 10) }
  @Test func everyByteArrivesThoughWindowsBecomeNarrow() async throws {
    try await self.exchange(narrows: true, rounds: 10)
  }

  /// Endless responses over a connection window that is the bottleneck.
  @Test(arguments: [2, 3, 4, 8]) func nobodyStarves(count: Int) throws {
    let pair = Pair.behindNarrowConnection()
    pair.expects = false
    for _ in 0..<count { pair.begin().endless = true }
    _ = try pair.settle()
    for stream in pair.servers {
      stream.endless = true
      stream.body = [UInt8](repeating: 1, count: 300_000)
      stream.say(300_000, asArray: true)
    }
    _ = try pair.settle(limit: 500)
    let bytes = pair.clients.map(\.said)
    #expect(bytes.min()! * 20 > bytes.max()!)
    for stream in pair.clients + pair.servers { stream.endless = false }
    pair.client.abandonStreams(code: 8)
    pair.server.abandonStreams(code: 8)
  }

  /// A window that was wide is narrowed while less than half of it has been read and not been told of.
  @Test func narrowingLeavesNobodyStuck() throws {
    var configuration = HTTP2Session.Configuration()
    configuration.maximumStreamWindow = 8 << 20
    let pair = Pair(HTTP2Session.Configuration(), configuration)
    pair.expects = false
    let stream = pair.begin()
    _ = try pair.settle()
    // Grows as by traffic whose pings are answered late.
    stream.staysOpen = true
    while pair.server.windows.window < 4 << 20 {
      if pair.server.windows.read(8 << 20) { _ = pair.server.windows.read(8 << 20) }
      if let window = pair.server.windows.pingAnswered() { pair.server.tell(streamWindow: window) }
    }
    _ = try pair.settle()
    let server = pair.servers[0]
    stream.body = [UInt8](repeating: 2, count: 300_000)
    stream.say(300_000, asArray: true)
    _ = try pair.settle()
    pair.server.hasNarrowWindows = true
    _ = try pair.settle()
    pair.server.hasNarrowWindows = false
    _ = try pair.settle()
    let before = server.received.count
    stream.body += [UInt8](repeating: 3, count: 100_000)
    stream.say(100_000, asArray: true)
    _ = try pair.settle()
    #expect(server.received.count - before == 100_000)
    pair.client.abandonStreams(code: 8)
    pair.server.abandonStreams(code: 8)
  }

  /// Who waits for a turn on a connection that is read is not ended as if it were not.
  @Test func whoWaitsForATurnIsNotTakenForStalled() throws {
    let pair = Pair.behindNarrowConnection()
    pair.expects = false
    for _ in 0..<4 { pair.begin().endless = true }
    _ = try pair.settle()
    for stream in pair.servers {
      stream.endless = true
      stream.body = [UInt8](repeating: 1, count: 300_000)
      stream.say(300_000, asArray: true)
    }
    var ended = 0
    for _ in 0..<4 {
      _ = try pair.settle(limit: 300)
      // As after 120 s, all of which the peer has read.
      pair.toClient += try pair.produce(pair.server, region: 200_000)
      ended += pair.server.endStalledStreams(
        minimum: 1_024, share: 50_000, unread: true, isConnectionRead: true)
    }
    #expect(ended == 0)
    for stream in pair.clients + pair.servers { stream.endless = false }
    pair.client.abandonStreams(code: 8)
    pair.server.abandonStreams(code: 8)
  }

  // An attacker would have it be as many steps as large bodies wait.
  @Test func aWindowUpdateCostsTheSameHoweverManyBodiesWait() throws {
    let few = try Self.costOfWindowUpdates(waiting: 10)
    let many = try Self.costOfWindowUpdates(waiting: 1_000)
    #expect(many < few * 20)
  }

  /// Of three hundred, each of which opens the connection by 100 bytes.
  private static func costOfWindowUpdates(waiting count: Int) throws -> Duration {
    let pair = Pair.behindNarrowConnection()
    pair.readsAtOnce = false
    for _ in 0..<count { pair.begin().endless = true }
    _ = try pair.settle()
    let body = [UInt8](repeating: 1, count: 100_000)
    for stream in pair.servers {
      stream.body = body
      stream.say(100_000, asArray: true)
    }
    // Nothing of it arrives.
    repeat { _ = try pair.produce(pair.server, region: 200_000) } while !pair.server.isDrained
    let update: [UInt8] = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 100]
    let updates = 300
    var sent = 0
    let time = try ContinuousClock().measure {
      for _ in 0..<updates {
        try update.withUnsafeBytes { try pair.server.receive($0) }
        sent += try pair.produce(pair.server, region: 20_000).count
      }
    }
    #expect(sent > updates * 100)
    for stream in pair.clients + pair.servers { stream.endless = false }
    pair.server.abandonStreams(code: 8)
    pair.client.abandonStreams(code: 8)
    return time
  }

  @Test func theWindowStaysBelowItsMaximum() throws {
    let pair = Pair(HTTP2Session.Configuration(), HTTP2Session.Configuration())
    pair.expects = false
    let stream = pair.begin()
    stream.staysOpen = true
    _ = try pair.settle()
    pair.server.expect(100 << 20, on: pair.servers[0])
    _ = try pair.settle()
    // Growth as by pings that are answered late.
    for _ in 0..<20 {
      if pair.server.windows.read(16 << 20) { _ = pair.server.windows.read(16 << 20) }
      let ahead = pair.servers[0].prepaidBytes
      if let window = pair.server.windows.pingAnswered(ahead: ahead) {
        pair.server.tell(streamWindow: window)
      }
    }
    _ = try pair.settle()
    #expect(pair.client.window(of: stream) == 8 << 20)
    pair.client.abandonStreams(code: 8)
    pair.server.abandonStreams(code: 8)
  }

}
