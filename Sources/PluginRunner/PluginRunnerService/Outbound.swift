import BuildProtos
import Domain
import DomainMapping
import Logging
import PluginRunnerCore
import RPC
import Synchronization

/// Tells the executor-allocator what this runner is and what it runs, and does what it answers.
///
/// A lost allocator changes nothing here: jobs run on, and the next heartbeat that arrives heals
/// its table.
final class Outbound: Sendable {
  /// Until the allocator says otherwise.
  static let firstInterval = Duration.seconds(1)
  /// A heartbeat that takes longer is of no use: the next one says more.
  static let timeout = Duration.seconds(2)
  /// An answer may not silence the runner for longer than this, nor make it spin.
  static let intervals = Duration.milliseconds(50)...Duration.seconds(10)

  /// How it stands with the allocator.
  enum Link: Sendable, Hashable {
    case notYet
    case up
    case down(String)
    /// It is there, and will not have this runner as it is.
    case refused(String)

    init(_ error: any Error) {
      switch (error as? RPCError)?.code {
      case .invalidArgument, .alreadyExists, .permissionDenied, .unauthenticated, .unimplemented:
        self = .refused("\(error)")
      default: self = .down("\(error)")
      }
    }
  }

  private let client: AllocatorV1.AllocatorClient
  private let driver: Driver
  private let disk: DiskWatch
  private let configuration: Configuration
  private let incarnation: String
  private let logger: Logger
  private let link = Mutex(Link.notYet)
  private let pause = Mutex(Pause())

  /// What lies between two heartbeats.
  private struct Pause {
    var sleep: Task<Void, Never>?
    var isCutShort = false
  }

  init(
    client: AllocatorV1.AllocatorClient, driver: Driver, disk: DiskWatch,
    configuration: Configuration, logger: Logger
  ) {
    self.client = client
    self.driver = driver
    self.disk = disk
    self.configuration = configuration
    self.incarnation = String(UInt64.random(in: .min ... .max), radix: 16)
    self.logger = logger
  }

  var state: Link { self.link.withLock { $0 } }

  /// Heartbeats until it is cancelled.
  func run(address: String) async {
    while !Task.isCancelled {
      // What changed until now is in the heartbeat that follows.
      self.pause.withLock { $0.isCutShort = false }
      let interval = await self.beat(address: address)
      let sleep = Task { _ = try? await Task.sleep(for: interval) }
      let isCutShort = self.pause.withLock { pause in
        pause.sleep = sleep
        return pause.isCutShort
      }
      if isCutShort { sleep.cancel() }
      await withTaskCancellationHandler {
        await sleep.value
      } onCancel: {
        sleep.cancel()
      }
    }
  }

  /// Something changed that the allocator should not wait for: the next heartbeat goes out now.
  func hurry() {
    self.pause.withLock { pause in
      // Should one be on its way, it was made before the change.
      pause.isCutShort = true
      pause.sleep?.cancel()
    }
  }

  /// One heartbeat; says when the next is due.
  private func beat(address: String) async -> Duration {
    // Without room on the disk new jobs wait, as they do for one that drains.
    let hasRoom = self.disk.problem == nil
    let request = self.driver.read { core in
      AllocatorV1.HeartbeatRequest(
        executorID: core.profile.id.rawValue, incarnation: self.incarnation, address: address,
        pool: self.configuration.pool, labels: self.configuration.labels,
        capacity: TypesV1.Resources(core.profile.capacity),
        leases: core.heldLeases.map(AllocatorV1.HeldLease.init),
        draining: core.draining || !hasRoom,
        warmProjects: core.warmProjects.map(\.rawValue),
        newestFencingToken: core.newestToken.rawValue)
    }
    do {
      let answer = try await self.client.heartbeat(
        request, options: CallOptions(timeout: Self.timeout))
      self.note(.up)
      self.driver.heartbeatAnswered(stopping: answer.stopLeaseIds.map { LeaseID($0) })
      let wanted = answer.nextHeartbeat.flatMap(Duration.init(positive:)) ?? Self.firstInterval
      return min(max(wanted, Self.intervals.lowerBound), Self.intervals.upperBound)
    } catch {
      if !Task.isCancelled { self.note(Link(error)) }
      return Self.firstInterval
    }
  }

  /// The runner ends for good.
  func deregister() async {
    let request = AllocatorV1.DeregisterRequest(
      executorID: self.configuration.executorID, incarnation: self.incarnation)
    let client = self.client
    // A task of its own: the runner's is cancelled by then, and this call must still go out.
    let call = Task {
      try await client.deregister(request, options: CallOptions(timeout: Self.timeout))
    }
    _ = await call.result
  }

  /// Says a change once, not each second.
  private func note(_ new: Link) {
    let old = self.link.withLock { link in
      defer { link = new }
      return link
    }
    switch (old, new) {
    case (.up, .up), (.down, .down), (.refused, .refused): break
    case (_, .refused(let why)):
      self.logger.error(
        "the executor-allocator refuses this executor: it gets no jobs",
        metadata: ["error": "\(why)"])
    case (_, .down(let why)):
      self.logger.warning(
        "the executor-allocator does not answer; running jobs go on", metadata: ["error": "\(why)"])
    case (_, .up):
      self.logger.info("the executor-allocator knows this executor")
    case (_, .notYet): break
    }
  }
}
