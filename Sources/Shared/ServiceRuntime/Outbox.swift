import RPC
import Synchronization

/// What waits to be sent on one stream: filled by a driver that must not wait, emptied by the
/// stream's own task.
package final class Outbox<Element: Sendable>: Sendable {
  private struct State {
    var elements: [Element] = []
    var ending: RPCError?
    var isEnded = false
    var reader: CheckedContinuation<Void, Never>?
  }

  /// A peer that lets more than this lie does not read; its stream is ended.
  private let bound: Int
  private let state = Mutex(State())

  /// - Parameter bound: The most that may lie here.
  package init(bound: Int) {
    self.bound = bound
  }

  /// False when the reader is too far behind; the outbox is ended then.
  package func append(_ element: Element) -> Bool {
    let (reader, isTaken) = self.state.withLock { state in
      // What the stream is told after its end is told when it is opened again.
      guard !state.isEnded else { return (CheckedContinuation<Void, Never>?.none, true) }
      guard state.elements.count < self.bound else { return (nil, false) }
      state.elements.append(element)
      defer { state.reader = nil }
      return (state.reader, true)
    }
    reader?.resume()
    if !isTaken {
      self.end(
        RPCError(
          .resourceExhausted, "\(self.bound) messages wait to be read on this stream",
          retryDelay: .seconds(1)))
    }
    return isTaken
  }

  /// The stream ends when what is queued has been sent; with an error, at once.
  package func end(_ error: RPCError?) {
    let reader = self.state.withLock { state in
      guard !state.isEnded else { return CheckedContinuation<Void, Never>?.none }
      state.isEnded = true
      state.ending = error
      if error != nil { state.elements.removeAll() }
      defer { state.reader = nil }
      return state.reader
    }
    reader?.resume()
  }

  /// All that is queued, or nil at the end. Waits while there is nothing. Read by one task, whose
  /// cancellation ends the outbox.
  package func next() async throws -> [Element]? {
    while true {
      let (elements, isEnded, ending) = self.state.withLock { state in
        defer { state.elements = [] }
        return (state.elements, state.isEnded, state.ending)
      }
      if !elements.isEmpty { return elements }
      if isEnded {
        if let ending { throw ending }
        return nil
      }
      await withTaskCancellationHandler {
        await withCheckedContinuation { continuation in
          let isDue = self.state.withLock { state in
            guard state.elements.isEmpty && !state.isEnded else { return true }
            state.reader = continuation
            return false
          }
          if isDue { continuation.resume() }
        }
      } onCancel: {
        self.end(RPCError(.cancelled, "the stream's task was cancelled"))
      }
    }
  }
}
