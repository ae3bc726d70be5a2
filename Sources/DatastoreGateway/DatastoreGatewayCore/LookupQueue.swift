import DatastoreGatewayCore

/// Lookups that wait for a thread. What came while a thread was busy it does in one go: a thread's
/// wake-up and a transaction cost more than finding a few entities.
struct LookupQueue {
  struct Waiting: Sendable {
    var addresses: [EntityAddress]
    var continuation: CheckedContinuation<LookupAnswer, any Error>
  }

  /// What asks for more keys waits for a thread of its own.
  static let maximumKeys = 16
  private static let batchCount = 32

  private let maximumThreads: Int
  private var waiting: [Waiting] = []
  private var threads = 0

  init(maximumThreads: Int) {
    self.maximumThreads = maximumThreads
  }

  /// - Returns: Whether another thread is to take batches: there is none, or those there are have
  ///   more than a batch each before them.
  mutating func queued(_ lookup: Waiting) -> Bool {
    self.waiting.append(lookup)
    guard self.threads < self.maximumThreads,
      self.threads == 0 || self.waiting.count > self.threads * Self.batchCount
    else { return false }
    self.threads += 1
    return true
  }

  /// `nil`: the thread that asks may sleep.
  mutating func batchTaken() -> [Waiting]? {
    if self.waiting.isEmpty {
      self.threads -= 1
      return nil
    }
    let batch = Array(self.waiting.prefix(Self.batchCount))
    self.waiting.removeFirst(batch.count)
    return batch
  }
}
