import RPCCore
import Testing

@testable import RPCHTTP2
@testable import RPCTransport

/// Header lists that come again, and others between them.
struct HeaderMemoryTests {
  private struct Field: Hashable {
    var name: String
    var value: String
  }

  private final class Server: HTTP2SessionDelegate {
    /// The list that a stream has said it knows, and how often that came again.
    var known: [Field] = []
    var timesKnown = 0
    var lists: [[Field]] = []
    var knows: ([Field]) -> Bool = { _ in true }
    var refuses = false
    func streamBegan() -> HTTP2Stream? { self.refuses ? nil : ServerStream(self) }
    func settingsReceived() {}
    func goAwayReceived(lastStreamID: Int32, code: UInt32, text: String) {}
    func goAwaySent(code: UInt32, text: String) {}
    func pingReceived() {}
    func pingAcknowledged(_ purpose: HTTP2Session.Ping) {}
    func streamNumbersRanOut() {}
    func peerWentTooFar(_ what: String) { Issue.record("\(what)") }
  }

  private final class ServerStream: HTTP2Stream {
    let server: Server
    var fields: [Field] = []
    init(_ server: Server) {
      self.server = server
      super.init()
    }
    override func headerReceived(
      name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>
    ) {
      self.fields.append(
        Field(
          name: String(decoding: name, as: UTF8.self),
          value: String(decoding: value, as: UTF8.self)))
    }
    override func headersAreAsBefore() {
      #expect(self.fields.allSatisfy { $0.name == "grpc-timeout" })
      self.fields = self.server.known + self.fields
      self.server.timesKnown += 1
    }
    override func headersEnded(endOfStream: Bool) {
      self.server.lists.append(self.fields)
      self.headersAreKnown = self.server.knows(self.fields)
      if self.headersAreKnown {
        self.server.known = self.fields.filter { $0.name != "grpc-timeout" }
      }
    }
  }

  private final class Exchange {
    let server = Server()
    private let client: HTTP2Session
    private let session: HTTP2Session
    private let clientDelegate = Server()

    init() {
      var configuration = HTTP2Session.Configuration()
      configuration.maximumConcurrentStreams = 10_000
      self.client = HTTP2Session(
        .client, configuration: configuration, delegate: self.clientDelegate)
      self.session = HTTP2Session(
        .server, configuration: configuration, delegate: self.server)
    }

    /// Sends a request whose list has these fields behind the usual ones. The stream stays open.
    func request(_ fields: [Field], timeout: String? = nil) throws {
      var metadata = Metadata()
      for field in fields { metadata.add(field.value, for: field.name) }
      var list = HeaderFields()
      list.add(":method", "POST")
      list.add(":scheme", "http")
      list.add(":path", "/a/b")
      list.add(":authority", "x")
      list.add(metadata)
      if let timeout { list.add("grpc-timeout", timeout) }
      self.client.submitRequest(list, on: HTTP2Stream())
      try Self.move(from: self.client, to: self.session)
      try Self.move(from: self.session, to: self.client)
    }

    func trim() { self.session.trim() }

    private static func move(from sender: HTTP2Session, to receiver: HTTP2Session) throws {
      let bytes = try [UInt8](unsafeUninitializedCapacity: 1 << 16) { buffer, count in
        count = try sender.produce(into: UnsafeMutableRawBufferPointer(buffer))
      }
      try bytes.withUnsafeBytes { try receiver.receive($0) }
    }
  }

  private static func fields(_ count: Int, _ value: String = "v") -> [Field] {
    (0..<count).map { Field(name: "n\($0)", value: value) }
  }

  private func check(_ lists: [[Field]], by exchange: Exchange) throws {
    for list in lists {
      try exchange.request(list)
      #expect(exchange.server.lists.last.map { Array($0.dropFirst(4)) } == list)
    }
    #expect(exchange.server.lists.count == lists.count)
  }

  @Test func aListThatComesAgainIsToldOnce() throws {
    let exchange = Exchange()
    try self.check(Array(repeating: Self.fields(3), count: 10), by: exchange)
    #expect(exchange.server.timesKnown == 9)
  }

  @Test func aTimeoutIsToldEachTimeAndTheRestIsAsBefore() throws {
    let exchange = Exchange()
    for round in 0..<20 {
      let timeout = round % 5 == 0 ? nil : "\(round)S"
      try exchange.request(Self.fields(2), timeout: timeout)
      let told = exchange.server.lists.last.map { Array($0.dropFirst(4)) }
      #expect(
        told == Self.fields(2) + (timeout.map { [Field(name: "grpc-timeout", value: $0)] } ?? []))
    }
    #expect(exchange.server.timesKnown == 19)
  }

  @Test func aListThatWasForgottenIsToldAgain() throws {
    let exchange = Exchange()
    for _ in 0..<3 {
      try self.check([Self.fields(2), Self.fields(2)], by: exchange)
      exchange.trim()
      exchange.server.lists = []
    }
    #expect(exchange.server.timesKnown == 3)
  }

  @Test func listsThatBeginAlikeAreToldWhole() throws {
    let lists = [
      Self.fields(3), Self.fields(2), Self.fields(3), Self.fields(5), Self.fields(5),
      Self.fields(0),
      Self.fields(0), Self.fields(2) + [Field(name: "n2", value: "w")], Self.fields(3),
      [Field(name: "n9", value: "v")] + Self.fields(2),
    ]
    let exchange = Exchange()
    try self.check(lists, by: exchange)
    #expect(exchange.server.timesKnown == 2)
  }

  /// What is too much to be remembered has been told all the same, and known by whom it was told: the list
  /// before it is not the one before any more.
  @Test(arguments: [(fields: 40, bytes: 1), (fields: 2, bytes: 5_000)])
  func aListThatIsNotRememberedEndsTheOneBefore(_ size: (fields: Int, bytes: Int)) throws {
    let large = Self.fields(size.fields, String(repeating: "x", count: size.bytes))
    let exchange = Exchange()
    let small = Self.fields(2)
    try self.check([small, small, large, small, small, large, large, small], by: exchange)
    #expect(exchange.server.timesKnown == 2)
  }

  @Test func whatNobodyKnowsIsToldAgain() throws {
    let exchange = Exchange()
    exchange.server.knows = { $0.count != 6 }
    try self.check(
      [Self.fields(2), Self.fields(2), Self.fields(3), Self.fields(3), Self.fields(2)], by: exchange
    )
    #expect(exchange.server.timesKnown == 1)
  }

  /// One that is always another is not compared for a while, and then again.
  @Test func listsThatNeverComeAgainAreNotRemembered() throws {
    let exchange = Exchange()
    try self.check(
      (0..<1_200).map { [Field(name: "n", value: "\($0)")] }, by: exchange)
    #expect(exchange.server.timesKnown == 0)
    let same = Array(repeating: Self.fields(1), count: 1_200)
    for list in same { try exchange.request(list) }
    #expect(exchange.server.timesKnown > 100)
  }

  @Test func aRefusedRequestLeavesTheListBeforeAsItIs() throws {
    let exchange = Exchange()
    try exchange.request(Self.fields(2))
    exchange.server.refuses = true
    try exchange.request(Self.fields(3))
    try exchange.request(Self.fields(2))
    exchange.server.refuses = false
    try exchange.request(Self.fields(2))
    try exchange.request(Self.fields(3))
    #expect(exchange.server.lists.map(\.count) == [6, 6, 7])
    #expect(exchange.server.lists.last.map { Array($0.dropFirst(4)) } == Self.fields(3))
  }

  @Test func anyListsInAnyOrder() throws {
    let exchange = Exchange()
    var list: [Field] = []
    var lists: [[Field]] = []
    for _ in 0..<400 {
      switch Int.random(in: 0..<8) {
      case 0: list = Self.fields(.random(in: 0..<30))
      case 1: list.append(Field(name: "a", value: "\(Int.random(in: 0..<3))"))
      case 2: _ = list.popLast()
      case 3:
        if !list.isEmpty { list[list.indices.randomElement()!].value = "\(Int.random(in: 0..<3))" }
      default: break
      }
      lists.append(list)
    }
    exchange.server.knows = { _ in Int.random(in: 0..<10) > 0 }
    try self.check(lists, by: exchange)
  }

  /// Through the whole server: each handler sees what its own client said.
  @Test func eachCallHasItsOwnMetadataAndDeadline() async throws {
    let service = TestService(unary: { _, context in
      Blob("\(context.metadata["n"] ?? "none") \(context.deadline == nil)")
    })
    try await withServer(service) { channel, _ in
      for round in 0..<60 {
        var options = CallOptions()
        if round % 4 > 0 { options.metadata.add("\(round / 8)", for: "n") }
        if round % 3 == 0 { options.timeout = .seconds(50) }
        let answer = try await channel.unary(Methods.unary, Blob(), options: options)
        let n = round % 4 > 0 ? "\(round / 8)" : "none"
        #expect(answer.text == "\(n) \(round % 3 > 0)")
      }
    }
  }
}
