import ArgumentParser

/// Measures the executor-allocator alone: its service, over a real Redis.
struct LeasesCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "leases",
    abstract: "Asks an executor-allocator for leases on many executors, at a steady pace.",
    discussion: """
      Starts a redis-server and an executor-allocator in a temporary directory below $TMPDIR. This \
      program is the executors, each of which reports as often as it is told, with all that it \
      holds; and the scheduler, which asks for shares and gives them back. A lease's time is from \
      its demand to its grant. Ends with 1 if a demand got no lease, or a share was leased twice.
      """)

  @Option(help: "How many executors, of 4 CPUs, 8 GiB and 4 slots each.")
  var executors = 10_000

  @Option(help: ArgumentHelp("Demands a second.", valueName: "leases"))
  var rate = 2_000

  @Option(help: ArgumentHelp("How long is measured.", valueName: "seconds"))
  var seconds = 10

  @Option(
    help: ArgumentHelp("How long each lease is held before it is given back.", valueName: "ms"))
  var hold = 1_000

  @Option(help: ArgumentHelp("How often executors report.", valueName: "ms"))
  var heartbeat = 1_000

  @Option(
    help: ArgumentHelp("How much of the farm is leased all the time.", valueName: "percent"))
  var filled = 50

  @Option(
    help: ArgumentHelp(
      "The programs' directory; else $MILLRACE_BIN, else \(LocalStack.defaultPrograms).",
      valueName: "dir"))
  var bin: String?

  @Option(help: "text or json.")
  var output = BuildsCommand.OutputFormat.text

  func validate() throws {
    try checkOption("executors", self.executors, 1...100_000)
    try checkOption("rate", self.rate, 1...100_000)
    try checkOption("seconds", self.seconds, 1...3_600)
    try checkOption("hold", self.hold, 1...60_000)
    // An executor is suspect after 3 s.
    try checkOption("heartbeat", self.heartbeat, 50...2_900)
    try checkOption("filled", self.filled, 0...90)
  }

  func run() async throws {
    let command = self
    let report = try await Interrupts.cancelling {
      try await AllocatorAlone(programs: LocalStack.programs(command.bin)).run(
        heartbeat: .milliseconds(command.heartbeat)
      ) { allocator in
        try await LeasesBenchmark(
          executors: command.executors, rate: command.rate, duration: .seconds(command.seconds),
          hold: .milliseconds(command.hold), filled: Double(command.filled) / 100
        ).run(on: allocator)
      }
    }
    switch self.output {
    case .text: print(report.text, terminator: "")
    case .json: print(report.json)
    }
    for problem in report.problems { Progress.say("millrace-bench: \(problem)") }
    if !report.problems.isEmpty { throw ExitCode.failure }
  }
}
