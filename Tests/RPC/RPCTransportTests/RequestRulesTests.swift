import CNghttp2
import RPCCore
import RPCTesting
import Testing

@testable import RPCHTTP2

/// What a server looks for by itself, beside nghttp2, which knows the same rules: given the same bytes, both
/// reset the same streams.
struct RequestRulesTests {
  private typealias Fields = [(String, String)]

  private struct Request {
    var fields: Fields
    /// Nil: the header list ends the stream.
    var body: Int?
    var trailers: Fields?
    var trailersEnd = true
    /// The header list's bytes that come in HEADERS; the others come in CONTINUATION.
    var cut: Int?
    /// Bytes of padding on each DATA frame; nil: it has no such flag.
    var padding: UInt8?

    /// Its frames; RFC 9113, section 4.1.
    func frames(stream: UInt32) -> [UInt8] {
      let endsAtOnce = self.body == nil && self.trailers == nil
      let block = ScriptedPeer.block(self.fields)
      let cut = min(self.cut ?? block.count, block.count)
      let end: UInt8 = endsAtOnce ? 1 : 0
      var bytes = RequestRulesTests.frame(
        1, end + (cut < block.count ? 0 : 4), stream, Array(block[..<cut]))
      if cut < block.count { bytes += RequestRulesTests.frame(9, 4, stream, Array(block[cut...])) }
      if let body = self.body {
        let isLast = self.trailers == nil
        var data = Array(repeating: 0x61 as UInt8, count: body)
        if let padding { data = [padding] + data + Array(repeating: 0, count: Int(padding)) }
        bytes += RequestRulesTests.frame(
          0, (isLast ? 1 : 0) + (self.padding == nil ? 0 : 8), stream, data)
      }
      if let trailers = self.trailers {
        bytes += RequestRulesTests.frame(
          1, self.trailersEnd ? 5 : 4, stream, ScriptedPeer.block(trailers))
      }
      return bytes
    }
  }

  private static func frame(
    _ type: UInt8, _ flags: UInt8, _ stream: UInt32, _ body: [UInt8]
  ) -> [UInt8] {
    [UInt8(body.count >> 16), UInt8(body.count >> 8 & 255), UInt8(body.count & 255), type, flags]
      + ScriptedPeer.bytes(stream) + body
  }

  private static let greeting = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + frame(4, 0, 0, [])

  /// Streams that are reset, each with the code, in what a server says.
  private static func resets(in bytes: [UInt8]) -> [UInt32: UInt32] {
    func number(at offset: Int) -> UInt32 {
      bytes[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }
    var resets: [UInt32: UInt32] = [:]
    var offset = 0
    while offset + 9 <= bytes.count {
      if bytes[offset + 3] == 3 { resets[number(at: offset + 5)] = number(at: offset + 9) }
      offset += 9 + Int(number(at: offset) >> 8)
    }
    return resets
  }

  /// A server that is nothing but nghttp2.
  private final class Oracle {
    private let session: OpaquePointer

    init() {
      var callbacks: OpaquePointer?
      var session: OpaquePointer?
      nghttp2_session_callbacks_new(&callbacks)
      nghttp2_session_server_new(&session, callbacks, nil)
      nghttp2_session_callbacks_del(callbacks)
      self.session = session!
      nghttp2_submit_settings(session, 0, nil, 0)
    }

    deinit { nghttp2_session_del(self.session) }

    func answer(_ bytes: [UInt8]) -> [UInt8] {
      #expect(nghttp2_session_mem_recv(self.session, bytes, bytes.count) == bytes.count)
      var answer: [UInt8] = []
      var data: UnsafePointer<UInt8>?
      while true {
        let count = nghttp2_session_mem_send(self.session, &data)
        guard count > 0 else { return answer }
        answer += UnsafeBufferPointer(start: data, count: count)
      }
    }
  }

  private final class Server: HTTP2SessionDelegate {
    /// What was told of each stream's request, and of its end.
    var told: [Int32: [String]] = [:]
    var ended: Set<Int32> = []
    var head: [String] = []
    func streamBegan() -> HTTP2Stream? { Stream(self) }
    func settingsReceived() {}
    func goAwayReceived(lastStreamID: Int32, code: UInt32, text: String) {}
    func goAwaySent(code: UInt32, text: String) {}
    func pingReceived() {}
    func pingAcknowledged(_ purpose: HTTP2Session.Ping) {}
    func streamNumbersRanOut() {}
    func peerWentTooFar(_ what: String) { Issue.record("\(what)") }
  }

  private final class Stream: HTTP2Stream {
    let server: Server
    var fields: [String] = []
    var hasHead = false
    init(_ server: Server) {
      self.server = server
      super.init()
    }
    override func headerReceived(
      name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>
    ) {
      guard !self.hasHead else { return }
      self.fields.append(
        "\(String(decoding: name, as: UTF8.self))=\(String(decoding: value, as: UTF8.self))")
    }
    override func headersAreAsBefore() { self.fields = self.server.head + self.fields }
    override func headersEnded(endOfStream: Bool) {
      guard !self.hasHead else { return }
      self.hasHead = true
      self.server.head = self.fields.filter { !$0.hasPrefix("grpc-timeout=") }
      self.server.told[self.id] = self.fields
      self.knowsHeaders()
    }
    override func endReceived() { self.server.ended.insert(self.id) }
  }

  /// Sends requests on one connection, so that lists come again, and compares.
  ///
  /// - Parameter split: So many bytes of a request come in a read of their own.
  private func compare(
    _ requests: [Request], _ label: String = "", split: (Request) -> Int = { _ in 0 }
  ) throws -> (reset: Int, taken: Int) {
    var configuration = HTTP2Session.Configuration()
    configuration.maximumConcurrentStreams = 100_000
    configuration.provokedResets = .init(burst: 100_000, perSecond: 100_000)
    let server = Server()
    let session = HTTP2Session(.server, configuration: configuration, delegate: server)
    let oracle = Oracle()
    func answer(_ bytes: [UInt8]) throws -> [UInt8] {
      try bytes.withUnsafeBytes { try session.receive($0) }
      return try [UInt8](unsafeUninitializedCapacity: 1 << 16) { buffer, count in
        count = try session.produce(into: UnsafeMutableRawBufferPointer(buffer))
      }
    }
    _ = try answer(Self.greeting)
    _ = oracle.answer(Self.greeting)
    var count = (reset: 0, taken: 0)
    for (index, request) in requests.enumerated() {
      let stream = UInt32(2 * index + 1)
      let bytes = request.frames(stream: stream)
      let first = min(max(split(request), 0), bytes.count)
      let ours = Self.resets(
        in: try answer(Array(bytes[..<first])) + answer(Array(bytes[first...])))
      let theirs = Self.resets(in: oracle.answer(bytes))
      try #require(!session.isInHeaders, "\(request) \(label)")
      try #require(ours == theirs, "\(request) \(label)")
      if ours[stream] == nil {
        let sent = request.fields.map { "\($0.0)=\($0.1)" }
        try #require(server.told[Int32(stream)]?.sorted() == sent.sorted(), "\(request) \(label)")
        let ends = request.trailers == nil || request.trailersEnd
        try #require(server.ended.contains(Int32(stream)) == ends, "\(request) \(label)")
        count.taken += 1
      } else {
        try #require(!server.ended.contains(Int32(stream)), "\(request) \(label)")
        count.reset += 1
      }
    }
    session.abandonStreams(code: 0)
    return count
  }

  private static let usual: Fields = [
    (":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", "x"),
    ("te", "trailers"),
  ]

  private static let others: Fields = [
    (":method", "CONNECT"), (":method", "OPTIONS"), (":method", "G T"), (":method", ""),
    (":scheme", "https"), (":scheme", "HTTP"), (":scheme", "ftp"), (":scheme", "1x"),
    (":scheme", ""),
    (":path", "*"), (":path", "a"), (":path", ""), (":path", "/a b"), (":path", "/\u{e4}"),
    (":authority", ""), (":authority", "a b"), (":authority", "u@h:1"), (":protocol", "x"),
    (":status", "200"), (":", "x"), ("", "x"), ("host", "x"), ("host", ""), ("host", "a b"),
    ("te", "Trailers"), ("te", "gzip"), ("te", ""), ("content-length", "3"),
    ("content-length", "0"),
    ("content-length", ""), ("content-length", "+3"), ("content-length", "03"),
    ("content-length", "9223372036854775808"), ("connection", "x"), ("keep-alive", "x"),
    ("proxy-connection", "x"), ("transfer-encoding", "x"), ("upgrade", "x"), ("Upper", "x"),
    ("with space", "x"), ("plain", ""), ("plain", " x"), ("plain", "x\t"), ("plain", "a\u{0}b"),
    ("plain", "\u{7f}"), ("plain", "\u{e4}"), ("plain", "a b"), ("grpc-timeout", "1S"),
    ("grpc-timeout", "2S"), ("grpc-timeout", " 3S"), ("Grpc-Timeout", "3S"), ("more", "1"),
  ]

  /// Each of the fields in each place, alone.
  @Test func oneFieldMoreOrInsteadOfAnother() throws {
    var requests: [Request] = []
    for field in Self.others {
      for place in 0...Self.usual.count {
        var fields = Self.usual
        fields.insert(field, at: place)
        requests += [Request(fields: Self.usual, body: 3), Request(fields: fields, body: 3)]
        if place < Self.usual.count {
          fields.remove(at: place + 1)
          requests += [Request(fields: fields, body: 3), Request(fields: Self.usual, body: 3)]
        }
      }
    }
    let count = try self.compare(requests)
    #expect(count.reset > 300 && count.taken > 400)
  }

  @Test func bodiesAndTheirLength() throws {
    let sized = Self.usual + [("content-length", "3")]
    let connect: Fields = [
      (":method", "CONNECT"), (":authority", "x"), ("content-length", "3"),
    ]
    var requests: [Request] = []
    for body in [nil, 0, 2, 3, 4] {
      for fields in [Self.usual, sized, connect] {
        // Twice: the second time as before.
        for _ in 0..<2 {
          requests += [
            Request(fields: fields, body: body),
            Request(fields: fields, body: body, trailers: [("more", "1")]),
            Request(fields: fields, body: body, trailers: [("more", "1")], trailersEnd: false),
            Request(fields: fields, body: body, trailers: [("content-length", "3")]),
            Request(fields: fields, body: body, trailers: [(":path", "/")]),
            Request(fields: fields, body: body, trailers: [("host", "x")]),
            Request(fields: fields + [("host", "y")], body: body, trailers: [("host", "x")]),
            Request(fields: fields, body: body, padding: 5),
          ]
        }
      }
    }
    let count = try self.compare(requests)
    #expect(count.reset > 20 && count.taken > 20)
  }

  @Test func anythingInAnyOrder() throws {
    var random = Seeded(state: .random(in: 0 ... .max))
    let seed = random.state
    var last = Self.usual
    let requests = (0..<4_000).map { _ in
      var fields = Int.random(in: 0..<3, using: &random) > 0 ? Self.usual : last
      for _ in 0..<Int.random(in: 0..<3, using: &random) {
        let field = Self.others.randomElement(using: &random)!
        switch Int.random(in: 0..<6, using: &random) {
        case 0 where !fields.isEmpty:
          fields.remove(at: Int.random(in: 0..<fields.count, using: &random))
        case 1 where !fields.isEmpty:
          fields[Int.random(in: 0..<fields.count, using: &random)] = field
        case 2 where fields.count > 1:
          fields.swapAt(
            Int.random(in: 0..<fields.count, using: &random),
            Int.random(in: 0..<fields.count, using: &random))
        case 3: fields.append(("grpc-timeout", "\(Int.random(in: 1..<9, using: &random))S"))
        default: fields.insert(field, at: Int.random(in: 0...fields.count, using: &random))
        }
      }
      last = fields
      return Request(
        fields: fields, body: Int.random(in: 0..<4, using: &random),
        cut: Bool.random(using: &random) ? nil : Int.random(in: 0..<120, using: &random),
        padding: Bool.random(using: &random) ? nil : UInt8.random(in: 0..<9, using: &random))
    }
    let count = try self.compare(requests, "seed \(seed)") { _ in
      Int.random(in: 0..<200, using: &random)
    }
    #expect(count.reset > 500 && count.taken > 500)
  }

  /// SplitMix64, so that a failure can be had again.
  private struct Seeded: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
      self.state &+= 0x9e37_79b9_7f4a_7c15
      var word = self.state
      word = (word ^ word >> 30) &* 0xbf58_476d_1ce4_e5b9
      word = (word ^ word >> 27) &* 0x94d0_49bb_1331_11eb
      return word ^ word >> 31
    }
  }
}
