import RPCCore

/// A handler that is due, and all that it is given: one reference, from queue to task. It goes when the handler
/// has ended; a context may be kept for longer.
@usableFromInline
class HandlerJob: @unchecked Sendable {
  /// Runs the handler and ends the call.
  @usableFromInline typealias Body = @Sendable (HandlerJob) async -> Void
  /// Runs the handler alone, behind interceptors.
  @usableFromInline typealias Handler = @Sendable (HandlerJob) async throws -> Void

  // Safe: constant, or touched on the loop only.
  @usableFromInline final let stream: ServerStream
  @usableFromInline final let context: ServerContext
  final var body: Body?
  /// How many interceptors have been reached, and the handler.
  @exclusivity(unchecked) private final var reached: Int32 = 0
  /// The handler has returned; what it returned is with the stream.
  @exclusivity(unchecked) @usableFromInline final var hasRun = false

  @usableFromInline
  init(_ stream: ServerStream) {
    self.stream = stream
    self.context = stream.makeContext()
  }

  // Not inlined, for within a task each look at a field would count references.

  /// - Returns: Whether the task is to be cancelled: the call has ended already.
  @inline(never)
  final func begin(in task: HandlerTask) -> (Body, isToBeCancelled: Bool) {
    (self.body.take()!, self.stream.handlerBegan(in: task))
  }

  /// The call is over: nobody reaches the handler any more.
  @inline(never)
  final func end() {
    self.reached = .max
    self.stream.handlerEnded()
  }

  /// Whether what stands behind so many interceptors was to run.
  final func hasReached(_ place: Int) -> Bool { self.reached > place }

  /// Whether what stands behind so many interceptors is to run: once.
  final func passes(_ place: Int32) -> Bool {
    guard self.reached == place else { return false }
    self.reached += 1
    return true
  }
}

/// The handler of a call with one request.
@usableFromInline
final class RequestJob<Request: RPCMessage>: HandlerJob, @unchecked Sendable {
  @usableFromInline let request: Request

  /// - Returns: Nil for bytes that are no message, which is the client's fault; the call has failed then.
  @inlinable
  init?(_ bytes: UnsafeRawBufferPointer, _ stream: ServerStream) {
    do {
      self.request = try Request(decoding: bytes, taking: &stream.decodedBytes)
    } catch {
      stream.isNoMessage(Request.messageName, error)
      return nil
    }
    super.init(stream)
  }
}

/// A task that runs one handler after the other: to make a task, to end it, and to wake it cost as much as
/// to parse a call.
///
/// It takes the handlers that are due on its loop until none is left, or until one waits for something;
/// then the loop has another take the rest. It goes on until one of its calls is cancelled, for that
/// cannot be taken back from a task. Confined to the loop of its executor; `@unchecked Sendable`: what
/// handlers do elsewhere never touches it.
final class HandlerTask: @unchecked Sendable {
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
    // Good for as long as the task runs, which is all of this.
    let current = withUnsafeCurrentTask { $0! }
    while true {
      while let job = self.executor.nextHandler() {
        let (body, isToBeCancelled) = job.begin(in: self)
        if isToBeCancelled { current.cancel() }
        await ServerContext.$current.withValue(job.context) { await body(job) }
        job.end()
        if self.isToBeCancelled || current.isCancelled { return }
      }
      if self.executor.idleHandlers.count >= Self.maximumIdle { return }
      await withUnsafeContinuation { continuation in
        self.waiting = continuation
        self.executor.idleHandlers.append(self)
      }
    }
  }
}
