/// One reply of Redis, or one part of an array reply.
package enum RedisValue: Hashable, Sendable {
  /// "There is nothing": a missing key, a missing field.
  case null
  case integer(Int64)
  /// A short status such as `OK`.
  case status(String)
  /// Redis refused the command, or a script failed.
  case error(RedisErrorReply)
  /// Bytes, as stored; nothing says that they are text.
  case bytes([UInt8])
  case array([RedisValue])
}

extension RedisValue {
  /// The text of a status or of bytes; ill-formed UTF-8 is repaired.
  package var text: String? {
    switch self {
    case .status(let text): text
    case .bytes(let bytes): String(decoding: bytes, as: UTF8.self)
    case .null, .integer, .error, .array: nil
    }
  }

  /// The number of an integer, or of bytes that spell one: scripts answer large numbers as text,
  /// because a number that leaves Lua is truncated to what a double holds.
  package var number: Int64? {
    switch self {
    case .integer(let number): number
    case .bytes, .status: self.text.flatMap { Int64($0) }
    case .null, .error, .array: nil
    }
  }

  /// The parts of an array.
  package var elements: [RedisValue]? {
    guard case .array(let elements) = self else { return nil }
    return elements
  }
}

/// An error reply, for example `WRONGTYPE Operation against a key holding the wrong kind of value`.
package struct RedisErrorReply: Hashable, Sendable, CustomStringConvertible {
  /// The whole line, without the leading minus.
  package let message: String

  package init(_ message: String) {
    self.message = message
  }

  /// The first word, by which programs tell errors apart: `NOSCRIPT`, `LOADING`, `ERR`.
  package var code: Substring {
    self.message.prefix { $0 != " " }
  }

  package var description: String { self.message }
}
