import Synchronization

/// The handle on a running step. Orders that come before its process is there are kept for it.
final class StepControl: Sendable {
  private struct State {
    var terminate: (@Sendable () -> Void)?
    var kill: (@Sendable () -> Void)?
    var wantsTermination = false
    var wantsKill = false
  }

  private let state = Mutex(State())

  /// The step is there: this is how it is ended.
  func attach(terminate: @escaping @Sendable () -> Void, kill: @escaping @Sendable () -> Void) {
    let (terminated, killed) = self.state.withLock { state in
      state.terminate = terminate
      state.kill = kill
      return (state.wantsTermination, state.wantsKill)
    }
    if killed {
      kill()
    } else if terminated {
      terminate()
    }
  }

  /// The step is over: nothing is ended any more.
  func detach() {
    self.state.withLock { state in
      state.terminate = nil
      state.kill = nil
    }
  }

  /// Does what belongs to the step and has no process: an order to end it cancels the body.
  func heeding<Value: Sendable>(
    _ body: @escaping @Sendable () async throws -> Value
  ) async throws -> Value {
    // Unstructured, because orders come from outside; it is awaited here, and ends with its caller.
    let task = Task { try await body() }
    self.attach(terminate: { task.cancel() }, kill: { task.cancel() })
    defer { self.detach() }
    return try await withTaskCancellationHandler {
      try await task.value
    } onCancel: {
      task.cancel()
    }
  }

  /// Whether somebody asked for its end.
  var isStopped: Bool { self.state.withLock { $0.wantsTermination || $0.wantsKill } }

  func terminate() {
    let action = self.state.withLock { state in
      state.wantsTermination = true
      return state.terminate
    }
    action?()
  }

  func kill() {
    let action = self.state.withLock { state in
      state.wantsKill = true
      return state.kill
    }
    action?()
  }
}
