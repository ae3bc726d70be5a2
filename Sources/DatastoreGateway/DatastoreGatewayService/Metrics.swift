import ServiceRuntime

/// What the gateway counts.
package struct Metrics: Sendable {
  /// Powers of two: how many callers one synchronisation of the disk served.
  private static let batchSizes: [Double] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024]
  /// From a lookup in memory to a client's deadline.
  private static let latencies: [Double] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30,
  ]

  /// How a call ended.
  package enum Outcome: Int, CaseIterable, Sendable {
    case ok
    /// The caller's doing: it would be so again.
    case refused
    /// Too much to do, or contention: it may work later.
    case pushedBack
    /// The store's doing.
    case failed

    fileprivate var label: String {
      switch self {
      case .ok: "ok"
      case .refused: "refused"
      case .pushedBack: "pushed_back"
      case .failed: "failed"
      }
    }
  }

  package let batchSize: Histogram
  package let batchDuration: Histogram
  package let mutations: Counter
  private struct Method: Sendable {
    var duration: Histogram
    /// In the order of the outcomes.
    var calls: [Counter]
  }

  private let calls: [String: Method]

  package static let methods = [
    "Lookup", "RunQuery", "RunAggregationQuery", "BeginTransaction", "Commit", "Rollback",
    "AllocateIds", "ReserveIds",
  ]

  package init(_ registry: MetricsRegistry) {
    self.batchSize = registry.histogram(
      "millrace_gateway_commit_batch_size",
      help: "Commits that were made durable together.", buckets: Self.batchSizes)
    self.batchDuration = registry.histogram(
      "millrace_gateway_commit_batch_duration_seconds",
      help: "How long writing one batch took, the disk's part included.",
      buckets: Self.latencies)
    self.mutations = registry.counter(
      "millrace_gateway_mutations_total", help: "Changes of entities in successful commits.")
    var calls: [String: Method] = [:]
    for method in Self.methods {
      calls[method] = Method(
        duration: registry.histogram(
          "millrace_gateway_call_duration_seconds", help: "How long a call took.",
          labels: ["method": method], buckets: Self.latencies),
        calls: Outcome.allCases.map { outcome in
          registry.counter(
            "millrace_gateway_calls_total", help: "Calls by how they ended.",
            labels: ["method": method, "outcome": outcome.label])
        })
    }
    self.calls = calls
  }

  /// Counts a call, and gives its errors the form of the wire.
  func counted<Answer>(
    _ method: String, _ body: () async throws -> Answer
  ) async throws -> Answer {
    let clock = ContinuousClock()
    let begin = clock.now
    do {
      let answer = try await body()
      self.ended(method, .ok, after: clock.now - begin)
      return answer
    } catch {
      self.ended(method, Mapping.outcome(error), after: clock.now - begin)
      throw Mapping.rpcError(error)
    }
  }

  package func ended(_ method: String, _ outcome: Outcome, after duration: Duration) {
    guard let counted = self.calls[method] else { return }
    counted.duration.observe(duration)
    counted.calls[outcome.rawValue].increment()
  }
}
