import BuildProtos
import Domain
import Glibc
import Logging
import NIOCore
import PluginRunnerCore
import RPC
import ServiceRuntime

/// The plugin-runner: one executor, its slots, workspaces, plugin processes and sandboxes.
package struct Runner: ServiceProgram {
  package static let name = "plugin-runner"
  package static let summary =
    "Runs jobs under leases: workspaces, sandboxed steps, plugins, and their logs and artifacts."
  package static let defaultListen = "127.0.0.1:7103"
  package static let defaultAdminListen = "127.0.0.1:7203"
  package static let settings = Configuration.settings
  /// A job in progress is worth waiting for; Kubernetes' own grace is set to match.
  package static let defaultDrainGrace = "60s"

  private let environment: ServiceEnvironment
  private let configuration: Configuration
  private let driver: Driver
  private let disk: DiskWatch
  private let outbound: Outbound
  private let plugins: PluginHost
  private let cgroups: Cgroups
  private let channels: [RPCChannel]

  package init(_ environment: ServiceEnvironment) async throws {
    let configuration = try Configuration(environment)
    let logger = environment.logger
    self.environment = environment
    self.configuration = configuration

    let cgroups = Cgroups.probe(name: "millrace-\(fingerprint(configuration.dataDirectory))")
    self.cgroups = cgroups
    try await Self.removeLeftovers(configuration, cgroups, logger)
    guard
      let (sandbox, why) = try await blocking({ () throws(SystemError) in
        Sandbox.choose(
          configuration.sandbox, supervisor: configuration.supervisor,
          dataDirectory: configuration.dataDirectory, hidden: configuration.hidden)
      })
    else {
      throw environment.settings.wrong("sandbox", "it can be bubblewrap or none")
    }
    let fellBack = configuration.sandbox != "none" && sandbox == .none
    logger.log(level: fellBack ? .warning : .info, "\(why)")
    logger.info("\(cgroups.summary)")

    let programs = try PluginHost.discover(
      corePlugin: configuration.corePlugin, folder: configuration.pluginsFolder)
    if programs["checkout"] == nil {
      logger.warning(
        "no core plugins: there is no \(configuration.corePlugin)")
    }
    var pluginEnvironment = AttemptRun.systemEnvironment
    pluginEnvironment[Leftovers.mark] = configuration.dataDirectory
    pluginEnvironment["MILLRACE_HIDDEN"] = configuration.hidden.joined(separator: "\n")
    pluginEnvironment["MILLRACE_CHECKOUT_ROOTS"] =
      configuration.checkoutRoots.joined(separator: "\n")
    self.plugins = PluginHost(
      programs: programs, supervisor: configuration.supervisor, environment: pluginEnvironment,
      maximumIdle: Int(configuration.capacity.slots), logger: logger)

    let group = environment.eventLoopGroup
    let allocator = try RPCChannel(
      to: configuration.allocator, configuration: .toService, group: group)
    let cache = try RPCChannel(to: configuration.cache, configuration: .toService, group: group)
    self.channels = [allocator, cache]
    var policy = Policy()
    policy.stopGrace = configuration.stopGrace
    self.driver = Driver(
      core: PluginRunner(
        profile: ExecutorProfile(
          id: ExecutorID(configuration.executorID), capacity: configuration.capacity,
          plugins: Set(programs.keys)),
        policy: policy),
      tools: Driver.Tools(
        configuration: configuration, sandbox: sandbox, cgroups: cgroups, plugins: self.plugins,
        logs: LogsV1.LogClient(cache), blobs: BlobStore(cache),
        workspaces: WorkspaceStore(
          root: configuration.workspaces, maximumSpares: Int(configuration.capacity.slots)),
        loop: group.next(), logger: logger, metrics: RunnerMetrics(environment.metrics)))
    self.disk = DiskWatch(
      folder: configuration.dataDirectory, driver: self.driver, logger: logger)
    self.outbound = Outbound(
      client: AllocatorV1.AllocatorClient(allocator), driver: self.driver, disk: self.disk,
      configuration: configuration, logger: logger)
    let driver = self.driver
    environment.metrics.gauge(
      "millrace_runner_running_attempts", help: "Attempts that hold a share"
    ) { Double(driver.read { $0.running }) }
  }

  package var services: [any RPCService] { [Handlers(driver: self.driver, disk: self.disk)] }

  package func run() async throws {
    let address = self.address
    await withTaskGroup(of: Void.self) { group in
      // With all that it starts: a job that does little would cost more in hops between threads.
      group.addTask(executorPreference: self.driver.tools.loop.callExecutor) {
        await self.driver.run()
      }
      group.addTask { await self.disk.run() }
      group.addTask { await self.outbound.run(address: address) }
    }
    await self.plugins.shutDown()
    await self.outbound.deregister()
    for channel in self.channels { await channel.close() }
    self.cgroups.remove()
  }

  /// Takes no further jobs, lets running ones finish, and stops the rest in time to say so.
  package func drain() async {
    self.driver.drainBegan()
    self.outbound.hurry()
    let grace = self.configuration.drainGrace
    // Of a short grace, half is still the jobs'.
    let reserve = min(self.configuration.stopGrace + .seconds(2), grace / 2)
    let patience = grace - reserve
    let isIdle = await self.waitUntilIdle(atMost: patience)
    guard !isIdle else { return }
    self.driver.drainGraceEnded()
    _ = await self.waitUntilIdle(atMost: reserve)
  }

  package func readiness() async -> Readiness {
    if self.driver.read({ $0.draining }) { return .notReady("draining") }
    if let problem = self.disk.problem { return .notReady(problem) }
    switch self.outbound.state {
    case .up: return .ready
    case .notYet: return .notReady("the executor-allocator has not answered yet")
    case .down(let why): return .notReady("the executor-allocator does not answer: \(why)")
    case .refused(let why):
      return .notReady("the executor-allocator refuses this executor: \(why)")
    }
  }

  // MARK: Parts

  /// Where others reach this runner.
  private var address: String {
    if !self.configuration.advertise.isEmpty { return self.configuration.advertise }
    return "\(self.environment.boundAddress)"
  }

  private func waitUntilIdle(atMost patience: Duration) async -> Bool {
    let deadline = ContinuousClock.now + patience
    while !self.driver.read({ $0.isIdle }) {
      guard ContinuousClock.now < deadline, !Task.isCancelled else { return false }
      try? await Task.sleep(for: .milliseconds(50))
    }
    return true
  }

  /// What a former incarnation left: its processes, cgroups and workspaces.
  private static func removeLeftovers(
    _ configuration: Configuration, _ cgroups: Cgroups, _ logger: Logger
  ) async throws {
    let killed = try await blocking { () throws(SystemError) -> Int in
      let killed = Leftovers.kill(markedWith: configuration.dataDirectory)
      cgroups.removeLeftovers()
      try makeFolders(configuration.workspaces)
      for name in try listFolder(configuration.workspaces) {
        try removeTree("\(configuration.workspaces)/\(name)")
      }
      return killed
    }
    if killed > 0 {
      logger.warning("ended \(killed) processes of a former incarnation")
    }
  }
}
