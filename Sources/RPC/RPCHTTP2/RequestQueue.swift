import DequeModule

/// A client's requests that wait for the peer to allow more streams, the first one first.
///
/// nghttp2 has such a queue, too, but looks at it only when a stream ends: what was given up would stay in
/// it, with its headers, as long as the peer is busy with others.
struct RequestQueue {
  /// Those without a request have been given up.
  private var streams: Deque<HTTP2Stream> = []
  /// How many wait.
  private(set) var count = 0

  /// Given up, they may be so many beside as many as wait.
  private static let smallNumber = 64

  mutating func append(_ fields: consuming HeaderFields, of stream: HTTP2Stream) {
    stream.waitingRequest = HTTP2Stream.HeaderFieldsBox(fields)
    self.streams.append(stream)
    self.count += 1
  }

  /// The stream waits no more.
  mutating func remove(_ stream: HTTP2Stream) {
    guard stream.waitingRequest.take() != nil else { return }
    self.count -= 1
    if self.streams.count > 2 * self.count + Self.smallNumber {
      self.streams.removeAll { $0.waitingRequest == nil }
    }
  }

  mutating func popFirst() -> (HTTP2Stream, HTTP2Stream.HeaderFieldsBox)? {
    while let stream = self.streams.popFirst() {
      guard let request = stream.waitingRequest.take() else { continue }
      self.count -= 1
      return (stream, request)
    }
    return nil
  }
}
