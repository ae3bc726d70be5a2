/// Why a call cannot be answered, as far as the call and the stored entities decide it.
package enum GatewayError: Error, Hashable, Sendable {
  /// The request can never succeed as it is.
  case invalid(String)
  /// Part of Datastore that this server does not do; names it.
  case unsupported(String)
  /// An insert of an entity that exists.
  case alreadyExists(Key)
  /// An update of an entity that does not exist.
  case notFound(Key)
  /// The stored version is not the one that a strict mutation builds on; 0 is no entity.
  case conflict(Key, stored: Int64, required: Int64)
  /// A transaction that read what others changed since.
  case contention(String)
  /// A transaction that ended, expired or never was.
  case unknownTransaction
  /// A moment of which the store keeps nothing.
  case past(String)
  /// More waits than may wait.
  case overloaded(what: String, limit: String, retryDelay: Duration)
  /// The service ends.
  case draining
}

extension GatewayError: CustomStringConvertible {
  /// For callers. What they sent is quoted in it, and may be of megabytes: the middle of a long
  /// message is left out.
  package var description: String { self.message.withoutMiddle }

  private var message: String {
    switch self {
    case .invalid(let reason): reason
    case .unsupported(let what): "\(what) is not supported"
    case .alreadyExists(let key): "entity already exists: \(key)"
    case .notFound(let key): "no entity to update: \(key)"
    case .conflict(let key, let stored, let required):
      "the stored version (\(stored)) of \(key) does not match the required base version "
        + "(\(required))"
    case .contention(let what):
      "\(what) changed since the transaction read it: begin the transaction again"
    case .unknownTransaction: "the transaction has expired or is invalid"
    case .past(let reason): reason
    case .overloaded(let what, let limit, let retryDelay):
      "too many \(what) wait already (limit \(limit)): try again in "
        + "\(retryDelay.milliseconds) ms"
    case .draining: "the datastore-gateway is shutting down"
    }
  }
}

extension String {
  /// Of a longer text only so much is left: its beginning tells what is wrong, its end mostly where.
  private static let (beginning, end) = (300, 200)

  fileprivate var withoutMiddle: String {
    if self.utf8.count <= Self.beginning + Self.end { return self }
    let scalars = self.unicodeScalars
    if scalars.count <= Self.beginning + Self.end { return self }
    return String(scalars.prefix(Self.beginning)) + "…" + String(scalars.suffix(Self.end))
  }
}

extension Duration {
  /// The whole milliseconds in this duration.
  var milliseconds: Int64 {
    let (seconds, attoseconds) = self.components
    return seconds * 1_000 + attoseconds / 1_000_000_000_000_000
  }
}
