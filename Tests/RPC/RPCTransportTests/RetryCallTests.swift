import NIOCore
import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
import Testing

/// Calls that are tried again, against servers that are scripted frame by frame.
@Suite(.timeLimit(.minutes(1))) struct RetryCallTests {
  private static func configuration(
    _ resilience: MethodConfig.Resilience, throttling: RetryThrottling? = nil
  ) -> RPCChannel.Configuration {
    var configuration = RPCChannel.Configuration()
    configuration.serviceConfig = ServiceConfig(
      methods: [MethodConfig(names: [.init(service: "test.Test")], resilience: resilience)],
      retryThrottling: throttling)
    return configuration
  }

  private static let retry = MethodConfig.Resilience.retry(
    RetryPolicy(
      maximumAttempts: 3, initialBackoff: .milliseconds(1), maximumBackoff: .milliseconds(2)))

  @Test func aFailedAttemptIsMadeAgainWithTheSameRequest() async throws {
    let (channel, peers) = ScriptedPeer.server(configuration: Self.configuration(Self.retry))
    async let answer = channel.unary(Methods.unary, Blob("hello"))
    let peer = try await peers.next()
    for attempt in 0..<3 {
      let head = try #require(try await peer.frame(.headers))
      #expect(head["grpc-previous-rpc-attempts"] == (attempt == 0 ? nil : "\(attempt)"))
      let body = try await peer.frame(.data) { !$0.body.isEmpty }
      #expect(body?.body == [0, 0, 0, 0, 5] + Array("hello".utf8))
      if attempt < 2 {
        try await peer.end(stream: head.stream, status: .unavailable, isTrailersOnly: true)
      } else {
        try await peer.respond(stream: head.stream)
        try await peer.send(message: Array("done".utf8), stream: head.stream)
        try await peer.end(stream: head.stream)
      }
    }
    #expect(try await answer.text == "done")
    await channel.close()
  }

  // Kept in parts, the large one by itself.
  @Test func aRequestOfManyWindowsIsSentAgainWhole() async throws {
    let request = Blob((0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 7) })
    let (channel, peers) = ScriptedPeer.server(configuration: Self.configuration(Self.retry))
    async let answer = channel.unary(Methods.unary, request)
    let peer = try await peers.next()
    for attempt in 0..<2 {
      let head = try #require(try await peer.frame(.headers))
      var body: [UInt8] = []
      let wanted = attempt == 0 ? 50_000 : 5 + request.bytes.count
      while body.count < wanted, let frame = try await peer.frame(.data) {
        if frame.stream == head.stream { body += frame.body }
      }
      #expect(body.dropFirst(5).elementsEqual(request.bytes.prefix(body.count - 5)))
      if attempt == 0 {
        try await peer.end(stream: head.stream, status: .unavailable, isTrailersOnly: true)
      } else {
        #expect(body.count == wanted)
        try await peer.respond(stream: head.stream)
        try await peer.send(message: Array("done".utf8), stream: head.stream)
        try await peer.end(stream: head.stream)
      }
    }
    #expect(try await answer.text == "done")
    await channel.close()
  }

  @Test func theLastErrorIsTheCallsOwn() async throws {
    let attempts = Mutex(0)
    var service = TestService()
    service.unary = { _, _ in
      let attempt = attempts.withLock { count in
        count += 1
        return count
      }
      throw RPCError(.unavailable, "no \(attempt)")
    }
    try await withServer(
      service, channelConfiguration: Self.configuration(Self.retry)
    ) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(error?.message == "no 3")
    }
    #expect(attempts.withLock { $0 } == 3)
  }

  @Test func aResponseThatHasBegunIsNotTriedAgain() async throws {
    let attempts = Mutex(0)
    var service = TestService()
    service.server = { _, responses, _ in
      attempts.withLock { $0 += 1 }
      try await responses.send(Blob("first"))
      throw RPCError(.unavailable, "in the middle")
    }
    try await withServer(
      service, channelConfiguration: Self.configuration(Self.retry)
    ) { channel, _ in
      let responses: ResponseStream<Blob> = try await channel.serverStreaming(
        Methods.server, Blob())
      var received: [String] = []
      let error = await #expect(throws: RPCError.self) {
        for try await response in responses { received.append(response.text) }
      }
      #expect(error?.message == "in the middle")
      #expect(received == ["first"])
    }
    #expect(attempts.withLock { $0 } == 1)
  }

  @Test func streamedRequestsAreSentAgain() async throws {
    let attempts = Mutex(0)
    var service = TestService()
    service.client = { requests, _ in
      var text = ""
      for try await request in requests { text += request.text }
      let isFirst = attempts.withLock { count in
        count += 1
        return count == 1
      }
      if isFirst { throw RPCError(.unavailable, "not yet") }
      return Blob(text)
    }
    try await withServer(
      service, channelConfiguration: Self.configuration(Self.retry)
    ) { channel, _ in
      let call: ClientStreamingCall<Blob, Blob> = try await channel.clientStreaming(Methods.client)
      for text in ["a", "b", "c"] { try await call.send(Blob(text)) }
      #expect(try await call.finish().text == "abc")
    }
    #expect(attempts.withLock { $0 } == 2)
  }

  @Test func theServersWordOnTryingAgainGoesBeforeThePolicy() async throws {
    let attempts = Mutex(0)
    var service = TestService()
    service.unary = { request, _ in
      let attempt = attempts.withLock { count in
        count += 1
        return count
      }
      var error = RPCError(.unavailable, "push-back")
      error.metadata.add(attempt == 1 ? "1" : "-1", for: "grpc-retry-pushback-ms")
      throw error
    }
    try await withServer(
      service, channelConfiguration: Self.configuration(Self.retry)
    ) { channel, _ in
      await #expect(throws: RPCError.self) { try await channel.unary(Methods.unary, Blob()) }
    }
    #expect(attempts.withLock { $0 } == 2)
  }

  private static let hedge = MethodConfig.Resilience.hedge(
    HedgingPolicy(maximumAttempts: 2, delay: .seconds(3_600)))

  /// Milliseconds that are nanoseconds of 64 bits, or just not.
  @Test(
    arguments: [Self.retry, Self.hedge],
    [9_223_372_036_854, 9_223_372_036_855, 9_223_372_036_999, 9_223_372_037_000, Int64.max])
  func noDelayThatAServerAsksForEndsTheClient(
    resilience: MethodConfig.Resilience, milliseconds: Int64
  ) async throws {
    var service = TestService()
    service.unary = { request, _ in
      guard request.text == "busy" else { return request }
      var error = RPCError(.unavailable, "busy")
      error.metadata.add("\(milliseconds)", for: "grpc-retry-pushback-ms")
      throw error
    }
    try await withServer(
      service, channelConfiguration: Self.configuration(resilience)
    ) { channel, _ in
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
          // It waits for as long as the server wants.
          let error = await #expect(throws: RPCError.self) {
            try await channel.unary(Methods.unary, Blob("busy"))
          }
          #expect(error?.code == .cancelled)
        }
        // Behind the answer to the first.
        for _ in 0..<20 { _ = try await channel.unary(Methods.unary, Blob("well")) }
        group.cancelAll()
      }
    }
  }

  @Test func aServerThatIsPingedTooOftenTimeAndAgainIsPingedOnceADay() async throws {
    var configuration = RPCChannel.Configuration()
    configuration.keepalive = Keepalive(interval: .seconds(10))
    let (channel, peers) = ScriptedPeer.server(configuration: configuration)
    // A duration can be doubled no more than 64 times from there.
    for _ in 0..<70 {
      async let answer = channel.unary(Methods.unary, Blob())
      let peer = try await peers.next()
      let head = try #require(try await peer.frame(.headers))
      try await peer.respond(stream: head.stream)
      try await peer.send(message: [], stream: head.stream)
      try await peer.send(
        .goAway,
        body: ScriptedPeer.bytes(head.stream) + ScriptedPeer.bytes(0xb)
          + Array("too_many_pings".utf8))
      try await peer.end(stream: head.stream)
      _ = try await answer
    }
    await channel.close()
  }

  @Test func aRefusedStreamIsTriedAgainWithoutAnyPolicy() async throws {
    let (channel, peers) = ScriptedPeer.server()
    async let answer = channel.unary(Methods.unary, Blob())
    let peer = try await peers.next()
    let refused = try #require(try await peer.frame(.headers))
    try await peer.send(.reset, stream: refused.stream, body: ScriptedPeer.bytes(7))
    let again = try #require(try await peer.frame(.headers))
    #expect(again["grpc-previous-rpc-attempts"] == nil)
    try await peer.respond(stream: again.stream)
    try await peer.send(message: [], stream: again.stream)
    try await peer.end(stream: again.stream)
    _ = try await answer
    await channel.close()
  }

  @Test func callsBeyondGoAwayGoToTheNextConnection() async throws {
    let (channel, peers) = ScriptedPeer.server()
    async let answer = channel.unary(Methods.unary, Blob("moved"))
    let first = try await peers.next()
    _ = try await first.frame(.headers)
    // "I have seen nothing."
    try await first.send(.goAway, body: ScriptedPeer.bytes(0) + ScriptedPeer.bytes(0))
    let second = try await peers.next()
    let head = try #require(try await second.frame(.headers))
    try await second.respond(stream: head.stream)
    try await second.send(message: Array("moved".utf8), stream: head.stream)
    try await second.end(stream: head.stream)
    #expect(try await answer.text == "moved")
    await channel.close()
  }

  @Test func aHedgeOvertakesAnAttemptThatHangs() async throws {
    let attempts = Mutex(0)
    let cancelled = Signal()
    var service = TestService()
    service.unary = { request, _ in
      let isFirst = attempts.withLock { count in
        count += 1
        return count == 1
      }
      guard isFirst else { return Blob("hedge") }
      do {
        try await Task.sleep(for: .seconds(60))
      } catch {
        await cancelled.set()
        throw error
      }
      return Blob("too late")
    }
    let hedging = MethodConfig.Resilience.hedge(
      HedgingPolicy(maximumAttempts: 3, delay: .milliseconds(20)))
    try await withServer(
      service, channelConfiguration: Self.configuration(hedging)
    ) { channel, _ in
      let answer = try await channel.unary(Methods.unary, Blob())
      #expect(answer.text == "hedge")
      // The other attempt is not left running.
      await cancelled.wait()
    }
    #expect((2...3).contains(attempts.withLock { $0 }))
  }

  // Each resets its others: no attack.
  @Test func manyHedgedCallsDoNotLoseTheirConnection() async throws {
    var service = TestService()
    service.unary = { request, context in
      if context.metadata["grpc-previous-rpc-attempts"] != nil {
        try await Task.sleep(for: .seconds(60))
      }
      return request
    }
    var server = RPCServer.Configuration()
    server.receivedResets = .init(burst: 100, perSecond: 1)
    let hedging = MethodConfig.Resilience.hedge(HedgingPolicy(maximumAttempts: 3, delay: .zero))
    try await withServer(
      service, configuration: server, channelConfiguration: Self.configuration(hedging)
    ) { channel, _ in
      for _ in 0..<400 { _ = try await channel.unary(Methods.unary, Blob()) }
    }
  }

  @Test func aFatalStatusEndsAHedgedCallAtOnce() async throws {
    let attempts = Mutex(0)
    var service = TestService()
    service.unary = { _, _ in
      attempts.withLock { $0 += 1 }
      throw RPCError(.invalidArgument, "never")
    }
    let hedging = MethodConfig.Resilience.hedge(
      HedgingPolicy(maximumAttempts: 3, delay: .seconds(60)))
    try await withServer(
      service, channelConfiguration: Self.configuration(hedging)
    ) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(error?.code == .invalidArgument)
    }
    #expect(attempts.withLock { $0 } == 1)
  }

  @Test func throttlingStopsRetriesWhileEverythingFails() async throws {
    let attempts = Mutex(0)
    var service = TestService()
    service.unary = { _, _ in
      attempts.withLock { $0 += 1 }
      throw RPCError(.unavailable, "down")
    }
    try await withServer(
      service,
      channelConfiguration: Self.configuration(
        Self.retry, throttling: RetryThrottling(maximumTokens: 4, tokenRatio: 0.1))
    ) { channel, _ in
      for _ in 0..<10 {
        await #expect(throws: RPCError.self) { try await channel.unary(Methods.unary, Blob()) }
      }
    }
    // The first call's retries, and none afterwards.
    #expect(attempts.withLock { $0 } == 11)
  }

  private static let large = Blob([UInt8](repeating: 1, count: 1 << 20))

  /// Nothing between: whatever the client had to say, it says before the answer to a ping.
  private static func hearsNothing(_ peer: ScriptedPeer) async throws -> Bool {
    try await peer.send(.ping, body: [UInt8](repeating: 7, count: 8))
    while let frame = try await peer.frame() {
      if frame.kind == .headers { return false }
      if frame.kind == .ping, frame.isAcknowledgement { return true }
    }
    return true
  }

  /// A6, "When Retries are Valid": what is larger than the buffer is committed.
  @Test(arguments: [true, false])
  func aLargeRequestThatHasBegunToLeaveIsNotSentAgain(hasPolicy: Bool) async throws {
    let (channel, peers) = ScriptedPeer.server(
      configuration: Self.configuration(hasPolicy ? Self.retry : .none))
    let call = Task { try await channel.unary(Methods.unary, Self.large) }
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    _ = try #require(try await peer.frame(.data))
    if hasPolicy {
      try await peer.end(stream: head.stream, status: .unavailable, isTrailersOnly: true)
    } else {
      try await peer.send(.reset, stream: head.stream, body: ScriptedPeer.bytes(7))
    }
    let error = await #expect(throws: RPCError.self) { try await call.value }
    #expect(error?.code == .unavailable)
    #expect(try await Self.hearsNothing(peer))
    await channel.close()
  }

  @Test func aLargeRequestOfWhichNothingHasLeftIsMadeAgain() async throws {
    let (channel, peers) = ScriptedPeer.server(greets: false)
    let call = Task { try await channel.unary(Methods.unary, Self.large) }
    let peer = try await peers.next()
    // Windows of nothing: the headers go out alone.
    try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(0))
    let refused = try #require(try await peer.frame(.headers))
    try await peer.send(.reset, stream: refused.stream, body: ScriptedPeer.bytes(7))
    let head = try #require(try await peer.frame(.headers))
    try await peer.send(.windowUpdate, body: ScriptedPeer.bytes(1 << 21))
    try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(1 << 21))
    var count = 0
    while let frame = try await peer.frame(.data) {
      count += frame.body.count
      if frame.endsStream { break }
    }
    #expect(count == Self.large.bytes.count + 5)
    try await peer.respond(stream: head.stream)
    try await peer.send(message: Array("whole".utf8), stream: head.stream)
    try await peer.end(stream: head.stream)
    #expect(try await call.value.text == "whole")
    await channel.close()
  }

  @Test func aLargeRequestIsNotHedged() async throws {
    let hedging = MethodConfig.Resilience.hedge(HedgingPolicy(maximumAttempts: 3, delay: .zero))
    let (channel, peers) = ScriptedPeer.server(configuration: Self.configuration(hedging))
    let call = Task { try await channel.unary(Methods.unary, Self.large) }
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    #expect(try await Self.hearsNothing(peer))
    try await peer.respond(stream: head.stream)
    try await peer.send(message: Array("once".utf8), stream: head.stream)
    try await peer.end(stream: head.stream)
    #expect(try await call.value.text == "once")
    await channel.close()
  }

  @Test func aRefusalEndsNoHedging() async throws {
    let hedging = MethodConfig.Resilience.hedge(
      HedgingPolicy(maximumAttempts: 3, delay: .milliseconds(50)))
    let (channel, peers) = ScriptedPeer.server(configuration: Self.configuration(hedging))
    let call = Task { try await channel.unary(Methods.unary, Blob("x")) }
    let peer = try await peers.next()
    let first = try #require(try await peer.frame(.headers))
    // REFUSED_STREAM: nobody has seen it.
    try await peer.send(.reset, stream: first.stream, body: ScriptedPeer.bytes(7))
    // The same again, and the two hedges.
    for _ in 0..<3 { #expect(try await peer.frame(.headers) != nil) }
    #expect(try await Self.hearsNothing(peer))
    call.cancel()
    _ = try? await call.value
    await channel.close()
  }

  /// Both attempts fail in one read: neither may plan what the other has planned.
  @Test func hedgesThatFailTogetherAreFollowedByNoMoreThanAreLeft() async throws {
    let hedging = MethodConfig.Resilience.hedge(
      HedgingPolicy(maximumAttempts: 3, delay: .milliseconds(20)))
    let (channel, peers) = ScriptedPeer.server(configuration: Self.configuration(hedging))
    let call = Task { try await channel.unary(Methods.unary, Blob("x")) }
    let peer = try await peers.next()
    let first = try #require(try await peer.frame(.headers))
    let second = try #require(try await peer.frame(.headers))
    let trailers = ScriptedPeer.block([
      (":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14"),
    ])
    try await peer.send(
      bytes: [first, second].flatMap {
        ScriptedPeer.frame(.headers, flags: 5, stream: $0.stream, body: trailers)
      })
    // The third may have begun before those were read.
    let third = try #require(try await peer.frame(.headers))
    try await peer.end(stream: third.stream, status: .unavailable, isTrailersOnly: true)
    let error = await #expect(throws: RPCError.self) { try await call.value }
    #expect(error?.code == .unavailable)
    #expect(try await Self.hearsNothing(peer))
    await channel.close()
  }

  /// Two of the three meet the first, which waits for a connection: they can be made once more.
  @Test func hedgesThatWereRefusedTogetherAreAllMade() async throws {
    var configuration = Self.configuration(
      .hedge(
        HedgingPolicy(maximumAttempts: 3, delay: .milliseconds(20), nonFatalCodes: [.aborted])))
    configuration.initialBackoff = .milliseconds(1)
    let (channel, peers) = ScriptedPeer.server(configuration: configuration)
    let call = Task { try await channel.unary(Methods.unary, Blob("x")) }
    let first = try await peers.next()
    for _ in 0..<3 { _ = try #require(try await first.frame(.headers)) }
    // It has seen none of them.
    try await first.send(.goAway, body: ScriptedPeer.bytes(0) + ScriptedPeer.bytes(0))
    let second = try await peers.next()
    for _ in 0..<3 {
      let head = try #require(try await second.frame(.headers))
      try await second.end(stream: head.stream, status: .aborted, isTrailersOnly: true)
    }
    let error = await #expect(throws: RPCError.self) { try await call.value }
    #expect(error?.code == .aborted)
    #expect(try await Self.hearsNothing(second))
    await channel.close()
  }

  @Test func aHedgeThatFindsNoServerEndsNoAttemptThatHasOne() async throws {
    let began = Signal()
    var service = TestService()
    service.unary = { request, _ in
      await began.set()
      try await Task.sleep(for: .milliseconds(800))
      return request
    }
    let server = RPCServer(services: [service])
    let address = try await server.listen(on: ownAddress())
    let channel = RPCChannel(
      to: address,
      configuration: Self.configuration(
        .hedge(
          HedgingPolicy(maximumAttempts: 3, delay: .milliseconds(200), nonFatalCodes: []))))
    let call = Task { try await channel.unary(Methods.unary, Blob("x")) }
    await began.wait()
    async let down: Void = server.shutdown(grace: .seconds(10))
    #expect(try await call.value.text == "x")
    await channel.close()
    await down
  }

  /// Whether its next attempt was planned before, or would be because of that.
  @Test(arguments: [false, true])
  func aChannelThatClosesEndsCallsThatAreToBeTriedAgain(isPlanned: Bool) async throws {
    let (channel, peers) = ScriptedPeer.server(
      configuration: Self.configuration(
        .retry(
          RetryPolicy(
            maximumAttempts: 5, initialBackoff: .seconds(30), maximumBackoff: .seconds(30)))))
    let call = Task { try await channel.unary(Methods.unary, Blob("x")) }
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    if isPlanned {
      try await peer.end(stream: head.stream, status: .unavailable, isTrailersOnly: true)
      // What follows has come when this is answered.
      try await peer.send(.ping, body: [UInt8](repeating: 7, count: 8))
      _ = try #require(try await peer.frame(.ping) { $0.isAcknowledgement })
    }
    await channel.close()
    let began = ContinuousClock.now
    let error = await #expect(throws: RPCError.self) { try await call.value }
    #expect(error?.code == .unavailable)
    #expect(began.duration(to: .now) < .seconds(10))
  }

  @Test func aChannelThatClosesKeepsWhatHasComeForACallThatWasTriedAgain() async throws {
    let (channel, peers) = ScriptedPeer.server(configuration: Self.configuration(Self.retry))
    let replies = Task { try await channel.serverStreaming(Methods.server, Blob("x")) }
    let peer = try await peers.next()
    let first = try #require(try await peer.frame(.headers))
    try await peer.end(stream: first.stream, status: .unavailable, isTrailersOnly: true)
    let second = try #require(try await peer.frame(.headers))
    try await peer.respond(stream: second.stream)
    for _ in 0..<3 { try await peer.send(message: [1], stream: second.stream) }
    try await peer.end(stream: second.stream)
    try await peer.send(.ping, body: [UInt8](repeating: 7, count: 8))
    _ = try #require(try await peer.frame(.ping) { $0.isAcknowledgement })
    await channel.close()
    var count = 0
    for try await _ in try await replies.value { count += 1 }
    #expect(count == 3)
  }

  @Test func aServerThatIsNotThereIsAnAttemptThatFailed() async throws {
    let address = ownAddress()
    let policy = MethodConfig.Resilience.retry(
      RetryPolicy(
        maximumAttempts: 5, initialBackoff: .milliseconds(50), maximumBackoff: .seconds(5),
        backoffMultiplier: 3, retryableCodes: [.unavailable]))
    var configuration = Self.configuration(policy)
    configuration.initialBackoff = .milliseconds(1)
    configuration.maximumBackoff = .milliseconds(20)
    let channel = RPCChannel(to: address, configuration: configuration)
    let call = Task { try await channel.unary(Methods.unary, Blob("x")) }
    try await Task.sleep(for: .milliseconds(200))
    let server = RPCServer(services: [TestService()])
    _ = try await server.listen(on: address)
    #expect(try await call.value.text == "x")
    await server.shutdown(grace: .zero)
    let began = ContinuousClock.now
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(
        Methods.unary, Blob("x"), options: CallOptions(timeout: .milliseconds(300)))
    }
    #expect(error?.code == .deadlineExceeded)
    #expect(began.duration(to: .now) >= .milliseconds(300))
    await channel.close()
  }

  @Test func theDeadlineIsThatOfAllAttempts() async throws {
    var service = TestService()
    service.unary = { _, _ in throw RPCError(.unavailable, "down", retryDelay: .seconds(60)) }
    try await withServer(
      service, channelConfiguration: Self.configuration(Self.retry)
    ) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob(), options: CallOptions(timeout: .milliseconds(50)))
      }
      #expect(error?.code == .deadlineExceeded)
    }
  }
}
