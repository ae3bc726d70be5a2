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

  /// One field as it came.
  private struct Field {
    var number: UInt32
    /// Nothing: the field is unknown.
    var known: UnsafePointer<ProtobufCFieldDescriptor>?
    /// The tag in as few bytes as it takes, which libprotobuf-c makes of every unknown field's.
    var tag: UInt64
    /// What is behind the tag.
    var value: Bytes
    /// What a length is in front of.
    var inside: Bytes

    /// Of the tag and what is behind it.
    var size: Int {
      (UInt64.bitWidth - self.tag.leadingZeroBitCount + 6) / 7 + self.value.count
    }
    var isMessage: Bool { self.known?.pointee.type == PROTOBUF_C_TYPE_MESSAGE }
    var isSingularMessage: Bool {
      self.isMessage && self.known?.pointee.label != PROTOBUF_C_LABEL_REPEATED
    }
  }

  /// What has to be known of a message before its first field is written.
  private struct Survey {
    /// The parts of each singular submessage, by field number.
    var singular: [UInt32: [Bytes]] = [:]
    /// Which field a oneof holds, by the offset of its case.
    var held: [UInt32: UInt32] = [:]
    var unknownBytes = 0
  }

  private mutating func message(
    _ parts: [Bytes], _ type: UnsafePointer<ProtobufCMessageDescriptor>, _ depth: Int
  ) throws(Failure) {
    let survey = try Self.survey(parts, type)
    try Self.forEachField(of: parts, type) { (field) throws(Failure) in
      guard let known = field.known else { return }
      guard field.isMessage else { return self.append(field) }
      guard depth < Scan.maximumDepth else { throw .nestedTooDeep }
      var parts = [field.inside]
      if field.isSingularMessage {
        // Where its first part is, all of them; nowhere, if another of its oneof came later.
        guard let all = survey.singular[field.number],
          all[0].baseAddress == field.inside.baseAddress
        else { return }
        parts = all
      }
      self.output.append(varint: UInt64(field.number) << 3 | 2)
      if field.inside.isEmpty, parts.count == 1 { return self.output.append(0) }
      // The length is known afterwards only: five bytes, of which the first four go on.
      let length = self.output.count
      self.output.append(contentsOf: [0x80, 0x80, 0x80, 0x80, 0])
      try self.message(
        parts, known.pointee.descriptor.assumingMemoryBound(to: ProtobufCMessageDescriptor.self),
        depth + 1)
      let count = UInt64(self.output.count - length - 5)
      for index in 0..<5 {
        self.output[length + index] |= UInt8(truncatingIfNeeded: count >> UInt64(7 * index) & 0x7f)
      }
    }
    guard survey.unknownBytes > 0 else { return }
    self.output.append(varint: UInt64(Self.wrappedField) << 3 | 2)
    self.output.append(varint: UInt64(survey.unknownBytes))
    try Self.forEachField(of: parts, type) { (field) throws(Failure) in
      if field.known == nil { self.append(field) }
    }
  }

  private mutating func append(_ field: Field) {
    self.output.append(varint: field.tag)
    self.output.append(contentsOf: field.value)
  }

  /// Reads all of a message once, without what is in its submessages. What it keeps is in proportion
  /// to what is sent twice.
  private static func survey(
    _ parts: [Bytes], _ type: UnsafePointer<ProtobufCMessageDescriptor>
  ) throws(Failure) -> Survey {
    var survey = Survey()
    try Self.forEachField(of: parts, type) { (field) throws(Failure) in
      guard let known = field.known?.pointee else {
        survey.unknownBytes += field.size
        return
      }
      if known.flags & PROTOBUF_C_FIELD_FLAG_ONEOF.rawValue != 0,
        let other = survey.held.updateValue(field.number, forKey: known.quantifier_offset),
        other != field.number
      {
        survey.singular[other] = nil
      }
      if field.isSingularMessage { survey.singular[field.number, default: []].append(field.inside) }
    }
    return survey
  }

  private static func forEachField(
    of parts: [Bytes], _ type: UnsafePointer<ProtobufCMessageDescriptor>,
    _ body: (Field) throws(Failure) -> Void
  ) throws(Failure) {
    for part in parts {
      var reader = WireReader(part)
      while !reader.isAtEnd {
        guard let (number, wireType) = reader.tag() else { throw .malformed }
        let start = reader.cursor
        let value = WireReader(Bytes(start: start, count: reader.remaining))
        guard reader.skip(number: number, wireType: wireType) else { throw .malformed }
        var known = protobuf_c_message_descriptor_get_field(type, number)
        if let field = known?.pointee, Scan.wireTypes(of: field) & 1 << wireType == 0 {
          known = nil
        }
        try body(
          Field(
            number: number, known: known, tag: UInt64(number) << 3 | UInt64(wireType),
            value: Bytes(start: start, count: reader.cursor! - start!),
            inside: wireType == 2 ? value.lengthDelimited() : Bytes(start: nil, count: 0)))
      }
    }
  }
}
