import NIOCore
import RPCCore
import RPCTesting
import RPCTransport
import Testing

/// What a program may get wrong: each is told by an error that names it.
@Suite(.timeLimit(.minutes(1))) struct WrongArgumentTests {
  private static let anywhere = ListenAddress.tcp(host: "127.0.0.1", port: 0)
  /// Nobody is asked: the port is only right.
  private static let nobody = ListenAddress.tcp(host: "127.0.0.1", port: 1)

  private static func callError(
    _ channel: RPCChannel, _ options: CallOptions = CallOptions()
  ) async -> RPCError? {
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(Methods.unary, Blob(), options: options)
    }
    await channel.close()
    return error
  }

  // MARK: A server

  private struct ServerMistake: Sendable, CustomTestStringConvertible {
    let words: String
    let make: @Sendable (inout RPCServer.Configuration) -> Void
    var testDescription: String { self.words }

    init(_ words: String, _ make: @escaping @Sendable (inout RPCServer.Configuration) -> Void) {
      self.words = words
      self.make = make
    }
  }

  private static let serverMistakes: [ServerMistake] = [
    .init("maximumRequestBytes is -1") { $0.maximumRequestBytes = -1 },
    .init("maximumConcurrentCallsPerConnection is 0") {
      $0.maximumConcurrentCallsPerConnection = 0
    },
    .init("maximumRunningCallsPerConnection is 0") { $0.maximumRunningCallsPerConnection = 0 },
    .init("maximumRunningCalls is -5") { $0.maximumRunningCalls = -5 },
    .init("maximumConnections is 0") { $0.maximumConnections = 0 },
    .init("backlog is -1") { $0.backlog = -1 },
    .init("maximumHeaderListBytes is 0") { $0.maximumHeaderListBytes = 0 },
    .init("maximumContinuationFrames is -1") { $0.maximumContinuationFrames = -1 },
    .init("receivedResets.burst is -1") { $0.receivedResets = .init(burst: -1, perSecond: 1) },
    .init("provokedResets.perSecond is -1") {
      $0.provokedResets = .init(burst: 1, perSecond: -1)
    },
    .init("emptyFrames.burst is 0") { $0.emptyFrames = .init(burst: 0, perSecond: 1) },
    .init("windowUpdates.burst is 0") { $0.windowUpdates = .init(burst: 0, perSecond: 1) },
    .init("maximumQueuedFrames is 0") { $0.maximumQueuedFrames = 0 },
    .init("maximumStreamWindow is 0") { $0.maximumStreamWindow = 0 },
    .init("maximumBufferedBytesPerConnection is 0") { $0.maximumBufferedBytesPerConnection = 0 },
    .init("maximumBufferedBytes is -1") { $0.maximumBufferedBytes = -1 },
    .init("handshakeTimeout is 0.0 seconds") { $0.handshakeTimeout = .zero },
    .init("headerTimeout is -1.0 seconds") { $0.headerTimeout = .seconds(-1) },
    .init("stalledCallTimeout is 0.0 seconds") { $0.stalledCallTimeout = .zero },
    .init("keepalive.interval is 0.0 seconds") { $0.keepalive = Keepalive(interval: .zero) },
    .init("keepalive.timeout is -1.0 seconds") {
      $0.keepalive = Keepalive(interval: .seconds(1), timeout: .seconds(-1))
    },
    .init("minimumPingInterval is -1.0 seconds") { $0.minimumPingInterval = .seconds(-1) },
    .init("maximumConnectionIdle is 0.0 seconds") { $0.maximumConnectionIdle = .zero },
    .init("maximumConnectionAge is 0.0 seconds") { $0.maximumConnectionAge = .zero },
    .init("maximumConnectionAgeGrace is -1.0 seconds") {
      $0.maximumConnectionAgeGrace = .seconds(-1)
    },
    .init("closeTimeout is -1.0 seconds") { $0.closeTimeout = .seconds(-1) },
    .init("tls.reloadInterval is -1.0 seconds") {
      $0.tls = ServerTLS(identity: TLSIdentity(certificateChainFile: "a", privateKeyFile: "b"))
      $0.tls?.reloadInterval = .seconds(-1)
    },
  ]

  @Test(arguments: serverMistakes)
  private func aServersSettingIsNamedWhenItIsToListen(mistake: ServerMistake) async throws {
    var configuration = RPCServer.Configuration()
    mistake.make(&configuration)
    let server = RPCServer(services: [TestService()], configuration: configuration)
    let error = await #expect(throws: ConfigurationError.self) {
      try await server.listen(on: Self.anywhere)
    }
    let words = "RPCServer.Configuration.\(mistake.words); expected "
    #expect(error?.description.hasPrefix(words) == true, "\(String(describing: error))")
    // In memory nobody listens.
    let inMemory = await Self.callError(server.inMemoryChannel())
    #expect(inMemory?.message.contains(mistake.words) == true)
    await #expect(throws: ConfigurationError.self) {
      try await withInMemoryServer([TestService()], configuration: configuration) { _ in }
    }
  }

  private struct Misnamed: RPCService {
    var descriptor: ServiceDescriptor { TestService().descriptor }
    func registerMethods(with router: inout Router) {
      router.unary(MethodDescriptor<Blob, Blob>("Unary")) { request, _ in request }
    }
  }

  private static let wrongServices: [([any RPCService], String, String)] = [
    ([TestService(), TestService()], "/test.Test/Unary", "one service that defines it, not two"),
    ([Misnamed()], "Unary", "/package.Service/Method"),
  ]

  @Test(arguments: wrongServices)
  func aServicesMethodIsNamed(
    services: [any RPCService], path: String, expected: String
  ) async throws {
    let error = await #expect(throws: ConfigurationError.self) {
      try await RPCServer(services: services).listen(on: Self.anywhere)
    }
    #expect(
      error?.description
        == "a method of RPCServer's services is \"\(path)\"; expected \(expected)")
  }

  @Test(arguments: [
    (ListenAddress.tcp(host: "127.0.0.1", port: 65_536), "the port 65536"),
    (.tcp(host: "127.0.0.1", port: -1), "the port -1"),
    (.tcp(host: "", port: 0), "the host is empty"), (.tcp(host: "a b", port: 0), "\"a b\""),
    (.unix(path: ""), "the path is empty"),
    (.unix(path: String(repeating: "x", count: 108)), "108 bytes"),
    (.unix(path: "a\0b"), "a zero"),
  ])
  func anAddressThatIsNoneIsNotListenedOn(address: ListenAddress, words: String) async throws {
    let server = RPCServer(services: [TestService()])
    let error = await #expect(throws: RPCServer.ListenError.self) {
      try await server.listen(on: address)
    }
    #expect(error?.reason.contains(words) == true, "\(String(describing: error))")
    #expect(error?.address == address)
  }

  @Test func aServerThatWasShutDownDoesNotListen() async throws {
    let server = RPCServer(services: [TestService()])
    await server.shutdown(grace: .seconds(-1))
    let error = await #expect(throws: RPCServer.ListenError.self) {
      try await server.listen(on: Self.anywhere)
    }
    #expect(error?.reason == "the server was shut down")
  }

  // "No limit" is a large number to most: nothing overflows.
  @Test func theLargestValuesServe() async throws {
    var server = RPCServer.Configuration()
    let rate = RPCServer.RateLimit(burst: .max, perSecond: .max)
    (server.receivedResets, server.provokedResets) = (rate, rate)
    (server.emptyFrames, server.windowUpdates) = (rate, rate)
    server.maximumRequestBytes = .max
    server.maximumConcurrentCallsPerConnection = .max
    server.maximumRunningCallsPerConnection = .max
    server.maximumRunningCalls = .max
    server.maximumConnections = .max
    server.backlog = .max
    server.maximumHeaderListBytes = .max
    server.maximumContinuationFrames = .max
    server.maximumQueuedFrames = .max
    server.maximumStreamWindow = .max
    let ever = Duration.seconds(Int64.max)
    server.handshakeTimeout = ever
    server.headerTimeout = ever
    server.stalledCallTimeout = ever
    server.keepalive = Keepalive(interval: ever, timeout: ever, withoutCalls: true)
    server.minimumPingInterval = ever
    server.maximumConnectionIdle = ever
    server.maximumConnectionAge = ever
    server.maximumConnectionAgeGrace = ever
    var client = RPCChannel.Configuration()
    client.connectTimeout = ever
    client.initialBackoff = ever
    client.maximumBackoff = ever
    client.maximumWaitingCalls = .max
    client.keepalive = Keepalive(interval: ever, timeout: ever, withoutCalls: true)
    client.unacknowledgedTimeout = ever
    client.idleTimeout = ever
    client.maximumHeaderListBytes = .max
    client.maximumStreamWindow = .max
    server.responseCompression = .gzip
    try await withServer(configuration: server, channelConfiguration: client) { channel, _ in
      let blob = Blob([UInt8](repeating: 1, count: 1 << 20))
      for compression in [Compression.identity, .gzip] {
        let answer = try await channel.unary(
          Methods.unary, blob,
          options: CallOptions(
            timeout: ever, maximumRequestBytes: .max, maximumResponseBytes: .max,
            compression: compression))
        #expect(answer == blob)
      }
    }
  }

  @Test func theSmallestWindowServes() async throws {
    var server = RPCServer.Configuration()
    server.maximumStreamWindow = 1
    var client = RPCChannel.Configuration()
    client.maximumStreamWindow = 1
    try await withServer(configuration: server, channelConfiguration: client) { channel, _ in
      for _ in 0..<3 {
        let answer = try await channel.unary(Methods.unary, Blob("hello"))
        #expect(answer.text == "hello")
      }
    }
  }

  // MARK: A channel

  private struct ChannelMistake: Sendable, CustomTestStringConvertible {
    let words: String
    let make: @Sendable (inout RPCChannel.Configuration) -> Void
    var testDescription: String { self.words }

    init(_ words: String, _ make: @escaping @Sendable (inout RPCChannel.Configuration) -> Void) {
      self.words = words
      self.make = make
    }

    static func service(
      _ words: String, names: [MethodConfig.Name] = [.init()],
      _ make: @escaping @Sendable (inout MethodConfig) -> Void
    ) -> Self {
      Self("ServiceConfig.methods[0]." + words) { configuration in
        var method = MethodConfig(names: names)
        make(&method)
        configuration.serviceConfig = ServiceConfig(methods: [method])
      }
    }
  }

  private static let channelMistakes: [ChannelMistake] = [
    .init("RPCChannel.Configuration.authority is \"\"") { $0.authority = "" },
    .init("RPCChannel.Configuration.authority is \"a\nb\"") { $0.authority = "a\nb" },
    .init("RPCChannel.Configuration.connectTimeout is 0.0 seconds") { $0.connectTimeout = .zero },
    .init("RPCChannel.Configuration.initialBackoff is 0.0 seconds") { $0.initialBackoff = .zero },
    .init("RPCChannel.Configuration.maximumBackoff is 0.0 seconds") { $0.maximumBackoff = .zero },
    .init("RPCChannel.Configuration.maximumWaitingCalls is 0") { $0.maximumWaitingCalls = 0 },
    .init("RPCChannel.Configuration.keepalive.interval is 0.0 seconds") {
      $0.keepalive = Keepalive(interval: .zero)
    },
    .init("RPCChannel.Configuration.unacknowledgedTimeout is -1.0 seconds") {
      $0.unacknowledgedTimeout = .seconds(-1)
    },
    .init("RPCChannel.Configuration.idleTimeout is 0.0 seconds") { $0.idleTimeout = .zero },
    .init("RPCChannel.Configuration.maximumHeaderListBytes is -1") {
      $0.maximumHeaderListBytes = -1
    },
    .init("RPCChannel.Configuration.maximumStreamWindow is -1") { $0.maximumStreamWindow = -1 },
    .init("RPCChannel.Configuration.tls.serverName is \"\"") {
      $0.tls = ClientTLS(serverName: "")
    },
    .service("timeout is 0.0 seconds") { $0.timeout = .zero },
    .service("maximumRequestBytes is -1") { $0.maximumRequestBytes = -1 },
    .service("maximumResponseBytes is -1") { $0.maximumResponseBytes = -1 },
    .service("names is a method \"M\"; expected a service", names: [.init(method: "M")]) { _ in },
    .service("names is \"/a.B/\"", names: [.init(service: "/a.B")]) { _ in },
    .service(
      "names is \"a.B/\" once more", names: [.init(service: "a.B"), .init(service: "a.B")]
    ) { _ in },
    .service("resilience.retry.maximumAttempts is 1") {
      $0.resilience = .retry(RetryPolicy(maximumAttempts: 1))
    },
    .service("resilience.retry.initialBackoff is 0.0 seconds") {
      $0.resilience = .retry(RetryPolicy(maximumAttempts: 2, initialBackoff: .zero))
    },
    .service("resilience.retry.maximumBackoff is 0.0 seconds") {
      $0.resilience = .retry(RetryPolicy(maximumAttempts: 2, maximumBackoff: .zero))
    },
    .service("resilience.retry.backoffMultiplier is nan") {
      $0.resilience = .retry(RetryPolicy(maximumAttempts: 2, backoffMultiplier: .nan))
    },
    .service("resilience.retry.retryableCodes is empty") {
      $0.resilience = .retry(RetryPolicy(maximumAttempts: 2, retryableCodes: []))
    },
    .service("resilience.retry.retryableCodes is OK among others") {
      $0.resilience = .retry(RetryPolicy(maximumAttempts: 2, retryableCodes: [.ok, .aborted]))
    },
    .service("resilience.hedge.maximumAttempts is 0") {
      $0.resilience = .hedge(HedgingPolicy(maximumAttempts: 0, delay: .zero))
    },
    .service("resilience.hedge.delay is -1.0 seconds") {
      $0.resilience = .hedge(HedgingPolicy(maximumAttempts: 2, delay: .seconds(-1)))
    },
    .service("resilience.hedge.nonFatalCodes is OK among others") {
      $0.resilience = .hedge(
        HedgingPolicy(maximumAttempts: 2, delay: .zero, nonFatalCodes: [.ok]))
    },
    .init("ServiceConfig.retryThrottling.maximumTokens is 1001.0") {
      $0.serviceConfig.retryThrottling = RetryThrottling(maximumTokens: 1_001, tokenRatio: 1)
    },
    .init("ServiceConfig.retryThrottling.tokenRatio is nan") {
      $0.serviceConfig.retryThrottling = RetryThrottling(maximumTokens: 10, tokenRatio: .nan)
    },
  ]

  @Test(arguments: channelMistakes)
  private func aChannelsSettingIsNamedByItsCalls(mistake: ChannelMistake) async throws {
    var configuration = RPCChannel.Configuration()
    mistake.make(&configuration)
    let error = await Self.callError(RPCChannel(to: Self.nobody, configuration: configuration))
    #expect(error?.code == .invalidArgument)
    #expect(error?.message.hasPrefix(mistake.words) == true, "\(String(describing: error))")
    // One that can throw does so at once.
    #expect(throws: ConfigurationError.self) {
      try RPCChannel(to: "127.0.0.1:1", configuration: configuration)
    }
  }

  @Test(arguments: [
    (ListenAddress.tcp(host: "127.0.0.1", port: 70_000), "the port 70000"),
    (.tcp(host: "localhost", port: 0), "the port 0"), (.tcp(host: "", port: 1), "host is empty"),
    (.unix(path: String(repeating: "x", count: 200)), "200 bytes"),
    (.tcp(host: "a:b", port: 80), "\"a:b\" is no address of IPv6"),
  ])
  func callsToAnAddressThatIsNoneAreToldSo(address: ListenAddress, words: String) async throws {
    let error = await Self.callError(RPCChannel(to: address))
    #expect(error?.code == .invalidArgument)
    #expect(error?.message.contains(words) == true, "\(String(describing: error))")
  }

  @Test(arguments: [
    ("http://localhost:80", "http:// does not belong to it"), ("host:0", "the port 0"),
    ("dns:host:0", "the port 0"), ("ipv4:1.2.3.4:0", "the port 0"),
    ("ipv4:localhost:80", "\"localhost:80\" is no address of ipv4"),
    ("ipv4:1.2.3.256:80", "\"1.2.3.256:80\" is no address of ipv4"),
    ("ipv4:unix:/a", "\"unix:/a\" is no address of ipv4"),
    ("ipv6:1.2.3.4:80", "\"1.2.3.4:80\" is no address of ipv6"), ("ipv4:", "there is no port"),
    ("a b:80", "\"a b\""), ("host/path:80", "\"host/path\""), ("unix:a\0b", "a zero"),
    ("localhost", "there is no port; expected HOST:PORT or unix:PATH"),
    ("dns:localhost", "there is no port; expected dns:HOST:PORT or dns:///HOST:PORT"),
    ("dns:[localhost]:80", "\"localhost\" in square brackets is no address of IPv6; expected dns:"),
    ("ipv4:127.0.0.010:80", "\"127.0.0.010:80\" is no address of ipv4"),
    ("ipv4:1.2.3.4", "there is no port; expected ipv4:ADDRESS:PORT, or several"),
    ("ipv6:[::1]", "there is no port; expected ipv6:[ADDRESS]:PORT, or several"),
    ("ipv6:[a:b]:1", "\"a:b\" is no address of IPv6; expected ipv6:[ADDRESS]:PORT"),
    ("unix://host/path", "on no other host (host); expected unix:PATH or unix:///PATH"),
    ("unix-abstract:123", "unix-abstract: is not supported"),
  ])
  func aTargetThatIsNoneIsToldWhy(text: String, words: String) {
    let error = #expect(throws: ListenAddress.ParseError.self) { try RPCChannel(to: text) }
    #expect(error?.description.contains(words) == true, "\(String(describing: error))")
  }

  // MARK: A call

  private static let misnamed: CallOptions = {
    var metadata = Metadata()
    metadata.add(binary: [1], for: "key")
    return CallOptions(metadata: metadata)
  }()

  @Test(arguments: [
    (CallOptions(maximumRequestBytes: -1), "CallOptions.maximumRequestBytes is -1"),
    (CallOptions(maximumResponseBytes: -2), "CallOptions.maximumResponseBytes is -2"),
    (CallOptions(metadata: ["no name": "x"]), "a name of the metadata is \"no name\""),
    (CallOptions(metadata: ["": "x"]), "a name of the metadata is \"\""),
    (CallOptions(metadata: [":path": "/a/b"]), "a name of the metadata is \":path\""),
    (CallOptions(metadata: ["naïve": "x"]), "a name of the metadata is \"naïve\""),
    (CallOptions(metadata: ["key-bin": "so?"]), "the metadata's key-bin is \"so?\""),
    (misnamed, "a name of binary metadata is \"key\"; expected one that ends in -bin"),
  ])
  func aCallsOptionsAreNamed(options: CallOptions, words: String) async throws {
    try await withServer { channel, _ in
      let errors = [
        await #expect(throws: RPCError.self) {
          try await channel.unary(Methods.unary, Blob(), options: options)
        },
        await #expect(throws: RPCError.self) {
          let _: ResponseStream<Blob> = try await channel.serverStreaming(
            Methods.server, Blob(), options: options)
        },
        await #expect(throws: RPCError.self) {
          let _: ClientStreamingCall<Blob, Blob> = try await channel.clientStreaming(
            Methods.client, options: options)
        },
        await #expect(throws: RPCError.self) {
          let _: BidirectionalCall<Blob, Blob> = try await channel.bidirectional(
            Methods.both, options: options)
        },
      ]
      for error in errors {
        #expect(error?.code == .invalidArgument)
        #expect(error?.message.hasPrefix(words) == true, "\(String(describing: error))")
      }
    }
  }

  @Test func metadataThatCameCanBePassedOn() async throws {
    var service = TestService()
    service.unary = { _, context in Blob(context.metadata["user-agent"] ?? "none") }
    try await withServer(service) { channel, _ in
      var metadata: Metadata = ["user-agent": "x", "te": "trailers", "grpc-timeout": "1S"]
      metadata.add(binary: [1, 2, 3], for: "Key-BIN")
      let answer = try await channel.unary(
        Methods.unary, Blob(), options: CallOptions(metadata: metadata))
      #expect(answer.text.hasPrefix("grpc-swift"))
    }
  }

  @Test(arguments: [Duration.zero, .seconds(-1)])
  func aDeadlineThatHasPassedIsToldAndNothingIsSent(timeout: Duration) async throws {
    let (channel, _) = ScriptedPeer.server()
    let error = await Self.callError(channel, CallOptions(timeout: timeout))
    #expect(error?.code == .deadlineExceeded)
    #expect(error?.message == "the deadline of /test.Test/Unary had passed before it began")
  }

  @Test(arguments: ["", "Unary", "/Unary", "//Unary", "/test.Test/", "test.Test/Unary", "/a b/C"])
  func aMethodsPathIsNamed(path: String) async throws {
    let method = MethodDescriptor<Blob, Blob>(path)
    try await withServer { channel, _ in
      let errors = [
        await #expect(throws: RPCError.self) { try await channel.unary(method, Blob()) },
        await #expect(throws: RPCError.self) {
          let _: ResponseStream<Blob> = try await channel.serverStreaming(method, Blob())
        },
      ]
      for error in errors {
        #expect(error?.code == .invalidArgument)
        #expect(
          error?.message == "the method's path is \"\(path)\"; expected /package.Service/Method")
      }
    }
  }

  @Test func anInterceptorHearsOfACallWhoseOptionsCannotBe() async throws {
    struct Meddler: ClientInterceptor {
      let heard: Signal
      func intercept(_ call: inout OutgoingCall) async throws {
        call.options.maximumResponseBytes = -1
        call.onEnd { summary in
          guard summary.code == .invalidArgument else { return }
          Task { await self.heard.set() }
        }
      }
    }
    let heard = Signal()
    var configuration = RPCChannel.Configuration()
    configuration.interceptors = [Meddler(heard: heard)]
    let error = await Self.callError(RPCChannel(to: Self.nobody, configuration: configuration))
    #expect(error?.code == .invalidArgument)
    await heard.wait()
  }

  // MARK: Values

  @Test(arguments: [
    (Duration.seconds(-1), Duration.zero), (.seconds(Int64.max), .seconds(31_536_000)),
  ])
  func aRetryDelayStaysWithinAYear(delay: Duration, told: Duration) {
    #expect(RPCError(.unavailable, "busy", retryDelay: delay).retryDelay == told)
  }

  @Test func anErrorIsNeverOK() {
    #expect(RPCError(.ok, "no").code == .unknown)
  }

  @Test func aNumberOutsideOfAFrameIsZero() async throws {
    try await withServer { channel, _ in
      let peer = try await ScriptedPeer.client(of: ListenAddress("\(channel.target)"))
      try await peer.send(.ping, body: [1, 2, 3, 4, 5, 6, 7, 8])
      let frame = try #require(try await peer.frame(.ping))
      #expect([-1, 5, .max].map(frame.number) == [0, 0, 0])
      #expect(frame.number(at: 4) == 0x0506_0708)
      await peer.close()
    }
  }
}
