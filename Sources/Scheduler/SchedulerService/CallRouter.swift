import BuildProtos
import Domain
import RPC
import SchedulerCore
import ServiceRuntime
import Synchronization

/// Any scheduler answers any call: what is another's is passed on to it, with the caller's deadline
/// and metadata, once; what nobody owns just now is answered UNAVAILABLE with a delay.
final class CallRouter: Sendable {
  private static let forwardedBy = "millrace-forwarded-by"
  /// Channels that no call uses just now: more than there are schedulers, since each owns one of 64
  /// partitions at least.
  private static let maximumIdleChannels = 64
  /// What others know besides the records is worth no longer wait to whoever asks for a list.
  private static let patience = Duration.seconds(1)

  private let replicas: Replicas
  private let metrics: Metrics
  private let channels = Mutex(
    Channels(maximumIdle: CallRouter.maximumIdleChannels) {
      try RPCChannel(to: $0, configuration: .toService)
    })

  init(replicas: Replicas, metrics: Metrics) {
    self.replicas = replicas
    self.metrics = metrics
  }

  /// Whether every build is this scheduler's: no need to find out whose one is.
  var areAllHere: Bool { self.replicas.places.areAllHere }

  /// Answers a call about a project where its builds are.
  func answer<Response: Sendable>(
    _ project: ProjectID, _ context: ServerContext,
    here: () async throws -> Response,
    there: (SchedulerV1.SchedulerClient, CallOptions) async throws -> Response
  ) async throws -> Response {
    let partition = Partition(of: project)
    switch self.replicas.places[partition] {
    case .here: return try await here()
    case .nobody:
      throw RPCError(
        .unavailable,
        "partition \(partition), which project \(project) is in, has no owner just now",
        retryDelay: RPCError.retrySoon)
    case .at(let address):
      if let sender = context.metadata[Self.forwardedBy] {
        // They do not agree yet on whose it is.
        throw RPCError(
          .unavailable,
          "\(sender) takes this scheduler for the owner of partition \(partition), which is "
            + "\(address)'s",
          retryDelay: RPCError.retrySoon)
      }
      do {
        return try await self.call(address, context, timeout: nil, there)
      } catch var error as RPCError {
        if error.code == .unavailable, error.retryDelay == nil {
          error.retryDelay = RPCError.retrySoon
        }
        throw error
      }
    }
  }

  /// Asks the other schedulers that own builds of these projects, all at the same time; gives what
  /// each answered for its own. Who does not answer soon is missing, and a call that was passed on
  /// already is not passed on again.
  func answers<Response: Sendable>(
    ofOthersOwning projects: Set<ProjectID>, _ context: ServerContext,
    _ call: @escaping @Sendable (SchedulerV1.SchedulerClient, CallOptions) async throws -> Response
  ) async -> [String: Response] {
    guard context.metadata[Self.forwardedBy] == nil else { return [:] }
    return await withTaskGroup(of: (String, Response?).self) { group in
      for address in Set(projects.compactMap { self.otherOwner(of: $0) }) {
        group.addTask {
          (address, try? await self.call(address, context, timeout: Self.patience, call))
        }
      }
      var answers: [String: Response] = [:]
      for await (address, answer) in group { answers[address] = answer }
      return answers
    }
  }

  /// Passes a call on.
  private func call<Response: Sendable>(
    _ address: String, _ context: ServerContext, timeout: Duration?,
    _ body: (SchedulerV1.SchedulerClient, CallOptions) async throws -> Response
  ) async throws -> Response {
    let channel: RPCChannel
    do {
      channel = try self.channels.withLock { try $0.use(address) }
    } catch {
      throw RPCError(.unavailable, "\"\(address)\" is no address of a scheduler: \(error)")
    }
    defer { self.channels.withLock { $0.release(address) } }
    var options = CallOptions(timeout: timeout, metadata: context.metadata)
    options.metadata.add(self.replicas.address, for: Self.forwardedBy)
    self.metrics.forwardedCalls.increment()
    return try await body(SchedulerV1.SchedulerClient(channel), options)
  }

  /// The address of the scheduler that owns a project's builds; nil: it is this one, or nobody.
  func otherOwner(of project: ProjectID) -> String? {
    if case .at(let address) = self.replicas.places[Partition(of: project)] { address } else { nil }
  }

  func close() async {
    for channel in self.channels.withLock({ $0.takeAll() }) { await channel.close() }
  }
}
