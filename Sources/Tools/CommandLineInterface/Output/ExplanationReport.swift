import BuildProtos
import RPC

/// Why a build waits, as `explain --output json` prints it.
package struct ExplanationReport: Encodable, Sendable {
  struct Job: Encodable, Sendable {
    var id: String
    var state: String
    var waitingFor: String?
    var position: Int32?
    var queueLength: Int32?
    var waitedSeconds: Double?
    var estimatedWaitSeconds: Double?
    var typicalSeconds: Double?
  }

  var build: BuildReport
  var jobs: [Job]
  var remainingSeconds: Double?

  package init(_ response: SchedulerV1.ExplainBuildResponse, _ build: SchedulerV1.Build) {
    self.build = BuildReport(build)
    self.jobs = Self.unfinished(response, build).map { job, explanation in
      let isQueued = explanation.position > 0
      return Job(
        id: job.id, state: Words.state(job),
        waitingFor: job.waitingFor.isEmpty ? nil : job.waitingFor,
        position: isQueued ? explanation.position : nil,
        queueLength: isQueued ? explanation.queueLength : nil,
        waitedSeconds: explanation.waited?.inSeconds,
        estimatedWaitSeconds: explanation.estimatedWait?.inSeconds,
        typicalSeconds: explanation.typicalDuration?.inSeconds)
    }
    self.remainingSeconds = response.remaining?.inSeconds
  }

  private static func unfinished(
    _ response: SchedulerV1.ExplainBuildResponse, _ build: SchedulerV1.Build
  ) -> [(SchedulerV1.Job, SchedulerV1.JobExplanation)] {
    let jobs = Dictionary(build.jobs.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
    return response.jobs.compactMap { explanation in
      jobs[explanation.jobID].map { ($0, explanation) }
    }
  }

  /// For people: the build, and a line for each job that is not finished.
  package static func lines(
    _ response: SchedulerV1.ExplainBuildResponse, _ build: SchedulerV1.Build,
    at now: GoogleProtobuf.Timestamp
  ) -> [String] {
    var head = "build \(build.id): \(Words.state(build))"
    if build.state != .finished, let created = build.createdAt {
      head += ", submitted \(Words.duration(now.since(created))) ago"
    }
    if let remaining = response.remaining {
      head += ", done in about \(Words.duration(remaining.inDuration))"
    }
    if build.state == .finished, !build.message.isEmpty {
      head += ": \(Sanitizer.line(build.message))"
    }
    return [head]
      + self.unfinished(response, build).map { job, explanation in
        "  \(Sanitizer.line(job.id)): " + self.words(job, explanation).joined(separator: "; ")
      }
  }

  private static func words(
    _ job: SchedulerV1.Job, _ explanation: SchedulerV1.JobExplanation
  ) -> [String] {
    var words = [Words.standing(job)]
    if explanation.position > 0 {
      words.append("place \(explanation.position) of \(explanation.queueLength)")
    }
    if let waited = explanation.waited {
      words.append("for \(Words.duration(waited.inDuration)) now")
    }
    if let wait = explanation.estimatedWait {
      words.append("its turn comes in about \(Words.duration(wait.inDuration))")
    }
    if let typical = explanation.typicalDuration {
      words.append("it usually takes \(Words.duration(typical.inDuration))")
    }
    return words
  }
}

extension GoogleProtobuf.Duration {
  fileprivate var inDuration: Duration {
    .seconds(self.seconds) + .nanoseconds(Int64(self.nanos))
  }
  fileprivate var inSeconds: Double { self.inDuration / .seconds(1) }
}
