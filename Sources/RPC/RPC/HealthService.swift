import RPCCore
import RPCTransport
import Synchronization

/// Tells clients and load balancers whether services can be used: `grpc.health.v1.Health`.
///
/// Statuses are set by whoever runs the server; the empty name is the server as a whole. Watchers
/// get the newest status; one that is slow skips those between.
public final class HealthService: HealthV1.HealthService {
  /// Serving, not serving, or unknown.
  public typealias Status = HealthV1.HealthCheckResponse.ServingStatus

  private struct Watch {
    let service: String
    let continuation: AsyncStream<Status>.Continuation
  }

  private struct State {
    var statuses: [String: Status] = ["": .serving]
    var watches: [Int: Watch] = [:]
    /// How many of the watches each connection has.
    var watchesByConnection: [ObjectIdentifier: Int] = [:]
    var nextWatch = 0
    /// Whether no watch goes on any more.
    var isEnding = false
  }

  private let state = Mutex(State())
  private let maximumWatches: Int
  private let maximumWatchesPerConnection: Int

  /// The server as a whole is serving.
  ///
  /// - Parameters:
  ///   - maximumWatches: Watches that are served; one more is refused with `resourceExhausted`. None
  ///     with 0 or less.
  ///   - maximumWatchesPerConnection: The same for each client's connection, so that none takes all.
  public init(maximumWatches: Int = 1_000, maximumWatchesPerConnection: Int = 100) {
    self.maximumWatches = maximumWatches
    self.maximumWatchesPerConnection = maximumWatchesPerConnection
  }

  /// Sets a service's status, and tells its watchers.
  ///
  /// - Parameters:
  ///   - status: What ``check(_:context:)`` answers from now on.
  ///   - service: The full name, `package.Service`; empty is the server as a whole.
  public func set(_ status: Status, for service: String = "") {
    self.state.withLock { state in
      guard state.statuses[service] != status else { return }
      state.statuses[service] = status
      for watch in state.watches.values where watch.service == service {
        watch.continuation.yield(status)
      }
    }
  }

  /// Sets the status of every service that has one.
  public func setAll(_ status: Status) {
    for service in self.state.withLock({ Array($0.statuses.keys) }) {
      self.set(status, for: service)
    }
  }

  /// Ends all watches behind what they were told last, and those that come: the server shuts down, and would wait for
  /// them.
  public func endWatches() {
    self.state.withLock { state in
      state.isEnding = true
      for watch in state.watches.values { watch.continuation.finish() }
    }
  }

  /// Answers with a service's status now. `notFound`: none was ever set for it.
  public func check(
    _ request: HealthV1.HealthCheckRequest, context: ServerContext
  ) async throws -> HealthV1.HealthCheckResponse {
    guard let status = self.state.withLock({ $0.statuses[request.service] }) else {
      throw RPCError(.notFound, "there is no service \"\(request.service)\"")
    }
    return HealthV1.HealthCheckResponse(status: status)
  }

  /// Answers with the status of every service that has one.
  public func list(
    _ request: HealthV1.HealthListRequest, context: ServerContext
  ) async throws -> HealthV1.HealthListResponse {
    let statuses = self.state.withLock { $0.statuses }
    return HealthV1.HealthListResponse(
      statuses: statuses.mapValues { HealthV1.HealthCheckResponse(status: $0) })
  }

  /// Answers with a service's status now and whenever it changes, until the client leaves or ``endWatches()``; one that
  /// none was ever set for is `serviceUnknown`. `resourceExhausted`: as many as may be are open.
  public func watch(
    _ request: HealthV1.HealthCheckRequest,
    responses: ResponseWriter<HealthV1.HealthCheckResponse>, context: ServerContext
  ) async throws {
    let connection = context.connectionID
    let (id, statuses) = try self.beginWatch(request.service, connection)
    defer { self.endWatch(id, connection) }
    for await status in statuses {
      try await responses.send(HealthV1.HealthCheckResponse(status: status))
    }
  }

  private func beginWatch(
    _ service: String, _ connection: ObjectIdentifier
  ) throws -> (Int, AsyncStream<Status>) {
    let (stream, continuation) = AsyncStream.makeStream(
      of: Status.self, bufferingPolicy: .bufferingNewest(1))
    let id = try self.state.withLock { state in
      guard state.watches.count < self.maximumWatches else {
        throw RPCError(
          .resourceExhausted, "\(self.maximumWatches) watches of the server's health are open",
          retryDelay: .seconds(1))
      }
      let itsWatches = state.watchesByConnection[connection] ?? 0
      guard itsWatches < self.maximumWatchesPerConnection else {
        throw RPCError(
          .resourceExhausted,
          "\(itsWatches) watches of the server's health are open on this connection",
          retryDelay: .seconds(1))
      }
      state.nextWatch += 1
      state.watchesByConnection[connection] = itsWatches + 1
      state.watches[state.nextWatch] = Watch(
        service: service, continuation: continuation)
      continuation.yield(state.statuses[service] ?? .serviceUnknown)
      if state.isEnding { continuation.finish() }
      return state.nextWatch
    }
    return (id, stream)
  }

  private func endWatch(_ id: Int, _ connection: ObjectIdentifier) {
    self.state.withLock { state in
      state.watches[id] = nil
      let others = (state.watchesByConnection[connection] ?? 1) - 1
      state.watchesByConnection[connection] = others > 0 ? others : nil
    }
  }
}
