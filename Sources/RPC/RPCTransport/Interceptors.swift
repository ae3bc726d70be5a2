import RPCCore

/// Stands before every call that a server serves: authentication, limits, logs, metrics, traces.
///
///     struct TokenCheck: ServerInterceptor {
///       func intercept(_ context: ServerContext, proceed: Proceed) async throws {
///         guard context.metadata["authorization"] == "Bearer \(token)" else {
///           throw RPCError(.unauthenticated, "the token is missing or wrong")
///         }
///         try await proceed()
///       }
///     }
///
/// It runs in the call's task, on its connection's event loop, and must not block it.
public protocol ServerInterceptor: Sendable {
  /// Runs in the place of the call's handler.
  ///
  /// - Parameters:
  ///   - context: The call, as its handler sees it.
  ///   - proceed: Runs the interceptors behind this one and then the handler. What it throws is the
  ///     call's error unless something else is thrown in its place.
  func intercept(_ context: ServerContext, proceed: Proceed) async throws
}

/// What an interceptor stands before: the interceptors behind it, and then the handler. It is good for
/// as long as the interceptor runs. A child task may call it (`group.addTask { try await proceed() }`), for a time
/// limit; a `@Sendable` closure may not keep it.
///
/// A type and no closure: a closure's type would say where it runs, which each module has to spell after its own
/// settings, and to come back from each would cost a look, under a lock, for the executor that a task prefers.
public struct Proceed {
  private let job: HandlerJob
  private let handler: HandlerJob.Handler
  /// How many interceptors stand before what it runs.
  private let place: Int32

  fileprivate init(_ job: HandlerJob, _ handler: @escaping HandlerJob.Handler, past place: Int32) {
    self.job = job
    self.handler = handler
    self.place = place
  }

  /// Runs the interceptors behind this one and then the handler. To be called at most once: the second
  /// time it throws `internalError` and runs nothing.
  public func callAsFunction() async throws {
    // A module in an older language mode may call it from wherever it likes.
    guard self.job.stream.executor.inEventLoop else {
      return try await Self.proceed(self.job, self.handler, past: self.place)
    }
    let interceptors = self.job.stream.interceptors
    let place = Int(self.place)
    guard self.job.passes(self.place) else {
      throw RPCError(
        .internalError,
        "the interceptor \(type(of: interceptors[place - 1])) has called proceed more than once, or "
          + "after its call")
    }
    if place < interceptors.count {
      let next = Proceed(self.job, self.handler, past: self.place + 1)
      try await interceptors[place].intercept(self.job.context, proceed: next)
    } else {
      try await self.handler(self.job)
      self.job.hasRun = true
    }
  }

  @concurrent private static func proceed(
    _ job: HandlerJob, _ handler: @escaping HandlerJob.Handler, past place: Int32
  ) async throws {
    try await withTaskExecutorPreference(job.stream.executor) {
      try await Proceed(job, handler, past: place)()
    }
  }
}

/// What a call ends with whose interceptor has not thrown and not gone on either.
private let keptFromHandler = RPCError(
  .internalError, "an interceptor has kept the call from its handler")

/// What a call ends with whose handler failed, and an interceptor said nothing of it.
private let keptError = RPCError(
  .internalError, "an interceptor has kept the handler's error to itself")

extension HandlerJob {
  private var reachesHandler: Bool { self.hasReached(self.stream.interceptors.count) }

  /// Runs a handler behind its server's interceptors, and ends the call.
  @usableFromInline
  static func intercepted(_ handler: @escaping Handler) -> Body {
    { job in
      do {
        try await Proceed(job, handler, past: 0)()
        guard job.hasRun else { throw job.reachesHandler ? keptError : keptFromHandler }
        job.stream.finish()
      } catch {
        job.stream.fail(error)
      }
    }
  }
}

/// Hears of every call of a method that a server has, also of those that end before their handler,
/// without standing in its way: metrics, logs.
///
///     struct CallCount: ServerObserver {
///       func observer(ofMethod method: String) -> any MethodObserver { Count(of: method) }
///     }
public protocol ServerObserver: Sendable {
  /// Asked once for each method, when the server is made.
  ///
  /// - Parameter method: `/package.Service/Method`.
  func observer(ofMethod method: String) -> any MethodObserver
}

/// Hears of the calls of one method, on the event loops of their connections, which it must not
/// block.
public protocol MethodObserver: Sendable {
  /// A call's handler, or the first interceptor, is about to begin; or the call is over before
  /// that, for its request is refused or never whole: then ``callEnded(_:)`` follows at once.
  func callBegan()
  /// A call whose beginning was told is over.
  func callEnded(_ summary: CallSummary)
}

/// Stands before every call that a client makes: credentials, metrics, traces.
public protocol ClientInterceptor: Sendable {
  /// Changes how the call is made, asks to hear of its end, or throws: then no call is made.
  ///
  /// Asked once for a call, however many attempts it takes. What it throws is what the caller gets,
  /// as ``RPCCore/RPCError``: any other error becomes `unknown`.
  func intercept(_ call: inout OutgoingCall) async throws
}

/// A call that is about to be made.
public struct OutgoingCall: Sendable {
  /// `/package.Service/Method`.
  public let method: String
  /// Where the channel goes.
  public let target: ChannelTarget
  /// What the call is made with: the caller's options, to be added to.
  public var options: CallOptions
  var observers: [@Sendable (CallSummary) -> Void] = []
  private let began = ContinuousClock.now

  init(method: String, target: ChannelTarget, options: CallOptions) {
    self.method = method
    self.target = target
    self.options = options
  }

  /// Has a closure called, once, when the call is over. It runs on the channel's event loop.
  public mutating func onEnd(_ body: @escaping @Sendable (CallSummary) -> Void) {
    self.observers.append(body)
  }

  func ended(with code: StatusCode) {
    let summary = CallSummary(
      method: self.method, code: code, duration: self.began.duration(to: .now), attempts: 0)
    for observer in self.observers { observer(summary) }
  }
}

/// Something that an interceptor finds out about a call and a handler wants to know.
///
///     enum CurrentUser: ServerContextKey { typealias Value = User }
///     context[CurrentUser.self] = user
public protocol ServerContextKey {
  /// What is kept under the key.
  associatedtype Value: Sendable
}
