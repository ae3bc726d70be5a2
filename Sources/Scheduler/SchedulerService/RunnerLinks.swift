import BuildProtos
import Domain
import Logging
import NIOCore
import RPC
import SchedulerCore

/// The ways to plugin-runners: a channel for each address, a stream for each attempt.
///
/// `@unchecked Sendable`: what changes is touched on the loop only.
final class RunnerLinks: @unchecked Sendable {
  /// What the links tell their driver, on the loop.
  struct Listener: Sendable {
    var received: @Sendable (AttemptID, RunnerEvent) -> Void
    var ended: @Sendable (AttemptID, StreamEnd) -> Void
  }

  private enum Call: Sendable {
    case run(RunnerV1.JobSpec)
    case attach(after: Int64)

    var isAttaching: Bool { if case .attach = self { true } else { false } }
  }

  /// An attempt's newest stream; an older one that still ends is of no interest.
  private struct Stream {
    var number: UInt64
    var address: String
    var cancel: (@Sendable () -> Void)?
  }

  /// Channels without a stream that are kept for the next one.
  private static let maximumIdleChannels = 256
  private static let stopTimeout = Duration.seconds(5)
  private static let channelConfiguration = {
    var configuration = RPCChannel.Configuration()
    // A runner that does not answer in this time has other troubles; the core tries again.
    configuration.connectTimeout = .seconds(2)
    configuration.maximumBackoff = .seconds(2)
    // A host that is gone sends no FIN.
    configuration.keepalive = .init(interval: .seconds(3), timeout: .seconds(3))
    return configuration
  }()

  private let loop: any EventLoop
  private let executor: any TaskExecutor
  private let logger: Logger
  private var channels: Channels
  private var streams: [AttemptID: Stream] = [:]
  private var nextNumber: UInt64 = 0
  var listener: Listener?

  init(loop: any EventLoop, logger: Logger) {
    self.loop = loop
    self.executor = loop.callExecutor
    self.logger = logger
    self.channels = Channels(maximumIdle: Self.maximumIdleChannels) {
      try RPCChannel(to: $0, configuration: Self.channelConfiguration, group: loop)
    }
  }

  /// Streams that are open.
  var openStreams: Int { self.streams.count }

  // MARK: On the loop

  func run(_ order: RunOrder) {
    self.open(order.attempt, at: order.address, .run(RunnerV1.JobSpec(order)))
  }

  func attach(_ attempt: AttemptID, at address: String, after sequence: Int64) {
    self.open(attempt, at: address, .attach(after: sequence))
  }

  /// Lets go of an attempt's stream.
  func detach(_ attempt: AttemptID) {
    self.loop.assertInEventLoop()
    guard let stream = self.streams.removeValue(forKey: attempt) else { return }
    stream.cancel?()
    self.release(stream.address)
  }

  /// Asks a runner to end an attempt; whether it does shows in the attempt's stream.
  func stop(_ attempt: AttemptID, at address: String, _ outcome: Outcome, reason: String) {
    guard let channel = self.use(address) else { return }
    let request = RunnerV1.StopJobRequest(
      attemptID: attempt.rawValue, reason: reason, outcome: Self.order(outcome))
    // Unstructured: it ends by its timeout, and nobody waits for it.
    Task.immediate(executorPreference: self.executor) {
      do {
        _ = try await RunnerV1.RunnerClient(channel).stopJob(
          request, options: CallOptions(timeout: Self.stopTimeout))
      } catch {
        self.logger.debug(
          "a runner could not be asked to stop an attempt",
          metadata: ["attempt": "\(attempt)", "error": "\(error)"])
      }
      self.release(address)
    }
  }

  /// What a runner takes as a reason to stop: anything else is a cancellation to it.
  private static func order(_ outcome: Outcome) -> TypesV1.Outcome {
    switch outcome {
    case .timedOut: .timedOut
    case .preempted, .executorLost: .preempted
    case .succeeded, .failed, .cancelled, .outOfMemory, .skipped, .rejected: .cancelled
    }
  }

  /// Ends every stream and channel.
  func close() async {
    for attempt in Array(self.streams.keys) { self.detach(attempt) }
    for channel in self.channels.takeAll() { await channel.close() }
  }

  // MARK: Streams

  private func open(_ attempt: AttemptID, at address: String, _ call: Call) {
    self.detach(attempt)
    guard let channel = self.use(address) else {
      self.listener?.ended(attempt, .unreachable("\"\(address)\" is no address"))
      return
    }
    self.nextNumber += 1
    let number = self.nextNumber
    self.streams[attempt] = Stream(number: number, address: address)
    let client = RunnerV1.RunnerClient(channel)
    // Unstructured: it ends with its stream, which ``detach(_:)`` and ``close()`` end.
    Task.immediate(executorPreference: self.executor) {
      let end = await self.follow(attempt, number, client, call)
      guard self.isCurrent(attempt, number) else { return }
      self.detach(attempt)
      if let end { self.listener?.ended(attempt, end) }
    }
  }

  private func isCurrent(_ attempt: AttemptID, _ number: UInt64) -> Bool {
    self.loop.assertInEventLoop()
    return self.streams[attempt]?.number == number
  }

  /// Hands an attempt's events on; nil: the last one has come.
  private func follow(
    _ attempt: AttemptID, _ number: UInt64, _ client: RunnerV1.RunnerClient, _ call: Call
  ) async -> StreamEnd? {
    do {
      switch call {
      case .run(let job):
        let responses = try await client.runJob(RunnerV1.RunJobRequest(job: job))
        guard self.isCurrent(attempt, number) else { return nil }
        self.streams[attempt]?.cancel = { responses.cancel() }
        for try await response in responses {
          if self.take(response.event, attempt, number) { return nil }
        }
      case .attach(let after):
        let responses = try await client.attachJob(
          RunnerV1.AttachJobRequest(attemptID: attempt.rawValue, afterSequence: after))
        guard self.isCurrent(attempt, number) else { return nil }
        self.streams[attempt]?.cancel = { responses.cancel() }
        for try await response in responses {
          if self.take(response.event, attempt, number) { return nil }
        }
      }
      return .unreachable("its runner ended the stream before the last event")
    } catch let error as RPCError {
      return StreamEnd(error, isAttaching: call.isAttaching)
    } catch {
      return .unreachable("\(error)")
    }
  }

  /// Hands an event on; true when nothing follows it.
  private func take(
    _ message: RunnerV1.JobEvent?, _ attempt: AttemptID, _ number: UInt64
  ) -> Bool {
    guard self.isCurrent(attempt, number) else { return true }
    guard let message, let event = RunnerEvent(message) else { return false }
    self.listener?.received(attempt, event)
    // One that came out of its turn ends nothing: the stream is followed to its end, and another one
    // brings what is missing.
    return !self.isCurrent(attempt, number)
  }

  // MARK: Channels

  private func use(_ address: String) -> RPCChannel? {
    self.loop.assertInEventLoop()
    return try? self.channels.use(address)
  }

  private func release(_ address: String) {
    self.loop.assertInEventLoop()
    self.channels.release(address)
  }
}
