import BuildProtos
import ContentCacheCore
import Glibc
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

  private let storage: Storage
  private let metrics: Metrics
  private let isDraining = Atomic(false)

  package init(_ environment: ServiceEnvironment) async throws {
    let configuration = try Configuration(environment.settings)
    let storage = try await Storage(
      dataDirectory: environment.dataDirectory, policy: configuration.policy,
      disk: Disk(threads: configuration.diskThreads))
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
    ) { Double(freeBytes(storage.blobs.directory)) }
  }

  package var services: [any RPCService] { self.storage.services(self.metrics) }

  package func drain() async {
    self.isDraining.store(true, ordering: .releasing)
    // Unary calls and writers may finish; followers would last as long as their builds.
    self.storage.logs.drain()
  }

  package func readiness() async -> Readiness {
    self.isDraining.load(ordering: .acquiring) ? .notReady("draining") : .ready
  }
}

/// The cache's data directory. One process has it at a time, which the runtime sees to.
package final class Storage: Sendable {
  package let blobs: BlobStore
  package let uploads: UploadStore
  package let logs: LogStore
  private let disk: Disk
  private let policy: Policy

  package init(dataDirectory: String, policy: Policy, disk: Disk) async throws {
    (self.blobs, self.logs) = try await disk.run {
      let blobs = try BlobStore(dataDirectory: dataDirectory)
      return (blobs, try LogStore(dataDirectory: dataDirectory, blobs: blobs, policy: policy))
    }
    self.uploads = UploadStore(blobs: self.blobs, policy: policy)
    self.disk = disk
    self.policy = policy
  }

  /// The services over this directory.
  package func services(_ metrics: Metrics) -> [any RPCService] {
    [
      ByteStreamHandlers(
        blobs: self.blobs, uploads: self.uploads, disk: self.disk, policy: self.policy,
        metrics: metrics),
      StorageHandlers(blobs: self.blobs, disk: self.disk, policy: self.policy, metrics: metrics),
      CapabilitiesHandlers(policy: self.policy),
      LogHandlers(logs: self.logs, disk: self.disk, policy: self.policy, metrics: metrics),
    ]
  }
}

private func freeBytes(_ path: String) -> UInt64 {
  var status = statvfs()
  guard statvfs(path, &status) == 0 else { return 0 }
  return UInt64(status.f_bavail) * UInt64(status.f_frsize)
}
