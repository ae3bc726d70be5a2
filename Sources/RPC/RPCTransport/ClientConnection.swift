import NIOCore
import RPCCore
import RPCHTTP2

/// What a connection tells its channel. On the loop.
protocol ClientConnectionOwner: AnyObject, Sendable {
  /// HTTP/2 is up: the server's SETTINGS came.
  func connectionReady(_ connection: Connection)
  /// No further calls may be started on it; those that are open go on.
  func connectionRetired(_ connection: Connection)
  func connectionClosed(_ connection: Connection, _ reason: String)
}

/// The client's side of one connection. Confined to its loop.
final class ClientConnection: ConnectionOwner, @unchecked Sendable {
  private unowned let channel: any ClientConnectionOwner
  private let keepalive: RPCChannel.Keepalive?
  /// HTTP/2 was up once.
  private(set) var wasReady = false
  private var pingIsOut = false
  private var keepaliveTask: RepeatedTask?
  /// Why the connection is gone; nil while it lives.
  private(set) var lossReason: String?
  /// Set once, right after both are made.
  weak var connection: Connection?

  init(channel: any ClientConnectionOwner, keepalive: RPCChannel.Keepalive?) {
    self.channel = channel
    self.keepalive = keepalive
  }

  /// A client without calls owes nobody an answer.
  var closeTimeout: Duration { .zero }

  func streamBegan() -> HTTP2Stream? { nil }

  func settingsReceived() {
    guard !self.wasReady, let connection = self.connection else { return }
    self.wasReady = true
    self.startKeepalive(connection)
    self.channel.connectionReady(connection)
  }

  func goAwayReceived(lastStreamID: Int32, code: UInt32) {
    guard let connection = self.connection else { return }
    self.channel.connectionRetired(connection)
    connection.needsFlush()
  }

  func pingAcknowledged() {
    self.pingIsOut = false
  }

  func connectionWillClose(_ reason: String) {
    self.lossReason = reason
  }

  func connectionClosed(_ reason: String) {
    self.keepaliveTask?.cancel()
    guard let connection = self.connection else { return }
    self.channel.connectionClosed(connection, reason)
  }

  /// Pings a server that is silent while calls are open; `doc/keepalive.md` of the gRPC project.
  private func startKeepalive(_ connection: Connection) {
    guard let keepalive = self.keepalive else { return }
    let interval = TimeAmount(keepalive.interval)
    self.keepaliveTask = connection.executor.eventLoop.scheduleRepeatedTask(
      initialDelay: interval, delay: interval
    ) { [weak self, weak connection] _ in
      guard let self, let connection, let session = connection.session else { return }
      let silence = NIODeadline.now() - connection.lastReadTime
      if self.pingIsOut, silence >= TimeAmount(keepalive.timeout) {
        connection.close("the server has been silent for \(keepalive.timeout)")
      } else if session.openStreams > 0, silence >= interval {
        self.pingIsOut = true
        session.ping()
        connection.needsFlush()
      }
    }
  }
}
