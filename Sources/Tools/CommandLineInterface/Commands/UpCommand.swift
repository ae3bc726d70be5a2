import ArgumentParser
import Glibc

/// Runs a whole stack on this machine.
struct UpCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "up", abstract: "Runs a whole stack on this machine, until Ctrl-C.",
    discussion: """
      Every service is a process of its own, with its log in DIR/logs. State is kept in DIR and \
      survives a restart; Redis holds only what can be rebuilt. A service that ends is started \
      again. Ctrl-C drains: runners first, then the services that they use; a second one ends \
      all of them at once.
      """)

  @Option(help: "How many plugin-runners; they share the machine.")
  var runners = 1

  @Option(
    help: ArgumentHelp(
      "The scheduler's port; the other services follow, metrics and health are 100 above.",
      valueName: "port"))
  var basePort = StackPlan.defaultBasePort

  @Option(
    help: ArgumentHelp("How long running jobs may take to end after Ctrl-C.", valueName: "seconds"))
  var drainGrace = 10

  @Option(
    help: ArgumentHelp(
      "Directory of the service programs; else the one of millrace itself.", valueName: "dir"))
  var programs: String?

  @OptionGroup var global: GlobalOptions

  /// A line of `--output json`.
  private struct Report: Encodable {
    var event: String
    var stack: StackFile?
    var name: String?
    var pid: Int32?
    var end: String?
  }

  func validate() throws {
    guard (1...StackPlan.maximumRunners).contains(self.runners) else {
      throw ValidationError("--runners \(self.runners): expected 1 to \(StackPlan.maximumRunners)")
    }
    guard (1...65_000).contains(self.basePort) else {
      throw ValidationError("--base-port \(self.basePort): expected 1 to 65000")
    }
    guard (0...86_400).contains(self.drainGrace) else {
      throw ValidationError("--drain-grace \(self.drainGrace): expected 0 to 86400 seconds")
    }
  }

  func run() async throws {
    let data = try self.prepareDirectory()
    let lock = try self.lock(data)
    defer { withExtendedLifetime(lock) {} }
    let socketDirectory = StackPlan.socketDirectory(data: data, user: geteuid())
    try self.makePrivate(socketDirectory)
    let socket = socketDirectory + "/redis.sock"
    defer {
      unlink(socket)
      rmdir(socketDirectory)
    }
    let plan = StackPlan(
      data: data, programs: self.programs ?? Files.executableDirectory, socket: socket,
      basePort: self.basePort, runners: self.runners, machine: .current,
      drainGraceSeconds: self.drainGrace)
    try self.check(plan)
    let (output, style) = (self.global.output, self.global.style)
    let supervisor = Supervisor(
      data: data, plan: plan, drainGrace: .seconds(self.drainGrace)
    ) { Self.tell($0, output, style) }
    do {
      try await self.start(supervisor)
    } catch {
      await supervisor.kill()
      throw error
    }
    let stack = await supervisor.stackFile
    try stack.write()
    self.printReady(stack)
    let supervision = Task { await supervisor.supervise() }
    _ = await Interrupts.shared.reached(1)
    self.say("stopping", "stopping: running jobs have \(self.drainGrace) s")
    let stopping = Task { await supervisor.stop() }
    let impatience = Task {
      if await Interrupts.shared.reached(2) { await supervisor.kill() }
    }
    await stopping.value
    impatience.cancel()
    supervision.cancel()
    unlink(StackFile.path(in: data))
    self.say("stopped", "stopped; `millrace up` goes on where this ended")
  }

  /// Starts everything; Ctrl-C while it starts ends the command, too.
  private func start(_ supervisor: Supervisor) async throws {
    try await withThrowingTaskGroup(of: Bool.self) { group in
      group.addTask {
        try await supervisor.start()
        return true
      }
      group.addTask { await !Interrupts.shared.reached(1) }
      defer { group.cancelAll() }
      if try await group.next() == false {
        throw CommandFailure(.cancelled, "stopped before the stack was ready")
      }
    }
  }

  private func prepareDirectory() throws -> String {
    let data = self.global.dataDirectory
    do {
      try Files.makeDirectories(data, mode: 0o700)
    } catch {
      throw CommandFailure(.usage, error.description)
    }
    return Files.real(data) ?? data
  }

  /// The lock is the kernel's: it is free as soon as this process is gone, however it ended.
  private func lock(_ data: String) throws -> OpenFile {
    let path = "\(data)/up.lock"
    let file = try OpenFile(path, O_RDWR | O_CREAT, mode: 0o600)
    guard try file.lock() else {
      let holder = String(decoding: (try? file.read(32)) ?? [], as: UTF8.self)
      throw CommandFailure(
        .infrastructure,
        "another `millrace up` (process \(holder.isEmpty ? "?" : holder)) uses \(data); "
          + "choose another directory with --data")
    }
    ftruncate(file.descriptor, 0)
    try file.write("\(getpid())".utf8)
    return file
  }

  /// Makes a directory for this user alone, where others can make directories, too.
  private func makePrivate(_ directory: String) throws {
    if mkdir(directory, 0o700) != 0, errno != EEXIST {
      throw SystemError("make directory \(directory)")
    }
    guard let status = Files.status(directory), status.st_mode & S_IFMT == S_IFDIR,
      status.st_uid == geteuid(), status.st_mode & 0o077 == 0
    else {
      throw CommandFailure(
        .infrastructure, "\(directory) is not a directory of this user alone; remove it")
    }
  }

  /// Programs that are missing and ports that are taken, all of them at once.
  private func check(_ plan: StackPlan) throws {
    let missing = Set(plan.processes.map(\.program)).filter {
      $0.contains("/") && !Files.isExecutable($0)
    }.sorted()
    guard missing.isEmpty else {
      throw CommandFailure(
        .usage,
        lines: missing.map { "there is no \($0)" }
          + ["the service programs must stand beside millrace, or in --programs DIR"])
    }
    let taken = plan.processes.filter { !$0.admin.isEmpty }.flatMap { process in
      [process.address, process.admin].filter { !Probe.isFree($0) }
        .map { "\($0) (\(process.name))" }
    }
    guard taken.isEmpty else {
      throw CommandFailure(
        .infrastructure,
        "taken by other programs: \(taken.joined(separator: ", ")); choose other ports with "
          + "--base-port")
    }
  }

  private func printReady(_ stack: StackFile) {
    guard self.global.output == .text else {
      return Terminal.print(JSONText.line(Report(event: "ready", stack: stack)))
    }
    let style = self.global.style
    Terminal.print(style.bold("millrace is up") + style.dim("  data in \(stack.data)"))
    let rows = stack.processes.map { process in
      [process.name, process.address, process.admin, "\(process.pid)"]
    }
    for line in Table.lines(header: ["PROCESS", "ADDRESS", "METRICS, HEALTH", "PID"], rows: rows) {
      Terminal.print("  " + line)
    }
    Terminal.print("logs in \(stack.data)/logs")
    let option = self.global.namesData ? " --data \(stack.data)" : ""
    Terminal.print(
      "next, in another terminal: cd to a directory with a millrace.yaml and type "
        + style.bold("millrace run\(option)"))
  }

  private func say(_ event: String, _ text: String) {
    switch self.global.output {
    case .text: Terminal.print(text)
    case .json: Terminal.print(JSONText.line(Report(event: event)))
    }
  }

  private static func tell(_ event: StackEvent, _ output: OutputFormat, _ style: Style) {
    switch (event, output) {
    case (.ended(let name, let end, let delay, let lines), .text):
      Terminal.print(
        style.yellow("\(name) ended with \(end); starting it again in \(Words.duration(delay))"))
      for line in lines { Terminal.print(style.dim(line)) }
    case (.ended(let name, let end, _, _), .json):
      Terminal.print(
        JSONText.line(Report(event: "ended", name: name, end: end.description)))
    case (.restarted(let name, let pid), .text):
      Terminal.print(style.green("\(name) is back, process \(pid)"))
    case (.restarted(let name, let pid), .json):
      Terminal.print(JSONText.line(Report(event: "restarted", name: name, pid: pid)))
    }
  }
}
