import RPCCore

/// A task that runs one handler after the other: to make a task, to end it, and to wake it cost as much as
/// to parse a call.
///
/// It takes the handlers that are due on its loop until none is left, or until one waits for something;
/// then the loop has another take the rest. It goes on until one of its calls is cancelled, for that
/// cannot be taken back from a task. Confined to the loop of its executor; `@unchecked Sendable`: what
/// handlers do elsewhere never touches it.
final class HandlerTask: @unchecked Sendable {
  struct Job {
    let stream: ServerStream
    let context: ServerContext
    /// Runs the handler and ends the call.
    let body: @Sendable (ServerStream, ServerContext) async -> Void
  }

  /// Tasks that wait for a call on one loop.
  private static let maximumIdle = 256

  private let executor: LoopExecutor
  @exclusivity(unchecked) private var waiting: UnsafeContinuation<Void, Never>?
  @exclusivity(unchecked) private var task: Task<Void, Never>?

  private init(_ executor: LoopExecutor) {
    self.executor = executor
  }

  /// Has an idle task, or a new one, take the handlers that are due.
  ///
  /// - Returns: Whether it was idle, and does so as the executor's newest job; a new one has done it.
  static func wake(on executor: LoopExecutor) -> Bool {
    if let idle = executor.idleHandlers.popLast() {
      idle.waiting.take()?.resume()
      return true
    }
    let new = HandlerTask(executor)
    new.task = Task.immediate(executorPreference: executor) { await new.serve() }
    return false
  }

  /// Cancels the handler that runs. Not to be called once it has ended.
  func cancel() {
    if let task = self.task { return task.cancel() }
    // From within its first turn.
    withUnsafeCurrentTask { $0?.cancel() }
  }

  /// Of one isolation throughout, and with nothing around a handler that could wait: behind each wait a
  /// task asks, under a lock, which executor it prefers.
  @concurrent private func serve() async {
    while true {
      while let job = self.executor.nextHandler() {
        job.stream.handlerBegan(in: self)
        await ServerContext.$current.withValue(job.context) {
          await job.body(job.stream, job.context)
        }
        job.stream.handlerEnded()
        self.executor.handlerHasRun()
        if Task.isCancelled { return }
      }
      if self.executor.idleHandlers.count >= Self.maximumIdle { return }
      await withUnsafeContinuation { continuation in
        self.waiting = continuation
        self.executor.idleHandlers.append(self)
      }
    }
  }
}
