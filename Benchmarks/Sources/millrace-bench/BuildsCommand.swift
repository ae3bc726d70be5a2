import ArgumentParser

/// Measures whole builds, from the call that submits them to their end.
struct BuildsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "builds", abstract: "Submits no-op builds and waits until all have finished.",
    discussion: """
      Starts a stack of separate processes with `millrace up`, in a temporary directory below \
      $TMPDIR and on free ports, and stops it again; or takes the running one of --stack. A few \
      builds go ahead to warm it up and are not counted. Ends with 1 if a build is missing or did \
      not succeed.
      """)

  /// How the result is printed.
  enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
    case text, json
  }

  @Option(help: "How many builds.")
  var count: Int

  @Option(help: "How many calls to submit a build may be open at a time.")
  var concurrency = 64

  @Option(
    help: ArgumentHelp(
      "Submit so many builds a second, whether or not earlier ones are answered, within the bound "
        + "of --concurrency; else each as soon as there is room for its call.",
      valueName: "builds"))
  var rate: Double?

  @Option(help: ArgumentHelp("What a build does: \(NoOpStep.help).", valueName: "step"))
  var step = NoOpStep.plugin

  @Option(help: "How many plugin-runners the stack has; else 1.")
  var runners: Int?

  @Option(help: "Jobs at a time on each runner; else one for each CPU, as everywhere.")
  var slots: Int?

  @Option(
    help: ArgumentHelp(
      "The programs' directory; else $MILLRACE_BIN, else \(LocalStack.defaultPrograms).",
      valueName: "dir"))
  var bin: String?

  @Option(help: ArgumentHelp("The data directory of a running `millrace up`.", valueName: "dir"))
  var stack: String?

  @Option(help: ArgumentHelp("Builds that go ahead and are not counted.", valueName: "builds"))
  var warmUp = 32

  @Option(
    help: ArgumentHelp(
      "How long one build may take to be accepted, and all of them to finish after the last one "
        + "was.", valueName: "seconds"))
  var timeout = 600

  @Flag(help: "Leave the temporary directory, with every process' log, where it is.")
  var keep = false

  @Option(help: "text or json.")
  var output = OutputFormat.text

  func validate() throws {
    try checkOption("count", self.count, 1...10_000_000)
    try checkOption("concurrency", self.concurrency, 1...Load.maximumConcurrency)
    try checkOption("runners", self.runners, 1...64)
    try checkOption("slots", self.slots, 1...NoOpStep.maximumSlots)
    try checkOption("warm-up", self.warmUp, 0...10_000)
    try checkOption("timeout", self.timeout, 1...86_400)
    if let rate = self.rate, !(rate > 0 && rate <= 1_000_000) {
      throw ValidationError("--rate \(rate): expected more than 0, and at most 1000000")
    }
    if self.stack != nil, self.runners != nil || self.slots != nil || self.bin != nil || self.keep {
      throw ValidationError(
        "--runners, --slots, --bin and --keep are for a stack of its own, not for that of --stack")
    }
  }

  func run() async throws {
    let command = self
    let report = try await Interrupts.cancelling { try await command.report() }
    switch self.output {
    case .text: print(report.text, terminator: "")
    case .json: print(report.json)
    }
    for problem in report.problems { Progress.say("millrace-bench: \(problem)") }
    if !report.problems.isEmpty { throw ExitCode.failure }
  }

  private func report() async throws -> BuildsReport {
    let benchmark = BuildsBenchmark(
      count: self.count, concurrency: self.concurrency, rate: self.rate, step: self.step,
      warmUp: self.warmUp, timeout: .seconds(self.timeout))
    if let data = self.stack {
      guard let stack = StackFile.read(in: data) else {
        throw BenchmarkFailure("no `millrace up` runs on \(data)")
      }
      return try await benchmark.run(on: stack)
    }
    let plan = LocalStack(
      programs: LocalStack.programs(self.bin), runners: self.runners ?? 1, slots: self.slots,
      isKept: self.keep)
    return try await plan.run { try await benchmark.run(on: $0) }
  }
}
