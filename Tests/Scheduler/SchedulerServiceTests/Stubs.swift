import BuildProtos
import RPC
import Synchronization

/// Things that come one after the other, for a test that awaits each.
final class Arrivals<Element: Sendable>: Sendable {
  private let stream: Mutex<AsyncStream<Element>.AsyncIterator>
  private let continuation: AsyncStream<Element>.Continuation

  init() {
    let (stream, continuation) = AsyncStream.makeStream(of: Element.self)
    self.stream = Mutex(stream.makeAsyncIterator())
    self.continuation = continuation
  }

  func add(_ element: Element) { self.continuation.yield(element) }

  func next() async throws -> Element {
    // One test waits at a time.
    var stream = self.stream.withLock { $0 }
    guard let element = await stream.next() else { throw RPCError(.cancelled, "the test is over") }
    return element
  }
}

/// An allocator with as many executors as anybody wants, all of them one runner.
final class AllocatorStub: AllocatorV1.AllocatorService {
  let demands = Arrivals<AllocatorV1.Demand>()
  let holds = Arrivals<AllocatorV1.Hold>()
  let releases = Arrivals<String>()
  private let runnerAddress: String

  private struct State {
    var grants = true
    var token: Int64 = 0
    var granted: Set<String> = []
    var responses: ResponseWriter<AllocatorV1.AcquireResponse>?
    var end: CheckedContinuation<Void, Never>?
    var isEnded = false
  }
  private let state = Mutex(State())

  init(runnerAddress: String) {
    self.runnerAddress = runnerAddress
  }

  /// Whether demands are granted as they come.
  func grants(_ grants: Bool) { self.state.withLock { $0.grants = grants } }

  func say(_ event: AllocatorV1.AcquireResponse.Event) async throws {
    try await self.state.withLock { $0.responses }?
      .send(AllocatorV1.AcquireResponse(event: event))
  }

  /// Ends the stream that is open.
  func endStream() {
    self.state.withLock { state in
      defer { state.end = nil }
      state.isEnded = true
      return state.end
    }?.resume()
  }

  func acquire(
    _ requests: RequestStream<AllocatorV1.AcquireRequest>,
    responses: ResponseWriter<AllocatorV1.AcquireResponse>, context: ServerContext
  ) async throws {
    responses.sendInitialMetadata()
    self.state.withLock { state in
      state.responses = responses
      state.isEnded = false
    }
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask {
        await withTaskCancellationHandler {
          await withCheckedContinuation { end in
            // The test may have ended it before this began.
            let isEnded = self.state.withLock { state in
              if !state.isEnded { state.end = end }
              return state.isEnded
            }
            if isEnded { end.resume() }
          }
        } onCancel: {
          self.endStream()
        }
      }
      group.addTask {
        for try await request in requests {
          switch request.change {
          case .demand(let demand): try await self.demanded(demand, responses)
          case .hold(let hold): self.holds.add(hold)
          case .withdraw, nil: break
          }
        }
      }
      try await group.next()
      group.cancelAll()
    }
  }

  private func demanded(
    _ demand: AllocatorV1.Demand, _ responses: ResponseWriter<AllocatorV1.AcquireResponse>
  ) async throws {
    let token = self.state.withLock { state -> Int64? in
      guard state.grants, state.granted.insert(demand.requestID).inserted else { return nil }
      state.token += 1
      return state.token
    }
    // Decided before the test hears of it: it may change its mind then.
    self.demands.add(demand)
    guard let token else { return }
    try await responses.send(
      AllocatorV1.AcquireResponse(
        event: .granted(
          AllocatorV1.Lease(
            id: "lease-\(token)", executorID: "e1", executorAddress: self.runnerAddress,
            resources: demand.resources, fencingToken: token, requestID: demand.requestID))))
  }

  func release(
    _ request: AllocatorV1.ReleaseRequest, context: ServerContext
  ) async throws -> AllocatorV1.ReleaseResponse {
    for lease in request.leaseIds { self.releases.add(lease) }
    return AllocatorV1.ReleaseResponse()
  }

  func heartbeat(
    _ request: AllocatorV1.HeartbeatRequest, context: ServerContext
  ) async throws -> AllocatorV1.HeartbeatResponse { throw Self.unused }

  func deregister(
    _ request: AllocatorV1.DeregisterRequest, context: ServerContext
  ) async throws -> AllocatorV1.DeregisterResponse { throw Self.unused }

  func listExecutors(
    _ request: AllocatorV1.ListExecutorsRequest, context: ServerContext
  ) async throws -> AllocatorV1.ListExecutorsResponse { throw Self.unused }

  private static let unused = RPCError(.unimplemented, "no scheduler calls this")
}

/// A runner that takes every job and tells of it what the test says.
final class RunnerStub: RunnerV1.RunnerService {
  let offered = Arrivals<RunnerV1.JobSpec>()
  let attached = Arrivals<RunnerV1.AttachJobRequest>()
  let stopped = Arrivals<RunnerV1.StopJobRequest>()

  private struct Job {
    var events: [RunnerV1.JobEvent] = []
    var readers: [AsyncStream<Void>.Continuation] = []
  }
  private let jobs = Mutex<[String: Job]>([:])

  /// Adds an event to an attempt's.
  func tell(_ attempt: String, _ what: RunnerV1.JobEvent.What) {
    let readers = self.jobs.withLock { jobs in
      let sequence = Int64(jobs[attempt]?.events.count ?? 0) + 1
      jobs[attempt, default: Job()].events.append(
        RunnerV1.JobEvent(sequence: sequence, what: what))
      return jobs[attempt]?.readers ?? []
    }
    for reader in readers { reader.yield() }
  }

  func finish(_ attempt: String, _ outcome: TypesV1.Outcome, message: String = "") {
    self.tell(attempt, .finished(RunnerV1.JobFinished(outcome: outcome, message: message)))
  }

  /// As a runner that was started anew.
  func forgetAll() {
    let jobs = self.jobs.withLock { jobs in
      defer { jobs = [:] }
      return jobs
    }
    for job in jobs.values { for reader in job.readers { reader.finish() } }
  }

  func runJob(
    _ request: RunnerV1.RunJobRequest, responses: ResponseWriter<RunnerV1.RunJobResponse>,
    context: ServerContext
  ) async throws {
    guard let job = request.job else { throw RPCError(.invalidArgument, "job is missing") }
    self.jobs.withLock { $0[job.attemptID] = $0[job.attemptID] ?? Job() }
    self.offered.add(job)
    try await self.follow(job.attemptID, after: 0) {
      try await responses.send(RunnerV1.RunJobResponse(event: $0))
    }
  }

  func attachJob(
    _ request: RunnerV1.AttachJobRequest, responses: ResponseWriter<RunnerV1.AttachJobResponse>,
    context: ServerContext
  ) async throws {
    self.attached.add(request)
    try await self.follow(request.attemptID, after: request.afterSequence) {
      try await responses.send(RunnerV1.AttachJobResponse(event: $0))
    }
  }

  private func follow(
    _ attempt: String, after sequence: Int64, _ send: (RunnerV1.JobEvent) async throws -> Void
  ) async throws {
    let (wakes, wake) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
    let isKnown = self.jobs.withLock { jobs in
      guard jobs[attempt] != nil else { return false }
      jobs[attempt]?.readers.append(wake)
      return true
    }
    guard isKnown else { throw RPCError(.notFound, "no attempt \(attempt)") }
    wake.yield()
    var sequence = sequence
    for await _ in wakes {
      let events = self.jobs.withLock { $0[attempt]?.events ?? [] }
      for event in events.dropFirst(Int(sequence)) {
        try await send(event)
        sequence = event.sequence
        if case .finished = event.what { return }
      }
    }
    throw RPCError(.unavailable, "the runner is gone")
  }

  func stopJob(
    _ request: RunnerV1.StopJobRequest, context: ServerContext
  ) async throws -> RunnerV1.StopJobResponse {
    self.stopped.add(request)
    return RunnerV1.StopJobResponse()
  }

  func listJobs(
    _ request: RunnerV1.ListJobsRequest, context: ServerContext
  ) async throws -> RunnerV1.ListJobsResponse { RunnerV1.ListJobsResponse() }
}
