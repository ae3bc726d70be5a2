import CProtobufC

/// Unpacks into libprotobuf-c's structs what encoders usually write, in one pass.
///
/// libprotobuf-c unpacks any message, in two passes and with a copy of each string, and needs a look
/// over the message before (`Scan`): that is more than half of what decoding costs. This here takes
/// known fields of their own wire type, a singular submessage or a oneof's member once, the elements
/// of a list one behind the other; it points at strings and bytes where they lie. Whatever is
/// different, it leaves to the others: it never says that a message is wrong.
struct Unpacking: @unchecked Sendable {
  // Unchecked: points to what lives as long as the process and never changes.

  /// How a field is read. The wire type that it must have is the field's own.
  private enum Kind: UInt8 {
    case varint32, varint64, zigzag32, zigzag64, fixed32, fixed64, bytes, message
    case listOfBytes, listOfMessages
    /// A list of numbers in one piece; `element` says how each is read.
    case packed

    var isFixed: Bool { self == .fixed32 || self == .fixed64 }

    /// Bytes of a number in a struct.
    var width: Int { self == .varint32 || self == .zigzag32 || self == .fixed32 ? 4 : 8 }
  }

  private struct Field {
    var kind: Kind
    var element: Kind
    /// `noWireType` where the message has no such field, or none that is read here.
    var wireType: UInt8 = noWireType
    var isOneof: Bool
    /// Where its value lies in the struct, and a list's count or a oneof's case.
    var offset: UInt32
    var quantifier: UInt32
    /// The plan of a submessage.
    var inside: Int32
  }

  private struct Plan {
    var descriptor: UnsafePointer<ProtobufCMessageDescriptor>
    /// By number.
    var fields: UnsafeMutablePointer<Field>
    var count: UInt32
  }

  private static let noWireType: UInt8 = 0xff

  /// Fields of higher numbers are not read here, so that no table is larger than some pages.
  private static let maximumNumber: UInt32 = 1023

  /// The plan of the message type itself comes first.
  private let plans: UnsafePointer<Plan>

  init(_ root: UnsafePointer<ProtobufCMessageDescriptor>) {
    var types = [root]
    var indices = [root: 0]
    var plans: [Plan] = []
    while plans.count < types.count {
      let type = types[plans.count]
      let known = (0..<Int(type.pointee.n_fields)).map { type.pointee.fields[$0] }
        .filter { $0.id <= Self.maximumNumber }
      let count = (known.map(\.id).max() ?? 0) + 1
      let fields = UnsafeMutablePointer<Field>.allocate(capacity: Int(count))
      fields.initialize(
        repeating: Field(
          kind: .bytes, element: .bytes, isOneof: false, offset: 0, quantifier: 0, inside: 0),
        count: Int(count))
      for field in known {
        guard var entry = Self.entry(field) else { continue }
        if let inside = field.descriptor, field.type == PROTOBUF_C_TYPE_MESSAGE {
          let inside = inside.assumingMemoryBound(to: ProtobufCMessageDescriptor.self)
          if indices[inside] == nil {
            indices[inside] = types.count
            types.append(inside)
          }
          entry.inside = Int32(indices[inside]!)
        }
        fields[Int(field.id)] = entry
      }
      plans.append(Plan(descriptor: type, fields: fields, count: count))
    }
    let kept = UnsafeMutablePointer<Plan>.allocate(capacity: plans.count)
    kept.initialize(from: plans, count: plans.count)
    self.plans = UnsafePointer(kept)
  }

  /// How a field is read, or nothing if it is not read here: what our generator does not make.
  private static func entry(_ field: ProtobufCFieldDescriptor) -> Field? {
    let kind: Kind
    let wireType: UInt8
    switch field.type {
    case PROTOBUF_C_TYPE_INT32, PROTOBUF_C_TYPE_UINT32, PROTOBUF_C_TYPE_ENUM:
      (kind, wireType) = (.varint32, 0)
    case PROTOBUF_C_TYPE_INT64, PROTOBUF_C_TYPE_UINT64: (kind, wireType) = (.varint64, 0)
    case PROTOBUF_C_TYPE_SINT32: (kind, wireType) = (.zigzag32, 0)
    case PROTOBUF_C_TYPE_SINT64: (kind, wireType) = (.zigzag64, 0)
    case PROTOBUF_C_TYPE_FIXED32, PROTOBUF_C_TYPE_SFIXED32, PROTOBUF_C_TYPE_FLOAT:
      (kind, wireType) = (.fixed32, 5)
    case PROTOBUF_C_TYPE_FIXED64, PROTOBUF_C_TYPE_SFIXED64, PROTOBUF_C_TYPE_DOUBLE:
      (kind, wireType) = (.fixed64, 1)
    case PROTOBUF_C_TYPE_BYTES: (kind, wireType) = (.bytes, 2)
    case PROTOBUF_C_TYPE_MESSAGE: (kind, wireType) = (.message, 2)
    default: return nil
    }
    var entry = Field(
      kind: kind, element: kind, wireType: wireType,
      isOneof: field.flags & PROTOBUF_C_FIELD_FLAG_ONEOF.rawValue != 0, offset: field.offset,
      quantifier: field.quantifier_offset, inside: 0)
    switch field.label {
    case PROTOBUF_C_LABEL_NONE: return entry
    case PROTOBUF_C_LABEL_REPEATED:
      switch kind {
      case .bytes: entry.kind = .listOfBytes
      case .message: entry.kind = .listOfMessages
      default: (entry.kind, entry.wireType) = (.packed, 2)
      }
      return entry
    default: return nil
    }
  }

  /// The message as a C struct in the arena, with pointers into `bytes`; or nothing, if it is for
  /// others to read or to refuse.
  func unpack(
    _ bytes: UnsafeBufferPointer<UInt8>, _ arena: Arena
  ) -> UnsafeMutableRawPointer? {
    self.message(bytes, self.plans, 0, arena)
  }

  private func message(
    _ bytes: UnsafeBufferPointer<UInt8>, _ plan: UnsafePointer<Plan>, _ depth: Int, _ arena: Arena
  ) -> UnsafeMutableRawPointer? {
    let descriptor = plan.pointee.descriptor
    guard let message = Arena.allocate(descriptor.pointee.sizeof_message, in: arena.state) else {
      return nil
    }
    descriptor.pointee.message_init(message.assumingMemoryBound(to: ProtobufCMessage.self))
    let fields = plan.pointee.fields
    let count = plan.pointee.count
    var reader = WireReader(bytes)
    while !reader.isAtEnd {
      let start = reader
      guard let (number, wireType) = reader.tag(), number < count else { return nil }
      let field = fields + Int(number)
      guard field.pointee.wireType == wireType else { return nil }
      let place = message + Int(field.pointee.offset)
      if field.pointee.isOneof {
        let held = message + Int(field.pointee.quantifier)
        guard held.load(as: UInt32.self) == 0 else { return nil }
        held.storeBytes(of: number, as: UInt32.self)
      }
      switch field.pointee.kind {
      case .varint32, .varint64, .zigzag32, .zigzag64:
        guard let value = reader.varint() else { return nil }
        Self.store(value, as: field.pointee.kind, place)
      case .fixed32:
        guard let value = reader.take(4) else { return nil }
        place.copyMemory(from: value.baseAddress!, byteCount: 4)
      case .fixed64:
        guard let value = reader.take(8) else { return nil }
        place.copyMemory(from: value.baseAddress!, byteCount: 8)
      case .bytes:
        guard let length = reader.varint(), let inside = reader.take(length) else { return nil }
        Self.store(inside, place, arena)
      case .message:
        guard place.load(as: UnsafeMutableRawPointer?.self) == nil, depth < Scan.maximumDepth,
          let length = reader.varint(), let inside = reader.take(length),
          let value = self.message(
            inside, self.plans + Int(field.pointee.inside), depth + 1, arena)
        else { return nil }
        place.storeBytes(of: value, as: UnsafeMutableRawPointer.self)
      case .packed:
        guard let length = reader.varint(), let inside = reader.take(length),
          Self.list(inside, field, message, arena)
        else { return nil }
      case .listOfBytes, .listOfMessages:
        guard let rest = self.list(start, field, number, message, depth, arena) else { return nil }
        reader = rest
      }
    }
    return message
  }

  /// All elements of a list, of which the reader stands before the first; returns it behind the
  /// last.
  private func list(
    _ start: WireReader, _ field: UnsafePointer<Field>, _ number: UInt32,
    _ message: UnsafeMutableRawPointer, _ depth: Int, _ arena: Arena
  ) -> WireReader? {
    let counter = message + Int(field.pointee.quantifier)
    guard counter.load(as: Int.self) == 0 else { return nil }
    var ahead = start
    var count = 0
    while !ahead.isAtEnd {
      guard let next = ahead.tag() else { return nil }
      if next.number != number || next.wireType != 2 { break }
      guard let length = ahead.varint(), ahead.take(length) != nil else { return nil }
      count &+= 1
    }
    var reader = start
    let isMessages = field.pointee.kind == .listOfMessages
    guard !isMessages || depth < Scan.maximumDepth,
      let elements = Arena.allocate(
        count &* (isMessages ? 8 : MemoryLayout<ProtobufCBinaryData>.stride), in: arena.state)
    else { return nil }
    for index in 0..<count {
      guard reader.varint() != nil, let length = reader.varint(), let inside = reader.take(length)
      else { return nil }
      if isMessages {
        guard
          let element = self.message(
            inside, self.plans + Int(field.pointee.inside), depth + 1, arena)
        else { return nil }
        (elements + index &* 8).storeBytes(of: element, as: UnsafeMutableRawPointer.self)
      } else {
        Self.store(inside, elements + index &* MemoryLayout<ProtobufCBinaryData>.stride, arena)
      }
    }
    counter.storeBytes(of: count, as: Int.self)
    (message + Int(field.pointee.offset)).storeBytes(of: elements, as: UnsafeMutableRawPointer.self)
    return reader
  }

  /// A list of numbers that came in one piece.
  private static func list(
    _ bytes: UnsafeBufferPointer<UInt8>, _ field: UnsafePointer<Field>,
    _ message: UnsafeMutableRawPointer, _ arena: Arena
  ) -> Bool {
    let counter = message + Int(field.pointee.quantifier)
    guard counter.load(as: Int.self) == 0 else { return false }
    if bytes.isEmpty { return true }
    let element = field.pointee.element
    let width = element.width
    var count = 0
    if element.isFixed {
      count = bytes.count / width
      guard count &* width == bytes.count else { return false }
    } else {
      // Each number ends with a byte below 0x80, and nothing comes after the last.
      guard bytes[bytes.count &- 1] < 0x80 else { return false }
      for byte in bytes where byte < 0x80 { count &+= 1 }
    }
    guard let elements = Arena.allocate(count &* width, in: arena.state) else { return false }
    if element.isFixed {
      elements.copyMemory(from: bytes.baseAddress!, byteCount: bytes.count)
    } else {
      var reader = WireReader(bytes)
      var place = elements
      for _ in 0..<count {
        guard let value = reader.varint() else { return false }
        Self.store(value, as: element, place)
        place += width
      }
    }
    counter.storeBytes(of: count, as: Int.self)
    (message + Int(field.pointee.offset)).storeBytes(
      of: elements, as: UnsafeMutableRawPointer.self)
    return true
  }

  @inline(__always)
  private static func store(_ value: UInt64, as kind: Kind, _ place: UnsafeMutableRawPointer) {
    switch kind {
    case .varint32:
      place.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
    case .zigzag32:
      let value = UInt32(truncatingIfNeeded: value)
      place.storeBytes(of: value >> 1 ^ (0 &- (value & 1)), as: UInt32.self)
    case .zigzag64:
      place.storeBytes(of: value >> 1 ^ (0 &- (value & 1)), as: UInt64.self)
    default:
      place.storeBytes(of: value, as: UInt64.self)
    }
  }

  @inline(__always)
  private static func store(
    _ bytes: UnsafeBufferPointer<UInt8>, _ place: UnsafeMutableRawPointer, _ arena: Arena
  ) {
    if bytes.count > Arena.longestShortText { arena.state.pointee.texts &+= 1 }
    place.assumingMemoryBound(to: ProtobufCBinaryData.self).initialize(
      to: ProtobufCBinaryData(
        len: bytes.count, data: UnsafeMutablePointer(mutating: bytes.baseAddress)))
  }
}
