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
  /// Its handler was to be cancelled before there was a task to cancel.
  @exclusivity(unchecked) private var isToBeCancelled = false

  private init(_ executor: LoopExecutor) {
    self.executor = executor
  }

  /// Has an idle task, or a new one, serve what is due until a handler waits.
  static func serve(on executor: LoopExecutor) {
    if let idle = executor.idleHandlers.popLast() {
      idle.waiting.take()?.resume()
      return executor.runNewestJob()
    }
    let new = HandlerTask(executor)
    new.task = Task.immediate(executorPreference: executor) { await new.serve() }
    if new.isToBeCancelled { new.task?.cancel() }
  }

  /// Cancels the handler that runs. Not to be called once it has ended.
  func cancel() {
    self.isToBeCancelled = true
    self.task?.cancel()
  }

  /// Of one isolation throughout, and with nothing around a handler that could wait: behind each wait a
  /// task asks, under a lock, which executor it prefers.
  @concurrent private func serve() async {
    while true {
      while let job = self.executor.nextHandler() {
        if job.stream.handlerBegan(in: self) { withUnsafeCurrentTask { $0?.cancel() } }
        await ServerContext.$current.withValue(job.context) {
          await job.body(job.stream, job.context)
        }
        job.stream.handlerEnded()
        if self.isToBeCancelled || Task.isCancelled { return }
      }
      if self.executor.idleHandlers.count >= Self.maximumIdle { return }
      await withUnsafeContinuation { continuation in
        self.waiting = continuation
        self.executor.idleHandlers.append(self)
      }
    }
  }
}
