import ArgumentParser

/// Measures a scheduler with a long queue.
struct QueueCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "queue",
    abstract:
      "Fills a scheduler's queue with builds that nobody runs, and has others take it over.",
    discussion: """
      Starts a redis-server, an executor-allocator without executors, a datastore-gateway over \
      SQLite and a scheduler, in a temporary directory below $TMPDIR. Compares how fast builds are \
      taken while the queue is empty and when it is full; then a second scheduler joins, the first \
      is killed, and at last the second is killed and a third one started. Ends with 1 if a build \
      was not accepted, or is another one afterwards.
      """)

  @Option(help: "How many builds of one job each are queued in the end.")
  var count = 1_000_000

  @Option(
    help: ArgumentHelp(
      "How many builds the speed is measured with, at either end.",
      discussion: """
        Of fewer than some 40,000 the datastore's log takes most at an empty queue, before its first \
        checkpoint, and any checkpoint at a full one weighs much.
        """))
  var sample = 50_000

  @Option(help: "How many calls to submit a build may be open at a time.")
  var concurrency = 256

  @Option(
    help: "Of how many projects the builds are, in turn. The first of each are not measured.")
  var projects = 1_000

  @Option(
    help: ArgumentHelp(
      "How long one build may take to be accepted, and a queue to be taken over.",
      valueName: "seconds"))
  var timeout = 600

  @Option(
    help: ArgumentHelp(
      "The programs' directory; else $MILLRACE_BIN, else \(LocalStack.defaultPrograms).",
      valueName: "dir"))
  var bin: String?

  @Option(help: "text or json.")
  var output = BuildsCommand.OutputFormat.text

  func validate() throws {
    try checkOption("count", self.count, 6...10_000_000)
    try checkOption("sample", self.sample, 1...(self.count / 3))
    try checkOption("concurrency", self.concurrency, 1...Load.maximumConcurrency)
    try checkOption("projects", self.projects, 2...(self.count / 3))
    try checkOption("timeout", self.timeout, 1...86_400)
  }

  func run() async throws {
    let command = self
    let report = try await Interrupts.cancelling {
      let programs = LocalStack.programs(command.bin)
      return try await AllocatorAlone(programs: programs).run(heartbeat: .seconds(1)) { allocator in
        try await QueueBenchmark(
          count: command.count, sample: command.sample, concurrency: command.concurrency,
          projects: command.projects, timeout: .seconds(command.timeout)
        ).run(over: allocator, programs: programs)
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
