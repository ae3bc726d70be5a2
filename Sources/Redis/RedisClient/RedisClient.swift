import Logging
import NIOCore
import NIOPosix
import RedisWire
import Synchronization

/// A client of one Redis: a single pipelined connection that comes back by itself.
///
/// Call ``start()`` once, then ``submit(_:then:)``, ``evaluate(_:keys:arguments:then:)`` or their
/// `async` forms from anywhere. A command that finds no connection fails at once instead of
/// waiting for one; no command is ever sent twice, since whether the first one was carried out is
/// not known. Completions run on the client's event loop.
///
/// `@unchecked Sendable`: what is not in a mutex is touched on the event loop only, which every
/// entry asserts.
package final class RedisClient: @unchecked Sendable {
  /// Whether commands can be sent.
  package enum Status: Hashable, Sendable {
    case connected
    /// Not now; says why.
    case disconnected(reason: String)
  }

  private enum State {
    case idle
    case connecting
    /// Connected, but Redis has not answered the greeting yet.
    case greeting(RedisConnection)
    case connected(RedisConnection)
    case waiting(Scheduled<Void>)
    case closed
  }

  package let configuration: RedisConfiguration
  package let eventLoop: any EventLoop
  private let logger: Logger
  private var state = State.idle
  private var failures = 0
  /// What Redis calls each script, once it has said so. The name is a digest of the source, so it
  /// stays right whatever happens to Redis.
  private var scriptNames: [RedisScript: String] = [:]
  private let sharedStatus = Mutex(Status.disconnected(reason: "not connected yet"))
  private let statusChanged: @Sendable (Status) -> Void

  /// - Parameter statusChanged: Called on the event loop whenever the connection comes or goes.
  package init(
    configuration: RedisConfiguration, eventLoop: any EventLoop, logger: Logger,
    statusChanged: @escaping @Sendable (Status) -> Void = { _ in }
  ) {
    self.configuration = configuration
    self.eventLoop = eventLoop
    self.logger = logger
    self.statusChanged = statusChanged
  }

  package var status: Status { self.sharedStatus.withLock { $0 } }

  /// Begins to connect, and goes on whenever the connection is lost, until ``shutdown()``.
  package func start() {
    self.onLoop {
      guard case .idle = self.state else { return }
      self.connect()
    }
  }

  /// Ends the connection; what is pending fails.
  package func shutdown() async {
    await withCheckedContinuation { continuation in
      self.onLoop {
        let state = self.state
        self.state = .closed
        switch state {
        case .greeting(let connection), .connected(let connection): connection.end(.closed)
        case .waiting(let timer): timer.cancel()
        case .idle, .connecting, .closed: break
        }
        self.setStatus(.disconnected(reason: "shut down"))
        continuation.resume()
      }
    }
  }

  /// Sends a command; `then` gets its result on the event loop.
  package func submit(
    _ command: RedisCommand,
    then completion: @escaping @Sendable (Result<RedisValue, RedisError>) -> Void
  ) {
    self.onLoop {
      switch self.state {
      case .connected(let connection): connection.send(command, completion: completion)
      case .closed: completion(.failure(.closed))
      case .idle, .connecting, .greeting, .waiting: completion(.failure(self.notConnected))
      }
    }
  }

  /// Runs a script; `then` gets its result on the event loop.
  ///
  /// The script travels with the first call and after Redis has forgotten it; otherwise only its
  /// name does.
  package func evaluate(
    _ script: RedisScript, keys: [String] = [], arguments: RedisArguments,
    then completion: @escaping @Sendable (Result<RedisValue, RedisError>) -> Void
  ) {
    self.onLoop {
      guard let name = self.scriptNames[script] else {
        self.submit(RedisCommand("SCRIPT", "LOAD", script.source)) { result in
          if case .success(let value) = result, let name = value.text {
            self.scriptNames[script] = name
          }
        }
        self.submit(arguments.command("EVAL", script.source, keys: keys), then: completion)
        return
      }
      self.submit(arguments.command("EVALSHA", name, keys: keys)) { result in
        if case .failure(.refused(_, let reply)) = result, reply.code == "NOSCRIPT" {
          self.logger.info("Redis had forgotten a script", metadata: ["script": "\(script.name)"])
          self.submit(arguments.command("EVAL", script.source, keys: keys), then: completion)
        } else {
          completion(result)
        }
      }
    }
  }

  /// Sends a command and waits for its reply.
  package func send(_ command: RedisCommand) async throws(RedisError) -> RedisValue {
    let result = await withCheckedContinuation { continuation in
      self.submit(command) { continuation.resume(returning: $0) }
    }
    return try result.get()
  }

  /// Runs a script and waits for its result.
  package func evaluate(
    _ script: RedisScript, keys: [String] = [], arguments: RedisArguments
  ) async throws(RedisError) -> RedisValue {
    let result = await withCheckedContinuation { continuation in
      self.evaluate(script, keys: keys, arguments: arguments) {
        continuation.resume(returning: $0)
      }
    }
    return try result.get()
  }

  // MARK: Connecting, on the loop

  private func onLoop(_ body: @escaping @Sendable () -> Void) {
    if self.eventLoop.inEventLoop { body() } else { self.eventLoop.execute(body) }
  }

  private var notConnected: RedisError {
    switch self.status {
    case .connected: .notConnected(self.configuration.address, reason: "it was just lost")
    case .disconnected(let reason): .notConnected(self.configuration.address, reason: reason)
    }
  }

  private func setStatus(_ status: Status) {
    let changed = self.sharedStatus.withLock { shared in
      defer { shared = status }
      return shared != status
    }
    if changed { self.statusChanged(status) }
  }

  private func connect() {
    self.eventLoop.assertInEventLoop()
    self.state = .connecting
    let bootstrap = ClientBootstrap(group: self.eventLoop)
      .connectTimeout(TimeAmount(self.configuration.connectTimeout))
    let future: EventLoopFuture<any Channel>
    switch self.configuration.address {
    case .unix(let path):
      future = bootstrap.connect(unixDomainSocketPath: path)
    case .tcp(let host, let port):
      future = bootstrap.channelOption(.tcpOption(.tcp_nodelay), value: 1)
        .channelOption(.socketOption(.so_keepalive), value: 1)
        .connect(host: host, port: port)
    }
    future.whenComplete { result in
      switch result {
      case .failure(let error): self.attemptFailed(Self.describe(error))
      case .success(let channel): self.greet(channel)
      }
    }
  }

  private func greet(_ channel: any Channel) {
    guard case .connecting = self.state else {
      // Shut down while it connected.
      channel.close(promise: nil)
      return
    }
    let connection = RedisConnection(configuration: self.configuration) { error in
      self.connectionEnded(error)
    }
    do {
      try channel.pipeline.syncOperations.addHandler(connection)
    } catch {
      channel.close(promise: nil)
      self.attemptFailed("\(error)")
      return
    }
    self.state = .greeting(connection)
    let commands = self.configuration.greeting
    for (index, command) in commands.enumerated() {
      connection.send(command) { result in
        switch result {
        case .failure(let error): connection.end(error)
        case .success: if index == commands.count - 1 { self.greeted(connection) }
        }
      }
    }
  }

  private func greeted(_ connection: RedisConnection) {
    guard case .greeting(let current) = self.state, current === connection else { return }
    self.state = .connected(connection)
    self.failures = 0
    self.logger.info("connected to Redis", metadata: ["redis": "\(self.configuration.address)"])
    self.setStatus(.connected)
  }

  private func connectionEnded(_ error: RedisError) {
    switch self.state {
    case .greeting, .connected: self.attemptFailed("\(error)")
    case .idle, .connecting, .waiting, .closed: break
    }
  }

  private func attemptFailed(_ reason: String) {
    self.eventLoop.assertInEventLoop()
    if case .closed = self.state { return }
    self.failures += 1
    let delay = self.configuration.backoff.delay(
      afterFailures: self.failures, random: .random(in: 0...1))
    if self.failures == 1 {
      self.logger.warning(
        "no connection to Redis",
        metadata: ["redis": "\(self.configuration.address)", "reason": "\(reason)"])
    }
    self.state = .waiting(
      self.eventLoop.scheduleTask(in: TimeAmount(delay)) {
        if case .waiting = self.state { self.connect() }
      })
    self.setStatus(.disconnected(reason: reason))
  }

  /// The reason of a failed attempt in one line: NIO's own text lists every address it tried.
  private static func describe(_ error: any Error) -> String {
    switch error {
    case let error as NIOConnectionError:
      if let first = error.connectionErrors.first { return Self.describe(first.error) }
      return "the name \(error.host) has no address"
    case let error as IOError: return error.description
    case ChannelError.connectTimeout(let limit):
      return "no connection within \(Double(limit.nanoseconds) / 1e9) s"
    default: return "\(error)"
    }
  }
}
