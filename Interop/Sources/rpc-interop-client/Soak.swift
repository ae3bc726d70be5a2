import InteropProtos
import RPC

/// Many large unary calls, one after the other or on several threads: `rpc_soak` and `channel_soak` of
/// `doc/interop-test-descriptions.md`.
struct Soak: Sendable {
  private struct Outcome {
    var latencies: [Duration] = []
    var failures: [String] = []
  }

  /// On all threads together.
  var iterations: Int
  /// Each makes its part of the calls, one after the other.
  var threads: Int
  var maximumFailures: Int
  /// A call that takes longer has failed.
  var maximumLatency: Duration
  /// From the beginning of a call to that of the next.
  var interval: Duration
  /// All calls together take no longer.
  var timeout: Duration
  var requestSize: Int
  var responseSize: Int

  func call(_ channel: RPCChannel) async throws {
    let response = try await Interop.TestClient(channel).unaryCall(
      Interop.SimpleRequest(
        responseSize: Int32(clamping: self.responseSize),
        payload: Interop.Payload(body: [UInt8](repeating: 0, count: self.requestSize))),
      options: CallOptions(timeout: self.timeout))
    let count = response.payload?.body.count
    guard count == self.responseSize else {
      throw Mismatch("the response has \(String(describing: count)) bytes")
    }
  }

  func run(_ iteration: @escaping @Sendable () async throws -> Void) async throws {
    let part = self.iterations / self.threads
    let outcome = try await withThrowingTaskGroup(of: Outcome.self) { group in
      for thread in 0..<self.threads {
        group.addTask { try await self.run(thread * part..<(thread + 1) * part, iteration) }
      }
      return try await group.reduce(into: Outcome()) { all, part in
        all.latencies += part.latencies
        all.failures += part.failures
      }
    }
    let latencies = outcome.latencies.sorted()
    let median = latencies.isEmpty ? Duration.zero : latencies[latencies.count / 2]
    print("     \(self.iterations) calls, median \(median), longest \(latencies.last ?? .zero)")
    guard outcome.failures.count <= self.maximumFailures else {
      throw Mismatch("\(outcome.failures.count) calls failed, the first: \(outcome.failures[0])")
    }
  }

  /// The part of one thread.
  private func run(
    _ calls: Range<Int>, _ iteration: @Sendable () async throws -> Void
  ) async throws -> Outcome {
    let clock = ContinuousClock()
    let began = clock.now
    var outcome = Outcome()
    for index in calls {
      guard began.duration(to: clock.now) < self.timeout else {
        throw Mismatch(
          "\(index - calls.lowerBound) of \(calls.count) calls of a thread were made in "
            + "\(self.timeout)")
      }
      let start = clock.now
      do {
        try await iteration()
        let latency = start.duration(to: clock.now)
        outcome.latencies.append(latency)
        if latency > self.maximumLatency {
          outcome.failures.append("call \(index) took \(latency)")
        }
      } catch {
        outcome.failures.append("call \(index): \(error)")
      }
      try await clock.sleep(until: start + self.interval)
    }
    return outcome
  }
}
