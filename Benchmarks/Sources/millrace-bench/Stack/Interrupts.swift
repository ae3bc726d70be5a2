import ArgumentParser
import Dispatch
import Glibc

/// Ctrl-C and SIGTERM.
enum Interrupts {
  /// What a shell calls a program that Ctrl-C ended.
  private static let exitCode = ExitCode(130)

  /// Runs `body`, which is cancelled by Ctrl-C and then has all the time that it needs to clean up.
  static func cancelling<Value: Sendable>(
    _ body: @escaping @Sendable () async throws -> Value
  ) async throws -> Value {
    let (signals, continuation) = AsyncStream.makeStream(of: Void.self)
    let sources = [SIGINT, SIGTERM].map { number in
      let source = DispatchSource.makeSignalSource(signal: number)
      source.setEventHandler { continuation.yield() }
      source.activate()
      return source
    }
    defer { for source in sources { source.cancel() } }
    let work = Task { try await body() }
    let interruption = Task {
      for await _ in signals {
        Progress.say("stopping")
        work.cancel()
      }
    }
    let result = await work.result
    interruption.cancel()
    if work.isCancelled { throw self.exitCode }
    return try result.get()
  }
}
