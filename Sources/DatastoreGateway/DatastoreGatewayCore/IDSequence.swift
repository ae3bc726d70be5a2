/// Numeric ids for entities that come without one: never the same twice, and scattered, so that
/// new entities do not all go to the same place of an index that others sort by.
///
/// Ids are handed out from blocks of a counter. The end of each block is stored before its first
/// id is given; what a crash leaves over of a block is never used.
package struct IDSequence: Sendable {
  /// Ids in a block: one write to the store for so many, and so many lost with a crash, of
  /// 4,503,599,627,370,496.
  package static let blockCount: Int64 = 10_000

  /// Ids are from 2^52 up to 2^53, as Google's are: numbers that every client's language can hold,
  /// apart from small ones that people choose.
  private static let bits: UInt64 = 52

  private var next: Int64 = 0
  private var end: Int64 = 0

  package init() {}

  /// How many ids can be given before a block is needed.
  package var remaining: Int64 { self.end - self.next }

  /// A block of the counter, from `first`, was stored as taken.
  package mutating func blockStored(from first: Int64, count: Int64) {
    self.next = first
    self.end = first + count
  }

  /// An id, or `nil` if a block is needed.
  package mutating func take() -> Int64? {
    guard self.next < self.end else { return nil }
    defer { self.next += 1 }
    return Self.id(at: self.next)
  }

  /// The id at one place of the counter: different for each place below 2^52.
  ///
  /// Odd multiplications and shifts onto oneself have inverses, so no two places meet.
  package static func id(at place: Int64) -> Int64 {
    let mask: UInt64 = (1 << Self.bits) - 1
    var bits = UInt64(bitPattern: place) & mask
    bits = (bits &* 0x9E37_79B9_7F4A_7C15) & mask
    bits ^= bits >> 26
    bits = (bits &* 0xBF58_476D_1CE4_E5B9) & mask
    bits ^= bits >> 26
    return Int64(bits | 1 << Self.bits)
  }
}
