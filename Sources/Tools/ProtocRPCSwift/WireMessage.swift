/// A message of which only the wire format is known: its fields, in order.
///
/// The generator reads and edits descriptors in this form, so that what it does not know of stays
/// as it is.
package struct WireMessage: Equatable, Sendable {
  package struct Field: Equatable, Sendable {
    package var number: Int
    package var value: Value
  }

  package enum Value: Equatable, Sendable {
    case varint(UInt64)
    case fixed64([UInt8])
    case bytes([UInt8])
    case fixed32([UInt8])
  }

  package var fields: [Field] = []

  package init() {}

  package init(_ bytes: [UInt8]) throws(GeneratorError) {
    var position = 0
    func varint() throws(GeneratorError) -> UInt64 {
      var value: UInt64 = 0
      for shift in stride(from: 0, to: 64, by: 7) {
        guard position < bytes.count else { break }
        let byte = bytes[position]
        position += 1
        value |= UInt64(byte & 0x7f) << UInt64(shift)
        if byte < 0x80 { return value }
      }
      throw GeneratorError("the request is cut off or no protobuf at byte \(position)")
    }
    func take(_ count: UInt64) throws(GeneratorError) -> [UInt8] {
      guard count <= UInt64(bytes.count - position) else {
        throw GeneratorError("the request is cut off at byte \(position)")
      }
      defer { position += Int(count) }
      return Array(bytes[position..<position + Int(count)])
    }
    while position < bytes.count {
      let tag = try varint()
      let value: Value
      switch tag & 7 {
      case 0: value = .varint(try varint())
      case 1: value = .fixed64(try take(8))
      case 2: value = .bytes(try take(try varint()))
      case 5: value = .fixed32(try take(4))
      default:
        throw GeneratorError("the request has a field of wire type \(tag & 7) at byte \(position)")
      }
      self.fields.append(Field(number: Int(tag >> 3), value: value))
    }
  }

  package var encoded: [UInt8] {
    var bytes: [UInt8] = []
    func append(_ value: UInt64) {
      var rest = value
      while rest >= 0x80 {
        bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
        rest >>= 7
      }
      bytes.append(UInt8(rest))
    }
    for field in self.fields {
      let tag = UInt64(field.number) << 3
      switch field.value {
      case .varint(let value):
        append(tag)
        append(value)
      case .fixed64(let value):
        append(tag | 1)
        bytes += value
      case .bytes(let value):
        append(tag | 2)
        append(UInt64(value.count))
        bytes += value
      case .fixed32(let value):
        append(tag | 5)
        bytes += value
      }
    }
    return bytes
  }

  // MARK: - Reading

  package func number(_ number: Int) -> Int? {
    for field in self.fields.reversed() where field.number == number {
      if case .varint(let value) = field.value {
        return Int(truncatingIfNeeded: Int64(bitPattern: value))
      }
    }
    return nil
  }

  package func flag(_ number: Int) -> Bool { self.number(number) ?? 0 != 0 }

  package func allBytes(_ number: Int) -> [[UInt8]] {
    self.fields.compactMap { field in
      if field.number == number, case .bytes(let value) = field.value { value } else { nil }
    }
  }

  package func string(_ number: Int) -> String? {
    self.allBytes(number).last.map { String(decoding: $0, as: UTF8.self) }
  }

  package func strings(_ number: Int) -> [String] {
    self.allBytes(number).map { String(decoding: $0, as: UTF8.self) }
  }

  package func message(_ number: Int) throws(GeneratorError) -> WireMessage? {
    guard let bytes = self.allBytes(number).last else { return nil }
    return try WireMessage(bytes)
  }

  package func messages(_ number: Int) throws(GeneratorError) -> [WireMessage] {
    var messages: [WireMessage] = []
    for bytes in self.allBytes(number) { messages.append(try WireMessage(bytes)) }
    return messages
  }

  /// A repeated `int32`, packed or not.
  package func numbers(_ number: Int) -> [Int] {
    var numbers: [Int] = []
    for field in self.fields where field.number == number {
      switch field.value {
      case .varint(let value):
        numbers.append(Int(truncatingIfNeeded: value))
      case .bytes(let bytes):
        var value = 0
        var shift = 0
        for byte in bytes {
          value |= Int(byte & 0x7f) << shift
          shift += 7
          if byte < 0x80 {
            numbers.append(value)
            value = 0
            shift = 0
          }
        }
      default: continue
      }
    }
    return numbers
  }

  // MARK: - Editing

  package mutating func remove(_ number: Int) {
    self.fields.removeAll { $0.number == number }
  }

  package mutating func set(_ number: Int, _ value: Value) {
    self.remove(number)
    self.fields.append(Field(number: number, value: value))
  }

  package mutating func set(_ number: Int, _ text: String) {
    self.set(number, .bytes(Array(text.utf8)))
  }

  package mutating func add(_ number: Int, _ value: Value) {
    self.fields.append(Field(number: number, value: value))
  }

  /// Edits every submessage of that number in place; one for which `edit` returns `false` is
  /// dropped.
  package mutating func editMessages(
    _ number: Int, _ edit: (inout WireMessage) throws(GeneratorError) -> Bool
  ) throws(GeneratorError) {
    var edited: [Field] = []
    for field in self.fields {
      guard field.number == number, case .bytes(let bytes) = field.value else {
        edited.append(field)
        continue
      }
      var message = try WireMessage(bytes)
      if try edit(&message) {
        edited.append(Field(number: number, value: .bytes(message.encoded)))
      }
    }
    self.fields = edited
  }
}

/// What the generator has to say to whoever runs it.
package struct GeneratorError: Error, Equatable, CustomStringConvertible {
  package var description: String

  package init(_ description: String) {
    self.description = description
  }
}
