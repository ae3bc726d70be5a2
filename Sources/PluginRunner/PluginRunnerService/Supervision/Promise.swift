import Synchronization

/// A value that comes once, from any thread, and that any number of tasks wait for.
final class Promise<Value: Sendable>: Sendable {
  private enum State {
    case waiting([CheckedContinuation<Value, Never>])
    case fulfilled(Value)
  }

  private let state = Mutex(State.waiting([]))

  /// Gives the value. A second one is ignored: two ends of one thing may race.
  func fulfil(_ value: Value) {
    let waiting = self.state.withLock { state in
      guard case .waiting(let waiting) = state else { return [CheckedContinuation<Value, Never>]() }
      state = .fulfilled(value)
      return waiting
    }
    for continuation in waiting { continuation.resume(returning: value) }
  }

  func value() async -> Value {
    await withCheckedContinuation { continuation in
      let value: Value? = self.state.withLock { state in
        switch state {
        case .waiting(var waiting):
          waiting.append(continuation)
          state = .waiting(waiting)
          return nil
        case .fulfilled(let value):
          return value
        }
      }
      if let value { continuation.resume(returning: value) }
    }
  }
}
