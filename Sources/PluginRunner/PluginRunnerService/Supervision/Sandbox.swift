import Domain
import Glibc

/// What stands between a step and the machine.
package enum Sandbox: Hashable, Sendable {
  /// A process like any other of the runner's user.
  case none
  /// bubblewrap at this path.
  case bubblewrap(String)

  /// The choice, and the sentence that explains it in the log.
  package static func choose(
    _ wanted: String, supervisor: String, dataDirectory: String, hidden: [String] = []
  ) -> (Sandbox, why: String)? {
    switch wanted {
    case "none":
      return (.none, "steps run without a sandbox, as the setting says")
    case "bubblewrap":
      guard let path = findProgram("bwrap") else {
        return (.none, "steps run without a sandbox: there is no bwrap in PATH")
      }
      let problem = Self.probe(
        path, supervisor: supervisor, dataDirectory: dataDirectory, hidden: hidden)
      if let problem {
        return (.none, "steps run without a sandbox: bubblewrap does not work here: \(problem)")
      }
      return (.bubblewrap(path), "steps run in bubblewrap (\(path))")
    default:
      return nil
    }
  }

  /// The words before the supervisor's own.
  ///
  /// The system is there to read, the attempt's workspace and home to write; `/tmp` is the
  /// attempt's, `/proc` and the process numbers are its own, other attempts are out of sight, the
  /// network is shared. The supervisor is process 1 inside: nothing outlives it, and nothing inside
  /// can signal it.
  ///
  /// The runner and its plugins go into the same folders, outside. So the folders themselves are
  /// mounts, which cannot be replaced by links, and of the runner's own only `files` can be written.
  package func command(
    workspace: Workspace, files: [String] = [], dataDirectory: String, hidden: [String] = [],
    supervisor: String
  ) -> [String] {
    guard case .bubblewrap(let path) = self else { return [] }
    var words = [
      path, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1",
      "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
      "--bind", workspace.temporary, "/tmp", "--tmpfs", "/var/tmp",
    ]
    // The data directory may be in one of the others, and what is shown of it comes behind them all.
    for path in hidden.filter({ $0 != dataDirectory && isFolder($0) }) + [dataDirectory] {
      words += ["--tmpfs", path]
    }
    words += [
      "--ro-bind", workspace.scratch, workspace.scratch, "--ro-bind", supervisor, supervisor,
    ]
    for path in [workspace.work, workspace.home] + files { words += ["--bind", path, path] }
    if geteuid() == 0 {
      // What a container's root has, and no more: enough to unpack archives and to build packages,
      // not enough to mount the system again for writing.
      words += ["--cap-drop", "ALL"]
      for name in Self.capabilitiesOfRoot { words += ["--cap-add", name] }
    }
    return words + ["--"]
  }

  private static let capabilitiesOfRoot = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_NET_BIND_SERVICE",
  ]

  /// Runs the sandbox once; nil if it works, else why not.
  private static func probe(
    _ path: String, supervisor: String, dataDirectory: String, hidden: [String]
  ) -> String? {
    let workspace = Workspace(root: dataDirectory, attempt: "sandbox-probe")
    defer { try? removeTree(workspace.folder) }
    do {
      try workspace.make()
      let (read, write) = try Descriptor.pipe()
      let nothing = try Descriptor.open("/dev/null", O_RDWR)
      let command = Sandbox.bubblewrap(path).command(
        workspace: workspace, dataDirectory: dataDirectory, hidden: hidden,
        supervisor: supervisor)
      let (ours, theirs) = try Descriptor.socketPair()
      let environment = try SupervisedProcess.file([:])
      let pid = try spawn(
        command + [supervisor, "--chdir", workspace.work, "--", "/bin/sh", "-c", ": > probe"],
        environment: ["PATH=/usr/local/bin:/usr/bin:/bin"],
        descriptors: [nothing.raw, write.raw, write.raw, theirs.raw, environment.raw])
      write.close()
      theirs.close()
      var words = [UInt8](repeating: 0, count: 1_024)
      let count = Glibc.read(read.raw, &words, words.count)
      var status: Int32 = 0
      while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
      ours.close()
      if status == 0, access(workspace.work + "/probe", F_OK) == 0 { return nil }
      let said = String(decoding: words.prefix(max(0, count)), as: UTF8.self)
      return said.isEmpty ? "it ended with status \(status)" : said.split(separator: "\n").joined()
    } catch {
      return "\(error)"
    }
  }
}

/// The first program of this name in PATH.
func findProgram(_ name: String) -> String? {
  let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/local/bin:/usr/bin:/bin"
  for folder in path.split(separator: ":") where access("\(folder)/\(name)", X_OK) == 0 {
    return "\(folder)/\(name)"
  }
  return nil
}
