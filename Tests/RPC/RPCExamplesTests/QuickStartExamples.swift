import RPC
import Testing

@Suite struct QuickStartExamples {
  @Test func aServerAndAClientInTenLines() async throws {
    // [docs: quick-start-server]
    let server = RPCServer(services: [Greeter()])
    let address = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    // [end]

    // [docs: quick-start-client]
    let channel = RPCChannel(to: address)
    let greeter = GreeterV1.GreeterClient(channel)
    let reply = try await greeter.sayHello(.init(name: "you"))
    print(reply.text)
    // [end]
    #expect(reply.text == "Hello, you")

    // [docs: quick-start-end]
    await channel.close()
    await server.shutdown(grace: .seconds(10))
    // [end]
  }
}
