import Glibc

/// A program that must not outlive the process that started it, and cannot see to that itself.
///
/// `millrace` starts itself with these arguments, asks the kernel to end it with its parent, and
/// becomes the program. The request holds over `exec`.
package enum Watched {
  /// The first argument; not a name that anybody types.
  package static let argument = "--become-watched-child"

  /// PR_SET_PDEATHSIG of <linux/prctl.h>.
  private static let setParentDeathSignal: CInt = 1

  /// What to start instead of `command`.
  package static func wrap(_ command: ChildProcess.Command) -> ChildProcess.Command {
    var wrapped = command
    wrapped.program = "/proc/self/exe"
    if let program = Files.real("/proc/self/exe") { wrapped.program = program }
    wrapped.arguments = [self.argument, "\(getpid())", command.program] + command.arguments
    return wrapped
  }

  /// Becomes the program if the process was started for that; else returns.
  package static func becomeIfAsked(_ arguments: [String]) {
    guard arguments.count >= 4, arguments[1] == self.argument, let parent = pid_t(arguments[2])
    else { return }
    // `prctl` is variadic in C's headers, which Swift does not import. Its arguments are words, and
    // go into the same registers as those of an ordinary function on every ABI of Linux.
    typealias Prctl = @convention(c) (CInt, UInt, UInt, UInt, UInt) -> CInt
    if let symbol = dlsym(nil, "prctl") {
      let prctl = unsafeBitCast(symbol, to: Prctl.self)
      _ = prctl(self.setParentDeathSignal, UInt(SIGTERM), 0, 0, 0)
    }
    // The threads that run tasks have all signals blocked, which the program would inherit.
    var none = sigset_t()
    sigemptyset(&none)
    pthread_sigmask(SIG_SETMASK, &none, nil)
    // The parent may have ended before the request.
    guard getppid() == parent else { exit(1) }
    _ = withCStrings(Array(arguments[3...])) { execvp(arguments[3], $0) }
    let text = "cannot start \(arguments[3]): \(SystemError.text(errno))\n"
    _ = text.withCString { write(STDERR_FILENO, $0, strlen($0)) }
    exit(127)
  }
}
