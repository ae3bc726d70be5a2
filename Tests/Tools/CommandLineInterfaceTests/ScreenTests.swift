import BuildProtos
import CommandLineInterface
import RPC
import Testing

@Suite struct Screens {
  private let screen = LiveScreen(style: Style(hasColor: false))
  private let now = GoogleProtobuf.Timestamp(seconds: 100)

  private func job(
    _ id: String, _ state: SchedulerV1.JobState, _ outcome: TypesV1.Outcome = .unspecified,
    matrix: [String: String] = [:]
  ) -> SchedulerV1.Job {
    var job = SchedulerV1.Job(id: id, state: state, outcome: outcome, matrix: matrix)
    if state == .running || state == .finished {
      job.attempts = [
        SchedulerV1.Attempt(
          number: 1, outcome: outcome, startedAt: GoogleProtobuf.Timestamp(seconds: 90),
          finishedAt: state == .finished ? GoogleProtobuf.Timestamp(seconds: 93) : nil,
          steps: [
            TypesV1.StepStatus(index: 0, name: "make", state: .running)
          ])
      ]
    }
    return job
  }

  private func lines(
    _ jobs: [SchedulerV1.Job], tail: (job: String, lines: [String])? = nil,
    notes: [String] = [], columns: Int = 80, rows: Int = 24
  ) -> [String] {
    self.screen.lines(
      SchedulerV1.Build(
        id: "b1", state: .running, createdAt: GoogleProtobuf.Timestamp(seconds: 80), jobs: jobs),
      now: self.now, tail: tail, notes: notes, frame: 0, columns: columns, rows: rows)
  }

  @Test func jobsStandWithTheirStateAndTheTailOfTheOneThatPrints() {
    var waiting = self.job("docs", .queued)
    waiting.waitingFor = "a free slot"
    var blocked = self.job("ship", .blocked)
    blocked.waitingFor = "jobs test, docs"
    #expect(
      self.lines(
        [
          self.job("lint", .finished, .succeeded), self.job("test", .running), waiting,
          blocked, self.job("tidy", .blocked),
        ], tail: ("test", ["cc a.c", "cc b.c"])) == [
          "build b1  running  20.0 s",
          " ✔ lint  succeeded 3.0 s",
          " ⠋ test  running 10.0 s  make (1/1)",
          " ● docs  queued, waiting for a free slot",
          " ○ ship  blocked, waiting for jobs test, docs",
          " ○ tidy  blocked",
          "── test ",
          "cc a.c",
          "cc b.c",
        ])
  }

  @Test func aJobThatIsToRunAgainStandsWithoutItsEarlierAttempt() {
    var again = self.job("test", .finished, .failed)
    again.state = .queued
    again.waitingFor = "an executor to be found"
    #expect(
      self.lines([again]).last == " ● test  queued, waiting for an executor to be found")
  }

  @Test func aLargeMatrixIsOneLine() {
    let legs = (0..<6).map { number in
      self.job(
        "test (\(number))", number < 2 ? .finished : number == 2 ? .running : .queued,
        number < 2 ? (number == 0 ? .succeeded : .failed) : .unspecified,
        matrix: ["n": "\(number)"])
    }
    #expect(
      self.lines(legs) == [
        "build b1  running  20.0 s", "   test  2/6  ✔✘⠋●●●",
        "   ⠋ test (2)  running 10.0 s  make (1/1)",
      ])
  }

  @Test func theViewNeverOutgrowsTheTerminal() {
    let jobs = (0..<100).map { self.job("job-\($0)", $0 == 99 ? .running : .blocked) }
    for rows in 3...30 {
      let lines = self.lines(
        jobs, tail: ("job-99", Array(repeating: "x", count: 50)),
        notes: ["lost the scheduler; trying again", "lost the content-cache"], columns: 20,
        rows: rows)
      #expect(lines.count < rows)
      #expect(lines.allSatisfy { Sanitizer.columns(of: $0) <= 20 })
    }
    #expect(self.lines(jobs, rows: 6).contains { $0.contains("job-99") })
  }

  @Test func whatThereIsToTellStandsBelowTheTitle() {
    #expect(
      self.lines([self.job("lint", .queued)], notes: ["lost the scheduler", "cancelling"]) == [
        "build b1  running  20.0 s", "lost the scheduler", "cancelling", " ● lint  queued",
      ])
  }

  @Test func aSummaryTellsWhyABuildFailed() {
    var failed = self.job("test", .finished, .failed)
    failed.attempts[0].steps = [
      TypesV1.StepStatus(
        index: 0, name: "make test", state: .finished, outcome: .failed, exitCode: 2)
    ]
    let build = SchedulerV1.Build(
      id: "b1", state: .finished, outcome: .failed,
      createdAt: GoogleProtobuf.Timestamp(seconds: 80),
      finishedAt: GoogleProtobuf.Timestamp(seconds: 95),
      jobs: [self.job("lint", .finished, .succeeded), failed])
    #expect(
      BuildSummary(style: Style(hasColor: false)).lines(build) == [
        "build b1 failed in 15.0 s", "  ✔ lint  succeeded in 3.0 s",
        "  ✘ test  failed in 3.0 s: step \"make test\": exit code 2",
      ])
  }

  @Test(arguments: [
    ("step \"slow\" ran longer than its 2 s", "step \"slow\" ran longer than its 2 s"),
    ("the job ran longer than its 1 min", "step \"slow\": the job ran longer than its 1 min"),
    ("", "step \"slow\": timed out after 3.0 s"),
  ])
  func aSummaryTellsAfterHowLongAJobTimedOut(message: String, reason: String) {
    var job = self.job("test", .finished, .timedOut)
    job.attempts[0].steps = [
      TypesV1.StepStatus(
        index: 0, name: "slow", state: .finished, outcome: .timedOut, exitCode: -1, signal: 9,
        message: message, startedAt: GoogleProtobuf.Timestamp(seconds: 90),
        finishedAt: GoogleProtobuf.Timestamp(seconds: 93)),
      // What cleaned up does not tell why.
      TypesV1.StepStatus(
        index: 1, name: "clean", state: .finished, outcome: .failed, exitCode: 1),
    ]
    let build = SchedulerV1.Build(id: "b1", state: .finished, outcome: .timedOut, jobs: [job])
    #expect(
      BuildSummary(style: Style(hasColor: false)).lines(build) == [
        "build b1 timed out", "  ✘ test  timed out in 3.0 s: \(reason)",
      ])
  }
}
