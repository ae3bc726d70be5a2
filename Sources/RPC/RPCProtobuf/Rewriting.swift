import CProtobufC

/// Makes of an encoding that libprotobuf-c would refuse or misread one that it reads rightly.
///
/// * A singular submessage that is sent several times becomes one: two encodings of a message, one
///   behind the other, are the encoding of the two merged.
/// * A field that has another wire type than its type calls for, and a group (which no field of
///   ours is), are unknown fields. A message's unknown fields, in their order, are wrapped as one
///   field of number `wrappedField` at its end, which libprotobuf-c hands back as unknown, and which
///   is unwrapped when the message is copied. One, for a few kilobytes of gzip make millions of them.
struct Rewriting {
  /// From the range that protobuf keeps for implementations; a field of that number that really
  /// was sent is unknown like others.
  static let wrappedField: UInt32 = 19999

  enum Failure: Error {
    case malformed
    case nestedTooDeep
  }

  private typealias Bytes = UnsafeBufferPointer<UInt8>

  /// What one field of the result is made of.
  private enum Piece {
    /// As it came.
    case copy(Bytes)
    /// A submessage, in one or several parts.
    case message(UnsafePointer<ProtobufCMessageDescriptor>, number: UInt32, parts: [Bytes])
    /// A oneof's member that another one replaced.
    case replaced
  }

  private var output: [UInt8] = []

  /// The encoding, rewritten.
  static func rewrite(
    _ bytes: UnsafeBufferPointer<UInt8>, as type: UnsafePointer<ProtobufCMessageDescriptor>
  ) throws(Failure) -> [UInt8] {
    var rewriting = Rewriting()
    rewriting.output.reserveCapacity(bytes.count + 64)
    try rewriting.message([bytes], type, 0)
    return rewriting.output
  }

  private mutating func message(
    _ parts: [Bytes], _ type: UnsafePointer<ProtobufCMessageDescriptor>, _ depth: Int
  ) throws(Failure) {
    guard depth <= Scan.maximumDepth else { throw .nestedTooDeep }
    let (pieces, unknown) = try Self.pieces(parts, type)
    for piece in pieces {
      switch piece {
      case .copy(let bytes):
        self.output.append(contentsOf: bytes)
      case .message(let inner, let number, let parts):
        self.output.append(varint: UInt64(number) << 3 | 2)
        // The length is known afterwards only: five bytes, of which the first four go on.
        let length = self.output.count
        self.output.append(contentsOf: [0x80, 0x80, 0x80, 0x80, 0])
        try self.message(parts, inner, depth + 1)
        let count = UInt64(self.output.count - length - 5)
        for index in 0..<5 {
          self.output[length + index] |= UInt8(
            truncatingIfNeeded: count >> UInt64(7 * index) & 0x7f)
        }
      case .replaced:
        continue
      }
    }
    if !unknown.isEmpty {
      self.output.append(varint: UInt64(Self.wrappedField) << 3 | 2)
      self.output.append(varint: UInt64(unknown.reduce(0) { $0 + $1.count }))
      for run in unknown { self.output.append(contentsOf: run) }
    }
  }

  /// - Returns: What the message is made of, and its unknown fields, those that stand side by side as
  ///   one.
  private static func pieces(
    _ parts: [Bytes], _ type: UnsafePointer<ProtobufCMessageDescriptor>
  ) throws(Failure) -> ([Piece], unknown: [Bytes]) {
    var pieces: [Piece] = []
    var unknown: [Bytes] = []
    // Where the piece of a singular submessage is, by field number.
    var singular: [UInt32: Int] = [:]
    // Which field a oneof holds, by the offset of its case.
    var held: [UInt32: UInt32] = [:]
    for part in parts {
      var reader = WireReader(part)
      while !reader.isAtEnd {
        let start = reader.cursor
        guard let (number, wireType) = reader.tag() else { throw .malformed }
        let value = WireReader(Bytes(start: reader.cursor, count: reader.remaining))
        guard reader.skip(number: number, wireType: wireType) else { throw .malformed }
        let whole = Bytes(start: start, count: reader.cursor! - start!)

        let known = protobuf_c_message_descriptor_get_field(type, number)
        guard let field = known?.pointee, Self.fits(field, wireType) else {
          if let last = unknown.last, last.baseAddress! + last.count == start {
            unknown[unknown.count - 1] = Bytes(
              start: last.baseAddress, count: last.count + whole.count)
          } else {
            unknown.append(whole)
          }
          continue
        }
        let isOneof = field.flags & PROTOBUF_C_FIELD_FLAG_ONEOF.rawValue != 0
        if isOneof, let other = held.updateValue(number, forKey: field.quantifier_offset),
          other != number, let index = singular.removeValue(forKey: other)
        {
          pieces[index] = .replaced
        }
        guard field.type == PROTOBUF_C_TYPE_MESSAGE else {
          pieces.append(.copy(whole))
          continue
        }
        let inside = value.lengthDelimited()
        if let index = singular[number], case .message(let type, _, var parts) = pieces[index] {
          // Taken out first, so that `parts` grows in place.
          pieces[index] = .replaced
          parts.append(inside)
          pieces[index] = .message(type, number: number, parts: parts)
          continue
        }
        if field.label != PROTOBUF_C_LABEL_REPEATED {
          singular[number] = pieces.count
        }
        pieces.append(
          .message(
            field.descriptor.assumingMemoryBound(to: ProtobufCMessageDescriptor.self),
            number: number, parts: [inside]))
      }
    }
    return (pieces, unknown)
  }

  /// Whether libprotobuf-c takes a field of this wire type.
  private static func fits(_ field: ProtobufCFieldDescriptor, _ wireType: UInt8) -> Bool {
    let own: UInt8
    switch field.type {
    case PROTOBUF_C_TYPE_STRING, PROTOBUF_C_TYPE_BYTES, PROTOBUF_C_TYPE_MESSAGE:
      return wireType == 2
    case PROTOBUF_C_TYPE_SFIXED32, PROTOBUF_C_TYPE_FIXED32, PROTOBUF_C_TYPE_FLOAT: own = 5
    case PROTOBUF_C_TYPE_SFIXED64, PROTOBUF_C_TYPE_FIXED64, PROTOBUF_C_TYPE_DOUBLE: own = 1
    default: own = 0
    }
    return wireType == own || wireType == 2 && field.label == PROTOBUF_C_LABEL_REPEATED
  }
}
