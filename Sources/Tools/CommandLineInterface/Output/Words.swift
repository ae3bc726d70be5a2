import BuildProtos
import RPC

/// How values are written for people.
package enum Words {
  /// "420 ms", "1.2 s", "2m 03s", "1h 02m".
  package static func duration(_ duration: Duration) -> String {
    let (seconds, attoseconds) = duration.components
    let milliseconds = seconds * 1_000 + attoseconds / 1_000_000_000_000_000
    if milliseconds < 1_000 { return "\(max(0, milliseconds)) ms" }
    if milliseconds < 60_000 { return "\(milliseconds / 1_000).\(milliseconds % 1_000 / 100) s" }
    if seconds < 3_600 { return "\(seconds / 60)m \(twoDigits(seconds % 60))s" }
    return "\(seconds / 3_600)h \(twoDigits(seconds % 3_600 / 60))m"
  }

  /// "12 B", "3.4 KiB", "100.0 MiB".
  package static func bytes(_ count: Int64) -> String {
    var value = Double(count)
    var unit = 0
    let units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1_024, unit < units.count - 1 {
      value /= 1_024
      unit += 1
    }
    if unit == 0 { return "\(count) B" }
    let tenths = Int((value * 10).rounded())
    return "\(tenths / 10).\(tenths % 10) \(units[unit])"
  }

  /// "succeeded", "timed out", ...
  package static func outcome(_ outcome: TypesV1.Outcome) -> String {
    switch outcome {
    case .unspecified: "unknown"
    case .succeeded: "succeeded"
    case .failed: "failed"
    case .timedOut: "timed out"
    case .cancelled: "cancelled"
    case .outOfMemory: "out of memory"
    case .executorLost: "executor lost"
    case .preempted: "preempted"
    case .skipped: "skipped"
    case .rejected: "rejected"
    case .unrecognized(let number): "outcome \(number)"
    }
  }

  /// Where a build stands, in one word or two.
  package static func state(_ build: SchedulerV1.Build) -> String {
    switch build.state {
    case .unspecified: "unknown"
    case .queued: "queued"
    case .running: "running"
    case .finished: self.outcome(build.outcome)
    case .unrecognized(let number): "state \(number)"
    }
  }

  /// Where a job stands, in one word or two.
  package static func state(_ job: SchedulerV1.Job) -> String {
    switch job.state {
    case .unspecified: "unknown"
    case .blocked: "blocked"
    case .queued: "queued"
    case .running: "running"
    case .finished: self.outcome(job.outcome)
    case .unrecognized(let number): "state \(number)"
    }
  }

  /// Where a job stands, and what it waits for: "queued, waiting for an executor to be found".
  package static func standing(_ job: SchedulerV1.Job) -> String {
    let state = self.state(job)
    guard job.isWaiting, !job.waitingFor.isEmpty else { return state }
    return "\(state), waiting for \(Sanitizer.line(job.waitingFor))"
  }

  /// "exit code 2", "signal 9", or the step's own sentence: the signal with which its runner ended
  /// a step does not tell why.
  package static func end(of step: TypesV1.StepStatus) -> String {
    if step.outcome == .failed {
      if step.signal != 0 { return "signal \(step.signal)" }
      if step.exitCode > 0 { return "exit code \(step.exitCode)" }
    }
    if !step.message.isEmpty { return Sanitizer.line(step.message) }
    guard step.outcome == .timedOut, let start = step.startedAt, let end = step.finishedAt
    else { return self.outcome(step.outcome) }
    return "\(self.outcome(step.outcome)) after \(self.duration(end.since(start)))"
  }

  /// What the exit code of `run` and `watch` is.
  package static func exitCode(_ outcome: TypesV1.Outcome) -> ExitCode {
    switch outcome {
    case .succeeded, .skipped: .success
    case .failed, .timedOut, .outOfMemory, .rejected: .buildFailed
    case .cancelled: .cancelled
    case .executorLost, .preempted, .unspecified, .unrecognized: .infrastructure
    }
  }

  private static func twoDigits(_ number: Int64) -> String {
    number < 10 ? "0\(number)" : "\(number)"
  }
}

extension SchedulerV1.Job {
  /// Whether it is to run, and does not yet, or not again.
  package var isWaiting: Bool { self.state == .blocked || self.state == .queued }
}

extension GoogleProtobuf.Timestamp {
  /// The time from `earlier` to this.
  package func since(_ earlier: Self) -> Duration {
    .seconds(self.seconds - earlier.seconds) + .nanoseconds(self.nanos - earlier.nanos)
  }

  /// `2026-01-02T03:04:05.678Z`.
  package var text: String {
    // Days since 1970 to a date: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let days = self.seconds.quotientAndRemainder(dividingBy: 86_400)
    var (day, second) = (days.quotient, days.remainder)
    if second < 0 {
      day -= 1
      second += 86_400
    }
    let shifted = day + 719_468
    let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
    let dayOfEra = shifted - era * 146_097
    let yearOfEra =
      (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let monthIndex = (5 * dayOfYear + 2) / 153
    let date = dayOfYear - (153 * monthIndex + 2) / 5 + 1
    let month = monthIndex < 10 ? monthIndex + 3 : monthIndex - 9
    let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    func padded(_ number: Int64, _ width: Int) -> String {
      let text = "\(number)"
      return String(repeating: "0", count: max(0, width - text.count)) + text
    }
    return "\(padded(year, 4))-\(padded(month, 2))-\(padded(date, 2))T"
      + "\(padded(second / 3_600, 2)):\(padded(second % 3_600 / 60, 2)):\(padded(second % 60, 2))."
      + "\(padded(Int64(self.nanos) / 1_000_000, 3))Z"
  }
}

/// Columns of text, each as wide as its widest cell.
package enum Table {
  package static func lines(header: [String], rows: [[String]]) -> [String] {
    let all = [header] + rows
    let widths = header.indices.map { column in
      all.map { Sanitizer.columns(of: $0[column]) }.max() ?? 0
    }
    return all.map { row in
      var line = ""
      for (column, cell) in row.enumerated() {
        line += cell
        guard column < row.count - 1 else { break }
        line += String(
          repeating: " ", count: widths[column] - Sanitizer.columns(of: cell) + 2)
      }
      return line
    }
  }
}
