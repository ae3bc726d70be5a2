/// Lookups that wait for a thread. What came while a thread was busy it does in one go: a thread's
/// wake-up and a transaction cost more than finding a few entities.
package struct LookupQueue<Lookup> {
  private let maximumThreads: Int
  private let batchCount: Int
  private var waiting: [Lookup] = []
  private var threads = 0

  /// - Parameters:
  ///   - maximumThreads: That take batches at a time.
  ///   - batchCount: Lookups that a thread does in one go.
  package init(maximumThreads: Int, batchCount: Int) {
    self.maximumThreads = maximumThreads
    self.batchCount = batchCount
  }

  /// - Returns: Whether another thread is to take batches: there is none, or those there are have
  ///   more than a batch each before them.
  package mutating func queued(_ lookup: Lookup) -> Bool {
    self.waiting.append(lookup)
    guard self.threads < self.maximumThreads,
      self.threads == 0 || self.waiting.count > self.threads * self.batchCount
    else { return false }
    self.threads += 1
    return true
  }

  /// `nil`: the thread that asks may sleep.
  package mutating func batchTaken() -> [Lookup]? {
    if self.waiting.isEmpty {
      self.threads -= 1
      return nil
    }
    let batch = Array(self.waiting.prefix(self.batchCount))
    self.waiting.removeFirst(batch.count)
    return batch
  }
}
