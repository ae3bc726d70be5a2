import FoundationEssentials
import Glibc

/// A stack of separate processes that lives as long as one measurement.
struct LocalStack: Sendable {
  /// Where `swift build -c release` puts the programs.
  static let defaultPrograms = ".build/release"

  private static let startLimit = Duration.seconds(60)
  /// Between two looks whether it is up, or gone.
  private static let pause = Duration.milliseconds(25)
  /// Running jobs are of no more use when it ends.
  private static let drainGraceSeconds = 1
  /// From Ctrl-C to the second one, and from that to SIGKILL.
  private static let stopLimits = [Duration.seconds(20), .seconds(5)]

  /// The directory of the programs.
  var programs: String
  var runners: Int
  /// Of each runner; nil is as many as it has CPUs.
  var slots: Int?
  /// Whether its data directory stays when it is gone.
  var isKept: Bool

  /// The programs' directory: what was given, the environment's, the default.
  static func programs(_ given: String?) -> String {
    let variable = getenv("MILLRACE_BIN").map { String(cString: $0) } ?? ""
    return given ?? (variable.isEmpty ? self.defaultPrograms : variable)
  }

  /// Starts the stack, runs `body`, and stops it again, whether `body` returned or threw.
  func run<Value: Sendable>(
    _ body: (StackFile) async throws -> Value
  ) async throws -> Value {
    let program = "\(self.programs)/millrace"
    guard access(program, X_OK) == 0 else {
      throw BenchmarkFailure(
        "there is no \(program): make it with `swift build -c release`, or give --bin")
    }
    let directory = try Self.temporaryDirectory()
    defer {
      if self.isKept {
        Progress.say("kept: \(directory)")
      } else {
        try? FileManager.default.removeItem(atPath: directory)
      }
    }
    let up = try self.start(program, directory)
    do {
      let value = try await body(try await Self.ready(up, directory))
      await Self.stop(up)
      return value
    } catch {
      await Self.stop(up)
      throw error
    }
  }

  private func start(_ program: String, _ directory: String) throws -> ChildProcess {
    var environment = ["NO_COLOR": "1"]
    // A runner's own setting; `millrace up` hands its environment on.
    if let slots = self.slots { environment["MILLRACE_SLOTS"] = "\(slots)" }
    Progress.say("starting a stack in \(directory)")
    return try ChildProcess(
      [
        program, "up", "--data", "\(directory)/farm", "--base-port", "\(try Ports.freeBlock())",
        "--runners", "\(self.runners)", "--drain-grace", "\(Self.drainGraceSeconds)",
      ], environment: environment, output: Self.log(in: directory))
  }

  private static func log(in directory: String) -> String { "\(directory)/up.log" }

  private static func ready(
    _ up: ChildProcess, _ directory: String
  ) async throws -> StackFile {
    let end = ContinuousClock.now + self.startLimit
    while true {
      if let stack = StackFile.read(in: "\(directory)/farm") { return stack }
      guard !up.hasEnded, .now < end else {
        let said = (try? String(contentsOfFile: self.log(in: directory), encoding: .utf8)) ?? ""
        throw BenchmarkFailure("the stack did not start; millrace up said:\n\(said.suffix(4_000))")
      }
      try await Task.sleep(for: self.pause)
    }
  }

  /// Ends it as Ctrl-C does. Also in a cancelled task, which can wait for nothing itself.
  private static func stop(_ up: ChildProcess) async {
    await Task {
      for limit in self.stopLimits {
        up.signal(SIGINT)
        let end = ContinuousClock.now + limit
        while .now < end {
          if up.hasEnded { return }
          try? await Task.sleep(for: self.pause)
        }
      }
      // The services end when they see that it is gone.
      up.signal(SIGKILL)
    }.value
  }

  static func temporaryDirectory() throws -> String {
    let parent = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    var template = Array("\(parent)/millrace-bench-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else {
      throw BenchmarkFailure(
        "cannot make a temporary directory in \(parent): \(String(cString: strerror(errno)))")
    }
    return template.withUnsafeBufferPointer { buffer in
      buffer.baseAddress.map { String(cString: $0) } ?? parent
    }
  }
}
