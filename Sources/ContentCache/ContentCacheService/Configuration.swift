import ContentCacheCore
import ServiceRuntime

/// The cache's settings, beside those that every service has.
package struct Configuration: Sendable {
  package static let settings: [Setting] = [
    Setting(
      "disk-threads", default: "8", kind: .integer,
      help: "Threads that wait for the disk; more help on disks that take many requests at once"),
    Setting(
      "max-blob-size", default: "64GiB", kind: .byteCount,
      help: "The largest blob, and the longest log"),
  ]

  package var diskThreads: Int
  package var policy = Policy()

  package init(_ settings: SettingValues) throws(SettingError) {
    self.diskThreads = try settings.int("disk-threads", in: 1...1_024)
    self.policy.maximumBlobBytes = try settings.byteCount("max-blob-size")
  }
}
