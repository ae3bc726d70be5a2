import CProtobufC

// What generated code calls to fill C structs.

extension Arena {
  /// A message as a C struct.
  @inlinable
  func place<M: ProtobufMessage>(_ value: M) -> UnsafeMutablePointer<M.CMessage> {
    let message = self.allocate(1, of: M.CMessage.self)
    M.bridge.initialize(message)
    value.write(to: message, self)
    return message
  }

  /// A message that may be absent.
  @inlinable
  public func message<M: ProtobufMessage>(_ value: M?) -> UnsafeMutablePointer<M.CMessage>? {
    guard let value else { return nil }
    return self.place(value)
  }

  /// A message that may be absent, behind its indirection.
  @inlinable
  public func indirectMessage<M: ProtobufMessage>(
    _ value: Indirect<M>?
  ) -> UnsafeMutablePointer<M.CMessage>? {
    guard let value else { return nil }
    return self.place(value.value)
  }

  /// Repeated messages.
  @inlinable
  public func messages<M: ProtobufMessage>(
    _ values: [M]
  ) -> (Int, UnsafeMutablePointer<UnsafeMutablePointer<M.CMessage>?>?) {
    if values.isEmpty { return (0, nil) }
    let count = values.count
    let pointers = self.allocate(count, of: UnsafeMutablePointer<M.CMessage>?.self)
    let messages = self.allocate(count, of: M.CMessage.self)
    let bridge = M.bridge
    values.withUnsafeBufferPointer { values in
      for index in 0..<count {
        bridge.initialize(messages + index)
        InPlace.at(values.baseAddress! + index).pointee.use { value in
          value.write(to: messages + index, self)
        }
        (pointers + index).initialize(to: messages + index)
      }
    }
    return (count, pointers)
  }

  /// A map's entries.
  @inlinable
  public func entries<Key, Value, Entry>(
    _ values: [Key: Value], _ initialize: (UnsafeMutablePointer<Entry>?) -> Void,
    _ write: (UnsafeMutablePointer<Entry>, Key, Value) -> Void
  ) -> (Int, UnsafeMutablePointer<UnsafeMutablePointer<Entry>?>?) {
    if values.isEmpty { return (0, nil) }
    let pointers = self.allocate(values.count, of: UnsafeMutablePointer<Entry>?.self)
    let entries = self.allocate(values.count, of: Entry.self)
    var index = 0
    for (key, value) in values {
      initialize(entries + index)
      write(entries + index, key, value)
      (pointers + index).initialize(to: entries + index)
      index &+= 1
    }
    return (index, pointers)
  }

  /// The array's own storage: it outlives the encoding, during which the message is not changed.
  @inlinable
  public func bytes(_ value: [UInt8]) -> ProtobufCBinaryData {
    if value.count >= Self.largeArrayBytes, self.state.pointee.keepsArrays {
      self.state.pointee.arrays.append(value)
    }
    return value.withUnsafeBufferPointer { buffer in
      ProtobufCBinaryData(
        len: buffer.count, data: UnsafeMutablePointer(mutating: buffer.baseAddress))
    }
  }

  /// Repeated `bytes`: the arrays' own storage.
  @inlinable
  public func bytes(
    _ values: [[UInt8]]
  ) -> (Int, UnsafeMutablePointer<ProtobufCBinaryData>?) {
    if values.isEmpty { return (0, nil) }
    let pointers = self.allocate(values.count, of: ProtobufCBinaryData.self)
    values.withUnsafeBufferPointer { values in
      for index in values.indices {
        let bytes = InPlace.at(values.baseAddress! + index).pointee.use { self.bytes($0) }
        (pointers + index).initialize(to: bytes)
      }
    }
    return (values.count, pointers)
  }

  /// The string's own storage, as with `bytes`, or a copy of a short one, which has none.
  @inlinable
  public func string(_ value: String) -> ProtobufCBinaryData {
    // `withUTF8` would want a copy of the string to change.
    value.utf8.withContiguousStorageIfAvailable { utf8 in
      utf8.count > Self.longestWithoutStorage
        ? ProtobufCBinaryData(
          len: utf8.count, data: UnsafeMutablePointer(mutating: utf8.baseAddress))
        : self.copy(utf8)
    } ?? self.bridgedString(value)
  }

  /// Bytes that a `String` may hold in itself.
  @inlinable static var longestWithoutStorage: Int { 15 }

  @inlinable
  func copy(_ utf8: UnsafeBufferPointer<UInt8>) -> ProtobufCBinaryData {
    guard let start = utf8.baseAddress, utf8.count > 0 else {
      return ProtobufCBinaryData(len: 0, data: nil)
    }
    let copy = self.allocate(utf8.count).assumingMemoryBound(to: UInt8.self)
    copy.initialize(from: start, count: utf8.count)
    return ProtobufCBinaryData(len: utf8.count, data: copy)
  }

  /// A string that has no UTF-8 of its own: Objective-C's.
  @usableFromInline
  @inline(never)
  func bridgedString(_ value: String) -> ProtobufCBinaryData {
    var value = value
    return value.withUTF8 { self.copy($0) }
  }

  /// Repeated strings: copies of their UTF-8.
  @inlinable
  public func strings(
    _ values: [String]
  ) -> (Int, UnsafeMutablePointer<ProtobufCBinaryData>?) {
    if values.isEmpty { return (0, nil) }
    let pointers = self.allocate(values.count, of: ProtobufCBinaryData.self)
    values.withUnsafeBufferPointer { values in
      for index in values.indices {
        let bytes = InPlace.at(values.baseAddress! + index).pointee.use { self.string($0) }
        (pointers + index).initialize(to: bytes)
      }
    }
    return (values.count, pointers)
  }

  /// The array's own storage, as with `bytes`.
  @inlinable
  public func numbers<T: BitwiseCopyable>(_ values: [T]) -> (Int, UnsafeMutablePointer<T>?) {
    values.withUnsafeBufferPointer { buffer in
      (buffer.count, UnsafeMutablePointer(mutating: buffer.baseAddress))
    }
  }

  /// Repeated truth values, which generated C holds in 64 bits each.
  @inlinable
  public func bools(_ values: [Bool]) -> (Int, UnsafeMutablePointer<UInt64>?) {
    if values.isEmpty { return (0, nil) }
    let numbers = self.allocate(values.count, of: UInt64.self)
    for index in values.indices {
      (numbers + index).initialize(to: values[index] ? 1 : 0)
    }
    return (values.count, numbers)
  }

  /// Repeated enums.
  @inlinable
  public func enums<E: ProtobufEnum>(_ values: [E]) -> (Int, UnsafeMutablePointer<Int32>?) {
    if values.isEmpty { return (0, nil) }
    let numbers = self.allocate(values.count, of: Int32.self)
    for index in values.indices {
      (numbers + index).initialize(to: values[index].rawValue)
    }
    return (values.count, numbers)
  }

  /// Puts unknown fields back.
  @inlinable
  public func unknownFields(_ fields: UnknownFields, _ message: inout ProtobufCMessage) {
    if !fields.isEmpty {
      self.addUnknownFields(fields, to: &message)
    }
  }

  /// Sees to it that a singular -0.0 goes out: libprotobuf-c takes it for the default, 0.0.
  @inlinable
  public func minusZero(_ value: Double, _ number: UInt32, _ message: inout ProtobufCMessage) {
    if value == 0 && value.sign == .minus {
      self.addMinusZero(number, PROTOBUF_C_WIRE_TYPE_64BIT, &message)
    }
  }

  /// The same for a `float`.
  @inlinable
  public func minusZero(_ value: Float, _ number: UInt32, _ message: inout ProtobufCMessage) {
    if value == 0 && value.sign == .minus {
      self.addMinusZero(number, PROTOBUF_C_WIRE_TYPE_32BIT, &message)
    }
  }
}

/// An element of an array where it stands in memory.
///
/// Taken out with a subscript, an element would be copied, and each string and array in it retained
/// and released. What cannot be copied is borrowed, and what is in it along with it.
@usableFromInline
struct InPlace<Value>: ~Copyable {
  @usableFromInline let value: Value

  /// A struct of one member is laid out as that member.
  @inlinable
  static func at(_ value: UnsafePointer<Value>) -> UnsafePointer<Self> {
    UnsafeRawPointer(value).assumingMemoryBound(to: Self.self)
  }

  @inlinable
  borrowing func use<Result>(_ body: (Value) -> Result) -> Result {
    body(self.value)
  }
}
