import Crypto
import DatastoreGatewayCore

/// A byte string as B-trees of PostgreSQL keep it, whose rows must be below 2,704 bytes: a long one
/// is cut, and a digest of all of it stands behind the cut.
///
/// Two are equal exactly if the whole ones are. Short ones, which are nearly all, sort as they do
/// whole. Long ones that begin the same stand together, in the order of their digests: whoever reads
/// them sorts them by what they are whole, which is stored beside.
struct CutKey: Hashable {
  /// Bytes that are kept of a long one. A value of the greatest indexed size is whole, with the byte
  /// that tells its class; the sum with a cut path behind it fits.
  enum Limit: Int {
    case value = 1_501
    case path = 1_024
    /// Stands alone, or behind a number.
    case name = 2_000
  }

  /// What the index has.
  var stored: [UInt8]
  /// All of it, where the index does not have that.
  var whole: [UInt8]?

  init(_ bytes: [UInt8], _ limit: Limit) {
    if bytes.count <= limit.rawValue {
      self.stored = bytes
    } else {
      var stored = Array(bytes.prefix(limit.rawValue))
      bytes.withUnsafeBytes { stored.append(contentsOf: SHA256.hash(data: $0)) }
      self.stored = stored
      self.whole = bytes
    }
  }

  /// What is stored of all long ones that begin like this one is between these two, of which no one
  /// is stored itself.
  static func bounds(_ bytes: [UInt8], _ limit: Limit) -> (lower: [UInt8], upper: [UInt8]) {
    let head = Array(bytes.prefix(limit.rawValue))
    return (head, head + Array(repeating: 0xFF, count: SHA256.byteCount + 1))
  }
}

extension EntityAddress {
  var cutPath: CutKey { CutKey(self.path.bytes, .path) }
}
