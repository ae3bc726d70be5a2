import CProtobufC
import RPCCore

/// A generated message: a Swift value with a C struct of libprotobuf-c as its way to the wire.
///
/// Bytes are unpacked into C structs in an arena and copied out of it once; a value is written into
/// C structs in an arena, which are packed straight to where the bytes belong. Only generated code
/// conforms.
public protocol ProtobufMessage: RPCMessage {
  /// The C struct that protobuf-c's generator made of the same message.
  associatedtype CMessage

  /// What is known of the C side, made once.
  static var bridge: MessageBridge { get }

  /// Fields that the sender knew and this program does not.
  var unknownFields: UnknownFields { get set }

  /// Copies everything out of an unpacked C struct.
  init(
    copying message: UnsafePointer<CMessage>, _ source: DecodingSource
  ) throws(MessageDecodingError)

  /// Fills a C struct, which has been initialised, with what lives as long as both the arena and
  /// this value.
  func write(to message: UnsafeMutablePointer<CMessage>, _ arena: Arena)
}

/// A generated enum. It holds numbers it has no case for, as proto3 wants.
public protocol ProtobufEnum: Sendable, Hashable, CaseIterable {
  /// The case of a number, or one that only holds it.
  init(rawValue: Int32)
  /// The number on the wire.
  var rawValue: Int32 { get }
}

extension ProtobufMessage {
  /// Reads a message by libprotobuf-c. The bytes are only used during the call.
  @inlinable
  public init(decoding bytes: UnsafeRawBufferPointer) throws(MessageDecodingError) {
    var memory = 0
    try self.init(decoding: bytes, taking: &memory)
  }

  /// Reads a message by libprotobuf-c, and tells what it takes by what its C structs took.
  @inlinable
  public init(
    decoding bytes: UnsafeRawBufferPointer, taking memory: inout Int
  ) throws(MessageDecodingError) {
    let arena = Arena.take(budget: Arena.budget(forDecoding: bytes.count))
    defer { arena.giveBack() }
    let (message, source) = try Self.bridge.unpack(bytes, arena)
    memory = arena.memory(ofEncoded: bytes.count)
    self = try Self(copying: message.assumingMemoryBound(to: CMessage.self), source)
  }

  /// Packs the message to where `reserving` says, by libprotobuf-c.
  ///
  /// - Precondition: The size is within protobuf's 2 GiB, unless `reserving` throws.
  @inlinable
  public func encode<Refusal: Error>(
    reserving: (_ size: Int) throws(Refusal) -> UnsafeMutableRawPointer
  ) throws(Refusal) {
    let arena = Arena.take(budget: Int.max)
    defer { arena.giveBack() }
    let message = UnsafeMutableRawPointer(arena.place(self))
      .assumingMemoryBound(to: ProtobufCMessage.self)
    let size = protobuf_c_message_get_packed_size(message)
    arena.pack(message, size, to: try reserving(size))
  }

  /// Packs the message to where `reserving` says; one that holds large `bytes` goes to what `parting`
  /// says, those by themselves.
  ///
  /// - Precondition: The size is within protobuf's 2 GiB, unless either throws.
  @inlinable
  public func encode<Refusal: Error>(
    reserving: (_ size: Int) throws(Refusal) -> UnsafeMutableRawPointer,
    parting: (_ size: Int) throws(Refusal) -> any MessageSink
  ) throws(Refusal) {
    let arena = Arena.take(budget: Int.max)
    defer { arena.giveBack() }
    arena.state.pointee.keepsArrays = true
    let message = UnsafeMutableRawPointer(arena.place(self))
      .assumingMemoryBound(to: ProtobufCMessage.self)
    let size = protobuf_c_message_get_packed_size(message)
    if arena.state.pointee.arrays.isEmpty {
      arena.pack(message, size, to: try reserving(size))
    } else {
      arena.pack(message, size, to: try parting(size))
    }
  }
}
