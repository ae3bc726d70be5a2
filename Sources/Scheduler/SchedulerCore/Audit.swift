import Domain

/// Something that did not agree with a record, and was put right.
package struct AuditFinding: Hashable, Sendable {
  package enum Kind: String, Hashable, Sendable, CaseIterable {
    /// What is planned for a build is not what its newest state says.
    case plan
    /// Something in the queue belongs to no work.
    case ticket
    /// A lease is held for no attempt.
    case lease
    /// An active record was not worked on.
    case unknownRecord = "unknown_record"
    /// A record is newer than what was at hand.
    case staleRecord = "stale_record"
  }

  package var kind: Kind
  /// What was found, naming the thing and both sides.
  package var cause: String
}

/// What is compared next.
struct AuditCursor: Sendable {
  /// Builds that are left of this round.
  var builds: [BuildID] = []
  /// Which of what waits is looked at next in this round; nil: all was.
  var place: Int?
  /// When the next round may begin.
  var nextRound: Timestamp?
  /// When the ranks of demands are looked at next.
  var nextRanks: Timestamp?
  /// Not yet told; more than these are counted only.
  var findings: [AuditFinding] = []
  static let maximumFindings = 100
}

extension Scheduler {
  /// Compares a slice of what is at hand: each build's plans with its newest state, the queue and
  /// the leases with the builds. What does not agree is built anew from the record. The allocator is
  /// told which leases are held, and answers for those that are not, and what rank demands have now.
  package mutating func auditDue(at now: Timestamp) -> [Effect] {
    var effects: [Effect] = []
    if self.audit.nextRanks.map({ now >= $0 }) ?? true {
      self.audit.nextRanks = now + self.policy.rankInterval
      self.queue.claimsDue(at: now)
      effects += self.queue.ranksDue()
    }
    if self.audit.builds.isEmpty && self.audit.place == nil {
      guard self.audit.nextRound.map({ now >= $0 }) ?? true else { return effects }
      self.audit.nextRound = now + self.policy.auditInterval
      self.audit.builds = Array(self.builds.keys)
      self.audit.place = 0
      self.auditLeases(&effects)
    }
    self.auditQueue()
    for id in self.audit.builds.suffix(self.policy.auditSlice).sorted() {
      guard let entry = self.builds[id], self.partitions[entry.partition] == .serving,
        entry.isClean, !entry.isLoading, !entry.isToResume, entry.version != nil
      else { continue }
      if let cause = self.difference(in: entry) {
        self.found(.plan, "build \(id): \(cause)")
        self.builds[id]?.isLoading = true
        effects.append(.load(id))
      } else {
        for attempt in entry.machine.live.keys.sorted() { effects += self.hold(attempt) }
      }
    }
    self.audit.builds.removeLast(min(self.policy.auditSlice, self.audit.builds.count))
    effects += self.queue.changes()
    return effects
  }

  /// An active record of a partition that is ours was read to be compared.
  package mutating func audited(_ stored: StoredBuild, at now: Timestamp) -> [Effect] {
    let id = stored.record.id
    guard self.isServing(stored.record.project) else { return [] }
    guard let entry = self.builds[id] else {
      // It may have come to its end since it was read: once more, by its key.
      guard self.loads[id] == nil else { return [] }
      self.loads[id] = []
      return [.load(id)]
    }
    guard entry.isClean, !entry.isLoading, let version = entry.version, stored.version > version
    else { return [] }
    self.found(.staleRecord, "build \(id) has version \(stored.version), at hand is \(version)")
    self.builds[id]?.isLoading = true
    return [.load(id)]
  }

  package mutating func takeFindings() -> [AuditFinding] {
    defer { self.audit.findings = [] }
    return self.audit.findings
  }

  mutating func found(_ kind: AuditFinding.Kind, _ cause: String) {
    self.tally.findings[kind, default: 0] += 1
    if self.audit.findings.count < AuditCursor.maximumFindings {
      self.audit.findings.append(AuditFinding(kind: kind, cause: cause))
    }
  }

  /// What is wrong with what is planned for a build; nil: nothing.
  private func difference(in entry: BuildEntry) -> String? {
    let record = entry.machine.record
    for (index, job) in record.jobs.enumerated() {
      let ticket = entry.machine.tickets[.job(index)]
      let isResting = entry.machine.resting.contains(.job(index))
      if (job.state == .queued) != (ticket != nil || isResting) {
        return
          "job \(job.id) is \(job.state) and has \(ticket == nil ? "no" : "a") place in the queue"
      }
      if let ticket, !self.queue.contains(ticket) {
        return "job \(job.id) waits at a place that is not there"
      }
      for attempt in job.attempts where attempt.isHeld != (entry.machine.live[attempt.id] != nil) {
        return "attempt \(attempt.id) \(attempt.isHeld ? "is held and not" : "is over and still") "
          + "followed"
      }
    }
    if entry.machine.isHeldBack {
      let group = self.groups[self.groupKey(of: record)] ?? []
      if group.first == record.id || !group.contains(record.id) {
        return "it is held back, and no build of concurrency group \(record.group) goes before it"
      }
    }
    for (attempt, live) in entry.machine.live
    where !self.leases.attempts(under: live.machine.lease).contains(attempt)
      || self.attempts[attempt] != record.id
    {
      return "lease \(live.machine.lease) is not known as attempt \(attempt)'s"
    }
    return record.isActive || !entry.machine.live.isEmpty
      ? nil : "nothing is left to do and it is still at hand"
  }

  private mutating func auditQueue() {
    guard let place = self.audit.place else { return }
    guard let slice = self.queue.waiting(from: place, atMost: self.policy.auditSlice) else {
      self.audit.place = nil
      return
    }
    self.audit.place = place + self.policy.auditSlice
    for (ticket, work) in slice {
      let known = self.builds.index(forKey: work.build)
        .map { self.builds.values[$0].machine.tickets[work.item] }
      if known == ticket { continue }
      self.found(.ticket, "place \(ticket) in the queue is not known to build \(work.build)")
      self.queue.remove(ticket)
    }
  }

  private mutating func auditLeases(_ effects: inout [Effect]) {
    let held = self.leases.all.flatMap { held in held.attempts.map { (held.lease, $0) } }
    for (lease, attempt) in held {
      let live = self.attempts[attempt].flatMap { self.builds[$0]?.machine.live[attempt] }
      guard live?.machine.lease != lease,
        self.attempts[attempt].map({ self.builds[$0] == nil }) ?? true
      else { continue }
      self.found(.lease, "lease \(lease) is held for attempt \(attempt), which nobody follows")
      self.attempts[attempt] = nil
      self.handovers.remove(attempt)
      if case .release = self.leases.gaveBack(lease, attempt, isReusable: false) {
        effects.append(.release(lease))
      }
    }
  }
}
