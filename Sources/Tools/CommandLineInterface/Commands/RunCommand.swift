import ArgumentParser
import BuildProtos
import RPC

/// What `run` and `submit` are told of a build.
struct SubmissionOptions: ParsableArguments {
  @Argument(help: ArgumentHelp("The directory to build.", valueName: "dir"))
  var directory = "."

  @Option(
    name: [.customShort("f"), .long],
    help: ArgumentHelp("The pipeline's file, in the directory.", valueName: "path"))
  var file = "millrace.yaml"

  @Option(help: "The project; else the directory's name.")
  var project: String?

  @Option(
    name: [.customShort("e"), .long],
    help: ArgumentHelp("A variable for every step; may be repeated.", valueName: "name=value"))
  var env: [String] = []

  // Whatever follows is the value: a negative one would be taken for options.
  @Option(parsing: .unconditional, help: "Higher is sooner; from -1000 to 1000.")
  var priority: Int32 = 0

  @Option(
    help: ArgumentHelp(
      "The same key again is the same build; else a random one.", valueName: "key"))
  var idempotencyKey: String?

  func validate() throws {
    for pair in self.env where !pair.dropFirst().contains("=") {
      throw ValidationError("--env \(pair): expected NAME=VALUE")
    }
  }

  var submission: Submission {
    var env: [String: String] = [:]
    for pair in self.env {
      let name = pair.prefix { $0 != "=" }
      env[String(name)] = String(pair.dropFirst(name.count + 1))
    }
    return Submission(
      directory: self.directory, pipelinePath: self.file, project: self.project,
      idempotencyKey: self.idempotencyKey, priority: self.priority, env: env)
  }

  /// Uploads and submits; what goes on is told on standard error.
  func submit(
    to stack: Connections, _ output: OutputFormat
  ) async throws -> (build: SchedulerV1.Build, existed: Bool) {
    let response = try await self.submission.submit(to: stack) { Terminal.complain($0) }
    guard let build = response.build else {
      throw CommandFailure(.infrastructure, "the scheduler answered without a build")
    }
    // A random key is known only where an answer was lost, which is nothing to tell.
    if response.existed, let key = self.idempotencyKey, output == .text {
      Terminal.complain(
        "build \(build.id) already existed: it was submitted before with the idempotency key "
          + "\"\(Sanitizer.line(key))\"")
    }
    return (build, response.existed)
  }
}

/// Builds a directory and follows the build.
struct RunCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run", abstract: "Builds a directory, and follows the build to its end.",
    discussion: "Ctrl-C cancels the build and waits for its end; a second Ctrl-C leaves it.")

  @OptionGroup var submission: SubmissionOptions
  @OptionGroup var global: GlobalOptions

  @Flag(help: "Plain lines on a terminal, too.")
  var plain = false

  func run() async throws {
    let stack = try Connections(self.global)
    let (build, _) = try await self.submission.submit(to: stack, self.global.output)
    let view = FollowView(
      stack: stack, global: self.global, plain: self.plain, isKnown: true,
      cancelsOnInterrupt: true)
    if self.global.output == .text {
      let jobs = "\(build.jobs.count) \(build.jobs.count == 1 ? "job" : "jobs")"
      Terminal.print(self.global.style.bold("build \(build.id)") + " of \(build.project): \(jobs)")
    }
    try await view.follow(build.id)
  }
}

/// Submits a directory and leaves.
struct SubmitCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "submit", abstract: "Submits a directory's build and prints its id.")

  @OptionGroup var submission: SubmissionOptions
  @OptionGroup var global: GlobalOptions

  struct Report: Encodable {
    var id: String
    var existed: Bool
    var build: BuildReport
  }

  func run() async throws {
    let stack = try Connections(self.global)
    let (build, existed) = try await self.submission.submit(to: stack, self.global.output)
    switch self.global.output {
    case .text: Terminal.print(build.id)
    case .json:
      Terminal.print(
        JSONText.document(
          Report(id: build.id, existed: existed, build: BuildReport(build))))
    }
  }
}

/// Follows a build.
struct WatchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "watch", abstract: "Follows a build to its end.",
    discussion: "Ctrl-C leaves the build alone. With --output json each state is one line.")

  @Argument(help: "The build's id.")
  var build: String

  @OptionGroup var global: GlobalOptions

  @Flag(help: "Plain lines on a terminal, too.")
  var plain = false

  @Flag(inversion: .prefixedNo, help: "The jobs' logs.")
  var logs = true

  func run() async throws {
    let view = FollowView(
      stack: try Connections(self.global), global: self.global, plain: self.plain,
      isKnown: false, withLogs: self.logs, eachState: true)
    try await view.follow(self.build)
  }
}

/// Follows a build on this terminal and ends the command as the build ended.
struct FollowView: Sendable {
  /// Lines of a failing step that are repeated at the end.
  static let failureLines = 20
  /// Bytes that are read for them: twenty lines of the usual length, and some that are not.
  static let failureBytes: Int64 = 64 << 10
  /// Failing steps that are told of; the rest are in the list of jobs.
  static let maximumFailures = 5

  let stack: Connections
  let style: Style
  let output: OutputFormat
  let isLive: Bool
  let isKnown: Bool
  let cancelsOnInterrupt: Bool
  let withLogs: Bool
  let eachState: Bool

  /// - Parameter isKnown: The stack has just answered for the build.
  init(
    stack: Connections, global: GlobalOptions, plain: Bool, isKnown: Bool,
    cancelsOnInterrupt: Bool = false, withLogs: Bool = true, eachState: Bool = false
  ) {
    self.stack = stack
    self.style = global.style
    self.output = global.output
    self.isLive = global.terminal.isLive && !plain && global.output == .text
    self.isKnown = isKnown
    self.cancelsOnInterrupt = cancelsOnInterrupt
    self.withLogs = withLogs
    self.eachState = eachState
  }

  /// Follows, prints the summary, and throws unless the build succeeded.
  func follow(_ id: String) async throws {
    let build: SchedulerV1.Build
    if self.isLive {
      let presenter = LivePresenter(style: self.style)
      build = try await withThrowingTaskGroup(of: SchedulerV1.Build?.self) { group in
        group.addTask {
          await presenter.animate()
          return nil
        }
        defer { group.cancelAll() }
        do {
          let build = try await self.follow(id, presenter)
          await presenter.finish()
          return build
        } catch {
          await presenter.finish()
          throw error
        }
      }
    } else if self.output == .json {
      let presenter: any Presenter = self.eachState ? StatePresenter() : SilentPresenter()
      build = try await self.follow(id, presenter)
    } else {
      build = try await self.follow(id, LinePresenter(style: self.style))
    }
    switch self.output {
    case .json:
      if !self.eachState { Terminal.print(JSONText.document(BuildReport(build))) }
    case .text:
      await self.printFailures(of: build)
      for line in BuildSummary(style: self.style).lines(build) { Terminal.print(line) }
    }
    let code = Words.exitCode(build.outcome)
    if code != .success { throw CommandFailure(code, lines: []) }
  }

  private func follow(
    _ id: String, _ presenter: any Presenter
  ) async throws -> SchedulerV1.Build {
    try await BuildFollower(
      stack: self.stack, presenter: presenter, isKnown: self.isKnown,
      // A live view has hidden the cursor, which must come back.
      onInterrupt: self.cancelsOnInterrupt ? .cancel : self.isLive ? .leave : .end,
      logs: self.withLogs && self.output == .text ? .all : .none
    ).follow(id)
  }

  /// The last lines of the steps that failed.
  private func printFailures(of build: SchedulerV1.Build) async {
    for failure in BuildSummary.failures(in: build).prefix(Self.maximumFailures) {
      let step = failure.step
      Terminal.print(
        self.style.red("── \(Sanitizer.line(failure.job.id)), \(BuildSummary.step(step)) ──"))
      let end = max(step.logEnd, step.logStart)
      let start = max(step.logStart, end - Self.failureBytes)
      guard end > start, let bytes = try? await self.read(failure.attempt.logName, start, end)
      else { continue }
      var lines = LineAssembler()
      var all = lines.append(bytes[...])
      if let last = lines.finish() { all.append(last) }
      for line in all.suffix(Self.failureLines) {
        let text = String(decoding: line, as: UTF8.self)
        Terminal.print("  \(self.style.hasColor ? Sanitizer.line(text) : text)")
      }
    }
  }

  private func read(_ log: String, _ start: Int64, _ end: Int64) async throws -> [UInt8] {
    var bytes: [UInt8] = []
    let responses = try await LogsV1.LogClient(self.stack.cache.channel).readLog(
      LogsV1.ReadLogRequest(name: log, offset: start, limit: end - start),
      options: CallOptions(timeout: Connections.timeout))
    for try await response in responses { bytes += response.data }
    return bytes
  }
}
