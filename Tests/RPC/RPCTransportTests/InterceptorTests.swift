import Glibc
import NIOPosix
import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
import Testing

@Suite struct InterceptorTests {
  private struct User: ServerContextKey { typealias Value = String }

  private struct TokenCheck: ServerInterceptor {
    func intercept(
      _ context: ServerContext, proceed: Proceed
    ) async throws {
      guard let token = context.metadata["authorization"] else {
        throw RPCError(.unauthenticated, "there is no token")
      }
      context[User.self] = String(token.dropFirst("Bearer ".count))
      try await proceed()
    }
  }

  private struct Trace: ServerInterceptor {
    let name: String
    let log: Log
    func intercept(
      _ context: ServerContext, proceed: Proceed
    ) async throws {
      log.add("\(name) before")
      context.onEnd { summary in log.add("\(name) end \(summary.code)") }
      try await proceed()
      log.add("\(name) after")
      context.setTrailingMetadata(["seen-by": name])
    }
  }

  private final class Log: Sendable {
    private let lines = Mutex<[String]>([])
    func add(_ line: String) { self.lines.withLock { $0.append(line) } }
    var all: [String] { self.lines.withLock { $0 } }
  }

  private struct Token: ClientInterceptor {
    let token: String
    func intercept(_ call: inout OutgoingCall) async throws {
      call.options.metadata.add("Bearer \(self.token)", for: "authorization")
    }
  }

  @Test func aCallWithoutATokenDoesNotReachItsHandler() async throws {
    let calls = Mutex<[String?]>([])
    var service = TestService()
    service.unary = { request, context in
      calls.withLock { $0.append(context[User.self]) }
      return request
    }
    var configuration = RPCServer.Configuration()
    configuration.interceptors = [TokenCheck()]
    let server = RPCServer(services: [service], configuration: configuration)
    let stranger = server.inMemoryChannel()
    let error = await #expect(throws: RPCError.self) {
      try await stranger.unary(Methods.unary, Blob())
    }
    #expect(error == RPCError(.unauthenticated, "there is no token"))
    var channelConfiguration = RPCChannel.Configuration()
    channelConfiguration.interceptors = [Token(token: "ada")]
    let known = server.inMemoryChannel(configuration: channelConfiguration)
    _ = try await known.unary(Methods.unary, Blob())
    #expect(calls.withLock { $0 } == ["ada"])
    await stranger.close()
    await known.close()
    await server.shutdown(grace: .zero)
  }

  @Test func interceptorsStandAroundEachOther() async throws {
    let log = Log()
    var configuration = RPCServer.Configuration()
    configuration.interceptors = [Trace(name: "outer", log: log), Trace(name: "inner", log: log)]
    var service = TestService()
    service.unary = { request, _ in
      log.add("handler")
      return request
    }
    service.server = { _, _, _ in throw RPCError(.notFound, "nothing") }
    try await withInMemoryServer([service], configuration: configuration) { channel in
      _ = try await channel.unary(Methods.unary, Blob())
      let responses: ResponseStream<Blob> = try await channel.serverStreaming(
        Methods.server, Blob())
      await #expect(throws: RPCError.self) { for try await _ in responses {} }
    }
    #expect(
      log.all.prefix(5) == [
        "outer before", "inner before", "handler", "inner after", "outer after",
      ])
    #expect(log.all.filter { $0.hasSuffix("OK") }.sorted() == ["inner end OK", "outer end OK"])
    #expect(log.all.filter { $0.hasSuffix("NOT_FOUND") }.count == 2)
  }

  private struct Slow: ClientInterceptor {
    var ended: @Sendable (CallSummary) -> Void = { _ in }

    func intercept(_ call: inout OutgoingCall) async throws {
      call.onEnd(self.ended)
      try await Task.sleep(for: .milliseconds(20))
    }
  }

  @Test func anInterceptorsTimeCounts() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.interceptors = [Slow()]
    let (channel, _) = ScriptedPeer.server(configuration: configuration)
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(
        Methods.unary, Blob(), options: CallOptions(timeout: .milliseconds(10)))
    }
    #expect(error?.message == "the deadline of /test.Test/Unary had passed before it began")
    await channel.close()
  }

  @Test func aCallThatTookTooLongIsToldWithItsInterceptors() async throws {
    let summary = Mutex<CallSummary?>(nil)
    var configuration = RPCChannel.Configuration()
    configuration.interceptors = [Slow { end in summary.withLock { $0 = end } }]
    let (channel, _) = ScriptedPeer.server(configuration: configuration)
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(
        Methods.unary, Blob(), options: CallOptions(timeout: .seconds(10)))
    }
    await channel.close()
    #expect(error?.message == "/test.Test/Unary took longer than 10.0 seconds")
    #expect(try #require(summary.withLock { $0 }).duration >= .seconds(10))
  }

  @Test func theEndOfACallWhoseRequestIsTooLargeIsHeardOf() async throws {
    let codes = Mutex<[StatusCode]>([])
    struct Listening: ClientInterceptor {
      var ended: @Sendable (CallSummary) -> Void
      func intercept(_ call: inout OutgoingCall) async throws { call.onEnd(self.ended) }
    }
    var configuration = RPCChannel.Configuration()
    configuration.interceptors = [Listening { end in codes.withLock { $0.append(end.code) } }]
    let (channel, _) = ScriptedPeer.server(configuration: configuration)
    var options = CallOptions()
    options.maximumRequestBytes = 3
    await #expect(throws: RPCError.self) {
      try await channel.unary(Methods.unary, Blob("large"), options: options)
    }
    await #expect(throws: RPCError.self) {
      _ = try await channel.serverStreaming(Methods.server, Blob("large"), options: options)
    }
    try await waitUntil { codes.withLock { $0.count } == 2 }
    #expect(codes.withLock { $0 } == [.resourceExhausted, .resourceExhausted])
    await channel.close()
  }

  private struct Cancelled: ClientInterceptor {
    func intercept(_ call: inout OutgoingCall) async throws { throw CancellationError() }
  }

  @Test func anInterceptorThatIsCancelledCancelsTheCall() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.interceptors = [Cancelled()]
    let (channel, _) = ScriptedPeer.server(configuration: configuration)
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(Methods.unary, Blob())
    }
    #expect(error?.code == .cancelled)
    await channel.close()
  }

  private struct Twice: ServerInterceptor {
    func intercept(
      _ context: ServerContext, proceed: Proceed
    ) async throws {
      try await proceed()
      try await proceed()
    }
  }

  @Test func anInterceptorThatProceedsTwiceFailsTheCallAndItsHandlerRunsOnce() async throws {
    let calls = Mutex(0)
    var service = TestService()
    service.unary = { request, _ in
      calls.withLock { $0 += 1 }
      return request
    }
    service.both = { _, responses, _ in
      calls.withLock { $0 += 1 }
      try await responses.send(Blob("once"))
    }
    var configuration = RPCServer.Configuration()
    configuration.interceptors = [Twice()]
    try await withInMemoryServer([service], configuration: configuration) { channel in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(error?.code == .internalError)
      #expect(
        error?.message
          == "the interceptor Twice has called proceed more than once, or after its call")
      let call: BidirectionalCall<Blob, Blob> = try await channel.bidirectional(Methods.both)
      var answers: [String] = []
      await #expect(throws: RPCError.self) {
        for try await answer in call.responses { answers.append(answer.text) }
      }
      #expect(answers == ["once"])
    }
    #expect(calls.withLock { $0 } == 2)
  }

  private struct Silent: ServerInterceptor {
    func intercept(
      _ context: ServerContext, proceed: Proceed
    ) async throws {}
  }

  /// Behind one that goes on, and before one.
  @Test func anInterceptorThatNeitherThrowsNorProceedsFailsTheCall() async throws {
    let calls = Mutex(0)
    var service = TestService()
    service.unary = { request, _ in
      calls.withLock { $0 += 1 }
      return request
    }
    service.both = { _, _, _ in calls.withLock { $0 += 1 } }
    var configuration = RPCServer.Configuration()
    configuration.interceptors = [Passing(), Silent(), Passing()]
    try await withInMemoryServer([service], configuration: configuration) { channel in
      let unary = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      let call: BidirectionalCall<Blob, Blob> = try await channel.bidirectional(Methods.both)
      let both = await #expect(throws: RPCError.self) { for try await _ in call.responses {} }
      for error in [unary, both] {
        #expect(error?.code == .internalError)
        #expect(error?.message == "an interceptor has kept the call from its handler")
      }
    }
    #expect(calls.withLock { $0 } == 0)
  }

  private struct Passing: ServerInterceptor {
    func intercept(
      _ context: ServerContext, proceed: Proceed
    ) async throws {
      try await proceed()
    }
  }

  /// Does something when the handler has returned.
  private struct Afterwards: ServerInterceptor {
    let then: @Sendable (ServerContext) throws -> Void

    func intercept(_ context: ServerContext, proceed: Proceed) async throws {
      try await proceed()
      try self.then(context)
    }
  }

  @Test(arguments: [5, 200_000])
  func aResponseThatAnInterceptorThrowsAwayIsNotSent(bytes: Int) async throws {
    let summaries = Mutex<[CallSummary]>([])
    var service = TestService()
    service.unary = { request, context in
      context.onEnd { summary in summaries.withLock { $0.append(summary) } }
      return Blob(String(repeating: "x", count: bytes))
    }
    var configuration = RPCServer.Configuration()
    configuration.interceptors = [
      Afterwards { context in
        if context.metadata["refuse"] != nil { throw RPCError(.dataLoss, "not this") }
      }
    ]
    try await withInMemoryServer([service], configuration: configuration) { channel in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob(), options: CallOptions(metadata: ["refuse": "yes"]))
      }
      #expect(error == RPCError(.dataLoss, "not this"))
      // What was thrown away does not stand before the next response.
      let next = try await channel.unary(Methods.unary, Blob())
      #expect(next.text.utf8.count == bytes)
    }
    try await waitUntil { summaries.withLock { $0.count } == 2 }
    #expect(summaries.withLock { $0.map(\.code) } == [.dataLoss, .ok])
    #expect(summaries.withLock { $0.map(\.sentMessages) } == [0, 1])
  }

  @Test func aResponseThatIsHeldWhenTheClientLeavesIsNotSent() async throws {
    let summary = Mutex<CallSummary?>(nil)
    let (held, go) = (Signal(), Signal())
    struct Holding: ServerInterceptor {
      let held: Signal
      let go: Signal
      func intercept(_ context: ServerContext, proceed: Proceed) async throws {
        try await proceed()
        await self.held.set()
        await self.go.wait()
      }
    }
    var service = TestService()
    service.unary = { request, context in
      context.onEnd { end in summary.withLock { $0 = end } }
      return request
    }
    var configuration = RPCServer.Configuration()
    configuration.interceptors = [Holding(held: held, go: go)]
    try await withInMemoryServer([service], configuration: configuration) { channel in
      let call = Task { try await channel.unary(Methods.unary, Blob("x")) }
      await held.wait()
      call.cancel()
      _ = try? await call.value
      try await waitUntil { summary.withLock { $0 } != nil }
      await go.set()
    }
    #expect(summary.withLock { $0?.code } == .cancelled)
    #expect(summary.withLock { $0?.sentMessages } == 0)
  }

  @Test func aCallThatFoundNoServerSentNothing() async throws {
    let counting = Counting()
    var configuration = RPCChannel.Configuration()
    configuration.interceptors = [counting]
    let channel = RPCChannel(to: ownAddress(), configuration: configuration)
    await #expect(throws: RPCError.self) { try await channel.unary(Methods.unary, Blob("four")) }
    await channel.close()
    let end = counting.summaries.withLock { $0.first }
    #expect(end?.code == .unavailable)
    #expect(end?.attempts == 0)
    #expect(end?.sentMessages == 0)
  }

  @Test func aCallThatNeverLeftSentNothing() async throws {
    let counting = Counting()
    var configuration = RPCChannel.Configuration()
    configuration.interceptors = [counting]
    let (channel, peers) = ScriptedPeer.server(configuration: configuration, greets: false)
    let call = Task {
      try await channel.unary(
        Methods.unary, Blob("four"), options: CallOptions(timeout: .milliseconds(500)))
    }
    let peer = try await peers.next()
    // No streams at all: SETTINGS_MAX_CONCURRENT_STREAMS is 0.
    try await peer.send(.settings, flags: 0, stream: 0, body: [0, 3, 0, 0, 0, 0])
    await #expect(throws: RPCError.self) { try await call.value }
    await channel.close()
    let end = counting.summaries.withLock { $0.first }
    #expect(end?.code == .deadlineExceeded)
    #expect(end?.attempts == 0)
    #expect(end?.sentMessages == 0)
  }

  private struct Swallowing: ServerInterceptor {
    func intercept(_ context: ServerContext, proceed: Proceed) async throws {
      try? await proceed()
    }
  }

  @Test func anErrorThatAnInterceptorKeepsToItselfIsNoResponse() async throws {
    var service = TestService()
    service.unary = { _, _ in throw RPCError(.notFound, "nothing") }
    var configuration = RPCServer.Configuration()
    configuration.interceptors = [Swallowing()]
    try await withInMemoryServer([service], configuration: configuration) { channel in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(error?.code == .internalError)
      #expect(error?.message == "an interceptor has kept the handler's error to itself")
    }
  }

  @Test func aSummaryOfAnyDurationCanBeMade() {
    for (duration, expected) in [
      (Duration.seconds(1.5), Duration.seconds(1.5)),
      (.seconds(Int64.max), .nanoseconds(Int64.max)),
      (.seconds(Int64.min), .nanoseconds(Int64.min)),
    ] {
      #expect(CallSummary(method: "/a/b", code: .ok, duration: duration).duration == expected)
    }
  }

  @Test(arguments: [Compression.gzip, .identity])
  func aResponseIsReadWhateverIsSaidOfItsCompressionBehindIt(before: Compression) async throws {
    var service = TestService()
    let text = String(repeating: "again ", count: 1_000)
    service.unary = { _, context in
      context.responseCompression = before
      return Blob(text)
    }
    var configuration = RPCServer.Configuration()
    configuration.interceptors = [
      Afterwards { $0.responseCompression = before == .gzip ? .identity : .gzip }
    ]
    try await withInMemoryServer([service], configuration: configuration) { channel in
      let response = try await channel.unary(Methods.unary, Blob())
      #expect(response.text == text)
    }
  }

  /// Modules in older language modes are let to take it anywhere.
  private struct Smuggled: @unchecked Sendable {
    let proceed: Proceed
    @MainActor func onMainActor() async throws { try await self.proceed() }
  }

  private final class Smuggler: ServerInterceptor {
    let kept = Mutex<Smuggled?>(nil)
    func intercept(_ context: ServerContext, proceed: Proceed) async throws {
      let smuggled = Smuggled(proceed: proceed)
      guard context.metadata["keep"] == nil else {
        return self.kept.withLock { $0 = smuggled }
      }
      try await smuggled.onMainActor()
    }
  }

  /// Stays where it is called.
  private struct Staying: ServerInterceptor {
    let begun: @Sendable () -> Void
    nonisolated(nonsending) func intercept(
      _ context: ServerContext, proceed: Proceed
    ) async throws {
      self.begun()
      try await proceed()
    }
  }

  @Test func whatStandsBehindAnInterceptorRunsOnItsLoopAndNeverAfterTheCall() async throws {
    let isOnMainThread = Mutex<[Bool]>([])
    let main = await MainActor.run { pthread_self() }
    let smuggler = Smuggler()
    var configuration = RPCServer.Configuration()
    configuration.interceptors = [
      smuggler, Staying { isOnMainThread.withLock { $0.append(pthread_self() == main) } },
    ]
    try await withInMemoryServer([TestService()], configuration: configuration) { channel in
      let first = try await channel.unary(Methods.unary, Blob("a"))
      #expect(first.text == "a")
      await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob(), options: CallOptions(metadata: ["keep": "yes"]))
      }
      let kept = try #require(smuggler.kept.withLock { $0 })
      let error = await #expect(throws: RPCError.self) { try await kept.proceed() }
      #expect(error?.code == .internalError)
      let second = try await channel.unary(Methods.unary, Blob("b"))
      #expect(second.text == "b")
    }
    #expect(isOnMainThread.withLock { $0 } == [false, false])
  }

  private struct Refusing: ClientInterceptor {
    func intercept(_ call: inout OutgoingCall) async throws {
      throw RPCError(.failedPrecondition, "not from here")
    }
  }

  private final class Counting: ClientInterceptor {
    let summaries = Mutex<[CallSummary]>([])
    func intercept(_ call: inout OutgoingCall) async throws {
      call.onEnd { summary in
        #expect(MultiThreadedEventLoopGroup.currentEventLoop != nil)
        self.summaries.withLock { $0.append(summary) }
      }
    }
  }

  @Test func everyCallIsSummedUpOnce() async throws {
    let counting = Counting()
    var channelConfiguration = RPCChannel.Configuration()
    channelConfiguration.interceptors = [counting]
    try await withInMemoryServer(
      [TestService()], channelConfiguration: channelConfiguration
    ) { channel in
      _ = try await channel.unary(Methods.unary, Blob("four"))
      let responses: ResponseStream<Blob> = try await channel.serverStreaming(
        Methods.server, Blob("3"))
      for try await _ in responses {}
      await #expect(throws: RPCError.self) { try await channel.unary(Methods.missing, Blob()) }
    }
    let summaries = counting.summaries.withLock { $0 }
    #expect(summaries.map(\.code) == [.ok, .ok, .unimplemented])
    #expect(summaries.map(\.receivedMessages) == [1, 3, 0])
    #expect(summaries.map(\.receivedBytes) == [4, 3, 0])
    #expect(
      summaries.map(\.method) == [Methods.unary, Methods.server, Methods.missing].map(\.path))

    let other = Counting()
    channelConfiguration.interceptors = [other, Refusing()]
    try await withInMemoryServer(
      [TestService()], channelConfiguration: channelConfiguration
    ) { channel in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(error?.message == "not from here")
      #expect(other.summaries.withLock { $0.map(\.code) } == [.failedPrecondition])
    }
  }
}

/// What observers hear, also of calls that never reach a handler.
@Suite(.timeLimit(.minutes(1))) struct ObserverTests {
  private final class Recording: ServerObserver, MethodObserver {
    private let events = Mutex<[String]>([])
    var all: [String] { self.events.withLock { $0 } }

    func observer(ofMethod method: String) -> any MethodObserver {
      method == Methods.unary.path ? self : Nobody()
    }
    func callBegan() { self.events.withLock { $0.append("began") } }
    func callEnded(_ summary: CallSummary) {
      self.events.withLock { $0.append("\(summary.method) \(summary.code)") }
    }
  }

  private struct Nobody: MethodObserver {
    func callBegan() {}
    func callEnded(_ summary: CallSummary) {}
  }

  private struct Request: Sendable, CustomTestStringConvertible {
    var testDescription: String
    var code: StatusCode
    var more: [(String, String)] = []
    /// Nil: the headers are all.
    var body: [UInt8]?
    var ends = true
    var isReset = false
    var isCut = false
  }

  private static let requests = [
    Request(
      testDescription: "too large", code: .resourceExhausted, body: [0, 0, 0, 0, 99], ends: false),
    Request(testDescription: "cut", code: .internalError, body: [0, 0, 0, 0, 5, 1]),
    Request(testDescription: "none", code: .unimplemented),
    Request(
      testDescription: "a bad timeout", code: .internalError, more: [("grpc-timeout", "x")],
      body: [0, 0, 0, 0, 0]),
    Request(
      testDescription: "an unknown encoding", code: .unimplemented, more: [("grpc-encoding", "x")],
      body: [0, 0, 0, 0, 0]),
    Request(
      testDescription: "no time", code: .deadlineExceeded, more: [("grpc-timeout", "0n")],
      body: [0, 0, 0, 0, 0]),
    Request(
      testDescription: "a deadline before it is whole", code: .deadlineExceeded,
      more: [("grpc-timeout", "1m")], body: [0, 0, 0], ends: false),
    Request(
      testDescription: "a reset before it is whole", code: .cancelled, body: [0, 0, 0],
      ends: false, isReset: true),
    Request(
      testDescription: "a connection that ends before it is whole", code: .cancelled,
      body: [0, 0, 0], ends: false, isCut: true),
  ]

  @Test(arguments: Self.requests)
  private func observersHearOfCallsThatEndBeforeTheirHandler(request: Request) async throws {
    let recording = Recording()
    var configuration = RPCServer.Configuration()
    configuration.observers = [recording]
    configuration.maximumRequestBytes = 10
    var service = TestService()
    service.unary = { _, _ in throw RPCError(.aborted, "the handler began") }
    try await withServer(service, configuration: configuration) { channel, _ in
      let peer = try await ScriptedPeer.client(of: try ListenAddress("\(channel.target)"))
      try await peer.begin(Methods.unary, more: request.more, endsStream: request.body == nil)
      if let body = request.body { try await peer.send(data: body, ends: request.ends) }
      if request.isReset {
        try await peer.send(.reset, stream: 1, body: ScriptedPeer.bytes(8))
      }
      if request.isCut {
        // Not before it has been read.
        try await peer.send(.ping, body: [UInt8](repeating: 1, count: 8))
        _ = try await peer.frame(.ping) { $0.isAcknowledgement }
        await peer.close()
      }
      if !request.ends, request.code != .cancelled {
        // It is answered before it is whole; the rest is given up.
        _ = try await peer.frame(.headers)
        try await peer.send(.reset, stream: 1, body: ScriptedPeer.bytes(8))
      }
      try await waitUntil { recording.all.count == 2 }
      #expect(recording.all == ["began", "\(Methods.unary.path) \(request.code)"])
      await peer.close()
    }
    #expect(recording.all.count == 2)
  }

  @Test func requestsThatAreNoCallsAreNobodys() async throws {
    let recording = Recording()
    var configuration = RPCServer.Configuration()
    configuration.observers = [recording]
    try await withServer(configuration: configuration) { channel, _ in
      let peer = try await ScriptedPeer.client(of: try ListenAddress("\(channel.target)"))
      let fields = ScriptedPeer.requestFields(Methods.unary.path)
      try await peer.sendHeaders(
        fields.map { ($0.0, $0.0 == "content-type" ? "text/plain" : $0.1) }, stream: 1,
        endsStream: true)
      let refused = try await peer.frame(.headers)
      #expect(refused?[":status"] == "415")
      await peer.close()
      await #expect(throws: RPCError.self) { try await channel.unary(Methods.missing, Blob()) }
      _ = try await channel.unary(Methods.unary, Blob())
    }
    #expect(recording.all == ["began", "\(Methods.unary.path) OK"])
  }
}
