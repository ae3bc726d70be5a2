import BuildProtos

/// One measurement: a warm stack, a load, the builds' end, and what the records say.
struct BuildsBenchmark: Sendable {
  var count: Int
  var concurrency: Int
  var rate: Double?
  var step: NoOpStep
  var warmUp: Int
  var timeout: Duration

  /// Tells this run's builds from those of others.
  private let run = String(UInt64.random(in: .min ... .max), radix: 36)

  init(
    count: Int, concurrency: Int, rate: Double?, step: NoOpStep, warmUp: Int, timeout: Duration
  ) {
    self.count = count
    self.concurrency = concurrency
    self.rate = rate
    self.step = step
    self.warmUp = warmUp
    self.timeout = timeout
  }

  func run(on stack: StackFile) async throws -> BuildsReport {
    let scheduler = try Scheduler(at: stack.addresses.scheduler)
    let executors = try await Executors.ready(of: stack, within: self.timeout)
    if self.warmUp > 0 { try await self.warmUp(scheduler) }

    Progress.say("submitting \(self.count) builds")
    let load = Load(
      project: "bench/\(self.run)", count: self.count, concurrency: self.concurrency,
      rate: self.rate, step: self.step, timeout: self.timeout)
    let before = StackUsage.now(of: stack)
    let clock = RunClock()
    let submissions = try await load.run(on: scheduler, clock)
    Progress.say("waiting until all have finished")
    try await scheduler.waitUntilFinished(load.project, within: self.timeout)
    let recorded = clock.now
    let after = StackUsage.now(of: StackFile.read(in: stack.data) ?? stack)

    Progress.say("reading the records")
    let builds = try await scheduler.builds(of: load.project, within: self.timeout)
    var steps: [Duration] = []
    if self.rate != nil {
      Progress.say("reading when steps began")
      steps = try await self.pickUps(submissions, scheduler, clock)
    }
    await scheduler.close()
    return BuildsReport(
      load: load, executors: executors, submissions: submissions, builds: builds,
      recorded: recorded, pickUps: steps, clock: clock, usage: after.since(before))
  }

  /// From the submission of each build to the beginning of its first step. A list of builds tells
  /// nothing of steps, so each build is asked for.
  private func pickUps(
    _ submissions: [Submission], _ scheduler: Scheduler, _ clock: RunClock
  ) async throws -> [Duration] {
    var durations: [Duration] = []
    for submission in submissions {
      guard let id = submission.buildID else { continue }
      let build = try await scheduler.build(id, within: self.timeout)
      let step = build?.jobs.first?.attempts.first?.steps.first
      if let began = step?.startedAt {
        durations.append(clock.moment(began) - submission.submitted)
      }
    }
    return durations
  }

  /// Starts what is started by the first builds: plugins, connections, prepared statements.
  private func warmUp(_ scheduler: Scheduler) async throws {
    Progress.say("warming up with \(self.warmUp) builds")
    let load = Load(
      project: "bench-warm-up/\(self.run)", count: self.warmUp, concurrency: self.concurrency,
      rate: nil, step: self.step, timeout: self.timeout)
    let clock = RunClock()
    let submissions = try await load.run(on: scheduler, clock)
    try await scheduler.waitUntilFinished(load.project, within: self.timeout)
    let builds = try await scheduler.builds(of: load.project, within: self.timeout)
    if let problem = Verdict(submissions, builds).problems.first {
      throw BenchmarkFailure("the warm-up failed: \(problem)")
    }
  }
}
