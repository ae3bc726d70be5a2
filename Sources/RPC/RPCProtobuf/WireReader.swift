/// Walks over an encoding, without copying and without reading past its end.
struct WireReader {
  private(set) var cursor: UnsafePointer<UInt8>?
  private let end: UnsafePointer<UInt8>?

  init(_ bytes: UnsafeBufferPointer<UInt8>) {
    self.cursor = bytes.baseAddress
    self.end = bytes.baseAddress.map { $0 + bytes.count }
  }

  var isAtEnd: Bool { self.cursor == self.end }

  var remaining: Int {
    // Both are nothing if there are no bytes at all.
    Int(bitPattern: self.end) &- Int(bitPattern: self.cursor)
  }

  /// A varint of at most ten bytes, or nothing if there is none.
  @inline(__always)
  mutating func varint() -> UInt64? {
    guard !self.isAtEnd, let cursor = self.cursor else { return nil }
    let first = cursor.pointee
    if first < 0x80 {
      self.advance(1)
      return UInt64(first)
    }
    // Two bytes are as usual: numbers, and lengths of messages.
    if self.remaining > 1, cursor[1] < 0x80 {
      self.advance(2)
      return UInt64(first & 0x7f) | UInt64(cursor[1]) << 7
    }
    guard let (value, count) = Self.longVarint(cursor, self.remaining) else { return nil }
    self.advance(count)
    return value
  }

  @inline(never)
  private static func longVarint(
    _ cursor: UnsafePointer<UInt8>, _ remaining: Int
  ) -> (value: UInt64, count: Int)? {
    var value: UInt64 = 0
    for index in 0..<min(10, remaining) {
      let byte = cursor[index]
      value |= UInt64(byte & 0x7f) << UInt64(7 * index)
      if byte < 0x80 { return (value, index + 1) }
    }
    return nil
  }

  /// What libprotobuf-c reads of a tag: 29 bits of a number, and three.
  private static let largestTagBytes = 5

  /// A field's number and wire type, or nothing if it has no valid ones.
  @inline(__always)
  mutating func tag() -> (number: UInt32, wireType: UInt8)? {
    let before = self.remaining
    guard let tag = self.varint(), tag >> 3 != 0, tag <= UInt64(UInt32.max),
      before - self.remaining <= Self.largestTagBytes
    else { return nil }
    return (UInt32(truncatingIfNeeded: tag >> 3), UInt8(truncatingIfNeeded: tag & 7))
  }

  /// So many bytes, or nothing if there are fewer.
  @inline(__always)
  mutating func take(_ count: UInt64) -> UnsafeBufferPointer<UInt8>? {
    guard count <= UInt64(self.remaining) else { return nil }
    let taken = UnsafeBufferPointer(start: self.cursor, count: Int(count))
    self.advance(Int(count))
    return taken
  }

  /// What is behind a length that was checked before.
  func lengthDelimited() -> UnsafeBufferPointer<UInt8> {
    var reader = self
    guard let count = reader.varint(), let bytes = reader.take(count) else {
      return UnsafeBufferPointer(start: nil, count: 0)
    }
    return bytes
  }

  /// Passes over a field's value; `false` if it is cut off or of no known type.
  ///
  /// Groups may hold groups, at most `Scan.maximumDepth` inside each other.
  mutating func skip(number: UInt32, wireType: UInt8) -> Bool {
    switch wireType {
    case 0: return self.varint() != nil
    case 1: return self.take(8) != nil
    case 5: return self.take(4) != nil
    case 2:
      guard let count = self.varint() else { return false }
      return self.take(count) != nil
    case 3:
      var open = [number]
      while let innermost = open.last {
        guard let (number, wireType) = self.tag() else { return false }
        if wireType == 4 {
          guard number == innermost else { return false }
          open.removeLast()
        } else if wireType == 3 {
          guard open.count < Scan.maximumDepth else { return false }
          open.append(number)
        } else {
          guard self.skip(number: number, wireType: wireType) else { return false }
        }
      }
      return true
    default: return false
    }
  }

  @inline(__always)
  private mutating func advance(_ count: Int) {
    self.cursor = self.cursor.map { $0 + count }
  }
}
