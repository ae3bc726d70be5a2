import BuildProtos
import RPC

/// The services that commands call, and where they are.
package struct Connections: Sendable {
  /// One service and the way to it.
  package struct Connection: Sendable {
    let peer: Peer
    let channel: RPCChannel

    package init(_ name: String, _ address: ListenAddress) {
      self.peer = Peer(name: name, address: "\(address)")
      self.channel = RPCChannel(to: address)
    }
  }

  let scheduler: Connection
  let cache: Connection
  let allocator: Connection

  /// How long a unary call may take.
  static let timeout = Duration.seconds(30)

  /// Where each service is if nothing says otherwise.
  static let defaults = StackFile.Addresses(
    scheduler: "127.0.0.1:7101", allocator: "127.0.0.1:7102", gateway: "127.0.0.1:7104",
    cache: "127.0.0.1:7105")

  package init(scheduler: Connection, cache: Connection, allocator: Connection) {
    self.scheduler = scheduler
    self.cache = cache
    self.allocator = allocator
  }

  /// Finds the services: what was given, the environment, the running `millrace up`, the defaults.
  init(_ options: GlobalOptions) throws {
    let stack = StackFile.read(in: options.dataDirectory)?.addresses ?? Self.defaults
    func connection(
      _ name: String, _ given: String?, _ variable: String, _ found: String
    ) throws -> Connection {
      let address = given ?? Files.environment(variable) ?? found
      do {
        return Connection(name, try ListenAddress(address))
      } catch {
        throw CommandFailure(.usage, "the \(name)'s address \(error)")
      }
    }
    self.scheduler = try connection(
      "scheduler", options.scheduler, "MILLRACE_SCHEDULER", stack.scheduler)
    self.cache = try connection(
      "content-cache", options.cache, "MILLRACE_CACHE", stack.cache)
    self.allocator = try connection(
      "executor-allocator", options.allocator, "MILLRACE_ALLOCATOR", stack.allocator)
  }

  /// Calls a service, and makes its errors sentences.
  static func call<Value>(
    _ connection: Connection, _ body: (RPCChannel) async throws -> Value
  ) async throws -> Value {
    do {
      return try await body(connection.channel)
    } catch let error as RPCError {
      throw connection.peer.failure(error)
    }
  }

  /// A build as it is now.
  func build(_ id: String) async throws -> SchedulerV1.Build {
    try await Self.call(self.scheduler) { channel in
      let response = try await SchedulerV1.SchedulerClient(channel).getBuild(
        SchedulerV1.GetBuildRequest(buildID: id), options: CallOptions(timeout: Self.timeout))
      guard let build = response.build else {
        throw RPCError(.internalError, "the answer has no build")
      }
      return build
    }
  }
}
