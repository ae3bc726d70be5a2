/// Names and values that travel beside a call's messages, in order; a name may occur repeatedly.
///
/// Names are of `a-z`, `0-9`, `-`, `_` and `.`, and compared without regard to case; one that ends in
/// `-bin` carries bytes. Names that gRPC and HTTP keep for themselves (`grpc-status`, `content-type`,
/// `te` and the like) are not sent, so that what came can be passed on. A call with a name of other
/// characters, or with binary metadata that is no base64, fails with `invalidArgument`; a server
/// does not send it.
///
/// Held as one run of bytes, so that receiving metadata makes no strings until one is asked for.
public struct Metadata: Sendable {
  private struct Entry: Sendable {
    var start: Int32
    var nameCount: Int32
    var valueCount: Int32
  }

  private var bytes: [UInt8] = []
  private var entries: [Entry] = []
  /// A name under which bytes were to be added, and cannot.
  private var misnamed: String?

  /// No metadata.
  public init() {}

  /// How many values there are.
  public var count: Int { self.entries.count }

  /// Whether there are no values.
  public var isEmpty: Bool { self.entries.isEmpty }

  /// Adds a value behind those that are there. Under a name that ends in `-bin` it must be base64
  /// already.
  ///
  /// The value must be printable ASCII (`doc/PROTOCOL-HTTP2.md`, "Custom-Metadata"); any other
  /// byte is replaced by `?`, and spaces around it are dropped. For bytes use ``add(binary:for:)``.
  public mutating func add(_ value: String, for name: String) {
    // RFC 9113, section 8.2.1: no value begins or ends with a space.
    var text = value.utf8[...]
    while text.first == UInt8(ascii: " ") { text = text.dropFirst() }
    while text.last == UInt8(ascii: " ") { text = text.dropLast() }
    self.appendEntry(
      name: name, valueCount: text.count,
      value: text.lazy.map { (0x20...0x7e).contains($0) ? $0 : UInt8(ascii: "?") })
  }

  /// Adds bytes under a name that ends in `-bin`. Under any other name nothing is added, and a call
  /// with this metadata fails with `INVALID_ARGUMENT`, which names it.
  public mutating func add(binary value: [UInt8], for name: String) {
    guard name.lowercased().hasSuffix("-bin") else {
      self.misnamed = name
      return
    }
    let encoded = Base64.encode(value)
    self.appendEntry(name: name, valueCount: encoded.count, value: encoded)
  }

  /// Adds a field as it came over the wire.
  package mutating func add(
    wireName name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>
  ) {
    let start = Int32(self.bytes.count)
    if self.entries.isEmpty {
      // Room for what most calls bring, so that it does not grow bit by bit.
      self.bytes.reserveCapacity(256)
      self.entries.reserveCapacity(8)
    }
    self.bytes.append(contentsOf: name)
    self.bytes.append(contentsOf: value)
    self.entries.append(
      Entry(start: start, nameCount: Int32(name.count), valueCount: Int32(value.count)))
  }

  /// Drops everything, and the memory if that is more than a call mostly needs.
  package mutating func removeAll() {
    guard !self.entries.isEmpty else { return }
    let keepsMemory = self.bytes.count <= 1 << 10
    self.bytes.removeAll(keepingCapacity: keepsMemory)
    self.entries.removeAll(keepingCapacity: keepsMemory)
  }

  /// Whether the two are the same byte for byte.
  package func isSame(as other: Metadata) -> Bool {
    guard self.entries.count == other.entries.count, self.bytes.count == other.bytes.count
    else { return false }
    return self.entries.withUnsafeBytes { mine in
      other.entries.withUnsafeBytes { mine.equals($0) }
    } && self.bytes.withUnsafeBytes { mine in other.bytes.withUnsafeBytes { mine.equals($0) } }
  }

  /// The first value of that name.
  public subscript(name: String) -> String? {
    self.index(of: name, from: 0).map { self.value(at: $0) }
  }

  /// All values of that name, in order.
  public func values(for name: String) -> [String] {
    var values: [String] = []
    var next = 0
    while let index = self.index(of: name, from: next) {
      values.append(self.value(at: index))
      next = index + 1
    }
    return values
  }

  /// The first value of that name, decoded; nil if there is none or it is no base64.
  public func binary(for name: String) -> [UInt8]? {
    guard let index = self.index(of: name, from: 0) else { return nil }
    let value = self.valueBytes(at: index)
    return Base64.decode(value.prefix { $0 != UInt8(ascii: ",") })
  }

  /// All values of that name, decoded, in order; what is no base64 is left out.
  ///
  /// One field may hold several with commas between (`doc/PROTOCOL-HTTP2.md`, "Binary-Header").
  public func binaryValues(for name: String) -> [[UInt8]] {
    var values: [[UInt8]] = []
    var next = 0
    while let index = self.index(of: name, from: next) {
      for part in self.valueBytes(at: index).split(
        separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
      {
        if let value = Base64.decode(part.drop { $0 == UInt8(ascii: " ") }) { values.append(value) }
      }
      next = index + 1
    }
    return values
  }

  /// Takes all values of that name out.
  public mutating func removeAll(for name: String) {
    self.entries = self.entries.filter { !self.nameMatches($0, name) }
  }

  /// Names that are not the application's: the transport writes them, or HTTP/2 forbids them (RFC
  /// 9113, section 8.2.2).
  private static let reservedNames: Set<String> = [
    "content-type", "content-length", "te", "host", "user-agent", "connection", "keep-alive",
    "proxy-connection", "transfer-encoding", "upgrade",
  ]
  /// Of all names that begin with `grpc-`, those that are the application's to send.
  private static let grpcNames: Set<String> = [
    "grpc-status-details-bin", "grpc-retry-pushback-ms", "grpc-accept-encoding", "grpc-trace-bin",
    "grpc-tags-bin",
  ]

  /// Whether the application may send a field of that name, which is in lower case, and value.
  package static func mayBeSent(
    _ name: UnsafeBufferPointer<UInt8>, _ value: UnsafeBufferPointer<UInt8>
  ) -> Bool {
    self.isName(name) && !self.isReserved(name)
      && (!self.isBinaryName(name) || self.isBinary(value))
  }

  private static func isReserved(_ name: UnsafeBufferPointer<UInt8>) -> Bool {
    let text = String(decoding: name, as: UTF8.self)
    return text.hasPrefix("grpc-")
      ? !self.grpcNames.contains(text) : self.reservedNames.contains(text)
  }

  private static func isBinaryName(_ name: UnsafeBufferPointer<UInt8>) -> Bool {
    name.count > 4 && UnsafeBufferPointer(rebasing: name.suffix(4)).equals("-bin")
  }

  /// "Header-Name" in `doc/PROTOCOL-HTTP2.md` of the gRPC project.
  private static func isName(_ name: UnsafeBufferPointer<UInt8>) -> Bool {
    let isRight = name.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
        UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
        true
      default: false
      }
    }
    return isRight && !name.isEmpty
  }

  /// A name for bytes that is none, the first name that HTTP/2 cannot carry, or value of a binary one
  /// that is no base64; nil: there is none.
  package var mistake: ConfigurationError? {
    if let misnamed = self.misnamed {
      return ConfigurationError(
        "a name of binary metadata", "\"\(misnamed)\"", expected: "one that ends in -bin")
    }
    if self.entries.isEmpty { return nil }
    var mistake: ConfigurationError?
    self.forEachField { name, value in
      guard mistake == nil else { return }
      if !Self.isName(name) {
        mistake = ConfigurationError(
          "a name of the metadata", "\"\(String(decoding: name, as: UTF8.self))\"",
          expected: "letters, digits, \"-\", \"_\" and \".\"")
      } else if Self.isBinaryName(name), !Self.isBinary(value) {
        mistake = ConfigurationError(
          "the metadata's \(String(decoding: name, as: UTF8.self))",
          "\"\(String(decoding: value, as: UTF8.self))\"",
          expected: "base64, as of add(binary:for:)")
      }
    }
    return mistake
  }

  /// One value, or several with commas between.
  private static func isBinary(_ value: UnsafeBufferPointer<UInt8>) -> Bool {
    value.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false).allSatisfy {
      Base64.decode($0.drop { $0 == UInt8(ascii: " ") }) != nil
    }
  }

  /// Calls `body` with each name and value as they go over the wire.
  package func forEachField(
    _ body: (_ name: UnsafeBufferPointer<UInt8>, _ value: UnsafeBufferPointer<UInt8>) -> Void
  ) {
    self.bytes.withUnsafeBufferPointer { bytes in
      for entry in self.entries {
        let nameEnd = Int(entry.start) + Int(entry.nameCount)
        body(
          UnsafeBufferPointer(rebasing: bytes[Int(entry.start)..<nameEnd]),
          UnsafeBufferPointer(rebasing: bytes[nameEnd..<nameEnd + Int(entry.valueCount)]))
      }
    }
  }

  /// The bytes of all names and values.
  package var byteCount: Int { self.bytes.count }

  /// What it takes in memory, but for what its arrays have grown too large.
  package var heldBytes: Int {
    self.bytes.count + self.entries.count * MemoryLayout<Entry>.stride
  }

  private mutating func appendEntry(
    name: String, valueCount: Int, value: some Sequence<UInt8>
  ) {
    let start = Int32(self.bytes.count)
    for byte in name.utf8 {
      self.bytes.append((0x41...0x5a).contains(byte) ? byte | 0x20 : byte)
    }
    self.bytes.append(contentsOf: value)
    self.entries.append(
      Entry(start: start, nameCount: Int32(name.utf8.count), valueCount: Int32(valueCount)))
  }

  private func nameMatches(_ entry: Entry, _ name: String) -> Bool {
    guard Int(entry.nameCount) == name.utf8.count else { return false }
    var position = Int(entry.start)
    for byte in name.utf8 {
      let lowered = (0x41...0x5a).contains(byte) ? byte | 0x20 : byte
      if self.bytes[position] != lowered { return false }
      position += 1
    }
    return true
  }

  private func index(of name: String, from first: Int) -> Int? {
    self.entries[first...].firstIndex { self.nameMatches($0, name) }
  }

  private func valueBytes(at index: Int) -> ArraySlice<UInt8> {
    let entry = self.entries[index]
    let start = Int(entry.start) + Int(entry.nameCount)
    return self.bytes[start..<start + Int(entry.valueCount)]
  }

  private func value(at index: Int) -> String {
    String(decoding: self.valueBytes(at: index), as: UTF8.self)
  }
}

extension Metadata: Sequence {
  /// A name and its value.
  public typealias Element = (name: String, value: String)

  /// Names and values in order, names in lower case, binary values as base64.
  public func makeIterator() -> AnyIterator<Element> {
    var index = 0
    return AnyIterator {
      guard index < self.entries.count else { return nil }
      defer { index += 1 }
      let entry = self.entries[index]
      let start = Int(entry.start)
      let name = self.bytes[start..<start + Int(entry.nameCount)]
      return (String(decoding: name, as: UTF8.self), self.value(at: index))
    }
  }
}

extension Metadata: Hashable {
  public static func == (left: Self, right: Self) -> Bool {
    left.elementsEqual(right) { $0.name == $1.name && $0.value == $1.value }
  }

  public func hash(into hasher: inout Hasher) {
    for (name, value) in self {
      hasher.combine(name)
      hasher.combine(value)
    }
  }
}

extension Metadata: ExpressibleByDictionaryLiteral {
  /// Names and values in order; a name may stand there repeatedly. See ``add(_:for:)``.
  public init(dictionaryLiteral elements: (String, String)...) {
    self.init()
    for (name, value) in elements {
      self.add(value, for: name)
    }
  }
}

extension Metadata: CustomStringConvertible {
  public var description: String {
    "[" + self.map { "\($0.name): \($0.value)" }.joined(separator: ", ") + "]"
  }
}
