import Domain

/// How much may run at a time, of a project or in a pool; nil is without limit.
package struct RunningLimit: Hashable, Sendable {
  package var jobs: Int?
  package var cpuMillis: Int64?
  package var memory: ByteCount?

  package init(jobs: Int? = nil, cpuMillis: Int64? = nil, memory: ByteCount? = nil) {
    self.jobs = jobs
    self.cpuMillis = cpuMillis
    self.memory = memory
  }
}

/// What runs, as limits count it: jobs with the resources of their leases.
struct Running: Hashable, Sendable {
  var jobs = 0
  var resources = Resources.none

  mutating func add(_ resources: Resources) {
    self.jobs += 1
    self.resources += resources
  }

  mutating func remove(_ resources: Resources) {
    self.jobs -= 1
    self.resources = self.resources - resources
  }
}

extension RunningLimit {
  /// How many jobs more may run beside what runs, at most `most`.
  func room(for resources: Resources, beside running: Running, atMost most: Int) -> Int {
    var room = most
    if let jobs = self.jobs { room = min(room, jobs - running.jobs) }
    if let cpuMillis = self.cpuMillis, resources.cpuMillis > 0 {
      let left = (cpuMillis - running.resources.cpuMillis) / resources.cpuMillis
      room = min(room, Int(clamping: left))
    }
    if let memory = self.memory, resources.memory.bytes > 0 {
      let left = (memory.bytes - running.resources.memory.bytes) / resources.memory.bytes
      room = min(room, Int(clamping: left))
    }
    return max(0, room)
  }

  /// The part that one of several schedulers keeps to, which owns so many of the partitions. What it
  /// rounds off nobody uses.
  func part(_ partitions: Int) -> Self {
    let (ours, all) = (Int64(partitions), Int64(Partition.count))
    // Not by one product: it may be more than a number holds.
    func part(_ number: Int64) -> Int64 { number / all * ours + number % all * ours / all }
    return Self(
      jobs: self.jobs.map { Int(part(Int64($0))) }, cpuMillis: self.cpuMillis.map(part),
      memory: self.memory.map { ByteCount(part($0.bytes)) })
  }

  /// Why a job of that size can never run; nil: it can.
  func refusal(of resources: Resources) -> String? {
    if let jobs = self.jobs, jobs < 1 { return "none of its jobs may run" }
    if let cpuMillis = self.cpuMillis, resources.cpuMillis > cpuMillis {
      return
        "a job asks for \(Self.cpus(resources.cpuMillis)) CPUs, and all that run may have "
        + Self.cpus(cpuMillis)
    }
    if let memory = self.memory, resources.memory > memory {
      return
        "a job asks for \(Self.mebibytes(resources.memory)) MiB of memory, and all that run may have "
        + Self.mebibytes(memory)
    }
    return nil
  }

  /// What is in use of it: "4 of 4 jobs run, 3.5 of 4 CPUs are in use".
  func spoken(_ running: Running) -> String {
    var parts: [String] = []
    if let jobs = self.jobs { parts.append("\(running.jobs) of \(jobs) jobs run") }
    if let cpuMillis = self.cpuMillis {
      parts.append(
        "\(Self.cpus(running.resources.cpuMillis)) of \(Self.cpus(cpuMillis)) CPUs are in use")
    }
    if let memory = self.memory {
      parts.append(
        "\(Self.mebibytes(running.resources.memory)) of \(Self.mebibytes(memory)) MiB of memory "
          + "are in use")
    }
    return parts.joined(separator: ", ")
  }

  private static func cpus(_ millis: Int64) -> String {
    guard millis % 1_000 != 0 else { return "\(millis / 1_000)" }
    var fraction = String(1_000 + millis % 1_000).dropFirst()
    while fraction.last == "0" { fraction.removeLast() }
    return "\(millis / 1_000).\(fraction)"
  }

  private static func mebibytes(_ count: ByteCount) -> String { "\(count.bytes >> 20)" }
}

/// The limits, and what runs under them.
///
/// A project's limit is exact: all of its builds are one scheduler's. A pool's is shared by the
/// schedulers in proportion to the partitions that they own, so that none has to ask another; one
/// job may run in each scheduler whatever its part is.
struct Limits: Sendable {
  private let policy: Policy
  private var projects: [ProjectID: Running] = [:]
  private var pools: [String: Running] = [:]
  /// Work for which a limit's room is kept: nothing of another shape takes it.
  private var claims: [Scope: Claim] = [:]
  /// How many partitions are ours.
  var partitions = Partition.count

  init(_ policy: Policy) {
    self.policy = policy
  }

  /// What a limit is of.
  enum Scope: Hashable, Sendable {
    case project(ProjectID)
    case pool(String)
  }

  struct Claim: Sendable {
    var ticket: Ticket
    var shape: Shape
    /// Since when there is room for it; nil: there is not.
    var hasRoomSince: Timestamp?
  }

  func claim(in scope: Scope) -> Claim? { self.claims[scope] }

  mutating func set(_ claim: Claim?, in scope: Scope) { self.claims[scope] = claim }

  /// Work of a project and a shape has begun, or waits no more.
  ///
  /// - Returns: Where room was kept for it.
  mutating func endClaims(of ticket: Ticket, _ project: ProjectID, _ shape: Shape) -> [Scope] {
    let scopes = [Scope.project(project), .pool(Self.name(of: shape.pool))]
    return scopes.filter { scope in
      guard self.claims[scope]?.ticket == ticket else { return false }
      self.claims[scope] = nil
      return true
    }
  }

  /// What runs, and what is to run before work of this shape.
  private func running(
    _ running: Running, in scope: Scope, before shape: Shape, besideClaims: Bool
  ) -> Running {
    guard besideClaims, let claim = self.claims[scope], claim.shape != shape else { return running }
    var sum = running
    sum.add(claim.shape.resources)
    return sum
  }

  /// Whether there is nothing to look at.
  var areNone: Bool {
    self.policy.projectLimits.isEmpty && self.policy.standardProjectLimit == nil
      && self.policy.poolLimits.isEmpty
  }

  var haveProjects: Bool {
    !self.policy.projectLimits.isEmpty || self.policy.standardProjectLimit != nil
  }

  private func limit(of project: ProjectID) -> RunningLimit? {
    self.policy.projectLimits[project] ?? self.policy.standardProjectLimit
  }

  static func name(of pool: String) -> String { pool.isEmpty ? "default" : pool }

  func isLimited(_ project: ProjectID) -> Bool { self.limit(of: project) != nil }

  func isLimited(_ pool: String) -> Bool { self.policy.poolLimits[Self.name(of: pool)] != nil }

  mutating func began(_ resources: Resources, project: ProjectID, pool: String) {
    self.projects[project, default: Running()].add(resources)
    self.pools[Self.name(of: pool), default: Running()].add(resources)
  }

  mutating func ended(_ resources: Resources, project: ProjectID, pool: String) {
    self.projects[project]?.remove(resources)
    if self.projects[project]?.jobs == 0 { self.projects[project] = nil }
    self.pools[Self.name(of: pool)]?.remove(resources)
  }

  func running(of project: ProjectID) -> Running { self.projects[project] ?? Running() }
  func running(in pool: String) -> Running { self.pools[Self.name(of: pool)] ?? Running() }

  /// How many jobs of a shape a project may begin now.
  func room(
    of project: ProjectID, _ shape: Shape, atMost most: Int, besideClaims: Bool = true
  ) -> Int {
    guard shape.isForJobs, let limit = self.limit(of: project) else { return most }
    let running = self.running(
      self.running(of: project), in: .project(project), before: shape,
      besideClaims: besideClaims)
    return limit.room(for: shape.resources, beside: running, atMost: most)
  }

  /// How many jobs of a shape may begin in its pool now.
  func room(in shape: Shape, atMost most: Int, besideClaims: Bool = true) -> Int {
    guard shape.isForJobs, let limit = self.policy.poolLimits[Self.name(of: shape.pool)] else {
      return most
    }
    let running = self.running(
      self.running(in: shape.pool), in: .pool(Self.name(of: shape.pool)), before: shape,
      besideClaims: besideClaims)
    let room = limit.part(self.partitions).room(
      for: shape.resources, beside: running, atMost: most)
    let isFirst = running.jobs == 0 && limit.refusal(of: shape.resources) == nil
    return max(room, isFirst ? min(1, most) : 0)
  }

  /// What work of a project waits for; nil: limits hold nothing of it.
  func reason(_ project: ProjectID, _ shape: Shape) -> String? {
    guard shape.isForJobs else { return nil }
    if let limit = self.limit(of: project), self.room(of: project, shape, atMost: 1) == 0 {
      let isKept = self.room(of: project, shape, atMost: 1, besideClaims: false) > 0
      return "project \(project) to have less running: \(limit.spoken(self.running(of: project)))"
        + (isKept ? Self.kept : "")
    }
    let pool = Self.name(of: shape.pool)
    if let limit = self.policy.poolLimits[pool], self.room(in: shape, atMost: 1) == 0 {
      let part = limit.part(self.partitions)
      return "pool \(pool) to have less running: \(part.spoken(self.running(in: pool)))"
        + (part == limit ? "" : ", which is this scheduler's part")
        + (self.room(in: shape, atMost: 1, besideClaims: false) > 0 ? Self.kept : "")
    }
    return nil
  }

  private static let kept = "; what is free is kept for a job that has waited longer"

  /// Why work of a project can never run; nil: it can.
  func refusal(_ project: ProjectID, _ shape: Shape) -> String? {
    guard shape.isForJobs else { return nil }
    if let why = self.limit(of: project)?.refusal(of: shape.resources) {
      return "the limit of project \(project): \(why)"
    }
    let pool = Self.name(of: shape.pool)
    return self.policy.poolLimits[pool]?.refusal(of: shape.resources).map {
      "the limit of pool \(pool): \($0)"
    }
  }
}
