import DequeModule
import RPCCore

/// Whose large body goes out: one at a time, each for a megabyte.
///
/// nghttp2 takes a frame of each stream in turn, so that messages that begin together also end together, when
/// all of them have gone out: whoever receives them has nothing to work on until then, and nothing to receive
/// while it works on them. One behind the other, they arrive in half the time on average, and both sides
/// work at once. Small bodies go out between, as they come.
struct BodyTurns {
  /// Bytes of a turn, if others wait: all of most messages, and of a stream that flows on a part.
  private static let turnBytes = 1 << 20
  /// Less than this needs no turn.
  private static let smallBody = 64 << 10
  /// Given up, they may be so many beside as many as wait.
  private static let smallNumber = 64

  /// Whose turn it is. It may have no window by now.
  private(set) var holder: HTTP2Stream?
  private var remainingBytes = 0
  /// Those that are not marked have been given up.
  private var waiting: Deque<HTTP2Stream> = []
  private var count = 0

  /// Somebody waits for a turn.
  var isAwaited: Bool { self.count > 0 }

  /// Whether the stream's body may go on; otherwise it waits for ``pass()``.
  mutating func admits(_ stream: HTTP2Stream) -> Bool {
    guard stream.outbound.count > Self.smallBody, self.holder !== stream else { return true }
    if self.holder == nil, !self.isAwaited {
      self.begin(stream)
      return true
    }
    stream.waitsForTurn = true
    self.waiting.append(stream)
    self.count += 1
    return false
  }

  /// So many bytes of the stream's body go out.
  mutating func goesOut(_ count: Int, of stream: HTTP2Stream) {
    guard let holder = self.holder, holder === stream else { return }
    self.remainingBytes -= count
    if count == stream.outbound.count || (self.remainingBytes <= 0 && self.isAwaited) {
      self.holder = nil
    }
  }

  /// The next turn.
  ///
  /// - Returns: Whose it is; nil if nobody waits.
  mutating func pass() -> HTTP2Stream? {
    while let next = self.waiting.popFirst() {
      guard next.waitsForTurn else { continue }
      next.waitsForTurn = false
      self.count -= 1
      self.begin(next)
      return next
    }
    return nil
  }

  private mutating func begin(_ stream: HTTP2Stream) {
    self.holder = stream
    self.remainingBytes = Self.turnBytes
  }

  /// The stream is over.
  mutating func remove(_ stream: HTTP2Stream) {
    if self.holder === stream { self.holder = nil }
    guard stream.waitsForTurn else { return }
    stream.waitsForTurn = false
    self.count -= 1
    if self.waiting.count > 2 * self.count + Self.smallNumber {
      self.waiting.removeAll { !$0.waitsForTurn }
    }
  }
}
