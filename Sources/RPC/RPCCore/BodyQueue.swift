/// The body of a stream on its way out: bytes, and between them arrays that are sent from where they
/// lie. A large field of a message is copied once, into what the socket is given.
package struct BodyQueue: ~Copyable {
  private struct Insert {
    var array: [UInt8]
    /// How much of it has been taken.
    var taken = 0
    /// Bytes of the queue's own between the array before and this one.
    var distance: Int
  }

  /// To copy a smaller array costs less than to keep it.
  private static let smallestKept = 16 << 10

  private var bytes = ByteQueue()
  /// From `first` on they have not been taken whole.
  private var inserts: [Insert] = []
  private var first = 0
  private var insertedBytes = 0
  /// Of the queue's own bytes, those before the last array.
  private var parted = 0

  /// A queue that holds no memory yet.
  package init() {}

  package var count: Int { self.bytes.count + self.insertedBytes }

  package var isEmpty: Bool { self.count == 0 }

  /// Makes room for `count` bytes at the end and counts them in; the caller fills them at once.
  package mutating func reserve(_ count: Int) -> UnsafeMutableRawPointer {
    self.bytes.reserve(count)
  }

  package mutating func append(_ bytes: UnsafeRawBufferPointer) { self.bytes.append(bytes) }

  /// Appends the array itself if it is large: it is kept until it has been taken.
  package mutating func append(_ array: [UInt8]) { self.append(array, from: 0) }

  private mutating func append(_ array: [UInt8], from offset: Int) {
    guard array.count - offset >= Self.smallestKept else {
      return array.withUnsafeBytes {
        self.bytes.append(UnsafeRawBufferPointer(rebasing: $0[offset...]))
      }
    }
    self.inserts.append(
      Insert(array: array, taken: offset, distance: self.bytes.count - self.parted))
    self.parted = self.bytes.count
    self.insertedBytes += array.count - offset
  }

  /// Appends what another queue holds, from `offset` bytes behind its front on.
  package mutating func append(_ other: borrowing BodyQueue, from offset: Int) {
    var skipped = offset
    var start = 0
    for insert in other.inserts[other.first...] {
      let end = start + insert.distance
      other.bytes.withBytes(from: start) { bytes in
        let part = bytes.prefix(insert.distance).dropFirst(skipped)
        self.bytes.append(UnsafeRawBufferPointer(rebasing: part))
      }
      skipped -= min(skipped, insert.distance)
      start = end
      let rest = insert.array.count - insert.taken
      if skipped < rest { self.append(insert.array, from: insert.taken + skipped) }
      skipped -= min(skipped, rest)
    }
    other.bytes.withBytes(from: start + skipped) { self.bytes.append($0) }
  }

  /// Moves so many bytes from the front to `target`. There are as many.
  package mutating func move(_ count: Int, into target: UnsafeMutableRawPointer) {
    if self.inserts.isEmpty { return self.bytes.move(count, into: target) }
    var target = target
    var missing = count
    while missing > 0 {
      let part: Int
      if self.first == self.inserts.count {
        part = missing
        self.bytes.move(part, into: target)
      } else if self.inserts[self.first].distance > 0 {
        part = min(missing, self.inserts[self.first].distance)
        self.bytes.move(part, into: target)
        self.inserts[self.first].distance -= part
        self.parted -= part
      } else {
        part = self.moveFromArray(missing, into: target)
      }
      target += part
      missing -= part
    }
    if self.first == self.inserts.count { self.forgetArrays() }
  }

  /// - Returns: How many bytes it were: no more than the array has.
  private mutating func moveFromArray(
    _ count: Int, into target: UnsafeMutableRawPointer
  ) -> Int {
    let insert = self.inserts[self.first]
    let part = min(count, insert.array.count - insert.taken)
    insert.array.withUnsafeBytes { bytes in
      target.copyMemory(from: bytes.baseAddress! + insert.taken, byteCount: part)
    }
    self.insertedBytes -= part
    self.inserts[self.first].taken += part
    if insert.taken + part == insert.array.count {
      // It is not kept for those behind it.
      self.inserts[self.first].array = []
      self.first += 1
    }
    return part
  }

  private mutating func forgetArrays() {
    self.inserts = []
    self.first = 0
    self.insertedBytes = 0
    self.parted = 0
  }

  /// Drops everything, and the memory if it is more than a queue in use should keep.
  package mutating func clear() {
    self.bytes.clear()
    if !self.inserts.isEmpty { self.forgetArrays() }
  }

  /// Drops everything, and the memory with it.
  package mutating func reset() {
    self.bytes.reset()
    self.forgetArrays()
  }
}
