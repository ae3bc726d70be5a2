import BuildProtos
import Domain
import PluginRunnerCore
import RPC

/// `millrace.runner.v1.RunnerService`: translates and asks the driver.
struct Handlers: RunnerV1.RunnerService {
  let driver: Driver
  let disk: DiskWatch

  func runJob(
    _ request: RunnerV1.RunJobRequest, responses: ResponseWriter<RunnerV1.RunJobResponse>,
    context: ServerContext
  ) async throws {
    guard let job = request.job else { throw RPCError(.invalidArgument, "job is missing") }
    let spec = try JobSpec(job)
    do {
      try self.driver.offered(spec, build: job.build)
    } catch {
      throw RPCError(error)
    }
    try await self.driver.events(of: spec.attempt, after: 0)?.send { event in
      try await responses.send(
        RunnerV1.RunJobResponse(event: self.message(event, of: spec.attempt, under: spec.lease)))
    }
  }

  func attachJob(
    _ request: RunnerV1.AttachJobRequest, responses: ResponseWriter<RunnerV1.AttachJobResponse>,
    context: ServerContext
  ) async throws {
    let attempt = AttemptID(request.attemptID)
    guard let events = self.driver.events(of: attempt, after: request.afterSequence) else {
      throw RPCError(.notFound, "this runner does not know the attempt \(attempt)")
    }
    try await events.send { event in
      try await responses.send(RunnerV1.AttachJobResponse(event: self.message(event, of: attempt)))
    }
  }

  /// - Parameter lease: The caller's; nil: the attempt's own.
  private func message(
    _ event: JobEvent, of attempt: AttemptID, under lease: LeaseID? = nil
  ) -> RunnerV1.JobEvent {
    guard case .finished = event.what else { return RunnerV1.JobEvent(event) }
    let isReusable = self.driver.read { core in
      (lease ?? core.job(attempt)?.spec.lease).map { core.isReusable($0, after: attempt) } ?? false
    }
    // Without room on the disk nothing new begins.
    return RunnerV1.JobEvent(event, isLeaseReusable: isReusable && self.disk.problem == nil)
  }

  func stopJob(
    _ request: RunnerV1.StopJobRequest, context: ServerContext
  ) async throws -> RunnerV1.StopJobResponse {
    let order = try StopOrder(request)
    self.driver.received(.stopRequested(order), for: AttemptID(request.attemptID))
    return RunnerV1.StopJobResponse()
  }

  func listJobs(
    _ request: RunnerV1.ListJobsRequest, context: ServerContext
  ) async throws -> RunnerV1.ListJobsResponse {
    RunnerV1.ListJobsResponse(
      jobs: self.driver.read { $0.heldJobs }.map(RunnerV1.HeldJob.init))
  }
}
