import BuildProtos
import ContentCacheCore
import Logging
import RPC
import ServiceRuntime
import Synchronization

/// The content-cache: blobs by digest, and live logs.
package final class ContentCache: ServiceProgram {
  package static let name = "content-cache"
  package static let summary = "Keeps blobs by their SHA-256, and logs while they grow."
  package static let defaultListen = "127.0.0.1:7105"
  package static let defaultAdminListen = "127.0.0.1:7205"
  package static let settings = Configuration.settings

  /// How often uploads that were left are looked for.
  private static let sweepInterval = Duration.seconds(60)

  private let storage: Storage
  private let metrics: Metrics
  private let isDraining = Atomic(false)

  package init(_ environment: ServiceEnvironment) async throws {
    let configuration = try Configuration(environment.settings)
    let logger = environment.logger
    let storage = try await Storage(
      dataDirectory: environment.dataDirectory, policy: configuration.policy,
      disk: Disk(threads: configuration.diskThreads)
    ) { change in
      switch change {
      case .failing(let why):
        logger.warning("what callers write is not stored", metadata: ["error": "\(why)"])
      case .well: logger.info("what callers write is stored again")
      }
    }
    self.storage = storage
    self.metrics = Metrics(environment.metrics)
    environment.metrics.gauge(
      "millrace_cache_uploads", help: "Uploads that have begun and are not whole yet."
    ) { Double(storage.uploads.count) }
    environment.metrics.gauge(
      "millrace_cache_open_logs", help: "Logs that somebody reads or writes now."
    ) { Double(storage.logs.count) }
    environment.metrics.gauge(
      "millrace_cache_free_bytes", help: "Bytes that are free on the disk of the data directory."
    ) { Double(storage.health.freeBytes) }
  }

  package var services: [any RPCService] { self.storage.services(self.metrics) }

  package func run() async throws {
    while !Task.isCancelled {
      // Cancellation ends the sleep and the loop.
      try? await Task.sleep(for: Self.sweepInterval)
      await self.storage.sweep()
    }
  }

  /// Uploads may finish; readers and writers of logs would last as long as their builds, and go on
  /// where they were.
  package func drain() async {
    self.isDraining.store(true, ordering: .releasing)
    self.storage.logs.drain()
    while self.storage.uploads.beingWritten > 0, !Task.isCancelled {
      try? await Task.sleep(for: .milliseconds(50))
    }
  }

  package func readiness() async -> Readiness {
    if self.isDraining.load(ordering: .acquiring) { return .notReady("draining") }
    let shortage = try? await self.storage.diskShortage()
    return shortage.map { .notReady($0) } ?? .ready
  }
}

/// The cache's data directory. One process has it at a time, which the runtime sees to.
package final class Storage: Sendable {
  package let blobs: BlobStore
  package let uploads: UploadStore
  package let logs: LogStore
  package let health: DiskHealth
  private let disk: Disk
  private let policy: Policy

  /// - Parameter tell: Hears when the disk begins to fail, and when it is well again.
  package init(
    dataDirectory: String, policy: Policy, disk: Disk,
    tell: @escaping @Sendable (DiskHealth.Change) -> Void = { _ in }
  ) async throws {
    (self.blobs, self.logs) = try await disk.run {
      let blobs = try BlobStore(dataDirectory: dataDirectory)
      return (blobs, try LogStore(dataDirectory: dataDirectory, blobs: blobs, policy: policy))
    }
    self.uploads = UploadStore(blobs: self.blobs, policy: policy)
    self.health = DiskHealth(dataDirectory, tell: tell)
    self.disk = disk
    self.policy = policy
  }

  /// Lets go of what was left half-way for too long.
  package func sweep() async {
    let uploads = self.uploads
    // Fails only once the disk's threads are being ended.
    try? await self.disk.run { uploads.sweep(now: monotonicNow()) }
  }

  /// Why there is no room for what callers will write, if so.
  package func diskShortage() async throws -> String? {
    let health = self.health
    return try await self.disk.run { health.shortage() }
  }

  /// The services over this directory.
  package func services(_ metrics: Metrics) -> [any RPCService] {
    [
      ByteStreamHandlers(
        blobs: self.blobs, uploads: self.uploads, disk: self.disk, policy: self.policy,
        health: self.health, metrics: metrics),
      StorageHandlers(
        blobs: self.blobs, disk: self.disk, policy: self.policy, health: self.health,
        metrics: metrics),
      CapabilitiesHandlers(policy: self.policy),
      LogHandlers(
        logs: self.logs, disk: self.disk, policy: self.policy, health: self.health,
        metrics: metrics),
    ]
  }
}
