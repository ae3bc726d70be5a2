import CProtobufC

/// A look over an encoding before libprotobuf-c may have it, for what libprotobuf-c does wrong:
/// it has no limit for messages inside messages, and merges a submessage that is sent twice
/// wrongly.
///
/// Only types that can hold such a thing are looked over, and of them only the submessages that
/// can. Nothing is allocated.
struct Scan {
  /// Messages inside messages, as other implementations allow.
  static let maximumDepth = 100

  enum Verdict {
    /// libprotobuf-c reads it rightly.
    case fine
    /// It has a submessage twice, or a group, or is malformed: `Rewriting` must see to it.
    case odd
    case nestedTooDeep
  }

  /// What to look for in messages of one type.
  ///
  /// An entry is 0 for fields that do not matter. Otherwise bit 0 is set, bits 1 to 7 hold the
  /// number (from 1) of a singular field among those of its message or 0 for a repeated one, and
  /// the rest holds the index (from 1) of the plan for what is inside, or 0 if that cannot matter.
  struct Plan {
    /// Entries for field numbers below `denseLimit`.
    var dense: UnsafeMutablePointer<UInt32>
    /// Field number and entry for the others.
    var sparse: UnsafeMutableBufferPointer<(number: UInt32, entry: UInt32)>
    var denseCount: UInt32
  }

  private static let denseLimit: UInt32 = 64

  /// The plan of the message type itself comes first. Lives as long as the process.
  let plans: UnsafePointer<Plan>

  /// Makes the plans for a message type, or none if nothing can go wrong in it.
  init?(_ root: UnsafePointer<ProtobufCMessageDescriptor>) {
    var types = [root]
    var indices = [root: 0]
    var next = 0
    while next < types.count {
      for field in Self.messageFields(types[next]) where indices[field.type] == nil {
        indices[field.type] = types.count
        types.append(field.type)
      }
      next += 1
    }
    let children = types.map { type in
      Set(Self.messageFields(type).map { indices[$0.type]! })
    }
    // A type matters if it can hold itself, or a singular submessage, or a type that matters.
    var matters = types.indices.map { index in
      Self.messageFields(types[index]).contains { $0.isSingular }
        || Self.reaches(index, from: index, children)
    }
    var changed = true
    while changed {
      changed = false
      for index in types.indices where !matters[index] {
        if children[index].contains(where: { matters[$0] }) {
          matters[index] = true
          changed = true
        }
      }
    }
    guard matters[0] else { return nil }

    let plans = UnsafeMutablePointer<Plan>.allocate(capacity: types.count)
    for index in types.indices {
      var dense = [UInt32](repeating: 0, count: Int(Self.denseLimit))
      var sparse: [(number: UInt32, entry: UInt32)] = []
      var singular: UInt32 = 0
      for field in Self.messageFields(types[index]) {
        let child = indices[field.type]!
        guard field.isSingular || matters[child] else { continue }
        var entry: UInt32 = 1 | (matters[child] ? UInt32(child + 1) << 8 : 0)
        if field.isSingular {
          // Beyond 64 singular submessages two share a bit: then a message is taken for odd that
          // is not, which costs time only.
          entry |= (singular % 64 + 1) << 1
          singular += 1
        }
        if field.number < Self.denseLimit {
          dense[Int(field.number)] = entry
        } else {
          sparse.append((field.number, entry))
        }
      }
      let denseCopy = UnsafeMutablePointer<UInt32>.allocate(capacity: dense.count)
      denseCopy.initialize(from: dense, count: dense.count)
      let sparseCopy = UnsafeMutableBufferPointer<(number: UInt32, entry: UInt32)>.allocate(
        capacity: sparse.count)
      _ = sparseCopy.initialize(from: sparse)
      (plans + index).initialize(
        to: Plan(dense: denseCopy, sparse: sparseCopy, denseCount: Self.denseLimit))
    }
    self.plans = UnsafePointer(plans)
  }

  /// Looks a whole message over.
  func look(at bytes: UnsafeBufferPointer<UInt8>) -> Verdict {
    self.look(at: bytes, 0, 0)
  }

  private func look(at bytes: UnsafeBufferPointer<UInt8>, _ index: Int, _ depth: Int) -> Verdict {
    var reader = WireReader(bytes)
    let plan = self.plans + index
    let dense = plan.pointee.dense
    var seen: UInt64 = 0
    while !reader.isAtEnd {
      guard let (number, wireType) = reader.tag() else { return .odd }
      switch wireType {
      case 0:
        guard reader.varint() != nil else { return .odd }
      case 2:
        guard let count = reader.varint(), let inside = reader.take(count) else { return .odd }
        let entry =
          number < Self.denseLimit
          ? dense[Int(number)] : Self.sparseEntry(number, plan.pointee.sparse)
        if entry == 0 { continue }
        let singular = entry >> 1 & 0x7f
        if singular != 0 {
          let bit: UInt64 = 1 << UInt64(singular &- 1)
          if seen & bit != 0 { return .odd }
          seen |= bit
        }
        if depth == Self.maximumDepth { return .nestedTooDeep }
        let child = entry >> 8
        if child != 0 {
          let verdict = self.look(at: inside, Int(child &- 1), depth + 1)
          guard case .fine = verdict else { return verdict }
        }
      case 1:
        guard reader.take(8) != nil else { return .odd }
      case 5:
        guard reader.take(4) != nil else { return .odd }
      default:
        return .odd
      }
    }
    return .fine
  }

  @inline(never)
  private static func sparseEntry(
    _ number: UInt32, _ sparse: UnsafeMutableBufferPointer<(number: UInt32, entry: UInt32)>
  ) -> UInt32 {
    for known in sparse where known.number == number { return known.entry }
    return 0
  }

  private typealias Descriptor = UnsafePointer<ProtobufCMessageDescriptor>

  private static func messageFields(
    _ type: Descriptor
  ) -> [(number: UInt32, isSingular: Bool, type: Descriptor)] {
    (0..<Int(type.pointee.n_fields)).compactMap { index in
      let field = type.pointee.fields[index]
      guard field.type == PROTOBUF_C_TYPE_MESSAGE, let inside = field.descriptor else { return nil }
      return (
        field.id, field.label != PROTOBUF_C_LABEL_REPEATED,
        inside.assumingMemoryBound(to: ProtobufCMessageDescriptor.self)
      )
    }
  }

  private static func reaches(_ goal: Int, from start: Int, _ children: [Set<Int>]) -> Bool {
    var seen: Set<Int> = []
    var open = Array(children[start])
    while let next = open.popLast() {
      if next == goal { return true }
      if seen.insert(next).inserted { open.append(contentsOf: children[next]) }
    }
    return false
  }
}
