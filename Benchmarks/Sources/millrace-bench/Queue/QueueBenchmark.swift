import BuildProtos
import Glibc
import RPC

/// One measurement: a queue that is filled, and two that take it over.
struct QueueBenchmark: Sendable {
  /// A pool that no executor is in: what is to run there waits.
  private static let pool = "nobody"
  private static let probeTimeout = Duration.seconds(2)
  private static let probePause = Duration.milliseconds(20)
  private static let probesAtOnce = 64

  var count: Int
  var sample: Int
  var concurrency: Int
  var projects: Int
  var timeout: Duration

  /// Tells this run's builds from those of others.
  private let run = String(UInt64.random(in: .min ... .max), radix: 36)

  init(count: Int, sample: Int, concurrency: Int, projects: Int, timeout: Duration) {
    self.count = count
    self.sample = sample
    self.concurrency = concurrency
    self.projects = projects
    self.timeout = timeout
  }

  func run(over allocator: AllocatorAlone.Running, programs: String) async throws -> QueueReport {
    try await Schedulers.run(
      programs: programs, allocator: allocator.address, maximumQueued: self.count
    ) { schedulers in
      let first = try schedulers.start("first")
      defer { first.process.signal(SIGKILL) }
      let scheduler = try Scheduler(at: first.address)
      var report = QueueReport(count: self.count)

      Progress.say("submitting \(self.sample) builds to an empty queue")
      report.emptyPerSecond = try await self.submit(0..<self.sample, scheduler, &report)
      let ids = try await self.firstBuilds(scheduler)
      let middle = self.sample..<(self.count - self.sample)
      Progress.say("submitting \(middle.count) more")
      if !middle.isEmpty { _ = try await self.submit(middle, scheduler, &report) }
      Progress.say("submitting the last \(self.sample)")
      report.fullPerSecond = try await self.submit(
        middle.upperBound..<self.count, scheduler, &report)
      report.memoryBytes = ProcessStatus.peakMemory(of: first.process.id) ?? 0
      await scheduler.close()

      Progress.say("a second scheduler joins")
      let second = try schedulers.start("second")
      defer { second.process.signal(SIGKILL) }
      report.joinSeconds = try await self.seconds(until: second, serves: ids, &report)
      Progress.say("the first is killed")
      first.process.signal(SIGKILL)
      report.takeOverSeconds = try await self.seconds(until: second, serves: ids, &report)
      Progress.say("the second is killed, and a third started")
      second.process.signal(SIGKILL)
      let third = try schedulers.start("third")
      defer { third.process.signal(SIGKILL) }
      report.restartSeconds = try await self.seconds(until: third, serves: ids, &report)
      report.restartedMemoryBytes = ProcessStatus.peakMemory(of: third.process.id) ?? 0
      return report
    }
  }

  // MARK: Submissions

  /// How many builds a second were answered.
  private func submit(
    _ range: Range<Int>, _ scheduler: Scheduler, _ report: inout QueueReport
  ) async throws -> Double {
    let load = self.load(range)
    let clock = RunClock()
    let submissions = try await load.run(on: scheduler, clock)
    let seconds = clock.now.seconds
    report.refusals += submissions.reduce(0) { $0 + $1.refusals }
    let failed = submissions.compactMap { submission -> String? in
      if case .failed(let error) = submission.end { error } else { nil }
    }
    if let first = failed.first {
      report.problems.append("\(failed.count) builds were not accepted; the first: \(first)")
    }
    return Double(submissions.count - failed.count) / seconds
  }

  private func load(_ range: Range<Int>) -> Load {
    Load(
      project: "queue/\(self.run)", count: range.count, concurrency: self.concurrency, rate: nil,
      step: .plugin, timeout: self.timeout, projects: self.projects, first: range.lowerBound,
      pool: Self.pool)
  }

  /// The id of each project's first build.
  private func firstBuilds(_ scheduler: Scheduler) async throws -> [String] {
    let load = self.load(0..<self.count)
    var ids: [String] = []
    for project in 0..<self.projects {
      var patience = Patience(limit: self.timeout)
      ids.append(try await scheduler.submit(load.request(project), &patience))
    }
    return ids
  }

  // MARK: Who takes over

  /// How long it takes until a scheduler knows the first build of each project: asked to take it again, it
  /// answers with the build that is there.
  private func seconds(
    until member: Schedulers.Member, serves ids: [String], _ report: inout QueueReport
  ) async throws -> Double {
    let begin = ContinuousClock.now
    let channel = try RPCChannel(to: member.address)
    let client = SchedulerV1.SchedulerClient(channel)
    let load = self.load(0..<self.count)
    let others = try await withThrowingTaskGroup(of: Int.self) { group in
      for part in 0..<Self.probesAtOnce {
        group.addTask {
          var others = 0
          for project in stride(from: part, to: ids.count, by: Self.probesAtOnce) {
            let answer = try await Self.probe(
              client, load.request(project), begin + self.timeout)
            if answer != ids[project] { others += 1 }
          }
          return others
        }
      }
      return try await group.reduce(0, +)
    }
    await channel.close()
    if others > 0 {
      report.problems.append("\(others) of \(ids.count) builds are others after a take-over")
    }
    return begin.duration(to: .now).seconds
  }

  private static func probe(
    _ client: SchedulerV1.SchedulerClient, _ request: SchedulerV1.SubmitBuildRequest,
    _ end: ContinuousClock.Instant
  ) async throws -> String? {
    while true {
      do {
        return try await client.submitBuild(
          request, options: CallOptions(timeout: self.probeTimeout)
        ).build?.id
      } catch let error as RPCError {
        try Task.checkCancellation()
        guard [.unavailable, .deadlineExceeded, .resourceExhausted].contains(error.code),
          .now < end
        else { throw error }
        try await Task.sleep(for: self.probePause)
      }
    }
  }
}
