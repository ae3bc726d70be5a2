import Glibc

/// An attempt's log on its way to the content-cache: threads put bytes in, one task takes them out.
///
/// It is what bounds memory: when the cache lags, `append` waits, the thread that reads the step's
/// pipe stops reading, the pipe fills, and the step itself waits in its write.
package final class LogBuffer: @unchecked Sendable {
  /// Bytes that wait for the cache: some round trips' worth.
  package static let maximumBytes = 1 << 20
  /// Bytes that leave at once: a message well below the transport's limit.
  package static let maximumChunkBytes = 256 << 10

  // `@unchecked`: everything below is touched under `mutex` only.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let hasRoom: UnsafeMutablePointer<pthread_cond_t>
  private var waiting: [UInt8] = []
  private var taker: CheckedContinuation<[UInt8]?, Never>?
  private var isEnded = false
  private var isAbandoned = false
  private var total: Int64 = 0

  package init() {
    self.mutex = .allocate(capacity: 1)
    self.hasRoom = .allocate(capacity: 1)
    pthread_mutex_init(self.mutex, nil)
    pthread_cond_init(self.hasRoom, nil)
  }

  deinit {
    pthread_cond_destroy(self.hasRoom)
    pthread_mutex_destroy(self.mutex)
    self.hasRoom.deallocate()
    self.mutex.deallocate()
  }

  /// Bytes that came in so far, sent or not.
  package var size: Int64 {
    pthread_mutex_lock(self.mutex)
    defer { pthread_mutex_unlock(self.mutex) }
    return self.total
  }

  /// Adds bytes; waits while there is no room. For threads, never for tasks.
  package func append(_ bytes: ArraySlice<UInt8>) {
    pthread_mutex_lock(self.mutex)
    while self.waiting.count >= Self.maximumBytes && !self.isAbandoned {
      pthread_cond_wait(self.hasRoom, self.mutex)
    }
    let taken = self.add(bytes)
    pthread_mutex_unlock(self.mutex)
    taken?()
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
    guard self.waiting.count > Self.maximumChunkBytes else {
      defer { self.waiting = [] }
      return self.waiting
    }
    let chunk = Array(self.waiting.prefix(Self.maximumChunkBytes))
    self.waiting.removeFirst(Self.maximumChunkBytes)
    return chunk
  }
}
