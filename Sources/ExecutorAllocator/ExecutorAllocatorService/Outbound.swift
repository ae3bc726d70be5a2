import BuildProtos
import RPC
import Synchronization

/// What waits to be sent on one `Acquire` stream: filled by the driver, emptied by the stream's
/// handler.
final class Outbound: Sendable {
  /// A scheduler that lets this many answers lie does not read; its stream is ended, and what was
  /// granted is granted again when it asks again. One burst of grants for all of its demand fits.
  static let maximumEvents = 200_000

  private struct State {
    var events: [AllocatorV1.AcquireResponse] = []
    var ending: RPCError?
    var isEnded = false
    var reader: CheckedContinuation<Void, Never>?
  }

  private let state = Mutex(State())

  /// False when the reader is too far behind; the stream is ended then.
  func append(_ event: AllocatorV1.AcquireResponse) -> Bool {
    let (reader, isTaken) = self.state.withLock { state in
      // What the stream is told after its end is told when it is opened again.
      guard !state.isEnded else { return (CheckedContinuation<Void, Never>?.none, true) }
      guard state.events.count < Self.maximumEvents else { return (nil, false) }
      state.events.append(event)
      defer { state.reader = nil }
      return (state.reader, true)
    }
    reader?.resume()
    if !isTaken {
      self.end(
        RPCError(
          .resourceExhausted, "\(Self.maximumEvents) answers wait to be read on this stream",
          retryDelay: .seconds(1)))
    }
    return isTaken
  }

  /// The stream ends when what is queued has been sent; with an error, at once.
  func end(_ error: RPCError?) {
    let reader = self.state.withLock { state in
      guard !state.isEnded else { return CheckedContinuation<Void, Never>?.none }
      state.isEnded = true
      state.ending = error
      if error != nil { state.events.removeAll() }
      defer { state.reader = nil }
      return state.reader
    }
    reader?.resume()
  }

  /// All that is queued, or nil at the end. Waits while there is nothing. Read by one task.
  func next() async throws -> [AllocatorV1.AcquireResponse]? {
    while true {
      let (events, isEnded, ending) = self.state.withLock { state in
        defer { state.events = [] }
        return (state.events, state.isEnded, state.ending)
      }
      if !events.isEmpty { return events }
      if isEnded {
        if let ending { throw ending }
        return nil
      }
      await withTaskCancellationHandler {
        await withCheckedContinuation { continuation in
          let isDue = self.state.withLock { state in
            guard state.events.isEmpty && !state.isEnded else { return true }
            state.reader = continuation
            return false
          }
          if isDue { continuation.resume() }
        }
      } onCancel: {
        self.end(RPCError(.cancelled, "the stream's handler was cancelled"))
      }
    }
  }
}
