import Domain

/// Many callers' commits, written to the disk together: who waits, what goes into the next batch,
/// and who is refused because too much waits already.
///
///     idle --commitQueued--> busy (effect: wake the writer)
///     busy --batchTaken--> busy, a batch under way
///     busy --batchTaken--> idle, if nothing waits
///
/// The writer, once woken, calls ``batchTaken()`` until that gives `nil`, and ``batchEnded(after:)``
/// after each batch, whether it was written or not. Elements are whatever the caller queues.
package struct GroupCommitMachine<Element: Sendable>: ~Copyable {
  /// Bounds of batches and of the queue.
  package struct Limits: Sendable, Hashable {
    /// Commits in one batch: one synchronisation of the disk serves them all. All callers of a
    /// busy gateway fit; a larger one would only make the first of them wait longer.
    package var batchCommits = 1_024
    /// Bytes in one batch; a single commit may have more. Bounds what the store's log grows by.
    package var batchBytes = 8 << 20
    /// Commits that may wait. Each holds a call open.
    package var queuedCommits = 8_192
    /// Bytes that may wait in memory.
    package var queuedBytes = 128 << 20

    package init() {}
  }

  package enum Effect: Hashable, Sendable {
    /// The element waits; nobody needs to do anything.
    case none
    /// The element waits, and the writer sleeps.
    case wakeWriter
    /// Too much waits; a caller may try again after the delay.
    case refuse(GatewayError)
  }

  private struct Waiting {
    var element: Element
    var bytes: Int
  }

  private enum State {
    case idle
    case busy
  }

  private let limits: Limits
  private var state = State.idle
  private var queue: [Waiting] = []
  /// Where the queue begins in `queue`; what lies before it was taken.
  private var head = 0
  private var bytes = 0
  private var isDraining = false
  /// How long the last batch took: what a refused caller's delay is reckoned from.
  private var lastBatch = Duration.milliseconds(5)

  package init(limits: Limits = Limits()) {
    self.limits = limits
  }

  /// Commits that wait for their batch.
  package var queuedCommits: Int { self.queue.count - self.head }
  package var queuedBytes: Int { self.bytes }
  package var isIdle: Bool { self.state == .idle }

  /// A caller wants something committed.
  ///
  /// - Parameter isForRead: Whether it changes nothing, and only a read waits for it: reads go on while commits are
  ///   drained.
  package mutating func commitQueued(
    _ element: Element, bytes: Int, isForRead: Bool = false
  ) -> Effect {
    if self.isDraining && !isForRead { return .refuse(.draining) }
    if self.queuedCommits >= self.limits.queuedCommits {
      return .refuse(
        .overloaded(
          what: "commits", limit: "\(self.limits.queuedCommits) commits",
          retryDelay: self.retryDelay))
    }
    // A commit of any allowed size may wait if nothing else does.
    if self.queuedCommits > 0 && self.bytes + bytes > self.limits.queuedBytes {
      return .refuse(
        .overloaded(
          what: "commits", limit: "\(self.limits.queuedBytes) bytes",
          retryDelay: self.retryDelay))
    }
    self.queue.append(Waiting(element: element, bytes: bytes))
    self.bytes += bytes
    switch self.state {
    case .busy: return .none
    case .idle:
      self.state = .busy
      return .wakeWriter
    }
  }

  /// The writer asks for what to write next. With `nil` it sleeps until it is woken.
  package mutating func batchTaken() -> [Element]? {
    guard self.head < self.queue.count else {
      self.queue.removeAll(keepingCapacity: true)
      self.head = 0
      self.state = .idle
      return nil
    }
    var batch: [Element] = []
    var bytes = 0
    while self.head < self.queue.count, batch.count < self.limits.batchCommits,
      batch.isEmpty || bytes + self.queue[self.head].bytes <= self.limits.batchBytes
    {
      batch.append(self.queue[self.head].element)
      bytes += self.queue[self.head].bytes
      self.head += 1
    }
    self.bytes -= bytes
    if self.head == self.queue.count {
      self.queue.removeAll(keepingCapacity: true)
      self.head = 0
    } else if self.head * 2 > self.queue.count {
      self.queue.removeFirst(self.head)
      self.head = 0
    }
    return batch
  }

  /// The batch was written, or failed; both took so long.
  package mutating func batchEnded(after duration: Duration) {
    self.lastBatch = duration
  }

  /// No more commits are taken; those that wait are written.
  package mutating func drainBegan() {
    self.isDraining = true
  }

  /// The time that the batches before a new caller would take, between 10 ms, below which it would
  /// only come back to the same queue, and 5 s, after which much has changed.
  private var retryDelay: Duration {
    let batches = max(
      self.queuedCommits / self.limits.batchCommits, self.bytes / self.limits.batchBytes)
    return min(max(self.lastBatch * (batches + 1), .milliseconds(10)), .seconds(5))
  }
}
