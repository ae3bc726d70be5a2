/// Cursors: opaque to callers, a position to us.
///
/// A byte for the version; four that tell the order of results which the position belongs to; each
/// value and the path behind their lengths.
extension ResolvedQuery {
  private static var cursorVersion: UInt8 { 1 }

  /// What a caller holds to go on after `position`.
  package func cursor(after position: Position) -> [UInt8] {
    var bytes = [Self.cursorVersion]
    bytes.reserveCapacity(16 + position.path.bytes.count)
    withUnsafeBytes(of: self.orderFingerprint.bigEndian) { bytes.append(contentsOf: $0) }
    for part in position.values + [position.path.bytes] {
      // Both are far below 2^16: limits of indexed values and of keys.
      bytes.append(UInt8(truncatingIfNeeded: part.count >> 8))
      bytes.append(UInt8(truncatingIfNeeded: part.count))
      bytes.append(contentsOf: part)
    }
    return bytes
  }

  /// The position in a cursor that a caller sent; `nil` for an empty one.
  func position(of cursor: [UInt8]) throws(GatewayError) -> Position? {
    if cursor.isEmpty { return nil }
    guard cursor.count > 5, cursor[0] == Self.cursorVersion else {
      throw .invalid("The cursor is none of this server's.")
    }
    let fingerprint = cursor[1..<5].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    guard fingerprint == self.orderFingerprint else {
      throw .invalid("cursor does not match query")
    }
    var parts: [[UInt8]] = []
    var rest = cursor[5...]
    while rest.count >= 2 {
      let count = Int(rest[rest.startIndex]) << 8 | Int(rest[rest.startIndex + 1])
      guard rest.count >= 2 + count else { break }
      parts.append(Array(rest.dropFirst(2).prefix(count)))
      rest = rest.dropFirst(2 + count)
    }
    guard rest.isEmpty, parts.count == self.positionProperties.count + 1,
      let path = parts.popLast(),
      !path.isEmpty
    else { throw .invalid("The cursor is damaged.") }
    return Position(values: parts, path: PathBytes(bytes: path))
  }

  /// Of the source and the orders (FNV-1a): positions of one order mean nothing in another.
  private var orderFingerprint: UInt32 {
    var hash: UInt32 = 0x811C_9DC5
    func add(_ byte: UInt8) { hash = (hash ^ UInt32(byte)) &* 0x0100_0193 }
    switch self.source {
    case .kind(let collection): for byte in collection.bytes { add(byte) }
    case .everyKind(let partition):
      for byte in CollectionName.prefix(of: partition) { add(byte) }
    case .metadata(let kind, let partition):
      for byte in CollectionName(partition: partition, kind: kind.kind).bytes { add(byte) }
    case .nothing: break
    }
    for order in self.orders {
      for byte in order.property.text.utf8 { add(byte) }
      add(order.isDescending ? 1 : 0)
    }
    add(self.isKeyDescending ? 1 : 0)
    for name in self.trailing {
      for byte in name.text.utf8 { add(byte) }
      add(2)
    }
    return hash
  }
}
