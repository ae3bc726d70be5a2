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
    raiseFileLimit()
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

  package func run() async throws {
    // Everything happens in calls; this only lasts as long as the service.
    while true { try await Task.sleep(for: .seconds(86_400)) }
  }

  package func drain() async {
    self.isDraining.store(true, ordering: .releasing)
    // Unary calls and writers may finish; followers would last as long as their builds.
    self.storage.logs.drain()
  }

  package func readiness() async -> Readiness {
    self.isDraining.load(ordering: .acquiring) ? .notReady("draining") : .ready
  }
}

/// The cache's data directory, opened for this process alone.
package final class Storage: Sendable {
  /// Another process has the data directory.
  package struct Locked: Error, Hashable, Sendable, CustomStringConvertible {
    package let directory: String

    package init(directory: String) {
      self.directory = directory
    }

    package var description: String {
      "another content-cache uses the data directory \(self.directory)"
    }
  }

  package let blobs: BlobStore
  package let uploads: UploadStore
  package let logs: LogStore
  private let disk: Disk
  private let policy: Policy
  private let lock: File

  package init(dataDirectory: String, policy: Policy, disk: Disk) async throws {
    let opened = try await disk.run { () -> (File, BlobStore, LogStore) in
      try Path.makeDirectories(dataDirectory)
      let lock = try File(dataDirectory + "/lock", O_RDWR | O_CREAT)
      guard try lock.lock() else { throw Locked(directory: dataDirectory) }
      let blobs = try BlobStore(dataDirectory: dataDirectory)
      return (
        lock, blobs, try LogStore(dataDirectory: dataDirectory, blobs: blobs, policy: policy)
      )
    }
    (self.lock, self.blobs, self.logs) = opened
    self.uploads = UploadStore(blobs: self.blobs, policy: policy)
    self.disk = disk
    self.policy = policy
  }

  /// Lets another cache have the directory; nothing may be called any more.
  package func close() {
    self.lock.unlock()
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

/// Each open log holds a file, and the usual soft limit of 1,024 is from a time of `select`.
private func raiseFileLimit() {
  var limit = rlimit()
  guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
  limit.rlim_cur = limit.rlim_max
  _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

private func freeBytes(_ path: String) -> UInt64 {
  var status = statvfs()
  guard statvfs(path, &status) == 0 else { return 0 }
  return UInt64(status.f_bavail) * UInt64(status.f_frsize)
}
