import BuildProtos
import RPC

/// The live view of a build as lines for a terminal: its jobs, and the tail of one that runs.
///
/// Pure: what is drawn follows from what is given.
package struct LiveScreen: Sendable {
  /// Lines of the running job that are shown, where there is room.
  package static let tailLines = 8
  /// A matrix with more legs is drawn on one line, with its running legs below.
  static let matrixLines = 4

  private let summary: BuildSummary
  private let style: Style

  package init(style: Style) {
    self.style = style
    self.summary = BuildSummary(style: style)
  }

  /// - Parameters:
  ///   - tail: The latest lines of the job that printed last, safe for a terminal.
  ///   - notes: What there is to tell beside it.
  ///   - frame: Counts up while time passes.
  package func lines(
    _ build: SchedulerV1.Build, now: GoogleProtobuf.Timestamp,
    tail: (job: String, lines: [String])?, notes: [String], frame: Int,
    columns: Int, rows: Int
  ) -> [String] {
    var title = "build \(build.id)  \(Words.state(build))"
    if let start = build.createdAt {
      title += "  \(Words.duration((build.finishedAt ?? now).since(start)))"
    }
    var lines = [self.style.bold(Sanitizer.clipped(title, to: columns))]
    // Beside them there is room for a job.
    lines += notes.prefix(max(0, rows - 3))
      .map { self.style.yellow(Sanitizer.clipped($0, to: columns)) }
    // The last row stays free: a line's end there would scroll the view.
    let room = max(1, rows - 1 - lines.count)
    let tailRoom = tail == nil ? 0 : min(Self.tailLines + 1, room / 2)
    lines += self.jobs(build, now, frame, columns, room: room - tailRoom)
    if let tail, tailRoom > 1 {
      lines.append(self.style.dim(Sanitizer.clipped("── \(tail.job) ", to: columns)))
      lines += tail.lines.suffix(tailRoom - 1).map { Sanitizer.clipped($0, to: columns) }
    }
    return lines
  }

  private func jobs(
    _ build: SchedulerV1.Build, _ now: GoogleProtobuf.Timestamp, _ frame: Int, _ columns: Int,
    room: Int
  ) -> [String] {
    var lines: [(line: String, matters: Bool)] = []
    for group in self.groups(build.jobs) {
      if group.count <= Self.matrixLines {
        lines += group.map { (self.line($0, now, frame, columns), $0.state == .running) }
      } else {
        lines.append((self.compact(group, frame, columns), true))
        lines += group.filter { $0.state == .running }
          .map { ("  " + self.line($0, now, frame, columns - 2), false) }
      }
    }
    guard lines.count > room else { return lines.map(\.line) }
    // What runs first, then the rest, each in its order, then how many there is no room for.
    let kept = (lines.filter(\.matters) + lines.filter { !$0.matters }).prefix(max(0, room - 1))
    return kept.map(\.line) + [self.style.dim("  … \(lines.count - kept.count) more")]
  }

  /// Jobs of one key beside each other: `test (gcc)` and `test (clang)`.
  private func groups(_ jobs: [SchedulerV1.Job]) -> [[SchedulerV1.Job]] {
    var groups: [[SchedulerV1.Job]] = []
    for job in jobs {
      if let last = groups.last?.first, !job.matrix.isEmpty, self.key(last) == self.key(job) {
        groups[groups.count - 1].append(job)
      } else {
        groups.append([job])
      }
    }
    return groups
  }

  private func key(_ job: SchedulerV1.Job) -> Substring {
    job.matrix.isEmpty ? job.id[...] : job.id.prefix { $0 != "(" }
  }

  private func line(
    _ job: SchedulerV1.Job, _ now: GoogleProtobuf.Timestamp, _ frame: Int, _ columns: Int
  ) -> String {
    var text = " \(Sanitizer.line(job.id))  \(Words.standing(job))"
    if !job.isWaiting, let attempt = job.attempts.last, let start = attempt.startedAt {
      text += " \(Words.duration((attempt.finishedAt ?? now).since(start)))"
      if attempt.number > 1 { text += ", attempt \(attempt.number)" }
      if job.state == .running, let step = attempt.steps.last(where: { $0.state == .running }) {
        let name = step.name.isEmpty ? "step \(step.index + 1)" : step.name
        text += "  \(Sanitizer.line(name)) (\(step.index + 1)/\(attempt.steps.count))"
      }
    }
    return " " + self.summary.glyph(job, frame: frame)
      + Sanitizer.clipped(text, to: max(0, columns - 2))
  }

  private func compact(_ group: [SchedulerV1.Job], _ frame: Int, _ columns: Int) -> String {
    let done = group.count { $0.state == .finished }
    let name = Sanitizer.line(String(self.key(group[0]))).trimmingSpaces
    let head = "   \(name)  \(done)/\(group.count)  "
    let glyphs = group.prefix(max(0, columns - Sanitizer.columns(of: head) - 1))
      .map { self.summary.glyph($0, frame: frame) }
    return Sanitizer.clipped(head, to: columns) + glyphs.joined()
  }
}

extension String {
  /// Without spaces at its end.
  fileprivate var trimmingSpaces: String {
    var text = self[...]
    while text.last == " " { text = text.dropLast() }
    return String(text)
  }
}
