import CProtobufC

/// A look over an encoding that `Unpacking` has left to libprotobuf-c, for what libprotobuf-c refuses
/// or does wrong: it knows no groups and no other wire types than a field's own, has no limit for
/// messages inside messages, and merges a submessage that is sent twice wrongly.
///
/// What is malformed is found here, where nothing is allocated, and not by libprotobuf-c, behind all that
/// comes before it: such a message costs no more than a good one of its size.
struct Scan: @unchecked Sendable {
  // Unchecked: points to what lives as long as the process and never changes.

  /// Messages inside messages, as other implementations allow.
  static let maximumDepth = 100

  enum Verdict {
    /// libprotobuf-c reads it rightly, if its packed lists are whole.
    case fine
    /// It is well formed, but `Rewriting` must see to it.
    case odd
    case malformed
    case nestedTooDeep
  }

  /// What to look for in a field.
  private struct Entry {
    /// A bit for each wire type that libprotobuf-c takes; none if there is no such field.
    var wireTypes: UInt8 = 0
    /// Which of its message's singular submessages it is, from 1; 0 for everything else.
    var singular: UInt8 = 0
    /// The plan for what is in a submessage, from 1; 0 for everything else.
    var inside: Int32 = 0
  }

  /// What to look for in messages of one type.
  private struct Plan {
    /// By field number, for numbers below `denseCount`.
    var dense: UnsafeMutablePointer<Entry>
    var denseCount: UInt32
    /// Field number and entry for the others.
    var sparse: UnsafeMutableBufferPointer<(number: UInt32, entry: Entry)>
  }

  /// Fields of higher numbers are few, and looked for among each other.
  private static let denseLimit: UInt32 = 256

  /// The plan of the message type itself comes first.
  private let plans: UnsafePointer<Plan>

  init(_ root: UnsafePointer<ProtobufCMessageDescriptor>) {
    var types = [root]
    var indices = [root: 0]
    var plans: [Plan] = []
    while plans.count < types.count {
      let type = types[plans.count]
      var entries: [(number: UInt32, entry: Entry)] = []
      var singular: UInt8 = 0
      for field in UnsafeBufferPointer(
        start: type.pointee.fields, count: Int(type.pointee.n_fields))
      {
        var entry = Entry(wireTypes: Self.wireTypes(of: field))
        if field.type == PROTOBUF_C_TYPE_MESSAGE, let inside = field.descriptor {
          let inside = inside.assumingMemoryBound(to: ProtobufCMessageDescriptor.self)
          if indices[inside] == nil {
            indices[inside] = types.count
            types.append(inside)
          }
          entry.inside = Int32(indices[inside]! + 1)
          if field.label != PROTOBUF_C_LABEL_REPEATED {
            // Beyond 64 singular submessages two share a number: then a message is taken for odd
            // that is not, which costs time only.
            entry.singular = singular % 64 + 1
            singular = entry.singular
          }
        }
        entries.append((field.id, entry))
      }
      plans.append(Self.plan(entries))
    }
    let kept = UnsafeMutablePointer<Plan>.allocate(capacity: plans.count)
    kept.initialize(from: plans, count: plans.count)
    self.plans = UnsafePointer(kept)
  }

  private static func plan(_ entries: [(number: UInt32, entry: Entry)]) -> Plan {
    let low = entries.filter { $0.number < Self.denseLimit }
    let denseCount = (low.map(\.number).max() ?? 0) + 1
    let dense = UnsafeMutablePointer<Entry>.allocate(capacity: Int(denseCount))
    dense.initialize(repeating: Entry(), count: Int(denseCount))
    for (number, entry) in low { dense[Int(number)] = entry }
    let high = entries.filter { $0.number >= Self.denseLimit }
    let sparse = UnsafeMutableBufferPointer<(number: UInt32, entry: Entry)>.allocate(
      capacity: high.count)
    _ = sparse.initialize(from: high)
    return Plan(dense: dense, denseCount: denseCount, sparse: sparse)
  }

  /// A bit for each wire type that libprotobuf-c takes for a field.
  static func wireTypes(of field: ProtobufCFieldDescriptor) -> UInt8 {
    let own: UInt8
    switch field.type {
    case PROTOBUF_C_TYPE_STRING, PROTOBUF_C_TYPE_BYTES, PROTOBUF_C_TYPE_MESSAGE: own = 2
    case PROTOBUF_C_TYPE_SFIXED32, PROTOBUF_C_TYPE_FIXED32, PROTOBUF_C_TYPE_FLOAT: own = 5
    case PROTOBUF_C_TYPE_SFIXED64, PROTOBUF_C_TYPE_FIXED64, PROTOBUF_C_TYPE_DOUBLE: own = 1
    default: own = 0
    }
    // Numbers of a list may come in one piece.
    return 1 << own | (field.label == PROTOBUF_C_LABEL_REPEATED ? 1 << 2 : 0)
  }

  /// Looks a whole message over.
  func look(at bytes: UnsafeBufferPointer<UInt8>) -> Verdict {
    var isOdd = false
    let verdict = self.look(at: bytes, self.plans, 0, &isOdd)
    if case .fine = verdict, isOdd { return .odd }
    return verdict
  }

  /// - Returns: Never that it is odd: what comes behind may be malformed.
  private func look(
    at bytes: UnsafeBufferPointer<UInt8>, _ plan: UnsafePointer<Plan>, _ depth: Int,
    _ isOdd: inout Bool
  ) -> Verdict {
    var reader = WireReader(bytes)
    var seen: UInt64 = 0
    while !reader.isAtEnd {
      guard let (number, wireType) = reader.tag() else { return .malformed }
      let entry =
        number < plan.pointee.denseCount
        ? plan.pointee.dense[Int(number)] : Self.sparseEntry(number, plan.pointee.sparse)
      let isOwn = entry.wireTypes & 1 << wireType != 0
      guard isOwn, entry.inside != 0 else {
        guard reader.skip(number: number, wireType: wireType) else { return .malformed }
        // A group, or a field that is unknown for its wire type.
        if wireType == 3 || entry.wireTypes != 0 && !isOwn { isOdd = true }
        continue
      }
      guard let count = reader.varint(), let inside = reader.take(count) else { return .malformed }
      if entry.singular != 0 {
        let bit: UInt64 = 1 << UInt64(entry.singular &- 1)
        if seen & bit != 0 { isOdd = true }
        seen |= bit
      }
      if depth == Self.maximumDepth { return .nestedTooDeep }
      if inside.isEmpty { continue }
      let verdict = self.look(at: inside, self.plans + Int(entry.inside &- 1), depth + 1, &isOdd)
      guard case .fine = verdict else { return verdict }
    }
    return .fine
  }

  @inline(never)
  private static func sparseEntry(
    _ number: UInt32, _ sparse: UnsafeMutableBufferPointer<(number: UInt32, entry: Entry)>
  ) -> Entry {
    for known in sparse where known.number == number { return known.entry }
    return Entry()
  }
}
