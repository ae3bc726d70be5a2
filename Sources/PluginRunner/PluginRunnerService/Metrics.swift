import Domain
import PluginRunnerCore
import ServiceRuntime

/// What the runner counts.
struct RunnerMetrics: Sendable {
  let accepted: Counter
  private let ends: [Outcome: Counter]
  private let durations: Histogram
  private let cpuSeconds: Counter

  init(_ registry: MetricsRegistry) {
    self.accepted = registry.counter(
      "millrace_runner_attempts_accepted_total", help: "Attempts taken")
    var ends: [Outcome: Counter] = [:]
    for outcome in Outcome.allCases {
      ends[outcome] = registry.counter(
        "millrace_runner_attempts_finished_total", help: "Attempts that ended, by outcome",
        labels: ["outcome": outcome.rawValue])
    }
    self.ends = ends
    self.durations = registry.histogram(
      "millrace_runner_attempt_duration_seconds", help: "Wall time of attempts",
      buckets: [0.01, 0.1, 1, 10, 60, 600, 3_600])
    self.cpuSeconds = registry.counter(
      "millrace_runner_cpu_microseconds_total", help: "CPU time that steps used")
  }

  func ended(_ end: JobEnd) {
    self.ends[end.outcome]?.increment(by: 1)
    self.durations.observe(end.usage.wallTime)
    self.cpuSeconds.increment(by: max(0, end.usage.cpuTime.microseconds))
  }
}
