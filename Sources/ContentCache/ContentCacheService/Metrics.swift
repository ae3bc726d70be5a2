import ServiceRuntime

/// What the cache counts.
package struct Metrics: Sendable {
  package let blobBytesWritten: Counter
  package let blobBytesRead: Counter
  package let logBytesWritten: Counter
  package let logBytesRead: Counter
  package let digestMismatches: Counter
  package let logReaders: Gauge

  package init(_ registry: MetricsRegistry) {
    self.blobBytesWritten = registry.counter(
      "millrace_cache_blob_bytes_written_total", help: "Bytes of blobs that callers sent.")
    self.blobBytesRead = registry.counter(
      "millrace_cache_blob_bytes_read_total", help: "Bytes of blobs that were sent to callers.")
    self.logBytesWritten = registry.counter(
      "millrace_cache_log_bytes_written_total", help: "New bytes that were appended to logs.")
    self.logBytesRead = registry.counter(
      "millrace_cache_log_bytes_read_total", help: "Bytes of logs that were sent to readers.")
    self.digestMismatches = registry.counter(
      "millrace_cache_digest_mismatches_total",
      help: "Blobs that were refused because their bytes have another digest.")
    self.logReaders = registry.gauge(
      "millrace_cache_log_readers", help: "Calls that read or follow a log now.")
  }
}
