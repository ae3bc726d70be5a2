/// Cursors: opaque to callers, a position to us.
///
/// A byte for the version, which tells on which side of the position it is; four that tell the order of
/// results which the position belongs to; each value and the path behind their lengths.
extension ResolvedQuery {
  private static var behindVersion: UInt8 { 1 }
  private static var inFrontVersion: UInt8 { 2 }

  /// A cursor, taken apart.
  struct Bound {
    var position: Position
    /// Whether it stands in front of the result at that position, and not behind it.
    var isInFront: Bool
  }

  /// What a caller holds to go on after `position`.
  package func cursor(after position: Position) -> [UInt8] {
    self.cursor(at: position, Self.behindVersion)
  }

  /// What a caller holds to go on with `position`.
  package func cursor(before position: Position) -> [UInt8] {
    self.cursor(at: position, Self.inFrontVersion)
  }

  /// The cursor that the query began at.
  package var startCursor: [UInt8] {
    guard let start = self.start else { return [] }
    return self.includesStart ? self.cursor(before: start) : self.cursor(after: start)
  }

  private func cursor(at position: Position, _ version: UInt8) -> [UInt8] {
    var bytes = [version]
    bytes.reserveCapacity(16 + position.path.bytes.count)
    withUnsafeBytes(of: self.orderFingerprint().bigEndian) { bytes.append(contentsOf: $0) }
    for part in position.values + [position.path.bytes] {
      // Both are far below 2^16: limits of indexed values and of keys.
      bytes.append(UInt8(truncatingIfNeeded: part.count >> 8))
      bytes.append(UInt8(truncatingIfNeeded: part.count))
      bytes.append(contentsOf: part)
    }
    return bytes
  }

  /// What a cursor means that a caller sent; `nil` for an empty one. One of the reversed order is as
  /// good: it stands between the same two results. Where results are distinct each stands for all
  /// that have its values, and which one it is depends on the direction.
  func bound(of cursor: [UInt8]) throws(GatewayError) -> Bound? {
    if cursor.isEmpty { return nil }
    guard cursor.count > 5, [Self.behindVersion, Self.inFrontVersion].contains(cursor[0]) else {
      throw .invalid("The cursor is none of this server's.")
    }
    let fingerprint = cursor[1..<5].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    let isReversed = fingerprint != self.orderFingerprint()
    // What stands behind the key has no other direction.
    guard
      !isReversed || self.trailing.isEmpty && fingerprint == self.orderFingerprint(isReversed: true)
    else { throw .invalid("cursor does not match query") }
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
    let position = Position(values: parts, path: PathBytes(bytes: path))
    let isInFront = (cursor[0] == Self.inFrontVersion) != isReversed
    return Bound(
      position: isReversed && self.distinctCount > 0
        ? self.edge(of: position, isInFront: isInFront) : position,
      isInFront: isInFront)
  }

  /// What stands in front of all results that have a position's distinct values, or behind them.
  private func edge(of position: Position, isInFront: Bool) -> Position {
    // No value's bytes and no path's begin so.
    func extreme(isDescending: Bool) -> [UInt8] { [isInFront == isDescending ? 0xFF : 0x00] }
    var edge = position
    for number in self.distinctCount..<position.values.count {
      edge.values[number] = extreme(isDescending: self.orders[number].isDescending)
    }
    edge.path = PathBytes(bytes: extreme(isDescending: self.isKeyDescending))
    return edge
  }

  /// Of the source and the orders (FNV-1a): positions of one order mean nothing in another.
  private func orderFingerprint(isReversed: Bool = false) -> UInt32 {
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
      add(order.isDescending != isReversed ? 1 : 0)
    }
    add(self.isKeyDescending != isReversed ? 1 : 0)
    for name in self.trailing {
      for byte in name.text.utf8 { add(byte) }
      add(2)
    }
    return hash
  }
}
