import RPCCore
import RPCTesting
import Testing

@testable import RPCTransport

/// Messages that are larger than a window: how they come, and how several go out.
@Suite(.serialized, .timeLimit(.minutes(1))) struct LargeMessageTests {
  private static let window = 64 << 10

  /// The beginning of a message of that size, and how many bytes of the body are missing behind it.
  private static func beginMessage(
    of size: Int, _ peer: ScriptedPeer, stream: UInt32 = 1
  ) async throws -> Int {
    let part = [0] + ScriptedPeer.bytes(UInt32(size)) + [UInt8](repeating: 1, count: 1_000)
    try await peer.send(data: part, stream: stream, ends: false)
    return size - 1_000
  }

  private static func send(
    _ count: Int, _ peer: ScriptedPeer, stream: UInt32 = 1, ends: Bool = false
  ) async throws {
    for start in stride(from: 0, to: count, by: 16_384) {
      let part = [UInt8](repeating: 1, count: min(16_384, count - start))
      try await peer.send(data: part, stream: stream, ends: ends && start + part.count == count)
    }
  }

  @Test func theWindowIsOpenedForAllOfAMessageThatHasBegun() async throws {
    try await withPeer { peer in
      try await peer.begin(Methods.unary)
      let rest = try await Self.beginMessage(of: 1 << 20, peer)
      let update = try #require(try await peer.frame(.windowUpdate) { $0.stream == 1 })
      #expect(Self.window - 1_005 + Int(update.number(at: 0)) >= rest)
      // All of it at once, without a look at what the server says.
      try await Self.send(rest, peer, ends: true)
      var size = 0
      while let frame = try await peer.frame(), frame.kind != .headers || !frame.endsStream {
        if frame.kind == .data { size += frame.body.count }
        #expect(frame.kind != .reset && frame.kind != .goAway)
      }
      #expect(size == 5 + 1 << 20)
    }
  }

  @Test func theWindowIsOpenedNoFurtherThanItMayGrow() async throws {
    var configuration = RPCServer.Configuration()
    configuration.maximumStreamWindow = 100_000
    try await withPeer(TestService(), configuration) { peer in
      try await peer.begin(Methods.unary)
      _ = try await Self.beginMessage(of: 1 << 20, peer)
      let update = try #require(try await peer.frame(.windowUpdate) { $0.stream == 1 })
      #expect(Int(update.number(at: 0)) == 100_000 - Self.window)
    }
  }

  @Test func behindALargeMessageTheWindowIsAsItWas() async throws {
    let release = Signal()
    var service = TestService()
    service.client = { requests, _ in
      var iterator = requests.makeAsyncIterator()
      _ = try await iterator.next()
      await release.wait()
      return Blob()
    }
    try await withPeer(service) { peer in
      try await peer.begin(Methods.client)
      var room = Self.window
      let rest = try await Self.beginMessage(of: 1 << 20, peer)
      room -= 1_005
      let opened = try #require(try await peer.frame(.windowUpdate) { $0.stream == 1 })
      room += Int(opened.number(at: 0))
      try await Self.send(rest, peer)
      room -= rest
      // Small ones that nobody reads, as many as may come.
      var unread = 0
      try await peer.send(.ping, body: [UInt8](repeating: 9, count: 8))
      while let frame = try await peer.frame() {
        if frame.kind == .windowUpdate, frame.stream == 1 { room += Int(frame.number(at: 0)) }
        #expect(frame.kind != .reset && frame.kind != .goAway)
        // The server's own go without an answer: its window does not grow.
        guard frame.kind == .ping, frame.isAcknowledgement else { continue }
        guard room >= 1_005 else { break }
        while room >= 1_005 {
          try await peer.send(message: [UInt8](repeating: 1, count: 1_000))
          room -= 1_005
          unread += 1_005
        }
        try await peer.send(.ping, body: [UInt8](repeating: 9, count: 8))
      }
      // What the queue of messages takes, and a window.
      #expect(unread <= (256 << 10) + Self.window)
      await release.set()
    }
  }

  /// A run of DATA frames of one stream.
  private struct Run {
    var stream: UInt32
    var bytes: Int
  }

  /// DATA until so many streams have ended.
  private static func runs(_ peer: ScriptedPeer, streams: Int) async throws -> [Run] {
    var runs: [Run] = []
    var ended = 0
    while ended < streams, let frame = try await peer.frame() {
      if frame.kind == .headers, frame.endsStream { ended += 1 }
      guard frame.kind == .data else { continue }
      if runs.last?.stream != frame.stream { runs.append(Run(stream: frame.stream, bytes: 0)) }
      runs[runs.count - 1].bytes += frame.body.count
    }
    return runs
  }

  private static func answering(_ sizes: [UInt8: Int]) -> TestService {
    // Made before, so that they are answered in one turn however slow the machine is.
    let answers = sizes.mapValues { Blob([UInt8](repeating: 7, count: $0)) }
    var service = TestService()
    service.unary = { request, _ in answers[request.bytes[0]] ?? Blob() }
    return service
  }

  /// Calls that the server reads all together.
  private static func askAtOnce(_ calls: ClosedRange<UInt8>, _ peer: ScriptedPeer) async throws {
    var bytes: [UInt8] = []
    for index in calls {
      let stream = UInt32(index) * 2 - 1
      bytes += ScriptedPeer.frame(
        .headers, flags: 4, stream: stream,
        body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.unary.path)))
      bytes += ScriptedPeer.frame(.data, flags: 1, stream: stream, body: [0, 0, 0, 0, 1, index])
    }
    try await peer.send(bytes: bytes)
  }

  @Test func largeAnswersGoOutOneBehindTheOtherAndSmallOnesBetween() async throws {
    let service = Self.answering([1: 900_000, 2: 900_000, 3: 900_000, 4: 1_000])
    try await withPeer(service) { peer in
      try await Self.askAtOnce(1...4, peer)
      let runs = try await Self.runs(peer, streams: 4)
      // The small one may part a large one in two.
      var large: [UInt32] = []
      for run in runs where run.stream != 7 && run.stream != large.last { large.append(run.stream) }
      #expect(Set(large) == [1, 3, 5] && large.count == 3)
      let small = try #require(runs.firstIndex { $0.stream == 7 })
      #expect(runs[..<small].map(\.bytes).reduce(0, +) < 900_000)
    }
  }

  @Test func veryLargeAnswersGoOutInTurns() async throws {
    let service = Self.answering([1: 3_900_000, 2: 3_900_000])
    try await withPeer(service) { peer in
      try await Self.askAtOnce(1...2, peer)
      let runs = try await Self.runs(peer, streams: 2)
      #expect(runs.count == 8)
      #expect(runs.allSatisfy { $0.bytes < 1_100_000 })
    }
  }

  @Test func anAnswerWhoseWindowIsShutHoldsUpNoOther() async throws {
    let service = Self.answering([1: 300_000, 2: 300_000, 3: 300_000])
    try await withServer(service) { channel, _ in
      let peer = try await ScriptedPeer.client(
        of: try ListenAddress("\(channel.target)"), greets: false)
      try await peer.send(bytes: Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8))
      // A stream's window of 64 KiB, the connection's without a bound.
      try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(65_535))
      try await peer.send(
        .windowUpdate, body: ScriptedPeer.bytes(UInt32(Int32.max) - 65_535))
      for index in 1...3 as ClosedRange<UInt8> {
        let stream = UInt32(index) * 2 - 1
        try await peer.begin(Methods.unary, stream: stream)
        if index > 1 {
          try await peer.send(.windowUpdate, stream: stream, body: ScriptedPeer.bytes(300_000))
        }
        try await peer.send(message: [index], stream: stream, ends: true)
      }
      let others = try await Self.runs(peer, streams: 2)
      #expect(others.filter { $0.stream != 1 }.map(\.bytes).reduce(0, +) == 600_010)
      #expect(others.filter { $0.stream == 1 }.map(\.bytes).reduce(0, +) == 65_535)
      // One that is given up while it waits is waited for by nobody.
      try await peer.begin(Methods.unary, stream: 7)
      try await peer.send(message: [2], stream: 7, ends: true)
      try await peer.send(.reset, stream: 7, body: ScriptedPeer.bytes(8))
      try await peer.send(.windowUpdate, stream: 1, body: ScriptedPeer.bytes(300_000))
      let rest = try await Self.runs(peer, streams: 1)
      #expect(rest.filter { $0.stream == 1 }.map(\.bytes).reduce(0, +) == 300_005 - 65_535)
      await peer.close()
    }
  }
}
