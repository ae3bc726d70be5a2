import RPCCore
import Synchronization

/// What a handler knows of the call it serves, and what it may say beside its messages.
public final class ServerContext: Sendable {
  /// The call that the current task serves: calls that it makes end by the same deadline.
  @TaskLocal public static var current: ServerContext?

  /// `/package.Service/Method`.
  public let method: String
  /// What the client sent with the request.
  public var metadata: Metadata { self.requestMetadata.fields }
  /// When the client stops waiting; the handler's task is cancelled then.
  public let deadline: Deadline?
  /// Whether the request of a call that has only one came compressed.
  public let requestWasCompressed: Bool
  private let requestMetadata: RequestMetadata
  private let connectionPeer: ConnectionPeer

  /// What most calls do without.
  private struct Extras {
    var initial = Metadata()
    var trailing = Metadata()
    var compression: Compression
    var values: [ObjectIdentifier: any Sendable] = [:]
    var observers: [@Sendable (CallSummary) -> Void] = []
    /// What became of a call that ended before its handler.
    var summary: CallSummary?
  }

  private let extras = Mutex<Extras?>(nil)
  /// Something was set: what is not need not be asked for under a lock.
  private let isTouched: Atomic<Bool>
  /// The response's headers have gone out.
  private let isAnswered = Atomic(false)
  private let compression: Compression
  private let accepted: AcceptedEncodings

  init(
    method: String, metadata: RequestMetadata, deadline: Deadline?, peer: ConnectionPeer,
    compression: Compression, accepted: AcceptedEncodings, requestWasCompressed: Bool
  ) {
    self.method = method
    self.requestMetadata = metadata
    self.deadline = deadline
    self.connectionPeer = peer
    self.accepted = accepted
    self.requestWasCompressed = requestWasCompressed
    self.compression = accepted.contains(compression) ? compression : .identity
    self.isTouched = Atomic(self.compression != .identity)
  }

  /// The client's address, for people: `127.0.0.1:4711`, `[::1]:4711`, `unix socket`.
  public var peer: String { self.connectionPeer.address }

  /// The connection, told from others as long as it lives.
  package var connectionID: ObjectIdentifier { ObjectIdentifier(self.connectionPeer) }

  /// Who the client proved to be, with mutual TLS.
  public var peerIdentity: PeerIdentity? { self.connectionPeer.identity }

  /// Sets what is sent before the first response, or before an error. Without effect once that has
  /// gone out. Names that are not the application's are left out; see ``RPCCore/Metadata``.
  public func setInitialMetadata(_ metadata: Metadata) {
    self.change { $0.initial = metadata }
  }

  /// Sets what is sent with the status. Names that are not the application's are left out; see
  /// ``RPCCore/Metadata``.
  public func setTrailingMetadata(_ metadata: Metadata) {
    self.change { $0.trailing = metadata }
  }

  /// How responses are compressed; what the client does not understand is not used. Without effect
  /// once the first response has gone out.
  public var responseCompression: Compression {
    get { self.extras.withLock { $0?.compression } ?? self.compression }
    set {
      guard self.accepted.contains(newValue), !self.isAnswered.load(ordering: .acquiring)
      else { return }
      self.change { $0.compression = newValue }
    }
  }

  /// What interceptors leave for handlers.
  public subscript<Key: ServerContextKey>(key: Key.Type) -> Key.Value? {
    get { self.extras.withLock { $0?.values[ObjectIdentifier(key)] as? Key.Value } }
    set { self.change { $0.values[ObjectIdentifier(key)] = newValue } }
  }

  /// Has a closure called, once, when the call is over: on the connection's event loop, or at once if
  /// the client has left already.
  public func onEnd(_ body: @escaping @Sendable (CallSummary) -> Void) {
    var summary: CallSummary?
    self.change { extras in
      summary = extras.summary
      if summary == nil { extras.observers.append(body) }
    }
    if let summary { body(summary) }
  }

  /// The call is over, and its handler is not: those who ask from now on are told at once.
  func endedEarly(_ summary: CallSummary) {
    self.change { $0.summary = summary }
  }

  private func change(_ body: (inout Extras) -> Void) {
    self.isTouched.store(true, ordering: .releasing)
    self.extras.withLock { extras in
      var changed = extras ?? Extras(compression: self.compression)
      extras = nil
      body(&changed)
      extras = changed
    }
  }

  /// The response's headers go out: what they say stays so.
  func answerBegins() { self.isAnswered.store(true, ordering: .releasing) }

  /// Nothing was set that goes to the client, and nobody waits for the end.
  var isPlain: Bool { !self.isTouched.load(ordering: .acquiring) }

  var initialMetadata: Metadata { self.extras.withLock { $0?.initial } ?? Metadata() }
  var trailingMetadata: Metadata { self.extras.withLock { $0?.trailing } ?? Metadata() }

  /// Those who wait for the end; nobody afterwards.
  func takeObservers() -> [@Sendable (CallSummary) -> Void] {
    self.extras.withLock { extras in
      guard let observers = extras?.observers, !observers.isEmpty else { return [] }
      extras?.observers = []
      return observers
    }
  }
}

/// Who is at the other end of a connection, shared by its calls.
final class ConnectionPeer: Sendable {
  let address: String
  let identity: PeerIdentity?

  init(address: String, identity: PeerIdentity?) {
    self.address = address
    self.identity = identity
  }
}
