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

  /// A `bytes` field.
  @inlinable
  public func bytes(_ field: ProtobufCBinaryData) -> [UInt8] {
    [UInt8](UnsafeBufferPointer(start: field.data, count: field.len))
  }

  /// A repeated `bytes` field.
  @inlinable
  public func bytes(_ count: Int, _ fields: UnsafePointer<ProtobufCBinaryData>?) -> [[UInt8]] {
    UnsafeBufferPointer(start: fields, count: count).map { self.bytes($0) }
  }

  /// A string; `name` is the field's, for the error.
  @inlinable
  public func string(
    _ field: ProtobufCBinaryData, in name: StaticString
  ) throws(MessageDecodingError) -> String {
    if field.len == 0 { return "" }
    let utf8 = UnsafeBufferPointer(start: field.data, count: field.len)
    guard Self.isASCII(utf8) else { return try Self.validated(utf8, name) }
    if utf8.count <= Arena.longestWithoutStorage {
      return String(unsafeUninitializedCapacity: utf8.count) { bytes in
        Self.copyShort(utf8, to: UnsafeMutableRawPointer(bytes.baseAddress!))
        return utf8.count
      }
    }
    return String(copying: UTF8Span(unchecked: utf8.span, isKnownASCII: true))
  }

  /// Copies 1 to 16 bytes, for which a call of `memcpy` takes longer than the copying.
  @inlinable
  static func copyShort(_ bytes: UnsafeBufferPointer<UInt8>, to place: UnsafeMutableRawPointer) {
    let count = bytes.count
    let start = UnsafeRawPointer(bytes.baseAddress!)
    if count >= 8 {
      let last = (start + (count &- 8)).loadUnaligned(as: UInt64.self)
      place.storeBytes(of: start.loadUnaligned(as: UInt64.self), as: UInt64.self)
      (place + (count &- 8)).storeBytes(of: last, as: UInt64.self)
    } else if count >= 4 {
      let last = (start + (count &- 4)).loadUnaligned(as: UInt32.self)
      place.storeBytes(of: start.loadUnaligned(as: UInt32.self), as: UInt32.self)
      (place + (count &- 4)).storeBytes(of: last, as: UInt32.self)
    } else {
      for index in 0..<count {
        place.storeBytes(of: bytes[index], toByteOffset: index, as: UInt8.self)
      }
    }
  }

  /// Looks at eight bytes at a time; the last eight may overlap the ones before.
  @inlinable
  static func isASCII(_ bytes: UnsafeBufferPointer<UInt8>) -> Bool {
    let count = bytes.count
    let start = UnsafeRawPointer(bytes.baseAddress!)
    if count >= 8 {
      var high = (start + (count &- 8)).loadUnaligned(as: UInt64.self)
      var offset = 0
      while offset < count &- 8 {
        high |= (start + offset).loadUnaligned(as: UInt64.self)
        offset &+= 8
      }
      return high & 0x8080_8080_8080_8080 == 0
    }
    if count >= 4 {
      let high =
        start.loadUnaligned(as: UInt32.self)
        | (start + (count &- 4)).loadUnaligned(as: UInt32.self)
      return high & 0x8080_8080 == 0
    }
    // One to three bytes: the first, the middle and the last.
    let high =
      start.load(as: UInt8.self) | (start + (count &>> 1)).load(as: UInt8.self)
      | (start + (count &- 1)).load(as: UInt8.self)
    return high < 0x80
  }

  /// Several times faster than `String(validating:as:)`, which asks for generic metadata.
  @usableFromInline
  @inline(never)
  static func validated(
    _ utf8: UnsafeBufferPointer<UInt8>, _ name: StaticString
  ) throws(MessageDecodingError) -> String {
    do {
      return String(copying: try UTF8Span(validating: utf8.span))
    } catch {
      throw Self.invalidUTF8(name)
    }
  }

  /// An array of which each element may fail.
  @inlinable
  static func array<Element>(
    _ count: Int, _ element: (Int) throws(MessageDecodingError) -> Element
  ) throws(MessageDecodingError) -> [Element] {
    if count == 0 { return [] }
    // Not by an initializer: those ask for generic metadata.
    var elements: [Element] = []
    try elements.append(addingCapacity: count) { (output) throws(MessageDecodingError) in
      for index in 0..<count {
        output.append(try element(index))
      }
    }
    return elements
  }

  /// Repeated strings; `name` is the field's, for the error.
  @inlinable
  public func strings(
    _ count: Int, _ fields: UnsafePointer<ProtobufCBinaryData>?, in name: StaticString
  ) throws(MessageDecodingError) -> [String] {
    try Self.array(count) { (index) throws(MessageDecodingError) in
      try self.string(fields![index], in: name)
    }
  }

  /// Repeated numbers.
  @inlinable
  public func numbers<T: BitwiseCopyable>(_ count: Int, _ fields: UnsafePointer<T>?) -> [T] {
    [T](UnsafeBufferPointer(start: fields, count: count))
  }

  /// Repeated truth values, which generated C holds in 64 bits each.
  @inlinable
  public func bools(_ count: Int, _ fields: UnsafePointer<UInt64>?) -> [Bool] {
    UnsafeBufferPointer(start: fields, count: count).map { $0 != 0 }
  }

  /// Repeated enums.
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

  /// Repeated messages.
  @inlinable
  public func messages<M: ProtobufMessage>(
    _ count: Int, _ fields: UnsafePointer<UnsafeMutablePointer<M.CMessage>?>?
  ) throws(MessageDecodingError) -> [M] {
    // libprotobuf-c leaves no element of a list without its message.
    try Self.array(count) { (index) throws(MessageDecodingError) in
      try M(copying: fields![index]!, self)
    }
  }

  /// A map's entries; the last one of a key counts.
  @inlinable
  public func entries<Entry>(
    _ count: Int, _ fields: UnsafePointer<UnsafeMutablePointer<Entry>?>?
  ) -> UnsafeBufferPointer<UnsafeMutablePointer<Entry>?> {
    UnsafeBufferPointer(start: fields, count: count)
  }

  /// Adds a map's entry; the last one of a key counts.
  ///
  /// - Throws: `.equivalentKeys` where the map has another key that Swift's `String` takes for this one,
  ///   as "\u{e9}" and "e\u{301}": a dictionary holds one of them, and the other's value would be lost.
  @inlinable
  public func add<Value>(
    _ value: Value, of key: String, to map: inout [String: Value], in name: StaticString
  ) throws(MessageDecodingError) {
    guard map.updateValue(value, forKey: key) != nil else { return }
    try Self.checkSame(map, key, name)
  }

  @usableFromInline
  @inline(never)
  static func checkSame<Value>(
    _ map: [String: Value], _ key: String, _ name: StaticString
  ) throws(MessageDecodingError) {
    guard let index = map.index(forKey: key), map[index].key.utf8.elementsEqual(key.utf8) else {
      throw MessageDecodingError(.equivalentKeys, in: name.description)
    }
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
  /// The only case: what is behind the pointer.
  case value(Value)

  /// What is behind the pointer.
  @inlinable
  public var value: Value {
    switch self {
    case .value(let value): value
    }
  }
}
