import BuildProtos

/// Whether every build that was submitted is there, once, and succeeded.
struct Verdict: Sendable {
  /// How many builds came to what.
  private(set) var outcomes: [String: Int] = [:]
  /// A sentence for each way in which builds did not do as they should.
  private(set) var problems: [String] = []

  init(_ submissions: [Submission], _ builds: [SchedulerV1.Build]) {
    for build in builds { self.outcomes[build.end, default: 0] += 1 }
    self.checkAnswers(submissions)
    self.checkRecords(submissions, builds)
    self.checkEnds(builds)
  }

  private mutating func checkAnswers(_ submissions: [Submission]) {
    let failures = submissions.compactMap { submission in
      if case .failed(let error) = submission.end { error } else { nil }
    }
    if let first = failures.first {
      self.problems.append(
        "\(failures.count) of \(submissions.count) builds were not accepted; the first: \(first)")
    }
    let ids = submissions.compactMap(\.buildID)
    let repeated = ids.count - Set(ids).count
    if repeated > 0 {
      self.problems.append(
        "\(repeated) of \(ids.count) answers name a build that another answer names, too")
    }
  }

  private mutating func checkRecords(
    _ submissions: [Submission], _ builds: [SchedulerV1.Build]
  ) {
    let answered = Set(submissions.compactMap(\.buildID))
    let listed = Set(builds.map(\.id))
    let missing = answered.subtracting(listed)
    if let first = missing.min() {
      self.problems.append(
        "\(missing.count) of \(answered.count) accepted builds are not in the scheduler's list; for "
          + "example \(first)")
    }
    // One that was given up may have been accepted without our knowing.
    let unknown = listed.subtracting(answered)
    if unknown.count > submissions.count - answered.count, let first = unknown.min() {
      self.problems.append(
        "\(unknown.count) of \(listed.count) builds in the scheduler's list are in no answer; for "
          + "example \(first)")
    }
    if builds.count > listed.count {
      self.problems.append("the scheduler lists \(builds.count - listed.count) builds twice")
    }
  }

  private mutating func checkEnds(_ builds: [SchedulerV1.Build]) {
    let unfinished = builds.filter { $0.state != .finished }
    if let first = unfinished.first {
      self.problems.append(
        "\(unfinished.count) of \(builds.count) builds had not finished when the time was up; for example \(first.id)"
          + Self.reason(first.jobs.first?.waitingFor))
    }
    let others = builds.filter { $0.state == .finished && $0.outcome != .succeeded }
    if let first = others.first {
      self.problems.append(
        "\(others.count) of \(builds.count) builds did not succeed; for example \(first.id): \(first.end)"
          + Self.reason(first.message))
    }
  }

  private static func reason(_ text: String?) -> String {
    guard let text, !text.isEmpty else { return "" }
    return ", \(text)"
  }
}

extension SchedulerV1.Build {
  /// What it came to, or where it stands.
  fileprivate var end: String {
    self.state == .finished ? "\(self.outcome)" : "\(self.state)"
  }
}
