import CProtobufC
import RPCCore

/// Fields of a message that its sender knew and this program does not; they go out again with it.
public struct UnknownFields: Sendable, Hashable {
  /// Their encoding, one behind the other, in the order they came.
  public private(set) var bytes: [UInt8]

  /// None.
  @inlinable
  public init() {
    self.init(wellFormed: [])
  }

  /// A message that is encoded already, as a field of another: it goes out as it is, without being
  /// decoded first.
  ///
  /// - Parameters:
  ///   - encoded: The message's encoding, which nobody looks into.
  ///   - number: Of the field, 1 to 536,870,911.
  package init(message encoded: [UInt8], as number: Int) {
    precondition((1...0x1fff_ffff).contains(number), "there is no field \(number)")
    var bytes: [UInt8] = []
    bytes.reserveCapacity(encoded.count + 10)
    bytes.append(
      varint: UInt64(number) << 3 | UInt64(PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED.rawValue))
    bytes.append(varint: UInt64(encoded.count))
    bytes.append(contentsOf: encoded)
    self.init(wellFormed: bytes)
  }

  @usableFromInline
  init(wellFormed bytes: [UInt8]) {
    self.bytes = bytes
  }

  /// Whether there are none.
  @inlinable
  public var isEmpty: Bool { self.bytes.isEmpty }
}

extension DecodingSource {
  @usableFromInline
  @inline(never)
  func copyUnknownFields(
    _ message: ProtobufCMessage
  ) throws(MessageDecodingError) -> UnknownFields {
    var bytes: [UInt8] = []
    for index in 0..<Int(message.n_unknown_fields) {
      let field = message.unknown_fields[index]
      // Field number 0 is no number; libprotobuf-c lets it pass.
      guard field.tag != 0 else {
        throw MessageDecodingError(.malformed, in: String(cString: message.descriptor.pointee.name))
      }
      let data = UnsafeBufferPointer(start: field.data, count: field.len)
      if self.isRewritten && field.tag == Rewriting.wrappedField {
        // Behind the length of what was wrapped, as it came.
        let wrapped = WireReader(data).lengthDelimited()
        bytes.append(contentsOf: wrapped)
      } else {
        bytes.append(varint: UInt64(field.tag) << 3 | UInt64(field.wire_type.rawValue))
        bytes.append(contentsOf: data)
      }
    }
    return UnknownFields(wellFormed: bytes)
  }
}

extension Arena {
  /// libprotobuf-c writes a field's tag and then its data as they are: so one field, whose data is
  /// all that follows the first tag, stands for all of them.
  @usableFromInline
  @inline(never)
  func addUnknownFields(_ fields: UnknownFields, to message: inout ProtobufCMessage) {
    fields.bytes.withUnsafeBufferPointer { buffer in
      var reader = WireReader(buffer)
      guard let tag = reader.varint() else { return }
      let field = self.allocate(1, of: ProtobufCMessageUnknownField.self)
      field.initialize(
        to: ProtobufCMessageUnknownField(
          tag: UInt32(truncatingIfNeeded: tag >> 3),
          wire_type: ProtobufCWireType(rawValue: UInt32(tag & 7)),
          len: reader.remaining,
          data: UnsafeMutablePointer(mutating: reader.cursor)))
      message.n_unknown_fields = 1
      message.unknown_fields = field
    }
  }

  /// Adds a field to those that go out as they are. Its sign bit is the last one on the wire.
  @usableFromInline
  @inline(never)
  func addMinusZero(
    _ number: UInt32, _ wireType: ProtobufCWireType, _ message: inout ProtobufCMessage
  ) {
    let size = wireType == PROTOBUF_C_WIRE_TYPE_64BIT ? 8 : 4
    let data = self.allocate(size, of: UInt8.self)
    data.initialize(repeating: 0, count: size)
    data[size - 1] = 0x80
    let count = Int(message.n_unknown_fields)
    let fields = self.allocate(count + 1, of: ProtobufCMessageUnknownField.self)
    if count > 0 { fields.initialize(from: message.unknown_fields, count: count) }
    (fields + count).initialize(
      to: ProtobufCMessageUnknownField(tag: number, wire_type: wireType, len: size, data: data))
    message.n_unknown_fields = UInt32(count + 1)
    message.unknown_fields = fields
  }
}

extension [UInt8] {
  mutating func append(varint: UInt64) {
    var rest = varint
    while rest >= 0x80 {
      self.append(UInt8(truncatingIfNeeded: rest) | 0x80)
      rest >>= 7
    }
    self.append(UInt8(truncatingIfNeeded: rest))
  }
}
