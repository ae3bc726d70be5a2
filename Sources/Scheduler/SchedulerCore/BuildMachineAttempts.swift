import Domain

extension BuildMachine {
  // MARK: News of attempts

  /// A runner told of something. Events of attempts that are over come late: a harmless race.
  mutating func received(
    _ event: RunnerEvent, of id: AttemptID, at now: Timestamp, _ policy: Policy,
    _ out: inout BuildOutput
  ) {
    guard self.updateLive(id, { $0.isNext(event.sequence) }) ?? false else { return }
    out.touched.append(id)
    switch event.what {
    case .accepted: break
    case .step(let step):
      guard self.hasStep(step.index, in: id) else { return }
      self.updateAttempt(id) { attempt in
        if let place = attempt.steps.firstIndex(where: { $0.index == step.index }) {
          // A replay begins with what is long past.
          if step.state.progress >= attempt.steps[place].state.progress {
            attempt.steps[place] = step
          }
        } else {
          attempt.steps.append(step)
        }
      }
      out.isProgress = true
    case .artifact(let artifact): self.keep(artifact, of: id, policy, &out)
    case .finished(let outcome, let message, let usage, let isReusable):
      self.updateAttempt(id) { $0.usage = usage }
      let step = self.updateLive(id) { $0.finished(outcome, message: message) }
      self.follow(step ?? .nothing, of: id, isReusable: isReusable, at: now, policy, &out)
    }
  }

  /// Whether an attempt's job has a step of that place: a runner may say what it likes.
  private func hasStep(_ place: Int, in id: AttemptID) -> Bool {
    guard case .job(let index) = self.live[id]?.item else { return false }
    return self.record.pipeline.jobs[self.record.jobs[index].leg.plan].steps.indices.contains(place)
  }

  /// An attempt kept a file. One that the record has no room for is not noted, and whoever counts
  /// on it must know: such an attempt does not succeed.
  private mutating func keep(
    _ artifact: Artifact, of id: AttemptID, _ policy: Policy, _ out: inout BuildOutput
  ) {
    guard var artifacts = self.attempt(id)?.artifacts else { return }
    let place = artifacts.firstIndex { $0.name == artifact.name && $0.path == artifact.path }
    let earlier = place.map { artifacts.remove(at: $0) }
    let bytes = self.artifactBytes + artifact.recordBytes - (earlier?.recordBytes ?? 0)
    guard bytes <= policy.maximumArtifactBytes else {
      let path = artifact.path.limited(toBytes: 100)
      let why =
        "artifact \"\(path)\" was not kept: all that a build keeps may take "
        + "\(policy.maximumArtifactBytes) bytes of its record"
      _ = self.updateLive(id) { $0.cannotSucceed(why) }
      return
    }
    artifacts.append(artifact)
    self.artifactsTake(bytes)
    self.updateAttempt(id) { $0.artifacts = artifacts }
    out.isProgress = true
  }

  mutating func streamEnded(
    _ end: StreamEnd, of id: AttemptID, at now: Timestamp, _ policy: Policy,
    _ out: inout BuildOutput
  ) {
    let step = self.updateLive(id) { $0.streamEnded(end, at: now, policy) }
    out.touched.append(id)
    self.follow(step ?? .nothing, of: id, at: now, policy, &out)
  }

  mutating func leaseLost(
    _ loss: LeaseLoss, _ message: String, of id: AttemptID, at now: Timestamp, _ policy: Policy,
    _ out: inout BuildOutput
  ) {
    let step = self.updateLive(id) { $0.leaseLost(loss, message) }
    out.touched.append(id)
    self.follow(step ?? .nothing, of: id, at: now, policy, &out)
  }

  /// The attempt's wake has come.
  mutating func timePassed(
    of id: AttemptID, at now: Timestamp, _ policy: Policy, _ out: inout BuildOutput
  ) {
    guard let live = self.live[id] else { return }
    out.touched.append(id)
    if self.updateLive(id, { $0.becameOverdue(at: now) }) ?? false {
      self.timedOut(id, live.item, at: now, policy, &out)
      return
    }
    let step = self.updateLive(id) { $0.timePassed(at: now, policy) }
    self.follow(step ?? .nothing, of: id, at: now, policy, &out)
  }

  /// Its record is durable: the runner may hear of it, unless it was stopped meanwhile.
  mutating func start(
    _ id: AttemptID, at now: Timestamp, _ policy: Policy, _ out: inout BuildOutput
  ) {
    // One that was decided meanwhile never starts; its end follows.
    if self.attempt(id)?.outcome != nil { return }
    let step = self.updateLive(id) { $0.committed() }
    out.touched.append(id)
    self.follow(step ?? .nothing, of: id, at: now, policy, &out)
  }

  /// It is committed that nobody wants it any more.
  mutating func end(
    _ id: AttemptID, _ outcome: Outcome, reason: String, at now: Timestamp, _ policy: Policy,
    _ out: inout BuildOutput
  ) {
    let step = self.updateLive(id) { $0.stop(at: now) }
    out.touched.append(id)
    self.follow(step ?? .nothing, of: id, at: now, policy, &out)
  }

  // MARK: What follows

  private mutating func follow(
    _ step: AttemptMachine.Step, of id: AttemptID, isReusable: Bool = false,
    at now: Timestamp, _ policy: Policy, _ out: inout BuildOutput
  ) {
    guard let live = self.live[id] else { return }
    let address = live.machine.address
    switch step {
    case .nothing: break
    case .run: out.now.append(.run(id))
    case .attach(let after): out.now.append(.attach(id, address: address, after: after))
    case .stop(let after):
      let attempt = self.attempt(id)
      out.now.append(
        .stop(
          id, address: address, attempt?.outcome ?? .cancelled, reason: attempt?.message ?? ""))
      out.now.append(.attach(id, address: address, after: after))
    case .stopped:
      self.letGo(of: id, live, isReusable: isReusable, &out)
      if case .job(let index) = live.item { self.executorLeft(index, at: now, &out) }
    case .ended(let verdict):
      let ending = Ending(verdict)
      if ending.mayStillRun {
        // Behind the commit: a scheduler that no longer owns the build ends nothing of it.
        out.afterCommit.append(
          .stop(id, address: address, ending.outcome, reason: ending.message))
      }
      switch live.item {
      case .job(let index):
        self.attemptEnded(id, of: index, ending, at: now, policy, &out)
        self.letGo(of: id, live, isReusable: isReusable, &out)
        self.executorLeft(index, at: now, &out)
      case .notification(let index):
        self.letGo(of: id, live, isReusable: isReusable, &out)
        self.notificationEnded(index, ending, policy, &out)
      }
    }
  }

  /// The executor is free of an attempt.
  private mutating func letGo(
    of id: AttemptID, _ live: Live, isReusable: Bool = false,
    _ out: inout BuildOutput
  ) {
    if self.attempt(id)?.isHeld ?? false {
      self.updateAttempt(id) { $0.isHeld = false }
      out.isDirty = true
    }
    _ = self.forgetLive(id)
    out.now.append(.detach(id))
    out.now.append(
      .gaveBack(
        id, live.machine.lease, self.charge(live.item, live.machine.resources),
        isReusable: isReusable))
  }

  /// A verdict in the words of a record.
  private struct Ending {
    var outcome: Outcome
    var message: String
    var mayStillRun = false

    init(_ verdict: AttemptMachine.Verdict) {
      switch verdict {
      case .finished(let outcome, let message): (self.outcome, self.message) = (outcome, message)
      case .lost(let why):
        (self.outcome, self.message, self.mayStillRun) = (.executorLost, why, true)
      case .notStarted(let why, let mayRun):
        (self.outcome, self.message, self.mayStillRun) = (.preempted, why, mayRun)
      case .invalid(let why): (self.outcome, self.message) = (.rejected, why)
      }
    }
  }

  /// An attempt at a job has its outcome: the job is over, or tried again.
  private mutating func attemptEnded(
    _ id: AttemptID, of index: Int, _ ending: Ending, at now: Timestamp, _ policy: Policy,
    _ out: inout BuildOutput
  ) {
    // One that is not in the record any more was given up with it.
    guard let attempt = self.attempt(id), attempt.outcome == nil else { return }
    self.updateAttempt(id) { attempt in
      attempt.outcome = ending.outcome
      attempt.message = ending.message
      attempt.finishedAt = now
    }
    out.isDirty = true
    guard self.record.jobs[index].state == .running else { return }
    if self.isToBeTriedAgain(index, after: ending.outcome, policy) {
      self.update { $0.jobs[index].state = .queued }
      let rest = self.rest(of: index, after: ending.outcome, policy)
      out.afterCommit.append(
        rest > .zero ? .remind(.job(index), after: rest) : .enqueue(.job(index)))
    } else {
      self.endJob(index, ending.outcome, ending.message, at: now, &out)
    }
  }

  /// How long a job rests before it waits for an executor again. What went wrong once may be nobody's
  /// fault; from twice in a row on whatever it stands on takes a moment to be better.
  private func rest(of index: Int, after outcome: Outcome, _ policy: Policy) -> Duration {
    let job = self.record.jobs[index]
    let count = job.attempts.dropFirst(job.earlierAttempts).reversed()
      .prefix { $0.outcome != .succeeded }.count
    return count < 2 ? .zero : policy.retryBackoff.delay(after: count - 1)
  }

  private func isToBeTriedAgain(_ index: Int, after outcome: Outcome, _ policy: Policy) -> Bool {
    let job = self.record.jobs[index]
    let attempts = job.attempts.dropFirst(job.earlierAttempts)
    let retry = self.record.pipeline.jobs[job.leg.plan].retry
    switch outcome {
    case .executorLost:
      return attempts.count { $0.outcome == .executorLost } < policy.maximumLostAttempts
    case .preempted:
      return attempts.count { $0.outcome == .preempted } < policy.maximumPreemptedAttempts
    case .outOfMemory
    where attempts.count { $0.outcome == .outOfMemory } <= policy.maximumMemoryDoublings:
      return true
    case .failed, .timedOut, .outOfMemory:
      let own = attempts.count { [.failed, .timedOut, .outOfMemory].contains($0.outcome) }
      return retry.outcomes.contains(outcome) && own <= retry.limit
    case .succeeded, .cancelled, .skipped, .rejected: return false
    }
  }

  /// An attempt runs on though its time is over and its runner should have ended it.
  private mutating func timedOut(
    _ id: AttemptID, _ item: Work.Item, at now: Timestamp, _ policy: Policy,
    _ out: inout BuildOutput
  ) {
    let why = "it ran beyond its time, and its runner did not end it"
    switch item {
    case .notification(let index):
      _ = self.updateLive(id) { $0.stop(at: now) }
      if let live = self.live[id] { self.letGo(of: id, live, &out) }
      self.notificationFailed(index, why, isFinal: false, policy, &out)
    case .job(let index):
      guard let attempt = self.attempt(id), attempt.outcome == nil else { return }
      self.endAttempt(id, .timedOut, why, at: now, &out)
      if self.isToBeTriedAgain(index, after: .timedOut, policy) {
        // Queued once this attempt's processes are gone.
        self.update { $0.jobs[index].state = .blocked }
      } else {
        self.endJob(index, .timedOut, why, at: now, &out)
      }
    }
  }

  /// Decides how a job's running attempts ended, and has them stopped once that is committed.
  mutating func stopAttempts(
    of index: Int, _ outcome: Outcome, _ why: String, at now: Timestamp, _ out: inout BuildOutput
  ) {
    for attempt in self.record.jobs[index].attempts where attempt.outcome == nil {
      self.endAttempt(attempt.id, outcome, why, at: now, &out)
    }
  }

  private mutating func endAttempt(
    _ id: AttemptID, _ outcome: Outcome, _ why: String, at now: Timestamp,
    _ out: inout BuildOutput
  ) {
    self.updateAttempt(id) { attempt in
      attempt.outcome = outcome
      attempt.message = why
      attempt.finishedAt = now
    }
    out.isDirty = true
    out.afterCommit.append(.end(id, outcome, reason: why))
  }

  // MARK: Notifications

  private mutating func notificationEnded(
    _ index: Int, _ ending: Ending, _ policy: Policy, _ out: inout BuildOutput
  ) {
    switch ending.outcome {
    case .succeeded: self.endNotification(index, .delivered, "", &out)
    case .rejected: self.notificationFailed(index, ending.message, isFinal: true, policy, &out)
    case .failed, .timedOut, .cancelled, .outOfMemory, .executorLost, .preempted, .skipped:
      self.notificationFailed(index, ending.message, isFinal: false, policy, &out)
    }
  }

  mutating func notificationFailed(
    _ index: Int, _ why: String, isFinal: Bool, _ policy: Policy, _ out: inout BuildOutput
  ) {
    guard self.record.notifications[index].state == .pending else { return }
    self.update { $0.notifications[index].attempts += 1 }
    let attempts = self.record.notifications[index].attempts
    if isFinal || attempts >= policy.maximumNotificationAttempts {
      self.endNotification(index, .dead, why, &out)
    } else {
      self.update { $0.notifications[index].message = why }
      out.isDirty = true
      out.now.append(
        .remind(.notification(index), after: policy.notificationBackoff.delay(after: Int(attempts)))
      )
    }
  }

  mutating func endNotification(
    _ index: Int, _ state: NotificationRecord.State, _ message: String, _ out: inout BuildOutput
  ) {
    self.update { record in
      if state == .delivered { record.notifications[index].attempts += 1 }
      record.notifications[index].state = state
      record.notifications[index].message = message
    }
    if state == .dead { out.deadNotifications += 1 }
    out.isDirty = true
    out.now.append(.dequeue(.notification(index)))
    for (id, live) in self.live.sorted(by: { $0.key < $1.key })
    where live.item == .notification(index) {
      out.now.append(
        .stop(id, address: live.machine.address, .cancelled, reason: message))
      self.letGo(of: id, live, &out)
    }
  }

  /// A delay is over.
  mutating func remind(_ item: Work.Item, _ out: inout BuildOutput) {
    self.resting.remove(item)
    switch item {
    case .job(let index):
      guard self.record.jobs.indices.contains(index), self.record.jobs[index].state == .queued
      else { return }
    case .notification(let index):
      guard self.record.notifications.indices.contains(index),
        self.record.notifications[index].state == .pending
      else { return }
    }
    out.now.append(.enqueue(item))
  }

  // MARK: Records of attempts

  /// Which job an attempt is at, and where it stands there.
  private func place(_ id: AttemptID) -> (job: Int, attempt: Int)? {
    guard case .job(let index) = self.live[id]?.item else { return nil }
    return self.record.jobs[index].attempts.lastIndex { $0.id == id }.map { (index, $0) }
  }

  private func attempt(_ id: AttemptID) -> AttemptRecord? {
    self.place(id).map { self.record.jobs[$0.job].attempts[$0.attempt] }
  }

  private mutating func updateAttempt(_ id: AttemptID, _ body: (inout AttemptRecord) -> Void) {
    guard let place = self.place(id) else { return }
    self.update { body(&$0.jobs[place.job].attempts[place.attempt]) }
  }
}

extension StepRecord.State {
  fileprivate var progress: Int {
    switch self {
    case .pending: 0
    case .running: 1
    case .finished: 2
    }
  }
}
