import Domain

/// One scheduler among its replicas: who is there, who owns which partition, and whether this one
/// may still speak for what it owns.
///
/// ```
/// outside --joined--> inside --left--> gone
///    ^                   |
///    +-----fenced--------+          (with another id)
///
/// a partition of ours:  loading --loaded--> serving --surplus, leaving--> closing --> closed
/// ```
///
/// Each replica keeps an entity, its *session*, and changes it from time to time. Every write of a
/// replica, of whatever, holds only while its session exists. A replica whose session has not
/// changed for ``Policy/silenceLimit`` is given up for dead by whoever sees that: its session is
/// removed on condition that it is still as it was seen, together with the change of the
/// ``PartitionTable`` that gives its partitions to others. So nothing it might still write, however
/// late, comes through, whatever clocks say: time decides only when somebody tries.
///
/// What is *read* needs more: an owner may answer from memory only as long as nobody can have given
/// it up. Silence is counted from the moment at which somebody has *seen* a session, which is after
/// it was written; an owner counts from the moment at which it *began* to write it, and stops
/// earlier (``Policy/trustLimit``). Clocks are only compared with themselves; none is compared with
/// another's, and one may run by two fifths faster than another.
///
/// A partition is handed over when nothing of it is under way. If that takes too long, because the
/// datastore is slow, whatever may still be under way must come to nothing: the replica ends its
/// session in the same change that gives the partition away, and goes on under another.
///
/// Whoever owns it carries out ``next(at:)`` again and again, one step at a time, feeds back what
/// became of it, and takes ``takeEvents()`` after every input. Times are of a clock that only
/// grows.
package struct Membership: Sendable {
  package struct Policy: Sendable {
    /// How often a session is changed.
    package var renewalInterval = Duration.milliseconds(750)
    /// How often one looks at the others.
    package var lookInterval = Duration.milliseconds(250)
    /// A session that does not change for so long is a dead replica's: three renewals in a row
    /// that fail. With the looks before and after, and what it takes to read the records, its
    /// partitions move within the five seconds that are promised.
    package var silenceLimit = Duration.milliseconds(2_500)
    /// From a renewal's beginning on, one may answer from memory for so long.
    package var trustLimit = Duration.milliseconds(1_750)
    /// Looks that are further apart do not count as watching: the watcher was stopped, or the
    /// datastore was away, and then for the others too.
    package var longestGap = Duration.milliseconds(1_500)
    /// A partition that is to be handed over is closed when its builds have nothing under way;
    /// after so long it is handed over as it is.
    package var closingLimit = Duration.seconds(2)
    /// Partitions that are closing at a time.
    package var closingAtOnce = 4
    /// Who wants to leave and cannot give everything away, goes; the others will notice.
    package var leavingLimit = Duration.seconds(5)

    package init() {}
  }

  /// A session as it is stored.
  package struct Replica: Hashable, Sendable {
    package var id: ReplicaID
    /// Where its calls are served.
    package var address: String
    /// Grows with each renewal.
    package var beat: Int64 = 0
    /// It gives away what it owns and takes nothing.
    package var isLeaving = false

    package init(id: ReplicaID, address: String) {
      self.id = id
      self.address = address
    }
  }

  package struct Sighting: Hashable, Sendable {
    package var replica: Replica
    /// Of its entity.
    package var version: Int64

    package init(replica: Replica, version: Int64) {
      self.replica = replica
      self.version = version
    }
  }

  /// What a look has found. The table must be read *before* the sessions: an owner that it names
  /// and that has no session then is gone, and not just arrived.
  package struct View: Hashable, Sendable {
    package var table: PartitionTable
    /// Of the table's entity; 0: there is none.
    package var version: Int64
    package var replicas: [Sighting]

    package init(table: PartitionTable, version: Int64, replicas: [Sighting]) {
      self.table = table
      self.version = version
      self.replicas = replicas
    }
  }

  /// A new table, and sessions that end with it: all of it or nothing.
  package struct Change: Hashable, Sendable {
    package var table: PartitionTable
    package var base: Int64
    package var removed: [Sighting]
    /// The session that takes the place of our own, which ends with the change.
    package var successor: Replica?

    package init(table: PartitionTable, base: Int64, removed: [Sighting]) {
      self.table = table
      self.base = base
      self.removed = removed
    }
  }

  package enum Step: Hashable, Sendable {
    /// Store this session, which is new, on condition that the table is not changed meanwhile: so a copy
    /// that comes late does not bring back a session that was removed.
    case join(Replica)
    /// Store it anew if it is still there.
    case renew(Replica)
    /// Read the table and then every session.
    case look
    case change(Change)
    /// Remove this session.
    case leave(ReplicaID)
    /// Nothing to do until then, or until something was fed.
    case wait(until: Duration)
  }

  package enum Event: Hashable, Sendable {
    /// These are ours: their records are to be read. The first ones that they have ever had as an
    /// owner in `first`.
    case take(Set<Partition>, first: Set<Partition>)
    /// Begin nothing new in them, and say ``Membership/closed(_:)`` when nothing is under way.
    case close(Set<Partition>)
    /// They are another's already, or must be given up as they are.
    case drop(Set<Partition>)
  }

  /// Where calls for a partition go.
  package enum Owner: Hashable, Sendable {
    case here
    case at(String)
    case nobody
  }

  private enum Phase: Hashable, Sendable { case outside, inside, gone }

  private enum Stage: Hashable, Sendable {
    case loading
    case serving
    case closing(since: Duration)
    case closed
  }

  private struct Peer: Sendable {
    var replica: Replica
    var version: Int64
    /// Since when it is seen unchanged.
    var since: Duration
    var isSilent = false
  }

  package let policy: Policy
  package private(set) var me: Replica
  private var phase = Phase.outside
  private var table = PartitionTable()
  private var tableVersion: Int64 = 0
  private var stages: [Partition: Stage] = [:]
  private var peers: [ReplicaID: Peer] = [:]
  /// When the last renewal that held began.
  private var renewedAt: Duration?
  private var leavingSince: Duration?
  /// A session is being stored, and nobody knows yet whether it is.
  private var isJoining = false
  /// Something may be under way under our session for a partition that we do not own any more
  /// in what is planned.
  private var needsSuccessor = false
  /// How many sessions this one has followed under one name.
  private var successions = 0
  private var renewalDue = Duration.zero
  private var lookDue = Duration.zero
  private var lastLook: Duration?
  private var lastLookBegan: Duration?
  /// Who had our address when the process first looked around: it is dead.
  private var predecessors: Set<ReplicaID>?
  private var plan: Change?
  private var events: [Event] = []

  package init(id: ReplicaID, address: String = "", policy: Policy = Policy()) {
    self.me = Replica(id: id, address: address)
    self.policy = policy
  }

  /// To be said before the first step.
  package mutating func isServed(at address: String) { self.me.address = address }

  // MARK: What it says

  package mutating func takeEvents() -> [Event] {
    defer { self.events = [] }
    return self.events
  }

  /// The next thing to do.
  package mutating func next(at now: Duration) -> Step {
    switch self.phase {
    case .gone: return .wait(until: .seconds(Int64.max / 1_000_000))
    case .outside:
      guard now >= self.lookDue else { return .wait(until: self.lookDue) }
      self.isJoining = true
      return .join(self.me)
    case .inside:
      self.giveUpClosing(at: now)
      if let since = self.leavingSince,
        self.stages.isEmpty || self.isAloneAndClosed || self.needsSuccessor
          || now - since >= self.policy.leavingLimit
      {
        return .leave(self.me.id)
      }
      if let plan = self.plan { return .change(plan) }
      if now >= self.renewalDue {
        var renewed = self.me
        renewed.beat += 1
        return .renew(renewed)
      }
      if now >= self.lookDue { return .look }
      return .wait(until: min(self.renewalDue, self.lookDue))
    }
  }

  package var isInside: Bool { self.phase == .inside }
  /// It has looked around, has what a predecessor at its address left, and all that it owns is read.
  package var isReady: Bool {
    self.phase == .inside && self.lastLook != nil && self.table.hasOwners
      && !self.stages.values.contains(.loading)
      && self.predecessors?.isDisjoint(with: self.peers.keys) != false
  }
  package var hasLeft: Bool { self.phase == .gone }
  package var owned: Set<Partition> { Set(self.stages.keys) }
  package var peerCount: Int { self.peers.count }
  package func epoch(of partition: Partition) -> Int64 { self.table[partition].epoch }

  /// Until when what is in memory may be shown as what is, because nobody can have taken it over;
  /// nil: it may not.
  package var trustedFor: Duration? {
    guard self.phase == .inside, let renewedAt = self.renewedAt else { return nil }
    return renewedAt + self.policy.trustLimit
  }

  package func owner(of partition: Partition) -> Owner {
    switch self.stages[partition] {
    case .loading, .serving: return .here
    // On its way; the table says to whom once it is there.
    case .closing, .closed: return .nobody
    case nil: break
    }
    guard let owner = self.table[partition].owner, let peer = self.peers[owner] else {
      return .nobody
    }
    return .at(peer.replica.address)
  }

  // MARK: The session

  package mutating func joined(begunAt begin: Duration) {
    self.isJoining = false
    self.phase = .inside
    self.renewed(begunAt: begin)
    self.lookDue = begin
  }

  /// Nobody knows whether it is stored; storing it again does no harm, and shows as a change.
  package mutating func joinFailed(at now: Duration) {
    self.isJoining = false
    if self.me.isLeaving { self.phase = .gone }
    self.me.beat += 1
    self.lookDue = now + self.policy.lookInterval
  }

  package mutating func renewed(begunAt begin: Duration) {
    self.me.beat += 1
    self.renewedAt = begin
    self.renewalDue = begin + self.policy.renewalInterval
  }

  package mutating func renewalFailed(at now: Duration) {
    self.renewalDue = now + self.policy.lookInterval
  }

  /// A write met no session of ours: others have given us up, and own what was ours. Goes on as a
  /// replica that is new. Answers whether it is so: it may have been a change of our own that ended
  /// the session, and then the next renewal tells.
  @discardableResult
  package mutating func fenced(as next: ReplicaID, at now: Duration) -> Bool {
    guard self.phase == .inside else { return false }
    if self.plan?.successor != nil {
      self.plan = nil
      self.renewalDue = now
      return false
    }
    self.phase = self.me.isLeaving ? .gone : .outside
    if !self.stages.isEmpty { self.events.append(.drop(Set(self.stages.keys))) }
    self.stages = [:]
    self.plan = nil
    self.renewedAt = nil
    self.lastLook = nil
    self.me = Replica(id: next, address: self.me.address)
    self.needsSuccessor = false
    self.successions = 0
    self.lookDue = now
    return true
  }

  /// Gives away what it owns, and then goes.
  package mutating func leave(at now: Duration) {
    guard self.phase == .inside || self.isJoining else {
      self.phase = .gone
      return
    }
    guard !self.me.isLeaving else { return }
    self.me.isLeaving = true
    self.leavingSince = now
    // What is stored by then is removed again.
    if self.isJoining { return }
    // The others must know before they are given anything, and before they give anything.
    self.renewalDue = now
    self.lookDue = now
    self.arrange(at: now)
  }

  package mutating func left() { self.phase = .gone }

  // MARK: The others

  /// A look that was overtaken by a later one tells nothing: whoever has come between is not in it.
  package mutating func looked(_ view: View, begunAt begin: Duration, endedAt end: Duration) {
    guard self.phase == .inside, self.lastLookBegan.map({ $0 <= begin }) ?? true else { return }
    self.lastLookBegan = begin
    let isWatching = self.lastLook.map { begin - $0 <= self.policy.longestGap } ?? false
    self.lastLook = end
    self.lookDue = end + self.policy.lookInterval
    guard view.replicas.contains(where: { $0.replica.id == self.me.id }) else {
      // The next write will say so too; there is none to wait for.
      self.renewalDue = end
      return
    }
    let predecessors =
      self.predecessors
      ?? Set(view.replicas.map(\.replica).filter { $0.address == self.me.address }.map(\.id))
      .subtracting([self.me.id])
    self.predecessors = predecessors
    var seen: [ReplicaID: Peer] = [:]
    for sighting in view.replicas where sighting.replica.id != self.me.id {
      let known = self.peers[sighting.replica.id]
      let isUnchanged = known?.version == sighting.version && isWatching
      let since = isUnchanged ? known?.since ?? end : end
      var peer = Peer(replica: sighting.replica, version: sighting.version, since: since)
      // Silence ends with what this look says, which was so when it began.
      peer.isSilent =
        begin - since >= self.policy.silenceLimit || predecessors.contains(peer.replica.id)
      seen[sighting.replica.id] = peer
    }
    self.peers = seen
    self.tableIs(view.table, version: view.version)
    self.arrange(at: end)
  }

  package mutating func lookFailed(at now: Duration) {
    self.lookDue = now + self.policy.lookInterval
  }

  /// A planned change holds.
  package mutating func changed(
    _ change: Change, version: Int64, begunAt begin: Duration, at now: Duration
  ) {
    self.plan = nil
    if var successor = change.successor {
      successor.isLeaving = self.me.isLeaving
      self.me = successor
      self.successions += 1
      self.needsSuccessor = false
      self.renewed(begunAt: begin)
    }
    for sighting in change.removed { self.peers[sighting.replica.id] = nil }
    self.tableIs(change.table, version: version)
    self.arrange(at: now)
  }

  /// A planned change does not hold, or nobody knows: the next look will tell.
  package mutating func changeFailed(at now: Duration) {
    self.plan = nil
    self.lookDue = now
  }

  // MARK: Our partitions

  /// All records of a partition are read.
  package mutating func loaded(_ partition: Partition, at now: Duration) {
    guard self.stages[partition] == .loading else { return }
    self.stages[partition] = .serving
    self.arrange(at: now)
  }

  /// Nothing is under way any more in a partition that was to be closed.
  package mutating func closed(_ partition: Partition, at now: Duration) {
    guard case .closing? = self.stages[partition] else { return }
    self.stages[partition] = .closed
    self.arrange(at: now)
  }

  private mutating func giveUpClosing(at now: Duration) {
    var late: Set<Partition> = []
    for (partition, stage) in self.stages {
      if case .closing(let since) = stage, now - since >= self.policy.closingLimit {
        late.insert(partition)
      }
    }
    guard !late.isEmpty else { return }
    for partition in late { self.stages[partition] = .closed }
    self.events.append(.drop(late))
    self.needsSuccessor = true
    self.arrange(at: now)
  }

  private var isAloneAndClosed: Bool {
    self.takers.isEmpty && self.stages.values.allSatisfy { $0 == .closed }
  }

  private mutating func tableIs(_ table: PartitionTable, version: Int64) {
    // An answer that was overtaken by our own change.
    guard version >= self.tableVersion else { return }
    let before = self.table
    self.table = table
    self.tableVersion = version
    let ours = table.partitions(of: self.me.id)
    // Given away, and given back because those who were to have it are gone.
    for partition in ours
    where self.stages[partition] == .closed && table[partition].epoch > before[partition].epoch {
      self.stages[partition] = nil
    }
    let lost = Set(self.stages.keys).subtracting(ours)
    let dropped = lost.filter { self.stages[$0] != .closed }
    for partition in lost { self.stages[partition] = nil }
    if !dropped.isEmpty { self.events.append(.drop(dropped)) }
    let new = ours.subtracting(self.stages.keys)
    for partition in new { self.stages[partition] = .loading }
    if !new.isEmpty {
      self.events.append(.take(new, first: new.filter { table[$0].epoch == 1 }))
    }
  }

  /// Who can be given partitions, in an order that is the same for all.
  private var takers: [ReplicaID] {
    var takers = self.peers.values.filter { !$0.isSilent && !$0.replica.isLeaving }.map(
      \.replica.id)
    if !self.me.isLeaving { takers.append(self.me.id) }
    return takers.sorted()
  }

  /// Plans what is to change: what nobody owns is given to whoever has least, and so is what this
  /// one owns beyond its share, once it is closed. What lives with others is theirs to give.
  private mutating func arrange(at now: Duration) {
    // Before the first look nobody knows whom there is.
    guard self.phase == .inside, self.lastLook != nil else { return }
    self.plan = nil
    let takers = self.takers
    guard !takers.isEmpty else { return self.close(excess: Partition.count, at: now) }
    var loads: [ReplicaID: Int] = [:]
    var orphans: [Partition] = []
    for partition in Partition.all {
      let owner = self.table[partition].owner
      let isAlive = owner == self.me.id || owner.flatMap { self.peers[$0] }?.isSilent == false
      if let owner, isAlive, self.stages[partition] != .closed {
        loads[owner, default: 0] += 1
      } else {
        orphans.append(partition)
      }
    }
    var table = self.table
    for partition in orphans {
      let least = takers.min { (loads[$0] ?? 0, $0) < (loads[$1] ?? 0, $1) } ?? takers[0]
      table.give(partition, to: least)
      loads[least, default: 0] += 1
    }
    let silent = self.peers.values.filter(\.isSilent).sorted { $0.replica.id < $1.replica.id }
    if !orphans.isEmpty || !silent.isEmpty {
      var change = Change(
        table: table, base: self.tableVersion,
        removed: silent.map { Sighting(replica: $0.replica, version: $0.version) })
      if self.needsSuccessor { self.succeed(by: &change) }
      self.plan = change
    }
    // Who has most may keep one more than the others where 64 cannot be divided.
    let order = takers.sorted { ((loads[$1] ?? 0), $0) < ((loads[$0] ?? 0), $1) }
    let share = Partition.count / takers.count
    let place = order.firstIndex(of: self.me.id)
    let quota = place.map { share + ($0 < Partition.count % takers.count ? 1 : 0) } ?? 0
    self.close(excess: (loads[self.me.id] ?? 0) - quota, at: now)
  }

  /// Has the change end our session, and give what is ours to the next one.
  private func succeed(by change: inout Change) {
    var successor = Replica(id: self.me.id, address: self.me.address)
    let name = self.me.id.rawValue.split(separator: "~").first.map(String.init) ?? ""
    successor.id = ReplicaID("\(name)~\(self.successions + 1)")
    for partition in change.table.partitions(of: self.me.id) {
      if change.table[partition] == self.table[partition] {
        change.table.give(partition, to: successor.id)
      } else {
        change.table[partition].owner = successor.id
      }
    }
    change.successor = successor
  }

  /// Begins to close partitions, so that together with those that are closing already there are
  /// `excess`; some at a time, for nobody takes calls for them until the next owner has read them, and
  /// who leaves all at once.
  private mutating func close(excess: Int, at now: Duration) {
    let closing = self.stages.values.count { if case .closing = $0 { true } else { false } }
    let excess = self.me.isLeaving ? excess : min(excess, self.policy.closingAtOnce)
    guard excess > closing else { return }
    let open = self.stages.filter { [.serving, .loading].contains($0.value) }.map(\.key).sorted()
      .reversed()
    // What is being read is read to its end first, unless all has to go.
    let candidates = self.me.isLeaving ? Array(open) : open.filter { self.stages[$0] == .serving }
    let chosen = Set(candidates.prefix(excess - closing))
    guard !chosen.isEmpty else { return }
    for partition in chosen { self.stages[partition] = .closing(since: now) }
    self.events.append(.close(chosen))
  }
}
