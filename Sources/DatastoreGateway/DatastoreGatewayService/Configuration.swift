import Logging
import ServiceRuntime

/// The gateway's settings, beside those that every service has.
package struct Configuration: Sendable {
  package static let settings: [Setting] = [
    Setting(
      "store", default: "sqlite",
      help:
        "Where entities are: sqlite, in the data directory, postgresql://USER@HOST/DATABASE, or "
        + "datastore://PROJECT[/DATABASE], Google's own"),
    Setting(
      "read-threads", default: "4", kind: .integer,
      help: "Threads that read the store; more help on disks that take many requests at once"),
    Setting(
      "batch-commits", default: "1024", kind: .integer,
      help: "Commits that are made durable together, at most"),
    Setting(
      "batch-size", default: "8MiB", kind: .byteCount,
      help: "Bytes of commits that are made durable together, at most"),
    Setting(
      "queue-commits", default: "8192", kind: .integer,
      help: "Commits that may wait; more are answered RESOURCE_EXHAUSTED"),
    Setting(
      "queue-size", default: "128MiB", kind: .byteCount,
      help: "Bytes of commits that may wait; more are answered RESOURCE_EXHAUSTED"),
    Setting(
      "queue-reads", default: "8192", kind: .integer,
      help: "Lookups and queries that may wait; more are answered RESOURCE_EXHAUSTED"),
    Setting(
      "past-size", default: "32MiB", kind: .byteCount,
      help:
        "Room for what entities were before they changed: in memory, or in PostgreSQL's database"),
    Setting(
      "past-age", default: "1h", kind: .duration,
      help: "How far back a read_time may reach, if the room lasts"),
    Setting(
      "cache-size", default: "32MiB", kind: .byteCount,
      help: "Memory for what lookups found, over SQLite: the same is looked up there; 0 for none"),
    Setting(
      "slow-query", default: "500ms", kind: .duration,
      help: "Queries that take longer are logged with their plan"),
  ]

  /// Which store the entities are in.
  package enum Store: Sendable {
    case sqlite
    case postgres(PostgresAddress)
    case google(GoogleAddress)
  }

  package var store: Store
  package var readThreads: Int
  package var limits = StoreLimits()
  package var slowQuery: Duration
  package var pastBytes: Int
  package var pastAge: Duration
  package var cacheBytes: Int

  package init(_ settings: SettingValues) throws(SettingError) {
    self.store = try Self.store(settings)
    self.readThreads = try settings.int("read-threads", in: 1...256)
    self.limits.batchCommits = try settings.int("batch-commits", in: 1...65_536)
    self.limits.batchBytes = Int(try settings.byteCount("batch-size"))
    self.limits.queuedCommits = try settings.int("queue-commits", in: 1...1_000_000)
    self.limits.queuedBytes = Int(try settings.byteCount("queue-size"))
    self.limits.queuedReads = try settings.int("queue-reads", in: 1...1_000_000)
    self.pastBytes = Int(try settings.byteCount("past-size"))
    self.pastAge = try settings.duration("past-age")
    self.cacheBytes = Int(try settings.byteCount("cache-size"))
    self.slowQuery = try settings.duration("slow-query")
  }

  private static func store(_ settings: SettingValues) throws(SettingError) -> Store {
    let text = settings.string("store")
    if text == "sqlite" { return .sqlite }
    // There may be a password in it, which is nothing for a log.
    func wrong(_ reason: String) -> SettingError {
      SettingError(
        setting: "store", value: "...", source: settings.source("store"), reason: reason)
    }
    if GoogleAddress.isOne(text) {
      do throws(GoogleAddress.ParseError) {
        return .google(try GoogleAddress(text))
      } catch {
        throw wrong(error.description)
      }
    }
    guard PostgresAddress.isOne(text) else {
      throw wrong("expected sqlite, postgresql://... or datastore://...")
    }
    do throws(StoreFailure) {
      return .postgres(try PostgresAddress(text))
    } catch {
      throw wrong(error.description)
    }
  }
}

extension Configuration {
  /// Opens a store that keeps entities itself.
  ///
  /// - Throws: `StoreFailure` with one clear line.
  func openStore(
    in directory: String, metrics: Metrics, logger: Logger
  ) throws -> any EntityStore {
    switch self.store {
    case .sqlite:
      var configuration = SQLiteStore.Configuration(
        path: "\(directory)/\(DatastoreGateway.fileName)")
      configuration.readers = self.readThreads
      configuration.limits = self.limits
      configuration.pastBytes = self.pastBytes
      configuration.pastAge = self.pastAge
      configuration.cacheBytes = self.cacheBytes
      return try SQLiteStore(configuration, metrics: metrics, logger: logger)
    case .postgres(let address):
      var configuration = PostgresStore.Configuration(address)
      configuration.readers = self.readThreads
      configuration.limits = self.limits
      configuration.pastBytes = self.pastBytes
      configuration.pastAge = self.pastAge
      return try PostgresStore(configuration, metrics: metrics, logger: logger)
    case .google:
      preconditionFailure("Google keeps its entities itself: calls are handed on")
    }
  }

  /// All that the store has at this moment; `nil` of Google's.
  ///
  /// - Parameter directory: The data directory.
  func snapshot(in directory: String) throws(StoreFailure) -> (any StoreSnapshot)? {
    switch self.store {
    case .sqlite: try SQLiteSnapshot(path: "\(directory)/\(DatastoreGateway.fileName)")
    case .postgres(let address): try PostgresSnapshot(address)
    case .google: nil
    }
  }
}
