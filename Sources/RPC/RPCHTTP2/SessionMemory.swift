import CNghttp2

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// The memory of one session's streams and frames. What nghttp2 gives back, it gets again.
///
/// nghttp2 allocates some eight blocks for each call, all of them small and of a few sizes; for a
/// hundred calls at once that is more than malloc's own short lists hold. Confined to the event loop
/// of its session, which it outlives.
final class SessionMemory {
  /// Before each block: which list it belongs to. As large as the alignment that C promises.
  private static let headerBytes = 16
  private static let granuleShift = 5
  private static let granule = 1 << granuleShift
  private static let listCount = 32
  /// Blocks beyond this are malloc's.
  private static let largestBytes = granule * listCount
  /// What is held on to for later, at most.
  private static let maximumKeptGranules = (256 << 10) / granule

  /// The first free block of each size, whose own first bytes lead to the next.
  private let lists: UnsafeMutablePointer<UnsafeMutableRawPointer?>
  @exclusivity(unchecked) private var keptGranules = 0

  init() {
    self.lists = .allocate(capacity: Self.listCount)
    self.lists.initialize(repeating: nil, count: Self.listCount)
  }

  deinit {
    self.trim()
    self.lists.deallocate()
  }

  /// Gives back what is held on to.
  func trim() {
    for index in 0..<Self.listCount {
      while let block = self.lists[index] {
        self.lists[index] = block.load(as: UnsafeMutableRawPointer?.self)
        free(block - Self.headerBytes)
      }
    }
    self.keptGranules = 0
  }

  /// Calls `body` with the functions that nghttp2 takes; it copies them.
  func withFunctions<Result>(_ body: (UnsafeMutablePointer<nghttp2_mem>) -> Result) -> Result {
    var functions = nghttp2_mem(
      mem_user_data: Unmanaged.passUnretained(self).toOpaque(),
      malloc: { size, memory in SessionMemory.of(memory) { $0.allocate(size) } },
      free: { block, memory in SessionMemory.of(memory) { $0.release(block) } },
      calloc: { count, size, memory in
        let (bytes, overflow) = count.multipliedReportingOverflow(by: size)
        guard !overflow, let block = SessionMemory.of(memory, { $0.allocate(bytes) })
        else { return nil }
        block.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
        return block
      },
      realloc: { block, size, memory in SessionMemory.of(memory) { $0.resize(block, to: size) } })
    return body(&functions)
  }

  @inline(__always)
  private static func of<Result>(
    _ memory: UnsafeMutableRawPointer?, _ body: (SessionMemory) -> Result
  ) -> Result {
    Unmanaged<SessionMemory>.fromOpaque(memory!)._withUnsafeGuaranteedRef(body)
  }

  /// Nil when the machine has no more memory.
  private func allocate(_ size: Int) -> UnsafeMutableRawPointer? {
    // Plain arithmetic, here and in what gives back: some eight of each for every call.
    let list = (max(size, 1) &- 1) >> Self.granuleShift
    guard list < Self.listCount, let block = self.lists[list] else {
      return Self.fromSystem(list: list)
    }
    self.lists[list] = block.load(as: UnsafeMutableRawPointer?.self)
    self.keptGranules &-= list &+ 1
    return block
  }

  private func release(_ block: UnsafeMutableRawPointer?) {
    guard let block else { return }
    let list = Self.list(of: block)
    guard list < Self.listCount, self.keptGranules < Self.maximumKeptGranules else {
      free(block - Self.headerBytes)
      return
    }
    block.storeBytes(of: self.lists[list], as: UnsafeMutableRawPointer?.self)
    self.lists[list] = block
    self.keptGranules &+= list &+ 1
  }

  private func resize(_ block: UnsafeMutableRawPointer?, to size: Int) -> UnsafeMutableRawPointer? {
    guard let block else { return self.allocate(size) }
    let held = (Self.list(of: block) + 1) * Self.granule
    if size <= held, held <= Self.largestBytes { return block }
    guard let larger = self.allocate(size) else { return nil }
    larger.copyMemory(from: block, byteCount: min(held, size))
    self.release(block)
    return larger
  }

  private static func list(of block: UnsafeMutableRawPointer) -> Int {
    (block - Self.headerBytes).load(as: Int.self)
  }

  private static func fromSystem(list: Int) -> UnsafeMutableRawPointer? {
    let (size, overflow) = (list + 1).multipliedReportingOverflow(by: Self.granule)
    guard !overflow, let memory = malloc(size &+ Self.headerBytes) else { return nil }
    memory.storeBytes(of: list, as: Int.self)
    return memory + Self.headerBytes
  }
}
