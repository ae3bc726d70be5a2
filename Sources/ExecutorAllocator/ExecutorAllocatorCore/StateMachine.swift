import DequeModule
import Domain
import HeapModule

/// Decides which demand is tried when, and what schedulers and runners are told.
///
/// Feed it every input with ``handle(_:at:)`` and carry out the effects in their order; each result
/// is a further input. `ticked` should come several times a second.
///
/// A demand goes waiting -> trying -> granted, or back to waiting when there was no room; then its
/// whole shape is *blocked* until there is a sign of room (a release, an executor, a lost lease) or
/// the retry interval is over. Then all shapes that are blocked are tried again, in one round; what wakes
/// the pool meanwhile begins the next round, when this one is through.
///
/// A shape is *fresh* as long as none of its queue was in vain. There may be thousands of shapes to be
/// tried again, in vain mostly, and who comes new must not wait for all of them: of one priority
/// (``Demand/precedence(of:)``) fresh shapes go first. But those to be tried again must not wait for ever either, however many
/// come new: a batch of fresh shapes that went before them is followed by one of theirs. And between two rounds of those
/// that are more urgent one batch of fresh shapes is tried. Within each, the smallest rank goes first. Each pool has one
/// batch with the table at a time, so among its like a later, smaller rank is never overtaken by more than
/// one batch, and waits for no more than one of the others before each.
package struct StateMachine: Sendable {
  package internal(set) var state = State()
  package let policy: Policy
  var effects: [Effect] = []
  /// When the input came that is being handled.
  private(set) var now = Timestamp(microseconds: 0)
  /// Surveys for shapes that have just found no room are at least this far apart.
  private static let promptSurveyInterval = Duration.milliseconds(100)

  package init(policy: Policy = Policy()) {
    self.policy = policy
  }

  package mutating func handle(_ input: Input, at now: Timestamp) -> [Effect] {
    self.now = now
    switch input {
    case .streamOpened(let stream): self.state.streams[stream] = State.Stream()
    case .streamClosed(let stream): self.forget(stream)
    case .demanded(let stream, let demand): self.demanded(stream, demand, at: now)
    case .withdrew(let stream, let request): self.withdrew(stream, request)
    case .claimed(let stream, let held): self.claimed(stream, held)
    case .released(let leases, let pools):
      for lease in leases { self.unwatch(lease) }
      self.wake(pools)
    case .heartbeatRecorded(let heartbeat, let record):
      self.heartbeatRecorded(heartbeat, record)
    case .deregistered(let ended): self.leasesEnded(ended)
    case .acquired(let pool, let leases): self.acquired(pool, leases, at: now)
    case .acquireFailed(let pool, _): self.acquireFailed(pool)
    case .surveyed(let pool, let survey): self.surveyed(pool, survey)
    case .surveyFailed(let pool):
      self.state.pools[pool]?.isSurveying = false
      // Its last demand may have gone meanwhile.
      self.dropIfIdle(pool)
    case .checked(let standings): self.checked(standings)
    case .checkFailed:
      self.state.checking = nil
      // The turns of all of them come again.
      self.state.claims.removeAll()
    case .swept(let ended, let pools):
      self.state.isSweeping = false
      self.leasesEnded(ended)
      self.wake(pools)
    case .sweepFailed: self.state.isSweeping = false
    case .usageFound(let page): self.usageFound(page)
    case .usageFailed: self.state.usageRound = nil
    case .demandTold(let elsewhere): self.state.elsewhere = elsewhere
    case .woken(let pool): self.wake([pool])
    case .tableConnected: self.tableConnected(at: now)
    case .tableLost(let reason): self.state.table = .lost(reason: reason)
    case .ticked: self.ticked(at: now)
    }
    defer { self.effects = [] }
    return self.effects
  }

  /// What to answer to a heartbeat that was recorded.
  package func answer(
    to record: HeartbeatRecord, of heartbeat: Heartbeat
  ) throws(HeartbeatRefusal) -> HeartbeatAnswer {
    let stop: [LeaseID]
    switch record {
    case .recorded(let recorded): stop = recorded.stop
    case .deregistered: stop = heartbeat.held.map(\.lease)
    case .duplicate(let address, let silentFor):
      throw .duplicate(
        heartbeat.executor, address: address, silentFor: silentFor,
        lostAfter: self.policy.lostAfter)
    case .tokenAhead(let lease, let token, let limit):
      throw .invalid(
        "\(lease.map { "lease \($0) has fencing_token" } ?? "newest_fencing_token is") \(token), "
          + "which is beyond \(limit): no allocator has given it out")
    }
    return HeartbeatAnswer(
      stop: stop, nextHeartbeat: self.policy.heartbeatInterval, lostAfter: self.policy.lostAfter)
  }

  // MARK: Demand

  private mutating func demanded(_ stream: StreamID, _ demand: Demand, at now: Timestamp) {
    // A message that was on its way when its stream ended.
    guard self.state.streams[stream] != nil else { return }
    if let mistake = Policy.mistake(inName: demand.request.rawValue, of: "request_id") {
      self.refuse(stream, .invalid(mistake))
      return
    }
    let mistake = self.policy.mistake(in: demand)
    if mistake == nil, self.moved(demand, on: stream) { return }
    self.remove(demand.request)
    if let mistake {
      // One build's mistake; the stream carries other people's.
      self.effects.append(.send(stream, .unsatisfiable(demand.request, reason: mistake)))
      return
    }
    guard self.state.demands.count < self.policy.maximumOpenDemand else {
      self.refuse(stream, .tooMuchDemand(limit: self.policy.maximumOpenDemand))
      return
    }
    self.state.arrivals += 1
    let open = State.OpenDemand(
      demand: demand, stream: stream, arrival: self.state.arrivals, phase: .waiting)
    self.state.demands[demand.request] = open
    self.state.streams[stream]?.demands.insert(demand.request)
    self.state.streams[stream]?.pools[demand.shape.pool, default: 0] += 1
    self.enqueue(open)
    self.tryNext(demand.shape.pool)
  }

  /// A demand that is open comes again with another rank: it keeps its age, what was told of it, and
  /// what is known of its queue. Answers whether it is that.
  private mutating func moved(_ demand: Demand, on stream: StreamID) -> Bool {
    guard var open = self.state.demands[demand.request], open.stream == stream,
      open.demand.shape == demand.shape
    else { return false }
    // One that is with the table has no place until it comes back.
    let isElsewhere = open.demand.rank != demand.rank && open.phase == .waiting
    open.demand = demand
    if isElsewhere { open.moves += 1 }
    // Before it has its place: the queue drops the places of demands that are elsewhere.
    self.state.demands[demand.request] = open
    if isElsewhere {
      self.state.pools[demand.shape.pool]?.queues[demand.shape]?.count -= 1
      self.enqueue(open)
    }
    return true
  }

  private mutating func withdrew(_ stream: StreamID, _ request: AttemptID) {
    // Granted or unsatisfiable in the meantime, or taken over by another stream.
    guard let open = self.state.demands[request], open.stream == stream else { return }
    if open.phase == .trying {
      self.state.pools[open.demand.shape.pool]?.withdrawn.insert(request)
    }
    self.remove(request)
  }

  private mutating func enqueue(_ open: State.OpenDemand) {
    let demand = open.demand
    var queue =
      self.state.pools[demand.shape.pool, default: State.Pool()]
      .queues.removeValue(forKey: demand.shape) ?? State.Queue()
    queue.places.insert(open.place)
    queue.count += 1
    // Places of demands that were withdrawn or moved are dropped when they come up; should they be
    // most of the queue, all at once.
    if queue.places.count > 2 * queue.count + 64 {
      queue.places = Heap(queue.places.unordered.filter { self.counts($0) })
    }
    queue.lineUp(
      demand.shape, in: &self.state.pools[demand.shape.pool, default: State.Pool()].lines)
    self.state.pools[demand.shape.pool, default: State.Pool()].queues[demand.shape] = queue
    self.state.pools[demand.shape.pool]?.dropOutdated()
  }

  func counts(_ place: State.Place) -> Bool {
    guard let open = self.state.demands[place.request] else { return false }
    return open.place == place && open.phase == .waiting
  }

  /// Forgets a demand, wherever it is.
  mutating func remove(_ request: AttemptID) {
    guard let open = self.state.demands.removeValue(forKey: request) else { return }
    self.state.streams[open.stream]?.demands.remove(request)
    let left = (self.state.streams[open.stream]?.pools[open.demand.shape.pool] ?? 0) - 1
    self.state.streams[open.stream]?.pools[open.demand.shape.pool] = left > 0 ? left : nil
    if open.phase == .waiting { self.left(open.demand.shape) }
  }

  /// One demand fewer waits in the queue of that shape.
  private mutating func left(_ shape: Shape) {
    guard let count = self.state.pools[shape.pool]?.queues[shape]?.count else { return }
    if count > 1 {
      self.state.pools[shape.pool]?.queues[shape]?.count = count - 1
    } else {
      self.state.pools[shape.pool]?.queues[shape] = nil
      self.dropIfIdle(shape.pool)
    }
  }

  mutating func dropIfIdle(_ name: PoolName) {
    guard let pool = self.state.pools[name], pool.queues.isEmpty, pool.trying == nil,
      !pool.isSurveying
    else { return }
    self.state.pools[name] = nil
  }

  // MARK: Trying

  /// Sends the next batch of a pool to the table, if there is one to send.
  private mutating func tryNext(_ name: PoolName) {
    guard self.state.table == .connected, var pool = self.state.pools[name], pool.trying == nil
    else { return }
    // So that the pool's queues are changed in place below.
    self.state.pools[name] = nil
    defer { self.state.pools[name] = pool }

    let batch = self.nextBatch(&pool)
    guard !batch.isEmpty else { return }
    pool.trying = batch
    let demands = batch.map { one in
      var demand = one.demand
      let unmetSince = pool.queues[demand.shape]?.unmetSince
      demand.reserves = unmetSince.map { self.now - $0 >= self.policy.reserveAfter } ?? false
      return demand
    }
    self.effects.append(.acquire(name, demands, above: self.state.highestToken))
  }

  /// Those that are due, out of their queues: all fresh, or all tried again.
  private mutating func nextBatch(_ pool: inout State.Pool) -> [State.Tried] {
    let fresh = self.first(of: &pool, isAgain: false)
    var again = self.first(of: &pool, isAgain: true)
    // Between two rounds what is new has its turn, however urgent those are that are tried again in vain.
    if pool.isWoken, again == nil, fresh == nil || !pool.isFreshNext {
      pool.unblock()
      again = self.first(of: &pool, isAgain: true)
    }
    let precedence = again.map { Demand.precedence(of: $0.place.rank) } ?? .max
    let isMoreUrgent = fresh.map { precedence < Demand.precedence(of: $0.place.rank) } ?? true
    let isAgain = again != nil && (pool.isAgainNext || isMoreUrgent)
    pool.isFreshNext = isAgain && fresh != nil && !pool.isAgainNext
    pool.isAgainNext = !isAgain && again != nil

    pool.batch = max(pool.batch, self.policy.smallestBatch)
    var batch: [State.Tried] = []
    while batch.count < pool.batch, let head = self.first(of: &pool, isAgain: isAgain),
      isAgain || Demand.precedence(of: head.place.rank) <= precedence,
      let index = pool.queues.index(forKey: head.shape)
    {
      _ = pool.queues.values[index].places.popMin()
      // An empty queue stays while its demand is tried: it knows the reason that was told.
      pool.queues.values[index].count -= 1
      self.state.demands[head.place.request]?.phase = .trying
      if let demand = self.state.demands[head.place.request]?.demand {
        batch.append(State.Tried(demand: demand, arrival: head.place.arrival))
      }
      _ = isAgain ? pool.lines.again.popMin() : pool.lines.fresh.popMin()
      pool.queues.values[index].listed = nil
      pool.queues.values[index].lineUp(head.shape, in: &pool.lines)
    }
    return batch
  }

  /// The first shape in one of a pool's lines, at the place of a demand that waits.
  private func first(of pool: inout State.Pool, isAgain: Bool) -> State.Head? {
    while let head = (isAgain ? pool.lines.again.min : pool.lines.fresh.min) {
      if let index = pool.queues.index(forKey: head.shape),
        pool.queues.values[index].isTriedAgain == isAgain,
        pool.queues.values[index].listed == head.place
      {
        self.dropStale(&pool.queues.values[index])
        if pool.queues.values[index].places.min == head.place { return head }
        // That demand is gone: the shape stands where its next one does.
        pool.queues.values[index].listed = nil
        pool.queues.values[index].lineUp(head.shape, in: &pool.lines)
      }
      // Behind that place, so this is still the first.
      _ = isAgain ? pool.lines.again.popMin() : pool.lines.fresh.popMin()
    }
    return nil
  }

  private func dropStale(_ queue: inout State.Queue) {
    while let place = queue.places.min, !self.counts(place) { _ = queue.places.popMin() }
  }

  private mutating func acquired(_ name: PoolName, _ leases: [Lease?], at now: Timestamp) {
    guard let tried = self.state.pools[name]?.trying else {
      preconditionFailure("leases for pool \(name), which has no batch with the table")
    }
    precondition(
      tried.count == leases.count, "\(leases.count) answers to \(tried.count) demands")
    let batch = self.state.pools[name]?.batch ?? 0
    let withdrawn = self.endTry(name)
    var unwanted: [LeaseID] = []
    // Nobody asks where nothing is granted, and there may be thousands of shapes.
    let hasStarving = leases.contains { $0 != nil } && self.hasStarving(name)
    for (one, lease) in zip(tried, leases) {
      guard var lease else {
        self.putBack(one)
        continue
      }
      self.state.highestToken = max(self.state.highestToken, lease.token)
      self.state.pools[name]?.queues[one.demand.shape]?.unmetSince = nil
      if let open = self.state.demands[one.demand.request], open.demand.shape == one.demand.shape {
        self.remove(open.demand.request)
        self.watch(
          HeldByScheduler(lease: lease.id, request: lease.request, executor: lease.executor),
          for: open.stream, isClaim: false)
        lease.isContended = hasStarving || self.others(than: open.stream, waitIn: name)
        self.effects.append(.send(open.stream, .granted(lease)))
      } else if self.state.watches[lease.id] != nil {
        // The request moved to another pool meanwhile and got this very lease there.
      } else if withdrawn.contains(one.demand.request)
        || self.state.demands[one.demand.request] != nil
      {
        unwanted.append(lease.id)
      }
      // Otherwise its stream ended: the scheduler comes back and asks for it again, perhaps at
      // another replica, and gets this lease; or it expires.
    }
    if !unwanted.isEmpty { self.effects.append(.release(unwanted)) }
    if leases.contains(nil) {
      self.state.pools[name]?.batch = self.policy.smallestBatch
    } else {
      self.state.pools[name]?.batch = min(2 * batch, self.policy.largestBatch)
    }
    self.afterTry(name, tried)
    if self.state.pools[name]?.wantsSurvey == true {
      self.survey(name, every: Self.promptSurveyInterval, at: now)
    }
    self.tryNext(name)
  }

  /// Whether an executor is kept free, or to be, for something that waits in a pool.
  private func hasStarving(_ name: PoolName) -> Bool {
    self.state.pools[name]?.queues.values.contains { queue in
      queue.unmetSince.map { self.now - $0 >= self.policy.reserveAfter } ?? false
    } ?? false
  }

  private func others(than stream: StreamID, waitIn name: PoolName) -> Bool {
    if let elsewhere = self.state.elsewhere[name], elsewhere != .none { return true }
    return self.state.streams.contains { $0.key != stream && $0.value.pools[name] != nil }
  }

  private mutating func acquireFailed(_ name: PoolName) {
    guard let tried = self.state.pools[name]?.trying else {
      preconditionFailure("a failed batch of pool \(name), which has none with the table")
    }
    _ = self.endTry(name)
    // Blocked, so that the next attempt is the retry interval's.
    for one in tried { self.putBack(one) }
    self.afterTry(name, tried)
  }

  private mutating func endTry(_ name: PoolName) -> Set<AttemptID> {
    let withdrawn = self.state.pools[name]?.withdrawn ?? []
    self.state.pools[name]?.trying = nil
    self.state.pools[name]?.withdrawn = []
    return withdrawn
  }

  /// Back into the queue, if it is still the demand that was tried.
  private mutating func putBack(_ tried: State.Tried) {
    let (request, shape) = (tried.demand.request, tried.demand.shape)
    self.state.pools[shape.pool]?.block(shape)
    if var open = self.state.demands[request], open.arrival == tried.arrival {
      open.phase = .waiting
      self.state.demands[request] = open
      self.enqueue(open)
      // Its queue may have been gone, and this be a new one.
      self.state.pools[shape.pool]?.block(shape)
    }
    guard let queue = self.state.pools[shape.pool]?.queues[shape] else { return }
    if !queue.isUnmet {
      self.state.pools[shape.pool]?.queues[shape]?.unmetSince = self.now
      if queue.reason == nil { self.state.pools[shape.pool]?.wantsSurvey = true }
    }
  }

  /// Queues that were kept for the batch only.
  private mutating func afterTry(_ name: PoolName, _ tried: [State.Tried]) {
    for one in tried where self.state.pools[name]?.queues[one.demand.shape]?.count == 0 {
      self.state.pools[name]?.queues[one.demand.shape] = nil
    }
    self.dropIfIdle(name)
  }

  /// There may be room where there was none.
  private mutating func wake(_ names: [PoolName]) {
    for name in names {
      guard self.state.pools[name] != nil else { continue }
      self.state.pools[name]?.isWoken = true
      self.tryNext(name)
    }
  }

  // MARK: Runners

  private mutating func heartbeatRecorded(_ heartbeat: Heartbeat, _ record: HeartbeatRecord) {
    guard case .recorded(let recorded) = record else { return }
    for token in heartbeat.held.map(\.token) + [heartbeat.newestToken] {
      self.state.highestToken = max(self.state.highestToken, token)
    }
    self.leasesEnded(recorded.ended)
    if recorded.madeRoom { self.wake([heartbeat.pool]) }
  }

  // MARK: Streams

  mutating func refuse(_ stream: StreamID, _ refusal: Effect.Refusal) {
    self.forget(stream)
    self.effects.append(.end(stream, refusal))
  }

  private mutating func forget(_ stream: StreamID) {
    guard let gone = self.state.streams.removeValue(forKey: stream) else { return }
    for request in gone.demands { self.remove(request) }
    for lease in gone.leases { self.state.watches[lease] = nil }
  }

  // MARK: Table and time

  private mutating func tableConnected(at now: Timestamp) {
    self.state.table = .connected
    // All of them are due: much may have happened meanwhile.
    self.state.claims.removeAll()
    self.state.lastCheck = nil
    self.checkDue(at: now)
    self.wake(self.state.pools.keys.sorted())
  }

  private mutating func ticked(at now: Timestamp) {
    let names = self.state.pools.keys.sorted()
    if case .lost(let reason) = self.state.table {
      for name in names {
        for shape in self.shapes(of: name) {
          self.explain(shape, "the allocator cannot reach its table: \(reason)")
        }
      }
      return
    }
    if !self.state.isSweeping,
      Self.isDue(self.state.lastSweep, self.policy.sweepInterval, now)
    {
      self.state.isSweeping = true
      self.state.lastSweep = now
      self.effects.append(.sweep)
    }
    self.checkDue(at: now)
    if self.state.usageRound == nil,
      Self.isDue(self.state.lastUsage, self.policy.usageInterval, now)
    {
      self.state.lastUsage = now
      self.state.usageRound = [:]
      self.effects.append(.tellDemand(self.state.waiting))
      self.effects.append(.sumUsage(behind: ""))
    }
    for name in names {
      guard let pool = self.state.pools[name] else { continue }
      if pool.wantsSurvey {
        self.survey(name, every: Self.promptSurveyInterval, at: now)
      } else if pool.queues.values.contains(where: \.isUnmet) {
        self.survey(name, every: self.policy.surveyInterval, at: now)
      }
    }
    if Self.isDue(self.state.lastRetry, self.policy.retryInterval, now) {
      self.state.lastRetry = now
      self.wake(names)
    }
  }

  private mutating func usageFound(_ page: UsagePage) {
    guard var round = self.state.usageRound else {
      preconditionFailure("a page of usage that was not asked for")
    }
    round.merge(page.pools) { $0 + $1 }
    if let last = page.last {
      self.state.usageRound = round
      self.effects.append(.sumUsage(behind: last))
    } else {
      // Whoever shows a pool that is gone must learn that it needs nothing.
      for (name, usage) in self.state.usage where usage.executors > 0 && round[name] == nil {
        round[name] = PoolUsage(executors: 0, capacity: .none, leased: .none)
      }
      self.state.usage = round
      self.state.usageRound = nil
    }
  }

  /// Also when the clock went back: no interval lasts longer than its length because of that.
  static func isDue(_ last: Timestamp?, _ interval: Duration, _ now: Timestamp) -> Bool {
    guard let last else { return true }
    return now - last >= interval || now < last
  }
}
