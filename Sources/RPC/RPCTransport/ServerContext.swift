import RPCCore
import Synchronization

/// What a handler knows of the call it serves, and what it may say beside its messages.
public final class ServerContext: Sendable {
  /// `/package.Service/Method`.
  public let method: String
  /// What the client sent with the request.
  public let metadata: Metadata
  /// When the client stops waiting; the handler's task is cancelled then.
  public let deadline: Deadline?
  private let connectionPeer: PeerName

  private struct Answer {
    var initial = Metadata()
    var trailing = Metadata()
  }

  private let answer = Mutex(Answer())

  init(method: String, metadata: Metadata, deadline: Deadline?, peer: PeerName) {
    self.method = method
    self.metadata = metadata
    self.deadline = deadline
    self.connectionPeer = peer
  }

  /// The client's address.
  public var peer: String { self.connectionPeer.text }

  /// Sets what is sent before the first response. Without effect once that has gone out.
  public func setInitialMetadata(_ metadata: Metadata) {
    self.answer.withLock { $0.initial = metadata }
  }

  /// Sets what is sent with the status.
  public func setTrailingMetadata(_ metadata: Metadata) {
    self.answer.withLock { $0.trailing = metadata }
  }

  var initialMetadata: Metadata { self.answer.withLock { $0.initial } }
  var trailingMetadata: Metadata { self.answer.withLock { $0.trailing } }
}

/// A peer's address in words, shared by the calls of its connection.
final class PeerName: Sendable {
  let text: String
  init(_ text: String) { self.text = text }
}
