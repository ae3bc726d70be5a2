import BuildProtos
import CommandLineInterface
import RPC
import Testing

@Suite struct Text {
  @Test(arguments: [
    ("plain", "plain"),
    ("\u{1b}[31mred\u{1b}[0m", "red"),
    ("a\u{1b}]0;title\u{7}b", "ab"),
    ("a\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "alink"),
    ("\u{9b}2Jgone", "gone"),
    ("a\tb", "a       b"),
    ("10%\r20%", "20%"),
    ("a\u{8}\u{0}b", "ab"),
    ("safe\u{202e}txt", "safetxt"),
    ("\u{1b}[", ""),
  ])
  func whatABuildPrintsCannotControlTheTerminal(text: String, shown: String) {
    #expect(Sanitizer.line(text) == shown)
  }

  @Test func linesAreCutAtTheTerminalsWidth() {
    #expect(Sanitizer.clipped("hello", to: 3) == "hel")
    #expect(Sanitizer.clipped("日本語", to: 5) == "日本")
    #expect(Sanitizer.columns(of: "a日") == 3)
  }

  @Test(arguments: [
    (Duration.milliseconds(-5), "0 ms"), (.milliseconds(420), "420 ms"),
    (.milliseconds(1_250), "1.2 s"), (.seconds(123), "2m 03s"), (.seconds(3_725), "1h 02m"),
  ])
  func durationsAreShort(duration: Duration, text: String) {
    #expect(Words.duration(duration) == text)
  }

  @Test(arguments: [
    (Int64(12), "12 B"), (1_536, "1.5 KiB"), (100 << 20, "100.0 MiB"), (5 << 40, "5.0 TiB"),
  ])
  func sizesHaveOneDecimal(count: Int64, text: String) {
    #expect(Words.bytes(count) == text)
  }

  @Test(arguments: [
    (Int64(0), "1970-01-01T00:00:00.005Z"), (951_782_400, "2000-02-29T00:00:00.005Z"),
    (1_780_000_000, "2026-05-28T20:26:40.005Z"), (-1, "1969-12-31T23:59:59.005Z"),
  ])
  func timestampsAreWrittenInUTC(seconds: Int64, text: String) {
    #expect(GoogleProtobuf.Timestamp(seconds: seconds, nanos: 5_000_000).text == text)
  }

  @Test(arguments: [
    (TypesV1.Outcome.succeeded, ExitCode.success), (.failed, .buildFailed),
    (.timedOut, .buildFailed), (.outOfMemory, .buildFailed), (.rejected, .buildFailed),
    (.cancelled, .cancelled), (.executorLost, .infrastructure),
  ])
  func theExitCodeTellsHowTheBuildEnded(outcome: TypesV1.Outcome, code: ExitCode) {
    #expect(Words.exitCode(outcome) == code)
  }

  @Test func columnsAreAsWideAsTheirWidestCell() {
    #expect(
      Table.lines(header: ["A", "BB"], rows: [["日本", "x"], ["y", "z"]])
        == ["A     BB", "日本  x", "y     z"])
  }
}

@Suite struct Failures {
  @Test func anAddressThatNobodyServesIsNamedOnce() {
    let peer = Peer(name: "scheduler", address: "127.0.0.1:7101")
    let failure = peer.failure(
      RPCError(.unavailable, "cannot connect to 127.0.0.1:7101: connection refused"))
    #expect(failure.code == .infrastructure)
    #expect(
      failure.lines == [
        "cannot reach the scheduler at 127.0.0.1:7101: connection refused; is `millrace up` "
          + "running?"
      ])
  }

  @Test func aBuildThatIsNotThereIsAMistakeOfTheUser() {
    let failure = Peer(name: "scheduler", address: "x:1").failure(
      RPCError(.notFound, "there is no build \"b\""))
    #expect(failure == CommandFailure(.usage, "there is no build \"b\""))
  }

  @Test func everyMistakeStandsAboveItsPlace() throws {
    let mistakes = SchedulerV1.PipelineMistakes(
      path: "millrace.yaml",
      mistakes: [
        .init(line: 2, column: 3, message: "no `steps`", suggestion: "give it one"),
        .init(line: 99, column: 1, message: "beyond", suggestion: ""),
      ])
    var error = RPCError(.invalidArgument, "2 mistakes")
    error.statusDetails =
      GoogleRPC.Status(
        code: 3, message: "2 mistakes",
        details: [
          GoogleProtobuf.AnyMessage(
            typeURL: "type.googleapis.com/millrace.scheduler.v1.PipelineMistakes",
            value: mistakes.encoded())
        ]
      ).encoded()
    let carried = try #require(MistakeReport.mistakes(in: error))
    #expect(
      MistakeReport.lines(carried, path: "millrace.yaml", text: "jobs:\r\n  a:\r\n") == [
        "millrace.yaml:2:3: no `steps`; give it one", "    a:", "    ^",
        "millrace.yaml:99:1: beyond", "2 mistakes in millrace.yaml",
      ])
  }

  @Test func anotherRefusalCarriesNoMistakes() {
    #expect(MistakeReport.mistakes(in: RPCError(.invalidArgument, "no key")) == nil)
  }
}
