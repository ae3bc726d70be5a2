import Domain

/// One build: the graph of its jobs, their attempts, its end and its notifications.
///
/// ```
/// job:    blocked --needs met, turn--> queued --lease--> running --outcome--> finished
///            |  \--condition false--------------------------------------------^
///            ^----------------- again: lost, preempted, retry -----------------/
/// build:  queued --first attempt--> running --last job--> finished --retried--> queued
/// ```
///
/// It decides, and notes in a ``BuildOutput`` what follows: what is to be done at once, and what
/// only after the record has been committed. Nobody outside may hear of a state before that.
struct BuildMachine: Sendable {
  /// An attempt that an executor may be busy with.
  struct Live: Sendable {
    var item: Work.Item
    var machine: AttemptMachine
  }

  /// The newest state, committed or not.
  private(set) var record: BuildRecord
  private(set) var live: [AttemptID: Live] = [:]
  /// Another build of its concurrency group goes first.
  private(set) var isHeldBack = false
  /// Where its work stands in the ready queue.
  var tickets = Tickets()
  /// Since when what a record says is queued has waited already, as far as that tells.
  private var waitsSince: [Work.Item: Timestamp] = [:]
  /// Work that waits for a delay before it is put there.
  var resting: Set<Work.Item> = []
  /// What its artifacts take in its record.
  private(set) var artifactBytes: Int
  let graph: BuildGraph
  private var unfinished: [Int]
  /// Of most builds that wait; they share it.
  private static let oneUnfinished = [1]

  init(_ record: BuildRecord) {
    self.record = record
    self.graph = BuildGraph(record)
    self.artifactBytes = record.jobs.lazy.flatMap(\.attempts).flatMap(\.artifacts)
      .reduce(0) { $0 + $1.recordBytes }
    let unfinished = self.graph.legs.map { range in
      range.count { record.jobs[$0].state != .finished }
    }
    self.unfinished = unfinished == Self.oneUnfinished ? Self.oneUnfinished : unfinished
  }

  // MARK: Birth

  static func submitted(
    _ submission: Submission, owner: String, at now: Timestamp
  ) -> BuildMachine {
    let pipeline = submission.pipeline
    let name = pipeline.name.isEmpty ? submission.project.rawValue : pipeline.name
    return BuildMachine(
      BuildRecord(
        id: submission.id, project: submission.project, name: name, createdAt: now,
        source: submission.source, priority: submission.priority,
        annotations: submission.annotations, environment: submission.environment,
        pipeline: pipeline, jobs: submission.legs.map(JobRecord.init),
        fingerprint: submission.fingerprint, owner: owner))
  }

  /// Goes on with a record that was read. What waits is queued by ``resume(at:_:)``.
  static func recovered(
    _ record: BuildRecord, at now: Timestamp, _ policy: Policy, _ out: inout BuildOutput
  ) -> BuildMachine {
    var machine = BuildMachine(record)
    machine.record.revision = Revision.recovered(from: record.revision)
    machine.noteWaits()
    for (index, job) in record.jobs.enumerated() {
      for attempt in job.attempts where attempt.isHeld {
        let isStopping = attempt.outcome != nil
        machine.live[attempt.id] = Live(
          item: .job(index),
          machine: .recovered(
            lease: attempt.lease, executor: attempt.executor, address: attempt.address,
            token: attempt.token,
            resources: machine.resources(of: index, policy, before: attempt.id),
            // From now: when it began was told by another's clock, and the runner knows its time best.
            deadline: now + machine.limit(of: index, policy) + policy.timeoutGrace,
            stoppingSince: isStopping ? now : nil))
        let resources = machine.resources(of: index, policy, before: attempt.id)
        out.now.append(
          .took(attempt.id, attempt.lease, machine.charge(.job(index), resources)))
        if isStopping {
          let outcome = attempt.outcome ?? .cancelled
          out.now.append(
            .stop(attempt.id, address: attempt.address, outcome, reason: attempt.message))
        }
        out.now.append(.attach(attempt.id, address: attempt.address, after: 0))
        out.touched.append(attempt.id)
      }
    }
    return machine
  }

  /// Queues what a recovered record says is queued, and looks what else is due. News may have
  /// changed the record since it was read: what follows from those waits for their commit.
  mutating func resume(at now: Timestamp, _ policy: Policy, _ out: inout BuildOutput) {
    for (index, job) in self.record.jobs.enumerated() where job.state == .queued {
      if self.isHeldBack {
        // Whoever had it before let it go first in its group.
        self.record.jobs[index].state = .blocked
        out.isDirty = true
      } else if !self.resting.contains(.job(index)) {
        out.afterCommit.append(.enqueue(.job(index)))
      }
    }
    for (index, notification) in self.record.notifications.enumerated()
    where notification.state == .pending && !self.resting.contains(.notification(index)) {
      out.afterCommit.append(.enqueue(.notification(index)))
    }
    if !self.isHeldBack { self.settleAll(at: now, &out) }
  }

  /// Notes of what was read since when it has waited: it must not wait longer because schedulers
  /// change.
  private mutating func noteWaits() {
    for (index, job) in self.record.jobs.enumerated() where job.state == .queued {
      self.waitsSince[.job(index)] = self.queuedSince(index)
    }
  }

  /// When a job was queued; nil where the record does not tell: after a retry, where a group or a number
  /// of legs had held it back.
  private func queuedSince(_ index: Int) -> Timestamp? {
    let job = self.record.jobs[index]
    if job.attempts.count > job.earlierAttempts { return job.attempts.last?.finishedAt }
    guard self.record.round == 0, self.record.group.isEmpty,
      self.record.pipeline.jobs[job.leg.plan].maximumParallel == nil
    else { return nil }
    let needed = self.graph.needs[job.leg.plan].flatMap { self.graph.legs[$0] }
      .compactMap { self.record.jobs[$0].attempts.last?.finishedAt }
    return max(self.record.createdAt, needed.max() ?? self.record.createdAt)
  }

  mutating func takeWaitsSince(_ item: Work.Item) -> Timestamp? {
    guard let since = self.waitsSince[item] else { return nil }
    self.waitsSince[item] = nil
    // An emptied dictionary would keep its memory.
    if self.waitsSince.isEmpty { self.waitsSince = [:] }
    return since
  }

  // MARK: The concurrency group

  /// Another build of the group goes first; nothing of this one may start.
  mutating func holdBack() {
    // What runs already goes on.
    if self.record.state != .running { self.isHeldBack = true }
  }

  /// It is this build's turn.
  mutating func letGo(at now: Timestamp, _ out: inout BuildOutput) {
    self.isHeldBack = false
    self.settleAll(at: now, &out)
  }

  // MARK: The graph

  /// Looks at every plan: what can start, is skipped, or is over.
  mutating func settleAll(at now: Timestamp, _ out: inout BuildOutput) {
    self.settle(Array(self.graph.legs.indices), at: now, &out)
  }

  /// Looks at these plans, and then at those that wait for what became of them.
  private mutating func settle(_ plans: [Int], at now: Timestamp, _ out: inout BuildOutput) {
    guard self.record.state != .finished, !self.isHeldBack else { return }
    var left = plans
    while let plan = left.popLast() {
      guard self.unfinished[plan] > 0 else { continue }
      guard self.graph.needs[plan].allSatisfy({ self.unfinished[$0] == 0 }) else { continue }
      let job = self.record.pipeline.jobs[plan]
      var active = self.graph.legs[plan].count {
        [.queued, .running].contains(self.record.jobs[$0].state)
      }
      for index in self.graph.legs[plan]
      where self.record.jobs[index].state == .blocked && !self.record.jobs[index].holdsExecutor {
        if !self.shouldRun(index) {
          self.end(index, .skipped, self.whySkipped(plan), at: now, &out)
        } else if active < job.maximumParallel ?? .max {
          active += 1
          self.record.jobs[index].state = .queued
          out.isDirty = true
          out.afterCommit.append(.enqueue(.job(index)))
        }
      }
      if self.unfinished[plan] == 0 { left += self.graph.dependents[plan] }
    }
    self.finishIfDone(at: now, &out)
  }

  private func shouldRun(_ index: Int) -> Bool {
    let leg = self.record.jobs[index].leg
    let plan = self.record.pipeline.jobs[leg.plan]
    let results = self.graph.needs[leg.plan].map { self.result(of: $0) }
    let ancestors = self.graph.ancestors(of: leg.plan).map { self.result(of: $0) }
    let facts = StatusFacts(
      anyFailed: ancestors.contains { $0 == "failure" || $0 == "cancelled" },
      anySkipped: results.contains("skipped"))
    if plan.condition.isEmpty { return facts.isFine }
    // It was parsed when the pipeline was read; a record that says otherwise does not run.
    guard let condition = try? Condition(parsing: plan.condition) else { return false }
    let context = self.names(for: leg)
    return condition.holds(facts, context.value)
  }

  private func whySkipped(_ plan: Int) -> String {
    let blockers = self.graph.needs[plan].filter { self.result(of: $0) != "success" }
    guard let blocker = blockers.first else { return "its condition is false" }
    return "job \(self.record.pipeline.jobs[blocker].key) came to \(self.result(of: blocker))"
  }

  /// What `needs.<key>.result` comes to: the worst of the legs.
  private func result(of plan: Int) -> String {
    let words = Set(
      self.graph.legs[plan].map { self.record.jobs[$0].outcome?.expressionWord ?? "" })
    for word in ["", "failure", "cancelled"] where words.contains(word) { return word }
    return words == ["skipped"] ? "skipped" : "success"
  }

  private func names(for leg: Pipeline.Leg) -> NameContext {
    NameContext(
      matrix: leg.matrix,
      environment: self.record.pipeline.buildEnvironment(over: self.record.environment),
      results: self.results(for: leg.plan))
  }

  private func results(for plan: Int) -> [String: String] {
    Dictionary(
      self.graph.needs[plan].map { (self.record.pipeline.jobs[$0].key, self.result(of: $0)) },
      uniquingKeysWith: { first, _ in first })
  }

  /// A job is over for good.
  private mutating func end(
    _ index: Int, _ outcome: Outcome, _ message: String, at now: Timestamp,
    _ out: inout BuildOutput
  ) {
    precondition(
      self.record.jobs[index].state != .finished,
      "job \(self.record.jobs[index].id) of build \(self.record.id) ends twice")
    self.record.jobs[index].state = .finished
    self.record.jobs[index].outcome = outcome
    self.record.jobs[index].message = message
    out.isDirty = true
    out.now.append(.dequeue(.job(index)))
    self.unfinished[self.record.jobs[index].leg.plan] -= 1
  }

  /// A job is over; its siblings and dependents may be moved by that.
  private mutating func endAndSettle(
    _ index: Int, _ outcome: Outcome, _ message: String, at now: Timestamp,
    _ out: inout BuildOutput
  ) {
    let plan = self.record.jobs[index].leg.plan
    self.end(index, outcome, message, at: now, &out)
    let isBad = outcome.expressionWord == "failure"
    if isBad, self.record.pipeline.jobs[plan].failFast, self.unfinished[plan] > 0 {
      let why = "fail-fast: \(self.record.jobs[index].id) came to \(outcome)"
      for other in self.graph.legs[plan] where self.record.jobs[other].state != .finished {
        self.stopAttempts(of: other, .cancelled, why, at: now, &out)
        self.end(other, .cancelled, why, at: now, &out)
      }
    }
    self.settle(
      self.unfinished[plan] == 0 ? self.graph.dependents[plan] : [plan], at: now, &out)
  }

  /// An executor is free of an attempt at a job, whose next attempt may have waited for that.
  mutating func executorLeft(_ index: Int, at now: Timestamp, _ out: inout BuildOutput) {
    guard self.record.jobs[index].state == .blocked else { return }
    self.settle([self.record.jobs[index].leg.plan], at: now, &out)
  }

  // MARK: The end

  private mutating func finishIfDone(at now: Timestamp, _ out: inout BuildOutput) {
    guard self.unfinished.allSatisfy({ $0 == 0 }) else { return }
    let bad = self.record.jobs.first { $0.outcome.map { $0.expressionWord == "failure" } ?? false }
    let cancelled = self.record.jobs.first { $0.outcome == .cancelled }
    let worst = bad ?? cancelled
    self.finish(
      worst?.outcome ?? .succeeded,
      worst.map { "job \($0.id): \($0.message.isEmpty ? "\($0.outcome!)" : $0.message)" } ?? "",
      at: now, &out)
  }

  private mutating func finish(
    _ outcome: Outcome, _ message: String, at now: Timestamp, _ out: inout BuildOutput
  ) {
    self.record.state = .finished
    self.record.outcome = outcome
    self.record.message = message
    self.record.finishedAt = now
    out.isDirty = true
    for (plan, wish) in self.record.pipeline.notifications.enumerated()
    where outcome == .succeeded ? wish.onSuccess : wish.onFailure {
      let index = self.record.notifications.count
      self.record.notifications.append(
        NotificationRecord(
          id: NotificationID("\(self.record.id)-\(self.record.round)-\(plan + 1)"), plan: plan))
      out.afterCommit.append(.enqueue(.notification(index)))
    }
  }

  /// Ends whatever is not over. A build that is finished stays as it is.
  mutating func cancel(_ reason: String, at now: Timestamp, _ out: inout BuildOutput) {
    guard self.record.state != .finished else { return }
    self.cancelJobs(reason, at: now, &out)
    self.finish(.cancelled, reason, at: now, &out)
  }

  /// The store refused the build's record: what is not over ends with that, and what is over
  /// gives up more than it has given up yet.
  mutating func recordRefused(
    _ refused: BuildRecord, _ why: String, at now: Timestamp, _ out: inout BuildOutput
  ) {
    if self.record.state != .finished {
      self.cancelJobs("the build failed", at: now, &out)
      self.finish(.failed, "its record cannot be stored: \(why)", at: now, &out)
    } else if refused.state == .finished {
      self.record.shorten()
    }
    out.isDirty = true
  }

  private mutating func cancelJobs(_ why: String, at now: Timestamp, _ out: inout BuildOutput) {
    for index in self.record.jobs.indices where self.record.jobs[index].state != .finished {
      self.stopAttempts(of: index, .cancelled, why, at: now, &out)
      self.end(index, .cancelled, why, at: now, &out)
    }
    self.isHeldBack = false
  }

  /// Opens a finished build again, for these jobs (``jobsToRetry(_:)``).
  mutating func retry(_ jobs: [Int], at now: Timestamp, _ out: inout BuildOutput) {
    for index in jobs {
      self.record.jobs[index].state = .blocked
      self.record.jobs[index].outcome = nil
      self.record.jobs[index].message = ""
      self.unfinished[self.record.jobs[index].leg.plan] += 1
    }
    for index in self.record.notifications.indices
    where self.record.notifications[index].state == .pending {
      self.endNotification(index, .dead, "the build was retried before it was sent", &out)
    }
    for index in self.record.jobs.indices {
      self.record.jobs[index].earlierAttempts = self.record.jobs[index].attempts.count
    }
    self.record.round += 1
    self.record.state = .queued
    self.record.outcome = nil
    self.record.message = ""
    self.record.finishedAt = nil
    out.isDirty = true
    self.settleAll(at: now, &out)
  }

  // MARK: Attempts

  /// How long an attempt at a job may take.
  private func limit(of index: Int, _ policy: Policy) -> Duration {
    self.record.pipeline.jobs[self.record.jobs[index].leg.plan].timeout ?? policy.standardTimeout
  }

  /// What an attempt at a job asks for: twice the memory after each that ran out of it.
  ///
  /// - Parameter attempt: Nil: the next one.
  private func resources(
    of index: Int, _ policy: Policy, before attempt: AttemptID? = nil
  ) -> Resources {
    let job = self.record.jobs[index]
    let earlier = job.attempts.dropFirst(job.earlierAttempts).prefix { $0.id != attempt }
    var resources = job.leg.resources
    for _ in 0..<min(earlier.count { $0.outcome == .outOfMemory }, policy.maximumMemoryDoublings) {
      let (bytes, isTooMuch) = resources.memory.bytes.multipliedReportingOverflow(by: 2)
      if !isTooMuch { resources.memory = ByteCount(bytes) }
    }
    return resources
  }

  /// The shape of the lease that a piece of work needs; nil if it is not to be done any more, or under
  /// way.
  func shape(of item: Work.Item, _ policy: Policy) -> Shape? {
    switch item {
    case .job(let index):
      let job = self.record.jobs[index]
      guard job.state == .queued else { return nil }
      let lost = job.attempts.dropFirst(job.earlierAttempts)
        .filter { $0.outcome == .executorLost || $0.outcome == .preempted }
      return Shape(
        pool: self.record.pipeline.jobs[job.leg.plan].pool, labels: job.leg.labels,
        resources: self.resources(of: index, policy), avoid: Array(Set(lost.map(\.executor))))
    case .notification(let index):
      // Its record does not say that it is being sent.
      guard self.record.notifications[index].state == .pending,
        !self.live.values.contains(where: { $0.item == item })
      else { return nil }
      var shape = Shape(pool: "", labels: [], resources: policy.notificationResources)
      shape.isForJobs = false
      return shape
    }
  }

  func charge(_ item: Work.Item, _ resources: Resources) -> BuildOutput.Charge {
    guard case .job(let index) = item else { return BuildOutput.Charge(resources: resources) }
    let plan = self.record.jobs[index].leg.plan
    return BuildOutput.Charge(resources: resources, pool: self.record.pipeline.jobs[plan].pool)
  }

  /// What the next attempt at a piece of its work is called.
  func nextAttempt(at item: Work.Item) -> AttemptID {
    switch item {
    case .job(let index):
      let job = self.record.jobs[index]
      return AttemptID("\(self.record.id)/\(job.id)/\(job.attempts.count + 1)")
    case .notification(let index):
      let notification = self.record.notifications[index]
      return AttemptID("\(self.record.id)/\(notification.id)/\(notification.attempts + 1)")
    }
  }

  /// A lease was given to a piece of its work.
  mutating func granted(
    _ item: Work.Item, _ grant: Grant, at now: Timestamp, _ policy: Policy,
    _ out: inout BuildOutput
  ) {
    self.tickets[item] = nil
    let id: AttemptID
    let resources: Resources
    let limit: Duration
    switch item {
    case .job(let index):
      let number = Int32(self.record.jobs[index].attempts.count + 1)
      id = self.nextAttempt(at: item)
      resources = self.resources(of: index, policy)
      limit = self.limit(of: index, policy)
      self.record.jobs[index].state = .running
      self.record.jobs[index].attempts.append(
        AttemptRecord(
          id: id, number: number, executor: grant.executor, address: grant.address,
          lease: grant.lease, token: grant.token, startedAt: now))
      if self.record.state == .queued {
        self.record.state = .running
        self.record.startedAt = self.record.startedAt ?? now
      }
      out.isDirty = true
      out.afterCommit.append(.start(id))
    case .notification:
      id = self.nextAttempt(at: item)
      resources = policy.notificationResources
      limit = policy.notificationTimeout
      // It may run twice and its receiver knows: nothing need be recorded first.
      out.now.append(.start(id))
    }
    self.live[id] = Live(
      item: item,
      machine: .recording(
        grant, resources: resources, deadline: now + limit + policy.timeoutGrace))
    out.now.append(.took(id, grant.lease, self.charge(item, resources)))
    out.touched.append(id)
  }

  /// What a runner needs to start an attempt.
  func order(_ id: AttemptID, _ policy: Policy) -> RunOrder? {
    guard let live = self.live[id] else { return nil }
    func order(
      job: JobID, number: Int32, name: String, environment: [String: String], timeout: Duration,
      steps: [Pipeline.Step], logName: String, matrix: Pipeline.Combination, subject: BuildRecord?
    ) -> RunOrder {
      RunOrder(
        attempt: id, build: self.record.id, job: job, number: number,
        project: self.record.project, name: name, lease: live.machine.lease,
        token: live.machine.token, leaseUse: live.machine.leaseUse, address: live.machine.address,
        resources: live.machine.resources, environment: environment, timeout: timeout,
        steps: steps, source: self.record.source, logName: logName, matrix: matrix,
        subject: subject)
    }
    switch live.item {
    case .job(let index):
      let job = self.record.jobs[index]
      guard let attempt = job.attempts.last(where: { $0.id == id }) else { return nil }
      let what = self.record.pipeline.order(
        for: job.leg, environment: self.record.environment,
        results: self.results(for: job.leg.plan))
      return order(
        job: job.id, number: attempt.number, name: job.leg.name, environment: what.environment,
        timeout: self.limit(of: index, policy), steps: what.steps, logName: attempt.logName,
        matrix: job.leg.matrix, subject: nil)
    case .notification(let index):
      let notification = self.record.notifications[index]
      let wish = self.record.pipeline.notifications[notification.plan]
      let environment = self.record.pipeline.buildEnvironment(over: self.record.environment)
      let context = NameContext(environment: environment)
      return order(
        job: JobID(notification.id.rawValue), number: notification.attempts + 1,
        name: "notify \(wish.uses)", environment: environment,
        timeout: policy.notificationTimeout,
        steps: [
          Pipeline.Step(
            id: notification.id.rawValue, name: wish.uses, action: .uses(wish.uses),
            inputs: wish.inputs.mapValues(context.resolved))
        ], logName: "builds/\(id)", matrix: Pipeline.Combination([]), subject: self.record)
    }
  }

  /// It has waited for an executor for longer than it may.
  mutating func waitedTooLong(
    _ item: Work.Item, for reason: String, at now: Timestamp, _ policy: Policy,
    _ out: inout BuildOutput
  ) {
    let seconds = policy.queueTimeout.microseconds / 1_000_000
    let why =
      "it waited for an executor for more than \(seconds) s"
      + (reason.isEmpty ? "" : ": \(reason)")
    out.now.append(.dequeue(item))
    switch item {
    case .job(let index) where self.record.jobs[index].state == .queued:
      self.endAndSettle(index, .timedOut, why, at: now, &out)
    case .job: break
    case .notification(let index):
      self.notificationFailed(index, why, isFinal: false, policy, &out)
    }
  }

  /// No executor can ever do it.
  mutating func unsatisfiable(
    _ item: Work.Item, _ reason: String, at now: Timestamp, _ policy: Policy,
    _ out: inout BuildOutput
  ) {
    self.tickets[item] = nil
    switch item {
    case .job(let index) where self.record.jobs[index].state == .queued:
      let last = self.record.jobs[index].attempts.last
      if let last, last.outcome == .outOfMemory {
        // It would have to be larger than any executor is.
        self.endAndSettle(
          index, .outOfMemory, "\(last.message); with more memory it cannot run: \(reason)",
          at: now,
          &out)
      } else {
        self.endAndSettle(index, .rejected, reason, at: now, &out)
      }
    case .job: break
    case .notification(let index):
      self.notificationFailed(index, reason, isFinal: false, policy, &out)
    }
  }
}

extension BuildMachine {
  // The parts in BuildMachineAttempts.swift change what is private here through these.

  mutating func update(_ body: (inout BuildRecord) -> Void) { body(&self.record) }

  mutating func artifactsTake(_ bytes: Int) { self.artifactBytes = bytes }

  mutating func updateLive<Result>(
    _ id: AttemptID, _ body: (inout AttemptMachine) -> Result
  ) -> Result? {
    guard let index = self.live.index(forKey: id) else { return nil }
    return body(&self.live.values[index].machine)
  }

  mutating func forgetLive(_ id: AttemptID) -> Live? { self.live.removeValue(forKey: id) }

  mutating func endJob(
    _ index: Int, _ outcome: Outcome, _ message: String, at now: Timestamp,
    _ out: inout BuildOutput
  ) {
    self.endAndSettle(index, outcome, message, at: now, &out)
  }
}
