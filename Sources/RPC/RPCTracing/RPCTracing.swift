import Instrumentation
import RPCCore
import RPCTransport
import ServiceContextModule
import Tracing

/// Makes a span of each call that a server serves, as a child of the caller's, by
/// swift-distributed-tracing; attributes follow OpenTelemetry's conventions for RPC.
///
///     configuration.interceptors = [ServerTracing()]
///
/// Without a tracer the W3C `traceparent` of the caller still goes on to the calls that the handler
/// makes through ``ClientTracing``.
public struct ServerTracing: ServerInterceptor {
  /// Spans of the tracer that the program has bootstrapped.
  public init() {}

  /// Runs the handler within a span, which is the current one for what it does.
  public func intercept(
    _ context: ServerContext, proceed: Proceed
  ) async throws {
    let trace = IncomingTrace(context.metadata)
    let instrument = InstrumentationSystem.instrument
    // By its type as it is: to cast it would ask the runtime for each call.
    let isSilent = type(of: instrument) == NoOpInstrument.self
    if isSilent, trace == nil { return try await proceed() }
    var outer = ServiceContext.current ?? .topLevel
    outer.incomingTrace = trace
    if isSilent {
      try await ServiceContext.withValue(outer) { try await proceed() }
      return
    }
    instrument.extract(context.metadata, into: &outer, using: MetadataExtractor())
    let span = startSpan(String(context.method.dropFirst()), context: outer, ofKind: .server)
    span.setRPCAttributes(context.method)
    span.setPeer(context.peer)
    // The call's status, and not what its handler comes to: a deadline ends calls whose handlers run on.
    context.onEnd { summary in
      span.attributes["rpc.grpc.status_code"] = summary.code.rawValue
      if summary.code.isServersFault {
        span.setStatus(SpanStatus(code: .error, message: "\(summary.code)"))
      }
      span.end()
    }
    do {
      try await ServiceContext.withValue(span.context) { try await proceed() }
    } catch {
      span.recordError(error)
      throw error
    }
  }
}

/// Makes a span of each call that a client makes, and tells the server of it.
///
///     configuration.interceptors = [ClientTracing()]
public struct ClientTracing: ClientInterceptor {
  /// Spans of the tracer that the program has bootstrapped.
  public init() {}

  /// Begins a span that ends with the call, and puts it into the call's metadata.
  public func intercept(_ call: inout OutgoingCall) async throws {
    let outer = ServiceContext.current ?? .topLevel
    let span = startSpan(String(call.method.dropFirst()), context: outer, ofKind: .client)
    span.setRPCAttributes(call.method)
    span.setServer(call.target)
    InstrumentationSystem.instrument.inject(
      span.context, into: &call.options.metadata, using: MetadataInjector())
    if call.options.metadata["traceparent"] == nil, let trace = outer.incomingTrace {
      call.options.metadata.add(trace.parent, for: "traceparent")
      if let state = trace.state { call.options.metadata.add(state, for: "tracestate") }
    }
    call.onEnd { summary in
      span.attributes["rpc.grpc.status_code"] = summary.code.rawValue
      if summary.code != .ok {
        span.setStatus(SpanStatus(code: .error, message: "\(summary.code)"))
      }
      span.end()
    }
  }
}

/// The caller's trace as it came: <https://www.w3.org/TR/trace-context/>.
struct IncomingTrace: Sendable {
  var parent: String
  var state: String?

  /// Nil if there is no `traceparent`, or several, or it is none.
  init?(_ metadata: Metadata) {
    let parents = metadata.values(for: "traceparent")
    guard parents.count == 1, Self.isParent(parents[0]) else { return nil }
    self.parent = parents[0]
    self.state = metadata.combined("tracestate")
  }

  /// `version-trace-span-flags`, each in lower-case hexadecimal, trace and span not all zeros.
  static func isParent(_ text: String) -> Bool {
    let parts = text.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count >= 4, parts[0].utf8.count == 2, parts[0] != "ff",
      parts[0] != "00" || parts.count == 4, parts[1].utf8.count == 32, parts[2].utf8.count == 16,
      parts[3].utf8.count == 2
    else { return false }
    let isHexadecimal = parts.prefix(4).allSatisfy { part in
      part.utf8.allSatisfy {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
          || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains($0)
      }
    }
    return isHexadecimal && parts[1].contains { $0 != "0" } && parts[2].contains { $0 != "0" }
  }
}

private enum IncomingTraceKey: ServiceContextKey {
  typealias Value = IncomingTrace
}

extension ServiceContext {
  fileprivate var incomingTrace: IncomingTrace? {
    get { self[IncomingTraceKey.self] }
    set { self[IncomingTraceKey.self] = newValue }
  }
}

extension Metadata {
  /// A field that came in several parts, as one list in their order (RFC 9110, section 5.3; Trace Context,
  /// section 3.3.1.1).
  fileprivate func combined(_ name: String) -> String? {
    let values = self.values(for: name)
    return values.count > 1 ? values.joined(separator: ",") : values.first
  }
}

struct MetadataExtractor: Extractor {
  func extract(key: String, from carrier: Metadata) -> String? { carrier.combined(key) }
}

private struct MetadataInjector: Injector {
  func inject(_ value: String, forKey key: String, into carrier: inout Metadata) {
    carrier.removeAll(for: key)
    carrier.add(value, for: key)
  }
}

extension Span {
  fileprivate func setServer(_ target: ChannelTarget) {
    if case .name(let host, let port) = target.kind {
      self.attributes["server.address"] = host
      self.attributes["server.port"] = port
    } else {
      self.attributes["server.address"] = "\(target)"
    }
  }

  /// - Parameter text: `127.0.0.1:4711`, `[::1]:4711`, `unix socket`.
  fileprivate func setPeer(_ text: String) {
    guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...])
    else {
      self.attributes["network.transport"] = "unix"
      return
    }
    self.attributes["network.peer.address"] =
      text[..<colon].trimmingPrefix("[").prefix { $0 != "]" }
      .description
    self.attributes["network.peer.port"] = port
  }

  fileprivate func setRPCAttributes(_ path: String) {
    let parts = path.split(separator: "/")
    self.attributes["rpc.system"] = "grpc"
    if parts.count == 2 {
      self.attributes["rpc.service"] = String(parts[0])
      self.attributes["rpc.method"] = String(parts[1])
    }
  }
}

extension StatusCode {
  /// Whether a server span with this status is an error: OpenTelemetry's conventions for gRPC.
  fileprivate var isServersFault: Bool {
    switch self {
    case .unknown, .deadlineExceeded, .unimplemented, .internalError, .unavailable, .dataLoss: true
    default: false
    }
  }
}
