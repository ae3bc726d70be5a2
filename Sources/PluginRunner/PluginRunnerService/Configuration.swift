import Domain
import Glibc
import RPC
import ServiceRuntime

/// The runner's settings, read and checked once.
struct Configuration: Sendable {
  static let settings: [Setting] = [
    Setting(
      "allocator", default: "127.0.0.1:7102", kind: .address,
      help: "executor-allocator, HOST:PORT or unix:PATH"),
    Setting(
      "cache", default: "127.0.0.1:7105", kind: .address,
      help: "content-cache, HOST:PORT or unix:PATH"),
    Setting(
      "executor-id", default: "",
      help: "this executor's unique name; empty is the host's with a mark of the data directory"),
    Setting(
      "advertise", default: "",
      help: "address under which others reach this runner; empty is the one it listens on, if that "
        + "is one"),
    Setting("pool", default: "default", help: "pool of executors that this one is in"),
    Setting(
      "labels", default: "",
      help: "labels besides the operating system and the architecture, separated by commas"),
    Setting("cpu", default: "", help: "CPUs to offer, 1.5 for example; empty is all"),
    Setting(
      "memory", default: "0", kind: .byteCount,
      help: "memory to offer, 4GiB for example; 0 is 90 percent of the machine's"),
    Setting("slots", default: "0", kind: .integer, help: "jobs at a time; 0 is one for each CPU"),
    Setting(
      "sandbox", default: "bubblewrap", kind: .choice(["bubblewrap", "none"]),
      help: "what steps run in; without a working bwrap it is none, and the log says so"),
    Setting(
      "hidden", default: "",
      help: "folder that steps and checkout must not see, besides the data directory; empty is none"
    ),
    Setting(
      "checkout-roots", default: "",
      help:
        "folders of this machine that checkout may take source from, separated by commas; empty "
        + "is none"),
    Setting("plugins", default: "", help: "folder of further plugin programs; empty is none"),
    Setting(
      "programs", default: "",
      help: "folder of millrace-step-supervisor and millrace-core-plugin; empty is the runner's"),
    Setting(
      "stop-grace", default: "5s", kind: .duration,
      help: "from SIGTERM to SIGKILL when a step is stopped"),
  ]

  var allocator: String
  var cache: String
  var executorID: String
  var advertise: String
  var pool: String
  var labels: [String]
  var capacity: Resources
  var sandbox: String
  /// Absolute, without links; the data directory is the last of them.
  var hidden: [String]
  var checkoutRoots: [String]
  var pluginsFolder: String
  var supervisor: String
  var corePlugin: String
  var stopGrace: Duration
  var drainGrace: Duration
  /// Absolute, without links: it names cgroups and marks processes.
  var dataDirectory: String

  var workspaces: String { self.dataDirectory + "/workspaces" }

  init(_ environment: ServiceEnvironment) throws {
    let settings = environment.settings
    self.allocator = settings.string("allocator")
    self.cache = settings.string("cache")
    self.advertise = try Self.advertise(settings, listen: environment.listen)
    self.pool = settings.string("pool")
    self.sandbox = settings.string("sandbox")
    self.pluginsFolder = settings.string("plugins")
    self.stopGrace = try settings.duration("stop-grace")
    self.drainGrace = try settings.duration("drain-grace")
    self.dataDirectory = Self.absolute(environment.dataDirectory)
    let hidden = settings.string("hidden")
    self.hidden =
      try Self.folders(hidden.isEmpty ? [] : [hidden], of: "hidden", settings)
      + [self.dataDirectory]
    self.checkoutRoots = try Self.folders(
      settings.strings("checkout-roots"), of: "checkout-roots", settings)
    let id = settings.string("executor-id")
    self.executorID =
      id.isEmpty ? "\(hostName())-\(fingerprint(self.dataDirectory).prefix(6))" : id
    let systems = ["linux", Self.architecture]
    self.labels = systems + settings.strings("labels").filter { !systems.contains($0) }
    for label in self.labels where !ExecutorLabel.isLabel(label) {
      throw settings.wrong(
        "labels",
        "\"\(label)\" has something other than letters, digits and -_.=/:, or more than "
          + "\(ExecutorLabel.maximumBytes) bytes: no job can ask for it")
    }

    let processors = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
    let cpu = settings.string("cpu")
    let offered = cpu.isEmpty ? Double(processors) : Double(cpu) ?? 0
    guard offered > 0, offered <= 10_000 else {
      throw settings.wrong("cpu", "give a number of CPUs above 0, 1.5 for example")
    }
    let memory = try settings.byteCount("memory")
    let machine = Int64(sysconf(Int32(_SC_PHYS_PAGES))) * Int64(sysconf(Int32(_SC_PAGESIZE)))
    // Each running step has two threads of the runner.
    let slots = try settings.int("slots", in: 0...1_024)
    self.capacity = Resources(
      cpuMillis: Int64((offered * 1_000).rounded()),
      memory: ByteCount(memory == 0 ? machine / 10 * 9 : memory),
      slots: Int32(slots == 0 ? processors : slots))

    let programs = settings.string("programs")
    let beside = programs.isEmpty ? Self.ownFolder : Self.absolute(programs)
    self.supervisor = beside + "/millrace-step-supervisor"
    self.corePlugin = beside + "/millrace-core-plugin"
    guard access(self.supervisor, X_OK) == 0 else {
      throw settings.wrong(
        "programs",
        "there is no \(self.supervisor): it belongs beside the runner, or where this setting says")
    }
  }

  /// What the allocator is to tell others, or nothing for the bound address. "Every address" says
  /// nothing about where this machine is: jobs would be sent to whatever runs beside the scheduler.
  private static func advertise(
    _ settings: SettingValues, listen: ListenAddress
  ) throws -> String {
    let text = settings.string("advertise")
    let address: ListenAddress
    do {
      address = text.isEmpty ? listen : try ListenAddress(text)
    } catch {
      throw settings.wrong("advertise", "it is no address: \(error.reason)")
    }
    if case .tcp(let host, _) = address, ["0.0.0.0", "::", "0"].contains(host) {
      throw settings.wrong(
        "advertise",
        text.isEmpty
          ? "the runner listens on every address of this machine (\(listen)), so it must be told "
            + "under which one others reach it: give HOST:PORT"
          : "\(host) is every address of a machine: give the one under which others reach this")
    }
    return text
  }

  private static func folders(
    _ paths: [String], of name: String, _ settings: SettingValues
  ) throws -> [String] {
    try paths.map { path in
      guard path.hasPrefix("/") else { throw settings.wrong(name, "\(path) is no absolute path") }
      return Self.absolute(path)
    }
  }

  private static var ownFolder: String {
    let path = Self.absolute("/proc/self/exe")
    return path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
  }

  private static func absolute(_ path: String) -> String {
    guard let real = realpath(path, nil) else { return path }
    defer { free(real) }
    return String(cString: real)
  }

  private static var architecture: String {
    #if arch(x86_64)
      "x86_64"
    #elseif arch(arm64)
      "arm64"
    #else
      "unknown"
    #endif
  }
}
