import ContentCacheCore
import Crypto
import Domain

/// The digest of bytes that come one after the other.
package struct ContentHash: Sendable {
  private var hasher = SHA256()
  private var size: Int64 = 0

  /// Of bytes that are all here.
  package static func digest(of bytes: [UInt8]) -> Domain.Digest {
    var hash = Self()
    hash.update(bytes[...])
    return hash.digest
  }

  mutating func update(_ bytes: ArraySlice<UInt8>) {
    bytes.withUnsafeBytes { self.hasher.update(bufferPointer: $0) }
    self.size += Int64(bytes.count)
  }

  /// Of the bytes so far.
  var digest: Domain.Digest {
    Domain.Digest(hash: hexadecimal(self.hasher.finalize()), size: self.size)
  }
}
