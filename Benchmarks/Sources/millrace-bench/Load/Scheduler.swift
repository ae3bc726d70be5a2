import BuildProtos
import RPC

/// The scheduler, as a measurement calls it.
struct Scheduler: Sendable {
  /// How long one call may take; then it is made again.
  private static let callTimeout = Duration.seconds(30)
  /// The scheduler lists no more at a time.
  private static let pageSize: Int32 = 1_000
  /// A page of builds is about 1 KiB for each.
  private static let maximumPageBytes = 16 << 20
  /// Between two looks for builds that are still active.
  private static let activePause = Duration.milliseconds(20)

  private let client: SchedulerV1.SchedulerClient

  init(at address: String) throws {
    self.client = SchedulerV1.SchedulerClient(try RPCChannel(to: address))
  }

  func close() async { await self.client.channel.close() }

  /// Submits a build and gives its id. The same request again is the same build.
  func submit(
    _ request: SchedulerV1.SubmitBuildRequest, _ patience: inout Patience
  ) async throws -> String {
    try await Self.patiently(&patience) { options in
      let response = try await self.client.submitBuild(request, options: options)
      guard let build = response.build else {
        throw RPCError(.internalError, "the answer has no build")
      }
      return build.id
    }
  }

  /// Waits until no build of a project is active, or the time is up.
  ///
  /// It watches the newest active build, most often the last one to finish: asking again and again
  /// would be a load of its own.
  func waitUntilFinished(_ project: String, within limit: Duration) async throws {
    let end = ContinuousClock.now + limit
    while true {
      let left = ContinuousClock.now.duration(to: end)
      guard left > .zero else { return }
      do {
        guard let id = try await self.newestActive(project, within: left) else { return }
        let states = try await self.client.watchBuild(
          SchedulerV1.WatchBuildRequest(buildID: id), options: CallOptions(timeout: left))
        for try await _ in states {}
      } catch let error as RPCError {
        // A watch that broke off is begun again; one that took too long is told of by the records.
        try Task.checkCancellation()
        guard [.unavailable, .deadlineExceeded].contains(error.code) else { throw error }
      }
      try await Task.sleep(for: Self.activePause)
    }
  }

  private func newestActive(_ project: String, within limit: Duration) async throws -> String? {
    var patience = Patience(limit: limit)
    return try await Self.patiently(&patience) { options in
      try await self.client.listBuilds(
        SchedulerV1.ListBuildsRequest(project: project, pageSize: 1, active: true),
        options: options
      ).builds.first?.id
    }
  }

  /// A build with all that is known of it.
  func build(_ id: String, within limit: Duration) async throws -> SchedulerV1.Build? {
    var patience = Patience(limit: limit)
    return try await Self.patiently(&patience) { options in
      try await self.client.getBuild(SchedulerV1.GetBuildRequest(buildID: id), options: options)
        .build
    }
  }

  /// Every build of a project.
  func builds(of project: String, within limit: Duration) async throws -> [SchedulerV1.Build] {
    var builds: [SchedulerV1.Build] = []
    var token = ""
    repeat {
      var patience = Patience(limit: limit)
      let request = SchedulerV1.ListBuildsRequest(
        project: project, pageSize: Self.pageSize, pageToken: token)
      let page = try await Self.patiently(&patience) { options in
        var options = options
        options.maximumResponseBytes = Self.maximumPageBytes
        return try await self.client.listBuilds(request, options: options)
      }
      builds += page.builds
      token = page.nextPageToken
    } while !token.isEmpty
    return builds
  }

  private static func patiently<Value>(
    _ patience: inout Patience, _ call: (CallOptions) async throws -> Value
  ) async throws -> Value {
    while true {
      do {
        let timeout = min(self.callTimeout, max(patience.left, .milliseconds(1)))
        return try await call(CallOptions(timeout: timeout, waitForReady: true))
      } catch let error as RPCError {
        try await patience.wait(after: error)
      }
    }
  }
}
