import RPC
import RPCTesting
import Synchronization
import Testing

// [docs: shapes-server]
struct Conversation: GreeterV1.ConversationService {
  func sayHelloOften(
    _ request: GreeterV1.HelloRequest, responses: ResponseWriter<GreeterV1.HelloReply>,
    context: ServerContext
  ) async throws {
    for turn in 0..<request.times {
      // Suspends while the client does not read.
      try await responses.send(.init(text: "Hello, \(request.name) (\(turn + 1))"))
    }
  }

  func sayHelloToAll(
    _ requests: RequestStream<GreeterV1.HelloRequest>, context: ServerContext
  ) async throws -> GreeterV1.HelloReply {
    var names: [String] = []
    for try await request in requests { names.append(request.name) }
    return GreeterV1.HelloReply(text: "Hello, " + names.joined(separator: " and "))
  }

  func chat(
    _ requests: RequestStream<GreeterV1.HelloRequest>,
    responses: ResponseWriter<GreeterV1.HelloReply>, context: ServerContext
  ) async throws {
    for try await request in requests {
      try await responses.send(.init(text: "Hello, \(request.name)"))
    }
  }
}
// [end]

// [docs: deadline-server]
struct Front: GreeterV1.GreeterService {
  let back: GreeterV1.GreeterClient

  func sayHello(
    _ request: GreeterV1.HelloRequest, context: ServerContext
  ) async throws -> GreeterV1.HelloReply {
    // Ends by the deadline of the call that is served, and with it if it is cancelled.
    try await self.back.sayHello(request)
  }
}
// [end]

@Suite struct CallsExamples {
  @Test func everyShapeIsCalled() async throws {
    try await withInMemoryServer([Conversation()]) { channel in
      var heard: [String] = []
      // [docs: shapes-client]
      let client = GreeterV1.ConversationClient(channel)

      let replies = try await client.sayHelloOften(.init(name: "Ada", times: 3))
      for try await reply in replies { heard.append(reply.text) }

      let all = try await client.sayHelloToAll()
      for name in ["Ada", "Alan"] { try await all.send(.init(name: name)) }
      heard.append(try await all.finish().text)

      let chat = try await client.chat()
      var answers = chat.responses.makeAsyncIterator()
      for name in ["Grace", "Edsger"] {
        try await chat.send(.init(name: name))
        if let answer = try await answers.next() { heard.append(answer.text) }
      }
      await chat.finishSending()
      // [end]
      #expect(
        heard == [
          "Hello, Ada (1)", "Hello, Ada (2)", "Hello, Ada (3)", "Hello, Ada and Alan",
          "Hello, Grace", "Hello, Edsger",
        ])
    }
  }

  @Test func aDeadlineTravelsOn() async throws {
    let remaining = Mutex<Duration?>(nil)
    let back = ClosureGreeter { _, context in
      remaining.withLock { $0 = context.deadline?.remaining }
      return "Hello"
    }
    try await withInMemoryServer([back]) { backChannel in
      let front = Front(back: GreeterV1.GreeterClient(backChannel))
      try await withInMemoryServer([front]) { channel in
        let greeter = GreeterV1.GreeterClient(channel)
        // [docs: deadline-client]
        let reply = try await greeter.sayHello(
          .init(name: "you"), options: CallOptions(timeout: .seconds(30)))
        // [end]
        #expect(reply.text == "Hello")
      }
    }
    let left = try #require(remaining.withLock { $0 })
    #expect(left > .zero && left <= .seconds(30))
  }

  @Test func cancellingATaskCancelsTheHandler() async throws {
    let (started, cancelled) = (Event(), Event())
    let service = ClosureGreeter { _, _ in
      started.happen()
      // [docs: cancellation-server]
      try await withTaskCancellationHandler {
        try await Task.sleep(for: .seconds(3_600))
      } onCancel: {
        cancelled.happen()
      }
      // [end]
      return "too late"
    }
    try await withInMemoryServer([service]) { channel in
      let greeter = GreeterV1.GreeterClient(channel)
      // [docs: cancellation-client]
      let call = Task { try await greeter.sayHello(.init(name: "you")) }
      // [end]
      await started.wait()
      // [docs: cancellation-cancel]
      call.cancel()
      // [end]
      await cancelled.wait()
      let error = await #expect(throws: RPCError.self) { try await call.value }
      #expect(error?.code == .cancelled)
    }
  }

  @Test func metadataTravelsBothWays() async throws {
    struct Telling: GreeterV1.ConversationService {
      // [docs: metadata-server]
      func sayHelloOften(
        _ request: GreeterV1.HelloRequest, responses: ResponseWriter<GreeterV1.HelloReply>,
        context: ServerContext
      ) async throws {
        let tags = context.metadata.values(for: "tag")
        let key = context.metadata.binary(for: "key-bin") ?? []
        context.setInitialMetadata(["tags": tags.joined(separator: "+")])
        context.setTrailingMetadata(["key-bytes": "\(key.count)"])
        try await responses.send(.init(text: "Hello"))
      }
      // [end]
      func sayHelloToAll(
        _ requests: RequestStream<GreeterV1.HelloRequest>, context: ServerContext
      ) async throws -> GreeterV1.HelloReply { GreeterV1.HelloReply() }
      func chat(
        _ requests: RequestStream<GreeterV1.HelloRequest>,
        responses: ResponseWriter<GreeterV1.HelloReply>, context: ServerContext
      ) async throws {}
    }
    try await withInMemoryServer([Telling()]) { channel in
      let client = GreeterV1.ConversationClient(channel)
      // [docs: metadata-client]
      var metadata: Metadata = ["tag": "red", "tag": "round"]
      metadata.add(binary: [0xca, 0xfe], for: "key-bin")
      let replies = try await client.sayHelloOften(
        .init(name: "you"), options: CallOptions(metadata: metadata))
      let initial = try await replies.initialMetadata
      for try await _ in replies {}
      let trailing = replies.trailingMetadata
      // [end]
      #expect(initial["tags"] == "red+round")
      #expect(trailing?["key-bytes"] == "2")
    }
  }

  @Test func aCallWithOneResponseTellsItsMetadata() async throws {
    let service = ClosureGreeter { _, context in
      context.setInitialMetadata(["region": "north"])
      context.setTrailingMetadata(["cost": "3"])
      return "Hello"
    }
    try await withInMemoryServer([service]) { channel in
      let greeter = GreeterV1.GreeterClient(channel)
      // [docs: metadata-unary]
      let received = ReceivedMetadata()
      let reply = try await greeter.sayHello(
        .init(name: "you"), options: CallOptions(receivedMetadata: received))
      let region = received.initial["region"]
      let cost = received.trailing["cost"]
      // [end]
      #expect(reply.text == "Hello")
      #expect(region == "north")
      #expect(cost == "3")
    }
  }

  @Test func errorsTellProgramsMoreThanASentence() async throws {
    let service = ClosureGreeter { _, _ in
      // [docs: errors-server]
      throw RPCError(
        .invalidArgument, "the name is empty",
        details: GoogleRPC.BadRequest(
          fieldViolations: [.init(field: "name", description: "is empty")]))
      // [end]
    }
    var fields: [String] = []
    try await withInMemoryServer([service]) { channel in
      let greeter = GreeterV1.GreeterClient(channel)
      // [docs: errors-client]
      do {
        _ = try await greeter.sayHello(.init())
      } catch let error as RPCError where error.code == .invalidArgument {
        for violation in error.detail(GoogleRPC.BadRequest.self)?.fieldViolations ?? [] {
          fields.append(violation.field)
        }
      }
      // [end]
    }
    #expect(fields == ["name"])
  }

  @Test func messagesTravelCompressed() async throws {
    let wasCompressed = Mutex(false)
    let service = ClosureGreeter { request, context in
      wasCompressed.withLock { $0 = context.requestWasCompressed }
      return request.name
    }
    // [docs: compression-server]
    var configuration = RPCServer.Configuration()
    // For clients that understand it; a handler may choose another with
    // `context.responseCompression`.
    configuration.responseCompression = .gzip
    // [end]
    try await withInMemoryServer([service], configuration: configuration) { channel in
      let greeter = GreeterV1.GreeterClient(channel)
      let name = String(repeating: "long ", count: 1_000)
      // [docs: compression-client]
      let reply = try await greeter.sayHello(
        .init(name: name), options: CallOptions(compression: .gzip))
      // [end]
      #expect(reply.text == name)
    }
    #expect(wasCompressed.withLock { $0 })
  }

  @Test func aCallHasOptionsOfItsOwn() async throws {
    try await withInMemoryServer([Greeter()]) { channel in
      let greeter = GreeterV1.GreeterClient(channel)
      // [docs: options]
      let options = CallOptions(
        timeout: .seconds(5), metadata: ["tenant": "mill"], waitForReady: true,
        maximumRequestBytes: 64 << 10, maximumResponseBytes: 16 << 20)
      let reply = try await greeter.sayHello(.init(name: "you"), options: options)
      // [end]
      #expect(reply.text == "Hello, you")
    }
  }
}
