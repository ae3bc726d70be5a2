import BuildProtos
import RPC
import Synchronization

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
    case watchEnded(RPCError?)
    case logEnded(String, RPCError?)
    case overdue(String)
    case interrupted
  }

  private struct Log {
    let job: String
    let name: String
    let progress = StepProgress()
    var hasStarted = false
    var hasEnded = false
    var isOver = false
  }

  let stack: Connections
  let presenter: any Presenter
  let interrupt: (@Sendable (_ count: Int) async throws -> Void)?
  let logs: Logs
  let sealGrace: Duration

  /// - Parameters:
  ///   - interrupt: What Ctrl-C does, with how often it has come; nil ends this process as usual.
  ///   - logs: Whose logs are read.
  package init(
    stack: Connections, presenter: any Presenter,
    interrupt: (@Sendable (_ count: Int) async throws -> Void)? = nil, logs: Logs = .all,
    sealGrace: Duration = Self.sealGrace
  ) {
    self.stack = stack
    self.presenter = presenter
    self.interrupt = interrupt
    self.logs = logs
    self.sealGrace = sealGrace
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
      if self.interrupt != nil {
        group.addTask {
          for number in 1... {
            guard await Interrupts.shared.reached(number) else { return }
            sender.yield(.interrupted)
          }
        }
      }
      defer { group.cancelAll() }
      do {
        return Result<SchedulerV1.Build, any Error>.success(
          try await self.run(events, sender, &group))
      } catch {
        return .failure(error)
      }
    }
    return try result.get()
  }

  private func run(
    _ events: AsyncStream<Event>, _ sender: AsyncStream<Event>.Continuation,
    _ group: inout TaskGroup<Void>
  ) async throws -> SchedulerV1.Build {
    var build: SchedulerV1.Build?
    var logs: [String: Log] = [:]
    var order: [String] = []
    var interrupts = 0
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
        interrupts += 1
        try await self.interrupt?(interrupts)
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
          logs[key] = Log(job: job.id, name: attempt.logName)
          order.append(key)
        }
        logs[key]?.progress.update(attempt)
        if attempt.outcome != .unspecified, logs[key]?.isOver == false {
          logs[key]?.isOver = true
          over.append(key)
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
    for key in order {
      guard running < Self.maximumLogs else { return }
      guard let log = logs[key], !log.hasStarted else { continue }
      logs[key]?.hasStarted = true
      running += 1
      let presenter = self.presenter
      let reading = LogReading(
        cache: LogsV1.LogClient(self.stack.cache.channel), name: log.name, job: log.job,
        progress: log.progress, presenter: presenter, isRaw: self.logs.isRaw,
        patience: Patience(self.stack.cache.peer) { await presenter.note($0) })
      group.addTask {
        do {
          try await reading.run()
          sender.yield(.logEnded(key, nil))
        } catch {
          sender.yield(
            .logEnded(key, error as? RPCError ?? RPCError(.cancelled, "\(error)")))
        }
      }
    }
  }

  /// Sends every state to the build's end, across restarts of the scheduler.
  private func watch(_ id: String, _ sender: AsyncStream<Event>.Continuation) async {
    let client = SchedulerV1.SchedulerClient(self.stack.scheduler.channel)
    let presenter = self.presenter
    var patience = Patience(self.stack.scheduler.peer) { await presenter.note($0) }
    var revision: Int64 = 0
    var hasSeen = false
    while !Task.isCancelled {
      do {
        let responses = try await client.watchBuild(
          SchedulerV1.WatchBuildRequest(buildID: id, afterRevision: revision))
        for try await response in responses {
          guard let build = response.build, !hasSeen || build.revision > revision else { continue }
          if !hasSeen || patience.isNeeded { await presenter.note(nil) }
          patience.succeeded()
          hasSeen = true
          revision = build.revision
          sender.yield(.state(build))
          if build.state == .finished {
            sender.yield(.watchEnded(nil))
            return
          }
        }
        // The stream ends only behind the last state, or with a scheduler that shuts down.
        try await patience.failed(RPCError(.unavailable, "the watch ended early"))
      } catch let error as RPCError {
        // Before anything was seen, an address that nobody answers is a mistake.
        guard hasSeen else {
          sender.yield(.watchEnded(error))
          return
        }
        do { try await patience.failed(error) } catch {
          sender.yield(.watchEnded(error as? RPCError ?? RPCError(.cancelled, "\(error)")))
          return
        }
      } catch {
        sender.yield(.watchEnded(RPCError(.cancelled, "\(error)")))
        return
      }
    }
  }
}
