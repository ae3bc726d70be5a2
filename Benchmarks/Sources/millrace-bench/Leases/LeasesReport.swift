import Glibc

/// The CPU time of some processes, and of this one, up to a moment.
struct Usage: Sendable {
  private var times: [(name: String, time: Duration)]

  static func now(of processes: [(name: String, pid: pid_t)]) -> Usage {
    Usage(
      times: (processes + [(StackUsage.client, getpid())]).map {
        ($0.name, ProcessStatus($0.pid)?.cpuTime ?? .zero)
      })
  }

  /// What was used since an earlier moment, by name.
  func since(_ earlier: Usage) -> [(name: String, time: Duration)] {
    zip(self.times, earlier.times).map { ($0.name, $0.time - $1.time) }
  }
}

/// What a measurement of leases found. Encoded, it is what `--output json` prints.
struct LeasesReport: Encodable, Sendable {
  struct Latency: Encodable, Sendable {
    var name: String
    var count: Int
    var p50Milliseconds: Double
    var p90Milliseconds: Double
    var p99Milliseconds: Double
    var maximumMilliseconds: Double

    init?(_ name: String, _ durations: [Duration]) {
      guard let distribution = Distribution(durations) else { return nil }
      self.name = name
      self.count = distribution.count
      self.p50Milliseconds = distribution.p50.seconds * 1_000
      self.p90Milliseconds = distribution.p90.seconds * 1_000
      self.p99Milliseconds = distribution.p99.seconds * 1_000
      self.maximumMilliseconds = distribution.maximum.seconds * 1_000
    }
  }

  var executors: Int
  var leasesPerSecond: Int
  var heartbeatsPerSecond: Double
  var latencies: [Latency]
  /// CPU seconds while it was measured.
  var cpuSeconds: [String: Double]
  var problems: [String]

  init(
    _ benchmark: LeasesBenchmark, _ summary: Ledger.Summary,
    _ used: [(name: String, time: Duration)]
  ) {
    self.executors = benchmark.executors
    self.leasesPerSecond = benchmark.rate
    self.heartbeatsPerSecond = Double(summary.heartbeats.count) / benchmark.duration.seconds
    self.latencies = [
      Latency("lease", summary.grants), Latency("heartbeat", summary.heartbeats),
      Latency("behind its moment", summary.delays),
    ].compactMap(\.self)
    self.cpuSeconds = Dictionary(used.map { ($0.name, $0.time.seconds) }) { $0 + $1 }
    self.problems = summary.problems
  }

  /// For people.
  var text: String {
    var lines = [
      "\(self.executors) executors, \(self.leasesPerSecond) leases and "
        + "\(Int(self.heartbeatsPerSecond)) heartbeats a second"
    ]
    func milliseconds(_ value: Double) -> String { "\((value * 1_000).rounded() / 1_000) ms" }
    for latency in self.latencies {
      lines.append(
        "\(latency.name): p50 \(milliseconds(latency.p50Milliseconds)), "
          + "p90 \(milliseconds(latency.p90Milliseconds)), "
          + "p99 \(milliseconds(latency.p99Milliseconds)), "
          + "max \(milliseconds(latency.maximumMilliseconds)) (\(latency.count))")
    }
    let cpu = self.cpuSeconds.sorted { $0.key < $1.key }
      .map { "\($0.key) \(($0.value * 100).rounded() / 100) s" }
    lines.append("CPU: " + cpu.joined(separator: ", "))
    return lines.joined(separator: "\n") + "\n"
  }
}
