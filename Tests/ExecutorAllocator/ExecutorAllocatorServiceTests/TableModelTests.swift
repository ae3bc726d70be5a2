import Domain
import ExecutorAllocatorCore
import ExecutorAllocatorService
import Simulation
import Testing

/// The simulation's table is the scripts' own behaviour: both are given the same operations, and
/// answer the same.
@Suite(.needsRedis, .timeLimit(.minutes(2))) struct TableModelTests {
  @Test(arguments: [UInt64(1), 2, 3]) func theModelAnswersAsTheScriptsDo(seed: UInt64) async throws
  {
    try await Farm.with { farm in
      var pair = Pair(farm, seed: seed)
      for _ in 0..<400 { try await pair.step() }
    }
  }
}

/// A table in Redis and its model, and what runners and schedulers would know of them.
private struct Pair {
  let farm: Farm
  var model = LeaseTableModel(policy: Policy())
  var random: Randomness
  /// What each executor holds, in its own view.
  var held: [ExecutorID: [Lease]] = [:]
  var leases: [Lease] = []
  var newest: [ExecutorID: FencingToken] = [:]
  var requests = 0

  init(_ farm: Farm, seed: UInt64) {
    self.farm = farm
    self.random = Randomness(seed: seed)
  }

  mutating func step() async throws {
    self.farm.clock.pass(self.random.duration(.zero...(.milliseconds(600))))
    let now = self.farm.clock.time
    switch self.random.int(1...100) {
    case ...40: try await self.acquire(now)
    case ...75: try await self.heartbeat(now)
    case ...84:
      guard !self.leases.isEmpty else { return }
      let lease = self.random.pick(self.leases)
      self.held[lease.executor]?.removeAll { $0.id == lease.id }
      let pools = try await self.farm.release(lease)
      #expect(self.model.release([lease.id], at: now) == pools)
    case ...96:
      let swept = try await self.farm.sweep()
      let expected = self.model.sweep(at: now)
      #expect(Set(swept.ended.map(Self.plain)) == Set(expected.ended.map(Self.plain)))
      #expect(Set(swept.pools) == Set(expected.pools))
      #expect(swept.executors == expected.executors)
      #expect(swept.wasUnattended == expected.wasUnattended)
      let survey = try await self.farm.survey()
      let look = self.model.survey(.standard, at: now)
      #expect(Set(survey.groups) == Set(look.groups) && survey.liveSince == look.liveSince)
      #expect(Set(survey.departed.map(\.capacity)) == Set(look.departed.map(\.capacity)))
    case ...97:
      let replica = self.random.pick(["a", "b", "c"])
      var waiting: [PoolName: Resources] = [:]
      for _ in 0..<self.random.int(0...3) {
        waiting[self.random.pick([.standard, "arm", "a pool"])] = Resources(
          cpuMillis: Int64(self.random.int(0...90)) * 100,
          memory: .mebibytes(Int64(self.random.int(0...1_000_000))),
          slots: Int32(self.random.int(0...4_000)))
      }
      let elsewhere = try await self.farm.tellDemand(waiting, by: replica)
      #expect(self.model.tellDemand(waiting, of: replica, at: now) == elsewhere)
    case ...98:
      for lease in self.leases.suffix(10) {
        let standing = try await self.farm.check(lease)
        let held = HeldByScheduler(
          lease: lease.id, request: lease.request, executor: lease.executor)
        #expect(Self.plain(self.model.check([held], at: now)[0]) == Self.plain(standing[0]))
      }
    default:
      if self.random.chance(0.3) {
        // The clock goes back before everything is lost.
        self.farm.clock.pass(.seconds(-self.random.int(1...20)))
      }
      try await self.farm.flush()
      self.model = LeaseTableModel(policy: Policy())
    }
  }

  private mutating func acquire(_ now: Timestamp) async throws {
    var demands: [Demand] = []
    for _ in 0..<self.random.int(1...4) {
      self.requests += self.random.chance(0.9) ? 1 : 0
      demands.append(
        Demand(
          request: AttemptID("r\(self.requests)"),
          project: self.random.pick(["lua", "zlib", "curl"]),
          shape: Shape(
            labels: self.random.chance(0.2) ? ["gpu"] : [],
            resources: self.random.pick([
              .small, Resources(cpuMillis: 3_000, memory: .gibibytes(6)),
              Resources(cpuMillis: 500, memory: .mebibytes(700)),
            ]),
            avoid: self.random.chance(0.2) ? ["e1", "e3"] : []),
          rank: Int64(self.random.int(-3...3)), reserves: self.random.chance(0.2)))
    }
    let nonce = self.farm.nonces.next
    let replica = self.random.pick(["a", "b", "c"])
    let leases = try await self.farm.acquire(demands, by: replica)
    let expected = self.model.acquire(
      demands, pool: .standard, above: FencingToken(0), by: replica, nonce: nonce, at: now)
    #expect(expected == leases)
    for case let lease? in leases where !self.leases.contains(lease) {
      self.leases.append(lease)
      if self.random.chance(0.9) {
        self.newest[lease.executor] = max(
          self.newest[lease.executor] ?? FencingToken(0), lease.token)
      }
      if self.random.chance(0.8) { self.held[lease.executor, default: []].append(lease) }
    }
  }

  private mutating func heartbeat(_ now: Timestamp) async throws {
    let number = self.random.int(1...5)
    let id = ExecutorID("e\(number)")
    let incarnation = self.random.chance(0.05) ? "2" : "1"
    let heartbeat = Heartbeat.test(
      id, incarnation: incarnation, labels: number == 2 ? ["gpu"] : [],
      holding: (self.held[id] ?? []).filter { _ in self.random.chance(0.95) },
      draining: self.random.chance(0.05),
      warm: self.random.chance(0.5) ? ["lua"] : ["zlib", "curl"],
      newestToken: self.newest[id] ?? FencingToken(0))
    let answer = try await self.farm.heartbeat(heartbeat)
    let expected = self.model.record(heartbeat, at: now)
    guard case .recorded(let recorded) = answer, case .recorded(let wanted) = expected else {
      #expect(answer == expected)
      return
    }
    #expect(Set(recorded.stop) == Set(wanted.stop) && recorded.madeRoom == wanted.madeRoom)
    #expect(Set(recorded.ended) == Set(wanted.ended))
    self.held[id]?.removeAll { recorded.stop.contains($0.id) }
  }

  /// Without its words: how long somebody was silent is rounded in two ways.
  private static func plain(_ lease: EndedLease) -> EndedLease {
    var lease = lease
    lease.message = ""
    return lease
  }

  private static func plain(_ standing: LeaseStanding) -> LeaseStanding {
    if case .ended(let cause, _) = standing { return .ended(cause, message: "") }
    return standing
  }
}
