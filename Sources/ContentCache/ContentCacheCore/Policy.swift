import Domain

/// The cache's limits. Each one is told to clients that ask, or named in the error it causes.
package struct Policy: Hashable, Sendable {
  /// The largest blob, and the longest log: a disk that one caller fills serves nobody.
  package var maximumBlobBytes: Int64 = 64 << 30
  /// Data in one BatchUpdateBlobs or BatchReadBlobs: half a message of 4 MiB, so that digests and
  /// statuses always have room beside it.
  package var maximumBatchBytes: Int64 = 2 << 20
  /// Data in one message of a read: large enough that its cost is the copying, small enough that
  /// a thousand readers hold little.
  package var readChunkBytes = 256 << 10
  /// Data in one message of a log, as `ReadLogResponse` promises.
  package var logChunkBytes = 64 << 10
  /// A blob up to this size is kept in memory until it is whole, then written in one go; when its
  /// stream is lost the client sends it again from the start.
  package var memoryUploadBytes: Int64 = 64 << 10
  /// Uploads that were begun and may be resumed; beyond it the oldest that has no writer is
  /// forgotten, and one more is refused while all have one.
  package var maximumUploads = 1_024
  /// How long an upload without a writer can be resumed.
  package var uploadIdleTime = Duration.seconds(3_600)
  /// Logs that are read or written at one time; each holds a file open.
  package var maximumOpenLogs = 8_192
  /// Callers that read or write one log at one time.
  package var maximumCallersPerLog = 1_024
  /// Unsealed logs that stay open after their last caller, so that one that comes back need not
  /// hash the log again.
  package var maximumIdleLogs = 256
  /// Characters in a log's name, as `AppendLogRequest` promises.
  package var maximumLogNameCharacters = 512
  /// Directories that GetTree puts into one message.
  package var treePageDirectories = 256
  /// Directories that GetTree visits for one call: a tree is hostile input.
  package var maximumTreeDirectories = 100_000

  package init() {}
}
