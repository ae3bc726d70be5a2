import RPC
import RPCTesting
import Synchronization
import Testing

@Suite struct LimitsExamples {
  @Test func aClientThatGoesTooFarIsNoticed() async throws {
    let log = Mutex<[String]>([])
    // [docs: limits]
    var configuration = RPCServer.Configuration()
    configuration.maximumRunningCallsPerConnection = 100
    configuration.maximumConnections = 1_000
    configuration.receivedResets = .init(burst: 100, perSecond: 20)
    configuration.stalledCallTimeout = .seconds(30)
    configuration.attackNoticed = { peer, what in log.withLock { $0.append("\(peer): \(what)") } }
    // [end]
    configuration.emptyFrames = .init(burst: 10, perSecond: 1)
    let server = RPCServer(services: [Greeter()], configuration: configuration)
    let address = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    let attacker = try await ScriptedPeer.client(of: address)
    for _ in 0..<100 {
      do { try await attacker.send(.settings) } catch { break }
    }
    while let frame = try? await attacker.frame() {
      // ENHANCE_YOUR_CALM
      if frame.kind == .goAway { #expect(frame.number(at: 4) == 0xb) }
    }
    await attacker.close()
    await server.shutdown(grace: .zero)
    #expect(log.withLock { $0.count } == 1)
  }
}
