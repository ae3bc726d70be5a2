import RPC
import RPCTesting
import Testing

@Suite struct ConnectionsExamples {
  @Test func targetsAreText() async throws {
    // [docs: targets]
    let named = try RPCChannel(to: "dns:///localhost:50051")
    let several = try RPCChannel(to: "ipv4:127.0.0.1:50051,127.0.0.1:50052")
    let local = try RPCChannel(to: "unix:///run/greeter.sock")
    // [end]
    for channel in [named, several, local] { await channel.close() }
    // [docs: targets-error]
    do {
      _ = try RPCChannel(to: "localhost")
    } catch let error {
      print(error)  // "localhost" is no address: there is no port; expected HOST:PORT or unix:PATH
    }
    // [end]
  }

  @Test func callsGoRoundAllServers() async throws {
    var servers: [(RPCServer, ListenAddress)] = []
    for name in ["a", "b"] {
      let server = RPCServer(services: [ClosureGreeter { _, _ in name }])
      servers.append((server, try await server.listen(on: ListenAddress("127.0.0.1:0"))))
    }
    let (first, second) = (servers[0].1, servers[1].1)
    // [docs: round-robin]
    var configuration = RPCChannel.Configuration()
    configuration.loadBalancing = .roundRobin
    let channel = try RPCChannel(to: "ipv4:\(first),\(second)", configuration: configuration)
    // [end]
    let greeter = GreeterV1.GreeterClient(channel)
    var seen: Set<String> = []
    while seen.count < 2 { seen.insert(try await greeter.sayHello(.init()).text) }
    await channel.close()
    for (server, _) in servers { await server.shutdown(grace: .zero) }
  }

  @Test func aClientKeepsItsConnectionsAlive() async throws {
    // [docs: client-times]
    var configuration = RPCChannel.Configuration()
    configuration.connectTimeout = .seconds(3)
    configuration.initialBackoff = .milliseconds(100)
    configuration.maximumBackoff = .seconds(5)
    configuration.keepalive = Keepalive(interval: .seconds(30), timeout: .seconds(10))
    configuration.idleTimeout = .seconds(300)
    // [end]
    try await withInMemoryServer([Greeter()], channelConfiguration: configuration) { channel in
      _ = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
    }
  }

  @Test func aServerLimitsConnectionsInTime() async throws {
    // [docs: server-times]
    var configuration = RPCServer.Configuration()
    configuration.keepalive = Keepalive(interval: .seconds(60), withoutCalls: true)
    configuration.minimumPingInterval = .seconds(10)
    configuration.maximumConnectionIdle = .seconds(900)
    configuration.maximumConnectionAge = .seconds(1_800)
    configuration.maximumConnectionAgeGrace = .seconds(60)
    // [end]
    try await withInMemoryServer([Greeter()], configuration: configuration) { channel in
      _ = try await GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
    }
  }

  @Test func aServerThatEndsFinishesItsCalls() async throws {
    let (started, release) = (Event(), Event())
    let server = RPCServer(
      services: [
        ClosureGreeter { _, _ in
          started.happen()
          await release.wait()
          return "to the end"
        }
      ])
    let channel = RPCChannel(to: try await server.listen(on: ListenAddress("127.0.0.1:0")))
    async let reply = GreeterV1.GreeterClient(channel).sayHello(.init(name: "you"))
    await started.wait()
    release.happen()
    // [docs: drain]
    await server.shutdown(grace: .seconds(30))
    // [end]
    #expect(try await reply.text == "to the end")
    await channel.close()
  }

  @Test func windowsAndStreamsHaveBounds() async throws {
    // [docs: windows]
    var server = RPCServer.Configuration()
    server.maximumConcurrentCallsPerConnection = 100
    server.maximumStreamWindow = 1 << 20
    var client = RPCChannel.Configuration()
    client.maximumStreamWindow = 1 << 20
    client.maximumWaitingCalls = 1_000
    // [end]
    try await withInMemoryServer(
      [Greeter()], configuration: server, channelConfiguration: client
    ) { channel in
      let greeter = GreeterV1.GreeterClient(channel)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<300 {
          group.addTask { _ = try await greeter.sayHello(.init(name: "you")) }
        }
        try await group.waitForAll()
      }
    }
  }
}
