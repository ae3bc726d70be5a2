import BuildProtos
import Domain
import DomainMapping
import PipelineSyntax
import RPC
import SchedulerCore

/// The scheduler's calls: each is translated and asked for where the build is; nothing is decided
/// here.
struct Handlers: SchedulerV1.SchedulerService {
  private static let standardPage: Int32 = 50
  private static let maximumPage: Int32 = 1_000
  private static let maximumReasonBytes = 1_000
  /// A longer one takes more than about a millisecond to read.
  private static let longPipelineBytes = 16 << 10

  let driver: Driver
  let router: CallRouter
  let policy: Policy
  private let pipelines = PipelineCache()

  init(driver: Driver, router: CallRouter, policy: Policy) {
    self.driver = driver
    self.router = router
    self.policy = policy
  }

  func submitBuild(
    _ request: SchedulerV1.SubmitBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.SubmitBuildResponse {
    let submission: Submission
    if request.pipeline.count > Self.longPipelineBytes, !self.pipelines.knows(request.pipeline) {
      // Reading it takes long enough for others on this loop to notice.
      submission = try await withTaskExecutorPreference(globalConcurrentExecutor) {
        try self.submission(request)
      }
    } else {
      submission = try self.submission(request)
    }
    return try await self.router.answer(submission.project, context) {
      switch await self.driver.submit(submission) {
      case .build(let record, let existed):
        return SchedulerV1.SubmitBuildResponse(build: SchedulerV1.Build(record), existed: existed)
      case let refusal:
        throw Self.error(refusal, of: submission.id)
      }
    } there: {
      try await $0.submitBuild(request, options: $1)
    }
  }

  private func submission(
    _ request: SchedulerV1.SubmitBuildRequest
  ) throws(RPCError) -> Submission {
    if let mistake = SubmissionRules.mistake(in: request) {
      throw RPCError(.invalidArgument, mistake)
    }
    let pipeline: Pipeline
    let legs: [Pipeline.Leg]
    do {
      pipeline = try self.pipelines.pipeline(request.pipeline, path: request.pipelinePath)
    } catch {
      throw RPCError(error)
    }
    do {
      legs = try pipeline.expanded(
        standard: self.policy.standardResources, environment: request.env)
    } catch {
      throw RPCError(.invalidArgument, "job \(error.job): \(error.message)")
    }
    return Submission(
      id: SubmissionRules.buildID(project: request.project, key: request.idempotencyKey),
      project: ProjectID(request.project), pipeline: pipeline, legs: legs,
      source: request.source.flatMap { Source($0) }, environment: request.env,
      priority: request.priority, annotations: request.annotations,
      fingerprint: SubmissionRules.fingerprint(request))
  }

  func getBuild(
    _ request: SchedulerV1.GetBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.GetBuildResponse {
    let build = try Self.build(request.buildID)
    return try await self.answer(build, context) {
      let record = try await self.driver.build(build)
      return SchedulerV1.GetBuildResponse(build: SchedulerV1.Build(record))
    } there: {
      try await $0.getBuild(request, options: $1)
    }
  }

  func listBuilds(
    _ request: SchedulerV1.ListBuildsRequest, context: ServerContext
  ) async throws -> SchedulerV1.ListBuildsResponse {
    guard (0...Self.maximumPage).contains(request.pageSize) else {
      throw RPCError(
        .invalidArgument, "page_size is \(request.pageSize); it can be 0 to \(Self.maximumPage)")
    }
    guard let cursor = Self.cursor(request.pageToken) else {
      throw RPCError(.invalidArgument, "page_token \"\(request.pageToken)\" is none of this list's")
    }
    let page = try await self.driver.list(
      project: request.project.isEmpty ? nil : ProjectID(request.project),
      unfinished: request.active,
      limit: request.pageSize == 0 ? Self.standardPage : request.pageSize, cursor: cursor)
    return SchedulerV1.ListBuildsResponse(
      builds: await self.summaries(of: page.builds, request, context),
      nextPageToken: Self.token(page.cursor))
  }

  /// The builds of a list. The owner of one that is not finished knows more of it than its record
  /// says, and gives the same list.
  private func summaries(
    of records: [BuildRecord], _ request: SchedulerV1.ListBuildsRequest, _ context: ServerContext
  ) async -> [SchedulerV1.Build] {
    let builds = records.map { SchedulerV1.Build(summaryOf: $0) }
    if self.router.areAllHere { return builds }
    let projects = Set(records.lazy.filter { $0.state != .finished }.map(\.project))
    let lists = await self.router.answers(ofOthersOwning: projects, context) {
      try await $0.listBuilds(request, options: $1)
    }.mapValues { list in
      Dictionary(list.builds.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
    }
    return builds.map { build in
      let shown = self.router.otherOwner(of: ProjectID(build.project))
        .flatMap { lists[$0]?[build.id] }
      // A page of a moment later may hold other builds.
      return shown.map { $0.revision < build.revision ? build : $0 } ?? build
    }
  }

  func watchBuild(
    _ request: SchedulerV1.WatchBuildRequest,
    responses: ResponseWriter<SchedulerV1.WatchBuildResponse>, context: ServerContext
  ) async throws {
    let build = try Self.build(request.buildID)
    // So that the watcher knows at once that it has reached a scheduler.
    responses.sendInitialMetadata()
    try await self.answer(build, context) {
      try await self.driver.watch(build, after: request.afterRevision) { record in
        try await responses.send(
          SchedulerV1.WatchBuildResponse(build: SchedulerV1.Build(record)))
      }
    } there: { client, options in
      for try await response in try await client.watchBuild(request, options: options) {
        try await responses.send(response)
      }
    }
  }

  func cancelBuild(
    _ request: SchedulerV1.CancelBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.CancelBuildResponse {
    let build = try Self.build(request.buildID)
    guard request.reason.utf8.count <= Self.maximumReasonBytes else {
      throw RPCError(
        .invalidArgument,
        "reason has \(request.reason.utf8.count) bytes, more than \(Self.maximumReasonBytes)")
    }
    return try await self.answer(build, context) {
      switch await self.driver.cancel(build, reason: request.reason) {
      case .build(let record, _):
        return SchedulerV1.CancelBuildResponse(build: SchedulerV1.Build(record))
      case let refusal:
        throw Self.error(refusal, of: build)
      }
    } there: {
      try await $0.cancelBuild(request, options: $1)
    }
  }

  func retryBuild(
    _ request: SchedulerV1.RetryBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.RetryBuildResponse {
    let build = try Self.build(request.buildID)
    return try await self.answer(build, context) {
      switch await self.driver.retry(build, jobs: request.jobIds.map { JobID($0) }) {
      case .build(let record, _):
        return SchedulerV1.RetryBuildResponse(build: SchedulerV1.Build(record))
      case let refusal:
        throw Self.error(refusal, of: build)
      }
    } there: {
      try await $0.retryBuild(request, options: $1)
    }
  }

  func explainBuild(
    _ request: SchedulerV1.ExplainBuildRequest, context: ServerContext
  ) async throws -> SchedulerV1.ExplainBuildResponse {
    let build = try Self.build(request.buildID)
    return try await self.answer(build, context) {
      SchedulerV1.ExplainBuildResponse(try await self.driver.explain(build))
    } there: {
      try await $0.explainBuild(request, options: $1)
    }
  }

  /// Answers a call about a build where that is.
  private func answer<Response: Sendable>(
    _ build: BuildID, _ context: ServerContext,
    here: () async throws -> Response,
    there: (SchedulerV1.SchedulerClient, CallOptions) async throws -> Response
  ) async throws -> Response {
    if self.router.areAllHere { return try await here() }
    let project = try await self.driver.project(of: build)
    return try await self.router.answer(project, context, here: here, there: there)
  }

  // MARK: Parts of requests

  private static func build(_ id: String) throws(RPCError) -> BuildID {
    guard !id.isEmpty else { throw RPCError(.invalidArgument, "build_id is empty") }
    guard id.utf8.count <= SubmissionRules.maximumBuildIDBytes else {
      throw RPCError(.notFound, "there is no build \(id.prefix(64))...")
    }
    return BuildID(id)
  }

  private static func error(_ refusal: Answer, of build: BuildID) -> RPCError {
    RPCError(refusal, of: build)
      ?? RPCError(.internalError, "a build is no refusal")
  }

  // A page token is the datastore's cursor in hexadecimal.

  private static func token(_ cursor: [UInt8]) -> String {
    cursor.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }

  /// Nil for a text that is no token.
  private static func cursor(_ token: String) -> [UInt8]? {
    let digits = Array(token.utf8)
    guard digits.count.isMultiple(of: 2), digits.count <= 8_192 else { return nil }
    var bytes: [UInt8] = []
    for index in stride(from: 0, to: digits.count, by: 2) {
      guard let byte = UInt8(String(decoding: digits[index..<index + 2], as: UTF8.self), radix: 16)
      else { return nil }
      bytes.append(byte)
    }
    return bytes
  }
}
