import Metrics
import RPCCore
import RPCTransport
import Synchronization

/// Counts and times the calls that a server serves, by swift-metrics.
///
///     var configuration = RPCServer.Configuration()
///     configuration.observers = [ServerMetrics()]
///
/// | metric | kind | dimensions |
/// | --- | --- | --- |
/// | `grpc.server.call.started` | counter | `grpc.method` |
/// | `grpc.server.call.duration` | timer | `grpc.method`, `grpc.status` |
/// | `grpc.server.call.rcvd_total_compressed_message_size` | recorder, bytes | `grpc.method` |
/// | `grpc.server.call.sent_total_compressed_message_size` | recorder, bytes | `grpc.method` |
///
/// The names are those of `A66` of the gRPC project's proposals; the number of completed calls is
/// the timer's own count. Calls of methods that the server does not have are not counted.
public struct ServerMetrics: ServerObserver {
  private let factory: any MetricsFactory

  /// Metrics of a factory's; by default of the one that the program has bootstrapped.
  public init(factory: any MetricsFactory = MetricsSystem.factory) {
    self.factory = factory
  }

  /// Makes the method's metrics.
  public func observer(ofMethod method: String) -> any MethodObserver {
    MethodMetrics(method, prefix: "grpc.server.call", factory: self.factory)
  }
}

/// Counts and times the calls that a client makes, by swift-metrics: `grpc.client.call.started`,
/// `.duration`, and the two sizes; see ``ServerMetrics``. `A66` has only the duration of calls, and
/// the others of attempts: `grpc.client.attempt.started`.
public struct ClientMetrics: ClientInterceptor {
  private let methods: MethodTable

  /// Metrics of a factory's; by default of the one that the program has bootstrapped.
  public init(factory: any MetricsFactory = MetricsSystem.factory) {
    self.methods = MethodTable(prefix: "grpc.client.call", factory: factory)
  }

  /// Counts the call, and records how it ended, all attempts together.
  public func intercept(_ call: inout OutgoingCall) async throws {
    let metrics = self.methods.metrics(of: call.method)
    metrics.callBegan()
    call.onEnd { metrics.callEnded($0) }
  }
}

/// The metrics of each method: made once, for making them is dear.
private final class MethodTable: Sendable {
  private let prefix: String
  private let factory: any MetricsFactory
  private let known = Mutex<[String: MethodMetrics]>([:])

  init(prefix: String, factory: any MetricsFactory) {
    self.prefix = prefix
    self.factory = factory
  }

  func metrics(of method: String) -> MethodMetrics {
    self.known.withLock { known in
      if let metrics = known[method] { return metrics }
      let metrics = MethodMetrics(method, prefix: self.prefix, factory: self.factory)
      known[method] = metrics
      return metrics
    }
  }
}

/// By the factory's own handlers: what swift-metrics puts before them is generic, and not made for the integers
/// at hand.
private final class MethodMetrics: MethodObserver {
  private let started: any CounterHandler
  private let durations: [any TimerHandler]
  private let received: any RecorderHandler
  private let sent: any RecorderHandler

  init(_ path: String, prefix: String, factory: any MetricsFactory) {
    let method = [("grpc.method", String(path.dropFirst()))]
    self.started = factory.makeCounter(label: "\(prefix).started", dimensions: method)
    self.durations = StatusCode.allCases.map { code in
      let timer = factory.makeTimer(
        label: "\(prefix).duration", dimensions: method + [("grpc.status", code.description)])
      timer.preferDisplayUnit(.seconds)
      return timer
    }
    self.received = factory.makeRecorder(
      label: "\(prefix).rcvd_total_compressed_message_size", dimensions: method, aggregate: true)
    self.sent = factory.makeRecorder(
      label: "\(prefix).sent_total_compressed_message_size", dimensions: method, aggregate: true)
  }

  func callBegan() { self.started.increment(by: 1) }

  func callEnded(_ summary: CallSummary) {
    self.durations[summary.code.rawValue].recordNanoseconds(summary.nanoseconds)
    self.received.record(Int64(summary.receivedBytes))
    self.sent.record(Int64(summary.sentBytes))
  }
}
