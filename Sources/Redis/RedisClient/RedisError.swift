import RedisWire

/// Why a command has no result. Whether Redis carried it out is known for `refused` (it did not)
/// and `notConnected`, `tooMuchInFlight`, `invalidCommand` and `closed` (it never saw it); after
/// the others it may have.
package enum RedisError: Error, Hashable, Sendable, CustomStringConvertible {
  /// There is no connection; says why the last attempt failed.
  case notConnected(RedisAddress, reason: String)
  /// The connection ended before the reply.
  case connectionLost(RedisAddress, reason: String)
  /// No reply in time.
  case timedOut(command: String, RedisAddress, after: Duration)
  /// More commands or bytes wait for replies than the client allows.
  case tooMuchInFlight(commands: Int, bytes: Int)
  /// Redis answered with an error.
  case refused(command: String, RedisErrorReply)
  /// The command cannot be written.
  case invalidCommand(RedisWireError)
  /// The client has been shut down.
  case closed

  package var description: String {
    switch self {
    case .notConnected(let address, let reason): "no connection to Redis at \(address): \(reason)"
    case .connectionLost(let address, let reason):
      "the connection to Redis at \(address) was lost: \(reason)"
    case .timedOut(let command, let address, let limit):
      "Redis at \(address) did not answer \(command) within \(limit)"
    case .tooMuchInFlight(let commands, let bytes):
      "\(commands) commands (\(bytes) bytes) already wait for Redis"
    case .refused(let command, let reply): "Redis refused \(command): \(reply)"
    case .invalidCommand(let error): "this command cannot be sent to Redis: \(error)"
    case .closed: "the client of Redis is shut down"
    }
  }
}
