/// Bytes on their way out: appended at the end, taken from the front, one allocation that is used
/// again.
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
    if self.capacity > 0 { self.base.deallocate() }
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

  package mutating func append(_ bytes: UnsafeRawBufferPointer) {
    guard let source = bytes.baseAddress else { return }
    self.reserve(bytes.count).copyMemory(from: source, byteCount: bytes.count)
  }

  /// Calls `body` with what is queued, from `offset` bytes behind the front on.
  package func withBytes(from offset: Int = 0, _ body: (UnsafeRawBufferPointer) -> Void) {
    body(
      UnsafeRawBufferPointer(start: self.base + self.start + offset, count: self.count - offset))
  }

  /// Drops everything, and the memory if it is more than a queue in use should keep.
  package mutating func clear() {
    if self.capacity > Self.keptBytes { return self.reset() }
    self.start = 0
    self.end = 0
  }

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
    assert(count <= self.count, "a queue holds fewer bytes than are taken from it")
    target.copyMemory(from: self.base + self.start, byteCount: count)
    self.start += count
    if self.start == self.end {
      self.start = 0
      self.end = 0
    }
  }

  private mutating func makeRoom(for count: Int) {
    let held = self.count
    if held + count <= self.capacity, self.start >= held {
      // The room in front is enough, and the parts do not overlap.
      self.base.copyMemory(from: self.base + self.start, byteCount: held)
    } else {
      let capacity = max(self.capacity * 2, held + count, 256)
      let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 1)
      larger.copyMemory(from: self.base + self.start, byteCount: held)
      self.free()
      self.base = larger
      self.capacity = capacity
    }
    self.start = 0
    self.end = held
  }
}
