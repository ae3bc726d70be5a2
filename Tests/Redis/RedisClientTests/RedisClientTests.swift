import NIOCore
import NIOPosix
import RedisClient
import RedisTesting
import RedisWire
import Testing

@Suite(
  .enabled(if: RedisServer.isInstalled, Comment(rawValue: RedisServer.whyNot)),
  .timeLimit(.minutes(1)))
struct RedisClientTests {
  @Test func eachOfManyPipelinedCommandsGetsItsOwnReply() async throws {
    let server = try RedisServer()
    try await withClient(server.configuration()) { client, status in
      await status.connected()
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<5_000 {
          group.addTask {
            let reply = try await client.send(RedisCommand("ECHO", "number \(number)"))
            #expect(reply == .bytes(Array("number \(number)".utf8)))
          }
        }
        try await group.waitForAll()
      }
    }
  }

  @Test func aRefusedCommandFailsAndTheNextOneGoesOn() async throws {
    let server = try RedisServer()
    try await withClient(server.configuration()) { client, status in
      await status.connected()
      _ = try await client.send(RedisCommand("SET", "key", "text"))
      await #expect {
        _ = try await client.send(RedisCommand("LPUSH", "key", "x"))
      } throws: { error in
        guard case .refused("LPUSH", let reply)? = error as? RedisError else { return false }
        return reply.code == "WRONGTYPE"
      }
      #expect(try await client.send(RedisCommand("GET", "key")).text == "text")
    }
  }

  @Test func aForgottenScriptIsSentAgain() async throws {
    let server = try RedisServer()
    let script = RedisScript(
      name: "increment", source: "return redis.call('INCRBY', KEYS[1], ARGV[1])")
    try await withClient(server.configuration()) { client, status in
      await status.connected()
      for expected: Int64 in [2, 4] {
        let reply = try await client.evaluate(script, keys: ["n"], arguments: .init(["2"]))
        #expect(reply == .integer(expected))
      }
      let before = try await client.send(RedisCommand("INFO", "commandstats")).text ?? ""
      #expect(before.contains("cmdstat_evalsha:calls=1,"), "the second call goes by name")
      _ = try await client.send(RedisCommand("SCRIPT", "FLUSH"))
      // It runs once, not twice and not never.
      let reply = try await client.evaluate(script, keys: ["n"], arguments: .init(["2"]))
      #expect(reply == .integer(6))
    }
  }

  @Test func aKilledRedisFailsWhatIsPendingAndIsFoundAgain() async throws {
    let server = try RedisServer()
    try await withClient(server.configuration()) { client, status in
      await status.connected()
      server.pause()
      let pending = Task { try await client.send(RedisCommand("PING")) }
      server.kill()
      let result = await pending.result
      #expect(throws: RedisError.self) { try result.get() }
      _ = await status.disconnected()
      await #expect {
        _ = try await client.send(RedisCommand("PING"))
      } throws: { error in
        if case .notConnected? = error as? RedisError { true } else { false }
      }
      try server.start()
      await status.connected()
      let pong = try await client.send(RedisCommand("PING"))
      #expect(pong == .status("PONG"))
    }
  }

  @Test func aPausedRedisIsAnErrorInTimeAndNotAHang() async throws {
    let server = try RedisServer()
    let patience = Duration.milliseconds(200)
    try await withClient(server.configuration(commandTimeout: patience)) { client, status in
      await status.connected()
      server.pause()
      let began = ContinuousClock.now
      await #expect {
        _ = try await client.send(RedisCommand("PING"))
      } throws: { error in
        if case .timedOut("PING", _, patience)? = error as? RedisError { true } else { false }
      }
      #expect(ContinuousClock.now - began < .seconds(5))
      // The kernel still accepts connections for it, which must not count as connected.
      _ = await status.disconnected()
      #expect(client.status != .connected)
      server.resume()
      await status.connected()
      let pong = try await client.send(RedisCommand("PING"))
      #expect(pong == .status("PONG"))
    }
  }

  @Test func moreInFlightThanAllowedIsRefused() async throws {
    let server = try RedisServer()
    var configuration = server.configuration()
    configuration.maximumInFlight = 3
    try await withClient(configuration) { client, status in
      await status.connected()
      server.pause()
      let refusal = RedisError.tooMuchInFlight(commands: 3, bytes: 42)
      let errors = await withTaskGroup(of: (any Error)?.self) { group in
        for _ in 0..<5 {
          group.addTask {
            do {
              _ = try await client.send(RedisCommand("PING"))
              return nil
            } catch {
              server.resume()
              return error
            }
          }
        }
        return await group.reduce(into: []) { $0.append($1) }
      }
      #expect(errors.contains { $0 as? RedisError == refusal })
      #expect(errors.filter { $0 == nil }.count >= 3)
    }
  }

  @Test func aPasswordAndADatabaseAreSentFirst() async throws {
    let server = try RedisServer(options: ["--requirepass", "secret"])
    var configuration = server.configuration()
    configuration.password = "secret"
    configuration.database = 3
    try await withClient(configuration) { client, status in
      await status.connected()
      _ = try await client.send(RedisCommand("SET", "key", "value"))
      let info = try await client.send(RedisCommand("INFO", "keyspace")).text ?? ""
      #expect(info.contains("db3:keys=1"))
    }
    configuration.password = "wrong"
    try await withClient(configuration) { client, status in
      let reason = await status.disconnected()
      #expect(reason.contains("AUTH") && reason.contains("WRONGPASS") && !reason.contains("secret"))
    }
  }

  @Test func aMissingRedisSaysWhatIsMissing() async throws {
    let configuration = RedisConfiguration(
      address: .unix(path: "/tmp/there-is-no-redis-here"),
      backoff: RedisBackoff(initial: .milliseconds(5), maximum: .milliseconds(50)))
    try await withClient(configuration) { client, status in
      let reason = await status.disconnected()
      #expect(reason.contains("No such file or directory"), "\(reason)")
      await #expect(throws: RedisError.notConnected(configuration.address, reason: reason)) {
        _ = try await client.send(RedisCommand("PING"))
      }
    }
  }
}

@Suite(.timeLimit(.minutes(1))) struct RedisClientPeerTests {
  @Test(arguments: ["HTTP/1.1 400 Bad Request\r\n\r\n", "*2147483647\r\n", "+PONG\r\n+AGAIN\r\n"])
  func aPeerThatIsNoRedisIsLeft(answer: String) async throws {
    let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.pipeline.addHandler(Greeter(text: answer))
      }
      .bind(host: "127.0.0.1", port: 0).get()
    let port = server.localAddress?.port ?? 0
    let configuration = RedisConfiguration(address: .tcp(host: "127.0.0.1", port: port))
    try await withClient(configuration) { client, status in
      let reason = await status.disconnected()
      #expect(reason.contains("was lost: it sent"), "\(reason)")
    }
    try await server.close()
  }

  @Test func backoffDoublesToItsMaximumAndIsSpread() {
    let backoff = RedisBackoff(initial: .milliseconds(50), maximum: .seconds(1))
    #expect(backoff.delay(afterFailures: 1, random: 1) == .milliseconds(50))
    #expect(backoff.delay(afterFailures: 3, random: 1) == .milliseconds(200))
    #expect(backoff.delay(afterFailures: 3, random: 0) == .milliseconds(100))
    #expect(backoff.delay(afterFailures: 1_000_000, random: 1) == .seconds(1))
  }

  @Test(arguments: [
    ("127.0.0.1:6379", RedisAddress.tcp(host: "127.0.0.1", port: 6379)),
    ("[::1]:6379", .tcp(host: "::1", port: 6379)), ("redis:1", .tcp(host: "redis", port: 1)),
    ("unix:/run/redis.sock", .unix(path: "/run/redis.sock")),
  ])
  func addressesAreReadAndWritten(text: String, address: RedisAddress) throws {
    #expect(try RedisAddress(text) == address)
    #expect(address.description == text)
  }

  @Test(arguments: ["", "redis", ":6379", "redis:0", "redis:65536", "redis:x", "::1:80", "unix:"])
  func whatIsNoAddressIsRefused(text: String) {
    #expect(throws: RedisAddress.ParseError.self) { try RedisAddress(text) }
  }
}

/// Says its text to whoever connects.
private final class Greeter: ChannelInboundHandler, Sendable {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  let text: String

  init(text: String) {
    self.text = text
  }

  func channelActive(context: ChannelHandlerContext) {
    context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: self.text)), promise: nil)
  }
}
