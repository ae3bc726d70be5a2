import ArgumentParser
import Glibc

/// How a command prints its result.
enum OutputFormat: String, ExpressibleByArgument, CaseIterable, Sendable {
  case text
  case json
}

/// Options that every command has.
struct GlobalOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "The scheduler, HOST:PORT or unix:PATH.",
      discussion: "Else $MILLRACE_SCHEDULER, else the running `millrace up`, else 127.0.0.1:7101.",
      valueName: "address"))
  var scheduler: String?

  @Option(
    help: ArgumentHelp(
      "The content-cache; else $MILLRACE_CACHE, ...", valueName: "address"))
  var cache: String?

  @Option(
    help: ArgumentHelp(
      "The executor-allocator; else $MILLRACE_ALLOCATOR, ...", valueName: "address"))
  var allocator: String?

  @Option(
    help: ArgumentHelp(
      "Data directory of the local stack; else $MILLRACE_HOME, else ~/.local/share/millrace.",
      valueName: "dir"))
  var data: String?

  @Option(help: "text or json.")
  var output: OutputFormat = .text

  @Flag(name: .long, help: "No colours; as with NO_COLOR set.")
  var noColor = false

  /// Where `millrace up` keeps what it has.
  var dataDirectory: String {
    if let data = self.data ?? Files.environment("MILLRACE_HOME") { return Files.absolute(data) }
    let base =
      Files.environment("XDG_DATA_HOME")
      ?? (Files.environment("HOME") ?? "/tmp") + "/.local/share"
    return base + "/millrace"
  }

  /// Whether the data directory was named, rather than being the usual one.
  var namesData: Bool { self.data != nil || Files.environment("MILLRACE_HOME") != nil }

  var terminal: Terminal { Terminal.current(noColor: self.noColor) }
  var style: Style { Style(hasColor: self.terminal.hasColor) }
}
