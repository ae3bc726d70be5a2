import InteropProtos
import RPC

/// Many large unary calls, one after the other: `rpc_soak` and `channel_soak` of
/// `doc/interop-test-descriptions.md`.
struct Soak {
  var iterations: Int
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

  func run(_ iteration: () async throws -> Void) async throws {
    let clock = ContinuousClock()
    let began = clock.now
    var latencies: [Duration] = []
    var failures: [String] = []
    for index in 0..<self.iterations {
      guard began.duration(to: clock.now) < self.timeout else {
        throw Mismatch("\(index) of \(self.iterations) calls were made in \(self.timeout)")
      }
      let start = clock.now
      do {
        try await iteration()
        let latency = start.duration(to: clock.now)
        latencies.append(latency)
        if latency > self.maximumLatency { failures.append("call \(index) took \(latency)") }
      } catch {
        failures.append("call \(index): \(error)")
      }
      try await clock.sleep(until: start + self.interval)
    }
    latencies.sort()
    let median = latencies.isEmpty ? Duration.zero : latencies[latencies.count / 2]
    print("     \(self.iterations) calls, median \(median), longest \(latencies.last ?? .zero)")
    guard failures.count <= self.maximumFailures else {
      throw Mismatch("\(failures.count) calls failed, the first: \(failures[0])")
    }
  }
}
