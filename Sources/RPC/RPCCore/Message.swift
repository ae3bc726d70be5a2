/// A message as the transport sees it: something with a name that comes from bytes and goes to
/// bytes.
///
/// The generator's types conform through `ProtobufMessage`; anything else that has an encoding of
/// its own may conform directly.
public protocol RPCMessage: Sendable, Hashable {
  /// The message with every field at its default.
  init()

  /// The full name in the proto, for example `grpc.health.v1.HealthCheckRequest`.
  static var messageName: String { get }

  /// Reads a message. The bytes are only used during the call.
  init(decoding bytes: UnsafeRawBufferPointer) throws(MessageDecodingError)

  /// Reads a message, and sets `memory` to about how many bytes it takes decoded: what a transport
  /// counts against its limits. Left out, a message takes as many as are decoded.
  init(
    decoding bytes: UnsafeRawBufferPointer, taking memory: inout Int
  ) throws(MessageDecodingError)

  /// Writes the message.
  ///
  /// `reserving` is called exactly once, with the exact size in bytes, and returns where that many
  /// bytes may be written; the message is packed right there. If `reserving` throws, nothing is
  /// written: this is where a transport refuses a message that is too large for it.
  func encode<Refusal: Error>(
    reserving: (_ size: Int) throws(Refusal) -> UnsafeMutableRawPointer
  ) throws(Refusal)

  /// Writes the message in one piece, or in parts if that saves copying what is large in it. Left out,
  /// it is one piece.
  ///
  /// - Parameters:
  ///   - reserving: As in ``encode(reserving:)``. Called once, unless `parting` is.
  ///   - parting: Called once, unless `reserving` is, with the exact size in bytes, and returns what
  ///     takes the parts, one behind the other, before this method returns.
  func encode<Refusal: Error>(
    reserving: (_ size: Int) throws(Refusal) -> UnsafeMutableRawPointer,
    parting: (_ size: Int) throws(Refusal) -> any MessageSink
  ) throws(Refusal)
}

/// Takes the encoding of a message in parts.
public protocol MessageSink: AnyObject {
  /// Takes bytes, which are valid during the call only.
  func take(_ bytes: UnsafeRawBufferPointer)
  /// Takes an array, which is kept as long as it is wanted.
  func take(_ array: [UInt8])
}

extension RPCMessage {
  /// Writes the message in one piece.
  @inlinable
  public func encode<Refusal: Error>(
    reserving: (_ size: Int) throws(Refusal) -> UnsafeMutableRawPointer,
    parting: (_ size: Int) throws(Refusal) -> any MessageSink
  ) throws(Refusal) {
    try self.encode(reserving: reserving)
  }

  /// Reads a message that takes as much memory as its encoding.
  @inlinable
  public init(
    decoding bytes: UnsafeRawBufferPointer, taking memory: inout Int
  ) throws(MessageDecodingError) {
    memory = bytes.count
    try self.init(decoding: bytes)
  }

  /// Reads a message from an array.
  @inlinable
  public init(decoding bytes: [UInt8]) throws(MessageDecodingError) {
    self = try bytes.span.bytes.withUnsafeBytes { (buffer) throws(MessageDecodingError) in
      try Self(decoding: buffer)
    }
  }

  /// The message's encoding.
  @inlinable
  public func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    self.encode(reserving: { size in
      // To nothing the standard library would add nothing by a write to what all empty arrays share.
      guard size > 0 else { return Self.nowhere }
      // Not by an initializer: those ask for generic metadata.
      bytes.append(addingCapacity: size) { output in
        output.withUnsafeMutableBufferPointer { _, count in count = size }
      }
      // An array's storage stays where it is while the array is neither copied nor changed, which
      // it is not before `encode` returns.
      return bytes.withUnsafeMutableBytes { buffer in
        buffer.baseAddress ?? Self.nowhere
      }
    })
    return bytes
  }

  /// A place to write no bytes to.
  @inlinable
  static var nowhere: UnsafeMutableRawPointer {
    UnsafeMutableRawPointer(bitPattern: MemoryLayout<UInt>.alignment)!
  }
}

/// Why bytes are not the message they should be. Always the sender's fault.
public struct MessageDecodingError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The kinds of mistake a sender can make.
  public enum Reason: Hashable, Sendable {
    /// Truncated, or not protobuf at all.
    case malformed
    /// More than 100 messages inside each other.
    case nestedTooDeep
    /// A `string` field holds bytes that are not UTF-8.
    case invalidUTF8
    /// Two keys of a map differ, and are the same string to Swift: canonically equivalent.
    case equivalentKeys
    /// Decoded, it would take far more memory than its size allows for.
    case tooMuchMemory
  }

  /// What is wrong.
  public var reason: Reason
  /// The full name of the message, or of the field for `invalidUTF8` and `equivalentKeys`.
  public var name: String

  /// An error of the message or field with that name.
  @inlinable
  public init(_ reason: Reason, in name: String) {
    self.reason = reason
    self.name = name
  }

  /// The message's or field's name and what is wrong with it.
  public var description: String {
    switch self.reason {
    case .malformed: "not a well-formed \(self.name)"
    case .nestedTooDeep: "\(self.name) nests more than 100 messages inside each other"
    case .invalidUTF8: "\(self.name) is not UTF-8"
    case .equivalentKeys:
      "\(self.name) has two keys that are the same character by character, in different encodings"
    case .tooMuchMemory: "\(self.name) would take too much memory for its size"
    }
  }
}
