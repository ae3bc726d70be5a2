import BuildProtos
import Domain
import ExecutorAllocatorCore
import RPC
import ServiceRuntime

/// The allocator's calls: each is translated and asked for; nothing is decided here.
struct Handlers: AllocatorV1.AllocatorService {
  /// Leases of one `Release`: all that a scheduler of a large farm may hold.
  private static let maximumReleased = 100_000
  /// Executors of one answer to `ListExecutors`, which is one message of 4 MiB at most.
  private static let maximumListed = 1_000

  let driver: Driver

  func heartbeat(
    _ request: AllocatorV1.HeartbeatRequest, context: ServerContext
  ) async throws -> AllocatorV1.HeartbeatResponse {
    let heartbeat = Heartbeat(request)
    if let mistake = self.driver.policy.mistake(in: heartbeat) {
      throw RPCError(HeartbeatRefusal.invalid(mistake))
    }
    return AllocatorV1.HeartbeatResponse(try await self.driver.heartbeat(heartbeat))
  }

  func deregister(
    _ request: AllocatorV1.DeregisterRequest, context: ServerContext
  ) async throws -> AllocatorV1.DeregisterResponse {
    let mistake =
      Policy.mistake(inName: request.executorID, of: "executor_id")
      ?? Policy.mistake(inName: request.incarnation, of: "incarnation")
    if let mistake { throw RPCError(.invalidArgument, mistake) }
    try await self.driver.deregister(
      ExecutorID(request.executorID), incarnation: request.incarnation)
    return AllocatorV1.DeregisterResponse()
  }

  func acquire(
    _ requests: RequestStream<AllocatorV1.AcquireRequest>,
    responses: ResponseWriter<AllocatorV1.AcquireResponse>, context: ServerContext
  ) async throws {
    let driver = self.driver
    let (stream, outbound) = driver.open()
    defer { driver.close(stream) }
    // So that the scheduler knows at once that it has reached an allocator.
    responses.sendInitialMetadata()
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask {
        for try await request in requests {
          switch request.change {
          case .demand(let demand): driver.feed(.demanded(stream, Demand(demand)))
          case .withdraw(let request): driver.feed(.withdrew(stream, AttemptID(request)))
          case .hold(let hold): driver.feed(.claimed(stream, HeldByScheduler(hold)))
          case nil:
            throw RPCError(.invalidArgument, "a request has neither demand, withdraw nor hold")
          }
        }
      }
      group.addTask {
        while let events = try await outbound.next() {
          for event in events { try await responses.send(event) }
        }
      }
      defer { group.cancelAll() }
      // Whichever ends first ends the stream: a scheduler that sends no more is gone.
      try await group.next()
    }
  }

  func release(
    _ request: AllocatorV1.ReleaseRequest, context: ServerContext
  ) async throws -> AllocatorV1.ReleaseResponse {
    guard request.leaseIds.count <= Self.maximumReleased else {
      throw RPCError(
        .invalidArgument,
        "lease_ids has \(request.leaseIds.count) entries, more than \(Self.maximumReleased)")
    }
    for lease in request.leaseIds {
      if let mistake = Policy.mistake(inName: lease, of: "lease_ids") {
        throw RPCError(.invalidArgument, mistake)
      }
    }
    try await self.driver.release(request.leaseIds.map { LeaseID($0) })
    return AllocatorV1.ReleaseResponse()
  }

  func listExecutors(
    _ request: AllocatorV1.ListExecutorsRequest, context: ServerContext
  ) async throws -> AllocatorV1.ListExecutorsResponse {
    // Empty is every pool here: whoever lists wants to see all there is.
    let pool = request.pool.isEmpty ? nil : PoolName(request.pool)
    guard 0...Self.maximumListed ~= Int(request.pageSize) else {
      throw RPCError(
        .invalidArgument, "page_size is \(request.pageSize), not from 0 to \(Self.maximumListed)")
    }
    let (executors, next) = try await self.driver.executors(
      pool: pool, behind: request.pageToken,
      atMost: request.pageSize == 0 ? Self.maximumListed : Int(request.pageSize))
    return AllocatorV1.ListExecutorsResponse(
      executors: executors.map { AllocatorV1.Executor($0) }, nextPageToken: next ?? "")
  }
}
