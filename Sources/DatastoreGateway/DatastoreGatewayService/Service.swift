import DatastoreGatewayCore
import Domain
import Glibc
import Logging
import RPC
import ServiceRuntime
import Synchronization

/// The datastore-gateway: Google's Datastore API over a store of our own.
package final class DatastoreGateway: ServiceProgram {
  package static let name = "datastore-gateway"
  package static let summary = "Serves Google's Datastore API over a store of its own."
  package static let defaultListen = "127.0.0.1:7104"
  package static let defaultAdminListen = "127.0.0.1:7204"
  package static let settings = Configuration.settings
  /// The store's file, in the data directory; beside it SQLite keeps its log.
  package static let fileName = "datastore.sqlite"

  private static let probeInterval = Duration.seconds(5)

  private let store: any ServedStore
  private let isDraining = Atomic(false)

  package init(_ environment: ServiceEnvironment) async throws {
    let configuration = try Configuration(environment.settings)
    let metrics = Metrics(environment.metrics)
    if case .google(let address) = configuration.store {
      var google = GoogleDatastore.Configuration(address)
      google.environment = ServiceRuntime.environment
      google.maximumCalls = configuration.limits.queuedReads
      google.slowQuery = configuration.slowQuery
      self.store = try await GoogleDatastore(
        google, metrics: metrics, logger: environment.logger, group: environment.eventLoopGroup)
    } else {
      let store = try configuration.openStore(
        in: environment.dataDirectory, metrics: metrics, logger: environment.logger)
      let driver = Driver(
        store: store, policy: Policy(), slowQuery: configuration.slowQuery,
        logger: environment.logger, clock: { .now })
      self.store = Handlers(driver: driver, metrics: metrics)
    }
    if let trouble = self.store.trouble {
      environment.logger.error(
        "the store refuses writes; it can be read", metadata: ["error": "\(trouble)"])
    }
    self.store.register(environment.metrics)
    if case .sqlite = configuration.store {
      Self.registerFiles(environment.metrics, "\(environment.dataDirectory)/\(Self.fileName)")
    }
  }

  private static func registerFiles(_ registry: MetricsRegistry, _ path: String) {
    for (part, path) in [("file", path), ("log", "\(path)-wal")] {
      registry.gauge(
        "millrace_gateway_store_bytes", help: "Sizes of the store's file and of its log.",
        labels: ["part": part]
      ) { fileSize(path) }
    }
  }

  /// The calls over any store.
  package static func service(
    over store: any EntityStore, policy: Policy, metrics: Metrics, logger: Logger,
    clock: @escaping @Sendable () -> Timestamp
  ) -> any RPCService {
    Handlers(
      driver: Driver(
        store: store, policy: policy, slowQuery: .milliseconds(500), logger: logger,
        clock: clock), metrics: metrics)
  }

  package static var callsEnd: Bool { true }
  /// What is stored can be read all the same.
  package static var startsReadOnly: Bool { true }
  package static var maximumRequestBytes: Int? { Policy().maximumRequestBytes }

  package var services: [any RPCService] { [self.store] }

  /// Commits that wait are written; new ones go elsewhere.
  package func drain() async {
    self.isDraining.store(true, ordering: .releasing)
    await self.store.drain()
  }

  /// A store that refuses writes is tried again now and then: nobody else may write, and then
  /// nobody would notice that it takes writes again.
  package func run() async throws {
    while true {
      try await Task.sleep(for: Self.probeInterval)
      if self.store.trouble != nil { await self.store.probe() }
    }
  }

  /// Ready even while the store refuses writes: reads go on, and would not if calls were kept away.
  /// `millrace_gateway_writable` and the log tell it.
  package func readiness() async -> Readiness {
    self.isDraining.load(ordering: .acquiring) ? .notReady("draining") : .ready
  }
}

/// `nil` where there is no such file.
private func fileSize(_ path: String) -> Double? {
  var status = stat()
  guard stat(path, &status) == 0 else { return nil }
  return Double(status.st_size)
}
