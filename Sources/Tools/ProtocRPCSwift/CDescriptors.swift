/// Makes of descriptors such ones as protobuf-c's generator and library treat rightly. The bytes of
/// messages on the wire stay the same.
package enum CDescriptors {
  /// A file for protobuf-c's generator:
  ///
  /// * `string` becomes `bytes`: no NUL ends it; UTF-8 is checked when the Swift string is made;
  /// * enums become `int32`, and are left out: Swift has its own;
  /// * `bool` becomes `uint64`: libprotobuf-c takes a bool of any wire type, which it should not;
  /// * `proto3_optional` goes; the oneof that protoc makes for it stays and tells presence;
  /// * `map_entry` goes: entries are plain repeated messages;
  /// * services, comments, JSON names, defaults and reserved names go.
  package static func file(_ file: WireMessage) throws(GeneratorError) -> WireMessage {
    var file = file
    file.remove(5)
    file.remove(6)
    file.remove(9)
    file.remove(8)
    try file.editMessages(4) { (message) throws(GeneratorError) in
      try Self.edit(&message)
      return true
    }
    return file
  }

  private static func edit(_ message: inout WireMessage) throws(GeneratorError) {
    message.remove(4)
    message.remove(7)
    message.remove(9)
    message.remove(10)
    try message.editMessages(2) { (field) throws(GeneratorError) in
      field.remove(7)
      field.remove(10)
      field.remove(17)
      if let name = field.string(1) { field.set(1, Naming.cField(name)) }
      switch FieldModel.Kind(rawValue: field.number(5) ?? 0) {
      case .string:
        field.set(5, .varint(UInt64(FieldModel.Kind.bytes.rawValue)))
      case .enum:
        field.set(5, .varint(UInt64(FieldModel.Kind.int32.rawValue)))
        field.remove(6)
      case .bool:
        field.set(5, .varint(UInt64(FieldModel.Kind.uint64.rawValue)))
      default: break
      }
      // Of the options only `packed` matters.
      let packed = try field.message(8)?.number(2)
      field.remove(8)
      if let packed {
        var options = WireMessage()
        options.add(2, .varint(packed != 0 ? 1 : 0))
        field.set(8, .bytes(options.encoded))
      }
      return true
    }
    try message.editMessages(3) { (nested) throws(GeneratorError) in
      try Self.edit(&nested)
      return true
    }
  }
}
