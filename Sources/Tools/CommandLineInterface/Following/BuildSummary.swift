import BuildProtos
import RPC

/// What is said of a build and its jobs in lines.
package struct BuildSummary: Sendable {
  package let style: Style

  package init(style: Style) {
    self.style = style
  }

  /// How it ended, and each job.
  package func lines(_ build: SchedulerV1.Build) -> [String] {
    var title = "build \(build.id) \(Words.state(build))"
    if let start = build.createdAt, let end = build.finishedAt {
      title += " in \(Words.duration(end.since(start)))"
    }
    if !build.message.isEmpty { title += ": \(Sanitizer.line(build.message))" }
    let succeeded = build.outcome == .succeeded
    var lines = [self.style.bold(succeeded ? self.style.green(title) : self.style.red(title))]
    let width = build.jobs.map { Sanitizer.columns(of: Sanitizer.line($0.id)) }.max() ?? 0
    for job in build.jobs {
      let name = Sanitizer.line(job.id)
      let padding = String(repeating: " ", count: width - Sanitizer.columns(of: name))
      var line = "  \(self.glyph(job)) \(name)\(padding)  \(Words.state(job))"
      if let duration = self.duration(of: job) { line += " in \(Words.duration(duration))" }
      if job.attempts.count > 1 { line += ", attempt \(job.attempts.count)" }
      if let reason = self.reason(job) { line += ": \(reason)" }
      lines.append(line)
    }
    let artifacts = build.jobs.reduce(0) { $0 + ($1.attempts.last?.artifacts.count ?? 0) }
    if artifacts > 0 {
      lines.append(
        self.style.dim(
          "  \(artifacts) \(artifacts == 1 ? "artifact" : "artifacts"): "
            + "millrace artifacts get \(build.id)"))
    }
    for notification in build.notifications where notification.state == .dead {
      lines.append(
        "  notification by \(notification.uses) was given up after \(notification.attempts) "
          + "attempts: \(Sanitizer.line(notification.message))")
    }
    return lines
  }

  /// The failing step of each job that has one, with the attempt it belongs to.
  package static func failures(
    in build: SchedulerV1.Build
  ) -> [(job: SchedulerV1.Job, attempt: SchedulerV1.Attempt, step: TypesV1.StepStatus)] {
    build.jobs.compactMap { job in
      guard job.state == .finished, job.outcome != .succeeded, job.outcome != .skipped,
        let attempt = job.attempts.last, let step = Self.failingStep(attempt)
      else { return nil }
      return (job, attempt, step)
    }
  }

  /// The step that ended badly; one that is allowed to does not end the job, so the last bad one is
  /// meant where there are several, and one that ended as the job did before what cleaned up.
  static func failingStep(_ attempt: SchedulerV1.Attempt) -> TypesV1.StepStatus? {
    let bad = attempt.steps.filter { step in
      step.state == .finished && step.outcome != .succeeded && step.outcome != .skipped
    }
    return bad.last { $0.outcome == attempt.outcome } ?? bad.last
  }

  /// "step "make test": exit code 2", "step "make test" ran longer than its 10 s".
  package static func step(_ step: TypesV1.StepStatus) -> String {
    let end = Words.end(of: step)
    // A runner's sentence that names the step itself.
    if end.hasPrefix("step ") { return end }
    let name = step.name.isEmpty ? "step \(step.index + 1)" : Sanitizer.line(step.name)
    return "step \"\(name)\": \(end)"
  }

  /// One character for where a job stands.
  package func glyph(_ job: SchedulerV1.Job, frame: Int? = nil) -> String {
    switch job.state {
    case .blocked, .unspecified, .unrecognized: return self.style.dim("○")
    case .queued: return self.style.yellow("●")
    case .running:
      guard let frame else { return self.style.cyan("▶") }
      let frames = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"]
      return self.style.cyan(frames[frame % frames.count])
    case .finished:
      switch job.outcome {
      case .succeeded: return self.style.green("✔")
      case .skipped: return self.style.dim("-")
      case .cancelled: return self.style.yellow("⊘")
      default: return self.style.red("✘")
      }
    }
  }

  /// How long its last attempt took.
  func duration(of job: SchedulerV1.Job) -> Duration? {
    guard let attempt = job.attempts.last, let start = attempt.startedAt,
      let end = attempt.finishedAt
    else { return nil }
    return end.since(start)
  }

  private func reason(_ job: SchedulerV1.Job) -> String? {
    if job.outcome == .succeeded || job.state != .finished { return nil }
    if let attempt = job.attempts.last, let step = Self.failingStep(attempt) {
      return Self.step(step)
    }
    if !job.message.isEmpty { return Sanitizer.line(job.message) }
    return job.attempts.last.flatMap {
      $0.message.isEmpty ? nil : Sanitizer.line($0.message)
    }
  }
}
