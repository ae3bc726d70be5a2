import CProtobufC
import Glibc

/// Memory for one encoding or decoding, given back all at once.
///
/// Every thread keeps one with a first block that is reused, so that a message of ordinary size
/// costs no `malloc`. An arena serves one thread, between `take` and `giveBack`.
public struct Arena {
  /// Bytes of the block that a thread keeps.
  static let keptBlock = 32 * 1024

  /// Bytes that any message may take while it is decoded.
  static let baseBudget = 64 << 20

  /// Bytes that a message may take for each byte of its encoding, beyond `baseBudget`. What is
  /// sent can grow in memory: an empty submessage is two bytes on the wire and some hundred in
  /// memory. The two together keep what a peer can make us allocate near what it sends.
  static let budgetPerByte = 16

  /// How much memory the decoding of so many bytes may take.
  public static func budget(forDecoding count: Int) -> Int {
    Self.baseBudget + Self.budgetPerByte * count
  }

  @usableFromInline
  struct State {
    /// Handed to libprotobuf-c; its `allocator_data` is this state.
    @usableFromInline var allocator: ProtobufCAllocator
    @usableFromInline var cursor: UnsafeMutableRawPointer
    @usableFromInline var available: Int
    var kept: UnsafeMutableRawPointer
    /// Bytes in `kept` and all further blocks.
    @usableFromInline var size: Int
    /// Strings and bytes that need an allocation of their own when they are copied out.
    @usableFromInline var texts = 0
    /// What was allocated has copies of strings and bytes in it.
    @usableFromInline var hasTexts = false
    /// Further blocks; each begins with the address of the one before.
    var further: UnsafeMutableRawPointer?
    var nextBlock: Int
    var budget: Int
    /// Large arrays of the message are sent from where they lie, and kept here until then.
    @usableFromInline var keepsArrays = false
    @usableFromInline var arrays: [[UInt8]] = []
    var inUse: Bool
    var isThreads: Bool
  }

  @usableFromInline let state: UnsafeMutablePointer<State>

  @usableFromInline
  init(state: UnsafeMutablePointer<State>) {
    self.state = state
  }

  /// The calling thread's arena, or a fresh one where that is in use further up the stack.
  @usableFromInline
  static func take(budget: Int) -> Arena {
    let state: UnsafeMutablePointer<State>
    if let kept = pthread_getspecific(Self.key) {
      state = kept.assumingMemoryBound(to: State.self)
      if state.pointee.inUse {
        return Self.make(budget: budget, isThreads: false)
      }
    } else {
      let arena = Self.make(budget: budget, isThreads: true)
      pthread_setspecific(Self.key, UnsafeRawPointer(arena.state))
      return arena
    }
    state.pointee.inUse = true
    state.pointee.budget = budget
    return Arena(state: state)
  }

  /// Frees everything that was allocated.
  func startOver(budget: Int) {
    if self.state.pointee.further != nil {
      self.freeFurther()
    }
    self.state.pointee.cursor = self.state.pointee.kept
    self.state.pointee.available = Self.keptBlock
    self.state.pointee.size = Self.keptBlock
    self.state.pointee.texts = 0
    self.state.pointee.hasTexts = false
    self.state.pointee.budget = budget
  }

  /// Ends the use of everything that was allocated.
  @usableFromInline
  func giveBack() {
    self.startOver(budget: 0)
    if self.state.pointee.keepsArrays {
      self.state.pointee.keepsArrays = false
      self.state.pointee.arrays = []
    }
    self.state.pointee.inUse = false
    if !self.state.pointee.isThreads {
      Self.destroy(self.state)
    }
  }

  /// Set when something was refused because of the budget.
  var isExhausted: Bool { self.state.pointee.budget < 0 }

  /// About what a message takes that was decoded here, once it has been copied out: its structs, its
  /// strings, and an allocation for each that is not short.
  @inlinable
  func memory(ofEncoded count: Int) -> Int {
    // With what was left over at the ends of blocks.
    let used = self.state.pointee.size &- self.state.pointee.available
    if self.state.pointee.hasTexts { return count &+ 3 &* used }
    return count &+ used &+ Self.textBytes &* self.state.pointee.texts
  }

  /// What an allocation takes beside the text in it.
  @usableFromInline static let textBytes = 48

  /// An array of so many bytes is worth being sent from where it lies.
  @inlinable static var largeArrayBytes: Int { 16 << 10 }

  /// Strings of so many bytes lie within their `String`.
  static let longestShortText = 15

  /// The allocator for libprotobuf-c.
  var allocator: UnsafeMutablePointer<ProtobufCAllocator> {
    UnsafeMutableRawPointer(self.state).assumingMemoryBound(to: ProtobufCAllocator.self)
  }

  /// Memory for encoding, whose budget has no end.
  @inlinable
  func allocate(_ size: Int) -> UnsafeMutableRawPointer {
    guard let memory = Self.allocate(size, in: self.state) else {
      preconditionFailure("No memory for \(size) bytes")
    }
    return memory
  }

  /// Memory for a value, not initialised. Everything in C structs is aligned to 8.
  @inlinable
  func allocate<T>(_ count: Int, of type: T.Type) -> UnsafeMutablePointer<T> {
    self.allocate(count &* MemoryLayout<T>.stride).assumingMemoryBound(to: T.self)
  }

  @inlinable
  static func allocate(
    _ size: Int, in state: UnsafeMutablePointer<State>
  ) -> UnsafeMutableRawPointer? {
    let rounded = (size &+ 7) & ~7
    let cursor = state.pointee.cursor
    guard rounded <= state.pointee.available, size >= 0 else {
      return Self.allocateFurther(size, in: state)
    }
    state.pointee.cursor = cursor + rounded
    state.pointee.available &-= rounded
    return cursor
  }

  @usableFromInline
  @inline(never)
  static func allocateFurther(
    _ size: Int, in state: UnsafeMutablePointer<State>
  ) -> UnsafeMutableRawPointer? {
    guard size >= 0, size <= state.pointee.budget else {
      state.pointee.budget = -1
      return nil
    }
    let rounded = (size + 7) & ~7
    let block = max(rounded + 16, state.pointee.nextBlock)
    guard let memory = malloc(block) else { return nil }
    memory.storeBytes(of: state.pointee.further, as: UnsafeMutableRawPointer?.self)
    state.pointee.further = memory
    state.pointee.size += block
    state.pointee.budget -= min(block, state.pointee.budget)
    state.pointee.nextBlock = min(state.pointee.nextBlock * 2, 4 << 20)
    state.pointee.cursor = memory + 16 + rounded
    state.pointee.available = block - 16 - rounded
    return memory + 16
  }

  private func freeFurther() {
    while let block = self.state.pointee.further {
      self.state.pointee.further = block.load(as: UnsafeMutableRawPointer?.self)
      free(block)
    }
    self.state.pointee.nextBlock = Self.keptBlock * 2
  }

  private static func make(budget: Int, isThreads: Bool) -> Arena {
    let state = UnsafeMutablePointer<State>.allocate(capacity: 1)
    let kept = UnsafeMutableRawPointer.allocate(byteCount: Self.keptBlock, alignment: 16)
    state.initialize(
      to: State(
        allocator: ProtobufCAllocator(
          alloc: { data, size in
            Arena.allocate(
              Int(bitPattern: UInt(size)), in: data!.assumingMemoryBound(to: Arena.State.self))
          },
          free: { _, _ in },
          allocator_data: UnsafeMutableRawPointer(state)),
        cursor: kept, available: Self.keptBlock, kept: kept, size: Self.keptBlock, further: nil,
        nextBlock: Self.keptBlock * 2, budget: budget, inUse: true, isThreads: isThreads))
    return Arena(state: state)
  }

  private static func destroy(_ state: UnsafeMutablePointer<State>) {
    state.pointee.kept.deallocate()
    state.deinitialize(count: 1)
    state.deallocate()
  }

  /// Where each thread keeps its arena; freed with the thread.
  private static let key: pthread_key_t = {
    var key = pthread_key_t()
    let failure = pthread_key_create(&key) { state in
      if let state {
        Arena.destroy(state.assumingMemoryBound(to: State.self))
      }
    }
    precondition(failure == 0, "No thread-specific key left: error \(failure)")
    return key
  }()
}
