import BuildProtos
import RPC

/// Follows a build to its end: its states from the scheduler, its logs from the cache.
///
/// One task owns what is known of the build; the watch, each log and each interrupt send it events.
package struct BuildFollower: Sendable {
  /// Logs that are read at a time; those of further attempts wait for one to end.
  static let maximumLogs = 32
  /// How long the log of an attempt that is over may take to be sealed: its runner does that before
  /// it says that the attempt is over, unless the runner is gone.
  package static let sealGrace = Duration.seconds(3)

  private enum Event: Sendable {
    case state(SchedulerV1.Build)
    case watchEnded((any Error)?)
    case logEnded(String, (any Error)?)
    case overdue(String)
    case interrupted
    case cancelled((any Error)?)
  }

  private struct Log {
    let origin: LogOrigin
    let progress = StepProgress()
    var hasStarted = false
    var hasEnded = false
    var isOver = false
  }

  /// What Ctrl-C does.
  package enum OnInterrupt: Sendable {
    /// Ends this process, as it does without a handler.
    case end
    /// Leaves the build alone, and ends the command.
    case leave
    /// Cancels the build and goes on to its end; a second one leaves it.
    case cancel
  }

  /// How far the cancelling of a build is.
  private enum Cancelling { case no, asked, answered }

  let stack: Connections
  let presenter: any Presenter
  let onInterrupt: OnInterrupt
  let interrupted: @Sendable (_ count: Int) async -> Bool
  let logs: Logs
  let sealGrace: Duration
  private let scheduler: ServiceContact
  private let cache: ServiceContact

  /// - Parameters:
  ///   - isKnown: The stack has just answered for the build: a service that does not answer is not
  ///     a mistaken address, but one that is started again.
  ///   - interrupted: Suspends until Ctrl-C has come that often; false if the task was cancelled.
  ///   - logs: Whose logs are read.
  package init(
    stack: Connections, presenter: any Presenter, isKnown: Bool = false,
    onInterrupt: OnInterrupt = .end,
    interrupted: @escaping @Sendable (_ count: Int) async -> Bool = {
      await Interrupts.shared.reached($0)
    }, logs: Logs = .all, sealGrace: Duration = Self.sealGrace
  ) {
    self.stack = stack
    self.presenter = presenter
    self.onInterrupt = onInterrupt
    self.interrupted = interrupted
    self.logs = logs
    self.sealGrace = sealGrace
    self.scheduler = ServiceContact(stack.scheduler.peer, presenter, hasAnswered: isKnown)
    self.cache = ServiceContact(stack.cache.peer, presenter, hasAnswered: isKnown)
  }

  /// Whose logs are read, and how they are shown.
  package enum Logs: Sendable, Equatable {
    case none
    case all
    case job(String)
    /// One job's bytes, as they are.
    case raw(String)

    func includes(_ job: String) -> Bool {
      switch self {
      case .none: false
      case .all: true
      case .job(let id), .raw(let id): id == job
      }
    }

    var isRaw: Bool {
      if case .raw = self { true } else { false }
    }
  }

  /// Follows until the build is finished and all that its jobs printed is shown.
  ///
  /// - Returns: The finished build.
  package func follow(_ id: String) async throws -> SchedulerV1.Build {
    let (events, sender) = AsyncStream.makeStream(of: Event.self)
    let result = await withTaskGroup(of: Void.self) { group in
      group.addTask { await self.watch(id, sender) }
      if self.onInterrupt != .end {
        group.addTask {
          for number in 1... {
            guard await self.interrupted(number) else { return }
            sender.yield(.interrupted)
          }
        }
      }
      defer { group.cancelAll() }
      do {
        return Result<SchedulerV1.Build, any Error>.success(
          try await self.run(id, events, sender, &group))
      } catch {
        return .failure(error)
      }
    }
    return try result.get()
  }

  private func run(
    _ id: String, _ events: AsyncStream<Event>, _ sender: AsyncStream<Event>.Continuation,
    _ group: inout TaskGroup<Void>
  ) async throws -> SchedulerV1.Build {
    var build: SchedulerV1.Build?
    var logs: [String: Log] = [:]
    var order: [String] = []
    var cancelling = Cancelling.no
    for await event in events {
      switch event {
      case .state(let newer):
        build = newer
        await self.presenter.update(newer)
        for over in self.learn(newer, &logs, &order) {
          group.addTask {
            try? await Task.sleep(for: self.sealGrace)
            sender.yield(.overdue(over))
          }
        }
      case .watchEnded(let error):
        if let error { throw self.stack.scheduler.peer.failure(error) }
      case .logEnded(let key, let error):
        logs[key]?.hasEnded = true
        if let error { throw self.stack.cache.peer.failure(error) }
      case .overdue(let key):
        if logs[key]?.hasEnded == false { logs[key]?.progress.abandon() }
      case .interrupted:
        guard self.onInterrupt == .cancel else {
          throw CommandFailure(.cancelled, "left build \(id), which goes on")
        }
        switch cancelling {
        case .no:
          cancelling = .asked
          await self.presenter.note(
            "cancelling the build; Ctrl-C again leaves it", about: .cancelling)
          group.addTask { await self.cancel(id, sender) }
        case .asked:
          throw CommandFailure(
            .infrastructure,
            "left build \(id), which was not cancelled: the scheduler has not answered; "
              + "`millrace cancel \(id)` tries again")
        case .answered:
          throw CommandFailure(.cancelled, "left build \(id), which is being cancelled")
        }
      case .cancelled(nil):
        cancelling = .answered
      case .cancelled(let error?):
        let reason = self.stack.scheduler.peer.failure(error)
        throw CommandFailure(
          reason.code,
          "build \(id) was not cancelled: \(reason.lines.joined(separator: "; "))")
      }
      self.startLogs(&logs, order, sender, &group)
      if let build, build.state == .finished, logs.values.allSatisfy(\.hasEnded) { return build }
    }
    throw CommandFailure(.infrastructure, "the command was cancelled")
  }

  /// Takes in the attempts of a state; returns those that are over since then.
  private func learn(
    _ build: SchedulerV1.Build, _ logs: inout [String: Log], _ order: inout [String]
  ) -> [String] {
    var over: [String] = []
    for job in build.jobs where self.logs.includes(job.id) {
      for attempt in job.attempts where !attempt.logName.isEmpty {
        let key = attempt.logName
        if logs[key] == nil {
          logs[key] = Log(
            origin: LogOrigin(job: job.id, attempt: attempt.number, log: attempt.logName))
          order.append(key)
        }
        logs[key]?.progress.update(attempt)
        if attempt.outcome != .unspecified, logs[key]?.isOver == false {
          logs[key]?.isOver = true
          if attempt.isSilent {
            // Nobody will ever make the log that its reader waits for.
            logs[key]?.progress.abandon()
          } else {
            over.append(key)
          }
        }
      }
    }
    return over
  }

  private func startLogs(
    _ logs: inout [String: Log], _ order: [String], _ sender: AsyncStream<Event>.Continuation,
    _ group: inout TaskGroup<Void>
  ) {
    var running = logs.values.count { $0.hasStarted && !$0.hasEnded }
    // Bytes that carry no names must not mix: attempts are read one after the other.
    let maximum = self.logs.isRaw ? 1 : Self.maximumLogs
    for key in order {
      guard running < maximum else { return }
      guard let log = logs[key], !log.hasStarted else { continue }
      logs[key]?.hasStarted = true
      running += 1
      let reading = LogReading(
        cache: LogsV1.LogClient(self.stack.cache.channel), service: self.cache,
        origin: log.origin, progress: log.progress, presenter: self.presenter,
        isRaw: self.logs.isRaw)
      group.addTask {
        do {
          try await reading.run()
          sender.yield(.logEnded(key, nil))
        } catch {
          sender.yield(.logEnded(key, error))
        }
      }
    }
  }

  /// Sends every state to the build's end, across restarts of the scheduler.
  private func watch(_ id: String, _ sender: AsyncStream<Event>.Continuation) async {
    let client = SchedulerV1.SchedulerClient(self.stack.scheduler.channel)
    var patience = Patience()
    var revision: Int64?
    do {
      while true {
        do {
          // Not from the revision that was seen: the present state comes at once, and with it the
          // news that the scheduler is back.
          let responses = try await client.watchBuild(SchedulerV1.WatchBuildRequest(buildID: id))
          for try await response in responses {
            patience.answered()
            await self.scheduler.answered()
            guard let build = response.build, revision.map({ $0 < build.revision }) ?? true
            else { continue }
            revision = build.revision
            sender.yield(.state(build))
            if build.state == .finished {
              sender.yield(.watchEnded(nil))
              return
            }
          }
          // The stream ends only behind the last state, or with a scheduler that shuts down.
          throw RPCError(.unavailable, "the watch ended early")
        } catch let error as RPCError {
          try Task.checkCancellation()
          try await self.scheduler.failed(error, &patience)
        }
      }
    } catch {
      sender.yield(.watchEnded(error))
    }
  }

  /// Cancels the build, across restarts of the scheduler.
  private func cancel(_ id: String, _ sender: AsyncStream<Event>.Continuation) async {
    let client = SchedulerV1.SchedulerClient(self.stack.scheduler.channel)
    var patience = Patience()
    do {
      while true {
        try Task.checkCancellation()
        do {
          _ = try await client.cancelBuild(
            SchedulerV1.CancelBuildRequest(buildID: id, reason: "Ctrl-C in millrace run"),
            options: CallOptions(timeout: Connections.timeout))
          await self.scheduler.answered()
          sender.yield(.cancelled(nil))
          return
        } catch let error as RPCError {
          try await self.scheduler.failed(error, &patience)
        }
      }
    } catch {
      sender.yield(.cancelled(error))
    }
  }
}

extension SchedulerV1.Attempt {
  /// Its runner told its end, and that nothing was printed: it has no log.
  fileprivate var isSilent: Bool {
    self.usage != nil && self.steps.allSatisfy { $0.logEnd == 0 }
  }
}
