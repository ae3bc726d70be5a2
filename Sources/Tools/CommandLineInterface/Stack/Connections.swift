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
      var configuration = RPCChannel.Configuration()
      // A laptop that slept, or a host that is gone: whoever follows a build shall notice.
      configuration.keepalive = Keepalive(interval: .seconds(10), timeout: .seconds(10))
      self.channel = RPCChannel(to: address, configuration: configuration)
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
    let scheduler = options.scheduler ?? Files.environment("MILLRACE_SCHEDULER")
    let cache = options.cache ?? Files.environment("MILLRACE_CACHE")
    let allocator = options.allocator ?? Files.environment("MILLRACE_ALLOCATOR")
    let isAnyGiven = scheduler != nil || cache != nil || allocator != nil
    let found = try Self.found(options, mustRun: options.namesData && !isAnyGiven)
    func connection(_ name: String, _ address: String) throws -> Connection {
      do {
        return Connection(name, try ListenAddress(address))
      } catch {
        throw CommandFailure(.usage, "the \(name)'s address \(error)")
      }
    }
    self.scheduler = try connection("scheduler", scheduler ?? found.scheduler)
    self.cache = try connection("content-cache", cache ?? found.cache)
    self.allocator = try connection("executor-allocator", allocator ?? found.allocator)
  }

  /// The addresses of the running `millrace up`, else the defaults.
  ///
  /// - Parameter mustRun: Whoever names a stack's directory means that stack, not what else may
  ///   listen at the defaults.
  private static func found(
    _ options: GlobalOptions, mustRun: Bool
  ) throws(CommandFailure) -> StackFile.Addresses {
    let data = options.dataDirectory
    if let stack = StackFile.read(in: data) { return stack.addresses }
    guard mustRun else { return self.defaults }
    let file = StackFile.path(in: data)
    let reason = Files.exists(file) ? "\(file) is not of one that runs" : "there is no \(file)"
    throw CommandFailure(
      .infrastructure,
      "no `millrace up` runs in \(data): \(reason); start one with `millrace up --data \(data)`")
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
