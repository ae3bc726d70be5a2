import Domain
import ExecutorAllocatorCore
import RedisClient
import ServiceRuntime

/// What the allocator counts.
struct Metrics: Sendable {
  private let registry: MetricsRegistry
  let grants: Counter
  let unsatisfiable: Counter
  let released: Counter
  let heartbeats: Counter
  let refusedHeartbeats: Counter
  let lost: [EndedLease.Cause: Counter]
  let tableFailures: Counter
  let streams: Gauge
  let openDemand: Gauge
  let watchedLeases: Gauge
  let executors: Gauge
  let tableConnected: Gauge
  let scriptTime: [String: Histogram]

  /// From a script on a quiet Redis to one that is about to be given up.
  private static let scriptBuckets = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5,
  ]

  init(_ registry: MetricsRegistry) {
    self.registry = registry
    self.grants = registry.counter(
      "millrace_allocator_leases_granted_total", help: "Leases that schedulers were sent.")
    self.unsatisfiable = registry.counter(
      "millrace_allocator_demands_unsatisfiable_total",
      help: "Demands that no known executor could ever meet, or that were wrong.")
    self.released = registry.counter(
      "millrace_allocator_leases_released_total", help: "Leases that schedulers gave back.")
    self.heartbeats = registry.counter(
      "millrace_allocator_heartbeats_total", help: "Heartbeats that were recorded.")
    self.refusedHeartbeats = registry.counter(
      "millrace_allocator_heartbeats_refused_total",
      help: "Heartbeats that were wrong, of a name in use, or that Redis did not take.")
    var lost: [EndedLease.Cause: Counter] = [:]
    for cause in EndedLease.Cause.allCases {
      lost[cause] = registry.counter(
        "millrace_allocator_leases_lost_total",
        help: "Leases that ended by themselves, as schedulers were told.",
        labels: ["cause": cause.rawValue])
    }
    self.lost = lost
    self.tableFailures = registry.counter(
      "millrace_allocator_redis_failures_total", help: "Scripts that Redis did not carry out.")
    self.streams = registry.gauge(
      "millrace_allocator_streams", help: "Schedulers that are connected.")
    self.openDemand = registry.gauge(
      "millrace_allocator_open_demand", help: "Demands without a lease.")
    self.watchedLeases = registry.gauge(
      "millrace_allocator_watched_leases", help: "Leases that connected schedulers count on.")
    self.executors = registry.gauge(
      "millrace_allocator_executors", help: "Executors in the table, as the last sweep saw it.")
    self.tableConnected = registry.gauge(
      "millrace_allocator_redis_connected", help: "1 while Redis answers.")
    var scriptTime: [String: Histogram] = [:]
    for script in Scripts.all {
      scriptTime[script.name] = registry.histogram(
        "millrace_allocator_script_seconds", help: "From sending a script to its result.",
        labels: ["script": script.name], buckets: Self.scriptBuckets)
    }
    self.scriptTime = scriptTime
  }

  /// Pools that are shown: names come from whoever reports or demands.
  private static let maximumPools = 200

  /// How many executors each pool should have. One that is not named any more needs none.
  ///
  /// - Parameter shown: The pools of which something was shown.
  func show(desired: [PoolName: Int], beside shown: inout Set<PoolName>) {
    for pool in shown where desired[pool] == nil { self.desired(pool).set(0) }
    for (pool, count) in desired.sorted(by: { $0.key < $1.key })
    where shown.contains(pool) || shown.count < Self.maximumPools {
      shown.insert(pool)
      self.desired(pool).set(count)
    }
  }

  private func desired(_ pool: PoolName) -> Gauge {
    self.registry.gauge(
      "millrace_allocator_desired_executors",
      help: "Executors that leases and waiting demand need now, of the pool's usual size.",
      labels: ["pool": pool.rawValue])
  }

  func record(_ event: Effect.Event) {
    switch event {
    case .granted: self.grants.increment()
    case .unsatisfiable: self.unsatisfiable.increment()
    case .lost(let lease): self.lost[lease.cause]?.increment()
    case .waiting: break
    }
  }
}
