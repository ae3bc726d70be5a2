import Logging
import NIOCore
import RPC
import Synchronization

/// A service as its program runs it: what ``ServiceRuntime`` needs to know of it.
///
///     @main struct Program { static func main() async { await ServiceRuntime.run(Scheduler.self) } }
///
/// The runtime reads the settings, makes the service, serves its calls, runs ``run()``, and on
/// SIGTERM lets it ``drain()``.
package protocol ServiceProgram: Sendable {
  /// "scheduler"; the program is `millrace-scheduler`.
  static var name: String { get }
  /// One sentence for `--help`.
  static var summary: String { get }
  /// Where calls are served if nothing is set: loopback.
  static var defaultListen: String { get }
  /// Where metrics and health are served if nothing is set: loopback.
  static var defaultAdminListen: String { get }
  /// Its own settings, besides those that every service has (``ServiceRuntime/commonSettings(of:)``).
  static var settings: [Setting] { get }
  /// How long draining may take if nothing is set.
  static var defaultDrainGrace: String { get }
  /// Whether it alone may use its data directory. The runtime then makes the directory and locks it,
  /// so that a second process on the same data ends with one clear line.
  static var ownsDataDirectory: Bool { get }
  /// Whether it can do some of its work while its data directory's file system takes no writes.
  static var startsReadOnly: Bool { get }
  /// Whether each of its calls comes to an end by itself: then a shutdown waits for them as long as draining may take.
  static var callsEnd: Bool { get }
  /// The largest request that it takes; `nil`: the library's default, 4 MiB.
  static var maximumRequestBytes: Int? { get }

  /// Opens stores and connects. An error ends the program with one clear line and exit code 1.
  init(_ environment: ServiceEnvironment) async throws

  /// What is served; health and reflection are added by the runtime.
  var services: [any RPCService] { get }
  /// Work in the background; cancelled at shutdown. Returning or throwing before that is an error
  /// that ends the program.
  func run() async throws
  /// Stops taking new work and lets what runs come to an end. When it returns, or when the drain
  /// grace is over, calls that are still open are ended.
  func drain() async
  /// Whether the service can do its work; answered by `/readyz` and gRPC health.
  func readiness() async -> Readiness
}

extension ServiceProgram {
  package static var maximumRequestBytes: Int? { nil }
  package static var defaultDrainGrace: String { "10s" }
  package static var ownsDataDirectory: Bool { true }
  package static var startsReadOnly: Bool { false }
  package static var callsEnd: Bool { false }
  package func drain() async {}
  package func readiness() async -> Readiness { .ready }
  /// Nothing to do in the background: waits until it is cancelled.
  package func run() async throws {
    let (never, continuation) = AsyncStream.makeStream(of: Never.self)
    for await _ in never {}
    continuation.finish()
  }
}

/// Whether a service can do its work now.
package enum Readiness: Sendable, Hashable {
  case ready
  /// With the reason, for people.
  case notReady(String)
}

/// What a service is given to work with.
package struct ServiceEnvironment: Sendable {
  package let settings: SettingValues
  package let logger: Logger
  package let metrics: MetricsRegistry
  package let eventLoopGroup: any EventLoopGroup
  /// Where the service keeps what must outlive it. It exists.
  package let dataDirectory: String
  /// Where calls are to be served, as configured.
  package let listen: ListenAddress
  private let bound = Bound()

  package init(
    settings: SettingValues, logger: Logger, metrics: MetricsRegistry,
    eventLoopGroup: any EventLoopGroup, dataDirectory: String, listen: ListenAddress
  ) {
    self.settings = settings
    self.logger = logger
    self.metrics = metrics
    self.eventLoopGroup = eventLoopGroup
    self.dataDirectory = dataDirectory
    self.listen = listen
  }

  /// Where calls are really served, known once ``ServiceProgram/run()`` runs; before that, the
  /// configured address. They differ where the configured port is 0.
  package var boundAddress: ListenAddress { self.bound.address.withLock { $0 } ?? self.listen }

  func didBind(to address: ListenAddress) { self.bound.address.withLock { $0 = address } }

  private final class Bound: Sendable {
    let address = Mutex<ListenAddress?>(nil)
  }
}
