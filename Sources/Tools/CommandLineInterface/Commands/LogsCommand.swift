import ArgumentParser
import BuildProtos
import RPC

/// Prints what a build's jobs printed.
struct LogsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "logs", abstract: "Prints a build's logs.",
    discussion: "One job's log is printed byte by byte as it is; those of several jobs as lines "
      + "behind their names. With --follow and --output json each line is one of JSON.")

  @Argument(help: "The build's id.")
  var build: String

  @Option(help: ArgumentHelp("Only this job.", valueName: "job-id"))
  var job: String?

  @Option(help: "Another attempt than the last one; needs --job.")
  var attempt: Int32?

  @Flag(name: [.customShort("f"), .long], help: "Go on until the build is finished.")
  var follow = false

  @Flag(help: "Only the steps that failed.")
  var failed = false

  @OptionGroup var global: GlobalOptions

  func validate() throws {
    if self.attempt != nil, self.job == nil {
      throw ValidationError("--attempt needs --job")
    }
    if self.follow, self.failed || self.attempt != nil {
      throw ValidationError("--follow goes with neither --failed nor --attempt")
    }
  }

  /// Part of a log.
  struct Part: Encodable {
    var job: String
    var attempt: Int32
    var step: String?
    var log: String
    var start: Int64
    /// Nil: to its end.
    var end: Int64?
    var text: String?
  }

  func run() async throws {
    let stack = try Connections(self.global)
    let build = try await stack.build(self.build)
    if let job = self.job, !build.jobs.contains(where: { $0.id == job }) {
      let known = build.jobs.map { "\"\($0.id)\"" }.joined(separator: ", ")
      throw CommandFailure(.usage, "build \(build.id) has no job \"\(job)\"; it has \(known)")
    }
    if self.follow { return try await self.follow(build, stack) }
    let parts = self.parts(build)
    let isSingle = Set(parts.map(\.job)).count == 1
    var reports: [Part] = []
    for var part in parts {
      switch self.global.output {
      case .text: try await self.print(part, isSingle: isSingle, stack)
      case .json:
        var bytes: [UInt8] = []
        try await self.read(part, stack) { bytes += $0 }
        part.text = String(decoding: bytes, as: UTF8.self)
        reports.append(part)
      }
    }
    if self.global.output == .json { Terminal.print(JSONText.document(reports)) }
  }

  private func follow(_ build: SchedulerV1.Build, _ stack: Connections) async throws {
    let only = self.job ?? (build.jobs.count == 1 ? build.jobs[0].id : nil)
    let presenter = LogPresenter(self.global.output, style: self.global.style)
    let logs: BuildFollower.Logs =
      switch (only, self.global.output) {
      case (nil, _): .all
      case (let job?, .text): .raw(job)
      case (let job?, .json): .job(job)
      }
    _ = try await BuildFollower(stack: stack, presenter: presenter, logs: logs).follow(build.id)
    // Each was told of where it happened.
    if await presenter.isIncomplete { throw CommandFailure(.infrastructure, lines: []) }
  }

  private func parts(_ build: SchedulerV1.Build) -> [Part] {
    if self.failed {
      return BuildSummary.failures(in: build)
        .filter { self.job == nil || $0.job.id == self.job }
        .map { failure in
          Part(
            job: failure.job.id, attempt: failure.attempt.number, step: failure.step.name,
            log: failure.attempt.logName, start: failure.step.logStart,
            end: failure.step.logEnd)
        }
    }
    return build.jobs.compactMap { job in
      guard self.job == nil || self.job == job.id else { return nil }
      let attempt =
        self.attempt.map { number in job.attempts.first { $0.number == number } }
        ?? job.attempts.last
      guard let attempt, !attempt.logName.isEmpty else { return nil }
      return Part(
        job: job.id, attempt: attempt.number, log: attempt.logName, start: 0)
    }
  }

  private func print(_ part: Part, isSingle: Bool, _ stack: Connections) async throws {
    if isSingle { return try await self.read(part, stack) { Terminal.write($0) } }
    let presenter = LinePresenter(style: self.global.style)
    let origin = LogOrigin(job: part.job, attempt: part.attempt, log: part.log)
    var lines = LineAssembler()
    try await self.read(part, stack) { bytes in
      await presenter.lines(lines.append(bytes[...]), of: origin)
    }
    if let last = lines.finish() { await presenter.lines([last], of: origin) }
  }

  private func read(
    _ part: Part, _ stack: Connections, _ body: ([UInt8]) async -> Void
  ) async throws {
    if let end = part.end, end <= part.start { return }
    do {
      let responses = try await LogsV1.LogClient(stack.cache.channel).readLog(
        LogsV1.ReadLogRequest(
          name: part.log, offset: part.start, limit: part.end.map { $0 - part.start } ?? 0))
      for try await response in responses { await body(response.data) }
    } catch let error as RPCError where error.code == .notFound {
      // A job that has not printed yet has no log yet.
    } catch let error as RPCError {
      throw stack.cache.peer.failure(error)
    }
  }
}

/// Only the logs' lines, as text or each as a line of JSON: for `logs -f`.
actor LogPresenter: QuietPresenter {
  /// A line of a log, as JSON.
  struct Line: Encodable {
    var job: String
    var attempt: Int32
    var step: String?
    var log: String
    var text: String
  }

  private let presenter: LinePresenter
  private let output: OutputFormat
  /// The name of the step that each log is in.
  private var steps: [LogOrigin: String] = [:]
  /// Whether the rest of a log could not be read.
  private(set) var isIncomplete = false

  init(_ output: OutputFormat, style: Style) {
    self.presenter = LinePresenter(style: style)
    self.output = output
  }

  func heading(_ step: TypesV1.StepStatus, of origin: LogOrigin) {
    self.steps[origin] = step.name
  }

  func lines(_ lines: [ArraySlice<UInt8>], of origin: LogOrigin) async {
    switch self.output {
    case .text: await self.presenter.lines(lines, of: origin)
    case .json:
      let step = self.steps[origin]
      let texts = lines.map { line in
        JSONText.line(
          Line(
            job: origin.job, attempt: origin.attempt, step: step, log: origin.log,
            text: String(decoding: line, as: UTF8.self)))
      }
      Terminal.print(texts.joined(separator: "\n"))
    }
  }

  func unreadable(_ reason: String, _ origin: LogOrigin) {
    self.isIncomplete = true
    Terminal.complain(UnreadableLog.text(reason, origin))
  }
}
