import NIOCore
import NIOPosix
import RPCCore
import RPCTesting
import Synchronization
import Testing

@testable import RPCTransport

/// Calls that end in odd ways: early, late, too large, or while something of them still waits.
@Suite(.timeLimit(.minutes(1))) struct EndsOfCallsTests {
  @Test func sendingBehindTheEndOfTheRequestsIsAnError() async throws {
    try await withServer { channel, _ in
      let call = try await channel.bidirectional(Methods.both)
      try await call.send(Blob("one"))
      await call.finishSending()
      // The loop has heard of the end before the next answer can come.
      var answers = call.responses.makeAsyncIterator()
      #expect(try await answers.next()?.text == "one")
      let error = await #expect(throws: RPCError.self) { try await call.send(Blob("two")) }
      #expect(error?.code == .failedPrecondition)
      #expect(try await answers.next() == nil)
    }
  }

  @Test func whoWaitsToSendHasSentWhenAnotherSaysTheEnd() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let call = try await channel.bidirectional(Methods.both)
    let peer = try await peers.next()
    let stream = try #require(try await peer.frame(.headers)).stream
    // More than waits, and no window for it.
    let sending = Task { try await call.send(Blob([UInt8](repeating: 1, count: 1 << 20))) }
    _ = try #require(try await peer.frame(.data))
    // It waits by now, or does not wait at all: both are well.
    try await Task.sleep(for: .milliseconds(20))
    await call.finishSending()
    try await sending.value
    try await peer.end(stream: stream, isTrailersOnly: true)
    await channel.close()
  }

  // Whether or not the loop has heard of the end.
  @Test func nothingIsSentBehindTheEndThatWasJustTold() async throws {
    try await withServer { channel, _ in
      for _ in 0..<100 {
        let both = try await channel.bidirectional(Methods.both)
        try await both.send(Blob("one"))
        await both.finishSending()
        let error = await #expect(throws: RPCError.self) { try await both.send(Blob("two")) }
        #expect(error?.code == .failedPrecondition)
        await both.finishSending()
        var answers: [String] = []
        for try await answer in both.responses { answers.append(answer.text) }
        #expect(answers == ["one"])
      }
      let call = try await channel.clientStreaming(Methods.client)
      try await call.send(Blob("three"))
      #expect(try await call.finish().text == "5")
      let error = await #expect(throws: RPCError.self) { try await call.finish() }
      #expect(error?.code == .failedPrecondition)
      #expect(error?.message.contains("finish()") == true)
    }
  }

  @Test func trailersNeedNoWindow() async throws {
    try await withServer { channel, _ in
      let peer = try await ScriptedPeer.client(
        of: try ListenAddress("\(channel.target)"), greets: false)
      try await peer.send(bytes: Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8))
      // SETTINGS_INITIAL_WINDOW_SIZE of 65,535, of which one answer takes a part.
      try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(65_535))
      try await peer.begin(Methods.both, stream: 1)
      try await peer.send(message: Array("answered".utf8), stream: 1)
      _ = try #require(try await peer.frame(.data))
      // The window is shut now: SETTINGS may make it negative (RFC 9113, section 6.9.2).
      try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(0))
      try await peer.send(data: [], stream: 1, ends: true)
      let trailers = try #require(try await peer.frame(.headers))
      #expect(trailers.fields.contains { $0.name == "grpc-status" && $0.value == "0" })
      await peer.close()
    }
  }

  /// Where there is room it may wait for ever; a server that goes does not wait so long.
  @Test func aStreamWhoseEndWaitsForAWindowIsResetWhenTheServerGoes() async throws {
    var configuration = RPCServer.Configuration()
    configuration.stalledCallTimeout = .seconds(5)
    let server = RPCServer(services: [TestService()], configuration: configuration)
    let address = ownAddress()
    _ = try await server.listen(on: address)
    let peer = try await ScriptedPeer.client(of: address, greets: false)
    try await peer.send(bytes: Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8))
    try await peer.send(.settings, body: [0, 4] + ScriptedPeer.bytes(0))
    try await peer.begin(Methods.both, stream: 1)
    try await peer.send(data: [], stream: 1, ends: true)
    // It reads all the while: one that did not would lose its connection.
    async let reset = peer.frame(.reset)
    try await Task.sleep(for: .seconds(1))
    async let down: Void = server.shutdown(grace: .seconds(30))
    #expect(try await reset?.stream == 1)
    await peer.close()
    await down
  }

  @Test func whoWasToldOfAnErrorOfItsOwnIsClosedHoweverMuchItTalks() async throws {
    var configuration = RPCServer.Configuration()
    configuration.closeTimeout = .milliseconds(200)
    let (began, ended) = (Signal(), Signal())
    var service = TestService()
    service.client = { requests, _ in
      await began.set()
      do { for try await _ in requests {} } catch { await ended.set() }
      return Blob("")
    }
    let server = RPCServer(services: [service], configuration: configuration)
    let address = ownAddress()
    _ = try await server.listen(on: address)
    guard case .unix(let path) = address else { return }
    // One that stays when the server has said that it has ended.
    let peer = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .channelOption(.allowRemoteHalfClosure, value: true)
      .connect(unixDomainSocketPath: path).get()
    func say(_ bytes: [UInt8]) async throws {
      try await peer.writeAndFlush(ByteBuffer(bytes: bytes))
    }
    try await say(Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8))
    try await say(ScriptedPeer.frame(.settings))
    try await say(
      ScriptedPeer.frame(
        .headers, flags: 4, stream: 1,
        body: ScriptedPeer.block(ScriptedPeer.requestFields(Methods.client.path))))
    await began.wait()
    // RFC 9113, section 6.1: DATA is of a stream.
    try await say(ScriptedPeer.frame(.data, body: [1]))
    let talk = Task {
      while true {
        try await say([0])
        try await Task.sleep(for: .milliseconds(20))
      }
    }
    await ended.wait()
    await #expect(throws: (any Error).self, performing: { try await talk.value })
    await server.shutdown(grace: .zero)
  }

  @Test func aQueuedCallOutlivesTheConnectionThatItNeverWentOutOn() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let warm = Task { try await channel.unary(Methods.unary, Blob("warm")) }
    let first = try await peers.next()
    _ = try #require(try await first.frame(.headers))
    // One stream at a time, and the client has taken note.
    try await first.send(.settings, body: [0, 3] + ScriptedPeer.bytes(1))
    try await first.send(.ping, body: [UInt8](repeating: 7, count: 8))
    _ = try #require(try await first.frame(.ping) { $0.isAcknowledgement })
    let queued = Task { try await channel.unary(Methods.unary, Blob("queued")) }
    try await waitUntil { try await waitingCalls(of: channel) == 1 }
    await first.close()
    let second = try await peers.next()
    let head = try #require(try await second.frame(.headers))
    try await second.respond(stream: head.stream)
    try await second.send(message: Array("yes".utf8), stream: head.stream)
    try await second.end(stream: head.stream)
    #expect(try await queued.value.text == "yes")
    // What went out may have been seen: it is not made again.
    let error = await #expect(throws: RPCError.self) { try await warm.value }
    #expect(error?.code == .unavailable)
    await channel.close()
  }

  @Test func aQueuedCallLeavesAConnectionThatTakesNoMore() async throws {
    let (channel, peers) = ScriptedPeer.server()
    let open = Task { try await channel.unary(Methods.unary, Blob("open")) }
    let first = try await peers.next()
    let head = try #require(try await first.frame(.headers))
    try await first.send(.settings, body: [0, 3] + ScriptedPeer.bytes(1))
    try await first.send(.ping, body: [UInt8](repeating: 7, count: 8))
    _ = try #require(try await first.frame(.ping) { $0.isAcknowledgement })
    let queued = Task { try await channel.unary(Methods.unary, Blob("queued")) }
    try await waitUntil { try await waitingCalls(of: channel) == 1 }
    try await first.send(.goAway, body: ScriptedPeer.bytes(head.stream) + ScriptedPeer.bytes(0))
    // The open one has not ended yet.
    let second = try await peers.next()
    let other = try #require(try await second.frame(.headers))
    try await second.respond(stream: other.stream)
    try await second.send(message: Array("yes".utf8), stream: other.stream)
    try await second.end(stream: other.stream)
    #expect(try await queued.value.text == "yes")
    try await first.respond(stream: head.stream)
    try await first.send(message: Array("too".utf8), stream: head.stream)
    try await first.end(stream: head.stream)
    #expect(try await open.value.text == "too")
    await channel.close()
  }

  @Test(arguments: ["error", "trailing", "initial"])
  func headersThatAreTooLargeForTheClientAreAnErrorThatSaysSo(what: String) async throws {
    var service = TestService()
    service.unary = { request, context in
      let large = String(repeating: "x", count: 100_000)
      switch request.text {
      case "error": throw RPCError(.failedPrecondition, large)
      case "trailing": context.setTrailingMetadata(["large": large])
      default: context.setInitialMetadata(["large": large])
      }
      return request
    }
    try await withServer(service) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob(what), options: CallOptions(timeout: .seconds(10)))
      }
      #expect(error?.code == .resourceExhausted)
    }
  }

  @Test func requestHeadersThatAreTooLargeForTheServerAreAnErrorThatSaysSo() async throws {
    try await withServer { channel, _ in
      let large: Metadata = ["large": String(repeating: "x", count: 100_000)]
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob("x"), options: CallOptions(timeout: .seconds(10), metadata: large))
      }
      #expect(error?.code == .resourceExhausted)
    }
  }

  @Test func aLongPathThatIsNoMethodIsAnsweredInShort() async throws {
    try await withServer { channel, _ in
      let method = MethodDescriptor<Blob, Blob>("/a/" + String(repeating: "%", count: 12_000))
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(method, Blob("x"), options: CallOptions(timeout: .seconds(10)))
      }
      #expect(error?.code == .unimplemented)
      #expect((error?.message.count ?? 0) < 300)
    }
  }

  @Test func whoAsksAfterTheEndIsToldOfItAtOnce() async throws {
    let told = Signal()
    let asked = Signal()
    let go = Signal()
    var service = TestService()
    service.unary = { request, context in
      await asked.set()
      await go.wait()
      context.onEnd { summary in
        #expect(summary.code == .cancelled)
        Task { await told.set() }
      }
      return request
    }
    try await withServer(service) { channel, server in
      let call = Task { try await channel.unary(Methods.unary, Blob("x")) }
      await asked.wait()
      call.cancel()
      _ = try? await call.value
      // The server has heard of it when the next call on the connection is answered.
      _ = try? await channel.unary(MethodDescriptor<Blob, Blob>("/a/b"), Blob("x"))
      await go.set()
      await told.wait()
    }
  }

  @Test func whoAsksAfterAnEndThatWasTheServersIsToldOfItToo() async throws {
    let code = Mutex<StatusCode?>(nil)
    let go = Signal()
    var service = TestService()
    service.unary = { request, context in
      await go.wait()
      context.onEnd { summary in code.withLock { $0 = summary.code } }
      return request
    }
    try await withPeer(service) { peer in
      try await peer.sendHeaders(
        ScriptedPeer.requestFields(Methods.unary.path) + [("grpc-timeout", "50m")], stream: 1,
        endsStream: false)
      try await peer.send(message: [], ends: true)
      let end = try #require(try await peer.frame(.headers))
      #expect(end.fields.contains { $0.name == "grpc-status" && $0.value == "4" })
      await go.set()
      try await waitUntil { code.withLock { $0 } != nil }
    }
    #expect(code.withLock { $0 } == .deadlineExceeded)
  }

  /// With the client's side open, a server need not reset the stream: the client does.
  @Test(arguments: [0, 5, 14]) func aCallThatTheServerEndsFirstLeavesNoStream(status: Int)
    async throws
  {
    let (channel, peers) = ScriptedPeer.server()
    let call = try await channel.bidirectional(Methods.both)
    try await call.send(Blob("one"))
    let peer = try await peers.next()
    let head = try #require(try await peer.frame(.headers))
    try await peer.sendHeaders(
      [(":status", "200"), ("content-type", "application/grpc")], stream: head.stream,
      endsStream: false)
    try await peer.sendHeaders(
      [("grpc-status", "\(status)")], stream: head.stream, endsStream: true)
    do {
      for try await _ in call.responses {}
      #expect(status == 0)
    } catch let error as RPCError {
      #expect(error.code.rawValue == status)
    }
    #expect(try await peer.frame(.reset)?.stream == head.stream)
    await peer.close()
    await channel.close()
  }

  @Test func compressionThatIsChosenTooLateIsNotUsed() async throws {
    var service = TestService()
    service.server = { _, responses, context in
      try await responses.send(Blob("one"))
      context.responseCompression = .gzip
      try await responses.send(Blob(String(repeating: "two", count: 100)))
    }
    try await withServer(service) { channel, _ in
      var lengths: [Int] = []
      for try await response in try await channel.serverStreaming(Methods.server, Blob("x")) {
        lengths.append(response.text.count)
      }
      #expect(lengths == [3, 300])
    }
  }

  /// An attempt of a hedged call that waits for a connection does not keep the others from ending it.
  @Test func aHedgedCallThatWaitsTwiceEnds() async throws {
    let began = Signal()
    var service = TestService()
    service.unary = { _, _ in
      await began.set()
      try await Task.sleep(for: .seconds(30))
      return Blob("late")
    }
    let server = RPCServer(services: [service])
    let address = try await server.listen(on: ownAddress())
    var configuration = RPCChannel.Configuration()
    configuration.serviceConfig = ServiceConfig(
      methods: [
        MethodConfig(
          names: [.init(service: "test.Test")],
          resilience: .hedge(HedgingPolicy(maximumAttempts: 2, delay: .milliseconds(300))))
      ])
    let channel = RPCChannel(to: address, configuration: configuration)
    let call = Task {
      try await channel.unary(
        Methods.unary, Blob("x"), options: CallOptions(timeout: .seconds(20), waitForReady: true))
    }
    await began.wait()
    // GOAWAY now, the end after 800 ms; the hedge comes between, and waits.
    await server.shutdown(grace: .milliseconds(800))
    var second = TestService()
    second.unary = { _, _ in throw RPCError(.unavailable, "no") }
    let other = RPCServer(services: [second])
    _ = try await other.listen(on: address)
    let error = await #expect(throws: RPCError.self) { try await call.value }
    #expect(error?.code == .unavailable)
    await channel.close()
    await other.shutdown(grace: .zero)
  }

  /// Tasks and streams are used again: nothing of one call may reach the next.
  @Test func nothingOfOneCallReachesTheNext() async throws {
    let (wrong, runs) = (Seen(), Seen())
    var service = TestService()
    service.unary = { request, context in
      let name = context.metadata["name"] ?? "none"
      var faults: [String] = []
      if request.text != name { faults.append("the metadata of \(name)") }
      if name.hasPrefix("deadline") != (context.deadline != nil) { faults.append("a deadline") }
      if ServerContext.current !== context { faults.append("another context") }
      if name.hasPrefix("plain") {
        runs.add(name)
        if name.hasSuffix("slow") { try? await Task.sleep(for: .milliseconds(3)) }
        if name.hasSuffix("yields") { await Task.yield() }
        if Task.isCancelled { faults.append("a cancellation") }
      } else {
        try? await Task.sleep(for: .milliseconds(2))
      }
      for fault in faults { wrong.add("\(request.text) has \(fault)") }
      context.setTrailingMetadata(["was": name])
      return request
    }
    try await withServer(service) { channel, _ in
      await withTaskGroup(of: Void.self) { group in
        for worker in 0..<16 {
          group.addTask {
            for index in 0..<100 {
              let kind = ["cancelled", "deadline", "plain"].randomElement()!
              let name =
                "\(kind) \(worker) \(index) \(["slow", "yields", "quick"].randomElement()!)"
              let received = ReceivedMetadata()
              var options = CallOptions(metadata: ["name": name], receivedMetadata: received)
              if kind == "deadline" { options.timeout = .milliseconds(Int.random(in: 1...4)) }
              let call = Task { [options] in
                try await channel.unary(Methods.unary, Blob(name), options: options)
              }
              if kind == "cancelled" { call.cancel() }
              do {
                let answer = try await call.value
                if answer.text != name || received.trailing["was"] != name {
                  wrong.add("\(name) has another's answer")
                }
              } catch {
                if kind == "plain" { wrong.add("\(name): \(error)") }
              }
            }
          }
        }
      }
    }
    #expect(wrong.all == [])
    #expect(Set(runs.all).count == runs.all.count, "a call was served twice")
  }

  /// What tasks and handlers have seen.
  private final class Seen: Sendable {
    private let lines = Mutex<[String]>([])
    var all: [String] { self.lines.withLock { $0 } }
    func add(_ line: String) { self.lines.withLock { $0.append(line) } }
  }
}
