import NIOCore
import RPCCore
import RPCHTTP2

/// The server's side of one connection: makes a stream for each request and drains in the end.
///
///     serving ──beginShutdown──▶ announcing ──ping answered──▶ draining ──last stream──▶ closed
///
/// The announcement and the ping before the final GOAWAY let calls that are on their way arrive:
/// RFC 9113, section 6.8. A peer that has no call open and does not go is waited for no longer than
/// the close timeout. Confined to the loop of its connection.
final class ServerConnection: ConnectionOwner, @unchecked Sendable {
  private enum State { case serving, announcing, draining, closed }

  private let router: Router
  private let configuration: RPCServer.Configuration
  private var state = State.serving
  private var openCalls = 0
  private var closeTimer: Scheduled<Void>?
  private lazy var peer = PeerName(self.connection?.peer ?? "unknown")
  /// Set once, right after both are made.
  weak var connection: Connection?

  init(router: Router, configuration: RPCServer.Configuration) {
    self.router = router
    self.configuration = configuration
  }

  var closeTimeout: Duration { self.configuration.closeTimeout }

  func streamBegan() -> HTTP2Stream? {
    guard let connection = self.connection, self.state != .closed else { return nil }
    self.openCalls += 1
    // A call that was under way when the shutdown began.
    self.closeTimer?.cancel()
    self.closeTimer = nil
    return ServerStream(
      connection: connection, router: self.router, configuration: self.configuration,
      peer: self.peer
    ).stream
  }

  func streamClosed() {
    self.openCalls -= 1
    // The session says so itself once GOAWAY is out and no stream is left.
    if self.state == .draining { self.connection?.needsFlush() }
    self.lastCallMayHaveEnded()
  }

  func settingsReceived() {}
  func goAwayReceived(lastStreamID: Int32, code: UInt32) {}

  func pingAcknowledged() {
    guard self.state == .announcing else { return }
    self.state = .draining
    self.connection?.session?.refuseNewStreams()
    self.connection?.needsFlush()
  }

  func connectionWillClose(_ reason: String) {}

  func connectionClosed(_ reason: String) {
    self.state = .closed
    self.closeTimer?.cancel()
    self.closeTimer = nil
  }

  /// Takes no more calls and closes when the last one is over.
  func beginShutdown() {
    guard self.state == .serving, let session = self.connection?.session else { return }
    self.state = .announcing
    session.announceShutdown()
    session.ping()
    self.connection?.needsFlush()
    self.lastCallMayHaveEnded()
  }

  private func lastCallMayHaveEnded() {
    guard self.state == .announcing || self.state == .draining, self.openCalls == 0,
      self.closeTimer == nil, let connection = self.connection
    else { return }
    self.closeTimer = connection.executor.eventLoop.scheduleTask(
      in: TimeAmount(self.configuration.closeTimeout)
    ) {
      self.connection?.close("the server is shutting down")
    }
  }
}
