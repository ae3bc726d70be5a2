/// How a message's bytes are made smaller on the wire.
///
/// See `doc/compression.md` and "Message-Encoding" in `doc/PROTOCOL-HTTP2.md` of the gRPC project.
public enum Compression: String, Sendable, Hashable, CaseIterable {
  /// Not at all.
  case identity
  /// RFC 1952.
  case gzip
  /// The zlib format of RFC 1950, which gRPC calls `deflate`, as HTTP does.
  case deflate

  /// The value of `grpc-accept-encoding`: everything that is understood.
  package static let accepted: StaticString = "identity,gzip,deflate"

  /// Nil for a name that is not understood.
  package init?(_ name: UnsafeBufferPointer<UInt8>) {
    if name.equals("gzip") {
      self = .gzip
    } else if name.equals("identity") {
      self = .identity
    } else if name.equals("deflate") {
      self = .deflate
    } else {
      return nil
    }
  }

  /// The name as a header's value.
  package var header: StaticString {
    switch self {
    case .identity: "identity"
    case .gzip: "gzip"
    case .deflate: "deflate"
    }
  }
}

/// Which encodings a peer understands, of those that there are.
package struct AcceptedEncodings: Sendable, Hashable {
  private var bits: UInt8 = 1

  /// Only identity, which everybody understands.
  package init() {}

  /// From a `grpc-accept-encoding`: names with commas between, unknown ones among them.
  package init(_ list: UnsafeBufferPointer<UInt8>) {
    for part in list.split(separator: UInt8(ascii: ",")) {
      var name = part
      while name.first == UInt8(ascii: " ") { name = name.dropFirst() }
      while name.last == UInt8(ascii: " ") { name = name.dropLast() }
      if let known = Compression(UnsafeBufferPointer(rebasing: name)) { self.insert(known) }
    }
  }

  package func contains(_ compression: Compression) -> Bool {
    self.bits & Self.bit(compression) != 0
  }

  private mutating func insert(_ compression: Compression) {
    self.bits |= Self.bit(compression)
  }

  private static func bit(_ compression: Compression) -> UInt8 {
    switch compression {
    case .identity: 1
    case .gzip: 2
    case .deflate: 4
    }
  }
}
