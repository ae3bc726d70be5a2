import NIOCore
import RedisWire

/// What becomes of a command. Called on the client's event loop, exactly once.
package typealias RedisCompletion = (Result<RedisValue, RedisError>) -> Void

/// The commands that wait for replies, in the order in which they were sent: Redis answers in the
/// same order, so each reply belongs to the oldest.
struct PendingCommands {
  struct Entry {
    let name: String
    let bytes: Int
    let deadline: NIODeadline
    let completion: RedisCompletion
  }

  private var entries = CircularBuffer<Entry>(initialCapacity: 64)
  private(set) var bytes = 0

  var count: Int { self.entries.count }
  var isEmpty: Bool { self.entries.isEmpty }
  /// When the oldest one has waited too long. All have the same patience, so no other is due
  /// before it.
  var firstDeadline: NIODeadline? { self.entries.first?.deadline }

  mutating func append(_ entry: Entry) {
    self.entries.append(entry)
    self.bytes += entry.bytes
  }

  mutating func popFirst() -> Entry? {
    guard let entry = self.entries.popFirst() else { return nil }
    self.bytes -= entry.bytes
    return entry
  }
}
