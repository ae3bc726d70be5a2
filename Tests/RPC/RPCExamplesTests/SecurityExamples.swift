import RPC
import RPCTesting
import Synchronization
import Testing

// [docs: authentication-server]
/// Who makes a call, for handlers.
enum CurrentUser: ServerContextKey { typealias Value = String }

struct Authentication: ServerInterceptor {
  let users: [String: String]

  func intercept(_ context: ServerContext, proceed: Proceed) async throws {
    guard let token = context.metadata["authorization"], let user = self.users[token] else {
      throw RPCError(.unauthenticated, "the token is missing, or nobody's")
    }
    context[CurrentUser.self] = user
    try await proceed()
  }
}
// [end]

// [docs: authentication-client]
struct Credentials: ClientInterceptor {
  let token: String

  func intercept(_ call: inout OutgoingCall) async throws {
    call.options.metadata.add("Bearer \(self.token)", for: "authorization")
  }
}
// [end]

@Suite struct SecurityExamples {
  private static func file(_ name: String) -> String {
    let here = String(#filePath.dropLast("RPCExamplesTests/SecurityExamples.swift".count))
    return here + "RPCTransportTests/Certificates/" + name
  }

  @Test func mutualTLSTellsTheHandlerWhoCalls() async throws {
    let seen = Mutex<[String]>([])
    let service = ClosureGreeter { request, context in
      // [docs: peer-identity]
      guard let client = context.peerIdentity else {
        throw RPCError(.unauthenticated, "the client showed no certificate")
      }
      let names = client.dnsNames + client.uris
      // [end]
      seen.withLock { $0 = names }
      return "Hello, \(request.name)"
    }
    let (serverChain, serverKey) = (Self.file("server.pem"), Self.file("server.key"))
    let (clientChain, clientKey) = (Self.file("client.pem"), Self.file("client.key"))
    let authority = Self.file("authority.pem")

    // [docs: server-tls]
    var configuration = RPCServer.Configuration()
    var tls = ServerTLS(
      identity: TLSIdentity(certificateChainFile: serverChain, privateKeyFile: serverKey),
      clientCertificates: .required(trustRootsFile: authority))
    tls.reloadInterval = .seconds(60)
    tls.reloadFailed = { error in print("the old certificate stays in use: \(error)") }
    configuration.tls = tls
    let server = RPCServer(services: [service], configuration: configuration)
    let address = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    // [end]

    // [docs: client-tls]
    var channelConfiguration = RPCChannel.Configuration()
    channelConfiguration.tls = ClientTLS(
      trustRoots: .file(authority),
      identity: TLSIdentity(certificateChainFile: clientChain, privateKeyFile: clientKey),
      serverName: "localhost")
    let channel = RPCChannel(to: address, configuration: channelConfiguration)
    // [end]
    _ = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
    #expect(seen.withLock { $0 } == ["client", "spiffe://millrace.test/client"])
    await channel.close()
    await server.shutdown(grace: .seconds(1))
  }

  @Test func aTokenIsCheckedBeforeTheHandler() async throws {
    let service = ClosureGreeter { _, context in "Hello, \(context[CurrentUser.self] ?? "?")" }
    // [docs: authentication]
    var serverConfiguration = RPCServer.Configuration()
    serverConfiguration.interceptors = [Authentication(users: ["Bearer 1234": "Ada"])]
    var channelConfiguration = RPCChannel.Configuration()
    channelConfiguration.interceptors = [Credentials(token: "1234")]
    // [end]
    try await withInMemoryServer(
      [service], configuration: serverConfiguration, channelConfiguration: channelConfiguration
    ) { channel in
      let reply = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
      #expect(reply.text == "Hello, Ada")
    }
    try await withInMemoryServer([service], configuration: serverConfiguration) { channel in
      let error = await #expect(throws: RPCError.self) {
        try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
      }
      #expect(error?.code == .unauthenticated)
    }
  }
}
