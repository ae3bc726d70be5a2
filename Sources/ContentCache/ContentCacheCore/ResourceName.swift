import Domain

/// What a `google.bytestream` resource name means to the cache, by the Remote Execution API.
///
/// Reads: `[INSTANCE/]blobs/HASH/SIZE`. Writes: `[INSTANCE/]uploads/UUID/blobs/HASH/SIZE[/...]`.
/// The instance may have several parts, and is one name for the same blobs as every other.
package enum ResourceName: Hashable, Sendable {
  case blob(Digest)
  /// `id` sets one upload of a blob apart from another.
  case upload(id: String, Digest)

  /// Why a name cannot be used.
  package enum ParseError: Error, Hashable, Sendable, CustomStringConvertible {
    case shape(String)
    case tooLong(bytes: Int)
    case digest(DigestError)
    case size(String)
    case compressed(String)
    case upload(String)

    package var description: String {
      switch self {
      case .shape(let name):
        "\"\(shortened(name))\" names no blob: expected blobs/HASH/SIZE to read or "
          + "uploads/UUID/blobs/HASH/SIZE to write"
      case .tooLong(let bytes):
        "the resource name has \(bytes) bytes, more than \(ResourceName.maximumBytes)"
      case .digest(let error): error.description
      case .size(let text): "\"\(shortened(text))\" is no size in bytes"
      case .compressed(let compressor):
        "compressor \"\(shortened(compressor))\" is not supported: ask for it uncompressed"
      case .upload(let id):
        "\"\(shortened(id))\" is no upload's id: expected 1 to \(ResourceName.maximumUploadIDBytes)"
          + " characters"
      }
    }
  }

  /// More than any instance name and its blob need.
  package static let maximumBytes = 2_048
  /// A UUID has 36.
  package static let maximumUploadIDBytes = 128

  package init(_ name: String, policy: Policy) throws(ParseError) {
    guard name.utf8.count <= Self.maximumBytes else { throw .tooLong(bytes: name.utf8.count) }
    let parts = name.split(separator: "/", omittingEmptySubsequences: false)
    guard let start = parts.firstIndex(where: { Self.keywords.contains($0) }) else {
      throw .shape(name)
    }
    var rest = parts[start...]
    switch rest.removeFirst() {
    case "blobs":
      self = .blob(try Self.digest(&rest, name, policy))
      guard rest.isEmpty else { throw .shape(name) }
    case "compressed-blobs":
      throw .compressed(rest.first.map(String.init) ?? "")
    case "uploads":
      guard let id = rest.popFirst() else { throw .shape(name) }
      guard (1...Self.maximumUploadIDBytes).contains(id.utf8.count) else {
        throw .upload(String(id))
      }
      switch rest.popFirst() {
      case "blobs":
        // What follows the size is the client's own, and means nothing here.
        self = .upload(id: String(id), try Self.digest(&rest, name, policy))
      case "compressed-blobs": throw .compressed(rest.first.map(String.init) ?? "")
      default: throw .shape(name)
      }
    default: throw .shape(name)
    }
  }

  /// No part of an instance name may be one of these, so the first one ends it.
  private static let keywords: Set<Substring> = ["blobs", "compressed-blobs", "uploads"]

  private static func digest(
    _ parts: inout ArraySlice<Substring>, _ name: String, _ policy: Policy
  ) throws(ParseError) -> Digest {
    guard let hash = parts.popFirst(), let sizeText = parts.popFirst() else { throw .shape(name) }
    guard !sizeText.hasPrefix("+"), let size = Int64(sizeText) else {
      throw .size(String(sizeText))
    }
    do {
      return try Digest(checking: String(hash), size: size, policy: policy)
    } catch {
      throw .digest(error)
    }
  }
}
