import Domain
import Glibc
import PluginKit
import PluginRunnerCore

/// Runs `run:` steps: a script, in a shell, in the sandbox, under the supervisor.
struct ScriptStep: Sendable {
  /// Bytes of `name=value` lines that a step may leave for later ones.
  static let maximumOutputBytes = 64 << 10

  let supervisor: String
  let sandbox: Sandbox
  let cgroups: Cgroups
  let dataDirectory: String
  let hidden: [String]

  /// Runs the step to its end; no process of it is left then.
  func run(
    _ call: StepCall, script: String, spec: JobSpec, workspace: Workspace,
    environment: [String: String], buffer: LogBuffer, control: StepControl
  ) async -> StepReport {
    let group = UniqueName.next(prefix: fingerprint(spec.attempt.rawValue))
    do {
      let started = try await blocking { () throws(SystemError) -> Started in
        try self.start(
          call, script: script, spec: spec, workspace: workspace, environment: environment,
          group: group, buffer: buffer)
      }
      control.attach(
        terminate: { started.process.terminate() },
        kill: {
          started.process.kill()
          started.cgroup.kill()
        })
      let end = await started.process.ended()
      control.detach()
      await started.outputEnded.value()
      return try await blocking { () throws(SystemError) -> StepReport in
        self.report(end, started, workspace: workspace, buffer: buffer)
      }
    } catch {
      return StepReport(ending: .broken("\(error)"), logEnd: buffer.size)
    }
  }

  private struct Started: Sendable {
    var process: SupervisedProcess
    var cgroup: StepCgroup
    var outputEnded: Promise<Void>
    var outputs: String
  }

  private func start(
    _ call: StepCall, script: String, spec: JobSpec, workspace: Workspace,
    environment: [String: String], group: String, buffer: LogBuffer
  ) throws(SystemError) -> Started {
    let file = "\(workspace.scratch)/step-\(call.index + 1).sh"
    let outputs = "\(workspace.scratch)/outputs-\(call.index + 1)"
    try createFile(file, Array(script.utf8), mode: 0o755)
    try createFile(outputs, [], mode: 0o644)
    var directory = workspace.work
    if !call.workingDirectory.isEmpty { directory += "/" + call.workingDirectory }
    var environment = environment
    environment["MILLRACE_OUTPUT"] = outputs
    if self.sandbox == .none { environment["TMPDIR"] = workspace.temporary }

    let cgroup = self.cgroups.make(group, memory: spec.resources.memory)
    let (read, write) = try Descriptor.pipe(bytes: 256 << 10)
    let nothing = try Descriptor.open("/dev/null", O_RDONLY)
    let process: SupervisedProcess
    do {
      process = try SupervisedProcess.launch(
        SupervisedProcess.Launch(
          supervisor: self.supervisor,
          sandbox: self.sandbox.command(
            workspace: workspace, files: [outputs], dataDirectory: self.dataDirectory,
            hidden: self.hidden, supervisor: self.supervisor),
          arguments: Self.shell(call.shell, script: file), environment: environment,
          directory: directory, cgroups: cgroup.folders.map(\.procs)),
        input: nothing.raw, output: write.raw, error: write.raw)
    } catch {
      cgroup.remove()
      throw error
    }
    write.close()
    let ended = Promise<Void>()
    Threads.start("output-\(process.pid)") {
      Self.pump(read, into: buffer)
      ended.fulfil(())
    }
    return Started(process: process, cgroup: cgroup, outputEnded: ended, outputs: outputs)
  }

  /// Carries the pipe's bytes to the log until the last writer is gone. Waits where the log does.
  private static func pump(_ pipe: Descriptor, into buffer: LogBuffer) {
    var chunk = [UInt8](repeating: 0, count: 64 << 10)
    while true {
      let count = read(pipe.raw, &chunk, chunk.count)
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return }
      buffer.append(chunk[..<count])
    }
  }

  private func report(
    _ end: SupervisedProcess.Exit, _ started: Started, workspace: Workspace, buffer: LogBuffer
  ) -> StepReport {
    let ranOut = started.cgroup.ranOutOfMemory
    let groupPeak = started.cgroup.peakMemory
    started.cgroup.remove()
    var report = StepReport(ending: .broken(""), logEnd: buffer.size)
    switch end {
    case .notStarted(let why):
      report.ending = .broken(why)
      return report
    case .supervisorLost(let why):
      // What it watched over may live: the mark finds it.
      _ = Leftovers.kill(markedWith: self.dataDirectory, attemptFolder: workspace.folder)
      report.ending = .broken(why)
    case .exited(let code, let signal, let cpu, let peak):
      report.usage = Usage(cpuTime: cpu, peakMemory: max(peak, groupPeak ?? peak))
      if ranOut, code != 0 {
        report.ending = .outOfMemory(limit: started.cgroup.memory)
      } else if signal != 0 {
        report.ending = .signalled(signal)
      } else {
        report.ending = .exited(code: code)
      }
    }
    if report.ending != .exited(code: 0) {
      report.remark = fullDisk(at: workspace.work) ?? fullDisk(at: workspace.temporary) ?? ""
    }
    report.outputs = Self.outputs(in: (try? readFile(started.outputs)) ?? "")
    return report
  }

  /// The words that run a script. `shell` is empty, a program, or a command with `{0}` where the
  /// script's path belongs.
  static func shell(_ shell: String, script: String) -> [String] {
    switch shell {
    case "":
      return findProgram("bash") != nil
        ? ["bash", "-eo", "pipefail", script] : ["sh", "-e", script]
    case "bash": return ["bash", "-eo", "pipefail", script]
    case "sh": return ["sh", "-e", script]
    case "python": return ["python3", script]
    default:
      let words = shell.split(separator: " ").map(String.init)
      guard words.contains("{0}") else { return words + [script] }
      return words.map { $0 == "{0}" ? script : $0 }
    }
  }

  /// `name=value` lines; others are none.
  static func outputs(in text: String) -> [String: String] {
    guard text.utf8.count <= Self.maximumOutputBytes else { return [:] }
    var outputs: [String: String] = [:]
    for line in text.split(separator: "\n") {
      guard let equals = line.firstIndex(of: "="), equals != line.startIndex else { continue }
      outputs[String(line[..<equals])] = String(line[line.index(after: equals)...])
    }
    return outputs
  }
}
