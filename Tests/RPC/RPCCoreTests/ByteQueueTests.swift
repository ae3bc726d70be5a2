import RPCCore
import Testing

@Suite struct ByteQueueTests {
  /// Around the sizes that are kept for the next queue, and beyond them.
  @Test(arguments: [
    1, 255, 4_097, 65_535, 65_536, 65_537, 81_920, 81_921, 131_072, 1_048_576, 1_048_661, 4_194_304,
    4_194_305,
  ])
  func whatIsQueuedComesOutWhateverItsSize(size: Int) {
    let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31) }
    // The second one has the memory of the first, the third beside it has not.
    for _ in 0..<2 {
      var queue = ByteQueue()
      var other = ByteQueue()
      for start in stride(from: 0, to: size, by: 50_000) {
        bytes[start..<min(start + 50_000, size)].withUnsafeBytes { queue.append($0, of: size) }
        other.reserve(1).storeBytes(of: 0xff, as: UInt8.self)
      }
      let isSame = queue.withBytes { $0.elementsEqual(bytes) }
      #expect(isSame)
      let count = other.count
      #expect(count == (size + 49_999) / 50_000)
      queue.drop(size)
      let isEmpty = queue.isEmpty
      #expect(isEmpty)
    }
  }
}
