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

  private let store: any EntityStore
  private let driver: Driver
  private let metrics: Metrics
  private let isDraining = Atomic(false)

  package init(_ environment: ServiceEnvironment) async throws {
    let configuration = try Configuration(environment.settings)
    let metrics = Metrics(environment.metrics)
    let policy = Policy()
    let store: any EntityStore
    var files: [String: String] = [:]
    switch configuration.store {
    case .sqlite:
      let path = "\(environment.dataDirectory)/\(Self.fileName)"
      files = ["file": path, "log": "\(path)-wal"]
      var storeConfiguration = SQLiteStore.Configuration(path: path)
      storeConfiguration.readers = configuration.readThreads
      storeConfiguration.limits = configuration.limits
      storeConfiguration.policy = policy
      storeConfiguration.pastBytes = configuration.pastBytes
      storeConfiguration.pastAge = configuration.pastAge
      let sqlite = try SQLiteStore(
        storeConfiguration, metrics: metrics, logger: environment.logger)
      environment.metrics.gauge(
        "millrace_gateway_past_bytes", help: "Memory that holds what entities were."
      ) { Double(sqlite.pastBytes) }
      store = sqlite
    case .postgres(let address):
      var storeConfiguration = PostgresStore.Configuration(address)
      storeConfiguration.readers = configuration.readThreads
      storeConfiguration.limits = configuration.limits
      storeConfiguration.policy = policy
      store = try PostgresStore(storeConfiguration, metrics: metrics, logger: environment.logger)
    }
    if let trouble = store.trouble {
      environment.logger.error(
        "the store refuses writes; it can be read", metadata: ["error": "\(trouble)"])
    }
    let driver = Driver(
      store: store, policy: policy, slowQuery: configuration.slowQuery,
      logger: environment.logger, clock: { .now })
    self.store = store
    self.driver = driver
    self.metrics = metrics
    Self.register(environment.metrics, store, driver, files: files)
  }

  private static func register(
    _ registry: MetricsRegistry, _ store: any EntityStore, _ driver: Driver,
    files: [String: String]
  ) {
    registry.gauge("millrace_gateway_queued_commits", help: "Commits that wait to be written.") {
      Double(store.queuedCommits)
    }
    registry.gauge(
      "millrace_gateway_open_reads", help: "Lookups and queries that run or wait for a thread."
    ) { Double(store.queuedReads) }
    registry.gauge("millrace_gateway_open_transactions", help: "Transactions under way.") {
      Double(driver.openTransactions)
    }
    registry.gauge(
      "millrace_gateway_writable", help: "1 while the store takes writes, 0 while it refuses them."
    ) { store.trouble == nil ? 1 : 0 }
    for (part, path) in files.sorted(by: { $0.key < $1.key }) {
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

  package var services: [any RPCService] {
    [Handlers(driver: self.driver, metrics: self.metrics)]
  }

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
