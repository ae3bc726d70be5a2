import BuildProtos
import Glibc
import RPC

/// How a build that is followed is shown.
package protocol Presenter: Sendable {
  /// A newer state of the build.
  func update(_ build: SchedulerV1.Build) async
  /// A step begins here in an attempt's log.
  func heading(_ step: TypesV1.StepStatus, of origin: LogOrigin) async
  /// Lines of a log, without their ends.
  func lines(_ lines: [ArraySlice<UInt8>], of origin: LogOrigin) async
  /// Bytes of a log that is read as it is, in place of headings and lines.
  func bytes(_ bytes: ArraySlice<UInt8>, of origin: LogOrigin) async
  /// The rest of a log cannot be read.
  func unreadable(_ reason: String, _ origin: LogOrigin) async
  /// Something to tell about the following itself, in place of what was told about the same; nil
  /// when that is over.
  func note(_ text: String?, about subject: NoteSubject) async
  /// Nothing follows but the summary.
  func finish() async
}

/// What a note is about.
package enum NoteSubject: Hashable, Sendable {
  case service(String)
  case cancelling
}

extension Presenter {
  /// To standard output: only what reads a single log is given bytes.
  package func bytes(_ bytes: ArraySlice<UInt8>, of origin: LogOrigin) async {
    Terminal.write(bytes)
  }
}

/// Shows of the build only what it says itself, and tells the rest on standard error.
///
/// Apart from ``Presenter``: an actor's own methods would lose against these, which are `async`,
/// wherever the actor is called by its name.
package protocol QuietPresenter: Presenter {}

extension QuietPresenter {
  package func update(_ build: SchedulerV1.Build) async {}
  package func heading(_ step: TypesV1.StepStatus, of origin: LogOrigin) async {}
  package func lines(_ lines: [ArraySlice<UInt8>], of origin: LogOrigin) async {}
  package func unreadable(_ reason: String, _ origin: LogOrigin) async {
    Terminal.complain(UnreadableLog.text(reason, origin))
  }
  package func note(_ text: String?, about subject: NoteSubject) async {
    if let text { Terminal.complain(text) }
  }
  package func finish() async {}
}

/// A log that cannot be read to its end, in words.
enum UnreadableLog {
  static func text(_ reason: String, _ origin: LogOrigin) -> String {
    "the rest of the log of \(Sanitizer.line(origin.job)), attempt \(origin.attempt), cannot be "
      + "read: \(Sanitizer.line(reason))"
  }
}

/// Shows nothing: for `--output json`.
package struct SilentPresenter: QuietPresenter {
  package init() {}
}

/// Each state as a line of JSON: for `watch --output json`.
package struct StatePresenter: QuietPresenter {
  package init() {}
  package func update(_ build: SchedulerV1.Build) async {
    Terminal.print(JSONText.line(BuildReport(build)))
  }
}

/// One line after the other, each behind its job's name: for pipes, files and CI systems.
package actor LinePresenter: Presenter {
  private let style: Style
  private var known: [String: SchedulerV1.Job] = [:]
  private let summary: BuildSummary

  package init(style: Style) {
    self.style = style
    self.summary = BuildSummary(style: style)
  }

  package func update(_ build: SchedulerV1.Build) {
    for job in build.jobs {
      let old = self.known[job.id]
      self.known[job.id] = job
      guard old?.state != job.state || old?.attempts.count != job.attempts.count else { continue }
      var text = Words.standing(job)
      switch job.state {
      case .running:
        if let attempt = job.attempts.last {
          if attempt.number > 1 { text += ", attempt \(attempt.number)" }
          if !attempt.executorID.isEmpty { text += " on \(attempt.executorID)" }
        }
      case .finished where !job.message.isEmpty: text += ": \(job.message)"
      default: break
      }
      Terminal.print(
        "\(self.summary.glyph(job)) \(Sanitizer.line(job.id)): \(Sanitizer.line(text))")
    }
  }

  package func heading(_ step: TypesV1.StepStatus, of origin: LogOrigin) {
    let name = step.name.isEmpty ? "step \(step.index + 1)" : Sanitizer.line(step.name)
    Terminal.print("\(self.prefix(origin.job))\(self.style.bold("▸ \(name)"))")
  }

  package func lines(_ lines: [ArraySlice<UInt8>], of origin: LogOrigin) {
    let prefix = Array(self.prefix(origin.job).utf8)
    // One write for many lines: a log of 100 MB is a million lines.
    var bytes: [UInt8] = []
    for line in lines {
      bytes += prefix
      bytes += line
      bytes.append(0x0a)
    }
    Terminal.write(bytes)
  }

  package func unreadable(_ reason: String, _ origin: LogOrigin) {
    Terminal.complain(UnreadableLog.text(reason, origin))
  }

  package func note(_ text: String?, about subject: NoteSubject) {
    if let text { Terminal.complain(text) }
  }

  package func finish() {}

  private func prefix(_ job: String) -> String {
    self.style.cyan(Sanitizer.line(job)) + self.style.dim(" | ")
  }
}

/// A view at the bottom of the terminal that is drawn again and again.
package actor LivePresenter: Presenter {
  /// How often it is drawn at most.
  static let interval = Duration.milliseconds(100)
  /// A line of a log that is wider than any terminal is cut early.
  private static let maximumLineBytes = 2_048

  private let screen: LiveScreen
  private var build: SchedulerV1.Build?
  /// The latest lines of each job that has printed; a few lines for each of at most a few thousand.
  private var tails: [String: [String]] = [:]
  private var latestJob: String?
  /// In the order in which they came.
  private var notes: [(subject: NoteSubject, text: String)] = []
  /// Told again when the view is gone; each log is in it at most once.
  private var unreadable: [String] = []
  private var frame = 0
  private var drawnLines = 0
  private var isFinished = false

  package init(style: Style) {
    self.screen = LiveScreen(style: style)
  }

  package func update(_ build: SchedulerV1.Build) {
    self.build = build
  }

  package func heading(_ step: TypesV1.StepStatus, of origin: LogOrigin) {
    let name = step.name.isEmpty ? "step \(step.index + 1)" : Sanitizer.line(step.name)
    self.append(["▸ \(name)"], to: origin.job)
  }

  package func lines(_ lines: [ArraySlice<UInt8>], of origin: LogOrigin) {
    // Only the last ones can be seen.
    self.append(
      lines.suffix(LiveScreen.tailLines).map {
        Sanitizer.line(String(decoding: $0.prefix(Self.maximumLineBytes), as: UTF8.self))
      }, to: origin.job)
  }

  package func unreadable(_ reason: String, _ origin: LogOrigin) {
    let text = UnreadableLog.text(reason, origin)
    self.append([text], to: origin.job)
    self.unreadable.append(text)
  }

  package func note(_ text: String?, about subject: NoteSubject) {
    self.notes.removeAll { $0.subject == subject }
    if let text { self.notes.append((subject, text)) }
  }

  /// Draws until the following ends; run it beside.
  package func animate() async {
    Terminal.write(Array("\u{1b}[?25l".utf8))
    while !self.isFinished {
      self.draw()
      do { try await Task.sleep(for: Self.interval) } catch { break }
    }
  }

  package func finish() {
    guard !self.isFinished else { return }
    self.isFinished = true
    // The summary takes the view's place.
    Terminal.write(Array((self.erasure + "\u{1b}[?25h").utf8))
    self.drawnLines = 0
    for text in self.unreadable { Terminal.complain(text) }
  }

  private func append(_ lines: [String], to job: String) {
    self.tails[job, default: []] = (self.tails[job, default: []] + lines)
      .suffix(LiveScreen.tailLines)
    self.latestJob = job
  }

  private func draw() {
    guard !self.isFinished, let build = self.build else { return }
    self.frame += 1
    let (columns, rows) = Terminal.size
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    let lines = self.screen.lines(
      build, now: GoogleProtobuf.Timestamp(seconds: Int64(now.tv_sec), nanos: Int32(now.tv_nsec)),
      tail: self.latestJob.map { (Sanitizer.line($0), self.tails[$0] ?? []) },
      notes: self.notes.map(\.text), frame: self.frame, columns: columns, rows: rows)
    // In one write, so that a terminal never shows half of it.
    Terminal.write(
      Array((self.erasure + lines.joined(separator: "\r\n") + "\r\n").utf8))
    self.drawnLines = lines.count
  }

  private var erasure: String {
    self.drawnLines == 0 ? "" : "\u{1b}[\(self.drawnLines)A\r\u{1b}[J"
  }
}
