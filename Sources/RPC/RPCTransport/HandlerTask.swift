import RPCCore

/// A task that runs one handler after the other: to make a task, and to end it, costs as much as to
/// parse a call.
///
/// It goes on until one of its calls is cancelled, for that cannot be taken back from a task.
/// Confined to the loop of its executor; `@unchecked Sendable`: what handlers do elsewhere never
/// touches it.
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
  @exclusivity(unchecked) private var next: Job?
  @exclusivity(unchecked) private var waiting: UnsafeContinuation<Void, Never>?
  @exclusivity(unchecked) private var task: Task<Void, Never>?

  /// One that is idle, or a new one.
  static func spare(on executor: LoopExecutor) -> HandlerTask {
    executor.idleHandlers.popLast() ?? HandlerTask(executor)
  }

  private init(_ executor: LoopExecutor) {
    self.executor = executor
  }

  /// Runs a handler: at once in a new task, before the loop sleeps in one that was idle.
  func run(_ job: Job) {
    self.next = job
    if let waiting = self.waiting.take() {
      waiting.resume()
    } else {
      self.task = Task.immediate(executorPreference: self.executor) { await self.serve() }
    }
  }

  /// Cancels the handler that runs. Not to be called once it has ended.
  func cancel() { self.task?.cancel() }

  /// Of one isolation throughout, and with nothing around a handler that could wait: behind each wait a
  /// task asks, under a lock, which executor it prefers.
  @concurrent private func serve() async {
    while true {
      if let job = self.next.take() {
        await ServerContext.$current.withValue(job.context) {
          await job.body(job.stream, job.context)
        }
        job.stream.handlerEnded()
      }
      if Task.isCancelled || self.executor.idleHandlers.count >= Self.maximumIdle { return }
      await withUnsafeContinuation { continuation in
        self.waiting = continuation
        self.executor.idleHandlers.append(self)
      }
    }
  }
}
