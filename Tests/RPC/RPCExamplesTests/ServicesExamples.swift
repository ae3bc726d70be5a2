import RPC
import RPCTesting
import Testing

@Suite struct ServicesExamples {
  @Test func healthIsToldAndWatched() async throws {
    // [docs: health-server]
    let health = HealthService()
    health.set(.serving, for: "testing.greeter.v1.Greeter")
    let server = RPCServer(services: [Greeter(), health])
    // [end]
    let channel = server.inMemoryChannel()
    // [docs: health-client]
    let client = HealthV1.HealthClient(channel)
    let status = try await client.check(.init(service: "testing.greeter.v1.Greeter")).status
    let watch = try await client.watch(.init(service: "testing.greeter.v1.Greeter"))
    var changes = watch.makeAsyncIterator()
    // [end]
    #expect(status == .serving)
    #expect(try await changes.next()?.status == .serving)
    // [docs: health-end]
    // Before a shutdown: load balancers look elsewhere.
    health.setAll(.notServing)
    // [end]
    #expect(try await changes.next()?.status == .notServing)
    await channel.close()
    await server.shutdown(grace: .zero)
  }

  @Test func reflectionTellsWhatIsServed() async throws {
    // [docs: reflection]
    let services: [any RPCService] = [Greeter(), HealthService()]
    let reflection = ReflectionService(services: services)
    let server = RPCServer(services: services + [reflection, reflection.alpha])
    // [end]
    let channel = server.inMemoryChannel()
    let call = try await ReflectionV1.ServerReflectionClient(channel).serverReflectionInfo()
    try await call.send(.init(messageRequest: .listServices("")))
    await call.finishSending()
    var names: [String] = []
    for try await answer in call.responses {
      if case .listServicesResponse(let list) = answer.messageResponse {
        names += list.service.map(\.name)
      }
    }
    #expect(names.contains("testing.greeter.v1.Greeter"))
    await channel.close()
    await server.shutdown(grace: .zero)
  }
}
