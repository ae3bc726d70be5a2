/// Bytes that are no reply, or more of one than this program takes. The connection they came from
/// is of no further use: where the next reply begins is unknown.
package enum RedisWireError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Not the Redis protocol (RESP2); says what hiredis found.
  case malformed(String)
  /// One reply has more bytes than `limit`.
  case replyTooLarge(limit: Int)
  /// Arrays inside arrays, more than `limit` of them.
  case nestedTooDeep(limit: Int)
  /// One reply has more parts than `limit`.
  case tooManyElements(limit: Int)
  /// One command has more bytes than `limit`.
  case commandTooLarge(bytes: Int, limit: Int)
  /// A command without even a name.
  case emptyCommand
  /// hiredis could not get memory.
  case outOfMemory

  package var description: String {
    switch self {
    case .malformed(let text): "not the Redis protocol: \(text)"
    case .replyTooLarge(let limit): "a reply has more than \(limit) bytes"
    case .nestedTooDeep(let limit): "a reply nests arrays more than \(limit) deep"
    case .tooManyElements(let limit): "a reply has more than \(limit) parts"
    case .commandTooLarge(let bytes, let limit):
      "a command has \(bytes) bytes, more than \(limit)"
    case .emptyCommand: "a command has no words"
    case .outOfMemory: "out of memory"
    }
  }
}
