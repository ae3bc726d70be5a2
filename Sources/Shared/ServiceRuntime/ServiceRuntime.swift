import Glibc
import Logging
import NIOPosix
import RPC

/// Runs a service's program: settings, logs, metrics, health, signals, draining.
///
/// A program's life:
///
/// 1. Settings are read. What is wrong is told, every mistake on one line, and the exit code is 2.
/// 2. Metrics and health are served; `/readyz` says that the service is starting.
/// 3. The service is made, then its calls are served, then its background work runs.
/// 4. SIGTERM or SIGINT: `/readyz` and gRPC health say no, connections get GOAWAY, the service
///    drains, for no longer than the drain grace; exit code 0. A second signal ends it at once.
package enum ServiceRuntime {
  /// Settings that every service has.
  package static func commonSettings(of program: any ServiceProgram.Type) -> [Setting] {
    [
      Setting(
        "listen", default: program.defaultListen, kind: .address,
        help: "Where calls are served, HOST:PORT or unix:PATH"),
      Setting(
        "admin-listen", default: program.defaultAdminListen, kind: .address,
        help: "Where /metrics, /healthz and /readyz are served, HOST:PORT or unix:PATH"),
      Setting(
        "data", default: ".millrace/\(program.name)",
        help: "Directory for what outlives the process"),
      Setting("config", default: "", help: "YAML file with settings"),
      Setting(
        "log-level", default: "info",
        kind: .choice(["trace", "debug", "info", "notice", "warning", "error", "critical"]),
        help: "The least level that is logged"),
      Setting(
        "drain-grace", default: program.defaultDrainGrace, kind: .duration,
        help: "How long SIGTERM waits for running work"),
    ]
  }

  /// This process' environment variables.
  package static var environment: [String: String] {
    var environment: [String: String] = [:]
    var entry = environ
    while let text = entry.pointee {
      let pair = String(cString: text)
      let name = pair.prefix { $0 != "=" }
      environment[String(name)] = String(pair.dropFirst(name.utf8.count + 1))
      entry += 1
    }
    return environment
  }

  /// Runs the program with this process' arguments and environment, and ends the process.
  package static func run<Program: ServiceProgram>(_ program: Program.Type) async {
    let environment = self.environment
    FileDescriptorLimit.raise()
    let stops = StopSignals.listen(parent: environment["MILLRACE_PARENT_DEATH_SIGNAL"])
    let sink = LogSink(descriptor: STDERR_FILENO)
    let code = await self.serve(
      program, arguments: Array(CommandLine.arguments.dropFirst()), environment: environment,
      stops: stops, logs: sink)
    sink.flush()
    exit(code)
  }

  /// What flags, environment and configuration file say.
  package static func invocation(
    of settings: [Setting], arguments: [String], environment: [String: String]
  ) throws(InvocationError) -> Invocation {
    try Invocation.read(settings: settings, arguments: arguments, environment: environment) {
      path in
      let bytes = try SystemFile.bytes(path, limit: ConfigurationFile.maximumBytes)
      return String(decoding: bytes, as: UTF8.self)
    }
  }

  /// Runs the program until `stops` says to stop.
  ///
  /// - Parameters:
  ///   - arguments: Without the program's own name.
  ///   - print: What `--help` and its like print, and mistakes in the settings, go here.
  /// - Returns: The exit code.
  package static func serve<Program: ServiceProgram>(
    _ program: Program.Type, arguments: [String], environment: [String: String],
    stops: AsyncStream<StopReason>, logs: LogSink,
    print: @escaping @Sendable (_ text: String, _ isError: Bool) -> Void = ServiceRuntime.print
  ) async -> Int32 {
    let executable = "millrace-\(program.name)"
    let settings = self.commonSettings(of: program) + program.settings
    let values: SettingValues
    do {
      let invocation = try self.invocation(
        of: settings, arguments: arguments, environment: environment)
      switch invocation {
      case .help:
        print(
          Invocation.help(program: executable, summary: program.summary, settings: settings), false)
        return 0
      case .version:
        print("\(executable) \(self.version)\n", false)
        return 0
      case .printConfiguration:
        print(ConfigurationFile.defaults(program: executable, settings: settings), false)
        return 0
      case .run(let given):
        values = given
      }
    } catch {
      print(error.lines.map { "\(executable): \($0)\n" }.joined(), true)
      return 2
    }

    let level = Logger.Level(rawValue: values.string("log-level")) ?? .info
    let logger = Logger(label: program.name) { _ in
      JSONLogHandler(service: program.name, level: level, sink: logs)
    }
    do {
      var running = try RunningService<Program>(values: values, logger: logger)
      try await running.run(stops: stops)
      return 0
    } catch let error as SettingError {
      // One that only the service itself could tell to be wrong.
      print("\(executable): \(error)\n", true)
      return 2
    } catch {
      logger.critical("\(executable) ends: \(error)")
      return 1
    }
  }

  /// Writes to standard output or standard error.
  package static let print: @Sendable (String, Bool) -> Void = { text, isError in
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes {
        write(isError ? STDERR_FILENO : STDOUT_FILENO, $0.baseAddress, $0.count)
      }
      if count < 0, errno != EINTR { return }
      rest = rest.dropFirst(max(count, 0))
    }
  }
}
