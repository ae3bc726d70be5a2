import Domain
import ExecutorAllocatorCore

/// The allocator's table as the scripts in Redis keep it, in memory: what each of them decides and
/// answers, without the index that makes it fast.
///
/// A test beside the scripts gives both the same operations and compares what they answer.
package struct LeaseTableModel {
  package struct Swept: Hashable {
    package var ended: [EndedLease]
    package var pools: [PoolName]
    package var executors: Int
    package var wasUnattended: Bool
  }

  struct Executor {
    var incarnation: String
    var address: String
    var pool: PoolName
    var labels: [String]
    var capacity: Resources
    var free: Resources
    var isDraining: Bool
    var isSuspect = false
    var warm: [ProjectID] = []
    var heard: Timestamp
    var held: Set<LeaseID> = []

    var kind: Kind {
      Kind(
        labels: self.labels, capacity: self.capacity,
        state: self.isSuspect ? .suspect : self.isDraining ? .draining : .ready)
    }

    func fits(_ resources: Resources) -> Bool {
      !self.isDraining && !self.isSuspect && self.free.fits(resources) && self.free.slots >= 1
        && self.free.cpuMillis >= 0 && self.free.memory.bytes >= 0
    }
  }

  struct Kind: Hashable {
    var labels: [String]
    var capacity: Resources
    var state: PoolSurvey.Group.State

    func group(_ count: Int) -> PoolSurvey.Group {
      PoolSurvey.Group(
        labels: self.labels, capacity: self.capacity, state: self.state, count: count)
    }
  }

  struct Entry {
    var executor: ExecutorID
    var request: AttemptID
    var token: Int64
    var resources: Resources
    /// Nil while a runner confirms it.
    var due: Timestamp?
  }

  /// An executor that is kept free, and for which demands.
  private struct Reservation {
    var executor: ExecutorID
    var resources: Resources
    var labels: [String]
    var until: Timestamp

    func isFor(_ shape: Shape) -> Bool {
      self.resources == shape.resources && self.labels == shape.labels
    }
  }

  /// Demands of one kind at one allocator, as far as they find no room.
  private struct Waiter: Hashable, Comparable {
    var replica: String
    var kind: String

    init(_ replica: String, _ shape: Shape) {
      self.replica = replica
      self.kind = "\(shape.resources) \(shape.labels)"
    }

    static func < (left: Self, right: Self) -> Bool {
      (left.replica, left.kind) < (right.replica, right.kind)
    }
  }

  private struct Wait {
    var rank: Int64
    var tried: Timestamp
    /// Since when others have waited for it.
    var asked: Timestamp?
  }

  /// What an allocator said that waits at it.
  private struct Told {
    var waiting: [PoolName: Resources]
    var at: Timestamp
  }

  private static let waitMemory = Duration.seconds(5)
  private static let turn = Duration.milliseconds(1_500)
  /// How long the end of a lease, and a process that was taken out, are remembered.
  private static let endedMemory = Duration.seconds(3_600)
  private static let releasedMemory = Duration.seconds(60)
  private static let goneMemory = Duration.seconds(60)
  private static let warmCandidates = 8
  private static let warmFits = 3

  package var policy: Policy
  private(set) var executors: [ExecutorID: Executor] = [:]
  private(set) var leases: [LeaseID: Entry] = [:]
  private var requests: [AttemptID: LeaseID] = [:]
  private var ended: [LeaseID: (lease: EndedLease, until: Timestamp)] = [:]
  private var gone: [ExecutorID: (incarnation: String, until: Timestamp)] = [:]
  private var replaced: [ExecutorID: (incarnation: String, until: Timestamp)] = [:]
  private var liveSince: [PoolName: Timestamp] = [:]
  private var departed: [PoolName: [Kind: Timestamp]] = [:]
  private var warmSince: [PoolName: [ProjectID: [ExecutorID: Timestamp]]] = [:]
  private var reserved: [PoolName: Reservation] = [:]
  private var waits: [PoolName: [Waiter: Wait]] = [:]
  private var told: [String: Told] = [:]
  private var token: Int64 = 0
  /// In the names of the leases that this table has given out, and of no other's.
  private var nonce: String?
  private var swept: Timestamp?
  private var grace: Timestamp?

  package init(policy: Policy) {
    self.policy = policy
  }

  private func isOurs(_ lease: LeaseID) -> Bool {
    self.nonce.map { lease.rawValue.hasPrefix("lease-\($0)-") } ?? false
  }

  // MARK: Leases

  /// Whom it wakes it does not tell: what waits is tried again by time.
  ///
  /// - Parameters:
  ///   - replica: The allocator.
  ///   - fresh: The nonce of a table that has none.
  package mutating func acquire(
    _ demands: [Demand], pool: PoolName, above floor: FencingToken, by replica: String,
    nonce fresh: String, at now: Timestamp
  ) -> [Lease?] {
    let nonce = self.nonce ?? fresh
    self.nonce = nonce
    if let reservation = self.reserved[pool], now > reservation.until { self.reserved[pool] = nil }
    var token = max(self.token, floor.rawValue)
    var full: Set<Shape> = []
    self.dropWaits(in: pool, of: replica, at: now)
    let rivals = self.waits[pool, default: [:]].filter { $0.key.replica != replica }
    return demands.map { demand in
      if let lease = self.existing(demand, at: now) { return lease }
      guard !full.contains(demand.shape) else { return nil }
      let waiter = Waiter(replica, demand.shape)
      var avoid = Set(demand.shape.avoid)
      var found = self.find(demand, pool, avoid, at: now)
      if found == nil, !avoid.isEmpty, self.onlyAvoidedMatch(demand, pool, avoid) {
        avoid = []
        found = self.find(demand, pool, avoid, at: now)
      }
      let first = rivals.filter { $0.key.kind == waiter.kind && $0.value.rank < demand.rank }.min {
        ($0.value.rank, $0.key.replica) < ($1.value.rank, $1.key.replica)
      }
      guard let tightest = found, first == nil else {
        if found == nil {
          if demand.reserves { self.reserve(demand, pool, avoid, at: now) }
        } else if let first, first.value.asked == nil {
          self.waits[pool]?[first.key]?.asked = now
        }
        if demand.shape.avoid.isEmpty {
          self.waits[pool, default: [:]][waiter] = Wait(rank: demand.rank, tried: now)
        }
        full.insert(demand.shape)
        return nil
      }
      let executor = self.findWarm(demand, pool, avoid, at: now) ?? tightest
      token = max(token + 1, now.microseconds)
      let id = LeaseID("lease-\(nonce)-\(token)")
      self.beginLease(
        id, on: executor, for: demand.request, token: token, demand.shape.resources)
      self.requests[demand.request] = id
      let expires = now + self.policy.grantExpiry
      self.leases[id]?.due = expires
      self.token = token
      self.waits[pool]?[waiter] = nil
      if self.reserved[pool]?.isFor(demand.shape) ?? false { self.reserved[pool] = nil }
      return self.lease(id, expires: expires)
    }
  }

  /// What waited too long ago, or had its turn and did not take it.
  private mutating func dropWaits(in pool: PoolName, of replica: String, at now: Timestamp) {
    self.waits[pool] = self.waits[pool]?.filter { waiter, wait in
      now - wait.tried <= Self.waitMemory && wait.tried <= now
        && (waiter.replica == replica || wait.asked.map { now - $0 <= Self.turn } ?? true)
    }
  }

  private func isAllowed(_ id: ExecutorID, _ demand: Demand, _ pool: PoolName) -> Bool {
    guard let reservation = self.reserved[pool], reservation.executor == id else { return true }
    return reservation.isFor(demand.shape)
  }

  /// Keeps an executor free for demands of this kind; one in a pool at a time.
  private mutating func reserve(
    _ demand: Demand, _ pool: PoolName, _ avoid: Set<ExecutorID>, at now: Timestamp
  ) {
    let before = self.reserved[pool]
    if let before, !before.isFor(demand.shape) { return }
    let able = self.executors.filter { id, executor in
      executor.pool == pool && executor.kind.state == .ready && !avoid.contains(id)
        && executor.capacity.fits(demand.shape.resources)
        && demand.shape.labels.allSatisfy(executor.labels.contains)
    }
    // Only what has room for something is in the index.
    let roomiest = able.filter { $0.value.fits(.none) }.sorted { left, right in
      let (one, other) = (left.value.free, right.value.free)
      return (other.cpuMillis, other.memory.bytes >> 20, left.key)
        < (one.cpuMillis, one.memory.bytes >> 20, right.key)
    }.first?.key
    guard let executor = before.map(\.executor).flatMap({ able[$0] == nil ? nil : $0 }) ?? roomiest
    else { return }
    self.reserved[pool] = Reservation(
      executor: executor, resources: demand.shape.resources, labels: demand.shape.labels,
      until: now + self.policy.reservationExpiry)
  }

  private func lease(_ id: LeaseID, expires: Timestamp) -> Lease? {
    guard let entry = self.leases[id] else { return nil }
    return Lease(
      id: id, executor: entry.executor, address: self.executors[entry.executor]?.address ?? "",
      resources: entry.resources, token: FencingToken(entry.token), request: entry.request,
      expires: expires)
  }

  private mutating func existing(_ demand: Demand, at now: Timestamp) -> Lease? {
    guard let id = self.requests[demand.request], let entry = self.leases[id] else { return nil }
    let expires = now + self.policy.grantExpiry
    if entry.due != nil { self.leases[id]?.due = expires }
    return self.lease(id, expires: expires)
  }

  /// The tightest executor: least free CPU that fits, then least free memory.
  private mutating func find(
    _ demand: Demand, _ pool: PoolName, _ avoid: Set<ExecutorID>, at now: Timestamp
  ) -> ExecutorID? {
    let candidates = self.executors.filter { id, executor in
      executor.pool == pool && !avoid.contains(id) && executor.fits(demand.shape.resources)
        && demand.shape.labels.allSatisfy(executor.labels.contains)
        && self.isAllowed(id, demand, pool)
    }.sorted { left, right in
      let (one, other) = (left.value.free, right.value.free)
      return (one.cpuMillis, one.memory.bytes >> 20, left.key)
        < (other.cpuMillis, other.memory.bytes >> 20, right.key)
    }
    for (id, _) in candidates where !self.becameSuspect(id, at: now) { return id }
    return nil
  }

  private mutating func findWarm(
    _ demand: Demand, _ pool: PoolName, _ avoid: Set<ExecutorID>, at now: Timestamp
  ) -> ExecutorID? {
    let warm = (self.warmSince[pool]?[demand.project] ?? [:])
      .sorted { ($0.value, $0.key) > ($1.value, $1.key) }.prefix(Self.warmCandidates)
    var best: (id: ExecutorID, free: (cpu: Int64, mebibytes: Int64))?
    var count = 0
    for (id, _) in warm where !avoid.contains(id) && self.isAllowed(id, demand, pool) {
      guard let executor = self.executors[id], executor.fits(demand.shape.resources),
        !self.becameSuspect(id, at: now),
        demand.shape.labels.allSatisfy(executor.labels.contains)
      else { continue }
      let free = (executor.free.cpuMillis, executor.free.memory.bytes >> 20)
      if best.map({ free < $0.free }) ?? true { best = (id, free) }
      count += 1
      if count == Self.warmFits { break }
    }
    return best?.id
  }

  /// Whether the executor has been silent for too long to be given work; noted if it has.
  private mutating func becameSuspect(_ id: ExecutorID, at now: Timestamp) -> Bool {
    guard let executor = self.executors[id], now - executor.heard > self.policy.suspectAfter else {
      return false
    }
    self.executors[id]?.isSuspect = true
    return true
  }

  private func onlyAvoidedMatch(
    _ demand: Demand, _ pool: PoolName, _ avoid: Set<ExecutorID>
  ) -> Bool {
    !self.executors.contains { id, executor in
      executor.pool == pool && !avoid.contains(id) && executor.kind.state != .draining
        && executor.capacity.fits(demand.shape.resources)
        && demand.shape.labels.allSatisfy(executor.labels.contains)
    }
  }

  private mutating func beginLease(
    _ id: LeaseID, on executor: ExecutorID, for request: AttemptID, token: Int64,
    _ resources: Resources
  ) {
    self.leases[id] = Entry(
      executor: executor, request: request, token: token, resources: resources)
    self.executors[executor]?.held.insert(id)
    self.executors[executor]?.free -= resources
  }

  private mutating func endLease(
    _ id: LeaseID, _ cause: EndedLease.Cause, _ message: String, at now: Timestamp
  ) -> EndedLease? {
    guard let entry = self.leases.removeValue(forKey: id) else { return nil }
    self.executors[entry.executor]?.held.remove(id)
    self.executors[entry.executor]?.free += entry.resources
    if self.requests[entry.request] == id { self.requests[entry.request] = nil }
    let lease = EndedLease(
      id: id, request: entry.request, executor: entry.executor, cause: cause, message: message)
    let memory = cause == .released && self.isOurs(id) ? Self.releasedMemory : Self.endedMemory
    self.ended[id] = (lease, now + memory)
    return lease
  }

  private func end(of id: LeaseID, at now: Timestamp) -> EndedLease? {
    self.ended[id].flatMap { $0.until > now ? $0.lease : nil }
  }

  package mutating func release(_ leases: [LeaseID], at now: Timestamp) -> [PoolName] {
    var pools: [PoolName] = []
    for id in leases {
      let message = "its scheduler gave it back"
      if let lease = self.endLease(id, .released, message, at: now) {
        if let pool = self.executors[lease.executor]?.pool, !pools.contains(pool) {
          pools.append(pool)
        }
      } else if self.end(of: id, at: now) == nil {
        self.ended[id] = (
          EndedLease(id: id, request: "", executor: "", cause: .released, message: message),
          now + Self.endedMemory
        )
      }
    }
    return pools
  }

  // MARK: Executors

  package mutating func record(_ heartbeat: Heartbeat, at now: Timestamp) -> HeartbeatRecord {
    let limit = max(self.token, (now + self.policy.tokenLead).microseconds)
    if heartbeat.newestToken.rawValue > limit {
      return .tokenAhead(nil, heartbeat.newestToken, limit: FencingToken(limit))
    }
    for held in heartbeat.held where held.token.rawValue > limit {
      return .tokenAhead(held.lease, held.token, limit: FencingToken(limit))
    }
    let id = heartbeat.executor
    if let gone = self.gone[id], gone.until > now, gone.incarnation == heartbeat.incarnation {
      return .deregistered
    }
    var recorded = HeartbeatRecord.Recorded()
    if let known = self.executors[id] {
      if known.incarnation != heartbeat.incarnation {
        let silent = now - known.heard
        let isReplaced =
          self.replaced[id].map { $0.incarnation == heartbeat.incarnation && $0.until > now }
          ?? false
        if known.address != heartbeat.address || isReplaced, silent < self.policy.lostAfter {
          if isReplaced { self.replaced[id]?.until = now + Self.goneMemory }
          return .duplicate(address: known.address, silentFor: silent)
        }
        self.replaced[id] = (known.incarnation, now + Self.goneMemory)
        recorded.ended = self.remove(
          id, .executorRestarted, "executor \(id) came back as another process", at: now)
      } else if known.pool != heartbeat.pool || known.labels != heartbeat.labels {
        recorded.ended = self.remove(
          id, .executorRestarted, "executor \(id) changed its pool or labels", at: now)
      }
    }
    self.register(heartbeat, &recorded, at: now)
    self.confirm(heartbeat, &recorded, at: now)
    return .recorded(recorded)
  }

  private mutating func register(
    _ heartbeat: Heartbeat, _ recorded: inout HeartbeatRecord.Recorded, at now: Timestamp
  ) {
    let id = heartbeat.executor
    if var known = self.executors[id] {
      if known.capacity != heartbeat.capacity || known.isDraining != heartbeat.isDraining
        || known.isSuspect || known.address != heartbeat.address
      {
        known.free = known.free + heartbeat.capacity - known.capacity
        known.capacity = heartbeat.capacity
        known.isDraining = heartbeat.isDraining
        known.isSuspect = false
        known.address = heartbeat.address
        recorded.madeRoom = true
      }
      known.heard = now
      self.executors[id] = known
    } else {
      self.executors[id] = Executor(
        incarnation: heartbeat.incarnation, address: heartbeat.address, pool: heartbeat.pool,
        labels: heartbeat.labels, capacity: heartbeat.capacity, free: heartbeat.capacity,
        isDraining: heartbeat.isDraining, heard: now)
      if self.liveSince[heartbeat.pool] == nil { self.liveSince[heartbeat.pool] = now }
      recorded.madeRoom = true
    }
    let before = Set(self.executors[id]?.warm ?? [])
    for project in heartbeat.warmProjects where !before.contains(project) {
      self.warmSince[heartbeat.pool, default: [:]][project, default: [:]][id] = now
    }
    for project in before.subtracting(heartbeat.warmProjects) {
      self.warmSince[heartbeat.pool]?[project]?[id] = nil
    }
    self.executors[id]?.warm = heartbeat.warmProjects
  }

  /// Confirms its leases, and brings back those that an earlier table knew.
  private mutating func confirm(
    _ heartbeat: Heartbeat, _ recorded: inout HeartbeatRecord.Recorded, at now: Timestamp
  ) {
    let id = heartbeat.executor
    var reported: Set<LeaseID> = []
    var largest = max(self.token, heartbeat.newestToken.rawValue)
    for held in heartbeat.held where reported.insert(held.lease).inserted {
      let token = held.token.rawValue
      largest = max(largest, token)
      let owner = self.leases[held.lease]?.executor
      if owner == id {
        self.leases[held.lease]?.due = nil
      } else if owner != nil || self.end(of: held.lease, at: now) != nil
        || (self.isOurs(held.lease) && token <= self.token)
      {
        recorded.stop.append(held.lease)
      } else {
        self.beginLease(
          held.lease, on: id, for: held.request, token: token, held.resources)
      }
    }
    if largest > self.token {
      self.token = largest
      self.nonce = nil
    }
    for lease in self.executors[id]?.held ?? []
    where !reported.contains(lease) && self.leases[lease]?.due == nil {
      self.leases[lease]?.due = now + self.policy.grantExpiry
    }
  }

  private mutating func remove(
    _ id: ExecutorID, _ cause: EndedLease.Cause, _ message: String, at now: Timestamp
  ) -> [EndedLease] {
    guard let executor = self.executors[id] else { return [] }
    let ended = executor.held.sorted().compactMap { self.endLease($0, cause, message, at: now) }
    var kind = executor.kind
    kind.state = .ready
    self.departed[executor.pool, default: [:]][kind] = now
    for project in executor.warm { self.warmSince[executor.pool]?[project]?[id] = nil }
    self.executors[id] = nil
    if !self.executors.values.contains(where: { $0.pool == executor.pool }) {
      self.liveSince[executor.pool] = nil
    }
    return ended
  }

  package mutating func deregister(
    _ id: ExecutorID, incarnation: String, at now: Timestamp
  ) -> [EndedLease] {
    self.gone[id] = (incarnation, now + Self.goneMemory)
    guard self.executors[id]?.incarnation == incarnation else { return [] }
    return self.remove(
      id, .executorLost, "executor \(id) was taken out of the farm", at: now)
  }

  // MARK: Upkeep

  package mutating func sweep(at now: Timestamp) -> Swept {
    let isLate = self.isUnattended(now)
    self.swept = now
    if isLate { self.grace = now + self.policy.lostAfter }
    for (id, executor) in self.executors where now - executor.heard > self.policy.suspectAfter {
      self.executors[id]?.isSuspect = true
    }
    var swept = Swept(
      ended: [], pools: [], executors: self.executors.count, wasUnattended: isLate)
    for (id, executor) in self.executors where executor.heard > now + self.policy.lostAfter {
      self.executors[id]?.heard = now
    }
    for (id, entry) in self.leases
    where entry.due.map({ $0 > now + self.policy.grantExpiry * 2 }) ?? false {
      self.leases[id]?.due = now + self.policy.grantExpiry
    }
    if self.hasGrace(now) { return swept }
    func room(_ pool: PoolName?) {
      if let pool, !swept.pools.contains(pool) { swept.pools.append(pool) }
    }
    let lost = self.executors.filter { now - $0.value.heard > self.policy.lostAfter }
      .sorted { ($0.value.heard, $0.key) < ($1.value.heard, $1.key) }
    for (id, executor) in lost {
      let tenths = ((now - executor.heard).microseconds + 50_000) / 100_000
      swept.ended += self.remove(
        id, .executorLost, "executor \(id) was silent for \(tenths / 10).\(tenths % 10) s", at: now)
      room(executor.pool)
    }
    let due = self.leases.filter { $0.value.due.map { $0 <= now } ?? false }
      .sorted { ($0.value.due ?? now, $0.key) < ($1.value.due ?? now, $1.key) }
    for (id, entry) in due {
      let why = "executor \(entry.executor) does not hold its job"
      if let lease = self.endLease(id, .expired, why, at: now) { swept.ended.append(lease) }
      room(self.executors[entry.executor]?.pool)
    }
    swept.executors = self.executors.count
    return swept
  }

  private func hasGrace(_ now: Timestamp) -> Bool {
    self.grace.map { now < $0 && $0 <= now + self.policy.lostAfter } ?? false
  }

  private func isUnattended(_ now: Timestamp) -> Bool {
    self.swept.map { now - $0 > self.policy.sweepGap } ?? true
  }

  package mutating func survey(_ pool: PoolName, at now: Timestamp) -> PoolSurvey {
    self.departed[pool] = self.departed[pool]?.filter {
      $0.value > now - self.policy.departedMemory
    }
    var kinds: [Kind: Int] = [:]
    for executor in self.executors.values where executor.pool == pool {
      kinds[executor.kind, default: 0] += 1
    }
    func inOrder(_ groups: [PoolSurvey.Group]) -> [PoolSurvey.Group] {
      groups.sorted { "\($0)" < "\($1)" }
    }
    return PoolSurvey(
      time: now, liveSince: self.liveSince[pool],
      groups: inOrder(kinds.map { $0.key.group($0.value) }),
      departed: inOrder((self.departed[pool] ?? [:]).keys.map { $0.group(1) }))
  }

  package mutating func check(_ held: [HeldByScheduler], at now: Timestamp) -> [LeaseStanding] {
    let isExcused = self.isUnattended(now) || self.hasGrace(now)
    return held.map { one in
      if self.leases[one.lease] != nil { return .held }
      if let lease = self.end(of: one.lease, at: now) {
        return .ended(lease.cause, message: lease.message)
      }
      if isExcused { return .unknownYet }
      return self.executors[one.executor] != nil
        ? .ended(.expired, message: "executor \(one.executor) does not hold its job")
        : .ended(.executorLost, message: "executor \(one.executor) is not known")
    }
  }

  package mutating func tellDemand(
    _ waiting: [PoolName: Resources], of replica: String, at now: Timestamp
  ) -> [PoolName: Resources] {
    self.told[replica] = Told(waiting: waiting, at: now)
    let memory = self.policy.demandMemory
    self.told = self.told.filter { now - $0.value.at < memory && $0.value.at - now <= memory }
    return self.told.reduce(into: [:]) { sum, one in
      if one.key != replica { sum.merge(one.value.waiting) { $0 + $1 } }
    }
  }

  /// All of it in one page.
  package func usage(behind name: String) -> UsagePage {
    var pools: [PoolName: PoolUsage] = [:]
    for (id, executor) in self.executors where id.rawValue > name {
      let before = pools[executor.pool]
      pools[executor.pool] = PoolUsage(
        executors: (before?.executors ?? 0) + 1,
        capacity: (before?.capacity ?? .none) + executor.capacity,
        leased: (before?.leased ?? .none) + executor.capacity - executor.free)
    }
    return UsagePage(pools: pools, last: nil)
  }

  // MARK: For checks and planted bugs

  /// What the leases on each executor come to.
  func leased(on executor: ExecutorID) -> Resources {
    self.leases.values.reduce(Resources.none) {
      $1.executor == executor ? $0 + $1.resources : $0
    }
  }

  /// As if a lease took nothing of its executor's share.
  mutating func forgetShare(of lease: LeaseID) {
    guard let entry = self.leases[lease] else { return }
    self.executors[entry.executor]?.free += entry.resources
  }

  /// As if tokens had begun anew.
  mutating func forgetTokens() { self.token = 0 }
}
