import BuildProtos
import RPC

/// One measurement of leases: a farm that reports and is half full, and demand at a steady pace.
struct LeasesBenchmark: Sendable {
  /// The timer's grain: what is due within it goes out together.
  private static let tick = Duration.milliseconds(1)
  /// As the scheduler does: leases that are given back while a call is under way go with the next.
  private static let releaseTick = Duration.milliseconds(5)
  private static let registrationConcurrency = 128
  /// How long the last demands may take.
  private static let patience = Duration.seconds(10)

  var executors: Int
  /// Demands a second.
  var rate: Int
  var duration: Duration
  /// How long each lease is held.
  var hold: Duration
  /// The part of all slots that is leased all the time.
  var filled: Double

  func run(on allocator: AllocatorAlone.Running) async throws -> LeasesReport {
    let client = allocator.client
    let farm = BenchFarm(count: self.executors)
    Progress.say("registering \(self.executors) executors")
    try await self.register(farm, client)

    let call = try await client.acquire()
    defer { call.cancel() }
    let measured = Int(Double(self.rate) * self.duration.seconds)
    let standing = Int(Double(self.executors * BenchFarm.slots) * self.filled)
    let ledger = Ledger(
      farm: farm, standing: standing, measured: measured, rate: self.rate, hold: self.hold)
    return try await withThrowingTaskGroup(of: Void.self) { group in
      defer { group.cancelAll() }
      group.addTask {
        for try await response in call.responses { ledger.received(response.event) }
      }
      group.addTask { try await self.report(farm, client, ledger) }
      group.addTask { try await self.giveBack(client, ledger) }

      Progress.say("leasing \(standing) shares that are kept")
      for index in 0..<standing { try await call.send(Self.demand(-1 - index)) }
      try await ledger.waitUntilFilled(within: .seconds(60))

      Progress.say("asking for \(self.rate) leases a second")
      // Whatever the beginning has stirred up settles first.
      let warm = self.rate
      let before = Usage.now(of: allocator.processes)
      ledger.begin()
      for index in 0..<measured {
        if index % max(1, self.rate / 1_000) == 0 { try await ledger.waitUntilDue(index) }
        ledger.sent(index)
        try await call.send(Self.demand(index))
      }
      try await ledger.waitUntilAnswered(within: Self.patience)
      let used = Usage.now(of: allocator.processes).since(before)
      return LeasesReport(
        self, ledger.summary(leavingOut: min(warm, measured / 2)), used)
    }
  }

  /// Demand as builds have it: most for one CPU, some for two, some with a label that half of the
  /// executors has; from a hundred projects.
  private static func demand(_ index: Int) -> AllocatorV1.AcquireRequest {
    let kind = index.magnitude % 10
    let isLarge = kind == 7 || kind == 8
    return AllocatorV1.AcquireRequest(
      change: .demand(
        AllocatorV1.Demand(
          requestID: "\(index)", project: "project-\(index.magnitude % 97)",
          labels: kind == 9 ? ["gpu"] : [],
          resources: TypesV1.Resources(
            cpuMillis: isLarge ? 2_000 : 1_000, memoryBytes: (isLarge ? 4 : 2) << 30, slots: 1),
          rank: Int64(index))))
  }

  private func register(_ farm: BenchFarm, _ client: AllocatorV1.AllocatorClient) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      for index in 0..<self.executors {
        if index >= Self.registrationConcurrency { try await group.next() }
        group.addTask {
          // The first is late where the allocator is still finding its Redis.
          _ = try await client.heartbeat(
            farm.heartbeat(of: index), options: CallOptions(timeout: .seconds(10)))
        }
      }
      try await group.waitForAll()
    }
  }

  /// Heartbeats of all executors, spread evenly, each as often as the allocator says.
  private func report(
    _ farm: BenchFarm, _ client: AllocatorV1.AllocatorClient, _ ledger: Ledger
  ) async throws {
    let first = try await client.heartbeat(farm.heartbeat(of: 0))
    let interval = first.nextHeartbeat.map {
      Duration.seconds($0.seconds) + .nanoseconds(Int64($0.nanos))
    }
    let round = max(interval ?? .seconds(1), Self.tick)
    let begin = ContinuousClock.now
    try await withThrowingDiscardingTaskGroup { group in
      var next = 0
      while !Task.isCancelled {
        let due = Int(begin.duration(to: .now) / round * Double(self.executors))
        while next < due {
          let index = next % self.executors
          next += 1
          group.addTask {
            let began = ContinuousClock.now
            let answer = try await client.heartbeat(
              farm.heartbeat(of: index), options: CallOptions(timeout: .seconds(2)))
            ledger.reported(after: began.duration(to: .now), stopping: answer.stopLeaseIds.count)
          }
        }
        try await Task.sleep(for: Self.tick, tolerance: .zero, clock: .continuous)
      }
    }
  }

  private func giveBack(_ client: AllocatorV1.AllocatorClient, _ ledger: Ledger) async throws {
    while true {
      try await Task.sleep(for: Self.releaseTick, tolerance: .zero, clock: .continuous)
      let leases = ledger.takeDone()
      if !leases.isEmpty { _ = try await client.release(.init(leaseIds: leases)) }
    }
  }
}
