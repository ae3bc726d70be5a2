import Logging
import NIOCore
import NIOPosix
import RedisClient
import RedisTesting
import RedisWire

/// Runs `body` with a client, and shuts it down whatever happens.
func withClient<Result>(
  _ configuration: RedisConfiguration,
  _ body: (RedisClient, StatusWatch) async throws -> Result
) async throws -> Result {
  let (statuses, continuation) = AsyncStream<RedisClient.Status>.makeStream()
  var logger = Logger(label: "test")
  logger.logLevel = .critical
  let client = RedisClient(
    configuration: configuration, eventLoop: MultiThreadedEventLoopGroup.singleton.next(),
    logger: logger, statusChanged: { continuation.yield($0) })
  client.start()
  let result: Swift.Result<Result, any Error>
  do {
    result = .success(try await body(client, StatusWatch(statuses: statuses)))
  } catch {
    result = .failure(error)
  }
  await client.shutdown()
  return try result.get()
}

/// Waits for what the connection does next.
struct StatusWatch {
  let statuses: AsyncStream<RedisClient.Status>

  func connected() async {
    for await status in self.statuses where status == .connected { return }
  }

  /// Why it was lost.
  func disconnected() async -> String {
    for await case .disconnected(let reason) in self.statuses { return reason }
    return ""
  }
}

extension RedisServer {
  /// Quick to notice and to come back, so that tests are.
  func configuration(commandTimeout: Duration = .seconds(10)) -> RedisConfiguration {
    RedisConfiguration(
      address: .unix(path: self.socket), commandTimeout: commandTimeout,
      backoff: RedisBackoff(initial: .milliseconds(5), maximum: .milliseconds(50)))
  }
}
