import CProtobufC
import RPCCore

/// What the Swift side knows of a message's C side. Generated code holds one for each message.
public struct MessageBridge: @unchecked Sendable {
  // Unchecked: both point to what lives as long as the process and never changes.
  @usableFromInline let descriptor: UnsafePointer<ProtobufCMessageDescriptor>
  private let unpacking: Unpacking
  private let scan: Scan

  /// Takes the message's generated `…__init`, which knows the descriptor.
  public init<CMessage>(_ initialize: (UnsafeMutablePointer<CMessage>?) -> Void) {
    let message = UnsafeMutablePointer<CMessage>.allocate(capacity: 1)
    defer { message.deallocate() }
    initialize(message)
    self.descriptor = UnsafeRawPointer(message).load(as: ProtobufCMessage.self).descriptor
    self.unpacking = Unpacking(self.descriptor)
    self.scan = Scan(self.descriptor)
  }

  /// Makes a C struct with every field at its default.
  @inlinable
  func initialize<CMessage>(_ message: UnsafeMutablePointer<CMessage>) {
    self.descriptor.pointee.message_init(
      UnsafeMutableRawPointer(message).assumingMemoryBound(to: ProtobufCMessage.self))
  }

  /// Unpacks into the arena; what is unusual through libprotobuf-c, around everything that it does
  /// wrong. The struct may point into `bytes`.
  @usableFromInline
  func unpack(
    _ bytes: UnsafeRawBufferPointer, _ arena: Arena
  ) throws(MessageDecodingError) -> (UnsafeRawPointer, DecodingSource) {
    let bytes = bytes.bindMemory(to: UInt8.self)
    if let message = self.unpacking.unpack(bytes, arena) {
      return (UnsafeRawPointer(message), DecodingSource(isRewritten: false))
    }
    arena.startOver(budget: Arena.budget(forDecoding: bytes.count))
    // libprotobuf-c copies them.
    arena.state.pointee.hasTexts = true
    switch self.scan.look(at: bytes) {
    case .fine:
      return (try self.unpackByLibrary(bytes, arena), DecodingSource(isRewritten: false))
    case .odd:
      return (try self.unpackRewritten(bytes, arena), DecodingSource(isRewritten: true))
    case .malformed:
      throw self.error(.malformed)
    case .nestedTooDeep:
      throw self.error(.nestedTooDeep)
    }
  }

  private func unpackByLibrary(
    _ bytes: UnsafeBufferPointer<UInt8>, _ arena: Arena
  ) throws(MessageDecodingError) -> UnsafeRawPointer {
    let message = protobuf_c_message_unpack(
      self.descriptor, arena.allocator, bytes.count, bytes.baseAddress)
    guard let message else {
      throw self.error(arena.isExhausted ? .tooMuchMemory : .malformed)
    }
    return UnsafeRawPointer(message)
  }

  @inline(never)
  private func unpackRewritten(
    _ bytes: UnsafeBufferPointer<UInt8>, _ arena: Arena
  ) throws(MessageDecodingError) -> UnsafeRawPointer {
    let rewritten: [UInt8]
    do {
      rewritten = try Rewriting.rewrite(bytes, as: self.descriptor)
    } catch {
      switch error {
      case .malformed: throw self.error(.malformed)
      case .nestedTooDeep: throw self.error(.nestedTooDeep)
      }
    }
    return try rewritten.withUnsafeBufferPointer { (bytes) throws(MessageDecodingError) in
      try self.unpackByLibrary(bytes, arena)
    }
  }

  private func error(_ reason: MessageDecodingError.Reason) -> MessageDecodingError {
    MessageDecodingError(reason, in: String(cString: self.descriptor.pointee.name))
  }
}
