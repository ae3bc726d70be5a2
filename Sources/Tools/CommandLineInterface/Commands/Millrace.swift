import ArgumentParser
import Glibc

/// The command line's root.
struct Millrace: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "millrace",
    abstract: "Builds, on one machine or on a farm.",
    discussion: """
      Begin with `millrace up` in one terminal, and `millrace run` in any directory with a \
      millrace.yaml in another.

      Exit codes: 0 the build succeeded, 1 it failed, 2 wrong usage or pipeline, 3 cancelled, \
      4 a service cannot be reached or failed.
      """,
    version: "0.1.0",
    subcommands: [
      UpCommand.self, RunCommand.self, SubmitCommand.self, WatchCommand.self, LogsCommand.self,
      BuildsCommand.self, ExplainCommand.self, CancelCommand.self, RetryCommand.self,
      ArtifactsCommand.self,
      ExecutorsCommand.self, CompletionCommand.self,
    ])
}

/// The program.
package enum CommandLineInterface {
  /// Runs the command that the arguments tell, and ends the process.
  package static func main(
    _ arguments: [String] = Array(CommandLine.arguments.dropFirst())
  ) async -> Never {
    Watched.becomeIfAsked(CommandLine.arguments)
    signal(SIGPIPE, SIG_IGN)
    do {
      var command = try Millrace.parseAsRoot(arguments)
      if var command = command as? any AsyncParsableCommand {
        try await command.run()
      } else {
        try command.run()
      }
      exit(ExitCode.success.rawValue)
    } catch let failure as CommandFailure {
      self.end(failure, arguments)
    } catch let error as SystemError {
      self.end(CommandFailure(.infrastructure, error.description), arguments)
    } catch {
      self.end(usage: error, arguments)
    }
  }

  private static func end(_ failure: CommandFailure, _ arguments: [String]) -> Never {
    if self.wantsJSON(arguments), !failure.lines.isEmpty {
      Terminal.complain(JSONText.line(FailureReport(failure)))
    } else {
      for (index, line) in failure.lines.enumerated() {
        // Lines that name a place in a file stand as editors look for them.
        let isPlain = index > 0 || failure.lines.count > 1
        Terminal.complain(isPlain ? line : "millrace: \(line)")
      }
    }
    exit(failure.code.rawValue)
  }

  /// Whether the command was asked for JSON, as far as its arguments tell without its help.
  private static func wantsJSON(_ arguments: [String]) -> Bool {
    arguments.contains("--output=json")
      || zip(arguments, arguments.dropFirst()).contains { $0 == "--output" && $1 == "json" }
  }

  /// Help and version are no failures; all else is wrong usage.
  private static func end(usage error: any Error, _ arguments: [String]) -> Never {
    let text = Millrace.fullMessage(for: error)
    guard Millrace.exitCode(for: error) != ArgumentParser.ExitCode.success else {
      Terminal.print(text)
      exit(ExitCode.success.rawValue)
    }
    if self.wantsJSON(arguments) {
      // Without the lines on how the command is used, which are for people.
      self.end(CommandFailure(.usage, Millrace.message(for: error)), arguments)
    }
    Terminal.complain(text)
    exit(ExitCode.usage.rawValue)
  }
}

/// Prints a shell's completion script.
struct CompletionCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "completion", abstract: "Prints the completion script of a shell.",
    discussion: "For example: millrace completion bash > ~/.local/share/bash-completion/"
      + "completions/millrace")

  enum Shell: String, ExpressibleByArgument, CaseIterable {
    case bash, zsh, fish
  }

  @Argument(help: "bash, zsh or fish.")
  var shell: Shell

  func run() {
    let shell: CompletionShell =
      switch self.shell {
      case .bash: .bash
      case .zsh: .zsh
      case .fish: .fish
      }
    Terminal.print(Millrace.completionScript(for: shell))
  }
}
