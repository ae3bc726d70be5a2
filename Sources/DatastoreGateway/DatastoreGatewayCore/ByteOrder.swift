import Domain

/// Encodes so that bytes compare as what they stand for does: the form of values and paths in
/// index rows and cursors. Descending order is a scan from the end.
package enum ByteOrder {
  /// Ends a text inside a longer encoding. A zero byte of the text itself is followed by
  /// `escaped`, which is above whatever may follow a text's end.
  static let end: UInt8 = 0x00
  static let escaped: UInt8 = 0xFF
  /// Stands before each element of a path, above `end`: so an ancestor sorts before its
  /// descendants, and is a prefix of them.
  static let element: UInt8 = 0x01
  /// What an element's identity is; ids sort before names.
  static let idMark: UInt8 = 0x01
  static let nameMark: UInt8 = 0x02

  /// Whether `left` sorts before `right`: by bytes, then the shorter one.
  package static func precedes(_ left: [UInt8], _ right: [UInt8]) -> Bool {
    left.lexicographicallyPrecedes(right)
  }

  /// The first byte string that is above every one that begins with `prefix`; `nil` if none is.
  package static func successor(ofPrefix prefix: [UInt8]) -> [UInt8]? {
    var bytes = prefix
    while let last = bytes.popLast() {
      if last < 0xFF {
        bytes.append(last + 1)
        return bytes
      }
    }
    return nil
  }

  static func append(_ number: Int64, to bytes: inout [UInt8]) {
    self.append(bits: UInt64(bitPattern: number) ^ (1 << 63), to: &bytes)
  }

  static func append(_ number: Double, to bytes: inout [UInt8]) {
    // All NaNs are one, above infinity.
    let bits = number.isNaN ? Double.nan.bitPattern & ~(1 << 63) : number.bitPattern
    self.append(bits: bits >> 63 == 1 ? ~bits : bits | (1 << 63), to: &bytes)
  }

  private static func append(bits: UInt64, to bytes: inout [UInt8]) {
    withUnsafeBytes(of: bits.bigEndian) { bytes.append(contentsOf: $0) }
  }

  static func append(_ name: Name, to bytes: inout [UInt8]) {
    for byte in name.text.utf8 {
      bytes.append(byte)
      if byte == self.end { bytes.append(self.escaped) }
    }
    bytes.append(self.end)
  }

  static func append(_ partition: PartitionID, to bytes: inout [UInt8]) {
    self.append(partition.project, to: &bytes)
    self.append(partition.database, to: &bytes)
    self.append(partition.namespace, to: &bytes)
  }

  static func append(_ path: [PathElement], to bytes: inout [UInt8]) {
    for element in path {
      bytes.append(self.element)
      self.append(element.kind, to: &bytes)
      switch element.identity {
      // Our bug: only complete keys are stored or compared.
      case .incomplete: preconditionFailure("The path of an incomplete key has no encoding")
      case .id(let id):
        bytes.append(self.idMark)
        self.append(id, to: &bytes)
      case .name(let name):
        bytes.append(self.nameMark)
        self.append(name, to: &bytes)
      }
    }
  }
}

extension Key {
  /// - Precondition: The key is complete.
  package var pathBytes: PathBytes {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(self.path.count * 32)
    ByteOrder.append(self.path, to: &bytes)
    return PathBytes(bytes: bytes)
  }

  package var collection: CollectionName {
    CollectionName(partition: self.partition, kind: self.kind)
  }

  /// - Precondition: The key is complete.
  package var address: EntityAddress {
    EntityAddress(collection: self.collection, path: self.pathBytes)
  }
}

extension CollectionName {
  package init(partition: PartitionID, kind: Name) {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(64)
    ByteOrder.append(partition, to: &bytes)
    ByteOrder.append(kind, to: &bytes)
    self.init(bytes: bytes)
  }

  /// What the names of all collections of a partition begin with.
  package static func prefix(of partition: PartitionID) -> [UInt8] {
    var bytes: [UInt8] = []
    ByteOrder.append(partition, to: &bytes)
    return bytes
  }

  /// What the names of all collections of a database begin with, whatever their namespace.
  package static func databasePrefix(of partition: PartitionID) -> [UInt8] {
    var bytes: [UInt8] = []
    ByteOrder.append(partition.project, to: &bytes)
    ByteOrder.append(partition.database, to: &bytes)
    return bytes
  }

  /// The partition and the kind that this stands for.
  package func parts() throws(ByteOrderError) -> (partition: PartitionID, kind: Name) {
    var reader = OrderedBytesReader(self.bytes)
    let partition = try reader.partition()
    let kind = try reader.name()
    guard reader.isAtEnd else { throw ByteOrderError(offset: reader.offset) }
    return (partition, kind)
  }
}

extension PathBytes {
  /// The path that this stands for.
  package func elements() throws(ByteOrderError) -> [PathElement] {
    var reader = OrderedBytesReader(self.bytes)
    var elements: [PathElement] = []
    while !reader.isAtEnd { elements.append(try reader.element()) }
    return elements
  }
}

extension Value {
  /// The form of one indexed value: its class, then its content. `nil` for entities and arrays.
  package var orderedBytes: [UInt8]? {
    guard let orderClass = self.orderClass else { return nil }
    var bytes: [UInt8] = [orderClass.rawValue]
    switch self {
    case .null: break
    case .integer(let number): ByteOrder.append(number, to: &bytes)
    case .timestamp(let time): ByteOrder.append(time.microseconds, to: &bytes)
    case .boolean(let flag): bytes.append(flag ? 1 : 0)
    case .string(let text): bytes.append(contentsOf: text.utf8)
    case .blob(let blob): bytes.append(contentsOf: blob)
    case .double(let number): ByteOrder.append(number, to: &bytes)
    case .geoPoint(let latitude, let longitude):
      ByteOrder.append(latitude, to: &bytes)
      ByteOrder.append(longitude, to: &bytes)
    case .key(let key):
      ByteOrder.append(key.partition, to: &bytes)
      ByteOrder.append(key.path, to: &bytes)
    case .entity, .array: return nil
    }
    return bytes
  }
}

extension Value {
  /// A value as an index knows it: a timestamp is an integer, a blob is a text where it can be one.
  ///
  /// - Parameter bytes: As ``orderedBytes`` made them.
  /// - Throws: They were made by nothing here.
  init(ordered bytes: [UInt8]) throws(ByteOrderError) {
    var reader = OrderedBytesReader(bytes)
    guard let orderClass = OrderClass(rawValue: try reader.byte()) else {
      throw ByteOrderError(offset: 0)
    }
    switch orderClass {
    case .null: self = .null
    case .number: self = .integer(try reader.integer())
    case .boolean: self = .boolean(try reader.byte() != 0)
    case .bytes:
      let content = Array(bytes.dropFirst())
      self = String(validating: content, as: UTF8.self).map { .string($0) } ?? .blob(content)
      return
    case .double: self = .double(try reader.double())
    case .geoPoint:
      self = .geoPoint(latitude: try reader.double(), longitude: try reader.double())
    case .key:
      let partition = try reader.partition()
      var path: [PathElement] = []
      while !reader.isAtEnd { path.append(try reader.element()) }
      self = .key(Key(partition: partition, path: path))
    }
    if !reader.isAtEnd { throw ByteOrderError(offset: reader.offset) }
  }
}

/// Bytes that no encoder here wrote: a damaged store or a made-up cursor.
package struct ByteOrderError: Error, Hashable {
  /// Where reading stopped.
  package var offset: Int
}

/// Reads what `ByteOrder` wrote.
struct OrderedBytesReader {
  private let bytes: [UInt8]
  private(set) var offset = 0

  init(_ bytes: [UInt8]) {
    self.bytes = bytes
  }

  var isAtEnd: Bool { self.offset == self.bytes.count }

  mutating func byte() throws(ByteOrderError) -> UInt8 {
    guard self.offset < self.bytes.count else { throw ByteOrderError(offset: self.offset) }
    defer { self.offset += 1 }
    return self.bytes[self.offset]
  }

  private mutating func bits() throws(ByteOrderError) -> UInt64 {
    var bits: UInt64 = 0
    for _ in 0..<8 { bits = bits << 8 | UInt64(try self.byte()) }
    return bits
  }

  mutating func integer() throws(ByteOrderError) -> Int64 {
    Int64(bitPattern: try self.bits() ^ (1 << 63))
  }

  mutating func double() throws(ByteOrderError) -> Double {
    let bits = try self.bits()
    return Double(bitPattern: bits >> 63 == 1 ? bits & ~(1 << 63) : ~bits)
  }

  mutating func name() throws(ByteOrderError) -> Name {
    let begin = self.offset
    var text: [UInt8] = []
    while true {
      let byte = try self.byte()
      if byte == ByteOrder.end {
        guard self.offset < self.bytes.count, self.bytes[self.offset] == ByteOrder.escaped else {
          break
        }
        self.offset += 1
      }
      text.append(byte)
    }
    guard let text = String(validating: text, as: UTF8.self) else {
      throw ByteOrderError(offset: begin)
    }
    return Name(text)
  }

  mutating func partition() throws(ByteOrderError) -> PartitionID {
    PartitionID(
      project: try self.name(), database: try self.name(), namespace: try self.name())
  }

  mutating func element() throws(ByteOrderError) -> PathElement {
    guard try self.byte() == ByteOrder.element else {
      throw ByteOrderError(offset: self.offset - 1)
    }
    let kind = try self.name()
    switch try self.byte() {
    case ByteOrder.idMark:
      return PathElement(kind: kind, identity: .id(try self.integer()))
    case ByteOrder.nameMark:
      return PathElement(kind: kind, identity: .name(try self.name()))
    default: throw ByteOrderError(offset: self.offset - 1)
    }
  }
}
