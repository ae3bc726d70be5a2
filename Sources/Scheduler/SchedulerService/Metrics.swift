import Domain
import SchedulerCore
import ServiceRuntime

/// What the scheduler counts.
struct Metrics: Sendable {
  let submitted: Counter
  let placements: Counter
  let leaseReuses: Counter
  let finished: [Outcome: Counter]
  let attempts: [Outcome: Counter]
  let deadNotifications: Counter
  let conflicts: Counter
  let storeFailures: Counter
  let unreadableRecords: Counter
  let pickup: Histogram
  let builds: Gauge
  let queuedWork: Gauge
  let oldestWait: Gauge
  let openDemands: Gauge
  let heldLeases: Gauge
  let runnerStreams: Gauge
  let watches: Gauge
  let allocatorConnected: Gauge
  let findings: [AuditFinding.Kind: Counter]
  let partitions: Gauge
  let replicas: Gauge
  let timesFenced: Counter
  let forwardedCalls: Counter

  /// From an idle farm to one that has a day's work before it.
  private static let pickupBuckets = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800,
    7_200,
  ]

  init(_ registry: MetricsRegistry) {
    func byOutcome(_ name: String, _ help: String) -> [Outcome: Counter] {
      Dictionary(
        uniqueKeysWithValues: Outcome.allCases.map { outcome in
          (outcome, registry.counter(name, help: help, labels: ["outcome": outcome.rawValue]))
        })
    }
    self.submitted = registry.counter(
      "millrace_scheduler_builds_submitted_total", help: "Builds that were committed and answered.")
    self.placements = registry.counter(
      "millrace_scheduler_placements_total", help: "Leases that were given to waiting work.")
    self.leaseReuses = registry.counter(
      "millrace_scheduler_lease_reuses_total",
      help: "Placements for which a lease went from a job that had ended to the next of its shape.")
    self.finished = byOutcome(
      "millrace_scheduler_builds_finished_total", "Builds whose end was committed.")
    self.attempts = byOutcome(
      "millrace_scheduler_attempts_finished_total", "Attempts at jobs, by why they ended.")
    self.deadNotifications = registry.counter(
      "millrace_scheduler_notifications_dead_total",
      help: "Notifications that were given up; nobody was told of their builds' ends.")
    self.conflicts = registry.counter(
      "millrace_scheduler_write_conflicts_total",
      help: "Writes that met a record that was not as expected.")
    self.storeFailures = registry.counter(
      "millrace_scheduler_store_failures_total",
      help: "Writes and reads whose end nobody knows; they are tried again.")
    self.unreadableRecords = registry.counter(
      "millrace_scheduler_unreadable_records_total", help: "Records that could not be read.")
    self.pickup = registry.histogram(
      "millrace_scheduler_pickup_seconds", help: "From waiting for an executor to its lease.",
      buckets: Self.pickupBuckets)
    self.builds = registry.gauge(
      "millrace_scheduler_active_builds", help: "Builds that are not done with.")
    self.queuedWork = registry.gauge(
      "millrace_scheduler_queued_jobs", help: "Jobs and notifications that wait for an executor.")
    self.oldestWait = registry.gauge(
      "millrace_scheduler_oldest_wait_seconds",
      help: "How long the work has waited that waits longest.")
    self.openDemands = registry.gauge(
      "millrace_scheduler_open_demands", help: "Leases that the allocator is asked for.")
    self.heldLeases = registry.gauge("millrace_scheduler_held_leases", help: "Leases in use.")
    self.runnerStreams = registry.gauge(
      "millrace_scheduler_runner_streams", help: "Attempts whose events are being followed.")
    self.watches = registry.gauge("millrace_scheduler_watches", help: "Builds being watched.")
    self.allocatorConnected = registry.gauge(
      "millrace_scheduler_allocator_connected", help: "1 while the stream to the allocator is open."
    )
    self.findings = Dictionary(
      uniqueKeysWithValues: AuditFinding.Kind.allCases.map { kind in
        (
          kind,
          registry.counter(
            "millrace_scheduler_audit_findings_total",
            help: "What did not agree with a record and was put right; each is logged.",
            labels: ["kind": kind.rawValue])
        )
      })
    self.partitions = registry.gauge(
      "millrace_scheduler_partitions", help: "Partitions of projects that this scheduler owns.")
    self.replicas = registry.gauge(
      "millrace_scheduler_replicas", help: "Schedulers that have a session, this one with them.")
    self.timesFenced = registry.counter(
      "millrace_scheduler_fenced_total",
      help: "How often the others gave this scheduler up for dead while it was not.")
    self.forwardedCalls = registry.counter(
      "millrace_scheduler_forwarded_calls_total",
      help: "Calls that were passed on to the scheduler that owns the build.")
  }

  func record(_ tally: Tally) {
    self.submitted.increment(by: Int64(tally.submitted))
    self.placements.increment(by: Int64(tally.placements))
    self.leaseReuses.increment(by: Int64(tally.reuses))
    for wait in tally.pickups { self.pickup.observe(wait) }
    for (outcome, count) in tally.finished { self.finished[outcome]?.increment(by: Int64(count)) }
    for (outcome, count) in tally.attempts { self.attempts[outcome]?.increment(by: Int64(count)) }
    self.deadNotifications.increment(by: Int64(tally.deadNotifications))
    self.conflicts.increment(by: Int64(tally.conflicts))
    self.storeFailures.increment(by: Int64(tally.storeFailures))
    for (kind, count) in tally.findings { self.findings[kind]?.increment(by: Int64(count)) }
  }
}

extension Gauge {
  /// In seconds.
  func set(_ duration: Duration) { self.set(duration / .seconds(1)) }
}
