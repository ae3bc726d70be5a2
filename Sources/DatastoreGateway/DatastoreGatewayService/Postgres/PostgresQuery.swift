/// A statement with the values of its parameters, in the binary form that PostgreSQL takes.
struct PostgresQuery {
  /// Each distinct text is prepared once on each connection.
  var text: String
  var parameters: [PostgresValue]

  init(_ text: String, _ parameters: PostgresValue...) {
    self.text = text
    self.parameters = parameters
  }

  init(_ text: String, parameters: [PostgresValue]) {
    self.text = text
    self.parameters = parameters
  }
}

/// A parameter.
enum PostgresValue {
  case integer(Int64)
  case bytes([UInt8])
  case text(String)
  case integers([Int64])
  case flags([Bool])
  /// `nil` is NULL.
  case byteStrings([[UInt8]?])

  // Numbers of types in PostgreSQL's catalogue; they never change.
  private static let bytea: UInt32 = 17
  private static let int8: UInt32 = 20
  private static let bool: UInt32 = 16

  var type: UInt32 {
    switch self {
    case .integer: Self.int8
    case .bytes: Self.bytea
    case .text: 25
    case .integers: 1016
    case .flags: 1000
    case .byteStrings: 1001
    }
  }

  func append(to buffer: inout [UInt8]) {
    switch self {
    case .integer(let number): buffer.append(bigEndian: number)
    case .bytes(let bytes): buffer.append(contentsOf: bytes)
    case .text(let text): buffer.append(contentsOf: text.utf8)
    case .integers(let numbers):
      Self.appendHeader(Self.int8, count: numbers.count, hasNull: false, to: &buffer)
      for number in numbers {
        buffer.append(bigEndian: Int32(8))
        buffer.append(bigEndian: number)
      }
    case .flags(let flags):
      Self.appendHeader(Self.bool, count: flags.count, hasNull: false, to: &buffer)
      for flag in flags {
        buffer.append(bigEndian: Int32(1))
        buffer.append(flag ? 1 : 0)
      }
    case .byteStrings(let strings):
      Self.appendHeader(
        Self.bytea, count: strings.count, hasNull: strings.contains { $0 == nil }, to: &buffer)
      for string in strings {
        buffer.append(bigEndian: string.map { Int32($0.count) } ?? -1)
        if let string { buffer.append(contentsOf: string) }
      }
    }
  }

  /// An array of one dimension, whose first element has the number 1; an empty one has none.
  private static func appendHeader(
    _ type: UInt32, count: Int, hasNull: Bool, to buffer: inout [UInt8]
  ) {
    buffer.append(bigEndian: Int32(count == 0 ? 0 : 1))
    buffer.append(bigEndian: Int32(hasNull ? 1 : 0))
    buffer.append(bigEndian: type)
    if count == 0 { return }
    buffer.append(bigEndian: Int32(count))
    buffer.append(bigEndian: Int32(1))
  }
}

extension [UInt8] {
  fileprivate mutating func append(bigEndian number: some FixedWidthInteger) {
    Swift.withUnsafeBytes(of: number.bigEndian) { self.append(contentsOf: $0) }
  }
}
