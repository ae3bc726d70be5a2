import Domain
import ExecutorAllocatorCore
import OrderedCollections
import SchedulerCore

/// A scheduler's shell, as `SchedulerService.Driver` with its links is: the core, its way to the
/// store, its stream to an allocator, a stream to a runner for each attempt. Its place among its
/// replicas is in SchedulerReplica.swift.
final class SchedulerProcess: Process {
  static let storeTimeout = Duration.seconds(10)
  private static let maximumCommits = 4
  private static let maximumMutations = 400
  private static let linkBackoff = Backoff(first: .milliseconds(100), limit: .seconds(2))
  private static let callTimeout = Duration.seconds(5)
  private static let allocatorKeepalive = Duration.seconds(20)
  private static let runnerKeepalive = Duration.seconds(6)
  private static let shortestWake = Duration.milliseconds(1)
  /// Longer than ``Membership/Policy/leavingLimit``, and the last call of it.
  private static let longestLeaving = Duration.seconds(8)
  private static let longestWait = Duration.seconds(30)
  private static let auditInterval = Duration.seconds(1)
  /// Of these one compares with the records, too.
  private static let auditsForRecords = 5

  struct Parts {
    let store: Store
    let allocators: [Allocator]
    let runner: (_ address: String) -> Runner?
    let scheduler: (_ address: String) -> SchedulerProcess?
  }

  /// A write, by whom it was made, and for what its partition was then.
  struct Write {
    var write: Store.Write
    var session: ReplicaID?
    var generation: Int
  }

  struct Memory {
    var core: Scheduler
    var membership: Membership
    /// Under which writes are made.
    var session: ReplicaID?
    var lastSession = 1
    var isStepping = false
    /// Something was heard while a step was being chosen.
    var hasNews = false
    var hasLeft = false
    /// Another number whenever what was at hand of a partition is void.
    var generations = Array(repeating: 0, count: Partition.count)
    var isClosing = false
    var audits = 0
    var turns = 0
    var writes: [Write] = []
    var commitsUnderWay = 0
    var isFlushPlanned = false
    var waiters: [Waiter: (Answer) -> Void] = [:]
    var lastWaiter: UInt64 = 0
    var acquire: AcquireStream?
    var linkFailures = 0
    var releases: OrderedSet<LeaseID> = []
    var isReleasing = false
    var releaseFailures = 0
    var streams: [AttemptID: (number: Int, stream: RunStream)] = [:]
    var lastStream = 0
    var wake: Timestamp?
  }

  private let policy: SchedulerCore.Policy
  let parts: Parts
  var memory: Memory

  init(
    _ name: String, policy: SchedulerCore.Policy, parts: Parts, in surroundings: Surroundings
  ) {
    self.policy = policy
    self.parts = parts
    self.memory = Self.memory(name, life: 0, policy)
    super.init(name, in: surroundings)
  }

  private static func memory(_ name: String, life: Int, _ policy: SchedulerCore.Policy) -> Memory {
    Memory(
      core: Scheduler(policy: policy, owner: "\(name).\(life)", owning: []),
      membership: Membership(id: Self.session(name, life, 1), address: name))
  }

  static func session(_ name: String, _ life: Int, _ number: Int) -> ReplicaID {
    ReplicaID("\(name).\(life).\(number)")
  }

  /// Whether it has nothing left to do.
  var isIdle: Bool {
    let core = self.memory.core
    return self.memory.membership.isReady && core.buildCount == 0 && core.queueDepth == 0
      && core.heldLeases == 0 && self.memory.releases.isEmpty
  }

  override func began() {
    self.memory = Self.memory(self.name, life: self.life, self.policy)
    self.turn()
    self.connect()
    self.audit()
  }

  override func wasAskedToEnd() -> Duration {
    self.run(in: self.life) { self.leave() }
    return Self.longestLeaving
  }

  /// What is at hand is as it is recorded, all the time.
  private func audit() {
    self.feed { $0.auditDue(at: $1) }
    self.memory.audits += 1
    if self.memory.audits.isMultiple(of: Self.auditsForRecords) { self.auditRecords(behind: nil) }
    for finding in self.memory.core.takeFindings() {
      self.timeline.fail("\(self.name): the audit found \(finding.kind): \(finding.cause)")
    }
    self.after(Self.auditInterval) { self.audit() }
  }

  private func auditRecords(behind cursor: BuildID?) {
    let generations = self.memory.generations
    self.scan(nil, behind: cursor) { page, isLast in
      // One that may have been given up has nothing to compare with.
      guard let page, self.isTrusted else { return }
      for stored in page {
        let partition = Partition(of: stored.record.project).number
        guard generations[partition] == self.memory.generations[partition] else { continue }
        self.feed { $0.audited(stored, at: $1) }
      }
      if !isLast { self.auditRecords(behind: page.last?.record.id) }
    }
  }

  /// A page of records; nil: the store did not answer.
  func scan(
    _ partition: Partition?, behind cursor: BuildID?,
    _ then: @escaping (_ page: [StoredBuild]?, _ isLast: Bool) -> Void
  ) {
    self.network.call(
      "a scan", from: self, to: self.parts.store, timeout: Self.storeTimeout
    ) { answer in
      self.parts.store.scanActive(of: partition, behind: cursor) { answer(($0, $1)) }
    } then: { (result: Result<([StoredBuild], Bool), CallFailure>) in
      switch result {
      case .success((let page, let isLast)): then(page, isLast)
      case .failure: then(nil, false)
      }
    }
  }

  // MARK: Calls

  /// What somebody asks of a build's owner.
  enum Call {
    case submit(Submission)
    case cancel(BuildID, reason: String)
    case retry(BuildID)
    case read(BuildID)

    var build: BuildID {
      switch self {
      case .submit(let submission): submission.id
      case .cancel(let build, _), .retry(let build), .read(let build): build
      }
    }
  }

  /// Carries out a call here: builds of its project are this scheduler's.
  func answerHere(_ call: Call, _ answer: @escaping (Answer) -> Void) {
    guard !self.memory.hasLeft else {
      return answer(.unavailable("this scheduler shuts down"))
    }
    switch call {
    case .submit(let submission):
      let waiter = self.newWaiter(answer)
      self.feed { $0.submitted(submission, from: waiter, at: $1) }
    case .cancel(let build, let reason):
      let waiter = self.newWaiter(answer)
      self.feed { $0.cancelled(build, reason: reason, from: waiter, at: $1) }
    case .retry(let build):
      let waiter = self.newWaiter(answer)
      self.feed { $0.retried(build, jobs: [], from: waiter, at: $1) }
    case .read(let build):
      guard self.isTrusted else {
        return answer(.unavailable("this scheduler has lost touch with the datastore"))
      }
      if let record = self.memory.core.shown(build) {
        return answer(.build(record, existed: true))
      }
      self.lookUp(build) { answer($0) }
    }
  }

  /// The stored state of a build.
  func lookUp(_ build: BuildID, _ answer: @escaping (Answer) -> Void) {
    self.network.call(
      "a lookup", from: self, to: self.parts.store, timeout: Self.storeTimeout
    ) { answer in
      self.parts.store.load(build, answer)
    } then: { (result: Result<StoredBuild?, CallFailure>) in
      switch result {
      case .success(let stored?): answer(.build(stored.record, existed: true))
      case .success(nil): answer(.notFound)
      case .failure(let failure): answer(.unavailable("\(failure)"))
      }
    }
  }

  private func newWaiter(_ answer: @escaping (Answer) -> Void) -> Waiter {
    self.memory.lastWaiter += 1
    let waiter = Waiter(self.memory.lastWaiter)
    self.memory.waiters[waiter] = answer
    self.expectAnswer(to: waiter)
    return waiter
  }

  /// Nobody waits for ever: once nothing is broken, whoever asked is answered soon.
  private func expectAnswer(to waiter: Waiter) {
    self.after(Self.longestWait) {
      guard self.memory.waiters[waiter] != nil else { return }
      guard self.checker.isCalm else { return self.expectAnswer(to: waiter) }
      self.timeline.fail("\(self.name): somebody is not answered for \(Self.longestWait)")
    }
  }

  // MARK: The core

  func feed(
    _ input: (inout Scheduler, Timestamp) -> [SchedulerCore.Effect]
  ) {
    for effect in input(&self.memory.core, self.now) { self.carryOut(effect) }
    for violation in self.memory.core.violations() {
      self.timeline.fail("\(self.name): \(violation)")
    }
    if self.memory.isClosing { self.findClosed() }
    self.planWake()
  }

  private func planWake() {
    guard let next = self.memory.core.nextWake() else { return }
    if let wake = self.memory.wake, wake <= next { return }
    self.memory.wake = next
    self.after(max(Self.shortestWake, next - self.now)) {
      // Another one took its place.
      guard self.memory.wake == next else { return }
      self.memory.wake = nil
      self.feed { $0.timePassed(at: $1) }
    }
  }

  private func carryOut(_ effect: SchedulerCore.Effect) {
    switch effect {
    case .write(let record, let base):
      self.memory.writes.append(
        Write(
          write: Store.Write(record: record, base: base), session: self.memory.session,
          generation: self.memory.generations[Partition(of: record.project).number]))
      self.planFlush()
    case .load(let id): self.load(id)
    case .demand(let demand): self.memory.acquire?.sendUp(.demand(demand))
    case .withdraw(let demand): self.memory.acquire?.sendUp(.withdraw(demand))
    case .hold(let lease, let attempt, let executor):
      self.memory.acquire?.sendUp(.hold(lease, attempt, executor))
    case .release(let lease):
      self.memory.releases.append(lease)
      guard !self.memory.isReleasing else { return }
      self.memory.isReleasing = true
      self.releaseAll()
    case .run(let order):
      self.note("runs \(order.attempt) at \(order.address) under \(order.lease)")
      self.open(order.attempt, at: order.address) { runner, stream in runner.run(order, stream) }
    case .attach(let attempt, let address, let sequence):
      self.note("attaches to \(attempt) at \(address) behind \(sequence)")
      self.open(attempt, at: address) { runner, stream in
        runner.attach(attempt, after: sequence, stream)
      }
    case .detach(let attempt):
      self.memory.streams.removeValue(forKey: attempt)?.stream.cancel()
    case .stop(let attempt, let address, let outcome, let reason):
      self.note("stops \(attempt) at \(address): \(outcome), \(reason)")
      guard let runner = self.parts.runner(address) else { return }
      self.network.call(
        "a stop", from: self, to: runner, timeout: Self.callTimeout
      ) { answer in
        runner.stop(attempt, outcome, reason: reason)
        answer(())
      } then: { (_: Result<Void, CallFailure>) in
      }
    case .answer(let waiter, let answer):
      self.checker.answered(answer, by: self, store: self.parts.store)
      self.memory.waiters.removeValue(forKey: waiter)?(answer)
    case .changed(let record): self.checker.shown(record, by: self)
    // Nobody watches.
    case .moved: break
    }
  }

  // MARK: The store

  /// What one turn writes goes out together.
  private func planFlush() {
    guard !self.memory.isFlushPlanned, self.memory.commitsUnderWay < Self.maximumCommits else {
      return
    }
    self.memory.isFlushPlanned = true
    self.after(.zero) {
      self.memory.isFlushPlanned = false
      while self.memory.commitsUnderWay < Self.maximumCommits, !self.memory.writes.isEmpty {
        let session = self.memory.writes[0].session
        let batch = Array(
          self.memory.writes.prefix(Self.maximumMutations).prefix { $0.session == session })
        self.memory.writes.removeFirst(batch.count)
        self.commit(batch, as: session)
      }
    }
  }

  private func commit(_ batch: [Write], as session: ReplicaID?) {
    guard let session else {
      return self.written(batch) { _ in .unknown("this scheduler has no session") }
    }
    self.memory.commitsUnderWay += 1
    self.network.call(
      "a commit", from: self, to: self.parts.store, timeout: Self.storeTimeout
    ) { answer in
      self.parts.store.commit(batch.map(\.write), as: session, answer)
    } then: { (result: Result<Store.End<[WriteResult]>, CallFailure>) in
      self.memory.commitsUnderWay -= 1
      switch result {
      case .success(.done(let results)):
        self.written(batch) { results[$0] }
      case .success(.fenced):
        self.fenced(session)
        self.written(batch) { _ in .unknown("others have given it up") }
      case .success(.conflict): preconditionFailure("each write of a commit ends by itself")
      case .failure(let failure):
        self.written(batch) { _ in .unknown("\(failure)") }
      }
      if !self.memory.writes.isEmpty { self.planFlush() }
    }
  }

  /// What is still on its way for a partition that is void since is of no interest.
  private func written(_ batch: [Write], _ result: (Int) -> WriteResult) {
    for (index, write) in batch.enumerated() {
      let record = write.write.record
      let generation = self.memory.generations[Partition(of: record.project).number]
      guard write.generation == generation else { continue }
      let result = result(index)
      self.feed { $0.written(record.id, result, at: $1) }
    }
  }

  private func load(_ id: BuildID) {
    self.network.call(
      "a lookup", from: self, to: self.parts.store, timeout: Self.storeTimeout
    ) { answer in
      self.parts.store.load(id, answer)
    } then: { (result: Result<StoredBuild?, CallFailure>) in
      switch result {
      case .success(let stored): self.feed { $0.loaded(id, stored, at: $1) }
      case .failure(let failure): self.feed { $0.loadFailed(id, "\(failure)", at: $1) }
      }
    }
  }

  // MARK: The allocator

  private func connect() {
    let allocator = self.timeline.random.pick(self.parts.allocators)
    _ = self.network.open(
      from: self, to: allocator, keepalive: Self.allocatorKeepalive,
      accept: { (stream: AcquireStream) in allocator.accept(stream) },
      opened: { stream in
        self.note("has a stream to \(allocator.name)")
        self.memory.linkFailures = 0
        self.memory.acquire = stream
        stream.clientReceived = { self.received($0) }
        self.feed { $0.acquireOpened(at: $1) }
      },
      closed: { closing in
        self.memory.acquire = nil
        self.memory.linkFailures += 1
        self.after(Self.linkBackoff.delay(after: self.memory.linkFailures)) { self.connect() }
      })
  }

  private func received(_ event: ExecutorAllocatorCore.Effect.Event) {
    switch event {
    case .granted(let lease):
      let grant = Grant(
        lease: lease.id, demand: DemandID(lease.request.rawValue), executor: lease.executor,
        address: lease.address, token: lease.token, isContended: lease.isContended)
      self.feed { $0.granted(grant, at: $1) }
    case .unsatisfiable(let request, let reason):
      self.note("hears that \(request) is unsatisfiable: \(reason)")
      self.feed { $0.unsatisfiable(DemandID(request.rawValue), reason: reason, at: $1) }
    case .lost(let lease):
      self.note("hears that \(lease.id) is over: \(lease.cause)")
      let loss: LeaseLoss = lease.cause == .expired ? .expired : .executorGone
      self.feed { $0.leaseLost(lease.id, loss, message: lease.message, at: $1) }
    case .waiting(let request, let reason):
      self.note("hears why \(request) waits: \(reason)")
      self.feed { $0.waiting(DemandID(request.rawValue), reason: reason, at: $1) }
    }
  }

  /// Until every release was heard.
  private func releaseAll() {
    guard !self.memory.releases.isEmpty else {
      self.memory.isReleasing = false
      return
    }
    let batch = Array(self.memory.releases)
    let allocator = self.timeline.random.pick(self.parts.allocators)
    self.network.call(
      "a release", from: self, to: allocator, timeout: Self.callTimeout
    ) { answer in
      allocator.release(batch, answer)
    } then: { (result: Result<Bool, CallFailure>) in
      if case .success(true) = result {
        self.memory.releaseFailures = 0
        self.memory.releases.subtract(batch)
        self.releaseAll()
      } else {
        self.memory.releaseFailures += 1
        self.after(Self.linkBackoff.delay(after: self.memory.releaseFailures)) {
          self.releaseAll()
        }
      }
    }
  }

  // MARK: Runners

  private func open(
    _ attempt: AttemptID, at address: String, accept: @escaping (Runner, RunStream) -> Void
  ) {
    self.memory.streams.removeValue(forKey: attempt)?.stream.cancel()
    guard let runner = self.parts.runner(address) else {
      preconditionFailure("a scheduler calls \(address), where no runner ever was")
    }
    self.memory.lastStream += 1
    let number = self.memory.lastStream
    func isCurrent() -> Bool { self.memory.streams[attempt]?.number == number }
    let stream: RunStream = self.network.open(
      from: self, to: runner, keepalive: Self.runnerKeepalive,
      accept: { accept(runner, $0) },
      closed: { closing in
        guard isCurrent() else { return }
        self.memory.streams[attempt] = nil
        let end: StreamEnd =
          switch closing {
          case .ended: .unreachable("its runner ended the stream before the last event")
          case .notFound: .notFound
          case .refused(let why): .refused(why)
          case .invalid(let why): .invalid(why)
          case .broken(let why): .unreachable(why)
          }
        self.note("has lost the stream of \(attempt): \(end)")
        self.feed { $0.streamEnded(end, of: attempt, at: $1) }
      })
    stream.clientReceived = { event in
      guard isCurrent() else { return }
      if case .finished = event.what {
        self.memory.streams.removeValue(forKey: attempt)?.stream.cancel()
      }
      self.feed { $0.received(event, of: attempt, at: $1) }
    }
    self.memory.streams[attempt] = (number, stream)
  }
}
