import Domain

/// Why a text or a pair of hash and size names no blob.
package enum DigestError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Not 64 digits of lower-case hexadecimal.
  case hash(String)
  /// Negative, or above the largest blob.
  case size(Int64, maximum: Int64)

  package var description: String {
    switch self {
    case .hash(let hash):
      "\"\(shortened(hash))\" is no SHA-256: expected 64 digits of lower-case hexadecimal"
    case .size(let size, let maximum):
      "the size \(size) is not between 0 and \(maximum) bytes"
    }
  }
}

extension Digest {
  /// The blob without bytes. It is always there.
  package static let empty = Digest(
    hash: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", size: 0)

  /// A digest from outside.
  package init(checking hash: String, size: Int64, policy: Policy) throws(DigestError) {
    guard Self.isHash(hash.utf8) else { throw .hash(hash) }
    guard (0...policy.maximumBlobBytes).contains(size) else {
      throw .size(size, maximum: policy.maximumBlobBytes)
    }
    self.init(hash: hash, size: size)
  }

  /// Whether these are 64 digits of lower-case hexadecimal.
  package static func isHash(_ text: some Collection<UInt8>) -> Bool {
    text.count == 64
      && text.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
  }
}

/// Bytes as lower-case hexadecimal.
package func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
  var text: [UInt8] = []
  for byte in bytes {
    for digit in [byte >> 4, byte & 15] {
      text.append(digit < 10 ? 0x30 + digit : 0x57 + digit)
    }
  }
  return String(decoding: text, as: UTF8.self)
}

/// Hostile input for an error's text: no longer than anybody wants to read.
package func shortened(_ text: String) -> String {
  text.count <= 100 ? text : "\(text.prefix(97))..."
}
