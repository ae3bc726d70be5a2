import BuildProtos
import Domain
import Glibc
import Logging
import PluginKit
import PluginRunnerCore
import Synchronization

/// The plugins this runner has, and their warm processes.
actor PluginHost {
  /// How to start a plugin.
  struct Program: Sendable, Hashable {
    var arguments: [String]
  }

  /// How a step of a plugin went, and what it wants kept.
  struct Result: Sendable {
    var ending: StepReport.Ending
    var outputs: [String: String] = [:]
    var artifacts: [PluginV1.ArtifactFile] = []
  }

  /// A plugin that does not describe itself in this time is none.
  static let describeDeadline = Duration.seconds(10)
  /// Bytes of outputs that one step may set.
  static let maximumOutputBytes = 64 << 10

  private let programs: [String: Program]
  private let supervisor: String
  private let environment: [String: String]
  /// Processes kept warm for each plugin: as many as can be needed at once.
  private let maximumIdle: Int
  private let logger: Logger
  private var idle: [String: [PluginProcess]] = [:]
  private var descriptions: [String: PluginV1.DescribeResponse] = [:]

  init(
    programs: [String: Program], supervisor: String, environment: [String: String],
    maximumIdle: Int, logger: Logger
  ) {
    self.programs = programs
    self.supervisor = supervisor
    self.environment = environment
    self.maximumIdle = maximumIdle
    self.logger = logger
  }

  /// The core plugins, and every executable of a folder under its own name.
  static func discover(corePlugin: String, folder: String) throws(SystemError) -> [String: Program]
  {
    var programs: [String: Program] = [:]
    if access(corePlugin, X_OK) == 0 {
      for name in ["checkout", "artifacts", "webhook"] {
        programs[name] = Program(arguments: [corePlugin, name])
      }
    }
    guard !folder.isEmpty else { return programs }
    for name in try listFolder(folder) {
      let path = "\(folder)/\(name)"
      if !isFolder(path), access(path, X_OK) == 0 { programs[name] = Program(arguments: [path]) }
    }
    return programs
  }

  /// Whether steps of this plugin need the build's source archive.
  func wantsSourceArchive(_ name: String) async -> Bool {
    if let known = self.descriptions[name] { return known.wantsSourceArchive }
    guard let process = try? await self.take(name) else { return false }
    self.putBack(process)
    return self.descriptions[name]?.wantsSourceArchive ?? false
  }

  /// Carries out one step.
  func execute(
    _ name: String, _ context: PluginV1.BuildContext, output: LogBuffer, control: StepControl,
    maximumArtifacts: Int
  ) async -> Result {
    let process: PluginProcess
    do {
      process = try await self.take(name)
    } catch {
      return Result(ending: .broken("the plugin \(name) does not start: \(error)"))
    }
    let kept = Kept()
    let answer = await process.call(
      .executeBuildStep(context),
      listener: PluginProcess.Listener(
        output: { output.append($0) },
        event: { event in
          kept.value.withLock { kept in
            switch event.event {
            case .artifact(let file):
              if kept.artifacts.count < maximumArtifacts {
                kept.artifacts.append(file)
              } else {
                kept.refusal = "it keeps more than the \(maximumArtifacts) files allowed"
              }
            case .output(let output):
              kept.outputBytes += output.name.utf8.count + output.value.utf8.count
              if kept.outputBytes <= Self.maximumOutputBytes {
                kept.outputs[output.name] = output.value
              } else {
                kept.refusal = "it sets more than \(Self.maximumOutputBytes) bytes of outputs"
              }
            case .log, .finished, nil: break
            }
          }
        }),
      // Not before: a cancellation that overtakes its call would mean nothing to the plugin.
      begun: {
        control.attach(
          terminate: { process.cancel(reason: "the step was stopped") }, kill: { process.kill() })
      })
    control.detach()
    let (outputs, artifacts, refusal) = kept.value.withLock {
      ($0.outputs, $0.artifacts, $0.refusal)
    }
    switch answer {
    case .finished(let finished):
      self.putBack(process)
      if let refusal { return Result(ending: .broken(refusal)) }
      // Only a job that tells of a build is tried again by its message alone.
      let isFinal = !finished.succeeded && !finished.retryable && !context.build.isEmpty
      return Result(
        ending: isFinal
          ? .givenUp(finished.message)
          : .answered(succeeded: finished.succeeded, message: finished.message),
        outputs: outputs, artifacts: artifacts)
    case .broken(let why):
      process.retire()
      return Result(ending: .broken("the plugin \(name) broke: \(why)"))
    case .described:
      process.retire()
      return Result(ending: .broken("the plugin \(name) broke: it described itself instead"))
    }
  }

  /// Ends every process that waits for a call, and returns when they are gone.
  func shutDown() async {
    let processes = Array(self.idle.values.joined())
    self.idle = [:]
    for process in processes { process.retire() }
    for process in processes { await process.ended() }
  }

  // MARK: Processes

  private func take(_ name: String) async throws -> PluginProcess {
    while let process = self.idle[name]?.popLast() {
      if process.isUsable { return process }
      process.retire()
    }
    guard let program = self.programs[name] else { throw PluginError("there is none of this name") }
    let launch = SupervisedProcess.Launch(
      supervisor: self.supervisor, arguments: program.arguments, environment: self.environment)
    let process = try await blocking { () throws(SystemError) -> PluginProcess in
      try PluginProcess.start(name: name, launch)
    }
    if self.descriptions[name] == nil {
      self.descriptions[name] = try await self.describe(process)
    }
    return process
  }

  private func describe(_ process: PluginProcess) async throws -> PluginV1.DescribeResponse {
    let said = Kept()
    let answer = await withTaskGroup(of: Void.self) { group in
      group.addTask {
        // Past its time the process is killed, and so the call ends.
        if (try? await Task.sleep(for: Self.describeDeadline)) != nil { process.kill() }
      }
      let answer = await process.call(
        .describe(PluginV1.DescribeRequest(contractVersion: 1)),
        listener: PluginProcess.Listener(
          output: { bytes in
            said.value.withLock { $0.text = String(decoding: bytes.prefix(400), as: UTF8.self) }
          }, event: { _ in }))
      group.cancelAll()
      return answer
    }
    switch answer {
    case .described(let description):
      return description
    case .broken(let why):
      process.retire()
      let text = said.value.withLock { $0.text }
      throw PluginError(text.isEmpty ? why : "\(why); it said: \(text)")
    case .finished:
      process.retire()
      throw PluginError("it ended a step that it was not asked for")
    }
  }

  private func putBack(_ process: PluginProcess) {
    guard process.isUsable, self.idle[process.name, default: []].count < self.maximumIdle else {
      process.retire()
      return
    }
    self.idle[process.name, default: []].append(process)
  }
}

/// Why a plugin cannot be used.
struct PluginError: Error, CustomStringConvertible {
  var description: String

  init(_ description: String) {
    self.description = description
  }
}

/// What a call leaves, gathered on the process' threads.
private final class Kept: Sendable {
  struct Value {
    var outputs: [String: String] = [:]
    var outputBytes = 0
    var artifacts: [PluginV1.ArtifactFile] = []
    var refusal: String?
    var text = ""
  }

  let value = Mutex(Value())
}
