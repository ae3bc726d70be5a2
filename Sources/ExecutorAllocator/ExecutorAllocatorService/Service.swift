import Logging
import NIOCore
import RPC
import RedisClient
import ServiceRuntime

/// The executor-allocator: knows the executors and leases their shares.
///
/// It keeps nothing but connected schedulers' wishes; the facts are in Redis, where any number of
/// replicas work on them, and heartbeats bring them back when Redis has lost them.
package struct ExecutorAllocator: ServiceProgram {
  package static let name = "executor-allocator"
  package static let summary = "Knows the executors, and leases shares of them to schedulers."
  package static let defaultListen = "127.0.0.1:7102"
  package static let defaultAdminListen = "127.0.0.1:7202"
  package static let settings = Configuration.settings
  package static let ownsDataDirectory = false

  private let driver: Driver
  private let address: RedisAddress

  package init(_ environment: ServiceEnvironment) async throws {
    let configuration = try Configuration(environment.settings)
    self.address = configuration.redis.address
    self.driver = Driver(
      configuration: configuration, eventLoop: environment.eventLoopGroup.next(),
      metrics: Metrics(environment.metrics), logger: environment.logger)
  }

  package var services: [any RPCService] { [Handlers(driver: self.driver)] }

  package func run() async throws {
    await self.driver.run()
  }

  /// Schedulers go to another replica; leases are in Redis and stay.
  package func drain() async {
    await self.driver.drain()
  }

  package func readiness() async -> Readiness {
    switch self.driver.status {
    case .connected: .ready
    case .disconnected(let reason):
      .notReady("no connection to Redis at \(self.address): \(reason)")
    }
  }
}
