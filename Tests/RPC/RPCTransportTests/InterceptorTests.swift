import RPCCore
import RPCTesting
import RPCTransport
import Synchronization
import Testing

@Suite struct InterceptorTests {
  private struct User: ServerContextKey { typealias Value = String }

  private struct TokenCheck: ServerInterceptor {
    func intercept(
      _ context: ServerContext, proceed: () async throws -> Void
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
      _ context: ServerContext, proceed: () async throws -> Void
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

  private struct Refusing: ClientInterceptor {
    func intercept(_ call: inout OutgoingCall) async throws {
      throw RPCError(.failedPrecondition, "not from here")
    }
  }

  private final class Counting: ClientInterceptor {
    let summaries = Mutex<[CallSummary]>([])
    func intercept(_ call: inout OutgoingCall) async throws {
      call.onEnd { summary in self.summaries.withLock { $0.append(summary) } }
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
    }
    #expect(other.summaries.withLock { $0.map(\.code) } == [.failedPrecondition])
  }
}
