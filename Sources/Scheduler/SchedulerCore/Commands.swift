import Domain

extension Scheduler {
  mutating func carryOut(
    _ commands: [Command], on id: BuildID, at now: Timestamp, _ effects: inout [Effect]
  ) {
    for command in commands { self.carryOut(command, on: id, at: now, &effects) }
  }

  /// Does what somebody wants of a build, now or when its record has been read.
  mutating func carryOut(
    _ command: Command, on id: BuildID, at now: Timestamp, _ effects: inout [Effect]
  ) {
    if self.builds[id]?.isLoading ?? false {
      self.builds[id]?.commands.append(command)
      return
    }
    if self.builds[id] == nil, self.loads[id] != nil {
      self.loads[id]?.append(command)
      return
    }
    switch command {
    case .submit(let submission, let waiter):
      self.submit(submission, waiter, at: now, &effects)
    case .cancel(let reason, let waiter):
      guard self.builds[id] != nil else { return self.load(id, for: command, &effects) }
      if self.builds[id]?.machine.record.state != .finished {
        self.change(id, at: now, &effects) { machine, out, _ in
          machine.cancel(reason, at: now, &out)
        }
      }
      self.answer(waiter, with: id, existed: true, &effects)
    case .retry(let jobs, let waiter):
      guard self.builds[id] != nil else { return self.load(id, for: command, &effects) }
      self.retry(id, jobs, waiter, at: now, &effects)
    }
  }

  private mutating func load(_ id: BuildID, for command: Command, _ effects: inout [Effect]) {
    self.loads[id] = [command]
    effects.append(.load(id))
  }

  private mutating func submit(
    _ submission: Submission, _ waiter: Waiter, at now: Timestamp, _ effects: inout [Effect]
  ) {
    let id = submission.id
    if let record = self.builds[id]?.machine.record {
      if let conflict = record.conflict(
        withSubmission: submission.fingerprint, of: submission.project)
      {
        effects.append(.answer(waiter, conflict))
        return
      }
      self.answer(waiter, with: id, existed: true, &effects)
      return
    }
    if self.isStoreSilent, self.unstored.count >= Self.maximumUnstoredWhileSilent {
      effects.append(.answer(waiter, .unavailable("the store does not answer")))
      return
    }
    if let refusal = self.refusal(ofMore: submission.legs.count) {
      effects.append(.answer(waiter, refusal))
      return
    }
    let machine = BuildMachine.submitted(submission, owner: self.owner, at: now)
    var entry = BuildEntry(machine: machine, version: nil)
    entry.isDirty = true
    entry.afterNext = [.answer(waiter, existed: false)]
    self.insert(entry)
    self.unstored.insert(id)
    self.joinGroup(id)
    self.change(id, at: now, &effects) { machine, out, _ in
      out.isDirty = true
      machine.settleAll(at: now, &out)
    }
  }

  /// Submissions that may wait for a store that is silent: those find out whether it is back.
  static var maximumUnstoredWhileSilent: Int { 16 }

  private mutating func retry(
    _ id: BuildID, _ jobs: [JobID], _ waiter: Waiter, at now: Timestamp,
    _ effects: inout [Effect]
  ) {
    guard let machine = self.builds[id]?.machine else { return }
    let again: [Int]
    do throws(BuildMachine.RetryError) {
      again = try machine.jobsToRetry(jobs)
    } catch {
      effects.append(.answer(waiter, Self.refusal(toRetry: id, error)))
      return self.settle(id, at: now, &effects)
    }
    if let refusal = self.refusal(ofMore: again.count) {
      effects.append(.answer(waiter, refusal))
      return self.settle(id, at: now, &effects)
    }
    self.joinGroup(id, toRetry: true)
    self.change(id, at: now, &effects) { machine, out, _ in machine.retry(again, at: now, &out) }
    self.answer(waiter, with: id, existed: true, &effects)
  }

  private static func refusal(toRetry id: BuildID, _ error: BuildMachine.RetryError) -> Answer {
    switch error {
    case .tooManyAttempts(let count):
      .failedPrecondition(
        "build \(id) has had \(count) attempts and notifications, and is retried no more: "
          + "submit it anew")
    case .shortened:
      .failedPrecondition(
        "build \(id) has lost its attempts for want of room, and is retried no more: "
          + "submit it anew")
    case .notFinished: .failedPrecondition("build \(id) is not finished")
    case .nothingToRetry: .failedPrecondition("every job of build \(id) succeeded")
    case .unknownJob(let job): .invalid("build \(id) has no job \"\(job)\"")
    }
  }

  /// What is said to whoever wants more jobs to wait than may; nil: there is room.
  private func refusal(ofMore jobs: Int) -> Answer? {
    guard self.waitingJobs + jobs > self.policy.maximumQueuedJobs else { return nil }
    return .exhausted(
      "\(self.waitingJobs) jobs wait, and at most \(self.policy.maximumQueuedJobs) may",
      retryAfter: self.policy.fullQueueRetryDelay)
  }

  /// Answers with the newest state, once that is committed.
  private mutating func answer(
    _ waiter: Waiter, with id: BuildID, existed: Bool, _ effects: inout [Effect]
  ) {
    guard let entry = self.builds[id] else { return }
    if entry.isClean, let record = self.shown(id) {
      effects.append(.answer(waiter, .build(record, existed: existed)))
    } else if entry.isDirty {
      self.builds[id]?.afterNext.append(.answer(waiter, existed: existed))
    } else {
      self.builds[id]?.afterThis.append(.answer(waiter, existed: existed))
    }
  }

  // MARK: Concurrency groups

  func groupKey(of record: BuildRecord) -> GroupKey {
    GroupKey(project: record.project, group: record.group)
  }

  private func groupKey(of id: BuildID) -> GroupKey {
    self.builds[id].map { self.groupKey(of: $0.machine.record) }
      ?? GroupKey(project: "", group: "")
  }

  /// Lines a build up in its group, at its end unless it has a place; it is held back if it is not
  /// the first.
  mutating func joinGroup(_ id: BuildID, toRetry: Bool = false) {
    let key = self.groupKey(of: id)
    guard !key.group.isEmpty, let record = self.builds[id]?.machine.record,
      toRetry || record.state != .finished || record.holdsExecutors
    else { return }
    if !(self.groups[key]?.contains(id) ?? false) { self.groups[key, default: []].append(id) }
    if self.groups[key]?.first != id, toRetry || record.state != .finished {
      self.builds[id]?.machine.holdBack()
    }
  }

  /// A build is over: the next of its group goes on.
  mutating func leaveGroup(_ id: BuildID, at now: Timestamp, _ effects: inout [Effect]) {
    self.leaveGroup(self.groupKey(of: id), id, at: now, &effects)
  }

  mutating func leaveGroup(
    _ key: GroupKey, _ id: BuildID, at now: Timestamp, _ effects: inout [Effect]
  ) {
    guard let place = self.groups[key]?.firstIndex(of: id) else { return }
    self.groups[key]?.remove(at: place)
    guard let next = self.groups[key]?.first else {
      self.groups[key] = nil
      return
    }
    if place == 0 {
      self.change(next, at: now, &effects) { machine, out, _ in
        if machine.isHeldBack { machine.letGo(at: now, &out) }
      }
    }
  }

  /// A new build of a group that says `cancel-in-progress` ends those before it.
  mutating func supersede(
    for record: BuildRecord, at now: Timestamp, _ effects: inout [Effect]
  ) {
    guard record.pipeline.concurrency?.cancelInProgress ?? false else { return }
    let group = self.groups[self.groupKey(of: record)] ?? []
    for earlier in group.prefix(while: { $0 != record.id }) {
      self.supersede(earlier, by: record.id, at: now, &effects)
    }
  }

  private mutating func supersede(
    _ earlier: BuildID, by later: BuildID, at now: Timestamp, _ effects: inout [Effect]
  ) {
    self.change(earlier, at: now, &effects) { machine, out, _ in
      machine.cancel("build \(later) of the same concurrency group came later", at: now, &out)
    }
  }

  /// The same for records that were read: whoever had them may have come no further than to answer the
  /// submission.
  ///
  /// - Parameter records: By the time of their submission.
  mutating func supersedeEarlier(
    of records: [BuildRecord], at now: Timestamp, _ effects: inout [Effect]
  ) {
    var later: [GroupKey: BuildRecord] = [:]
    for record in records.reversed() where !record.group.isEmpty {
      let key = self.groupKey(of: record)
      if let newest = later[key], record.ran(before: newest) {
        self.supersede(record.id, by: newest.id, at: now, &effects)
      }
      if later[key] == nil, record.pipeline.concurrency?.cancelInProgress ?? false {
        later[key] = record
      }
    }
  }
}

extension BuildRecord {
  /// Whether it was under way when another build was submitted. One that was retried may have been
  /// finished then; only an attempt tells that it was not.
  fileprivate func ran(before other: Self) -> Bool {
    guard self.createdAt < other.createdAt else { return false }
    return self.round == 0
      || self.jobs.contains { job in
        job.attempts.dropFirst(job.earlierAttempts).contains { $0.startedAt < other.createdAt }
      }
  }

  /// What the submitter of that fingerprint is told if this is another build; nil if it is its own.
  func conflict(withSubmission fingerprint: Fingerprint?, of project: ProjectID) -> Answer? {
    // Two keys that come to the same id.
    guard self.project == project else {
      return .alreadyExists(
        "build \(self.id), which the idempotency key comes to, is another project's; choose another key"
      )
    }
    guard let own = self.fingerprint, let fingerprint, own != fingerprint else { return nil }
    return .alreadyExists(
      "the idempotency key was used for build \(self.id), whose pipeline, source, environment or "
        + "priority is another; choose another key for another build")
  }
}
