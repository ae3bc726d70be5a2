import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
import Testing

@Suite struct CallEndTests {
  @Test func aThrownErrorIsTheStatusWithItsMetadata() async throws {
    var service = TestService()
    service.unary = { _, context in
      #expect(context.metadata["x-in"] == "1")
      #expect(context.metadata.binary(for: "x-in-bin") == [0, 255, 7])
      context.setTrailingMetadata(["x-out": "2"])
      throw RPCError(
        .failedPrecondition, "ünïcode \n 100%", metadata: ["x-more": "3"],
        retryDelay: .milliseconds(1_500))
    }
    try await withServer(service) { channel, _ in
      var metadata: Metadata = ["X-In": "1"]
      metadata.add(binary: [0, 255, 7], for: "x-in-bin")
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob(), options: CallOptions(metadata: metadata))
      }
      #expect(error?.code == .failedPrecondition)
      #expect(error?.message == "ünïcode \n 100%")
      #expect(error?.metadata["x-out"] == "2")
      #expect(error?.metadata["x-more"] == "3")
      #expect(error?.retryDelay == .milliseconds(1_500))
    }
  }

  @Test func initialAndTrailingMetadataArrive() async throws {
    var service = TestService()
    service.server = { _, responses, context in
      context.setInitialMetadata(["first": "a"])
      context.setTrailingMetadata(["last": "b"])
      try await responses.send(Blob("x"))
    }
    try await withServer(service) { channel, _ in
      let responses = try await channel.serverStreaming(Methods.server, Blob())
      #expect(try await responses.initialMetadata["first"] == "a")
      var count = 0
      for try await _ in responses { count += 1 }
      #expect(count == 1)
      #expect(responses.trailingMetadata?["last"] == "b")
    }
  }

  @Test func aDeadlineEndsTheCallAndCancelsTheHandler() async throws {
    let started = Atomic(false)
    let cancelled = Signal()
    var service = TestService()
    service.unary = { _, context in
      #expect(context.deadline != nil)
      started.store(true, ordering: .relaxed)
      do {
        try await Task.sleep(for: .seconds(86_400))
      } catch {
        await cancelled.set()
        throw error
      }
      return Blob()
    }
    try await withServer(service) { channel, _ in
      // On a busy machine a deadline may pass before its call has left.
      while !started.load(ordering: .relaxed) {
        let error = await #expect(throws: RPCError.self) {
          try await channel.unary(
            Methods.unary, Blob(), options: CallOptions(timeout: .milliseconds(50)))
        }
        #expect(error?.code == .deadlineExceeded)
      }
      await cancelled.wait()
    }
  }

  @Test func cancellingTheCallerCancelsTheHandler() async throws {
    let started = Signal()
    let cancelled = Signal()
    var service = TestService()
    service.both = { requests, _, _ in
      await started.set()
      do {
        for try await _ in requests {}
      } catch {
        await cancelled.set()
        throw error
      }
    }
    try await withServer(service) { channel, _ in
      let call: BidirectionalCall<Blob, Blob> = try await channel.bidirectional(Methods.both)
      try await call.send(Blob("x"))
      await started.wait()
      call.cancel()
      await cancelled.wait()
      let error = await #expect(throws: RPCError.self) {
        for try await _ in call.responses {}
      }
      #expect(error?.code == .cancelled)
    }
  }

  @Test(.timeLimit(.minutes(1))) func aConnectionThatIsLostCancelsItsHandlers() async throws {
    let begun = Signal()
    let cancelled = Signal()
    var service = TestService()
    service.both = { requests, _, _ in
      do {
        for try await _ in requests { await begun.set() }
      } catch {
        #expect((error as? RPCError)?.code == .cancelled)
        await cancelled.set()
      }
    }
    service.client = { _, _ in
      try? await Task.sleep(for: .seconds(600))
      #expect(Task.isCancelled)
      return Blob()
    }
    try await withServer(service) { channel, _ in
      let peer = try await ScriptedPeer.client(of: try ListenAddress("\(channel.target)"))
      try await peer.begin(Methods.both, stream: 1)
      try await peer.begin(Methods.client, stream: 3)
      try await peer.send(message: [1], stream: 1)
      await begun.wait()
      await peer.close()
      await cancelled.wait()
    }
  }

  @Test(
    .timeLimit(.minutes(1)),
    arguments: [
      (Blob([UInt8](repeating: 1, count: 5 << 20)), StatusCode.resourceExhausted),
      (Blob([0xff]), .internalError),
    ])
  func aMessageThatIsRefusedEndsTheHandlerThatReadsTheStream(
    second: Blob, code: StatusCode
  ) async throws {
    let started = Signal()
    let heard = Mutex<RPCError?>(nil)
    let ended = Signal()
    var service = TestService()
    service.client = { requests, _ in
      do {
        for try await _ in requests { await started.set() }
      } catch {
        heard.withLock { $0 = error as? RPCError }
      }
      #expect(Task.isCancelled)
      await ended.set()
      return Blob()
    }
    try await withServer(service) { channel, _ in
      let call: ClientStreamingCall<Blob, Blob> = try await channel.clientStreaming(Methods.client)
      try await call.send(Blob("first"))
      await started.wait()
      try? await call.send(second)
      let error = await #expect(throws: RPCError.self) { _ = try await call.finish() }
      #expect(error?.code == code)
      await ended.wait()
      #expect(heard.withLock { $0?.code } == code)
    }
  }

  @Test(.timeLimit(.minutes(1))) func anEndWithinAMessageEndsTheHandlerThatReadsTheStream()
    async throws
  {
    let ended = Signal()
    var service = TestService()
    service.client = { requests, _ in
      do {
        for try await _ in requests {}
      } catch {
        await ended.set()
      }
      return Blob()
    }
    try await withServer(service) { channel, _ in
      let client = try await ScriptedPeer.client(of: try ListenAddress("\(channel.target)"))
      try await client.begin(Methods.client)
      // Five bytes are announced, two come.
      try await client.send(data: [0, 0, 0, 0, 5, 1, 1], ends: true)
      await ended.wait()
      await client.close()
    }
  }

  @Test func lettingGoOfAStreamCancelsIt() async throws {
    let cancelled = Signal()
    var service = TestService()
    service.server = { _, responses, _ in
      do {
        while true { try await responses.send(Blob([UInt8](repeating: 1, count: 1_000))) }
      } catch {
        await cancelled.set()
      }
    }
    try await withServer(service) { channel, _ in
      do {
        let responses = try await channel.serverStreaming(Methods.server, Blob())
        for try await _ in responses { break }
      }
      await cancelled.wait()
    }
  }

  @Test func aCallOfACancelledTaskEnds() async throws {
    try await withServer(TestService()) { channel, _ in
      for _ in 0..<500 {
        let call = Task {
          withUnsafeCurrentTask { $0?.cancel() }
          return try await channel.unary(Methods.unary, Blob("x"))
        }
        let error = await #expect(throws: RPCError.self) { try await call.value }
        #expect(error?.code == .cancelled)
      }
    }
  }

  @Test func aReaderThatWaitsHoldsTheSenderBack() async throws {
    let sent = Mutex(0)
    let stuck = Signal()
    var service = TestService()
    service.server = { _, responses, _ in
      for _ in 0..<20_000 {
        try await responses.send(Blob([UInt8](repeating: 1, count: 1_000)))
        sent.withLock { $0 += 1 }
        if sent.withLock({ $0 }) == 100 { await stuck.set() }
      }
    }
    try await withServer(service) { channel, _ in
      let responses = try await channel.serverStreaming(Methods.server, Blob())
      var iterator = responses.makeAsyncIterator()
      _ = try await iterator.next()
      await stuck.wait()
      // Enough turns for a sender that is not held back to send everything.
      for _ in 0..<50 { _ = try await channel.unary(Methods.unary, Blob("turn")) }
      // 1 MiB of window, queues of 64 KiB and 256 KiB, and what is under way.
      #expect(sent.withLock { $0 } < 5_000)
      var received = 1
      while try await iterator.next() != nil { received += 1 }
      #expect(received == 20_000)
    }
  }

  @Test func aSlowHandlerHoldsTheClientBack() async throws {
    let release = Signal()
    var service = TestService()
    service.client = { requests, _ in
      await release.wait()
      var count = 0
      for try await _ in requests { count += 1 }
      return Blob("\(count)")
    }
    try await withServer(service) { channel, _ in
      let call: ClientStreamingCall<Blob, Blob> = try await channel.clientStreaming(Methods.client)
      let sent = Mutex(0)
      async let sending: Void = {
        for _ in 0..<20_000 {
          try await call.send(Blob([UInt8](repeating: 1, count: 1_000)))
          sent.withLock { $0 += 1 }
        }
      }()
      for _ in 0..<100 { _ = try await channel.unary(Methods.unary, Blob("turn")) }
      #expect(sent.withLock { $0 } < 5_000)
      await release.set()
      try await sending
      #expect(try await call.finish().text == "20000")
    }
  }
}
