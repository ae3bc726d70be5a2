import Domain
import RPC
import SchedulerCore
import ServiceRuntime

/// The scheduler's settings, beside those that every service has.
package struct Configuration: Sendable {
  package static let settings: [Setting] = {
    let policy = Policy()
    return [
      Setting(
        "gateway", default: "127.0.0.1:7104", kind: .address,
        help: "The datastore-gateway, which keeps the builds' records"),
      Setting(
        "allocator", default: "127.0.0.1:7102", kind: .address,
        help: "The executor-allocator, which grants leases on executors"),
      Setting(
        "advertise", default: "",
        help: "address under which other schedulers reach this one; empty is the one it listens "
          + "on, or under the host's name if that is every address"),
      Setting(
        "datastore-project", default: "millrace",
        help: "The datastore's project that the records are kept in"),
      Setting(
        "datastore-namespace", default: "",
        help: "The datastore's namespace that the records are kept in"),
      Setting(
        "max-queued-jobs", default: String(policy.maximumQueuedJobs), kind: .integer,
        help: "Jobs that may wait; beyond that a submission is told to come back"),
      Setting(
        "default-cpu", default: "1", help: "What a job asks for that says no resources.cpu"),
      Setting(
        "default-memory", default: "1GiB",
        help: "What a job asks for that says no resources.memory"),
      Setting(
        "default-timeout", default: "60m", kind: .duration,
        help: "How long a job may take that says no timeout-minutes"),
      Setting(
        "queue-timeout", default: "24h", kind: .duration,
        help: "How long a job may wait for an executor"),
      Setting(
        "lease-reuse", default: "1s", kind: .duration,
        help: "For how long after its grant a lease may go from one job to the next of its kind "
          + "without the allocator; 0s is never"),
      Setting(
        "project-weights", default: "",
        help: "Projects that are to get more or less than others, as PROJECT=WEIGHT, separated by "
          + "commas; others have 1"),
      Setting(
        "project-limits", default: "",
        help: "What may run of a project at a time, as PROJECT=jobs:N+cpu:N+memory:SIZE, separated "
          + "by commas; the project * is every other one"),
      Setting(
        "pool-limits", default: "",
        help: "What may run in a pool at a time, written as project-limits is; several schedulers "
          + "share it"),
    ]
  }()

  private static let longestLeaseReuse = Duration.seconds(60)
  /// What a project's weight can be.
  private static let weights = 0.01...100.0

  package var gateway: String
  package var allocator: String
  /// Nil: as it is bound.
  package var advertise: String?
  package var datastoreProject: String
  package var datastoreNamespace: String
  package var policy = Policy()

  package init(_ settings: SettingValues) throws(SettingError) {
    self.gateway = settings.string("gateway")
    self.allocator = settings.string("allocator")
    let advertise = settings.string("advertise")
    do {
      self.advertise = advertise.isEmpty ? nil : "\(try ListenAddress(advertise))"
    } catch {
      throw settings.wrong("advertise", "it is no address: \(error.reason)")
    }
    self.datastoreProject = settings.string("datastore-project")
    self.datastoreNamespace = settings.string("datastore-namespace")
    if self.datastoreProject.isEmpty {
      throw settings.wrong("datastore-project", "the records need a project to be kept in")
    }
    self.policy.maximumQueuedJobs = try settings.int("max-queued-jobs", in: 1...10_000_000)
    guard let cpu = PipelineQuantity.cpuMillis(settings.string("default-cpu")) else {
      throw settings.wrong("default-cpu", "it is not a number of CPUs such as 2, 0.5 or 500m")
    }
    guard let memory = PipelineQuantity.memory(settings.string("default-memory")) else {
      throw settings.wrong("default-memory", "it is not an amount of memory such as 4GiB")
    }
    self.policy.standardResources = Resources(cpuMillis: cpu, memory: memory)
    self.policy.standardTimeout = try settings.duration("default-timeout")
    if self.policy.standardTimeout <= .zero {
      throw settings.wrong("default-timeout", "it must be above 0")
    }
    self.policy.queueTimeout = try settings.duration("queue-timeout")
    if self.policy.queueTimeout <= .zero {
      throw settings.wrong("queue-timeout", "it must be above 0")
    }
    self.policy.leaseReuse = try settings.duration("lease-reuse")
    if self.policy.leaseReuse > Self.longestLeaseReuse {
      throw settings.wrong(
        "lease-reuse", "it must not be above \(Self.longestLeaseReuse): others wait meanwhile")
    }
    for part in settings.string("project-weights").split(separator: ",") {
      let words = part.split(separator: "=", omittingEmptySubsequences: false)
      guard words.count == 2, !words[0].isEmpty, let weight = Double(words[1]),
        Self.weights.contains(weight)
      else {
        throw settings.wrong(
          "project-weights",
          "\"\(part)\" is not PROJECT=WEIGHT with a weight from \(Self.weights.lowerBound) to "
            + "\(Self.weights.upperBound)")
      }
      self.policy.weights[ProjectID(String(words[0]))] = weight
    }
    for (project, limit) in try Self.limits(settings, "project-limits") {
      if project == "*" {
        self.policy.standardProjectLimit = limit
      } else {
        self.policy.projectLimits[ProjectID(project)] = limit
      }
    }
    self.policy.poolLimits = try Self.limits(settings, "pool-limits")
  }

  private static func limits(
    _ settings: SettingValues, _ name: String
  ) throws(SettingError) -> [String: RunningLimit] {
    var limits: [String: RunningLimit] = [:]
    for part in settings.string(name).split(separator: ",") {
      guard let end = part.lastIndex(of: "="), end > part.startIndex,
        let limit = Self.limit(part[part.index(after: end)...])
      else {
        throw settings.wrong(
          name, "\"\(part)\" is not NAME=LIMIT, with a limit such as jobs:20+cpu:40+memory:80GiB")
      }
      guard limits.updateValue(limit, forKey: String(part[..<end])) == nil else {
        throw settings.wrong(name, "\"\(part[..<end])\" stands there twice")
      }
    }
    return limits
  }

  /// Nil for what is none, or says something twice.
  private static func limit(_ text: Substring) -> RunningLimit? {
    var limit = RunningLimit()
    for part in text.split(separator: "+", omittingEmptySubsequences: false) {
      let words = part.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
      guard words.count == 2 else { return nil }
      switch words[0] {
      case "jobs" where limit.jobs == nil:
        guard let jobs = Int(words[1]), jobs >= 1 else { return nil }
        limit.jobs = jobs
      case "cpu" where limit.cpuMillis == nil:
        guard let cpuMillis = PipelineQuantity.cpuMillis(words[1]) else { return nil }
        limit.cpuMillis = cpuMillis
      case "memory" where limit.memory == nil:
        guard let memory = PipelineQuantity.memory(words[1]) else { return nil }
        limit.memory = memory
      default: return nil
      }
    }
    return limit
  }
}
