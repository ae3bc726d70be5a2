import CProcess
import Glibc

/// An attempt's log on its way to the content-cache: threads put bytes in, one task takes them out.
///
/// It is what bounds memory: when the cache lags, `append` waits, the thread that reads the step's
/// pipe stops reading, the pipe fills, and the step itself waits in its write. A step that is told
/// to end must not wait for a cache that is away: from ``stepStopped()`` to the next
/// ``stepBegan()``, what finds no room is dropped, and counted.
package final class LogBuffer: @unchecked Sendable {
  /// Bytes that wait for the cache: some round trips' worth.
  package static let maximumBytes = 1 << 20
  /// Bytes that leave at once: a message well below the transport's limit.
  package static let maximumChunkBytes = 256 << 10
  /// A cache that takes nothing for so long while a step is to end is away: several times what a
  /// slow disk needs for a window, and short for who waits for the end.
  package static let stopPatience = Duration.seconds(2)

  // `@unchecked`: everything below is touched under `mutex` only.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let hasRoom: UnsafeMutablePointer<pthread_cond_t>
  private var waiting: [UInt8] = []
  private var taker: CheckedContinuation<[UInt8]?, Never>?
  private var isEnded = false
  private var isAbandoned = false
  private var total: Int64 = 0
  /// When the running step was told to end, if it was.
  private var stoppedAt: ContinuousClock.Instant?
  private var lastTakenAt = ContinuousClock.now
  /// Bytes dropped of the running step, and of all.
  private var droppedOfStep: Int64 = 0
  private var dropped: Int64 = 0
  private var whyNothingIsTaken = "the content-cache was away"
  private let stopPatience: Duration

  package init(stopPatience: Duration = LogBuffer.stopPatience) {
    self.stopPatience = stopPatience
    self.mutex = .allocate(capacity: 1)
    self.hasRoom = .allocate(capacity: 1)
    pthread_mutex_init(self.mutex, nil)
    var attributes = pthread_condattr_t()
    pthread_condattr_init(&attributes)
    // Waits are limited by a clock that nobody sets.
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(self.hasRoom, &attributes)
    pthread_condattr_destroy(&attributes)
  }

  deinit {
    pthread_cond_destroy(self.hasRoom)
    pthread_mutex_destroy(self.mutex)
    self.hasRoom.deallocate()
    self.mutex.deallocate()
  }

  /// Bytes that came in so far, sent or not; without what was dropped.
  package var size: Int64 { self.locked { self.total } }

  /// Bytes that are missing in the log, because they found no room while a step was to end.
  package var droppedBytes: Int64 { self.locked { self.dropped } }

  /// Why bytes are missing, where some are.
  package var obstacle: String { self.locked { self.whyNothingIsTaken } }

  /// The cache is there and takes nothing: that is why what is missing from now on is.
  package func isRefused(because obstacle: String) {
    self.locked { self.whyNothingIsTaken = obstacle }
  }

  /// Whether nothing follows.
  package var hasEnded: Bool { self.locked { self.isEnded } }

  /// Adds bytes; waits while there is no room. For threads, never for tasks.
  package func append(_ bytes: ArraySlice<UInt8>) {
    pthread_mutex_lock(self.mutex)
    let hasRoom = self.waitForRoom()
    let taken = hasRoom ? self.add(bytes) : nil
    if !hasRoom {
      self.droppedOfStep += Int64(bytes.count)
      self.dropped += Int64(bytes.count)
    }
    pthread_mutex_unlock(self.mutex)
    taken?()
  }

  // MARK: Steps

  /// A step begins: its output waits for the cache.
  package func stepBegan() {
    self.locked {
      self.stoppedAt = nil
      self.droppedOfStep = 0
    }
  }

  /// The running step is to end: its output waits for a cache that is away no more.
  package func stepStopped() {
    self.locked {
      self.stoppedAt = self.stoppedAt ?? .now
      pthread_cond_broadcast(self.hasRoom)
    }
  }

  /// The running step's last byte is in. Where bytes of it are missing, the log says so.
  package func stepEnded() {
    let (missing, obstacle) = self.locked { (self.droppedOfStep, self.whyNothingIsTaken) }
    guard missing > 0 else { return }
    self.appendLine(
      "\n[\(missing) bytes of output are missing here: \(obstacle) when the step was stopped]")
  }

  /// Adds a line of the runner's own, room or not: there are few of them.
  package func appendLine(_ line: String) {
    pthread_mutex_lock(self.mutex)
    let taken = self.add(Array("\(line)\n".utf8)[...])
    pthread_mutex_unlock(self.mutex)
    taken?()
  }

  /// Nothing follows.
  package func end() {
    pthread_mutex_lock(self.mutex)
    self.isEnded = true
    let taker = self.waiting.isEmpty ? self.taker : nil
    if taker != nil { self.taker = nil }
    pthread_mutex_unlock(self.mutex)
    taker?.resume(returning: nil)
  }

  /// Nobody takes any more: what comes in is counted and dropped, so that steps can end.
  package func abandon() {
    pthread_mutex_lock(self.mutex)
    self.isAbandoned = true
    self.waiting = []
    pthread_cond_broadcast(self.hasRoom)
    pthread_mutex_unlock(self.mutex)
  }

  /// The next bytes, as many as there are up to a chunk; nil at the end. One task at a time.
  package func next() async -> [UInt8]? {
    await withCheckedContinuation { continuation in
      pthread_mutex_lock(self.mutex)
      if !self.waiting.isEmpty {
        let chunk = self.takeChunk()
        pthread_mutex_unlock(self.mutex)
        continuation.resume(returning: chunk)
      } else if self.isEnded || self.isAbandoned {
        pthread_mutex_unlock(self.mutex)
        continuation.resume(returning: nil)
      } else {
        precondition(self.taker == nil, "a log buffer is read by one task")
        self.taker = continuation
        pthread_mutex_unlock(self.mutex)
      }
    }
  }

  private func locked<Value>(_ body: () -> Value) -> Value {
    pthread_mutex_lock(self.mutex)
    defer { pthread_mutex_unlock(self.mutex) }
    return body()
  }

  /// Under the lock, which it lets go while it waits. False if what comes is to be dropped.
  private func waitForRoom() -> Bool {
    while self.waiting.count >= Self.maximumBytes && !self.isAbandoned {
      guard let stoppedAt = self.stoppedAt else {
        pthread_cond_wait(self.hasRoom, self.mutex)
        continue
      }
      // A cache that takes something now and then is slow, not away.
      let left = max(stoppedAt, self.lastTakenAt) + self.stopPatience - .now
      guard left > .zero else { return false }
      let (seconds, attoseconds) = left.components
      // Whether it was woken or ran out of time shows above.
      _ = millrace_condition_wait(
        self.hasRoom, self.mutex, seconds * 1_000_000_000 + attoseconds / 1_000_000_000)
    }
    return true
  }

  /// Under the lock; returns what is to be done behind it.
  private func add(_ bytes: ArraySlice<UInt8>) -> (() -> Void)? {
    guard !bytes.isEmpty else { return nil }
    self.total += Int64(bytes.count)
    guard !self.isAbandoned else { return nil }
    self.waiting += bytes
    guard let taker = self.taker else { return nil }
    self.taker = nil
    let chunk = self.takeChunk()
    return { taker.resume(returning: chunk) }
  }

  private func takeChunk() -> [UInt8] {
    defer { pthread_cond_broadcast(self.hasRoom) }
    self.lastTakenAt = .now
    guard self.waiting.count > Self.maximumChunkBytes else {
      defer { self.waiting = [] }
      return self.waiting
    }
    let chunk = Array(self.waiting.prefix(Self.maximumChunkBytes))
    self.waiting.removeFirst(Self.maximumChunkBytes)
    return chunk
  }
}
