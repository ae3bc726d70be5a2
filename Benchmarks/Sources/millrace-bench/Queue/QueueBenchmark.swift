import BuildProtos
import Glibc
import RPC

/// One measurement: a queue that is filled, and two that take it over.
struct QueueBenchmark: Sendable {
  /// A pool that no executor is in: what is to run there waits.
  private static let pool = "nobody"
  private static let probeTimeout = Duration.seconds(2)
  private static let probePause = Duration.milliseconds(20)
  private static let probesAtOnce = 16

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
      let first = try schedulers.start(1)
      defer { first.process.signal(SIGKILL) }
      var report = QueueReport(count: self.count)
      // The first builds are of another project each; and the first to come costs more than others.
      let (ids, _) = try await self.ask(first)
      let scheduler = try Scheduler(at: first.address)
      let (begin, end) = (self.projects, self.count - self.sample)

      Progress.say("submitting \(self.sample) builds to an empty queue")
      report.emptyPerSecond = try await self.submit(
        begin..<begin + self.sample, scheduler, &report)
      Progress.say("submitting \(end - begin - self.sample) more")
      if begin + self.sample < end {
        report.fillingPerSecond = try await self.submit(
          begin + self.sample..<end, scheduler, &report)
      }
      Progress.say("submitting the last \(self.sample)")
      report.fullPerSecond = try await self.submit(end..<self.count, scheduler, &report)
      report.memoryBytes = ProcessStatus.peakMemory(of: first.process.id) ?? 0
      await scheduler.close()

      Progress.say("a second scheduler joins")
      let second = try schedulers.start(2)
      defer { second.process.signal(SIGKILL) }
      report.joinSeconds = try await self.seconds(until: second, serves: ids, &report)
      Progress.say("the first is killed")
      first.process.signal(SIGKILL)
      report.takeOverSeconds = try await self.seconds(until: second, serves: ids, &report)
      Progress.say("the second is killed, and a third started")
      second.process.signal(SIGKILL)
      let third = try schedulers.start(3)
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

  // MARK: Who takes over

  /// How long it takes until a scheduler knows the first build of each project.
  private func seconds(
    until member: Schedulers.Member, serves ids: [String], _ report: inout QueueReport
  ) async throws -> Double {
    let (answers, seconds) = try await self.ask(member)
    let others = zip(ids, answers).count { $0 != $1 }
    if others > 0 {
      report.problems.append("\(others) of \(ids.count) builds are others after a take-over")
    }
    return seconds
  }

  /// Submits the first build of each project until a scheduler has taken all of them: those that are there
  /// are answered as they are.
  ///
  /// - Returns: Their ids, and how long it took.
  private func ask(
    _ member: Schedulers.Member
  ) async throws -> (ids: [String], seconds: Double) {
    let begin = ContinuousClock.now
    let channel = try RPCChannel(to: member.address)
    let client = SchedulerV1.SchedulerClient(channel)
    let load = self.load(0..<self.projects)
    let ids = try await withThrowingTaskGroup(of: [(Int, String)].self) { group in
      for part in 0..<Self.probesAtOnce {
        group.addTask {
          var ids: [(Int, String)] = []
          for project in stride(from: part, to: self.projects, by: Self.probesAtOnce) {
            let request = load.request(project)
            ids.append(
              (project, try await Self.submit(request, client, member, begin + self.timeout)))
          }
          return ids
        }
      }
      return try await group.reduce(into: Array(repeating: "", count: self.projects)) { ids, some in
        for (project, id) in some { ids[project] = id }
      }
    }
    await channel.close()
    return (ids, begin.duration(to: .now).seconds)
  }

  /// Asks often: it is the scheduler whose time is measured.
  private static func submit(
    _ request: SchedulerV1.SubmitBuildRequest, _ client: SchedulerV1.SchedulerClient,
    _ member: Schedulers.Member, _ end: ContinuousClock.Instant
  ) async throws -> String {
    while true {
      do {
        let answer = try await client.submitBuild(
          request, options: CallOptions(timeout: self.probeTimeout))
        return answer.build?.id ?? ""
      } catch let error as RPCError {
        try Task.checkCancellation()
        try member.check()
        guard [.unavailable, .deadlineExceeded, .resourceExhausted].contains(error.code),
          .now < end
        else { throw error }
        try await Task.sleep(for: self.probePause)
      }
    }
  }
}
