import Logging
import NIOPosix
import ServiceRuntime

/// A command on a whole store: `millrace-datastore-gateway check`, `dump`, `load`.
///
/// It takes the settings of the service, and names its store by them.
package enum StoreCommand: String, CaseIterable, Sendable {
  case check, dump, load

  /// - Parameters:
  ///   - text: What is printed.
  ///   - isError: Whether it goes to standard error: progress, and why nothing could be done.
  package typealias Print = @Sendable (_ text: String, _ isError: Bool) -> Void

  private var program: String { "millrace-datastore-gateway \(self.rawValue)" }

  private var summary: String {
    switch self {
    case .check: "Checks the store: its entities, their checksums, its indexes against them."
    case .dump: "Writes all that the store has as a stream of records."
    case .load: "Puts what a dump has into the store."
    }
  }

  private var settings: [Setting] {
    let file = Setting(
      "file", default: "-", help: "The dump's file; - for standard input or output")
    let namespaces = Setting(
      "namespaces", default: "",
      help: "Namespaces of Google's to dump beside the default one, if it lists none itself")
    let own: [Setting] =
      switch self {
      case .check: []
      case .dump: [file, namespaces]
      case .load: [file]
      }
    return ServiceRuntime.commonSettings(of: DatastoreGateway.self) + DatastoreGateway.settings
      + own
  }

  /// Runs the command.
  ///
  /// - Parameter arguments: Behind the command's name.
  /// - Returns: The exit code: 0; 1 for a store or a dump with faults; 2 if nothing could be done.
  package func run(
    arguments: [String], environment: [String: String], print: @escaping Print
  ) async -> Int32 {
    do {
      let invocation = try ServiceRuntime.invocation(
        of: self.settings, arguments: arguments, environment: environment)
      guard case .run(let values) = invocation else {
        print(
          Invocation.help(program: self.program, summary: self.summary, settings: self.settings),
          false)
        return 0
      }
      let configuration = try Configuration(values)
      switch self {
      case .check: return try Self.check(configuration, values, print)
      case .dump: try await Self.dump(configuration, values, environment, print)
      case .load: try await Self.load(configuration, values, environment, print)
      }
      return 0
    } catch let error as InvocationError {
      print(error.lines.map { "\(self.program): \($0)\n" }.joined(), true)
      return 2
    } catch let error as DumpFailure {
      print("\(self.program): \(error)\n", true)
      return 1
    } catch {
      print("\(self.program): \(error)\n", true)
      return 2
    }
  }

  private static func check(
    _ configuration: Configuration, _ values: SettingValues, _ print: @escaping Print
  ) throws(StoreFailure) -> Int32 {
    guard let snapshot = try configuration.snapshot(in: values.string("data")) else {
      throw StoreFailure(.other, "what Google keeps is Google's to check")
    }
    let report = try StoreCheck.run(snapshot) { report in
      print("\(report.entities) entities\n", true)
    }
    for fault in report.faults { print("\(fault)\n", false) }
    if report.faultCount > report.faults.count {
      print("and \(report.faultCount - report.faults.count) more\n", false)
    }
    let counts = "\(report.entities) entities, \(report.indexRows) index rows"
    print("\(snapshot.place): \(counts), \(report.faultCount) faults\n", false)
    return report.isWhole ? 0 : 1
  }

  private static func dump(
    _ configuration: Configuration, _ values: SettingValues, _ environment: [String: String],
    _ print: @escaping Print
  ) async throws {
    let path = values.string("file")
    var progress = DumpProgress(print)
    let writer: DumpWriter
    if case .google(let address) = configuration.store {
      let google = try await Self.google(address, environment)
      writer = try DumpWriter(to: path, DumpRecord.Header(version: 0, nextID: 0))
      let source = GoogleDump(
        google, namespaces: values.strings("namespaces"), warn: { print($0, true) })
      try await source.write(to: writer) { progress.passed(writer.counts, writer.bytes) }
      await google.close()
    } else if let snapshot = try configuration.snapshot(in: values.string("data")) {
      writer = try DumpWriter(
        to: path, DumpRecord.Header(version: snapshot.version, nextID: try snapshot.nextID()))
      try snapshot.write(to: writer) { progress.passed(writer.counts, writer.bytes) }
    } else {
      preconditionFailure("Every store but Google's has a snapshot")
    }
    try writer.end()
    progress.ended(writer.counts, writer.bytes)
  }

  private static func load(
    _ configuration: Configuration, _ values: SettingValues, _ environment: [String: String],
    _ print: @escaping Print
  ) async throws {
    let path = values.string("file")
    var progress = DumpProgress(print)
    if path != "-", isFileOrNothing(path) {
      // A file that is damaged or cut off is refused before anything of it is loaded.
      let reader = try DumpReader(from: path)
      while try reader.next() != nil {}
    }
    let reader = try DumpReader(from: path)
    let target: LoadTarget
    switch configuration.store {
    case .google(let address): target = .google(try await Self.google(address, environment))
    case .sqlite, .postgres:
      let directory = values.string("data")
      // A gateway that runs on the same file would know nothing of what is loaded.
      if case .sqlite = configuration.store { try DataDirectory.claim(directory) }
      let store = try configuration.openStore(
        in: directory, metrics: Metrics(MetricsRegistry()),
        logger: Self.quiet)
      target = .entities(store)
    }
    try await DumpLoad(target).run(reader) { progress.passed(reader.counts, reader.bytes) }
    await target.close()
    progress.ended(reader.counts, reader.bytes)
  }

  /// What goes wrong ends the command with its reason.
  private static var quiet: Logger { Logger(label: "store") { _ in SwiftLogNoOpLogHandler() } }

  private static func google(
    _ address: GoogleAddress, _ environment: [String: String]
  ) async throws -> GoogleDatastore {
    var configuration = GoogleDatastore.Configuration(address)
    configuration.environment = environment
    return try await GoogleDatastore(
      configuration, metrics: Metrics(MetricsRegistry()), logger: Self.quiet,
      group: MultiThreadedEventLoopGroup.singleton)
  }
}

/// Tells how far a dump or load is, once a second.
struct DumpProgress {
  private let print: StoreCommand.Print
  private let clock = ContinuousClock()
  private let began: ContinuousClock.Instant
  private var told: ContinuousClock.Instant

  init(_ print: @escaping StoreCommand.Print) {
    self.print = print
    self.began = self.clock.now
    self.told = self.began
  }

  mutating func passed(_ counts: DumpRecord.Counts, _ bytes: Int) {
    let now = self.clock.now
    guard now - self.told >= .seconds(1) else { return }
    self.told = now
    self.tell(counts, bytes)
  }

  func ended(_ counts: DumpRecord.Counts, _ bytes: Int) { self.tell(counts, bytes) }

  private func tell(_ counts: DumpRecord.Counts, _ bytes: Int) {
    let seconds = max((self.clock.now - self.began) / .seconds(1), 0.001)
    let rate = Int(Double(counts.entities) / seconds)
    self.print(
      "\(counts.entities) entities, \(counts.reservations) reserved keys, \(bytes >> 10) KiB, "
        + "\(rate) entities/s\n", true)
  }
}
