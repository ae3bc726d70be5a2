import BuildProtos
import RPC

/// What the command's exit code says.
package enum ExitCode: Int32, Sendable {
  case success = 0
  /// The build did not succeed.
  case buildFailed = 1
  /// The command line, the directory or the pipeline is wrong.
  case usage = 2
  case cancelled = 3
  /// A service cannot be reached, or fails; the build may be fine.
  case infrastructure = 4
}

/// Why a command ends without having done what it was asked for.
package struct CommandFailure: Error, Hashable, Sendable {
  package var code: ExitCode
  /// Lines for people, without the program's name.
  package var lines: [String]

  package init(_ code: ExitCode, _ lines: String...) {
    self.code = code
    self.lines = lines
  }

  package init(_ code: ExitCode, lines: [String]) {
    self.code = code
    self.lines = lines
  }
}

/// A service that commands call.
package struct Peer: Hashable, Sendable {
  /// "scheduler".
  package var name: String
  package var address: String

  package init(name: String, address: String) {
    self.name = name
    self.address = address
  }

  /// What ended calls means to whoever ran the command.
  func failure(_ error: any Error) -> CommandFailure {
    self.failure(error as? RPCError ?? RPCError(.cancelled, "\(error)"))
  }

  /// What a failed call means to whoever ran the command.
  package func failure(_ error: RPCError) -> CommandFailure {
    switch error.code {
    case .unavailable:
      // The address is in the sentence.
      let reason =
        self.isNobody(error)
        ? String(error.message.dropFirst(self.connectFailure.count)) : error.message
      return CommandFailure(
        .infrastructure,
        "cannot reach the \(self.name) at \(self.address): \(reason); is `millrace up` running?")
    case .deadlineExceeded:
      return CommandFailure(
        .infrastructure, "the \(self.name) at \(self.address) did not answer in time")
    case .invalidArgument, .notFound, .failedPrecondition, .outOfRange, .alreadyExists:
      return CommandFailure(.usage, error.message)
    case .cancelled:
      return CommandFailure(.cancelled, error.message)
    case .resourceExhausted:
      return CommandFailure(
        .infrastructure, "the \(self.name) has no room: \(error.message)\(retryHint(error))")
    default:
      return CommandFailure(
        .infrastructure, "the \(self.name) at \(self.address) failed: \(error)")
    }
  }

  /// Whether nobody answers at the address; else the service itself has said that it is not available.
  func isNobody(_ error: RPCError) -> Bool {
    error.code == .unavailable && error.message.hasPrefix(self.connectFailure)
  }

  /// How the transport begins: "cannot connect to ADDRESS: reason".
  private var connectFailure: String { "cannot connect to \(self.address): " }

  private func retryHint(_ error: RPCError) -> String {
    error.retryDelay.map { "; try again in \(Words.duration($0))" } ?? ""
  }
}

/// A pipeline's mistakes, each as a line that editors understand, with the source below it.
package enum MistakeReport {
  /// The mistakes that a refused submit carries; nil if it was refused for something else.
  package static func mistakes(in error: RPCError) -> SchedulerV1.PipelineMistakes? {
    guard error.code == .invalidArgument, let bytes = error.statusDetails,
      let status = try? GoogleRPC.Status(decoding: bytes)
    else { return nil }
    let name = "/" + SchedulerV1.PipelineMistakes.messageName
    for detail in status.details where detail.typeURL.hasSuffix(name) {
      if let mistakes = try? SchedulerV1.PipelineMistakes(decoding: detail.value) {
        return mistakes
      }
    }
    return nil
  }

  /// - Parameter text: The pipeline that was refused.
  package static func lines(
    _ mistakes: SchedulerV1.PipelineMistakes, path: String, text: String
  ) -> [String] {
    // `\r\n` is one character to Swift, and a line's end as well.
    let source = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
    var lines: [String] = []
    for mistake in mistakes.mistakes {
      let suggestion = mistake.suggestion.isEmpty ? "" : "; \(mistake.suggestion)"
      lines.append(
        "\(path):\(mistake.line):\(mistake.column): \(Sanitizer.line(mistake.message))"
          + Sanitizer.line(suggestion))
      let index = Int(mistake.line) - 1
      guard source.indices.contains(index) else { continue }
      let line = Sanitizer.line(String(source[index].prefix(200)))
      lines.append("  \(line)")
      let column = max(0, min(Int(mistake.column) - 1, line.count))
      lines.append("  \(String(repeating: " ", count: column))^")
    }
    let count = mistakes.mistakes.count
    lines.append("\(count) \(count == 1 ? "mistake" : "mistakes") in \(path)")
    return lines
  }
}
