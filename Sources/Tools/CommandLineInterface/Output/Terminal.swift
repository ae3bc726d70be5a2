import Glibc
import Synchronization

/// Standard output and standard error, and what they can show.
package struct Terminal: Sendable {
  /// Whether standard output is a terminal that understands cursor movements.
  package let isLive: Bool
  /// Whether colours may be used.
  package let hasColor: Bool

  package init(isLive: Bool, hasColor: Bool) {
    self.isLive = isLive
    self.hasColor = hasColor
  }

  /// This process' terminal. See https://no-color.org for `NO_COLOR`.
  package static func current(noColor: Bool) -> Terminal {
    let isTerminal = isatty(STDOUT_FILENO) == 1 && Files.environment("TERM") != "dumb"
    return Terminal(
      isLive: isTerminal,
      hasColor: isTerminal && !noColor && Files.environment("NO_COLOR") == nil)
  }

  /// Its size now; 80 by 24 where it does not say.
  package static var size: (columns: Int, rows: Int) {
    var size = winsize()
    guard ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0, size.ws_row > 0
    else { return (80, 24) }
    return (Int(size.ws_col), Int(size.ws_row))
  }

  /// Writes to standard output. A reader that has gone ends the program, as it does for `cat`.
  package static func write(_ bytes: some Collection<UInt8>) {
    self.write(bytes, to: STDOUT_FILENO)
  }

  package static func print(_ line: String) {
    self.write(Array((line + "\n").utf8))
  }

  /// Writes a line to standard error.
  package static func complain(_ line: String) {
    self.write(Array((line + "\n").utf8), to: STDERR_FILENO)
  }

  private static func write(_ bytes: some Collection<UInt8>, to descriptor: CInt) {
    Array(bytes).withUnsafeBytes { buffer in
      var done = 0
      while done < buffer.count {
        let count = Glibc.write(descriptor, buffer.baseAddress! + done, buffer.count - done)
        if count < 0 {
          if errno == EINTR { continue }
          // Behind `| head` this is how a program ends that did not die of SIGPIPE.
          if errno == EPIPE { exit(141) }
          // Nobody is left to tell that standard error cannot be written to.
          guard descriptor == STDOUT_FILENO else { return }
          self.complain(
            "millrace: cannot write to standard output: \(String(cString: strerror(errno)))")
          exit(ExitCode.infrastructure.rawValue)
        }
        done += count
      }
    }
  }
}

/// Colours and glyphs.
package struct Style: Hashable, Sendable {
  package var hasColor: Bool

  package init(hasColor: Bool) {
    self.hasColor = hasColor
  }

  package func green(_ text: String) -> String { self.wrap(text, "32") }
  package func red(_ text: String) -> String { self.wrap(text, "31") }
  package func yellow(_ text: String) -> String { self.wrap(text, "33") }
  package func cyan(_ text: String) -> String { self.wrap(text, "36") }
  package func dim(_ text: String) -> String { self.wrap(text, "2") }
  package func bold(_ text: String) -> String { self.wrap(text, "1") }

  private func wrap(_ text: String, _ code: String) -> String {
    self.hasColor ? "\u{1b}[\(code)m\(text)\u{1b}[0m" : text
  }
}
