import BuildProtos
import RPC

/// The executors that a stack has: its services are ready before its runners have told of themselves.
enum Executors {
  private static let pause = Duration.milliseconds(25)

  /// What a farm can run at a time.
  struct Capacity: Sendable {
    var executors: Int
    var slots: Int
  }

  /// Waits until each runner of a stack is an executor, and gives what they can do.
  static func ready(of stack: StackFile, within limit: Duration) async throws -> Capacity {
    let channel = try RPCChannel(to: stack.addresses.allocator)
    let wanted = stack.processes.count { $0.name.hasPrefix("plugin-runner") }
    let end = ContinuousClock.now + limit
    while true {
      let response = try await AllocatorV1.AllocatorClient(channel).listExecutors(
        AllocatorV1.ListExecutorsRequest(), options: CallOptions(timeout: limit, waitForReady: true)
      )
      let ready = response.executors.filter { $0.state == .ready }
      if ready.count >= wanted {
        await channel.close()
        return Capacity(
          executors: ready.count, slots: ready.reduce(0) { $0 + Int($1.capacity?.slots ?? 0) })
      }
      guard .now < end else {
        throw BenchmarkFailure("\(ready.count) of \(wanted) runners are ready after \(limit)")
      }
      try await Task.sleep(for: self.pause)
    }
  }
}
