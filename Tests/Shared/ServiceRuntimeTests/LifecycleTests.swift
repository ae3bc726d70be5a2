import Glibc
import NIOPosix
import RPC
import Synchronization
import Testing

@testable import ServiceRuntime

/// A service whose behaviour a test chooses by its settings.
private struct Mill: ServiceProgram {
  static let name = "mill"
  static let summary = "Grinds."
  static let defaultListen = "127.0.0.1:0"
  static let defaultAdminListen = "127.0.0.1:0"
  static let settings = [Setting("mood", default: "good", help: "What it does")]

  struct Failure: Error, CustomStringConvertible { let description = "the stones are missing" }

  let mood: String
  var services: [any RPCService] { [] }

  init(_ environment: ServiceEnvironment) async throws {
    self.mood = environment.settings.string("mood")
    if self.mood == "broken" { throw Failure() }
  }

  func run() async throws {
    if self.mood == "tired" { return }
    if self.mood == "failing" { throw Failure() }
    try await Task.sleep(for: .seconds(3_600))
  }

  func drain() async {
    guard self.mood == "stubborn" else { return }
    // Heeds no cancellation.
    try? await Task { try await Task.sleep(for: .seconds(3_600)) }.value
  }
}

/// The log of a service, and what its lines tell.
private final class LogReader: Sendable {
  let writeEnd: Int32
  private let lines: AsyncStream<String>

  init() {
    var ends: [Int32] = [0, 0]
    pipe(&ends)
    self.writeEnd = ends[1]
    let readEnd = ends[0]
    let (lines, continuation) = AsyncStream.makeStream(of: String.self)
    self.lines = lines
    SystemThread.start {
      var text = ""
      var bytes = [UInt8](repeating: 0, count: 4_096)
      while case let count = read(readEnd, &bytes, bytes.count), count > 0 {
        text += String(decoding: bytes.prefix(count), as: UTF8.self)
        while let end = text.firstIndex(of: "\n") {
          continuation.yield(String(text[..<end]))
          text = String(text[text.index(after: end)...])
        }
      }
      continuation.finish()
    }
  }

  /// The first line from here on that contains `text`.
  func line(containing text: String) async -> String? {
    for await line in self.lines where line.contains(text) { return line }
    return nil
  }
}

@Suite(.serialized) struct LifecycleTests {
  private let directory = "/tmp/millrace-runtime-tests-\(getpid())-\(UInt32.random(in: 0 ... .max))"

  private func serve(
    _ arguments: [String], log: LogReader, stops: AsyncStream<StopReason>,
    printed: @escaping @Sendable (String, Bool) -> Void = { _, _ in }
  ) async -> Int32 {
    let sink = LogSink(descriptor: log.writeEnd)
    let code = await ServiceRuntime.serve(
      Mill.self, arguments: ["--data", self.directory] + arguments, environment: [:], stops: stops,
      logs: sink, print: printed)
    sink.flush()
    close(log.writeEnd)
    return code
  }

  private static func address(_ name: String, in line: String) throws -> ListenAddress {
    let words = line.split(separator: "\"")
    let index = try #require(words.firstIndex(of: name[...]))
    return try ListenAddress(String(words[index + 2]))
  }

  @Test func aServiceServesHealthUntilItIsToldToStop() async throws {
    let log = LogReader()
    let (stops, stop) = AsyncStream.makeStream(of: StopReason.self)
    async let code = self.serve([], log: log, stops: stops)
    let line = try #require(await log.line(containing: "\"serving\""))
    let admin = try Self.address("admin", in: line)
    #expect(try await RawConnection.get("/readyz", from: admin).contains("\"ready\""))
    #expect(
      try await RawConnection.get("/metrics", from: admin)
        .contains("millrace_build_info{service=\"mill\""))
    let channel = try RPCChannel(to: Self.address("listen", in: line))
    let health = HealthV1.HealthClient(channel)
    let watch = try await health.watch(HealthV1.HealthCheckRequest())
    for try await response in watch where response.status == .serving { break }
    stop.yield(.signal(SIGTERM))
    #expect(await code == 0)
    await channel.close()
  }

  @Test func drainingIsSeenByWatchersOfHealth() async throws {
    let log = LogReader()
    let (stops, stop) = AsyncStream.makeStream(of: StopReason.self)
    async let code = self.serve(
      ["--mood", "stubborn", "--drain-grace", "300ms"], log: log, stops: stops)
    let line = try #require(await log.line(containing: "\"serving\""))
    let admin = try Self.address("admin", in: line)
    let channel = try RPCChannel(to: Self.address("listen", in: line))
    let watch = try await HealthV1.HealthClient(channel).watch(HealthV1.HealthCheckRequest())
    var statuses: [HealthV1.HealthCheckResponse.ServingStatus] = []
    do {
      for try await response in watch {
        statuses.append(response.status)
        if response.status == .serving { stop.yield(.signal(SIGTERM)) }
        if statuses.contains(.serving), response.status == .notServing {
          let ready = try await RawConnection.get("/readyz", from: admin)
          #expect(ready.contains("draining"))
          break
        }
      }
    }
    #expect(statuses.suffix(2) == [.serving, .notServing])
    // A drain that never ends is cut off by the grace.
    #expect(await log.line(containing: "draining took longer") != nil)
    #expect(await code == 0)
    await channel.close()
  }

  @Test func aServiceThatCannotStartEndsWithOneLine() async throws {
    let log = LogReader()
    let (stops, _) = AsyncStream.makeStream(of: StopReason.self)
    async let code = self.serve(["--mood", "broken"], log: log, stops: stops)
    let line = try #require(await log.line(containing: "critical"))
    #expect(line.contains("millrace-mill ends: the stones are missing"))
    #expect(await code == 1)
  }

  @Test(arguments: [("tired", "its background work has ended"), ("failing", "the stones are")])
  func backgroundWorkThatEndsEndsTheService(mood: String, reason: String) async throws {
    let log = LogReader()
    let (stops, _) = AsyncStream.makeStream(of: StopReason.self)
    async let code = self.serve(["--mood", mood], log: log, stops: stops)
    #expect(try #require(await log.line(containing: "critical")).contains(reason))
    #expect(await code == 1)
  }

  @Test func aTakenPortIsToldInOneLine() async throws {
    let log = LogReader()
    let (stops, _) = AsyncStream.makeStream(of: StopReason.self)
    let taken = RPCServer(services: [])
    let address = try await taken.listen(on: ListenAddress("127.0.0.1:0"))
    async let code = self.serve(["--listen", "\(address)"], log: log, stops: stops)
    let line = try #require(await log.line(containing: "critical"))
    #expect(line.contains("cannot listen on \(address): address already in use"), "\(line)")
    #expect(await code == 1)
    await taken.shutdown(grace: .zero)
  }

  @Test func wrongSettingsArePrintedAndTheCodeIsTwo() async {
    let log = LogReader()
    let (stops, _) = AsyncStream.makeStream(of: StopReason.self)
    let printed = Mutex("")
    let code = await self.serve(["--mod", "x", "--drain-grace", "long"], log: log, stops: stops) {
      text, isError in
      #expect(isError)
      printed.withLock { $0 += text }
    }
    #expect(code == 2)
    #expect(
      printed.withLock { $0 } == """
        millrace-mill: there is no flag --mod, did you mean --mood?
        millrace-mill: drain-grace cannot be "long" (flag --drain-grace): expected a duration such \
        as 250ms, 5s or 10m

        """)
  }

  @Test(arguments: ["--help", "--version", "--print-config"])
  func printingFlagsPrintAndEnd(flag: String) async {
    let log = LogReader()
    let (stops, _) = AsyncStream.makeStream(of: StopReason.self)
    let printed = Mutex("")
    let code = await self.serve([flag], log: log, stops: stops) { text, isError in
      #expect(!isError)
      printed.withLock { $0 += text }
    }
    #expect(code == 0)
    #expect(printed.withLock { $0.contains("millrace-mill") })
  }

  @Test func twoProcessesCannotShareADataDirectory() throws {
    // flock knows open files, not processes: a second claim in this process is as one in another.
    try DataDirectory.claim(self.directory + "/shared/deep")
    let path = self.directory + "/shared/deep"
    do {
      try DataDirectory.claim(path)
      Issue.record("it was claimed twice")
    } catch {
      #expect(error.description == "the data directory \(path) is used by process \(getpid())")
    }
  }

  @Test func aDataDirectoryThatCannotBeIsNamed() {
    do {
      try DataDirectory.claim("/proc/none/here")
      Issue.record("it was claimed")
    } catch {
      #expect(error.description.contains("/proc/none/here cannot be made: no such file"))
    }
  }
}
