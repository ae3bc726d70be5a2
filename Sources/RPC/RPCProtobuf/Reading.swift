import CProtobufC
import RPCCore

/// What generated code copies out of: C structs that were unpacked into an arena.
///
/// Everything is copied; nothing that comes out of it points back into the arena.
public struct DecodingSource {
  /// The bytes were rewritten before unpacking, and carry groups in wrapped form.
  @usableFromInline let isRewritten: Bool

  @usableFromInline
  init(isRewritten: Bool) {
    self.isRewritten = isRewritten
  }

  @inlinable
  public func bytes(_ field: ProtobufCBinaryData) -> [UInt8] {
    [UInt8](UnsafeBufferPointer(start: field.data, count: field.len))
  }

  @inlinable
  public func bytes(_ count: Int, _ fields: UnsafePointer<ProtobufCBinaryData>?) -> [[UInt8]] {
    UnsafeBufferPointer(start: fields, count: count).map { self.bytes($0) }
  }

  /// A string; `name` is the field's, for the error.
  @inlinable
  public func string(
    _ field: ProtobufCBinaryData, in name: StaticString
  ) throws(MessageDecodingError) -> String {
    let utf8 = UnsafeBufferPointer(start: field.data, count: field.len)
    guard let string = String(validating: utf8, as: UTF8.self) else {
      throw Self.invalidUTF8(name)
    }
    return string
  }

  @inlinable
  public func strings(
    _ count: Int, _ fields: UnsafePointer<ProtobufCBinaryData>?, in name: StaticString
  ) throws(MessageDecodingError) -> [String] {
    var strings: [String] = []
    strings.reserveCapacity(count)
    for field in UnsafeBufferPointer(start: fields, count: count) {
      strings.append(try self.string(field, in: name))
    }
    return strings
  }

  @inlinable
  public func numbers<T: BitwiseCopyable>(_ count: Int, _ fields: UnsafePointer<T>?) -> [T] {
    [T](UnsafeBufferPointer(start: fields, count: count))
  }

  @inlinable
  public func bools(_ count: Int, _ fields: UnsafePointer<UInt64>?) -> [Bool] {
    UnsafeBufferPointer(start: fields, count: count).map { $0 != 0 }
  }

  @inlinable
  public func enums<E: ProtobufEnum>(_ count: Int, _ fields: UnsafePointer<Int32>?) -> [E] {
    UnsafeBufferPointer(start: fields, count: count).map { E(rawValue: $0) }
  }

  /// A message that may be absent.
  @inlinable
  public func message<M: ProtobufMessage>(
    _ field: UnsafePointer<M.CMessage>?
  ) throws(MessageDecodingError) -> M? {
    guard let field else { return nil }
    return try M(copying: field, self)
  }

  /// A message that may be absent, behind its indirection.
  @inlinable
  public func indirectMessage<M: ProtobufMessage>(
    _ field: UnsafePointer<M.CMessage>?
  ) throws(MessageDecodingError) -> Indirect<M>? {
    guard let field else { return nil }
    return .value(try M(copying: field, self))
  }

  @inlinable
  public func messages<M: ProtobufMessage>(
    _ count: Int, _ fields: UnsafePointer<UnsafeMutablePointer<M.CMessage>?>?
  ) throws(MessageDecodingError) -> [M] {
    var messages: [M] = []
    messages.reserveCapacity(count)
    for field in UnsafeBufferPointer(start: fields, count: count) {
      if let field {
        messages.append(try M(copying: field, self))
      }
    }
    return messages
  }

  /// A map's entries; the last one of a key counts.
  @inlinable
  public func entries<Entry>(
    _ count: Int, _ fields: UnsafePointer<UnsafeMutablePointer<Entry>?>?
  ) -> UnsafeBufferPointer<UnsafeMutablePointer<Entry>?> {
    UnsafeBufferPointer(start: fields, count: count)
  }

  /// What the C side found no field for.
  @inlinable
  public func unknownFields(
    _ message: ProtobufCMessage
  ) throws(MessageDecodingError) -> UnknownFields {
    if message.n_unknown_fields == 0 { return UnknownFields() }
    return try self.copyUnknownFields(message)
  }

  @usableFromInline
  @inline(never)
  static func invalidUTF8(_ name: StaticString) -> MessageDecodingError {
    MessageDecodingError(.invalidUTF8, in: name.description)
  }
}

/// A value behind a pointer, for messages that contain themselves.
public indirect enum Indirect<Value: Sendable & Hashable>: Sendable, Hashable {
  case value(Value)

  @inlinable
  public var value: Value {
    switch self {
    case .value(let value): value
    }
  }
}
