import Synchronization

/// Runs `body`, but waits for it no longer than `limit`; then it is cancelled and left to itself.
///
/// Not a task group: that would wait for a body that does not heed its cancellation.
///
/// - Returns: Whether it came to its end.
func bounded(by limit: Duration, _ body: @escaping @Sendable () async -> Void) async -> Bool {
  let (ends, continuation) = AsyncStream.makeStream(of: Bool.self)
  let work = Task {
    await body()
    continuation.yield(true)
  }
  let timer = Task {
    try await Task.sleep(for: limit)
    continuation.yield(false)
  }
  defer {
    work.cancel()
    timer.cancel()
  }
  var iterator = ends.makeAsyncIterator()
  return await iterator.next() ?? false
}
