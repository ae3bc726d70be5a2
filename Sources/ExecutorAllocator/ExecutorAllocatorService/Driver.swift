import BuildProtos
import Domain
import ExecutorAllocatorCore
import Logging
import NIOCore
import RPC
import RedisClient
import ServiceRuntime
import Synchronization

/// Feeds the core and carries out what it wants.
///
/// The core lives on the event loop of the Redis connection: a result of the table is an input
/// without a hop, and effects are carried out in the order in which they were decided.
///
/// `@unchecked Sendable`: what is not in an atomic is touched on the loop only, which every entry
/// sees to.
final class Driver: @unchecked Sendable {
  /// How often the core is told that time passes.
  private static let tickInterval = Duration.milliseconds(250)
  /// Leases in one run of the release script: Redis does nothing else meanwhile.
  static let releaseBatch = 50
  /// Executors in one run of the list script, for the same reason.
  private static let listPage = 100
  /// What a message may have, whose limit is 4 MiB; and of that, about, an executor and a lease with ids as long as
  /// they are mostly.
  private static let listBytes = 1 << 20
  private static let executorBytes = 512
  private static let leaseBytes = 256

  let policy: Policy
  private let loop: any EventLoop
  private let client: RedisClient
  /// Waits for other allocators' word; see ``LeaseTable/woken(over:)``.
  private let listener: RedisClient
  private let table: LeaseTable
  private let statuses: AsyncStream<RedisClient.Status>
  private let metrics: Metrics
  private let logger: Logger

  private var machine: StateMachine
  private var streams: [StreamID: Outbound] = [:]
  private var isDraining = false
  /// Pools of which metrics say how many executors they should have.
  private var shownPools: Set<PoolName> = []
  /// Inputs that came while another was being handled: a command that fails at once answers before
  /// the effects before it are carried out.
  private var inputs: [Input] = []
  private var isHandling = false
  private let nextStream = Atomic<UInt64>(1)

  init(
    configuration: Configuration, eventLoop: any EventLoop, metrics: Metrics, logger: Logger
  ) {
    let (statuses, continuation) = AsyncStream<RedisClient.Status>.makeStream(
      // Only the last one counts.
      bufferingPolicy: .bufferingNewest(1))
    self.policy = configuration.policy
    self.loop = eventLoop
    self.statuses = statuses
    self.client = RedisClient(
      configuration: configuration.redis, eventLoop: eventLoop, logger: logger,
      statusChanged: { continuation.yield($0) })
    var patient = configuration.redis
    patient.commandTimeout += LeaseTable.longestWait
    self.listener = RedisClient(configuration: patient, eventLoop: eventLoop, logger: logger)
    self.table = LeaseTable(
      client: self.client, policy: configuration.policy,
      measure: { script, time in metrics.scriptTime[script]?.observe(time) })
    self.metrics = metrics
    self.logger = logger
    self.machine = StateMachine(policy: configuration.policy)
  }

  var status: RedisClient.Status { self.client.status }

  /// Works until it is cancelled.
  func run() async {
    self.client.start()
    self.listener.start()
    await withTaskGroup(of: Void.self) { group in
      group.addTask {
        for await status in self.statuses {
          switch status {
          case .connected: self.feed(.tableConnected)
          case .disconnected(let reason): self.feed(.tableLost(reason: reason))
          }
        }
      }
      group.addTask {
        while !Task.isCancelled {
          self.feed(.ticked)
          // Cancellation ends the sleep and the loop.
          try? await Task.sleep(for: Self.tickInterval)
        }
        // What the other one waits for ends with it.
        await self.listener.shutdown()
      }
      group.addTask {
        while !Task.isCancelled {
          do {
            if let pool = try await self.table.woken(over: self.listener) {
              self.feed(.woken(pool))
            }
          } catch {
            // The other connection tells what is wrong with Redis; demands are tried again by time.
            try? await Task.sleep(for: Self.tickInterval)
          }
        }
      }
    }
    await self.client.shutdown()
  }

  // MARK: Streams

  /// A scheduler has come. While the service drains its stream has ended.
  func open() -> (StreamID, Outbound) {
    let id = StreamID(self.nextStream.wrappingAdd(1, ordering: .relaxed).oldValue)
    let outbound = Outbound(bound: Outbound.maximumEvents)
    self.onLoop {
      guard !self.isDraining else {
        outbound.end(Self.draining)
        return
      }
      self.streams[id] = outbound
      self.handle(.streamOpened(id))
    }
    return (id, outbound)
  }

  func close(_ stream: StreamID) {
    self.onLoop {
      guard self.streams.removeValue(forKey: stream) != nil else { return }
      self.handle(.streamClosed(stream))
    }
  }

  /// Ends every stream, so that schedulers go to another replica.
  func drain() async {
    await withCheckedContinuation { continuation in
      self.onLoop {
        self.isDraining = true
        for (id, outbound) in self.streams {
          outbound.end(Self.draining)
          self.handle(.streamClosed(id))
        }
        self.streams = [:]
        continuation.resume()
      }
    }
  }

  private static let draining = RPCError(.unavailable, "this allocator shuts down")

  func feed(_ input: Input) {
    self.onLoop { self.handle(input) }
  }

  // MARK: Calls

  func heartbeat(_ heartbeat: Heartbeat) async throws(RPCError) -> HeartbeatAnswer {
    let result = await withCheckedContinuation {
      (continuation: CheckedContinuation<Result<HeartbeatAnswer, RPCError>, Never>) in
      self.table.record(heartbeat) { result in
        continuation.resume(returning: self.recorded(heartbeat, result))
      }
    }
    switch result {
    case .success: self.metrics.heartbeats.increment()
    case .failure: self.metrics.refusedHeartbeats.increment()
    }
    return try result.get()
  }

  private func recorded(
    _ heartbeat: Heartbeat, _ result: Result<HeartbeatRecord, LeaseTableError>
  ) -> Result<HeartbeatAnswer, RPCError> {
    switch result {
    case .failure(let error): return .failure(self.failed(error))
    case .success(let record):
      self.handle(.heartbeatRecorded(heartbeat, record))
      do throws(HeartbeatRefusal) {
        return .success(try self.machine.answer(to: record, of: heartbeat))
      } catch {
        return .failure(RPCError(error))
      }
    }
  }

  func deregister(_ executor: ExecutorID, incarnation: String) async throws(RPCError) {
    let result = await withCheckedContinuation {
      (continuation: CheckedContinuation<Result<Void, RPCError>, Never>) in
      self.table.deregister(executor, incarnation: incarnation) { result in
        switch result {
        case .failure(let error): continuation.resume(returning: .failure(self.failed(error)))
        case .success(let ended):
          self.handle(.deregistered(ended))
          continuation.resume(returning: .success(()))
        }
      }
    }
    try result.get()
  }

  func release(_ leases: [LeaseID]) async throws(RPCError) {
    var rest = leases[...]
    while !rest.isEmpty {
      let batch = Array(rest.prefix(Self.releaseBatch))
      rest = rest.dropFirst(batch.count)
      let result = await withCheckedContinuation {
        (continuation: CheckedContinuation<Result<Void, RPCError>, Never>) in
        self.release(batch) { continuation.resume(returning: $0) }
      }
      try result.get()
    }
  }

  private func release(
    _ leases: [LeaseID], then completion: @escaping @Sendable (Result<Void, RPCError>) -> Void
  ) {
    self.table.release(leases) { result in
      switch result {
      case .failure(let error): completion(.failure(self.failed(error)))
      case .success(let pools):
        self.metrics.released.increment(by: Int64(leases.count))
        self.handle(.released(leases, pools: pools))
        completion(.success(()))
      }
    }
  }

  /// Executors by name, from behind one on: as many as a message should have, and no more than `limit`.
  ///
  /// - Returns: And behind which name there may be more; nil at the end.
  func executors(
    pool: PoolName?, behind first: String, atMost limit: Int
  ) async throws(RPCError) -> (executors: [LeaseTable.ExecutorRecord], next: String?) {
    var executors: [LeaseTable.ExecutorRecord] = []
    var bytes = 0
    var behind: String? = first
    while let name = behind {
      typealias Page = (executors: [LeaseTable.ExecutorRecord], last: String?)
      let result = await withCheckedContinuation {
        (continuation: CheckedContinuation<Result<Page, RPCError>, Never>) in
        self.table.list(pool: pool, behind: name, count: Self.listPage) { result in
          continuation.resume(returning: result.mapError { self.failed($0) })
        }
      }
      let page = try result.get()
      for executor in page.executors {
        if executors.count == limit || bytes >= Self.listBytes {
          return (executors, executors.last?.executor.rawValue)
        }
        executors.append(executor)
        bytes += Self.executorBytes + executor.leases.count * Self.leaseBytes
      }
      behind = page.last
    }
    return (executors, nil)
  }

  /// A failure of the table, as a caller learns of it.
  private func failed(_ error: LeaseTableError) -> RPCError {
    self.metrics.tableFailures.increment()
    if case .broken(let reason) = error {
      self.logger.error("the table in Redis is broken", metadata: ["reason": "\(reason)"])
    }
    return RPCError(error)
  }

  // MARK: The core, on the loop

  private func onLoop(_ body: @escaping @Sendable () -> Void) {
    if self.loop.inEventLoop { body() } else { self.loop.execute(body) }
  }

  private func handle(_ input: Input) {
    self.loop.assertInEventLoop()
    self.inputs.append(input)
    guard !self.isHandling else { return }
    self.isHandling = true
    defer { self.isHandling = false }
    var next = 0
    while next < self.inputs.count {
      let input = self.inputs[next]
      next += 1
      if case .tableConnected = input { self.metrics.tableConnected.set(1) }
      if case .tableLost = input { self.metrics.tableConnected.set(0) }
      for effect in self.machine.handle(input, at: Self.now) { self.carryOut(effect) }
    }
    self.inputs.removeAll(keepingCapacity: true)
    self.metrics.streams.set(Double(self.machine.state.streams.count))
    self.metrics.openDemand.set(Double(self.machine.state.demands.count))
    self.metrics.watchedLeases.set(Double(self.machine.state.watches.count))
  }

  private func carryOut(_ effect: Effect) {
    switch effect {
    case .acquire(let pool, let demands, let token):
      self.table.acquire(demands, pool: pool, above: token) { result in
        switch result {
        case .success(let leases): self.handle(.acquired(pool, leases))
        case .failure(let error):
          self.handle(.acquireFailed(pool, reason: self.failed(error).message))
        }
      }
    case .release(let leases):
      self.release(leases) { _ in }
    case .survey(let pool):
      self.table.survey(pool) { result in
        switch result {
        case .success(let survey): self.handle(.surveyed(pool, survey))
        case .failure(let error):
          _ = self.failed(error)
          self.handle(.surveyFailed(pool))
        }
      }
    case .check(let leases):
      self.table.check(leases) { result in
        switch result {
        case .success(let standings): self.handle(.checked(standings))
        case .failure(let error):
          _ = self.failed(error)
          self.handle(.checkFailed)
        }
      }
    case .tellDemand(let waiting):
      self.table.tellDemand(waiting) { result in
        switch result {
        case .success(let elsewhere): self.handle(.demandTold(elsewhere: elsewhere))
        case .failure(let error): _ = self.failed(error)
        }
      }
    case .sumUsage(let name):
      self.table.usage(behind: name) { result in
        switch result {
        case .success(let page):
          self.handle(.usageFound(page))
          if page.last == nil {
            self.metrics.show(
              desired: self.machine.state.desiredExecutors(self.policy), beside: &self.shownPools)
          }
        case .failure(let error):
          _ = self.failed(error)
          self.handle(.usageFailed)
        }
      }
    case .sweep:
      self.table.sweep { result in
        switch result {
        case .success(let swept):
          self.metrics.executors.set(Double(swept.executors))
          self.log(swept)
          self.handle(.swept(ended: swept.ended, pools: swept.pools))
        case .failure(let error):
          _ = self.failed(error)
          self.handle(.sweepFailed)
        }
      }
    case .send(let stream, let event):
      guard let outbound = self.streams[stream] else { return }
      self.metrics.record(event)
      if !outbound.append(AllocatorV1.AcquireResponse(event)) {
        self.logger.warning("a scheduler does not read its leases; its stream is ended")
        self.streams[stream] = nil
        self.handle(.streamClosed(stream))
      }
    case .end(let stream, let refusal):
      self.logger.warning("a scheduler's stream is ended", metadata: ["reason": "\(refusal)"])
      self.streams.removeValue(forKey: stream)?.end(RPCError(refusal))
    }
  }

  private func log(_ swept: LeaseTable.Swept) {
    if swept.wasUnattended {
      self.logger.info("executors get time to report: nobody looked after the table lately")
    }
    for lease in swept.ended {
      self.logger.warning(
        "a lease is over before its release",
        metadata: [
          "lease": "\(lease.id)", "executor": "\(lease.executor)", "request": "\(lease.request)",
          "cause": "\(lease.cause.rawValue)", "reason": "\(lease.message)",
        ])
    }
  }

  /// Microseconds on the clock that never goes back; the core only compares them.
  private static var now: Timestamp {
    Timestamp(microseconds: Int64(NIODeadline.now().uptimeNanoseconds / 1_000))
  }
}
