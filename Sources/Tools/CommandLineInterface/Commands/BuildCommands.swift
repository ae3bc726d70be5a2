import ArgumentParser
import BuildProtos
import Glibc
import RPC

/// Lists builds.
struct BuildsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "builds", abstract: "Lists builds, the newest first.")

  @Option(help: "Only this project's.")
  var project: String?

  @Flag(help: "Only builds that are not finished.")
  var active = false

  @Option(name: [.customShort("n"), .long], help: "How many at most.")
  var limit = 20

  @OptionGroup var global: GlobalOptions

  struct Report: Encodable {
    var builds: [BuildReport]
    /// There are more.
    var truncated: Bool
  }

  func validate() throws {
    guard (1...100_000).contains(self.limit) else {
      throw ValidationError("--limit \(self.limit): expected 1 to 100000")
    }
  }

  func run() async throws {
    let stack = try Connections(self.global)
    var builds: [SchedulerV1.Build] = []
    var token = ""
    repeat {
      let request = SchedulerV1.ListBuildsRequest(
        project: self.project ?? "", pageSize: Int32(min(1_000, self.limit - builds.count)),
        pageToken: token, active: self.active)
      let response = try await Connections.call(stack.scheduler) { channel in
        try await SchedulerV1.SchedulerClient(channel).listBuilds(
          request, options: CallOptions(timeout: Connections.timeout))
      }
      builds += response.builds
      token = response.nextPageToken
    } while !token.isEmpty && builds.count < self.limit
    builds = Array(builds.prefix(self.limit))
    switch self.global.output {
    case .json:
      Terminal.print(
        JSONText.document(
          Report(builds: builds.map(BuildReport.init), truncated: !token.isEmpty)))
    case .text:
      guard !builds.isEmpty else { return Terminal.print("no builds") }
      let now = currentTime()
      let rows = builds.map { build in
        [
          build.id, Sanitizer.line(build.project), Sanitizer.line(build.name),
          Words.state(build),
          "\(build.jobs.count { $0.state == .finished })/\(build.jobs.count)",
          build.createdAt.map { Words.duration(now.since($0)) + " ago" } ?? "",
          build.createdAt.map {
            Words.duration((build.finishedAt ?? now).since($0))
          } ?? "",
        ]
      }
      for line in Table.lines(
        header: ["BUILD", "PROJECT", "NAME", "STATE", "JOBS", "CREATED", "TOOK"], rows: rows)
      {
        Terminal.print(line)
      }
    }
  }
}

/// Cancels a build.
struct CancelCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "cancel", abstract: "Cancels a build.",
    discussion: "Final at once; processes are stopped behind it.")

  @Argument(help: "The build's id.")
  var build: String

  @Option(help: "Shown with the build.")
  var reason = "millrace cancel"

  @OptionGroup var global: GlobalOptions

  func run() async throws {
    let stack = try Connections(self.global)
    let response = try await Connections.call(stack.scheduler) { channel in
      try await SchedulerV1.SchedulerClient(channel).cancelBuild(
        SchedulerV1.CancelBuildRequest(buildID: self.build, reason: self.reason),
        options: CallOptions(timeout: Connections.timeout))
    }
    try printBuild(response.build, self.global)
  }
}

/// Runs what did not succeed again.
struct RetryCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "retry", abstract: "Runs the jobs of a finished build that did not succeed again."
  )

  @Argument(help: "The build's id.")
  var build: String

  @Option(help: ArgumentHelp("Only this job; may be repeated.", valueName: "job-id"))
  var job: [String] = []

  @Flag(name: [.customShort("w"), .long], help: "Follow the build to its end.")
  var watch = false

  @OptionGroup var global: GlobalOptions

  func run() async throws {
    let stack = try Connections(self.global)
    let response = try await Connections.call(stack.scheduler) { channel in
      try await SchedulerV1.SchedulerClient(channel).retryBuild(
        SchedulerV1.RetryBuildRequest(buildID: self.build, jobIds: self.job),
        options: CallOptions(timeout: Connections.timeout))
    }
    guard self.watch else { return try printBuild(response.build, self.global) }
    try await FollowView(stack: stack, global: self.global, plain: false, isKnown: true)
      .follow(self.build)
  }
}

/// Lists executors.
struct ExecutorsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "executors", abstract: "Lists the executors and what they do.")

  @Option(help: "Only this pool's.")
  var pool: String?

  @OptionGroup var global: GlobalOptions

  struct Report: Encodable {
    var executors: [ExecutorReport]
  }

  func run() async throws {
    let stack = try Connections(self.global)
    let executors = try await Connections.call(stack.allocator) { channel in
      var executors: [AllocatorV1.Executor] = []
      var request = AllocatorV1.ListExecutorsRequest(pool: self.pool ?? "")
      repeat {
        let response = try await AllocatorV1.AllocatorClient(channel).listExecutors(
          request, options: CallOptions(timeout: Connections.timeout))
        executors += response.executors
        request.pageToken = response.nextPageToken
      } while !request.pageToken.isEmpty
      return executors.sorted { $0.id < $1.id }
    }
    switch self.global.output {
    case .json:
      Terminal.print(
        JSONText.document(Report(executors: executors.map(ExecutorReport.init))))
    case .text:
      guard !executors.isEmpty else { return Terminal.print("no executors") }
      let rows = executors.map { executor in
        let (leased, capacity) = (
          executor.leased ?? TypesV1.Resources(), executor.capacity ?? TypesV1.Resources()
        )
        return [
          Sanitizer.line(executor.id), Sanitizer.line(executor.pool),
          ExecutorReport.word(executor.state),
          "\(leased.slots)/\(capacity.slots)",
          "\(cpus(leased.cpuMillis))/\(cpus(capacity.cpuMillis))",
          "\(Words.bytes(leased.memoryBytes))/\(Words.bytes(capacity.memoryBytes))",
          Sanitizer.line(executor.labels.joined(separator: ",")),
          Sanitizer.line(executor.address),
        ]
      }
      for line in Table.lines(
        header: ["EXECUTOR", "POOL", "STATE", "SLOTS", "CPU", "MEMORY", "LABELS", "ADDRESS"],
        rows: rows)
      {
        Terminal.print(line)
      }
    }
  }

  private func cpus(_ millis: Int64) -> String {
    millis % 1_000 == 0
      ? "\(millis / 1_000)" : "\(millis / 1_000).\(millis % 1_000 / 100)"
  }
}

/// The build as it is now, in one line or as JSON.
func printBuild(_ build: SchedulerV1.Build?, _ global: GlobalOptions) throws {
  guard let build else {
    throw CommandFailure(.infrastructure, "the scheduler answered without a build")
  }
  switch global.output {
  case .json: Terminal.print(JSONText.document(BuildReport(build)))
  case .text: Terminal.print("build \(build.id): \(Words.state(build))")
  }
}

/// The wall clock.
func currentTime() -> GoogleProtobuf.Timestamp {
  var now = timespec()
  clock_gettime(CLOCK_REALTIME, &now)
  return GoogleProtobuf.Timestamp(seconds: Int64(now.tv_sec), nanos: Int32(now.tv_nsec))
}
