import ServiceRuntime

/// The gateway's settings, beside those that every service has.
package struct Configuration: Sendable {
  package static let settings: [Setting] = [
    Setting(
      "store", default: "sqlite",
      help: "Where entities are: sqlite, in the data directory, or postgresql://USER@HOST/DATABASE"),
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
      help: "Memory for what entities were before they changed: what a read_time can reach"),
    Setting(
      "past-age", default: "1h", kind: .duration,
      help: "How far back a read_time may reach, if the memory lasts"),
    Setting(
      "slow-query", default: "500ms", kind: .duration,
      help: "Queries that take longer are logged with their plan"),
  ]

  /// Which store the entities are in.
  package enum Store: Sendable {
    case sqlite
    case postgres(PostgresAddress)
  }

  package var store: Store
  package var readThreads: Int
  package var limits = SQLiteStore.Limits()
  package var slowQuery: Duration
  package var pastBytes: Int
  package var pastAge: Duration

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
    guard PostgresAddress.isOne(text) else {
      throw wrong("expected sqlite or postgresql://...")
    }
    do throws(StoreFailure) {
      return .postgres(try PostgresAddress(text))
    } catch {
      throw wrong(error.description)
    }
  }
}
