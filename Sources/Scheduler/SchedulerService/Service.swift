import BuildProtos
import Logging
import NIOCore
import RPC
import SchedulerCore
import ServiceRuntime

/// The scheduler: accepts builds, orders their jobs, and drives them to their end.
///
/// It keeps nothing that is not in the datastore: a new one reads the records, attaches to what
/// runs, and goes on.
package final class SchedulerProgram: ServiceProgram {
  package static let name = "scheduler"
  package static let summary = "Accepts builds, orders their jobs, and drives them to their end."
  package static let defaultListen = "127.0.0.1:7101"
  package static let defaultAdminListen = "127.0.0.1:7201"
  package static let settings = Configuration.settings
  package static let ownsDataDirectory = false

  private let driver: Driver
  private let router: CallRouter
  private let environment: ServiceEnvironment
  private let configuration: Configuration
  private let channels: [RPCChannel]

  package init(_ environment: ServiceEnvironment) async throws {
    let configuration = try Configuration(environment.settings)
    // The core's loop, and that of all its ways out.
    let loop = environment.eventLoopGroup.next()
    let gateway = try RPCChannel(to: configuration.gateway, configuration: .toService, group: loop)
    let allocator = try RPCChannel(
      to: configuration.allocator, configuration: .toService, group: loop)
    self.channels = [gateway, allocator]
    self.environment = environment
    self.configuration = configuration
    let datastore = DatastoreV1.DatastoreClient(gateway)
    let replicas = ReplicaStore(client: datastore, configuration: configuration)
    let metrics = Metrics(environment.metrics)
    let links = Replicas(store: replicas, loop: loop, logger: environment.logger)
    self.router = CallRouter(replicas: links, metrics: metrics)
    self.driver = Driver(
      core: Scheduler(policy: configuration.policy, owner: Self.newOwner(), owning: []),
      loop: loop,
      store: BuildStore(
        client: datastore, replicas: replicas, loop: loop, configuration: configuration),
      replicas: links,
      allocator: AllocatorLink(channel: allocator, loop: loop, logger: environment.logger),
      runners: RunnerLinks(loop: loop, logger: environment.logger),
      metrics: metrics, logger: environment.logger)
  }

  /// Another one for each start: a process must not take its predecessor's writes for its own.
  private static func newOwner() -> String {
    String(UInt64.random(in: .min ... .max), radix: 36)
  }

  package var services: [any RPCService] {
    [Handlers(driver: self.driver, router: self.router, policy: self.configuration.policy)]
  }

  package func run() async throws {
    await self.driver.run(
      servedAt: self.configuration.advertise ?? Self.address(self.environment.boundAddress))
    await self.router.close()
    for channel in self.channels { await channel.close() }
  }

  /// Where other schedulers reach this one if it is not told: under its host's name, if it listens
  /// on every address.
  private static func address(_ bound: ListenAddress) -> String {
    guard case .tcp(let host, let port) = bound, ["0.0.0.0", "::", "0"].contains(host) else {
      return "\(bound)"
    }
    return "\(ListenAddress.tcp(host: hostName(), port: port))"
  }

  package func drain() async { await self.driver.drain() }

  package func readiness() async -> Readiness { self.driver.readiness }
}
