import Glibc
import Logging
import NIOCore
import NIOPosix
import RPC
import Synchronization

/// A service from its start to its end. All that touches the RPC library's server is here.
struct RunningService<Program: ServiceProgram>: Sendable {
  /// How often the service is asked for its readiness, for gRPC health.
  private static var healthInterval: Duration { .milliseconds(500) }
  /// Calls that are open when the service has drained may take this much longer.
  private static var lastCallsGrace: Duration { .seconds(1) }
  /// How long background work may take to heed its cancellation.
  private static var cancellationLimit: Duration { .seconds(1) }
  /// Beyond the drain grace and these limits the process ends whatever it hangs on.
  private static var lastResort: Duration { .seconds(5) }

  private enum End: Sendable {
    case stopped(StopReason)
    case failed(any Error)
  }

  /// Background work that returned though nobody cancelled it.
  private struct EndedEarly: Error, CustomStringConvertible {
    let description = "its background work has ended"
  }

  private let logger: Logger
  private let values: SettingValues
  private let drainGrace: Duration
  private let listen: ListenAddress
  private let adminListen: ListenAddress
  private let metrics = MetricsRegistry()
  private let health = HealthService()
  private let state = State()

  /// What `/readyz` looks at.
  private final class State: Sendable {
    let program = Mutex<Program?>(nil)
    let isDraining = Atomic(false)

    func readiness() async -> Readiness {
      if self.isDraining.load(ordering: .relaxed) { return .notReady("the service is draining") }
      guard let program = self.program.withLock({ $0 }) else {
        return .notReady("the service is starting")
      }
      return await program.readiness()
    }
  }

  init(values: SettingValues, logger: Logger) throws {
    self.values = values
    self.logger = logger
    self.drainGrace = try values.duration("drain-grace")
    self.listen = try values.address("listen")
    self.adminListen = try values.address("admin-listen")
  }

  /// Serves until it is told to stop.
  ///
  /// - Throws: Why it could not start or go on.
  mutating func run(stops: AsyncStream<StopReason>) async throws {
    ProcessMetrics.register(in: self.metrics)
    self.metrics.gauge(
      "millrace_build_info", help: "Which program and version this is.",
      labels: ["service": Program.name, "version": ServiceRuntime.version]
    ).set(1)
    let data = self.values.string("data")
    if Program.ownsDataDirectory {
      try DataDirectory.claim(data, mayBeReadOnly: Program.startsReadOnly)
    }

    // Its own thread: a scrape never waits for calls, nor calls for a scrape.
    let adminGroup = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let admin = AdminServer(metrics: self.metrics, group: adminGroup) { [state] in
      await state.readiness()
    }
    self.health.set(.notServing)
    let adminAddress = try await admin.listen(on: self.adminListen)

    let group = MultiThreadedEventLoopGroup.singleton
    let environment = ServiceEnvironment(
      settings: self.values, logger: self.logger, metrics: self.metrics, eventLoopGroup: group,
      dataDirectory: data, listen: self.listen)
    let program = try await Program(environment)
    let reflection = ReflectionService(services: program.services + [self.health])
    let server = RPCServer(
      services: program.services + [self.health, reflection, reflection.alpha],
      configuration: .ofService(self.logger, maximumRequestBytes: Program.maximumRequestBytes),
      group: group)
    for service in program.services {
      self.health.set(.notServing, for: service.descriptor.fullName)
    }
    let address = try await server.listen(on: self.listen)
    environment.didBind(to: address)
    self.state.program.withLock { $0 = program }
    self.logger.info(
      "serving",
      metadata: [
        "listen": "\(address)", "admin": "\(adminAddress)", "version": "\(ServiceRuntime.version)",
      ])

    let (ends, ended) = AsyncStream.makeStream(of: End.self)
    let listening = Task {
      var count = 0
      for await reason in stops {
        count += 1
        if count == 1 { ended.yield(.stopped(reason)) }
        if count == 2, case .signal(let number) = reason { _exit(128 + number) }
      }
    }
    let background = Task {
      do {
        try await program.run()
        if !Task.isCancelled { ended.yield(.failed(EndedEarly())) }
      } catch {
        if !Task.isCancelled { ended.yield(.failed(error)) }
      }
    }
    let watching = Task { [state, health] in
      while !Task.isCancelled {
        let isReady = await state.readiness() == .ready
        health.setAll(isReady ? .serving : .notServing)
        try await Task.sleep(for: Self.healthInterval)
      }
    }
    defer {
      listening.cancel()
      watching.cancel()
    }

    var iterator = ends.makeAsyncIterator()
    let end = await iterator.next() ?? .stopped(.parentEnded)
    switch end {
    case .stopped(let reason): self.logger.info("stopping: \(reason.description)")
    case .failed(let error): self.logger.error("stopping: \(error)")
    }
    self.state.isDraining.store(true, ordering: .relaxed)
    self.health.setAll(.notServing)
    self.health.endWatches()
    await self.drain(program, server: server)
    background.cancel()
    _ = await bounded(by: Self.cancellationLimit) { await background.value }
    await admin.close()
    try? await adminGroup.shutdownGracefully()
    if case .failed(let error) = end { throw error }
    self.logger.info("stopped")
  }

  /// Lets running work come to its end, within the drain grace.
  private func drain(_ program: Program, server: RPCServer) async {
    let grace = self.drainGrace
    let lastResort = Task {
      try await Task.sleep(for: grace + Self.lastCallsGrace + Self.lastResort)
      self.logger.critical("it does not come to an end and is ended")
      _exit(1)
    }
    defer { lastResort.cancel() }
    // GOAWAY goes out now; calls that are open may go on while the service drains.
    let goingAway = Task { await server.shutdown(grace: grace + Self.lastCallsGrace) }
    let deadline = ContinuousClock.now + grace
    if await !bounded(by: grace, { await program.drain() }) {
      self.logger.warning("draining took longer than \(grace), what runs is cut off")
    }
    let left = Program.callsEnd ? ContinuousClock.now.duration(to: deadline) : .zero
    await server.shutdown(grace: max(left, Self.lastCallsGrace))
    await goingAway.value
  }
}
