#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Bytes on their way: appended at the end, taken from the front, one allocation that is used again.
package struct ByteQueue: ~Copyable {
  private var base: UnsafeMutableRawPointer
  private var capacity: Int
  private var start = 0
  private var end = 0

  /// A queue that holds no memory yet.
  package init() {
    self.capacity = 0
    self.base = Self.nowhere
  }

  deinit {
    self.free()
  }

  /// What stands for the memory of a queue that has none.
  private static var nowhere: UnsafeMutableRawPointer { UnsafeMutableRawPointer(bitPattern: 1)! }

  private func free() {
    if self.capacity > 0 { LargeBlocks.free(self.base, self.capacity) }
  }

  package var count: Int { self.end - self.start }

  package var isEmpty: Bool { self.start == self.end }

  /// Makes room for `count` bytes at the end and counts them in; the caller fills them at once.
  package mutating func reserve(_ count: Int) -> UnsafeMutableRawPointer {
    if self.capacity - self.end < count {
      self.makeRoom(for: count)
    }
    defer { self.end += count }
    return self.base + self.end
  }

  /// - Parameter total: How many bytes the queue is said to hold in the end. The memory grows faster
  ///   towards that, and not beyond it.
  package mutating func append(_ bytes: UnsafeRawBufferPointer, of total: Int = 0) {
    guard let source = bytes.baseAddress else { return }
    if self.capacity - self.end < bytes.count {
      self.makeRoom(for: bytes.count, of: total)
    }
    (self.base + self.end).copyMemory(from: source, byteCount: bytes.count)
    self.end += bytes.count
  }

  /// Calls `body` with what is queued, from `offset` bytes behind the front on.
  package func withBytes<Result>(
    from offset: Int = 0, _ body: (UnsafeRawBufferPointer) -> Result
  ) -> Result {
    body(
      UnsafeRawBufferPointer(start: self.base + self.start + offset, count: self.count - offset))
  }

  /// Drops so many bytes from the front. There are as many.
  package mutating func drop(_ count: Int) {
    precondition(count <= self.count, "a queue holds fewer bytes than are dropped from it")
    self.start += count
    if self.start == self.end { self.clear() }
  }

  /// Drops everything, and the memory if it is more than a queue in use should keep.
  package mutating func clear() {
    if self.capacity > Self.keptBytes { return self.reset() }
    self.start = 0
    self.end = 0
  }

  /// What a queue may hold on to between messages.
  private static let keptWhileOpenBytes = 64 << 10

  /// What a queue may hold on to while it is empty.
  private static let keptBytes = 4 << 10

  /// Drops everything, and the memory with it.
  package mutating func reset() {
    self.free()
    self.base = Self.nowhere
    self.capacity = 0
    self.start = 0
    self.end = 0
  }

  /// Moves so many bytes from the front to `target`. There are as many.
  package mutating func move(_ count: Int, into target: UnsafeMutableRawPointer) {
    precondition(count <= self.count, "a queue holds fewer bytes than are taken from it")
    target.copyMemory(from: self.base + self.start, byteCount: count)
    self.start += count
    guard self.start == self.end else { return }
    // What a burst took does not stay with a stream that lives on.
    if self.capacity > Self.keptWhileOpenBytes { return self.reset() }
    self.start = 0
    self.end = 0
  }

  /// What a queue that is to hold more than it does has room for next: all of a message of 4 MiB when a
  /// sixty-fourth of it has come.
  private var nextCapacity: Int {
    switch self.capacity {
    case 0: 0
    case ..<(64 << 10): 64 << 10
    default: self.capacity * 64
    }
  }

  private mutating func makeRoom(for count: Int, of total: Int = 0) {
    let held = self.count
    if held + count <= self.capacity, self.start >= held {
      // The room in front is enough, and the parts do not overlap.
      self.base.copyMemory(from: self.base + self.start, byteCount: held)
    } else {
      let wanted = total > 0 ? min(total, self.nextCapacity) : max(self.capacity * 2, 256)
      let (larger, capacity) = LargeBlocks.allocate(max(held + count, wanted))
      larger.copyMemory(from: self.base + self.start, byteCount: held)
      self.free()
      self.base = larger
      self.capacity = capacity
    }
    self.start = 0
    self.end = held
  }
}

/// Memory for queues. Large blocks are kept for the next queue on the same thread: fresh ones cost a
/// fault for every page, which is more than to copy what they hold.
private enum LargeBlocks {
  /// The smallest size that is kept. There are four sizes to each power of two, so that no block is
  /// larger than it need be by more than a quarter.
  private static let smallest = 64 << 10
  /// And the largest.
  private static let largest = 4 << 20
  /// What a thread keeps, at most.
  private static let maximumKeptBytes = 16 << 20

  private final class Kept {
    var blocks = [[UnsafeMutableRawPointer]](repeating: [], count: index(of: largest) + 1)
    var bytes = 0

    deinit {
      for list in self.blocks { for block in list { block.deallocate() } }
    }
  }

  /// - Returns: At least `size` bytes, and how many.
  static func allocate(_ size: Int) -> (UnsafeMutableRawPointer, Int) {
    guard size >= Self.smallest, size <= Self.largest else {
      return (.allocate(byteCount: size, alignment: 16), size)
    }
    let index = Self.index(of: size)
    let rounded = Self.size(at: index)
    let kept = Self.kept
    if let block = kept.blocks[index].popLast() {
      kept.bytes -= rounded
      return (block, rounded)
    }
    return (.allocate(byteCount: rounded, alignment: 16), rounded)
  }

  static func free(_ block: UnsafeMutableRawPointer, _ size: Int) {
    guard size >= Self.smallest, size <= Self.largest, size == Self.size(at: Self.index(of: size))
    else { return block.deallocate() }
    let kept = Self.kept
    guard kept.bytes + size <= Self.maximumKeptBytes else { return block.deallocate() }
    kept.blocks[Self.index(of: size)].append(block)
    kept.bytes += size
  }

  /// The calling thread's.
  private static var kept: Kept {
    if let known = pthread_getspecific(Self.key) {
      return Unmanaged<Kept>.fromOpaque(known).takeUnretainedValue()
    }
    let new = Kept()
    pthread_setspecific(Self.key, Unmanaged.passRetained(new).toOpaque())
    return new
  }

  private static let key: pthread_key_t = {
    var key = pthread_key_t()
    let failure = pthread_key_create(&key) { kept in
      if let kept { Unmanaged<Kept>.fromOpaque(kept).release() }
    }
    precondition(failure == 0, "no thread-specific key is left: error \(failure)")
    return key
  }()

  /// Which of the sizes holds so many bytes, which are no fewer than the smallest.
  private static func index(of size: Int) -> Int {
    let power = Int.bitWidth - 1 - (size - 1).leadingZeroBitCount
    let base = Self.smallest.trailingZeroBitCount
    // Those of the smallest size itself are below its power.
    guard power >= base else { return 0 }
    // The quarter above the power of two.
    return (power - base) * 4 + (size - 1) >> (power - 2) - 3
  }

  private static func size(at index: Int) -> Int {
    (4 + index % 4) << (index / 4 + Self.smallest.trailingZeroBitCount - 2)
  }
}
