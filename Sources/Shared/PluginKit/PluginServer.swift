import BuildProtos
import Glibc
import RPC
import Synchronization

/// The plugin's side of the contract: reads calls, runs them, writes what happens.
enum PluginServer {
  /// The contract that this module speaks.
  static let contractVersion: Int32 = 1

  /// Serves until standard input ends. Standard output is the contract's alone: what the plugin
  /// prints goes to standard error, and so to the step's log.
  static func serve<Plugin: BuildPlugin>(_ plugin: Plugin.Type) async {
    let output = dup(STDOUT_FILENO)
    guard output >= 0, fcntl(output, F_SETFD, FD_CLOEXEC) == 0 else {
      Self.complain("\(Plugin.name): standard output: \(String(cString: strerror(errno)))")
      exit(1)
    }
    dup2(STDERR_FILENO, STDOUT_FILENO)
    signal(SIGPIPE, SIG_IGN)
    await self.serve(plugin, input: STDIN_FILENO, output: output)
  }

  static func serve<Plugin: BuildPlugin>(
    _ plugin: Plugin.Type, input: Int32, output: Int32
  ) async {
    let writer = FrameWriter(descriptor: output)
    let calls = RunningCalls()
    await withCheckedContinuation { continuation in
      // On a thread of its own, because reading a pipe blocks.
      Threads.start("plugin-input") {
        var reader = MessageFrames.Reader(input)
        do {
          while let message = try reader.next(PluginV1.HostMessage.self) {
            self.received(message, for: plugin, writer, calls)
          }
        } catch {
          Self.complain("standard input: \(error)")
        }
        continuation.resume()
      }
    }
    for task in calls.tasks.withLock({ $0.values.map { $0 } }) { task.cancel() }
  }

  private static func received<Plugin: BuildPlugin>(
    _ message: PluginV1.HostMessage, for plugin: Plugin.Type, _ writer: FrameWriter,
    _ calls: RunningCalls
  ) {
    let id = message.callID
    switch message.call {
    case .describe:
      writer.send(PluginV1.PluginMessage(callID: id, answer: .describe(Self.describe(plugin))))
    case .executeBuildStep(let context):
      // Unstructured, because a call outlives this turn; `calls` holds and ends it, and the runner
      // makes one call at a time.
      calls.tasks.withLock { running in
        running[id] = Task {
          let finished = await Self.execute(plugin, BuildContext(context), id: id, writer)
          calls.tasks.withLock { $0[id] = nil }
          writer.send(
            PluginV1.PluginMessage(
              callID: id, answer: .stepEvent(PluginV1.StepEvent(event: .finished(finished)))))
        }
      }
    case .cancel:
      calls.tasks.withLock { $0[id] }?.cancel()
    case nil:
      break
    }
  }

  /// A line for the runner's or the step's log.
  private static func complain(_ line: String) {
    let bytes = Array("\(line)\n".utf8)
    _ = write(STDERR_FILENO, bytes, bytes.count)
  }

  private static func describe<Plugin: BuildPlugin>(
    _ plugin: Plugin.Type
  ) -> PluginV1.DescribeResponse {
    PluginV1.DescribeResponse(
      name: plugin.name, version: plugin.version,
      kind: plugin.kind == .build ? .build : .notification, inputsSchema: plugin.inputsSchema,
      contractVersion: Self.contractVersion, wantsSourceArchive: plugin.wantsSourceArchive)
  }

  private static func execute<Plugin: BuildPlugin>(
    _ plugin: Plugin.Type, _ context: BuildContext, id: UInt64, _ writer: FrameWriter
  ) async -> PluginV1.StepFinished {
    let events = StepEvents { event in
      writer.send(PluginV1.PluginMessage(callID: id, answer: .stepEvent(event)))
    }
    do {
      try await plugin.init().executeBuildStep(context, events: events)
      return PluginV1.StepFinished(succeeded: true)
    } catch let failure as StepFailure {
      return PluginV1.StepFinished(message: failure.message, retryable: failure.retryable)
    } catch is CancellationError {
      return PluginV1.StepFinished(message: "cancelled")
    } catch {
      return PluginV1.StepFinished(message: "\(error)")
    }
  }
}

/// Writes one frame at a time, whoever sends it.
private final class FrameWriter: Sendable {
  private let descriptor: Int32
  private let isOpen = Mutex(true)

  init(descriptor: Int32) {
    self.descriptor = descriptor
  }

  /// Waits while the runner is slow to read; once the runner is gone, nothing is written any more.
  func send(_ message: PluginV1.PluginMessage) {
    let frame = MessageFrames.frame(message)
    self.isOpen.withLock { isOpen in
      guard isOpen else { return }
      do {
        try MessageFrames.write(frame, to: self.descriptor)
      } catch {
        isOpen = false
      }
    }
  }
}

/// The calls that run, by their id.
private final class RunningCalls: Sendable {
  let tasks = Mutex<[UInt64: Task<Void, Never>]>([:])
}
