/// The content of a blob: its SHA-256 and its size.
package struct Digest: Hashable, Sendable, CustomStringConvertible {
  /// Lower-case hexadecimal, 64 digits.
  package let hash: String
  package let size: Int64

  package init(hash: String, size: Int64) {
    self.hash = hash
    self.size = size
  }

  package var description: String { "\(self.hash)/\(self.size)" }
}

/// Where a build's source comes from.
package enum Source: Hashable, Sendable {
  /// A tar archive, plain or gzip, in the content-cache.
  case archive(Digest)
  /// A commit of a git repository; an empty revision is the remote's HEAD.
  case git(url: String, revision: String)
}

/// A file that a job kept.
package struct Artifact: Hashable, Sendable {
  package var name: String
  /// Relative to the workspace.
  package var path: String
  package var digest: Digest
  /// POSIX permission bits.
  package var mode: UInt32

  package init(name: String, path: String, digest: Digest, mode: UInt32) {
    self.name = name
    self.path = path
    self.digest = digest
    self.mode = mode
  }
}
