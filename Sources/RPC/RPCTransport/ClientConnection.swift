import NIOCore
import RPCCore
import RPCHTTP2

/// What a connection tells its channel. On the loop.
protocol ClientConnectionOwner: AnyObject, Sendable {
  /// HTTP/2 is up: the server's SETTINGS came.
  func connectionReady(_ connection: Connection)
  /// No further calls may be started on it; those that are open go on.
  func connectionRetired(_ connection: Connection, tooManyPings: Bool)
  func connectionClosed(_ connection: Connection, wasReady: Bool, _ reason: String)
}

/// The client's side of one connection. Confined to its loop.
final class ClientConnection: ConnectionOwner, @unchecked Sendable {
  private let channel: any ClientConnectionOwner
  /// HTTP/2 was up once.
  private(set) var isGreeted = false
  private(set) var idleSince = NIODeadline.now()
  /// When HTTP/2 was up.
  private(set) var greeted = NIODeadline.now()
  /// A response has begun on it.
  private(set) var hasAnswered = false
  /// Why the connection is gone; nil while it lives.
  private(set) var lossReason: String?
  /// What the server said in its GOAWAY, if that was an error.
  private var complaint: String?
  /// Its first GOAWAY in words; nil: there was none.
  private(set) var goAway: String?
  /// Set once, right after both are made.
  weak var connection: Connection?

  init(channel: any ClientConnectionOwner) {
    self.channel = channel
  }

  /// A client without calls owes nobody an answer.
  var closeTimeout: Duration { .zero }
  var stalledTimeout: Duration { .zero }

  var openCalls: Int { self.connection?.session?.openStreams ?? 0 }

  func streamBegan() -> HTTP2Stream? { nil }

  func settingsReceived() {
    // TLS hands on what comes while it says goodbye.
    guard !self.isGreeted, let connection = self.connection, !connection.isClosed else { return }
    self.isGreeted = true
    self.greeted = .now()
    self.idleSince = self.greeted
    self.channel.connectionReady(connection)
    connection.greeted()
  }

  func goAwayReceived(lastStreamID: Int32, code: UInt32, text: String) {
    guard let connection = self.connection else { return }
    let words = self.goAwayInWords(code, text)
    if self.goAway == nil { self.goAway = words }
    if code != 0, self.complaint == nil { self.complaint = "the server ended it with \(words)" }
    self.channel.connectionRetired(
      connection, tooManyPings: code == 0xb && text == "too_many_pings")
    // To other connections.
    connection.session?.refuseUnsentRequests()
    connection.needsFlush()
  }

  func pingReceived() {}

  func streamNumbersRanOut() { self.mayLeave("its stream numbers have run out") }

  func pingAcknowledged(_ purpose: HTTP2Session.Ping) {
    self.connection?.pingAnswered()
  }

  func peerWentTooFar(_ what: String) {
    self.connection?.terminate("the server: \(what)")
  }

  func mayLeave(_ reason: String) {
    guard let connection = self.connection else { return }
    self.channel.connectionRetired(connection, tooManyPings: false)
    connection.leave()
  }

  var isShortOfRoom: Bool { false }
  var heldBytes: Int { 0 }

  func callsStalled(_ count: Int) {}

  func peerTakesNothing() {}

  func connectionCloses() {
    guard self.isGreeted, let connection = self.connection else { return }
    self.channel.connectionRetired(connection, tooManyPings: false)
  }

  func connectionWillClose(_ reason: String) {
    self.lossReason = self.complaint ?? reason
  }

  func connectionClosed(_ reason: String) {
    guard let connection = self.connection else { return }
    self.channel.connectionClosed(
      connection, wasReady: self.isGreeted, self.complaint ?? reason)
  }

  func callAnswered() { self.hasAnswered = true }

  func callEnded() { self.idleSince = .now() }
}
