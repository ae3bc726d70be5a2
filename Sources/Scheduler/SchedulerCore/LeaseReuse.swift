import Domain

/// A lease goes from a job that has ended to the next of its shape, without the allocator.
extension Scheduler {
  /// Gives leases that have become free to the next work of their shape, or back.
  mutating func reuseLeases(at now: Timestamp, _ effects: inout [Effect]) {
    while let free = self.reusable.popLast() {
      var lease = free.lease
      let isYoung = now >= lease.since && now - lease.since < self.policy.leaseReuse
      guard isYoung, !lease.grant.isContended,
        let entry = self.queue.takeNext(of: lease.shape, at: now)
      else {
        effects.append(.release(lease.grant.lease))
        continue
      }
      lease.grant.use += 1
      // Before anything follows from it: a notification begins without a commit.
      let next = self.builds[entry.work.build]?.machine.nextAttempt(at: entry.work.item)
      if let next { self.handovers.add(next, behind: free.attempt, of: free.build) }
      if self.give(lease, to: entry, at: now, &effects) {
        self.tally.reuses += 1
      } else if let next {
        self.handovers.remove(next)
      }
    }
  }

  /// Whether no record says any more that the attempt runs that had this one's lease before.
  func isLeaseFree(for attempt: AttemptID) -> Bool {
    guard let handover = self.handovers[attempt], let record = self.builds[handover.build]?.shown
    else { return true }
    return !record.jobs.contains { job in
      job.attempts.contains { $0.isHeld && $0.id == handover.attempt }
    }
  }

  /// Something of a build is durable: perhaps it is the end that others wait for. Of one that is not at hand any more
  /// everything is.
  mutating func startSuccessors(
    of build: BuildID, at now: Timestamp, _ effects: inout [Effect]
  ) {
    for attempt in self.handovers.attempts(behind: build) {
      let isDue = self.handovers[attempt]?.isDue ?? false
      if self.isLeaseFree(for: attempt) { self.handovers.remove(attempt) }
      guard isDue, let id = self.attempts[attempt] else { continue }
      self.carryOut(.start(attempt), of: id, at: now, &effects)
    }
  }

  /// A build is dropped with ends that may never be durable: what waits for them does not begin.
  mutating func giveUpSuccessors(
    of build: BuildID, at now: Timestamp, _ effects: inout [Effect]
  ) {
    for attempt in self.handovers.attempts(behind: build) {
      self.handovers.remove(attempt)
      guard let id = self.attempts[attempt] else { continue }
      let why = "build \(build), whose lease it was to have, was changed by another scheduler"
      self.change(id, at: now, &effects) {
        $0.leaseLost(.executorGone, why, of: attempt, at: now, $2, &$1)
      }
    }
  }
}
