import BuildProtos
import RPC

/// What a measurement of builds found. Encoded, it is what `--output json` prints.
struct BuildsReport: Encodable, Sendable {
  /// How builds were submitted.
  struct Setup: Encodable, Sendable {
    var count: Int
    var concurrency: Int
    /// Builds a second; absent if each was submitted as soon as there was room.
    var rate: Double?
    var step: String
    var runners: Int
    var slots: Int
  }

  /// Builds that reached something, and how fast.
  struct Throughput: Encodable, Sendable {
    var builds: Int
    /// From the beginning to the last one.
    var seconds: Double
    var buildsPerSecond: Double

    init(_ moments: [Duration]) {
      self.init(moments.count, until: moments.max() ?? .zero)
    }

    init(_ builds: Int, until end: Duration) {
      let seconds = end.seconds
      self.builds = builds
      self.seconds = seconds
      self.buildsPerSecond = seconds > 0 ? Double(builds) / seconds : 0
    }
  }

  struct Latency: Encodable, Sendable {
    var name: String
    var builds: Int
    var p50Milliseconds: Double
    var p90Milliseconds: Double
    var p99Milliseconds: Double
    var maximumMilliseconds: Double
    /// Which clocks it is from.
    var measuredBy: String

    init?(_ name: String, by measuredBy: String, _ durations: [Duration]) {
      guard let distribution = Distribution(durations) else { return nil }
      self.name = name
      self.builds = distribution.count
      self.p50Milliseconds = distribution.p50.seconds * 1_000
      self.p90Milliseconds = distribution.p90.seconds * 1_000
      self.p99Milliseconds = distribution.p99.seconds * 1_000
      self.maximumMilliseconds = distribution.maximum.seconds * 1_000
      self.measuredBy = measuredBy
    }
  }

  struct Process: Encodable, Sendable {
    var name: String
    var pid: Int32
    /// Its own and its descendants', from the first submission until all builds had finished.
    var cpuSeconds: Double
    var childrenCPUSeconds: Double
    var cpuMicrosecondsPerBuild: Double
    /// VmHWM of the process itself, since its start.
    var peakMemoryBytes: Int64?
    /// It is not the process that was there at the beginning, whose CPU time is not known.
    var isRestarted: Bool

    init(_ used: StackUsage.Process, builds: Int) {
      let total = used.cpuTime + used.childrenCPUTime
      self.name = used.name
      self.pid = used.pid
      self.cpuSeconds = total.seconds
      self.childrenCPUSeconds = used.childrenCPUTime.seconds
      self.cpuMicrosecondsPerBuild = total.seconds * 1e6 / Double(max(1, builds))
      self.peakMemoryBytes = used.peakMemory
      self.isRestarted = used.isRestarted
    }
  }

  var setup: Setup
  /// Submissions that were answered.
  var answered: Throughput
  var finished: Throughput
  /// From the first submission until the client saw that every result is in the datastore.
  var recorded: Throughput
  /// Answers of RESOURCE_EXHAUSTED, after each of which the client waited as it was told.
  var refusals: Int
  /// Calls made again after UNAVAILABLE or DEADLINE_EXCEEDED.
  var repetitions: Int
  var latencies: [Latency]
  var processes: [Process]
  var outcomes: [String: Int]
  /// Empty if every build is there, once, and succeeded.
  var problems: [String]

  init(
    load: Load, executors: Executors.Capacity, submissions: [Submission],
    builds: [SchedulerV1.Build], recorded: Duration, pickUps: [Duration], clock: RunClock,
    usage: StackUsage
  ) {
    let answered = submissions.filter { $0.buildID != nil }
    let verdict = Verdict(submissions, builds)
    self.setup = Setup(
      count: load.count, concurrency: load.concurrency, rate: load.rate,
      step: load.step.description, runners: executors.executors, slots: executors.slots)
    self.answered = Throughput(answered.map(\.ended))
    self.finished = Throughput(builds.compactMap { $0.finishedAt.map(clock.moment) })
    self.recorded = Throughput(builds.count { $0.state == .finished }, until: recorded)
    self.refusals = submissions.reduce(0) { $0 + $1.refusals }
    self.repetitions = submissions.reduce(0) { $0 + $1.repetitions }
    self.latencies =
      Self.latencies(answered, builds, clock)
      + [Latency("step", by: "client, step's started_at", pickUps)].compactMap(\.self)
    self.processes = usage.processes.map { Process($0, builds: answered.count) }
    self.outcomes = verdict.outcomes
    self.problems = verdict.problems
  }

  private static func latencies(
    _ submissions: [Submission], _ builds: [SchedulerV1.Build], _ clock: RunClock
  ) -> [Latency] {
    let submitted = Dictionary(
      submissions.compactMap { submission in submission.buildID.map { ($0, submission.submitted) } }
    ) { first, _ in first }
    func durations(
      _ moment: (SchedulerV1.Build) -> GoogleProtobuf.Timestamp?
    ) -> [Duration] {
      builds.compactMap { build in
        guard let submitted = submitted[build.id], let moment = moment(build) else { return nil }
        return clock.moment(moment) - submitted
      }
    }
    return [
      Latency("answer", by: "client", submissions.map { $0.ended - $0.submitted }),
      Latency("start", by: "client, record's started_at", durations(\.startedAt)),
      Latency("finish", by: "client, record's finished_at", durations(\.finishedAt)),
    ].compactMap(\.self)
  }
}
