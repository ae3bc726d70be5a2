import Glibc

/// Runs the processes of a local stack: starts them, starts those again that end by themselves, and
/// ends all of them in order.
actor Supervisor {
  /// How long a process may take to be ready.
  static let startTimeout = Duration.seconds(30)
  /// How often a process that starts is asked whether it is ready.
  static let probeInterval = Duration.milliseconds(25)
  /// What a process gets beyond its drain grace before it is killed.
  static let killDelay = Duration.seconds(5)
  /// A log that is larger when its process starts is put aside, in place of an older one.
  static let maximumLogBytes = 16 << 20
  /// Lines of a log that explain why a process ended.
  static let explainingLines = 3

  private struct Member {
    let plan: PlannedProcess
    var child: ChildProcess?
    var started: ContinuousClock.Instant
    var policy = RestartPolicy()
    var hasBeenReady = false
  }

  private let data: String
  private let plan: StackPlan
  private let drainGrace: Duration
  private let tell: @Sendable (StackEvent) -> Void
  private var members: [String: Member] = [:]
  private var isStopping = false

  init(
    data: String, plan: StackPlan, drainGrace: Duration,
    tell: @escaping @Sendable (StackEvent) -> Void
  ) {
    self.data = data
    self.plan = plan
    self.drainGrace = drainGrace
    self.tell = tell
  }

  /// What runs now.
  var stackFile: StackFile {
    StackFile(
      pid: getpid(), data: self.data, addresses: self.plan.addresses,
      processes: self.plan.processes.map { process in
        StackFile.Process(
          name: process.name, pid: self.members[process.name]?.child?.id ?? 0,
          address: process.address, admin: process.admin, log: self.logPath(process.name))
      })
  }

  /// Starts everything and returns when all of it is ready.
  func start() async throws {
    try Files.makeDirectories("\(self.data)/logs")
    for process in self.plan.processes {
      // One that cannot even be started is told of before the others are.
      try await self.start(process)
      if process.name == "redis" { try await self.waitUntilReady(process) }
    }
    for process in self.plan.processes { try await self.waitUntilReady(process) }
  }

  /// Starts what ends, until the task is cancelled.
  func supervise() async {
    await withTaskGroup(of: Void.self) { group in
      for process in self.plan.processes {
        group.addTask { await self.supervise(process) }
      }
    }
  }

  /// Ends everything in order: each gets its drain grace, then SIGKILL.
  func stop() async {
    self.isStopping = true
    for names in self.drainGroups {
      await withTaskGroup(of: Void.self) { group in
        for name in names {
          guard let child = self.members[name]?.child, child.hasEnded == nil else { continue }
          let limit = self.drainGrace + Self.killDelay
          group.addTask { await Self.end(child, limit) }
        }
      }
    }
  }

  /// Ends everything at once.
  func kill() {
    self.isStopping = true
    for member in self.members.values { member.child?.signal(SIGKILL) }
  }

  /// All runners together, then one after the other.
  private var drainGroups: [[String]] {
    let order = self.plan.drainOrder
    let runners = order.filter { $0.hasPrefix("plugin-runner") }
    return [runners] + order.dropFirst(runners.count).map { [$0] }
  }

  private static func end(_ child: ChildProcess, _ limit: Duration) async {
    child.signal(SIGTERM)
    let killer = Task {
      try await Task.sleep(for: limit)
      child.signal(SIGKILL)
    }
    _ = await child.end()
    killer.cancel()
  }

  private func start(_ process: PlannedProcess) async throws {
    let log = try self.openLog(process.name)
    var command = ChildProcess.Command(process.program, process.arguments)
    command.output = log
    if process.name == "redis" {
      unlink(String(process.address.dropFirst("unix:".count)))
      command = Watched.wrap(command)
    } else {
      // The services look after that themselves.
      command.environment["MILLRACE_PARENT_DEATH_SIGNAL"] = "\(getpid())"
    }
    // What is set for other commands must not reach the services.
    for name in ["MILLRACE_SCHEDULER", "MILLRACE_ALLOCATOR", "MILLRACE_CACHE", "MILLRACE_DATA"] {
      if command.environment[name] == nil, Files.environment(name) != nil {
        command.removedEnvironment.insert(name)
      }
    }
    do {
      let child = try await ChildProcess.start(command)
      self.members[process.name, default: Member(plan: process, started: .now)].child = child
      self.members[process.name]?.started = .now
    } catch let error as SystemError where error.number == ENOENT {
      throw CommandFailure(
        .infrastructure,
        process.name == "redis"
          ? "redis-server is not installed; on Debian: apt-get install redis-server"
          : "there is no \(process.program); the service programs must stand beside millrace")
    }
    // `kill` may have come while the child was made.
    if self.isStopping { self.members[process.name]?.child?.signal(SIGKILL) }
  }

  private func waitUntilReady(_ process: PlannedProcess) async throws {
    let deadline = ContinuousClock.Instant.now.advanced(by: Self.startTimeout)
    var reason: String? = "does not answer yet"
    while deadline > .now {
      guard let child = self.members[process.name]?.child else { return }
      if let end = child.hasEnded {
        throw CommandFailure(
          .infrastructure,
          lines: ["\(process.name) ended with \(end); its log \(self.logPath(process.name)) says:"]
            + self.lastLines(process.name))
      }
      reason = await Self.reasonNotReady(process)
      if reason == nil {
        self.members[process.name]?.hasBeenReady = true
        return
      }
      try await Task.sleep(for: Self.probeInterval)
    }
    throw CommandFailure(
      .infrastructure,
      "\(process.name) is not ready after \(Words.duration(Self.startTimeout)): \(reason ?? "?"); "
        + "see \(self.logPath(process.name))")
  }

  private static func reasonNotReady(_ process: PlannedProcess) async -> String? {
    await withCheckedContinuation { continuation in
      startThread {
        if process.admin.isEmpty {
          let path = String(process.address.dropFirst("unix:".count))
          continuation.resume(
            returning: Probe.redisAnswers(path) ? nil : "does not answer yet")
        } else {
          continuation.resume(returning: Probe.readiness(process.admin))
        }
      }
    }
  }

  private func supervise(_ process: PlannedProcess) async {
    while !self.isStopping, !Task.isCancelled {
      guard let child = self.members[process.name]?.child else { return }
      let end = await child.end()
      guard !self.isStopping, !Task.isCancelled else { return }
      let started = self.members[process.name]?.started ?? .now
      let delay =
        self.members[process.name]?.policy.ended(after: started.duration(to: .now))
        ?? RestartPolicy.longestDelay
      self.tell(
        .ended(
          name: process.name, end: end, delay: delay,
          // One that was killed has not said why.
          lines: end.isByItself ? self.lastLines(process.name) : []))
      try? await Task.sleep(for: delay)
      guard !self.isStopping, !Task.isCancelled else { return }
      do {
        try await self.start(process)
        try await self.waitUntilReady(process)
        self.tell(.restarted(name: process.name, pid: self.members[process.name]?.child?.id ?? 0))
      } catch {
        // It has ended again, or is slow; the next turn sees which.
      }
      try? self.stackFile.write()
    }
  }

  private func logPath(_ name: String) -> String { "\(self.data)/logs/\(name).log" }

  private func openLog(_ name: String) throws(SystemError) -> OpenFile {
    let path = self.logPath(name)
    if let status = Files.status(path), Int(status.st_size) > Self.maximumLogBytes {
      rename(path, path + ".1")
    }
    return try OpenFile(path, O_WRONLY | O_CREAT | O_APPEND)
  }

  private func lastLines(_ name: String) -> [String] {
    guard let file = try? OpenFile(self.logPath(name), O_RDONLY) else { return [] }
    let size = Int64(Files.status(self.logPath(name))?.st_size ?? 0)
    guard (try? file.seek(to: max(0, size - 16_384))) != nil, let bytes = try? file.read(16_384)
    else { return [] }
    return bytes.split(separator: 0x0a).suffix(Self.explainingLines)
      .map { "  " + Sanitizer.line(String(decoding: $0, as: UTF8.self)) }
  }
}

/// Something that happens while a stack runs.
enum StackEvent: Sendable {
  case ended(name: String, end: ProcessEnd, delay: Duration, lines: [String])
  case restarted(name: String, pid: Int32)
}
