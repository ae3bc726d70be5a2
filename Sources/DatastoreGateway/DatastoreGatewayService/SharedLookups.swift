import DatastoreGatewayCore
import Synchronization

/// What reads many callers' lookups in one go.
protocol LookupReader: SendableMetatype {
  /// Tells each caller's answer as soon as there is one.
  func lookup(
    _ batch: [[EntityAddress]],
    answered: (_ number: Int, Result<LookupAnswer, any Error>) -> Void)
}

/// Lookups of few keys from many callers, in front of the threads that do several of them at a time.
final class SharedLookups<Reader: LookupReader>: Sendable {
  private struct Lookup: Sendable {
    var addresses: [EntityAddress]
    var continuation: CheckedContinuation<LookupAnswer, any Error>
  }

  private let readers: ReaderPool<Reader>
  private let queue: Mutex<LookupQueue<Lookup>>

  /// - Parameters:
  ///   - threads: How many the readers have.
  ///   - batchCount: Lookups that a thread does in one go.
  init(_ readers: ReaderPool<Reader>, threads: Int, batchCount: Int) {
    self.readers = readers
    self.queue = Mutex(LookupQueue(maximumThreads: threads, batchCount: batchCount))
  }

  func lookup(_ addresses: [EntityAddress]) async throws -> LookupAnswer {
    try await self.readers.admitted {
      try await withCheckedThrowingContinuation { continuation in
        let wakes = self.queue.withLock {
          $0.queued(Lookup(addresses: addresses, continuation: continuation))
        }
        if wakes { self.wake() }
      }
    }
  }

  /// Does a batch of what waits, and goes behind other reads that wait for the thread, until nothing waits.
  private func wake() {
    self.readers.submit {
      guard let batch = self.queue.withLock({ $0.batchTaken() }) else { return }
      self.readers.withReader { reader in
        reader.lookup(batch.map(\.addresses)) { batch[$0].continuation.resume(with: $1) }
      }
      self.wake()
    }
  }
}
