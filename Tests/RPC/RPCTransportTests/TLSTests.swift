import NIOCore
import NIOPosix
import NIOSSL
import NIOTLS
import RPCCore
import RPCHTTP2
import RPCTesting
import Synchronization
import Testing

@testable import RPCTransport

#if canImport(Glibc)
  import Glibc
#endif

@Suite struct TLSTests {
  private static let folder =
    String(#filePath.dropLast("TLSTests.swift".count))
    + "Certificates/"

  private static func file(_ name: String) -> String { Self.folder + name }

  private static func identity(_ name: String) -> TLSIdentity {
    TLSIdentity(
      certificateChainFile: Self.file("\(name).pem"), privateKeyFile: Self.file("\(name).key"))
  }

  private static func server(
    _ clients: ServerTLS.ClientCertificates = .none, identity: String = "server"
  ) -> RPCServer.Configuration {
    var configuration = RPCServer.Configuration()
    configuration.tls = ServerTLS(identity: Self.identity(identity), clientCertificates: clients)
    return configuration
  }

  private static func client(
    _ roots: ClientTLS.TrustRoots = .file(Self.file("authority.pem")), identity: String? = nil,
    serverName: String? = "localhost"
  ) -> RPCChannel.Configuration {
    var configuration = RPCChannel.Configuration()
    configuration.tls = ClientTLS(
      trustRoots: roots, identity: identity.map(Self.identity), serverName: serverName)
    configuration.connectTimeout = .seconds(20)
    return configuration
  }

  @Test func callsOfEveryShapeGoThroughTLS() async throws {
    try await withServer(
      configuration: Self.server(), channelConfiguration: Self.client()
    ) { channel, _ in
      let large = Blob([UInt8](repeating: 7, count: 1 << 20))
      #expect(try await channel.unary(Methods.unary, large) == large)
      let call: BidirectionalCall<Blob, Blob> = try await channel.bidirectional(Methods.both)
      try await call.send(Blob("a"))
      await call.finishSending()
      var answers: [String] = []
      for try await answer in call.responses { answers.append(answer.text) }
      #expect(answers == ["a"])
    }
  }

  @Test func withMutualTLSTheHandlerKnowsTheClient() async throws {
    let seen = Mutex<PeerIdentity?>(nil)
    var service = TestService()
    service.unary = { request, context in
      seen.withLock { $0 = context.peerIdentity }
      return request
    }
    try await withServer(
      service,
      configuration: Self.server(.required(trustRootsFile: Self.file("authority.pem"))),
      channelConfiguration: Self.client(identity: "client")
    ) { channel, _ in
      _ = try await channel.unary(Methods.unary, Blob())
    }
    let identity = seen.withLock { $0 }
    #expect(identity?.dnsNames == ["client"])
    #expect(identity?.uris == ["spiffe://millrace.test/client"])
  }

  @Test func aClientWithoutACertificateIsRefusedWhereOneIsRequired() async throws {
    try await withServer(
      configuration: Self.server(.required(trustRootsFile: Self.file("authority.pem"))),
      channelConfiguration: Self.client()
    ) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(error?.code == .unavailable)
    }
  }

  @Test func inMemoryAPeerIdentityStandsForACertificate() async throws {
    let seen = Mutex<PeerIdentity?>(nil)
    var service = TestService()
    service.unary = { request, context in
      seen.withLock { $0 = context.peerIdentity }
      return request
    }
    let configuration = Self.server(.required(trustRootsFile: Self.file("authority.pem")))
    let server = RPCServer(services: [service], configuration: configuration)
    // That it listens with TLS changes nothing.
    _ = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    let client = PeerIdentity(dnsNames: ["client"])
    let channel = server.inMemoryChannel(configuration: Self.client(), peerIdentity: client)
    _ = try await channel.unary(Methods.unary, Blob())
    #expect(seen.withLock { $0 } == client)
    let stranger = server.inMemoryChannel()
    let error = await #expect(throws: RPCError.self) {
      try await stranger.unary(Methods.unary, Blob())
    }
    #expect(error?.message.contains("the server requires a certificate of its clients") == true)
    await channel.close()
    await stranger.close()
    await server.shutdown(grace: .seconds(1))
    let late = server.inMemoryChannel(peerIdentity: client)
    let end = await #expect(throws: RPCError.self) { try await late.unary(Methods.unary, Blob()) }
    #expect(end?.message.contains("the server was shut down") == true)
    await late.close()
  }

  @Test func aServerOfAStrangerIsNotTrusted() async throws {
    for configuration in [
      Self.client(.file(Self.file("stranger.pem"))), Self.client(serverName: "elsewhere"),
      Self.client(.system),
    ] {
      try await withServer(
        configuration: Self.server(), channelConfiguration: configuration
      ) { channel, _ in
        let error = await #expect(throws: RPCError.self, "\(configuration.tls!)") {
          try await channel.unary(Methods.unary, Blob())
        }
        #expect(error?.code == .unavailable)
      }
    }
    try await withServer(
      configuration: Self.server(), channelConfiguration: Self.client(.anybody)
    ) { channel, _ in _ = try await channel.unary(Methods.unary, Blob()) }
  }

  @Test func aCertificateCanBeForAnAddress() async throws {
    try await withServer(
      configuration: Self.server(identity: "address"),
      channelConfiguration: Self.client(serverName: nil)
    ) { channel, _ in _ = try await channel.unary(Methods.unary, Blob()) }
    try await withServer(
      configuration: Self.server(), channelConfiguration: Self.client(serverName: nil)
    ) { channel, _ in
      await #expect(throws: RPCError.self) { try await channel.unary(Methods.unary, Blob()) }
    }
  }

  /// Whoever answers names wrongly has a certificate for the address, and for no name of others.
  @Test(arguments: ["localhost", "127.0.0.2", "elsewhere"])
  func aCertificateForTheAddressIsForNothingElse(name: String) async throws {
    let calls = Mutex(0)
    var service = TestService()
    service.unary = { request, _ in
      calls.withLock { $0 += 1 }
      return request
    }
    try await withServer(
      service, configuration: Self.server(identity: "address"),
      channelConfiguration: Self.client(serverName: name)
    ) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(error?.code == .unavailable)
      let wanted = name == "127.0.0.2" ? name : "\"\(name)\""
      #expect(
        error?.message.hasSuffix(
          "the server's certificate is not for \(wanted), but for \"127.0.0.1\"") == true,
        "\(error?.message ?? "")")
    }
    #expect(calls.withLock { $0 } == 0)
  }

  @Test(arguments: [("server", nil, true), ("address", nil, false), ("server", "successor", false)])
  func aServerOnThisMachineIsCalledLocalhost(
    identity: String, name: String?, isTrusted: Bool
  ) async throws {
    let path = "/tmp/millrace-tls-\(getpid())-\(UInt32.random(in: .min ... .max)).socket"
    let server = RPCServer(
      services: [TestService()], configuration: Self.server(identity: identity))
    let address = try await server.listen(on: .unix(path: path))
    let channel = RPCChannel(to: address, configuration: Self.client(serverName: name))
    let answer = try? await channel.unary(Methods.unary, Blob())
    #expect((answer != nil) == isTrusted)
    await channel.close()
    await server.shutdown(grace: .seconds(1))
    unlink(path)
  }

  @Test(arguments: [
    ("a.example", ["a.example"], true), ("A.Example.", ["a.example"], true),
    ("a.example", ["b.example", "*.example.org", "A.EXAMPLE"], true),
    ("a.b.example", ["*.b.example"], true), ("a.b.example", ["*.B.Example."], true),
    ("b.example", ["*.b.example"], false), ("x.a.b.example", ["*.b.example"], false),
    ("a.example", ["*.example"], false), ("a.b.example", ["a*.b.example"], false),
    ("a.b.example", ["*"], false),
    ("a.b.example", ["a.*.example"], false), ("a.b.example", [], false),
    ("127.0.0.1", ["127.0.0.1"], false), ("xn--bcher-kva.example", ["XN--bcher-kva.example"], true),
    // The Kelvin sign, in lower case a k, and what a C string ends with.
    ("bank.example", ["ban\u{212a}.example"], false),
    ("bank.example", ["bank.example\0.evil.example", "bank.example\0"], false),
  ])
  func aCertificateIsForTheNamesInIt(name: String, dnsNames: [String], isIt: Bool) throws {
    #expect(try ServerIdentity(name).isNamed(by: PeerIdentity(dnsNames: dnsNames)) == isIt)
  }

  @Test(arguments: [
    ("127.0.0.1", "127.0.0.1", true), ("127.0.0.1", "127.0.0.2", false),
    ("::1", "0:0:0:0:0:0:0:1", true), ("::1", "::ffff:127.0.0.1", false),
    ("localhost", "127.0.0.1", false), ("[::1]", "::1", true), ("fe80::1%eth0", "fe80::1", true),
  ])
  func aCertificateIsForTheAddressesInIt(host: String, address: String, isIt: Bool) throws {
    #expect(try ServerIdentity(host).isNamed(by: PeerIdentity(addresses: [address])) == isIt)
  }

  @Test(arguments: [
    "b\u{fc}cher.example", "a b", "", ".", ".b.example", "a..b", String(repeating: "a", count: 64),
  ])
  func whatNoCertificateIsForIsNoServerName(name: String) async throws {
    try await withServer(
      configuration: Self.server(), channelConfiguration: Self.client(serverName: name)
    ) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(
        error?.message.contains("tls.serverName is \"\(name)\"; expected an address") == true,
        "\(error!)")
    }
  }

  @Test(.timeLimit(.minutes(1)))
  func eachOfSeveralAddressesHasACertificateOfItsOwn() async throws {
    let callers = Mutex<Set<String>>([])
    var servers: [RPCServer] = []
    var ports: [Int] = []
    for (name, host) in [("address", "127.0.0.1"), ("neighbour", "127.0.0.2")] {
      var service = TestService()
      service.unary = { request, _ in
        _ = callers.withLock { $0.insert(name) }
        return request
      }
      let server = RPCServer(services: [service], configuration: Self.server(identity: name))
      guard case .tcp(_, let port) = try await server.listen(on: .tcp(host: host, port: 0)) else {
        return
      }
      servers.append(server)
      ports.append(port)
    }
    var configuration = Self.client(serverName: nil)
    configuration.serviceConfig.loadBalancing = .roundRobin
    let channel = RPCChannel(
      to: try ChannelTarget("ipv4:127.0.0.1:\(ports[0]),127.0.0.2:\(ports[1])"),
      configuration: configuration)
    try await waitUntil {
      _ = try await channel.unary(Methods.unary, Blob())
      return callers.withLock { $0 } == ["address", "neighbour"]
    }
    await channel.close()
    for server in servers { await server.shutdown(grace: .seconds(1)) }
  }

  private final class Handshakes: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    let count = Mutex(0)
    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
      if case .handshakeCompleted? = event as? TLSUserEvent { self.count.withLock { $0 += 1 } }
    }
  }

  /// With TLS 1.3 a client that has heard the server's last word of the handshake may show its certificate.
  @Test(.timeLimit(.minutes(1)))
  func aWrongServerDoesNotGetTheClientsCertificate() async throws {
    var configuration = TLSConfiguration.makeServerConfiguration(
      certificateChain: try NIOSSLCertificate.fromPEMFile(Self.file("address.pem"))
        .map { .certificate($0) },
      privateKey: .privateKey(try NIOSSLPrivateKey(file: Self.file("address.key"), format: .pem)))
    configuration.applicationProtocols = ["h2"]
    configuration.certificateVerification = .noHostnameVerification
    configuration.trustRoots = .file(Self.file("authority.pem"))
    let context = try NIOSSLContext(configuration: configuration)
    let handshakes = Handshakes()
    let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: context))
          try channel.pipeline.syncOperations.addHandler(handshakes)
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    let address = ListenAddress.tcp(host: "127.0.0.1", port: server.localAddress!.port!)
    for (name, isRight) in [("localhost", false), ("127.0.0.1", true)] {
      let configuration = Self.client(identity: "client", serverName: name)
      // The server says nothing of HTTP/2, so that no call comes about with the right one either.
      let channel = RPCChannel(to: address, configuration: configuration)
      let call = Task { try await channel.unary(Methods.unary, Blob()) }
      if isRight {
        try await waitUntil { handshakes.count.withLock { $0 > 0 } }
      } else {
        _ = try? await call.value
      }
      await channel.close()
      #expect(handshakes.count.withLock { $0 > 0 } == isRight)
    }
    try await server.close()
  }

  @Test func aCallThatWaitsInVainSaysWhatItWaitedFor() async throws {
    try await withServer(
      configuration: Self.server(), channelConfiguration: Self.client(serverName: "elsewhere")
    ) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(
          Methods.unary, Blob(), options: CallOptions(timeout: .seconds(1), waitForReady: true))
      }
      #expect(error?.code == .deadlineExceeded)
      #expect(error?.message.contains("there was no connection: ") == true)
      #expect(error?.message.contains("not for \"elsewhere\"") == true)
    }
  }

  /// While the roots are read, and just behind that.
  @Test(.timeLimit(.minutes(1)), arguments: [0, 50, 200, 500, 2_000, 10_000])
  func aChannelThatIsClosedWhileItConnectsIsClosed(microseconds: Int) async throws {
    let server = RPCServer(services: [TestService()], configuration: Self.server())
    let address = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    for roots in [ClientTLS.TrustRoots.file(Self.file("authority.pem")), .system] {
      for _ in 0..<5 {
        let channel = RPCChannel(to: address, configuration: Self.client(roots))
        let call = Task { try await channel.unary(Methods.unary, Blob()) }
        try await Task.sleep(for: .microseconds(microseconds))
        await channel.close()
        _ = try? await call.value
      }
    }
    await server.shutdown(grace: .seconds(1))
  }

  private final class Listening: ClientConnectionOwner, Sendable {
    let ready = Mutex(0)
    func connectionReady(_ connection: Connection) { self.ready.withLock { $0 += 1 } }
    func connectionRetired(_ connection: Connection, tooManyPings: Bool) {}
    func connectionClosed(_ connection: Connection, wasReady: Bool, _ reason: String) {}
  }

  /// TLS hands on what comes while it says goodbye.
  @Test(arguments: [false, true])
  func aGreetingThatComesTooLateCountsNoMore(isClosed: Bool) async throws {
    let executor = LoopExecutor.of(MultiThreadedEventLoopGroup.singleton.next())
    let channel = Listening()
    try await executor.eventLoop.submit {
      let client = ClientConnection(channel: channel)
      let connection = Connection(
        .client, executor: executor, configuration: HTTP2Session.Configuration(),
        life: ConnectionLife.Limits(handshake: .seconds(10)), owner: client)
      client.connection = connection
      if isClosed { connection.close("it took too long") }
      client.settingsReceived()
      #expect(client.isGreeted == !isClosed)
    }.get()
    #expect(channel.ready.withLock { $0 } == (isClosed ? 0 : 1))
  }

  @Test(arguments: [
    ("missing.key", "missing.key cannot be read: no such file"),
    ("client.key", "certificate and key do not fit each other"),
    ("server.key\0.backup", "has a NUL"),
  ])
  func filesThatAreOfNoUseAreNamed(key: String, mistake: String) async throws {
    var configuration = Self.server()
    configuration.tls?.identity.privateKeyFile = Self.file(key)
    let server = RPCServer(services: [TestService()], configuration: configuration)
    let error = await #expect(throws: TLSError.self) {
      try await server.listen(on: ListenAddress("127.0.0.1:0"))
    }
    #expect(error?.description.contains(mistake) == true, "\(error?.description ?? "")")
    await server.shutdown(grace: .zero)
  }

  /// Runs `body` with a server whose file system hangs, and with connections to it.
  private static func whileCertificatesAreRead(
    _ configuration: RPCServer.Configuration, connections count: Int,
    _ body: (RPCServer, [any Channel]) async throws -> Void
  ) async throws {
    let certificate = "/tmp/millrace-tls-\(getpid())-\(UInt32.random(in: .min ... .max)).pem"
    defer { unlink(certificate) }
    try Self.copy("server.pem", to: certificate)
    var configuration = configuration
    configuration.tls?.identity.certificateChainFile = certificate
    configuration.tls?.reloadInterval = .zero
    let server = RPCServer(services: [TestService()], configuration: configuration)
    guard case .tcp(let host, let port) = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    else { return }
    unlink(certificate)
    try #require(mkfifo(certificate, 0o600) == 0)
    // Whoever reads the certificate gets an end.
    defer { close(open(certificate, O_WRONLY)) }
    var channels: [any Channel] = []
    for _ in 0..<count {
      let bootstrap = ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      channels.append(try await bootstrap.connect(host: host, port: port).get())
    }
    try await body(server, channels)
  }

  @Test(.timeLimit(.minutes(1)))
  func connectionsThatWaitForCertificatesCountAndEndWithTheServer() async throws {
    var configuration = Self.server()
    configuration.maximumConnections = 2
    configuration.handshakeTimeout = .seconds(30)
    try await Self.whileCertificatesAreRead(configuration, connections: 3) { server, channels in
      let begin = ContinuousClock.now
      // Each comes to its own loop: any of them may be the last.
      try await waitUntil { channels.filter { !$0.isActive }.count == 1 }
      await server.shutdown(grace: .seconds(30))
      for channel in channels { try await channel.closeFuture.get() }
      // Sooner than the certificate is given up.
      #expect(begin.duration(to: .now) < .seconds(20))
    }
  }

  @Test(.timeLimit(.minutes(1)))
  func whoWaitsForCertificatesIsClosedInTime() async throws {
    var configuration = Self.server()
    configuration.handshakeTimeout = .milliseconds(100)
    try await Self.whileCertificatesAreRead(configuration, connections: 1) { server, channels in
      let begin = ContinuousClock.now
      try await channels[0].closeFuture.get()
      #expect(begin.duration(to: .now) < .seconds(8))
      await server.shutdown(grace: .zero)
    }
  }

  /// TLS says goodbye, for which it waits.
  @Test(.timeLimit(.minutes(1)), arguments: [false, true])
  func aConnectionThatIsBeingClosedGetsNoFurtherCall(isSecure: Bool) async throws {
    try await withServer(
      configuration: isSecure ? Self.server() : RPCServer.Configuration(),
      channelConfiguration: isSecure ? Self.client() : RPCChannel.Configuration()
    ) { channel, _ in
      _ = try await channel.unary(Methods.unary, Blob())
      let core = channel.core
      let call = try await core.executor.eventLoop.submit {
        for connection in core.connections.values { connection.close("for a test") }
        return Task.immediate(executorPreference: core.executor) {
          try await channel.unary(Methods.unary, Blob("again"))
        }
      }.get()
      #expect(try await call.value.text == "again")
    }
  }

  @Test func changedFilesAreUsedByTheNextConnection() async throws {
    let folder = "/tmp/millrace-tls-\(getpid())-\(UInt32.random(in: .min ... .max))"
    mkdir(folder, 0o700)
    defer {
      for name in ["cert.pem", "key.pem"] { unlink("\(folder)/\(name)") }
      rmdir(folder)
    }
    try Self.copy("server.pem", to: "\(folder)/cert.pem")
    try Self.copy("server.key", to: "\(folder)/key.pem")
    let failures = Mutex<[String]>([])
    var configuration = RPCServer.Configuration()
    var tls = ServerTLS(
      identity: TLSIdentity(
        certificateChainFile: "\(folder)/cert.pem", privateKeyFile: "\(folder)/key.pem"))
    tls.reloadInterval = .zero
    tls.reloadFailed = { error in failures.withLock { $0.append("\(error)") } }
    configuration.tls = tls
    let server = RPCServer(services: [TestService()], configuration: configuration)
    let address = try await server.listen(on: ListenAddress("127.0.0.1:0"))

    /// Whether a new connection meets a certificate for that name.
    func serves(_ name: String) async -> Bool {
      let channel = RPCChannel(to: address, configuration: Self.client(serverName: name))
      let answer = try? await channel.unary(Methods.unary, Blob("x"))
      await channel.close()
      return answer != nil
    }
    #expect(await serves("localhost"))
    #expect(await !serves("successor"))
    // Half a change: the old pair stays in use, and somebody hears of it.
    try Self.copy("successor.pem", to: "\(folder)/cert.pem")
    while failures.withLock({ $0.isEmpty }) { _ = await serves("localhost") }
    #expect(await serves("localhost"))
    try Self.copy("successor.key", to: "\(folder)/key.pem")
    #expect(await serves("successor"))
    await server.shutdown(grace: .seconds(1))
  }

  @Test func whomChangedRootsDoNotVouchForIsNotLetInOnceMore() async throws {
    let roots = "/tmp/millrace-tls-\(getpid())-\(UInt32.random(in: .min ... .max)).pem"
    defer { unlink(roots) }
    try Self.copy("authority.pem", to: roots)
    var configuration = Self.server(.required(trustRootsFile: roots))
    configuration.tls?.reloadInterval = .zero
    try await withServer(
      configuration: configuration, channelConfiguration: Self.client(identity: "client")
    ) { channel, _ in
      _ = try await channel.unary(Methods.unary, Blob())
      try Self.copy("stranger.pem", to: roots)
      let address = try ListenAddress("\(channel.target)")
      let next = RPCChannel(to: address, configuration: Self.client(identity: "client"))
      let error = await #expect(throws: RPCError.self) {
        try await next.unary(Methods.unary, Blob())
      }
      // No line of BoringSSL's source.
      #expect(error?.message.contains("/") == false, "\(error?.message ?? "")")
      await next.close()
    }
  }

  /// A side of TLS that speaks other protocols, or says nothing of them.
  private static func without(http2 protocols: [String], isServer: Bool) throws -> NIOSSLContext {
    var configuration = TLSConfiguration.makeClientConfiguration()
    if isServer {
      configuration = .makeServerConfiguration(
        certificateChain: try NIOSSLCertificate.fromPEMFile(Self.file("server.pem")).map {
          .certificate($0)
        },
        privateKey: .privateKey(try NIOSSLPrivateKey(file: Self.file("server.key"), format: .pem)))
    }
    configuration.certificateVerification = .none
    configuration.applicationProtocols = protocols
    return try NIOSSLContext(configuration: configuration)
  }

  // RFC 9113, section 3.2.
  @Test(.timeLimit(.minutes(1)), arguments: [[], ["http/1.1"]])
  func aClientThatDoesNotOfferHTTP2IsLeft(protocols: [String]) async throws {
    let context = try Self.without(http2: protocols, isServer: false)
    try await withServer(configuration: Self.server(), channelConfiguration: Self.client()) {
      channel, _ in
      guard case .tcp(let host, let port) = try ListenAddress("\(channel.target)") else { return }
      let peer = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(
              NIOSSLClientHandler(context: context, serverHostname: nil))
          }
        }
        .connect(host: host, port: port).get()
      try await peer.closeFuture.get()
      _ = try await channel.unary(Methods.unary, Blob())
    }
  }

  @Test(arguments: [[], ["http/1.1"]])
  func aServerThatDoesNotOfferHTTP2IsLeft(protocols: [String]) async throws {
    let context = try Self.without(http2: protocols, isServer: true)
    let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: context))
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    let channel = RPCChannel(
      to: .tcp(host: "127.0.0.1", port: server.localAddress!.port!), configuration: Self.client())
    let error = await #expect(throws: RPCError.self) {
      try await channel.unary(Methods.unary, Blob())
    }
    #expect(error?.code == .unavailable)
    #expect(error?.message.contains("does not offer \"h2\" by ALPN") == true)
    await channel.close()
    try await server.close()
  }

  @Test(.timeLimit(.minutes(1))) func whoDoesNotShakeHandsIsClosed() async throws {
    var configuration = Self.server()
    configuration.handshakeTimeout = .milliseconds(100)
    try await withServer(configuration: configuration, channelConfiguration: Self.client()) {
      channel, _ in
      guard case .tcp(let host, let port) = try ListenAddress("\(channel.target)") else { return }
      let peer = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .connect(host: host, port: port).get()
      // The beginning of a record of 512 bytes.
      try? await peer.writeAndFlush(ByteBuffer(bytes: [0x16, 3, 1, 2, 0, 1]))
      try await peer.closeFuture.get()
    }
  }

  @Test func anEndWaitsForNobodyWhoDoesNotShakeHands() async throws {
    var configuration = Self.server()
    configuration.handshakeTimeout = .seconds(60)
    let server = RPCServer(services: [TestService()], configuration: configuration)
    guard case .tcp(let host, let port) = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    else { return }
    let peer = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .connect(host: host, port: port).get()
    // Until the server has it, too.
    try await Task.sleep(for: .milliseconds(200))
    let begin = ContinuousClock.now
    await server.shutdown(grace: .seconds(60))
    #expect(begin.duration(to: .now) < .seconds(20))
    try? await peer.close()
  }

  @Test func aPeerThatDoesNotSpeakTLSIsLeft() async throws {
    try await withServer(channelConfiguration: Self.client()) { channel, _ in
      let error = await #expect(throws: RPCError.self) {
        try await channel.unary(Methods.unary, Blob())
      }
      #expect(error?.code == .unavailable)
    }
  }

  /// Makes a handshake of TLS 1.2 with those suites; answers the version that was agreed on.
  private static func handshake(
    with address: ListenAddress, _ suites: [NIOTLSCipher]
  ) async throws -> TLSVersion? {
    var configuration = TLSConfiguration.makeClientConfiguration()
    configuration.maximumTLSVersion = .tlsv12
    configuration.cipherSuiteValues = suites
    configuration.applicationProtocols = ["h2"]
    configuration.certificateVerification = .none
    let context = try NIOSSLContext(configuration: configuration)
    guard case .tcp(let host, let port) = address else { return nil }
    let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(
            NIOSSLClientHandler(context: context, serverHostname: nil))
        }
      }.connect(host: host, port: port).get()
    defer { channel.close(promise: nil) }
    // What is written waits for the handshake.
    try await channel.writeAndFlush(ByteBuffer(string: "PRI")).get()
    return try await channel.nioSSL_tlsVersion().get()
  }

  @Test func suitesThatHTTP2ProhibitsAreNotTaken() async throws {
    try await withServer(configuration: Self.server()) { channel, _ in
      let address = try ListenAddress("\(channel.target)")
      let taken = try await Self.handshake(
        with: address,
        [.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, .TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256])
      #expect(taken == .tlsv12)
      await #expect(throws: (any Error).self) {
        try await Self.handshake(
          with: address,
          [.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, .TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA])
      }
    }
  }

  private static func copy(_ name: String, to path: String) throws {
    let from = try #require(fopen(Self.file(name), "r"))
    defer { fclose(from) }
    let to = try #require(fopen(path, "w"))
    defer { fclose(to) }
    var bytes = [UInt8](repeating: 0, count: 64 << 10)
    let count = fread(&bytes, 1, bytes.count, from)
    #expect(fwrite(bytes, 1, count, to) == count)
  }
}
