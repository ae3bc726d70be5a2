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
  /// Schedulers that calls were passed on to; beyond it the channels of those that are gone are
  /// closed.
  private static let maximumChannels = 64

  private let replicas: Replicas
  private let metrics: Metrics
  private let channels = Mutex<[String: RPCChannel]>([:])

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
      var options = CallOptions(metadata: context.metadata)
      options.metadata.add(self.replicas.address, for: Self.forwardedBy)
      let client = SchedulerV1.SchedulerClient(try self.channel(to: address))
      self.metrics.forwardedCalls.increment()
      do {
        return try await there(client, options)
      } catch var error as RPCError {
        if error.code == .unavailable, error.retryDelay == nil {
          error.retryDelay = RPCError.retrySoon
        }
        throw error
      }
    }
  }

  /// The address of the scheduler that owns a project's builds; nil: it is this one, or nobody.
  func otherOwner(of project: ProjectID) -> String? {
    if case .at(let address) = self.replicas.places[Partition(of: project)] { address } else { nil }
  }

  func channel(to address: String) throws(RPCError) -> RPCChannel {
    do {
      return try self.channels.withLock { channels in
        if let channel = channels[address] { return channel }
        let channel = try RPCChannel(to: address, configuration: .toService)
        if channels.count >= Self.maximumChannels { channels.removeAll() }
        channels[address] = channel
        return channel
      }
    } catch {
      throw RPCError(.unavailable, "\"\(address)\" is no address of a scheduler: \(error)")
    }
  }

  func close() async {
    let channels = self.channels.withLock { channels in
      defer { channels = [:] }
      return channels
    }
    for channel in channels.values { await channel.close() }
  }
}
