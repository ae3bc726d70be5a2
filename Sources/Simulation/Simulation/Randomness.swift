import Domain

/// The one source of chance in a world: the same seed gives the same run, in every process.
///
/// SplitMix64: small, and good enough to choose what goes wrong.
package struct Randomness: RandomNumberGenerator, Sendable {
  private var state: UInt64

  package init(seed: UInt64) {
    self.state = seed &* 0x9e37_79b9_7f4a_7c15
  }

  package mutating func next() -> UInt64 {
    self.state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = self.state
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
  }

  package mutating func int(_ range: ClosedRange<Int>) -> Int {
    range.lowerBound + Int(self.next() % UInt64(range.upperBound - range.lowerBound + 1))
  }

  package mutating func duration(_ range: ClosedRange<Duration>) -> Duration {
    let (low, high) = (range.lowerBound.microseconds, range.upperBound.microseconds)
    return .microseconds(low + Int64(self.next() % UInt64(high - low + 1)))
  }

  /// Whether something happens that happens so often, from 0 to 1.
  package mutating func chance(_ probability: Double) -> Bool {
    Double(self.next() >> 11) / Double(1 << 53) < probability
  }

  /// One of them; there must be one.
  package mutating func pick<Element>(_ elements: [Element]) -> Element {
    elements[self.int(0...(elements.count - 1))]
  }
}
