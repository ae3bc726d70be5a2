import RPC
import Testing

@testable import ServiceRuntime

private let settings = [
  Setting("config", default: "", help: "YAML file"),
  Setting("redis", default: "127.0.0.1:6379", kind: .address, help: "Redis"),
  Setting("lease-time", default: "10s", kind: .duration, help: "How long leases last"),
  Setting("maximum-size", default: "4GiB", kind: .byteCount, help: "The largest blob"),
  Setting("slots", default: "2", kind: .integer, help: "Jobs at a time"),
  Setting("verbose", default: "false", kind: .boolean, help: "Say more"),
  Setting("labels", default: "", help: "Labels"),
]

private struct NoFile: Error, CustomStringConvertible {
  let description = "no such file or directory"
}

private func read(
  _ arguments: [String], environment: [String: String] = [:], files: [String: String] = [:]
) throws -> SettingValues {
  let invocation = try Invocation.read(
    settings: settings, arguments: arguments, environment: environment
  ) { path in
    guard let text = files[path] else { throw NoFile() }
    return text
  }
  guard case .run(let values) = invocation else { throw NoFile() }
  return values
}

private func complaints(
  _ arguments: [String], environment: [String: String] = [:], files: [String: String] = [:]
) -> [String] {
  do {
    _ = try read(arguments, environment: environment, files: files)
    return []
  } catch let error as InvocationError {
    return error.lines
  } catch {
    return ["\(error)"]
  }
}

@Suite struct SettingsTests {
  @Test func withNothingGivenEverySettingHasItsDefault() throws {
    let values = try read([])
    #expect(values.string("redis") == "127.0.0.1:6379")
    #expect(try values.duration("lease-time") == .seconds(10))
    #expect(try values.byteCount("maximum-size") == 4 << 30)
    #expect(try values.int("slots") == 2)
    #expect(try values.bool("verbose") == false)
    #expect(values.strings("labels") == [])
    #expect(values.source("redis") == .defaultValue)
  }

  @Test func aFlagGoesBeforeTheEnvironmentWhichGoesBeforeTheFile() throws {
    let files = ["f.yaml": "slots: 3\nlease-time: 7s\nredis: a:1\n"]
    let values = try read(
      ["--slots", "5", "--config", "f.yaml"],
      environment: ["MILLRACE_SLOTS": "4", "MILLRACE_LEASE_TIME": "8s"], files: files)
    #expect(try values.int("slots") == 5)
    #expect(values.source("slots") == .flag("--slots"))
    #expect(try values.duration("lease-time") == .seconds(8))
    #expect(values.source("lease-time") == .environment(name: "MILLRACE_LEASE_TIME"))
    #expect(values.string("redis") == "a:1")
    #expect(values.source("redis") == .file(path: "f.yaml", line: 3))
  }

  @Test func theFileMayBeNamedByTheEnvironment() throws {
    let values = try read(
      [], environment: ["MILLRACE_CONFIG": "f.yaml"], files: ["f.yaml": "slots: 9"])
    #expect(try values.int("slots") == 9)
  }

  @Test func anEmptyEnvironmentVariableIsAsIfItWereNotThere() throws {
    #expect(try read([], environment: ["MILLRACE_SLOTS": ""]).int("slots") == 2)
  }

  @Test(arguments: [["--slots", "7"], ["--slots=7"], ["--slots", "3", "--slots", "7"]])
  func aFlagsValueFollowsItOrAnEqualsSign(arguments: [String]) throws {
    #expect(try read(arguments).int("slots") == 7)
  }

  @Test(arguments: [
    (["--verbose"], true), (["--verbose", "true"], true), (["--verbose=false"], false),
    (["--verbose", "--slots", "1"], true),
  ])
  func aBooleanFlagNeedsNoValue(arguments: [String], expected: Bool) throws {
    #expect(try read(arguments).bool("verbose") == expected)
  }

  @Test func aListInTheFileIsAListOfWords() throws {
    let values = try read(
      ["--config=f.yaml"], files: ["f.yaml": "labels:\n- gpu\n- arch=arm64\n"])
    #expect(values.strings("labels") == ["gpu", "arch=arm64"])
  }

  @Test func everyMistakeIsToldWithSettingValueAndSource() {
    let lines = complaints(
      ["--slot", "3", "--lease-time", "ten", "--config", "f.yaml", "extra"],
      environment: ["MILLRACE_MAXIMUM_SIZE": "huge"],
      files: ["f.yaml": "# a comment\nslots: many\nredos: x\nverbose: maybe\n"])
    #expect(
      lines == [
        "there is no flag --slot, did you mean --slots?",
        "\"extra\" is not expected: settings are flags, see --help",
        "f.yaml:3: there is no setting \"redos\", did you mean redis?",
        "lease-time cannot be \"ten\" (flag --lease-time): expected a duration such as 250ms, 5s or"
          + " 10m",
        "maximum-size cannot be \"huge\" (environment variable MILLRACE_MAXIMUM_SIZE): expected a"
          + " size such as 512KiB or 4GiB",
      ])
  }

  @Test func aWrongValueInTheFileIsToldWithItsLine() {
    #expect(
      complaints(["--config", "f.yaml"], files: ["f.yaml": "\nslots: many\n"])
        == ["slots cannot be \"many\" (f.yaml:2): expected a whole number"])
  }

  @Test func aMissingFileIsNamed() {
    #expect(
      complaints(["--config", "/none.yaml"])
        == ["config cannot be \"/none.yaml\" (flag --config): no such file or directory"])
  }

  @Test(arguments: [
    "slots: [1, [2]]", "slots:\n  a: b", "- slots", "slots: 1\nslots: 2", "slots: \"open", "{",
    "config: other.yaml", "just text", "\u{0}",
  ])
  func aFileThatIsNoMappingOfSettingsIsRefused(text: String) {
    let lines = complaints(["--config", "f.yaml"], files: ["f.yaml": text])
    #expect(!lines.isEmpty)
    #expect(lines.allSatisfy { $0.contains("f.yaml") && !$0.contains("\n") }, "\(lines)")
  }

  @Test(arguments: ["", "# only a comment\n", "---\n"])
  func anEmptyFileSetsNothing(text: String) throws {
    #expect(try read(["--config", "f.yaml"], files: ["f.yaml": text]).int("slots") == 2)
  }

  @Test func aFlagWithoutItsValueIsTold() {
    #expect(complaints(["--slots"]) == ["--slots has no value"])
  }

  @Test func theFileOfDefaultsIsReadBackAsTheDefaults() throws {
    let text = ConfigurationFile.defaults(program: "millrace-test", settings: settings)
    let values = try read(["--config", "f.yaml"], files: ["f.yaml": text])
    for setting in settings where setting.name != "config" {
      #expect(values.string(setting.name) == setting.defaultText)
      #expect(text.contains("\n\(setting.name): "))
      #expect(text.contains(setting.environmentName))
    }
  }

  @Test func helpNamesEverySettingWithDefaultAndVariable() {
    let text = Invocation.help(program: "millrace-test", summary: "Tests.", settings: settings)
    for setting in settings {
      #expect(text.contains(setting.flag))
      #expect(text.contains(setting.environmentName))
      #expect(text.contains(setting.help))
    }
  }

  @Test(arguments: [("--help", 0), ("--version", 1), ("--print-config", 2)])
  func thePrintingFlagsGoBeforeEverythingElse(flag: String, which: Int) throws {
    let invocation = try Invocation.read(
      settings: settings, arguments: [flag, "--nonsense"], environment: [:]
    ) { _ in "" }
    switch invocation {
    case .help: #expect(which == 0)
    case .version: #expect(which == 1)
    case .printConfiguration: #expect(which == 2)
    case .run: Issue.record("it would run")
    }
  }

  @Test func aServicesOwnRuleNamesSettingValueAndSource() throws {
    let values = try read(["--slots", "900"])
    #expect(throws: SettingError.self) { try values.int("slots", in: 1...64) }
    do {
      _ = try values.int("slots", in: 1...64)
    } catch {
      #expect(
        "\(error)"
          == "slots cannot be \"900\" (flag --slots): expected a number from 1 to 64")
    }
  }

  @Test(arguments: [
    ("1ns", Duration.nanoseconds(1)), ("250ms", .milliseconds(250)), ("5s", .seconds(5)),
    ("2m", .seconds(120)), ("1h", .seconds(3_600)), ("1d", .seconds(86_400)), ("0s", .zero),
  ])
  func durations(text: String, expected: Duration) {
    #expect(Quantity.duration(text) == expected)
  }

  @Test(arguments: ["", "5", "s", "-1s", "1.5s", "5 s", "9223372036854775807h", "5sec", "٣s"])
  func whatIsNoDuration(text: String) {
    #expect(Quantity.duration(text) == nil)
  }

  @Test(arguments: [
    ("0", Int64(0)), ("512", 512), ("64KiB", 65_536), ("4GiB", 4 << 30), ("2GB", 2_000_000_000),
    ("1B", 1),
  ])
  func byteCounts(text: String, expected: Int64) {
    #expect(Quantity.byteCount(text) == expected)
  }

  @Test(arguments: ["", "GiB", "-1", "1.5GiB", "9999999999GiB", "4 GiB", "4gib"])
  func whatIsNoByteCount(text: String) {
    #expect(Quantity.byteCount(text) == nil)
  }

  @Test(arguments: [
    ("redsi", "redis"), ("max-size", nil), ("lease-tine", "lease-time"), ("x", nil),
    ("slotss", "slots"), ("", nil),
  ])
  func theNearestWordIsFound(word: String, expected: String?) {
    #expect(Spelling.nearest(to: word, among: settings.map(\.name)) == expected)
  }

  @Test func aLongWordIsNoOnesNeighbour() {
    let long = String(repeating: "a", count: 100_000)
    #expect(Spelling.nearest(to: long, among: ["redis"]) == nil)
  }
}
