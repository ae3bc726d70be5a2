import ArgumentParser
import Glibc

/// Measures Millrace.
@main
struct MillraceBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "millrace-bench",
    abstract: "Measures a farm, or a part of one, of real processes.",
    subcommands: [BuildsCommand.self, LeasesCommand.self, QueueCommand.self])
}

/// Why a measurement came to nothing, as a sentence.
struct BenchmarkFailure: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) {
    self.description = description
  }
}

/// Standard error: what goes on, beside the result on standard output.
enum Progress {
  static func say(_ line: String) {
    let line = line + "\n"
    _ = line.withCString { write(STDERR_FILENO, $0, strlen($0)) }
  }
}
