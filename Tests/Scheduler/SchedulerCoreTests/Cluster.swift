import Domain
import SchedulerCore

/// Replicas over one store, in steps of ten milliseconds: calls take time, fail, and are lost;
/// replicas die and are stopped; each has a clock of its own.
struct Cluster {
  struct Member {
    var core: Membership
    var isStopped = false
    var isDead = false
    /// How fast its clock runs, and what it showed at the beginning.
    var rate = 1.0
    var offset = Duration.zero
    fileprivate var call: Call?
    /// Partitions that are being read or closed, and when that is done.
    fileprivate var loading: [Partition: Duration] = [:]
    fileprivate var closing: [Partition: Duration] = [:]
    var events: [Membership.Event] = []

    var isAlive: Bool { !self.isDead && !self.core.hasLeft }
  }

  fileprivate struct Call {
    var step: Membership.Step
    var session: ReplicaID
    /// The version of the table that a session is stored over.
    var base: Int64
    /// By the caller's clock.
    var begin: Duration
    /// When the store carries it out, and when the caller hears of it.
    var effect: Duration?
    var answer: Duration
    var result = Result.unknown
  }

  fileprivate enum Result {
    case done(Int64)
    case conflict, fenced, unknown
    case view(Membership.View)
  }

  static let tick = Duration.milliseconds(10)

  var members: [Member] = []
  private(set) var now = Duration.zero
  private(set) var table = PartitionTable()
  private(set) var tableVersion: Int64 = 0
  private(set) var sessions: [ReplicaID: Membership.Sighting] = [:]
  /// How often a call is lost, one way or the other, of a thousand.
  var losses = 0
  var isStoreAway = false
  /// How long it takes at most until nothing is under way for a partition, in milliseconds.
  var longestClosing = 200
  var policy = Membership.Policy()
  private var nextVersion: Int64 = 0
  private var nextID = 0
  private var random: SplitMix64
  private(set) var violations: [String] = []
  private(set) var fencings = 0

  init(seed: UInt64 = 1) {
    self.random = SplitMix64(state: seed)
  }

  // MARK: What happens

  mutating func start(at address: String? = nil, rate: Double = 1, offset: Duration = .zero) -> Int
  {
    let number = self.members.count
    let core = Membership(
      id: self.newID(), address: address ?? "replica-\(number):1", policy: self.policy)
    self.members.append(Member(core: core, rate: rate, offset: offset))
    return number
  }

  private mutating func newID() -> ReplicaID {
    self.nextID += 1
    return ReplicaID("id-\(self.nextID)")
  }

  mutating func run(_ duration: Duration) {
    let end = self.now + duration
    while self.now < end { self.step() }
  }

  /// Runs until a condition holds; answers how long that took, for ever if beyond the limit.
  mutating func run(until condition: (Cluster) -> Bool, within limit: Duration) -> Duration {
    let begin = self.now
    while self.now - begin <= limit {
      if condition(self) { return self.now - begin }
      self.step()
    }
    return .seconds(86_400)
  }

  func local(_ number: Int) -> Duration {
    self.members[number].offset + self.now * self.members[number].rate
  }

  func owned(by number: Int) -> Int {
    guard self.members[number].isAlive else { return 0 }
    return Partition.all.count { self.members[number].core.owner(of: $0) == .here }
  }

  /// Every partition is served by somebody who is there.
  var isWhole: Bool {
    Partition.all.allSatisfy { partition in
      self.members.contains {
        $0.isAlive && !$0.isStopped && $0.core.owner(of: partition) == .here && $0.core.isReady
      }
    }
  }

  private mutating func step() {
    self.now += Self.tick
    for number in self.members.indices { self.advance(number) }
    self.check()
  }

  private mutating func advance(_ number: Int) {
    // The store does what is on its way, whatever became of the caller.
    if let effect = self.members[number].call?.effect, effect <= self.now {
      self.members[number].call?.effect = nil
      if let call = self.members[number].call {
        let result = self.carryOut(call)
        self.members[number].call?.result = result
      }
    }
    guard self.members[number].isAlive, !self.members[number].isStopped else { return }
    let local = self.local(number)
    if let call = self.members[number].call, call.answer <= self.now {
      self.members[number].call = nil
      self.answered(number, call, at: local)
    }
    for (partition, time) in self.members[number].loading where time <= self.now {
      self.members[number].loading[partition] = nil
      self.members[number].core.loaded(partition, at: local)
    }
    for (partition, time) in self.members[number].closing where time <= self.now {
      self.members[number].closing[partition] = nil
      self.members[number].core.closed(partition, at: local)
    }
    if self.members[number].call == nil {
      switch self.members[number].core.next(at: local) {
      case .wait: break
      case let step: self.call(number, step, at: local)
      }
    }
    self.takeEvents(number)
  }

  private mutating func takeEvents(_ number: Int) {
    for event in self.members[number].core.takeEvents() {
      self.members[number].events.append(event)
      switch event {
      case .take(let partitions, _):
        for partition in partitions.sorted() {
          let time = self.now + self.delay(300)
          self.members[number].loading[partition] = time
        }
      case .close(let partitions):
        for partition in partitions.sorted() {
          self.members[number].loading[partition] = nil
          let time = self.now + self.delay(self.longestClosing)
          self.members[number].closing[partition] = time
        }
      case .drop(let partitions):
        for partition in partitions {
          self.members[number].loading[partition] = nil
          self.members[number].closing[partition] = nil
        }
      }
    }
  }

  private mutating func delay(_ most: Int) -> Duration {
    .milliseconds(Int.random(in: 1...most, using: &self.random))
  }

  // MARK: The store

  private mutating func call(_ number: Int, _ step: Membership.Step, at local: Duration) {
    var call = Call(
      step: step, session: self.members[number].core.me.id, base: self.tableVersion, begin: local,
      effect: self.now + self.delay(20), answer: .zero)
    call.answer = (call.effect ?? self.now) + self.delay(20)
    if self.isStoreAway || Int.random(in: 0..<1_000, using: &self.random) < self.losses {
      // On its way there, on its way back, or only late.
      if self.isStoreAway || Bool.random(using: &self.random) { call.effect = nil }
      call.answer = self.now + .seconds(1)
      if Bool.random(using: &self.random), call.effect != nil {
        call.effect = self.now + self.delay(3_000)
      }
    }
    self.members[number].call = call
  }

  private mutating func carryOut(_ call: Call) -> Result {
    let isTimely = call.answer > self.now
    let result = self.stored(call)
    return isTimely ? result : .unknown
  }

  private mutating func stored(_ call: Call) -> Result {
    self.nextVersion += 1
    switch call.step {
    case .join(let replica):
      guard call.base == self.tableVersion else { return .conflict }
      if self.tableVersion == 0 { self.tableVersion = self.nextVersion }
      self.sessions[replica.id] = .init(replica: replica, version: self.nextVersion)
    case .renew(let replica):
      guard self.sessions[replica.id] != nil else { return .fenced }
      self.sessions[replica.id] = .init(replica: replica, version: self.nextVersion)
    case .look:
      return .view(
        Membership.View(
          table: self.table, version: self.tableVersion,
          replicas: self.sessions.values.sorted { $0.replica.id < $1.replica.id }))
    case .change(let change):
      guard self.sessions[call.session] != nil else { return .fenced }
      guard change.base == self.tableVersion,
        change.removed.allSatisfy({ self.sessions[$0.replica.id]?.version == $0.version })
      else { return .conflict }
      for partition in Partition.all where change.table[partition] != self.table[partition] {
        if change.table[partition].epoch != self.table[partition].epoch + 1 {
          self.violations.append("the epoch of \(partition) does not grow by one")
        }
      }
      for sighting in change.removed { self.sessions[sighting.replica.id] = nil }
      if let successor = change.successor {
        self.sessions[call.session] = nil
        self.sessions[successor.id] = .init(replica: successor, version: self.nextVersion)
      }
      self.table = change.table
      self.tableVersion = self.nextVersion
    case .leave(let id): self.sessions[id] = nil
    case .wait: break
    }
    return .done(self.nextVersion)
  }

  private mutating func answered(_ number: Int, _ call: Call, at local: Duration) {
    func fenced() {
      let id = self.newID()
      self.fencings += 1
      self.members[number].core.fenced(as: id, at: local)
    }
    switch (call.step, call.result) {
    case (.join, .done): self.members[number].core.joined(begunAt: call.begin)
    case (.join, _): self.members[number].core.joinFailed(at: local)
    case (.renew, .done): self.members[number].core.renewed(begunAt: call.begin)
    case (.look, .view(let view)):
      self.members[number].core.looked(view, begunAt: call.begin, endedAt: local)
    case (.look, _): self.members[number].core.lookFailed(at: local)
    case (.change(let change), .done(let version)):
      self.members[number].core.changed(
        change, version: version, begunAt: call.begin, at: local)
    case (_, .fenced): fenced()
    case (.renew, _): self.members[number].core.renewalFailed(at: local)
    case (.change, _): self.members[number].core.changeFailed(at: local)
    case (.leave, _): self.members[number].core.left()
    case (.wait, _): break
    }
  }

  // MARK: What must hold

  private mutating func check() {
    for partition in Partition.all {
      let speakers = self.members.indices.filter { number in
        let member = self.members[number]
        return member.isAlive && member.core.owner(of: partition) == .here
          && member.core.trustedFor.map { self.local(number) < $0 } ?? false
      }
      if speakers.count > 1 {
        self.violations.append("\(self.now): \(speakers) all speak for partition \(partition)")
      }
    }
  }
}

/// Sebastiano Vigna's generator: small, and the same everywhere.
struct SplitMix64: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    self.state &+= 0x9e37_79b9_7f4a_7c15
    var word = self.state
    word = (word ^ word >> 30) &* 0xbf58_476d_1ce4_e5b9
    word = (word ^ word >> 27) &* 0x94d0_49bb_1331_11eb
    return word ^ word >> 31
  }
}
