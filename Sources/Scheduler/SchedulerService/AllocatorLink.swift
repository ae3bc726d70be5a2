import BuildProtos
import Domain
import Logging
import NIOCore
import OrderedCollections
import RPC
import SchedulerCore
import ServiceRuntime

/// The stream to the executor-allocator: demand out, leases in. It is opened again whenever it is
/// lost, and whoever listens then says anew what is wanted and held.
///
/// `@unchecked Sendable`: what changes is touched on the loop only.
final class AllocatorLink: @unchecked Sendable {
  /// What the link tells its driver, on the loop.
  struct Listener: Sendable {
    /// A new stream is open; nothing of the old one counts.
    var opened: @Sendable () -> Void
    var received: @Sendable (AllocatorV1.AcquireResponse) -> Void
  }

  /// All demand and every held lease of a large farm, told again in one go.
  private static let maximumQueued = 1_000_000
  private static let backoff = Backoff(first: .milliseconds(100), limit: .seconds(2))
  private static let releaseTimeout = Duration.seconds(5)
  /// Leases in one call.
  private static let maximumReleased = 1_000

  private let client: AllocatorV1.AllocatorClient
  private let loop: any EventLoop
  private let executor: any TaskExecutor
  private let logger: Logger
  private var outbox: Outbox<AllocatorV1.AcquireRequest>?
  /// Given back, and not yet heard by the allocator.
  private var releases: OrderedSet<LeaseID> = []
  private var isReleasing = false
  private(set) var isUp = false

  init(channel: RPCChannel, loop: any EventLoop, logger: Logger) {
    self.client = AllocatorV1.AllocatorClient(channel)
    self.loop = loop
    self.executor = loop.callExecutor
    self.logger = logger
  }

  // MARK: On the loop

  /// While there is no stream, nothing is kept: the next one begins with all that counts then.
  func send(_ change: AllocatorV1.AcquireRequest.Change) {
    self.loop.assertInEventLoop()
    guard let outbox = self.outbox else { return }
    // An outbox that is full has ended its stream, and the next one begins anew.
    if !outbox.append(AllocatorV1.AcquireRequest(change: change)) { self.outbox = nil }
  }

  /// Gives a lease back; repeated until the allocator has heard it.
  func release(_ lease: LeaseID) {
    self.loop.assertInEventLoop()
    self.releases.append(lease)
    guard !self.isReleasing else { return }
    self.isReleasing = true
    // Unstructured: it ends when nothing is left to release, whoever asked for it.
    Task.immediate(executorPreference: self.executor) { await self.releaseAll() }
  }

  private func releaseAll() async {
    var failures = 0
    while !self.releases.isEmpty {
      let batch = Array(self.releases.prefix(Self.maximumReleased))
      do {
        _ = try await self.client.release(
          AllocatorV1.ReleaseRequest(leaseIds: batch.map(\.rawValue)),
          options: CallOptions(timeout: Self.releaseTimeout))
        failures = 0
        self.releases.subtract(batch)
      } catch {
        failures += 1
        guard (try? await Task.sleep(for: Self.backoff.delay(after: failures))) != nil else {
          break
        }
      }
    }
    self.isReleasing = false
  }

  // MARK: The stream

  /// Keeps a stream open until it is cancelled. To be run on the loop's executor.
  func run(_ listener: Listener) async {
    var failures = 0
    while !Task.isCancelled {
      do {
        try await self.stream(listener) { failures = 0 }
      } catch {
        if Task.isCancelled { break }
        if self.isUp || failures == 0 {
          self.logger.warning(
            "no stream to the executor-allocator: jobs wait, running ones go on",
            metadata: ["error": "\(error)"])
        }
        self.isUp = false
        failures += 1
        // Cancellation ends the sleep and the loop.
        try? await Task.sleep(for: Self.backoff.delay(after: failures))
      }
    }
    self.isUp = false
  }

  private func stream(_ listener: Listener, opened: () -> Void) async throws {
    let call = try await self.client.acquire()
    defer { call.cancel() }
    // An allocator sends it at once, so that both know that the stream is there.
    _ = try await call.responses.initialMetadata
    let outbox = Outbox<AllocatorV1.AcquireRequest>(bound: Self.maximumQueued)
    self.outbox = outbox
    defer { if self.outbox === outbox { self.outbox = nil } }
    self.logger.info("the executor-allocator grants leases")
    self.isUp = true
    opened()
    listener.opened()
    try await withThrowingTaskGroup(of: Void.self) { group in
      defer { group.cancelAll() }
      group.addTask(executorPreference: self.executor) {
        while let requests = try await outbox.next() {
          for request in requests { try await call.send(request) }
        }
      }
      group.addTask(executorPreference: self.executor) {
        for try await response in call.responses { listener.received(response) }
        throw RPCError(.unavailable, "the allocator has ended the stream")
      }
      try await group.next()
    }
  }
}
