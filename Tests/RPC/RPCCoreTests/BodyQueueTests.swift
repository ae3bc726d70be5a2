import RPCCore
import Testing

private let noise = (0..<200_000).map { _ in UInt8.random(in: 0...255) }

@Suite struct BodyQueueTests {
  /// A queue beside the bytes that it holds.
  private struct Pair: ~Copyable {
    var queue = BodyQueue()
    var bytes: [UInt8] = []

    mutating func append(_ count: Int, as kind: Int, _ random: inout SystemRandomNumberGenerator) {
      // Of a block that stands nowhere else.
      let start = Int.random(in: 0..<noise.count - count, using: &random)
      let new = Array(noise[start..<start + count])
      self.bytes += new
      switch kind {
      case 0: new.withUnsafeBytes { self.queue.append($0) }
      case 1: self.queue.append(new)
      default:
        let target = self.queue.reserve(count)
        new.withUnsafeBytes { bytes in
          UnsafeMutableRawBufferPointer(start: target, count: count).copyMemory(from: bytes)
        }
      }
    }

    mutating func take(_ count: Int) -> Bool {
      var taken = [UInt8](repeating: 0, count: count)
      taken.withUnsafeMutableBytes { bytes in
        if let target = bytes.baseAddress { self.queue.move(count, into: target) }
      }
      let expected = Array(self.bytes[..<count])
      self.bytes.removeFirst(count)
      return taken == expected
    }
  }

  /// Around what is kept and what is copied, by whatever comes.
  @Test(arguments: 0..<15) func whatIsQueuedComesOutInItsOrder(round: Int) {
    var random = SystemRandomNumberGenerator()
    var pair = Pair()
    for _ in 0..<40 {
      let size = [0, 1, 300, 16_383, 16_384, 40_000].randomElement()!
      pair.append(size, as: .random(in: 0...2), &random)
      let (count, expected) = (pair.queue.count, pair.bytes.count)
      #expect(count == expected)
      if Int.random(in: 0..<3) == 0 {
        let isSame = pair.take(.random(in: 0...expected))
        #expect(isSame)
      }
      if Int.random(in: 0..<10) == 0 {
        // Another queue, of this from somewhere on.
        let offset = Int.random(in: 0...pair.bytes.count)
        var other = Pair()
        other.append(100, as: 1, &random)
        other.queue.append(pair.queue, from: offset)
        other.bytes += pair.bytes[offset...]
        let isSame = other.take(other.bytes.count)
        let isEmpty = other.queue.isEmpty
        #expect(isSame && isEmpty)
      }
    }
    let isSame = pair.take(pair.bytes.count)
    let isEmpty = pair.queue.isEmpty
    #expect(isSame && isEmpty)
  }

  @Test func whatIsClearedIsForgotten() {
    var random = SystemRandomNumberGenerator()
    var pair = Pair()
    for _ in 0..<3 {
      pair.append(50, as: 0, &random)
      pair.append(20_000, as: 1, &random)
      _ = pair.take(10_000)
      if Bool.random() { pair.queue.clear() } else { pair.queue.reset() }
      pair.bytes = []
      let count = pair.queue.count
      #expect(count == 0)
    }
    pair.append(30_000, as: 1, &random)
    let isSame = pair.take(30_000)
    #expect(isSame)
  }
}
