import BuildProtos
import ExecutorAllocatorCore
import ExecutorAllocatorService
import RPC
import RedisClient
import RedisTesting
import ServiceRuntime
import Testing

@Suite(.needsRedis, .timeLimit(.minutes(1))) struct ServiceTests {
  @Test func demandBecomesALeaseThatCanBeReleased() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      let scheduler = try await allocator.connect()
      // Demand may come before any executor, and before Redis is reached.
      try await scheduler.demand("a")
      let runner = RunnerStub("e1")
      try await allocator.withRunner(runner) {
        let lease = try await scheduler.granted()
        #expect(lease.requestID == "a" && lease.executorID == "e1")
        #expect(lease.executorAddress == "e1:1" && lease.fencingToken > 0)
        #expect(lease.resources?.slots == 1 && lease.expiresAt != nil)
        runner.take(lease)

        let listed = try await allocator.client.listExecutors(.init())
        let executor = try #require(listed.executors.first)
        #expect(listed.executors.count == 1 && executor.id == "e1")
        #expect(executor.leases.map(\.id) == [lease.id])
        #expect(executor.state == .ready && executor.pool == "default")
        #expect(executor.leased?.cpuMillis == 1_000)

        _ = try await allocator.client.release(.init(leaseIds: [lease.id, "unknown"]))
        let after = try await allocator.client.listExecutors(.init(pool: "default"))
        let rest = try #require(after.executors.first)
        #expect(rest.leases.isEmpty)
        // The runner learns that its job is over.
        while runner.stopped.isEmpty { await runner.report(to: allocator.client) }
        // Two reports may be on their way at a time.
        #expect(Set(runner.stopped) == [lease.id])
      }
    }
  }

  @Test func waitingDemandIsExplainedAndServedWhenThereIsRoom() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      let scheduler = try await allocator.connect()
      try await allocator.withRunner(RunnerStub("e1")) {
        try await scheduler.demand("a", slots: 4)
        let first = try await scheduler.granted()
        try await scheduler.demand("b", slots: 4)
        #expect(
          try await scheduler.next()
            == .waiting(
              AllocatorV1.Waiting(requestID: "b", reason: "1 executor matches, and is full")))
        _ = try await allocator.client.release(.init(leaseIds: [first.id]))
        #expect(try await scheduler.granted().requestID == "b")
      }
    }
  }

  // Without a word from the one that made the room it would take the other a second to find out.
  @Test func roomMadeAtOneAllocatorIsFoundByAnotherAtOnce() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { one in
      try await RunningAllocator.with(redis) { other in
        let runner = RunnerStub("e1")
        try await one.withRunner(runner) {
          let (first, second) = (try await one.connect(), try await other.connect())
          try await first.demand("0", slots: 4)
          var lease = try await first.granted()
          let clock = ContinuousClock()
          var waited = Duration.zero
          let handovers = 8
          for number in 1...handovers {
            runner.take(lease)
            let (holder, waiter) = number % 2 == 1 ? (one, second) : (other, first)
            try await waiter.demand("\(number)", slots: 4)
            #expect(
              try await waiter.next()
                == .waiting(
                  AllocatorV1.Waiting(
                    requestID: "\(number)", reason: "1 executor matches, and is full")))
            let begin = clock.now
            _ = try await holder.client.release(.init(leaseIds: [lease.id]))
            lease = try await waiter.granted()
            waited += clock.now - begin
          }
          #expect(waited < .milliseconds(250) * handovers)
        }
      }
    }
  }

  @Test func whateverARunnerSaysItHoldsTheListIsAnswered() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis, settings: ["redis-timeout": "30s"]) { allocator in
      try await allocator.ready()
      var heartbeat = RunnerStub("e1").request
      let most = TypesV1.Resources(
        cpuMillis: 1 << 29, memoryBytes: 1 << 44, slots: 1 << 20)
      heartbeat.leases = (0..<2_048).map {
        AllocatorV1.HeldLease(
          leaseID: "l\($0)", requestID: "r\($0)", fencingToken: 1, resources: most, project: "p")
      }
      _ = try await allocator.client.heartbeat(heartbeat)
      let listed = try await allocator.client.listExecutors(.init())
      #expect(listed.executors.first?.leased?.slots == .max)
    }
  }

  @Test func executorsAreListedInPages() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      try await allocator.ready()
      for number in 1...5 {
        _ = try await allocator.client.heartbeat(RunnerStub("e\(number)").request)
      }
      var request = AllocatorV1.ListExecutorsRequest(pageSize: 2)
      var pages: [[String]] = []
      repeat {
        let response = try await allocator.client.listExecutors(request)
        pages.append(response.executors.map(\.id))
        request.pageToken = response.nextPageToken
      } while !request.pageToken.isEmpty
      #expect(pages == [["e1", "e2"], ["e3", "e4"], ["e5"]])
      let error = await #expect(throws: RPCError.self) {
        _ = try await allocator.client.listExecutors(.init(pageSize: -1))
      }
      #expect(error?.code == .invalidArgument)
    }
  }

  @Test func aTokenFarAheadIsRefusedAndNamed() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      try await allocator.ready()
      var heartbeat = RunnerStub("e1").request
      heartbeat.leases = [
        AllocatorV1.HeldLease(
          leaseID: "l", requestID: "r", fencingToken: 1 << 52, resources: nil, project: "p")
      ]
      let error = await #expect(throws: RPCError.self) {
        _ = try await allocator.client.heartbeat(heartbeat)
      }
      #expect(error?.code == .invalidArgument)
      #expect(error?.message.contains("fencing_token 4503599627370496") == true)
    }
  }

  @Test func anUnknownLabelIsUnsatisfiable() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      let scheduler = try await allocator.connect()
      let runner = RunnerStub("e1", labels: ["linux"])
      try await allocator.withRunner(runner) {
        try await scheduler.demand("ok")
        // A runner that does not know its lease would lose it while the test waits.
        runner.take(try await scheduler.granted())
        try await scheduler.demand("a", labels: ["gpu"])
        var event = try await scheduler.next()
        // A farm that has just begun to live says "yet" first.
        while case .waiting? = event { event = try await scheduler.next() }
        #expect(
          event
            == .unsatisfiable(
              AllocatorV1.Unsatisfiable(
                requestID: "a", reason: "needs label gpu: 0 of 1 executor matches")))
      }
    }
  }

  @Test func theEndOfAnExecutorIsToldToItsScheduler() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      let scheduler = try await allocator.connect()
      let runner = RunnerStub("e1")
      let lease = try await allocator.withRunner(runner) {
        try await scheduler.demand("a")
        let lease = try await scheduler.granted()
        runner.take(lease)
        await runner.report(to: allocator.client)
        return lease
      }
      let lost = try await scheduler.lost()
      #expect(lost.leaseID == lease.id && lost.requestID == "a" && lost.executorID == "e1")
      #expect(lost.cause == .executorLost && lost.message.contains("was silent for"))
    }
  }

  @Test func aSchedulerThatWasAwayLearnsWhichLeasesItLost() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      let alive = RunnerStub("alive", labels: ["alive"])
      try await allocator.withRunner(alive) {
        let doomed = RunnerStub("doomed", labels: ["doomed"])
        let before = try await allocator.connect()
        let lost = try await allocator.withRunner(doomed) {
          try await before.demand("a", labels: ["doomed"])
          let lease = try await before.granted()
          doomed.take(lease)
          await doomed.report(to: allocator.client)
          return lease
        }
        try await before.demand("b", labels: ["alive"])
        let held = try await before.granted()
        alive.take(held)
        before.call.cancel()
        // The executor ends while nobody listens.
        while try await allocator.client.listExecutors(.init()).executors.count > 1 {}

        let after = try await allocator.connect()
        try await after.hold(held)
        try await after.hold(lost)
        let event = try await after.lost()
        #expect(event.leaseID == lost.id && event.requestID == "a")
        #expect(event.cause == .executorLost)
      }
    }
  }

  @Test func aDemandThatIsSentAgainGetsTheLeaseItHas() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      try await allocator.withRunner(RunnerStub("e1")) {
        let before = try await allocator.connect()
        try await before.demand("a")
        let lease = try await before.granted()
        before.call.cancel()
        let after = try await allocator.connect()
        try await after.demand("a")
        #expect(try await after.granted().id == lease.id)
      }
    }
  }

  @Test func withoutRedisCallsSayWhatIsWrongAndAllHealsWhenItComesBackEmpty() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      let scheduler = try await allocator.connect()
      let runner = RunnerStub("e1")
      let lease = try await allocator.withRunner(runner) {
        try await scheduler.demand("a", slots: 3)
        let lease = try await scheduler.granted()
        runner.take(lease)
        await runner.report(to: allocator.client)
        return lease
      }

      redis.kill()
      let error = await #expect(throws: RPCError.self) {
        _ = try await allocator.client.heartbeat(runner.request)
      }
      #expect(error?.code == .unavailable && error?.message.contains("Redis") == true)
      #expect(error?.retryDelay != nil)
      while await allocator.service.readiness() == .ready {}
      guard case .notReady(let reason) = await allocator.service.readiness() else {
        Issue.record("ready without Redis")
        return
      }
      #expect(reason.contains("no connection to Redis at unix:"))
      for call in ["release", "list", "deregister"] {
        let error = await #expect(throws: RPCError.self) {
          switch call {
          case "release": _ = try await allocator.client.release(.init(leaseIds: ["l"]))
          case "list": _ = try await allocator.client.listExecutors(.init())
          default:
            _ = try await allocator.client.deregister(.init(executorID: "e", incarnation: "i"))
          }
        }
        #expect(error?.code == .unavailable, "\(call)")
      }
      // The stream lives on and says why nothing happens.
      try await scheduler.demand("b", slots: 2)
      guard case .waiting(let waiting)? = try await scheduler.next() else {
        Issue.record("no reason while Redis is away")
        return
      }
      #expect(waiting.requestID == "b" && waiting.reason.contains("cannot reach its table"))

      try redis.start()
      try await allocator.ready()
      try await allocator.withRunner(runner) {
        // One slot is free beside the lease that came back: "b" needs two.
        try await scheduler.demand("c")
        let next = try await scheduler.granted()
        #expect(next.requestID == "c" && next.fencingToken > lease.fencingToken)
        let listed = try await allocator.client.listExecutors(.init())
        #expect(Set(listed.executors[0].leases.map(\.id)) == [lease.id, next.id])
        #expect(runner.stopped.isEmpty)
        _ = try await allocator.client.release(.init(leaseIds: [lease.id]))
        #expect(try await scheduler.granted().requestID == "b")
      }
    }
  }

  @Test func aPausedRedisIsUnavailableInTime() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      try await allocator.ready()
      redis.pause()
      let began = ContinuousClock.now
      let error = await #expect(throws: RPCError.self) {
        _ = try await allocator.client.heartbeat(RunnerStub("e1").request)
      }
      #expect(error?.code == .unavailable)
      #expect(ContinuousClock.now - began < .seconds(5))
      redis.resume()
      try await allocator.ready()
      _ = try await allocator.client.heartbeat(RunnerStub("e1").request)
    }
  }

  @Test func replicasShareOneTable() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { one in
      try await RunningAllocator.with(redis) { two in
        try await one.ready()
        try await two.ready()
        let scheduler = try await one.connect()
        let other = try await two.connect()
        let runner = RunnerStub("e1")
        // The runner knows the second one only.
        let lease = try await two.withRunner(runner) {
          try await scheduler.demand("a", slots: 4)
          let lease = try await scheduler.granted()
          runner.take(lease)
          try await other.demand("b", slots: 4)
          guard case .waiting? = try await other.next() else {
            throw Unexpected(description: "b does not wait for a")
          }
          // Released at the one, it is free at the other.
          _ = try await one.client.release(.init(leaseIds: [lease.id]))
          let second = try await other.granted()
          #expect(second.fencingToken > lease.fencingToken)
          _ = try await one.client.release(.init(leaseIds: [second.id]))
          try await scheduler.demand("c", slots: 4)
          let third = try await scheduler.granted()
          runner.take(third)
          return third
        }
        // Whichever of them finds the executor gone, the scheduler hears of it on its stream.
        let lost = try await scheduler.lost()
        #expect(lost.leaseID == lease.id && lost.cause == .executorLost)
      }
    }
  }

  @Test func aSecondProcessOfTheNameIsTurnedAway() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      try await allocator.ready()
      _ = try await allocator.client.heartbeat(RunnerStub("e1").request)
      let error = await #expect(throws: RPCError.self) {
        _ = try await allocator.client.heartbeat(
          RunnerStub("e1", incarnation: "2", address: "elsewhere:1").request)
      }
      #expect(error?.code == .alreadyExists && error?.message.contains("alive at e1:1") == true)
      #expect(error?.retryDelay != nil)
      // Its end makes room at once.
      _ = try await allocator.client.deregister(.init(executorID: "e1", incarnation: "1"))
      _ = try await allocator.client.heartbeat(
        RunnerStub("e1", incarnation: "2", address: "elsewhere:1").request)
    }
  }

  @Test func wrongCallsAreToldWhatIsWrong() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      var heartbeat = RunnerStub("e1").request
      heartbeat.capacity = nil
      let noCapacity = heartbeat
      let error = await #expect(throws: RPCError.self) {
        _ = try await allocator.client.heartbeat(noCapacity)
      }
      #expect(
        error
          == RPCError(.invalidArgument, "capacity.slots is 0, not from 1 to 1048576"))
      let scheduler = try await allocator.connect()
      try await scheduler.call.send(AllocatorV1.AcquireRequest())
      let refused = await #expect(throws: RPCError.self) { _ = try await scheduler.next() }
      #expect(refused?.code == .invalidArgument)
      let nameless = try await allocator.connect()
      try await nameless.demand("")
      let ended = await #expect(throws: RPCError.self) { _ = try await nameless.next() }
      #expect(ended?.code == .invalidArgument && ended?.message == "request_id is empty")
    }
  }

  @Test func drainingEndsTheStreams() async throws {
    let redis = try RedisServer()
    try await RunningAllocator.with(redis) { allocator in
      let scheduler = try await allocator.connect()
      try await scheduler.demand("a", labels: ["gpu"])
      _ = try await scheduler.next()
      await allocator.service.drain()
      let error = await #expect(throws: RPCError.self) {
        while try await scheduler.next() != nil {}
      }
      #expect(error?.code == .unavailable)
      let late = try await allocator.connect()
      let refused = await #expect(throws: RPCError.self) { _ = try await late.next() }
      #expect(refused?.code == .unavailable)
    }
  }
}

@Suite struct ConfigurationTests {
  static func configuration(_ values: [String: String]) throws -> Configuration {
    try Configuration(SettingValues(Configuration.settings, values: values))
  }

  @Test func theDefaultsWork() throws {
    let configuration = try Self.configuration([:])
    #expect(configuration.redis.address == .tcp(host: "127.0.0.1", port: 6379))
    #expect(configuration.policy == .init())
  }

  @Test(arguments: [
    ("redis", "localhost"), ("redis-username", "millrace"), ("redis-timeout", "0s"),
    ("redis-database", "-1"), ("suspect-after", "500ms"), ("lost-after", "1s"),
    ("lease-grant-expiry", "1s"), ("heartbeat-interval", "0s"),
  ])
  func aWrongSettingIsNamed(name: String, value: String) {
    #expect {
      try Self.configuration([name: value])
    } throws: { error in
      (error as? SettingError)?.setting == name && (error as? SettingError)?.value == value
    }
  }
}
