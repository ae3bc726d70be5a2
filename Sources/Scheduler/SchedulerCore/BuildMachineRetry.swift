import Domain

/// What of a finished build can be tried again.
extension BuildMachine {
  /// Attempts and notifications up to which a build can be retried: its record is one entity.
  static let maximumAttempts = 5_000

  /// Why a build cannot be retried.
  enum RetryError: Error, Hashable, Sendable {
    case tooManyAttempts(Int)
    /// Its attempts were left out for want of room: nobody knows their numbers any more.
    case shortened
    case notFinished
    case nothingToRetry
    case unknownJob(JobID)
  }

  /// The jobs that a retry begins again: those that did not succeed or the named ones, and what
  /// depends on them.
  func jobsToRetry(_ jobs: [JobID]) throws(RetryError) -> [Int] {
    guard self.record.state == .finished else { throw .notFinished }
    guard !self.record.isShortened else { throw .shortened }
    var again: Set<Int> = []
    if !jobs.isEmpty {
      let places = Dictionary(
        self.record.jobs.enumerated().map { ($0.element.id, $0.offset) },
        uniquingKeysWith: { first, _ in first })
      for job in jobs {
        guard let index = places[job] else { throw .unknownJob(job) }
        again.insert(index)
      }
    } else {
      again = Set(
        self.record.jobs.indices.filter {
          ![.succeeded, .skipped].contains(self.record.jobs[$0].outcome)
        })
    }
    guard !again.isEmpty else { throw .nothingToRetry }
    let attempts = self.record.jobs.reduce(self.record.notifications.count) {
      $0 + $1.attempts.count
    }
    guard attempts <= Self.maximumAttempts else { throw .tooManyAttempts(attempts) }
    var dependents: Set<Int> = []
    var left = Array(Set(again.map { self.record.jobs[$0].leg.plan }))
    while let plan = left.popLast() {
      for dependent in self.graph.dependents[plan] where dependents.insert(dependent).inserted {
        left.append(dependent)
      }
    }
    // All legs of them, whichever were named.
    for plan in dependents {
      again.formUnion(
        self.graph.legs[plan].filter { !jobs.isEmpty || self.record.jobs[$0].outcome != .succeeded }
      )
    }
    return again.sorted()
  }
}
