import BuildProtos
import Domain
import Logging
import NIOCore
import RPC
import SchedulerCore
import ServiceRuntime
import Synchronization

/// Feeds the core and carries out what it wants.
///
/// The core lives on one event loop, and so do its ways out: an answer of the store, a lease or an
/// event of a runner is an input without a hop, and effects are carried out in the order in which
/// they were decided.
///
/// `@unchecked Sendable`: what is not in an atomic is touched on the loop only, which every entry
/// sees to.
final class Driver: @unchecked Sendable {
  /// One input: a call of the core.
  private typealias Input = (inout Scheduler, Timestamp) -> [Effect]

  /// How often gauges are brought up to date.
  private static let measureInterval = TimeAmount.milliseconds(250)
  /// A partition's records are compared every five seconds, all of them in five minutes.
  private static let auditsForRecords = 20
  private static let recoveryBackoff = Backoff(first: .milliseconds(100), limit: .seconds(2))
  /// The core may ask to be woken at once; not without a breath.
  private static let shortestWake = Duration.milliseconds(1)

  private let loop: any EventLoop
  private let store: BuildStore
  private let replicas: Replicas
  private let allocator: AllocatorLink
  private let runners: RunnerLinks
  private let metrics: Metrics
  private let logger: Logger

  private var core: Scheduler
  private var watches = Watches()
  private var waiters: [Waiter: CheckedContinuation<Answer, Never>] = [:]
  private var nextWaiter: UInt64 = 0
  /// Inputs that came while another was being handled: an effect may fail at once.
  private var inputs: [Input] = []
  private var isHandling = false
  private var wake: (time: Timestamp, timer: Scheduled<Void>)?
  private var isDraining = false
  /// Another number whenever what was at hand of a partition is void: what is still on its way for
  /// it is of no interest then.
  private var generations = Array(repeating: 0, count: Partition.count)
  private var isClosing = false
  private var isStopped = false
  private var auditsToRecords = Driver.auditsForRecords
  private var nextAudited = Partition(0)
  private var isReadingRecords = false
  private let readinessState = Mutex(Readiness.notReady("the builds' records are being read"))

  init(
    core: Scheduler, loop: any EventLoop, store: BuildStore, replicas: Replicas,
    allocator: AllocatorLink, runners: RunnerLinks, metrics: Metrics, logger: Logger
  ) {
    self.core = core
    self.loop = loop
    self.store = store
    self.replicas = replicas
    self.allocator = allocator
    self.runners = runners
    self.metrics = metrics
    self.logger = logger
  }

  var readiness: Readiness { self.readinessState.withLock { $0 } }

  // MARK: Life

  /// Takes its partitions, and works on their builds until it is cancelled.
  func run(servedAt address: String) async {
    let executor = self.loop.callExecutor
    await withTaskGroup(of: Void.self) { group in
      group.addTask(executorPreference: executor) {
        self.runners.listener = RunnerLinks.Listener(
          received: { attempt, event in
            self.feed { $0.received(event, of: attempt, at: $1) }
          },
          ended: { attempt, end in
            self.feed { $0.streamEnded(end, of: attempt, at: $1) }
          })
        self.store.fenced = { self.replicas.fenced($0) }
        self.replicas.joined = { self.store.session = $0 }
        self.replicas.listener = { self.happened($0) }
        let measuring = self.loop.scheduleRepeatedTask(
          initialDelay: .zero, delay: Self.measureInterval
        ) { _ in self.measure() }
        await withTaskGroup(of: Void.self) { group in
          group.addTask(executorPreference: executor) {
            await self.replicas.run(servedAt: address)
          }
          group.addTask(executorPreference: executor) {
            await self.allocator.run(
              AllocatorLink.Listener(
                opened: { self.feed { $0.acquireOpened(at: $1) } },
                received: { self.received($0) }))
          }
        }
        measuring.cancel()
        self.isStopped = true
        await self.runners.close()
      }
    }
  }

  // MARK: Partitions

  private func happened(_ event: Membership.Event) {
    switch event {
    case .take(let partitions, let first):
      for partition in partitions { self.generations[partition.number] += 1 }
      self.feed { core, _ in
        core.partitionsTaken(partitions)
        return []
      }
      let generations = self.generations
      // Unstructured: it ends with its partitions, and with the process.
      Task.immediate(executorPreference: self.loop.callExecutor) {
        await self.recover(partitions, first: first, as: generations)
      }
    case .close(let partitions):
      for partition in partitions.sorted() { self.close(partition) }
    case .drop(let partitions):
      for partition in partitions { self.generations[partition.number] += 1 }
      self.feed { $0.partitionsLost(partitions, at: $1) }
    }
  }

  /// In a turn of the loop for each: a partition may have thousands of builds, and the session is to be
  /// renewed meanwhile.
  private func close(_ partition: Partition) {
    let generations = self.generations
    self.loop.execute {
      guard !self.current([partition], as: generations).isEmpty else { return }
      self.isClosing = true
      self.feed { $0.partitionsClosing([partition], at: $1) }
    }
  }

  /// Partitions among these that are still as they were taken.
  private func current(_ partitions: Set<Partition>, as generations: [Int]) -> Set<Partition> {
    partitions.filter { self.generations[$0.number] == generations[$0.number] }
  }

  /// Rebuilds the core's part from the records. Partitions that never had an owner are read
  /// together, and with what earlier versions wrote, which knew none.
  private func recover(
    _ partitions: Set<Partition>, first: Set<Partition>, as generations: [Int]
  ) async {
    let begin = ContinuousClock.now
    var count = 0
    var failures = 0
    var left = partitions
    while !left.isEmpty, !self.isStopped {
      do {
        if !self.current(left, as: generations).isDisjoint(with: first) {
          try await self.store.scanActive { page in
            for (id, reading) in page { self.recovered(id, reading) }
            count += page.count
          }
          self.recovered(self.current(left, as: generations))
          left = []
        } else {
          try await self.recoverEach(&left, as: generations) { count += $0 }
        }
        failures = 0
      } catch {
        if failures == 0 {
          self.logger.warning(
            "the builds' records cannot be read; no builds are taken until they are",
            metadata: ["error": "\(error)"])
        }
        failures += 1
        try? await Task.sleep(for: Self.recoveryBackoff.delay(after: failures))
        left = self.current(left, as: generations)
      }
    }
    self.logger.info(
      "the builds that are not done with were read",
      metadata: [
        "partitions": "\(partitions.count)", "builds": "\(count)",
        "time": "\(ContinuousClock.now - begin)",
      ])
  }

  /// Some at a time: while one's records are on their way, others' are taken in. What was read leaves
  /// `left`, also where another cannot be.
  private func recoverEach(
    _ left: inout Set<Partition>, as generations: [Int], _ read: (_ builds: Int) -> Void
  ) async throws {
    try await withThrowingTaskGroup(of: (partition: Partition, builds: Int).self) { group in
      var waiting = left.sorted()[...]
      func begin(_ partition: Partition?) {
        guard let partition else { return }
        group.addTask { (partition, try await self.recover(partition, as: generations)) }
      }
      for _ in 0..<Self.partitionsReadAtOnce { begin(waiting.popFirst()) }
      while let next = try await group.next() {
        left.remove(next.partition)
        read(next.builds)
        begin(waiting.popFirst())
      }
    }
  }

  private func recover(_ partition: Partition, as generations: [Int]) async throws -> Int {
    guard !self.isStopped, !self.current([partition], as: generations).isEmpty else { return 0 }
    var count = 0
    try await self.store.scanActive(of: partition) { page in
      for (id, reading) in page { self.recovered(id, reading) }
      count += page.count
    }
    self.recovered(self.current([partition], as: generations))
    return count
  }

  private func recovered(_ partitions: Set<Partition>) {
    self.feed { $0.recoveryFinished(of: partitions, at: $1) }
    for partition in partitions.sorted() { self.replicas.loaded(partition) }
  }

  private func recovered(_ id: BuildID, _ reading: BuildStore.Reading) {
    switch reading {
    case .found(let stored): self.feed { $0.recovered(stored, at: $1) }
    case .missing: break
    case .unreadable(let why): self.unreadable(id, why)
    }
  }

  private func unreadable(_ id: BuildID, _ why: String) {
    self.metrics.unreadableRecords.increment()
    self.logger.error(
      "a build's record cannot be read and is left alone",
      metadata: ["build": "\(id)", "error": "\(why)"])
  }

  /// Builds and callers go to another scheduler, or to the next one at this address.
  func drain() async {
    await self.replicas.leave()
    await withCheckedContinuation { continuation in
      self.onLoop {
        self.isDraining = true
        self.watches.finishAll()
        continuation.resume()
      }
    }
  }

  private static let draining = Answer.unavailable("this scheduler shuts down")

  // MARK: Calls

  func submit(_ submission: Submission) async -> Answer {
    await self.ask { $0.submitted(submission, from: $1, at: $2) }
  }

  func cancel(_ build: BuildID, reason: String) async -> Answer {
    await self.ask { $0.cancelled(build, reason: reason, from: $1, at: $2) }
  }

  func retry(_ build: BuildID, jobs: [JobID]) async -> Answer {
    await self.ask { $0.retried(build, jobs: jobs, from: $1, at: $2) }
  }

  private func ask(
    _ input: @escaping @Sendable (inout Scheduler, Waiter, Timestamp) -> [Effect]
  ) async -> Answer {
    await withCheckedContinuation { continuation in
      self.onLoop {
        guard !self.isDraining else {
          continuation.resume(returning: Self.draining)
          return
        }
        self.nextWaiter += 1
        let waiter = Waiter(self.nextWaiter)
        self.waiters[waiter] = continuation
        self.feed { input(&$0, waiter, $1) }
      }
    }
  }

  /// Whose a build is.
  func project(of id: BuildID) async throws(RPCError) -> ProjectID {
    if let project = await self.onLoop({ self.core.project(of: id) }) { return project }
    return try await self.stored(id).project
  }

  /// A build's present state.
  func build(_ id: BuildID) async throws(RPCError) -> BuildRecord {
    guard self.replicas.places.isTrusted else {
      throw RPCError(
        .unavailable, "this scheduler has lost touch with the datastore",
        retryDelay: RPCError.retrySoon)
    }
    if let record = await self.shown(id) { return record }
    return try await self.stored(id)
  }

  private func stored(_ id: BuildID) async throws(RPCError) -> BuildRecord {
    let reading: BuildStore.Reading
    do {
      reading = try await self.store.load(id)
    } catch {
      throw RPCError(.unavailable, "the datastore does not answer: \(error)")
    }
    switch reading {
    case .found(let stored): return stored.record
    case .missing: throw RPCError(.notFound, "there is no build \(id)")
    case .unreadable(let why):
      throw RPCError(.dataLoss, "the record of build \(id) cannot be read: \(why)")
    }
  }

  private func shown(_ id: BuildID) async -> BuildRecord? {
    await self.onLoop { self.core.shown(id) }
  }

  private static let partitionsReadAtOnce = 4
  /// Builds of a project that tell how long its jobs take.
  private static let historyBuilds: Int32 = 20

  /// Why a build waits, and how long it may yet take.
  func explain(_ id: BuildID) async throws(RPCError) -> Explanation {
    let record = try await self.build(id)
    guard record.state != .finished else { return Explanation(record, history: [], at: .steady) }
    // A guess that cannot be made for want of history is left out; the rest is worth having.
    let history = try? await self.store.list(
      project: record.project, unfinished: false, limit: Self.historyBuilds, cursor: [])
    let builds = (history?.builds ?? []).filter { $0.id != id }
    let explanation = await self.onLoop { self.core.explained(id, history: builds, at: .steady) }
    return explanation ?? Explanation(record, history: builds, at: .steady)
  }

  func list(
    project: ProjectID?, unfinished: Bool, limit: Int32, cursor: [UInt8]
  ) async throws(RPCError) -> BuildStore.Page {
    var page: BuildStore.Page
    do {
      page = try await self.store.list(
        project: project, unfinished: unfinished, limit: limit, cursor: cursor)
    } catch let error as RPCError where error.code == .invalidArgument {
      throw RPCError(.invalidArgument, "page_token is not one of this list's: \(error.message)")
    } catch {
      throw RPCError(.unavailable, "the datastore does not answer: \(error)")
    }
    let records = page.builds
    // What is at hand knows more: steps that began since the last commit, and what is waited for.
    // Or less, if it is another scheduler's by now.
    page.builds = await self.onLoop {
      records.map { [self.core.shown($0.id) ?? $0, $0].max { $0.revision < $1.revision } ?? $0 }
    }
    return page
  }

  /// Shows `body` the build as it is, and then each later state, to the one in which it is
  /// finished. Only states behind `revision`; 0 shows the present one at once.
  func watch(
    _ id: BuildID, after revision: Int64, _ body: (BuildRecord) async throws -> Void
  ) async throws {
    let (watch, states, atHand) = try await self.beginWatch(id)
    defer {
      self.onLoop {
        self.watches.end(watch, of: id)
        self.core.watchEnded(id)
      }
    }
    var last = revision
    func show(_ record: BuildRecord) async throws -> Bool {
      if record.revision > last || last == 0 {
        last = record.revision
        try await body(record)
      }
      return record.state == .finished
    }
    if let atHand {
      if try await show(atHand) { return }
    } else {
      let record = try await self.stored(id)
      if try await show(record) { return }
      // Not at hand and not finished: its first commit has just gone through and follows as a
      // change, or the records are still being read, or it ended since: its end is stored.
      if await self.shown(id) == nil, try await show(try await self.stored(id)) { return }
    }
    for await record in states {
      if try await show(record) { return }
    }
    throw Self.watchesEnd
  }

  private func beginWatch(
    _ id: BuildID
  ) async throws(RPCError) -> (Watches.ID, AsyncStream<BuildRecord>, BuildRecord?) {
    typealias Begun = (Watches.ID, AsyncStream<BuildRecord>, BuildRecord?)
    let begun = await self.onLoop { () -> Result<Begun, RPCError> in
      guard !self.isDraining else { return .failure(Self.watchesEnd) }
      guard let (watch, states) = self.watches.begin(id) else {
        return .failure(
          RPCError(
            .resourceExhausted, "\(Watches.maximumCount) watches are open",
            retryDelay: .seconds(1)))
      }
      return .success((watch, states, self.core.watchBegan(id)))
    }
    return try begun.get()
  }

  private static let watchesEnd = RPCError(
    .unavailable, "this scheduler shuts down, or the build is another's now; watch again",
    retryDelay: RPCError.retrySoon)

  // MARK: The core, on the loop

  private func onLoop(_ body: @escaping @Sendable () -> Void) {
    if self.loop.inEventLoop { body() } else { self.loop.execute(body) }
  }

  private func onLoop<Value: Sendable>(_ body: @escaping @Sendable () -> Value) async -> Value {
    if self.loop.inEventLoop { return body() }
    return await withCheckedContinuation { continuation in
      self.loop.execute { continuation.resume(returning: body()) }
    }
  }

  private func received(_ response: AllocatorV1.AcquireResponse) {
    switch response.event {
    case .granted(let lease):
      self.feed { $0.granted(Grant(lease), at: $1) }
    case .unsatisfiable(let event):
      self.feed {
        $0.unsatisfiable(DemandID(event.requestID), reason: event.reason, at: $1)
      }
    case .lost(let event):
      self.feed {
        $0.leaseLost(LeaseID(event.leaseID), LeaseLoss(event.cause), message: event.message, at: $1)
      }
    case .waiting(let event):
      self.feed { $0.waiting(DemandID(event.requestID), reason: event.reason, at: $1) }
    // From a newer allocator, or nothing at all: no news for us.
    case nil: break
    }
  }

  private func feed(_ input: @escaping Input) {
    self.loop.assertInEventLoop()
    self.inputs.append(input)
    guard !self.isHandling else { return }
    self.isHandling = true
    var next = 0
    while next < self.inputs.count {
      let input = self.inputs[next]
      next += 1
      for effect in input(&self.core, .steady) { self.carryOut(effect) }
    }
    self.inputs.removeAll(keepingCapacity: true)
    self.isHandling = false
    if self.isClosing { self.findClosed() }
    self.planWake()
  }

  private func findClosed() {
    let closed = self.core.closedPartitions()
    for partition in closed { self.generations[partition.number] += 1 }
    self.isClosing = self.core.isClosing
    for partition in closed { self.replicas.closed(partition) }
  }

  private func carryOut(_ effect: Effect) {
    switch effect {
    case .write(let record, let base):
      let id = record.id
      let partition = Partition(of: record.project).number
      let generation = self.generations[partition]
      self.store.write(record, base: base) { result in
        if case .refused(let why) = result {
          self.logger.error(
            "the datastore refuses a record", metadata: ["build": "\(id)", "error": "\(why)"])
        }
        guard self.generations[partition] == generation else { return }
        self.feed { $0.written(id, result, at: $1) }
      }
    case .load(let id): self.load(id)
    case .demand(let demand): self.allocator.send(.demand(AllocatorV1.Demand(demand)))
    case .withdraw(let demand): self.allocator.send(.withdraw(demand.rawValue))
    case .hold(let lease, let attempt, let executor):
      self.allocator.send(
        .hold(
          AllocatorV1.Hold(
            leaseID: lease.rawValue, requestID: attempt.rawValue, executorID: executor.rawValue)))
    case .release(let lease): self.allocator.release(lease)
    case .run(let order): self.runners.run(order)
    case .attach(let attempt, let address, let sequence):
      self.runners.attach(attempt, at: address, after: sequence)
    case .detach(let attempt): self.runners.detach(attempt)
    case .stop(let attempt, let address, let outcome, let reason):
      self.runners.stop(attempt, at: address, outcome, reason: reason)
    case .answer(let waiter, let answer):
      self.waiters.removeValue(forKey: waiter)?.resume(returning: answer)
    case .changed(let record): self.watches.show(record)
    case .moved(let id): self.watches.finish(id)
    }
  }

  private func load(_ id: BuildID) {
    // Unstructured: it ends by its timeout, and its result is due whoever asked for it.
    Task.immediate(executorPreference: self.loop.callExecutor) {
      do {
        switch try await self.store.load(id) {
        case .found(let stored): self.feed { $0.loaded(id, stored, at: $1) }
        case .missing: self.feed { $0.loaded(id, nil, at: $1) }
        case .unreadable(let why):
          self.unreadable(id, why)
          self.feed { $0.loadFailed(id, "its record cannot be read: \(why)", at: $1) }
        }
      } catch {
        let why = (error as? RPCError)?.message ?? "\(error)"
        self.feed { $0.loadFailed(id, why, at: $1) }
      }
    }
  }

  // MARK: Time

  private func planWake() {
    guard let next = self.core.nextWake() else { return }
    if let wake = self.wake, wake.time <= next { return }
    self.wake?.timer.cancel()
    let delay = max(Self.shortestWake, next - .steady)
    let timer = self.loop.scheduleTask(in: .microseconds(delay.microseconds)) {
      self.wake = nil
      self.feed { $0.timePassed(at: $1) }
    }
    self.wake = (next, timer)
  }

  /// Compares what is at hand, and from time to time a partition's records with it.
  private func audit() {
    self.feed { $0.auditDue(at: $1) }
    for finding in self.core.takeFindings() {
      self.logger.error(
        "what was at hand did not agree with what is recorded, and was put right",
        metadata: ["kind": "\(finding.kind.rawValue)", "cause": "\(finding.cause)"])
    }
    self.auditsToRecords -= 1
    guard self.auditsToRecords <= 0, !self.isReadingRecords else { return }
    self.auditsToRecords = Self.auditsForRecords
    let partition = self.nextAudited
    self.nextAudited = Partition((partition.number + 1) % Partition.count)
    guard self.replicas.places[partition] == .here else { return }
    self.isReadingRecords = true
    let generation = self.generations[partition.number]
    // Unstructured: it ends with its pages, or with the first that fails; the next one is another's.
    Task.immediate(executorPreference: self.loop.callExecutor) {
      try? await self.store.scanActive(of: partition) { page in
        // One that may have been given up has nothing to compare with.
        guard self.generations[partition.number] == generation, self.replicas.places.isTrusted
        else { return }
        for case (_, .found(let stored)) in page { self.feed { $0.audited(stored, at: $1) } }
      }
      self.isReadingRecords = false
    }
  }

  private func measure() {
    self.audit()
    self.setReadiness(self.measuredReadiness())
    self.metrics.record(self.core.takeTally())
    self.metrics.builds.set(self.core.buildCount)
    self.metrics.queuedWork.set(self.core.queueDepth)
    self.metrics.openDemands.set(self.core.openDemands)
    self.metrics.heldLeases.set(self.core.heldLeases)
    self.metrics.oldestWait.set(self.core.oldestWait(at: .steady) ?? .zero)
    self.metrics.runnerStreams.set(self.runners.openStreams)
    self.metrics.watches.set(self.watches.count)
    self.metrics.allocatorConnected.set(self.allocator.isUp ? 1 : 0)
    self.metrics.partitions.set(self.replicas.owned)
    self.metrics.replicas.set(self.replicas.peers + 1)
    self.metrics.timesFenced.increment(by: Int64(self.replicas.takeTimesFenced()))
  }

  private func measuredReadiness() -> Readiness {
    if let why = self.core.storeSilence {
      return .notReady("the datastore does not answer: \(why)")
    }
    let places = self.replicas.places
    if places.isReady { return .ready }
    return .notReady(
      places.trouble.map { "the builds' records cannot be read: \($0)" }
        ?? "the builds' records are being read")
  }

  private func setReadiness(_ readiness: Readiness) {
    self.readinessState.withLock { $0 = readiness }
  }
}
