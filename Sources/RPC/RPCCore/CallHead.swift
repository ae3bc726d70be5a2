#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// A request's head, for further calls that bring the same fields.
package final class KnownHead: Sendable {
  fileprivate let isPost: Bool
  fileprivate let isGRPC: Bool
  fileprivate let encoding: Compression
  fileprivate let acceptedEncodings: AcceptedEncodings
  fileprivate let metadata: Metadata
  fileprivate let heldBytes: Int

  /// All of a head but its timeout.
  package init(_ head: borrowing RequestHead) {
    self.isPost = head.isPost
    self.isGRPC = head.isGRPC
    self.encoding = head.encoding
    self.acceptedEncodings = head.acceptedEncodings
    self.metadata = head.metadata
    self.heldBytes = head.metadata.heldBytes
  }
}

/// What a request leaves for the application: its own, or what calls with the same fields have in common.
package enum RequestMetadata: Sendable {
  case own(Metadata)
  case known(KnownHead)

  package var fields: Metadata {
    switch self {
    case .own(let metadata): metadata
    case .known(let head): head.metadata
    }
  }
}

/// The header fields of a request, as a server reads them.
package struct RequestHead: ~Copyable {
  /// Whether `:method` is POST.
  package private(set) var isPost = false
  /// Whether `content-type` is gRPC's.
  package private(set) var isGRPC = false
  package private(set) var timeout: Duration?
  /// A `grpc-timeout` that is none.
  package private(set) var badTimeout: String?
  /// How messages that say so are compressed.
  package private(set) var encoding = Compression.identity
  /// A `grpc-encoding` that is not understood.
  package private(set) var unknownEncoding: String?
  /// What the client understands.
  package private(set) var acceptedEncodings = AcceptedEncodings()
  /// What is left for the application, unless it is that of a known head.
  package private(set) var metadata = Metadata()
  private var known: KnownHead?

  package init() {}

  /// It was taken from another call's.
  package var isAssumed: Bool { self.known != nil }

  /// What the metadata takes in memory.
  package var heldBytes: Int { self.known?.heldBytes ?? self.metadata.heldBytes }

  /// Takes everything but the timeout from the head of another call with the same fields, which was
  /// ``isWorthKeeping``. To be called on one that has had no other field.
  package mutating func assume(_ known: KnownHead) {
    self.isPost = known.isPost
    self.isGRPC = known.isGRPC
    self.encoding = known.encoding
    self.acceptedEncodings = known.acceptedEncodings
    self.known = known
  }

  /// Whether it is kept for a call that follows with the same fields: what it says is understood, and it is
  /// small.
  package var isWorthKeeping: Bool {
    self.unknownEncoding == nil && self.metadata.byteCount <= Self.sharedMetadataBytes
  }

  /// As new, but for the memory.
  package mutating func reset() {
    self.isPost = false
    self.isGRPC = false
    self.timeout = nil
    if self.badTimeout != nil { self.badTimeout = nil }
    self.encoding = .identity
    if self.unknownEncoding != nil { self.unknownEncoding = nil }
    self.acceptedEncodings = AcceptedEncodings()
    if self.known != nil { self.known = nil }
    self.metadata.removeAll()
  }

  /// What is left for the application.
  ///
  /// - Parameter last: What the call before had. Calls of one connection mostly bring the same, and
  ///   then share it.
  package mutating func takeMetadata(like last: inout Metadata) -> RequestMetadata {
    if let known = self.known.take() { return .known(known) }
    if self.metadata.isSame(as: last) { return .own(last) }
    let metadata = self.metadata
    self.metadata = Metadata()
    if metadata.byteCount <= Self.sharedMetadataBytes { last = metadata }
    return .own(metadata)
  }

  /// What a connection remembers of the call before.
  private static let sharedMetadataBytes = 1 << 10

  /// Takes a field. `:path` is the caller's to look up.
  package mutating func receive(
    name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>
  ) {
    switch name.count {
    case 2 where name.equals("te"), 14 where name.equals("content-length"): return
    case 7 where name.equals(":method"): self.isPost = value.equals("POST")
    case 7 where name.equals(":scheme"), 5 where name.equals(":path"): return
    case 10 where name.equals(":authority"): return
    case 12 where name.equals("content-type"): self.isGRPC = value.isGRPCContentType
    case 12 where name.equals("grpc-timeout"):
      self.timeout = TimeoutHeader.decode(value)
      if self.timeout == nil {
        self.badTimeout = String(decoding: value.prefix(100), as: UTF8.self)
      }
    case 13 where name.equals("grpc-encoding"):
      if let known = Compression(value) {
        self.encoding = known
      } else {
        self.unknownEncoding = String(decoding: value.prefix(100), as: UTF8.self)
      }
    case 20 where name.equals("grpc-accept-encoding"):
      self.acceptedEncodings = AcceptedEncodings(value)
    default: self.metadata.add(wireName: name, value: value)
    }
  }
}

/// The header fields of a response, or its trailers, as a client reads them.
package struct ResponseHead: ~Copyable {
  /// `:status`; 0 if there is none, or one that is no number of three digits.
  package private(set) var httpStatus = 0
  package private(set) var isGRPC = false
  /// How messages that say so are compressed.
  package private(set) var encoding = Compression.identity
  package private(set) var unknownEncoding: String?
  /// `grpc-status`; nil if there is none. One that is no number gRPC knows is `unknown`.
  package private(set) var code: StatusCode?
  package private(set) var message = ""
  package private(set) var metadata = Metadata()

  package init() {}

  package mutating func receive(
    name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>
  ) {
    switch name.count {
    case 7 where name.equals(":status"):
      self.httpStatus = value.decimal(digits: 3...3) ?? 0
    case 11 where name.equals("grpc-status"):
      let number = value.decimal(digits: 1...2)
      self.code = number.flatMap { StatusCode(rawValue: $0) } ?? .unknown
    case 12 where name.equals("content-type"): self.isGRPC = value.isGRPCContentType
    case 12 where name.equals("grpc-message"): self.message = StatusMessage.decode(value)
    case 13 where name.equals("grpc-encoding"):
      if let known = Compression(value) {
        self.encoding = known
      } else {
        self.unknownEncoding = String(decoding: value.prefix(100), as: UTF8.self)
      }
    case 20 where name.equals("grpc-accept-encoding"): return
    default: self.metadata.add(wireName: name, value: value)
    }
  }
}

extension UnsafeBufferPointer<UInt8> {
  /// The number that it is in so many decimal digits; nil if it is none.
  fileprivate func decimal(digits: ClosedRange<Int>) -> Int? {
    guard digits.contains(self.count) else { return nil }
    var number = 0
    for byte in self {
      guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
      number = number * 10 + Int(byte - UInt8(ascii: "0"))
    }
    return number
  }

  @inline(__always)
  package func equals(_ text: StaticString) -> Bool {
    self.equals(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  @inline(__always)
  package func equals(_ other: UnsafeBufferPointer<UInt8>) -> Bool {
    UnsafeRawBufferPointer(self).equals(UnsafeRawBufferPointer(other))
  }

  /// Whether the bytes are those of a text that is in lower case, whose letters may be in upper case here.
  package func equalsIgnoringCase(_ text: StaticString) -> Bool {
    guard self.count == text.utf8CodeUnitCount else { return false }
    return self.indices.allSatisfy { index in
      let (byte, wanted) = (self[index], text.utf8Start[index])
      return byte == wanted
        || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) && byte | 0x20 == wanted
    }
  }

  /// `application/grpc`, alone or with a `+` or a `;` behind it.
  fileprivate var isGRPCContentType: Bool {
    let name: StaticString = "application/grpc"
    let length = name.utf8CodeUnitCount
    guard self.count >= length else { return false }
    // RFC 9110, section 8.3.1: types are the same in any case.
    guard UnsafeBufferPointer(rebasing: self[..<length]).equalsIgnoringCase(name) else {
      return false
    }
    guard self.count > length else { return true }
    // A suffix or, behind spaces, a parameter.
    if self[length] == UInt8(ascii: "+") { return true }
    let space = [UInt8(ascii: " "), UInt8(ascii: "\t")]
    return self[length...].first { !space.contains($0) } == UInt8(ascii: ";")
  }
}

extension UnsafeRawBufferPointer {
  @inline(__always)
  package func equals(_ other: UnsafeRawBufferPointer) -> Bool {
    self.count == other.count
      && (self.isEmpty || memcmp(self.baseAddress!, other.baseAddress!, self.count) == 0)
  }
}
