import Domain

extension Scheduler {
  // MARK: Changing a build

  /// Feeds a build, and carries out what follows from it.
  ///
  /// - Parameter mayDirty: Whether it can change what is stored; progress alone cannot, and needs
  ///   no copy of what was committed.
  mutating func change(
    _ id: BuildID, at now: Timestamp, mayDirty: Bool = true, _ effects: inout [Effect],
    _ body: (inout BuildMachine, inout BuildOutput, Policy) -> Void
  ) {
    guard let index = self.builds.index(forKey: id) else { return }
    let out = self.builds.values[index].change(mayDirty: mayDirty, self.policy, body)
    if out.isDirty { self.recountWaiting(index) }
    self.tally.deadNotifications += out.deadNotifications
    // A change that needs no commit may still have something to do after one.
    if !out.isDirty {
      let deferred = self.builds.values[index].takeDeferred()
      if !deferred.isEmpty { self.carryOut(deferred, of: id, at: now, &effects) }
    }
    for step in out.now { self.carryOut(step, of: id, at: now, &effects) }
    for attempt in out.touched { self.setTimer(attempt, of: id) }
    self.settle(id, at: now, &effects)
  }

  private mutating func recountWaiting(_ index: Dictionary<BuildID, BuildEntry>.Index) {
    self.waitingJobs += self.builds.values[index].recountWaiting()
  }

  private mutating func setTimer(_ attempt: AttemptID, of id: BuildID) {
    let index = self.builds.index(forKey: id)
    let wake = index.flatMap { self.builds.values[$0].wake(of: attempt, self.policy) }
    self.timers.set(.attempt(attempt), to: wake)
  }

  mutating func carryOut(
    _ step: BuildOutput.Step, of id: BuildID, at now: Timestamp, _ effects: inout [Effect]
  ) {
    guard let index = self.builds.index(forKey: id) else { return }
    let project = self.builds.values[index].project
    switch step {
    case .enqueue(let item):
      // Cancelled between the decision and its commit: a harmless race.
      guard self.builds.values[index].machine.tickets[item] == nil,
        !self.builds.values[index].machine.resting.contains(item),
        self.partitions[self.builds.values[index].partition] != .closing,
        let shape = self.builds.values[index].machine.shape(of: item, self.policy)
      else { return }
      if let why = self.queue.refusal(project, shape) {
        return self.change(id, at: now, &effects) { $0.unsatisfiable(item, why, at: now, $2, &$1) }
      }
      let ticket = self.queue.enqueue(
        Work(build: id, item: item), project: project,
        priority: self.builds.values[index].machine.record.priority,
        age: self.builds.values[index].machine.record.createdAt, shape: shape,
        since: self.builds.values[index].machine.takeWaitsSince(item).map { min($0, now) } ?? now)
      self.builds.values[index].machine.tickets[item] = ticket
    case .dequeue(let item):
      if let ticket = self.builds.values[index].machine.tickets[item] {
        self.builds.values[index].machine.tickets[item] = nil
        self.queue.remove(ticket)
      }
      if self.builds.values[index].machine.resting.remove(item) != nil {
        self.timers.set(.work(id, item), to: nil)
      }
    case .took(let attempt, let lease, let charge):
      self.attempts[attempt] = id
      self.leases.took(lease, attempt)
      self.queue.took(charge, project: project)
    case .gaveBack(let attempt, let lease, let charge, let isReusable):
      self.attempts[attempt] = nil
      self.timers.set(.attempt(attempt), to: nil)
      self.handovers.remove(attempt)
      self.queue.gaveBack(charge, project: project)
      switch self.leases.gaveBack(lease, attempt, isReusable: isReusable) {
      case .none: break
      case .release: effects.append(.release(lease))
      case .reuse(let origin): self.reusable.append((origin, attempt, id))
      }
    case .start(let attempt):
      guard self.isLeaseFree(for: attempt) else { return self.handovers.becameDue(attempt) }
      self.handovers.remove(attempt)
      self.change(id, at: now, &effects) { $0.start(attempt, at: now, $2, &$1) }
    case .end(let attempt, let outcome, let reason):
      self.change(id, at: now, &effects) {
        $0.end(attempt, outcome, reason: reason, at: now, $2, &$1)
      }
    case .run(let attempt):
      if let order = self.builds.values[index].machine.order(attempt, self.policy) {
        effects.append(.run(order))
      }
    case .attach(let attempt, let address, let after):
      effects.append(.attach(attempt, address: address, after: after))
    case .detach(let attempt): effects.append(.detach(attempt))
    case .stop(let attempt, let address, let outcome, let reason):
      effects.append(.stop(attempt, address: address, outcome, reason: reason))
    case .remind(let item, let delay):
      self.builds.values[index].machine.resting.insert(item)
      self.timers.set(.work(id, item), to: now + delay)
    }
  }

  private mutating func carryOut(
    _ deferred: [BuildEntry.Deferred], of id: BuildID, at now: Timestamp,
    _ effects: inout [Effect]
  ) {
    // The last step may leave nothing of the build to be shown.
    for case .answer(let waiter, let existed) in deferred {
      if let record = self.shown(id) {
        effects.append(.answer(waiter, .build(record, existed: existed)))
      }
    }
    for case .step(let step) in deferred { self.carryOut(step, of: id, at: now, &effects) }
  }

  // MARK: Writing

  /// Writes what is to be written, shows what is to be shown, and drops what is done with.
  mutating func settle(_ id: BuildID, at now: Timestamp, _ effects: inout [Effect]) {
    guard let index = self.builds.index(forKey: id) else { return }
    switch self.builds.values[index].settle(owner: self.owner) {
    case .nothing: break
    case .write(let record, let base): effects.append(.write(record, base: base))
    case .show: self.show(id, &effects)
    case .forget: self.forget(id)
    case .idle:
      guard self.partitions[self.builds.values[index].partition] == .closing else { return }
      self.letGo(id, at: now, &effects)
    }
  }

  private func show(_ id: BuildID, _ effects: inout [Effect]) {
    if self.watchers[id] != nil, let record = self.shown(id) { effects.append(.changed(record)) }
  }

  /// What became of the write that was under way for a build.
  package mutating func written(
    _ id: BuildID, _ result: WriteResult, at now: Timestamp
  ) -> [Effect] {
    // A build that was dropped meanwhile, or a write that was asked twice: late news.
    guard let index = self.builds.index(forKey: id), self.builds.values[index].isWriting else {
      return []
    }
    var effects: [Effect] = []
    switch result {
    case .committed(let version):
      self.storeSilence = nil
      self.committed(id, version, at: now, &effects)
    case .conflict:
      self.storeSilence = nil
      self.tally.conflicts += 1
      self.builds[id]?.isLoading = true
      effects.append(.load(id))
    case .unknown(let why):
      self.storeFailed(id, why, at: now, &effects)
    case .refused(let why):
      if self.builds[id]?.version == nil {
        self.answerAll(id, .invalid(why), &effects)
        self.drop(id, at: now, &effects)
      } else {
        self.writeRefused(id, why, at: now, &effects)
      }
    }
    effects += self.queue.changes()
    return effects
  }

  private mutating func committed(
    _ id: BuildID, _ version: Int64, at now: Timestamp, _ effects: inout [Effect]
  ) {
    guard let index = self.builds.index(forKey: id),
      let (record, isFirst, deferred, endsRound) = self.builds.values[index].committed(version)
    else { return }
    if isFirst {
      self.tally.submitted += 1
      self.unstored.remove(id)
    }
    if endsRound { self.count(record) }
    self.show(id, &effects)
    self.carryOut(deferred, of: id, at: now, &effects)
    self.startSuccessors(of: id, at: now, &effects)
    if isFirst { self.supersede(for: record, at: now, &effects) }
    if !record.group.isEmpty {
      // The next of its group must not meet what is still being stopped. By now the build may be
      // forgotten, or somebody has retried it.
      let newest = self.builds[id]?.machine.record ?? record
      if [record, newest].allSatisfy({ $0.state == .finished && !$0.holdsExecutors }) {
        self.leaveGroup(self.groupKey(of: record), id, at: now, &effects)
      }
    }
    self.settle(id, at: now, &effects)
  }

  /// Counts an end: once for each, when the record that first says so is committed.
  private mutating func count(_ record: BuildRecord) {
    guard let outcome = record.outcome else { return }
    self.durations.note(record)
    self.tally.finished[outcome, default: 0] += 1
    for job in record.jobs {
      for attempt in job.attempts.dropFirst(job.earlierAttempts) {
        if let outcome = attempt.outcome { self.tally.attempts[outcome, default: 0] += 1 }
      }
    }
  }

  /// Nobody knows what the store did: the same again, later. Whoever waits is told so now.
  private mutating func storeFailed(
    _ id: BuildID, _ why: String, at now: Timestamp, _ effects: inout [Effect]
  ) {
    self.storeSilence = why
    self.tally.storeFailures += 1
    self.answerAll(id, .unavailable("the store does not answer: \(why)"), &effects)
    self.builds[id]?.failures += 1
    let failures = self.builds[id]?.failures ?? 1
    self.timers.set(.store(id), to: now + self.policy.storeBackoff.delay(after: failures))
  }

  /// The store answers, and does not take this one record: the build fails for it, and its record
  /// becomes shorter each time. Should the store not take the shortest either, somebody has to
  /// change what it takes; until then the build stands still, and all others go on.
  private mutating func writeRefused(
    _ id: BuildID, _ why: String, at now: Timestamp, _ effects: inout [Effect]
  ) {
    self.storeSilence = nil
    self.tally.storeFailures += 1
    guard let entry = self.builds[id], let refused = entry.inFlight else { return }
    guard !refused.isBare else {
      self.answerAll(id, .unavailable("the store refuses the build's record: \(why)"), &effects)
      self.timers.set(.store(id), to: now + self.policy.storeBackoff.limit)
      return
    }
    self.builds[id]?.inFlight = nil
    // Nobody may see what was refused.
    self.builds[id]?.isDirty = true
    self.builds[id]?.afterNext = entry.afterThis + entry.afterNext
    self.builds[id]?.afterThis = []
    self.change(id, at: now, &effects) { machine, out, _ in
      machine.recordRefused(refused, why, at: now, &out)
    }
  }

  mutating func tryStoreAgain(_ id: BuildID, _ effects: inout [Effect]) {
    guard let entry = self.builds[id] else { return }
    if entry.isLoading {
      effects.append(.load(id))
    } else if let record = entry.inFlight {
      // The very same record: should the first write have been done after all, the conflict shows
      // our own revision.
      effects.append(.write(record, base: entry.version))
    }
  }

  mutating func answerAll(_ id: BuildID, _ answer: Answer, _ effects: inout [Effect]) {
    func split(_ deferred: [BuildEntry.Deferred]) -> [BuildEntry.Deferred] {
      deferred.filter { item in
        guard case .answer(let waiter, _) = item else { return true }
        effects.append(.answer(waiter, answer))
        return false
      }
    }
    guard let entry = self.builds[id] else { return }
    self.builds[id]?.afterThis = split(entry.afterThis)
    self.builds[id]?.afterNext = split(entry.afterNext)
    for command in entry.commands { effects.append(.answer(command.waiter, answer)) }
    self.builds[id]?.commands = []
  }

  // MARK: Reading

  /// A record was read; nil: there is none.
  package mutating func loaded(
    _ id: BuildID, _ stored: StoredBuild?, at now: Timestamp
  ) -> [Effect] {
    self.storeSilence = nil
    var effects: [Effect] = []
    if let entry = self.builds[id], entry.isLoading {
      self.builds[id]?.isLoading = false
      self.builds[id]?.failures = 0
      if let stored, let own = entry.inFlight, stored.record.owner == self.owner,
        stored.record.revision == own.revision, stored.record.createdAt == own.createdAt
      {
        // Our own write, whose answer was lost; not that of an earlier submission, which has another time.
        self.committed(id, stored.version, at: now, &effects)
        self.carryOut(entry.commands, on: id, at: now, &effects)
      } else {
        self.replace(id, by: stored, at: now, &effects)
      }
    }
    if let commands = self.loads.removeValue(forKey: id) {
      if let refusal = stored.flatMap({ self.refusal(for: $0.record.project) }) {
        for command in commands { effects.append(.answer(command.waiter, refusal)) }
      } else if let stored {
        if commands.isEmpty, self.builds[id] == nil, stored.record.isActive {
          self.found(.unknownRecord, "build \(id) is active and was not worked on")
        }
        // Records that are active are at hand unless another scheduler had them.
        if self.builds[id] == nil { self.adopt(stored, at: now, &effects) }
        if stored.record.isActive {
          self.joinGroup(id)
          self.change(id, at: now, &effects) { $0.resume(at: now, $2, &$1) }
        }
        self.carryOut(commands, on: id, at: now, &effects)
        self.settle(id, at: now, &effects)
      } else {
        for command in commands { effects.append(.answer(command.waiter, .notFound)) }
      }
    }
    effects += self.queue.changes()
    return effects
  }

  /// A record could not be read.
  package mutating func loadFailed(
    _ id: BuildID, _ why: String, at now: Timestamp
  ) -> [Effect] {
    var effects: [Effect] = []
    for command in self.loads.removeValue(forKey: id) ?? [] {
      effects.append(.answer(command.waiter, .unavailable("the store does not answer: \(why)")))
    }
    if self.builds[id]?.isLoading ?? false { self.storeFailed(id, why, at: now, &effects) }
    return effects
  }

  /// What is stored is another's work: what we thought of the build is void.
  private mutating func replace(
    _ id: BuildID, by stored: StoredBuild?, at now: Timestamp, _ effects: inout [Effect]
  ) {
    guard let entry = self.builds[id] else { return }
    // A submission that meets its own build from before is answered with it.
    var answers: [Waiter] = []
    var unanswered: [Waiter] = []
    for case .answer(let waiter, _) in entry.afterThis + entry.afterNext {
      if entry.version == nil { answers.append(waiter) } else { unanswered.append(waiter) }
    }
    let commands = entry.commands
    let keepsPlace = stored.map { $0.record.state != .finished } ?? false
    self.drop(id, keepingPlace: keepsPlace, at: now, &effects)
    for waiter in unanswered {
      effects.append(
        .answer(waiter, .unavailable("the build was changed by another scheduler; try again")))
    }
    guard let stored else {
      for waiter in answers + commands.map(\.waiter) {
        effects.append(.answer(waiter, .unavailable("the build's record is gone; try again")))
      }
      return
    }
    self.adopt(stored, at: now, &effects)
    self.joinGroup(id)
    self.change(id, at: now, &effects) { $0.resume(at: now, $2, &$1) }
    let conflict = stored.record.conflict(
      withSubmission: entry.machine.record.fingerprint, of: entry.machine.record.project)
    for waiter in answers {
      let answer = conflict ?? .build(self.shown(id) ?? stored.record, existed: true)
      effects.append(.answer(waiter, answer))
    }
    self.show(id, &effects)
    self.carryOut(commands, on: id, at: now, &effects)
    self.settle(id, at: now, &effects)
  }

  /// Takes over a record as it was read.
  mutating func adopt(_ stored: StoredBuild, at now: Timestamp, _ effects: inout [Effect]) {
    let id = stored.record.id
    var out = BuildOutput()
    var record = stored.record
    record.pipeline = self.shared(record.pipeline)
    let machine = BuildMachine.recovered(record, at: now, self.policy, &out)
    var entry = BuildEntry(machine: machine, version: stored.version)
    if stored.record.state == .finished { entry.countedRound = stored.record.round }
    if stored.isOutdated {
      entry.committed = stored.record
      entry.isDirty = true
    }
    self.insert(entry)
    if let index = self.builds.index(forKey: id) { self.recountWaiting(index) }
    for step in out.now { self.carryOut(step, of: id, at: now, &effects) }
    for attempt in out.touched { self.setTimer(attempt, of: id) }
    // An allocator that is connected must tell of the end of its leases from now on.
    for attempt in machine.live.keys.sorted() { effects += self.hold(attempt) }
  }

  mutating func insert(_ entry: BuildEntry) {
    self.builds[entry.machine.record.id] = entry
    self.partitionBuilds[entry.partition.number] += 1
    if self.partitions[entry.partition] == .loading {
      self.loadingBuilds[entry.partition, default: []].append(entry.machine.record.id)
    }
  }

  /// Forgets a build with all that was planned for it; runners keep what they run.
  ///
  /// - Parameter isDurable: Whether all that became of it is.
  mutating func drop(
    _ id: BuildID, keepingPlace: Bool = false, isDurable: Bool = false, at now: Timestamp,
    _ effects: inout [Effect]
  ) {
    guard let entry = self.builds[id] else { return }
    for (attempt, live) in entry.machine.live.sorted(by: { $0.key < $1.key }) {
      effects.append(.detach(attempt))
      self.attempts[attempt] = nil
      let disposal = self.leases.gaveBack(live.machine.lease, attempt, isReusable: false)
      self.handovers.remove(attempt)
      self.timers.set(.attempt(attempt), to: nil)
      let charge = entry.machine.charge(live.item, live.machine.resources)
      self.queue.gaveBack(charge, project: entry.machine.record.project)
      // The runner never heard of it, and never will.
      if case .release = disposal, !live.machine.isRecorded {
        effects.append(.release(live.machine.lease))
      }
    }
    if !isDurable { self.giveUpSuccessors(of: id, at: now, &effects) }
    if !keepingPlace { self.leaveGroup(id, at: now, &effects) }
    self.forget(id)
    if isDurable { self.startSuccessors(of: id, at: now, &effects) }
  }

  private mutating func forget(_ id: BuildID) {
    guard let entry = self.builds.removeValue(forKey: id) else { return }
    self.partitionBuilds[entry.partition.number] -= 1
    for ticket in entry.machine.tickets.values { self.queue.remove(ticket) }
    for item in entry.machine.resting { self.timers.set(.work(id, item), to: nil) }
    self.timers.set(.store(id), to: nil)
    self.unstored.remove(id)
    self.waitingJobs -= Int(entry.waitingJobs)
  }
}
