import Domain
import Glibc

/// The control groups under which steps run: what limits their memory and number of processes.
///
/// Version 2 where its controllers are there, version 1 hierarchies where they are mounted, and a
/// bare version 2 hierarchy beside those for `cgroup.kill`. Where none is writable, steps run
/// without limits; their processes are still all ended, by the supervisor.
package struct Cgroups: Sendable {
  /// Where groups for steps are made.
  package struct Hierarchy: Hashable, Sendable {
    package enum Kind: Hashable, Sendable { case v2, memory, pids }
    package var kind: Kind
    /// The runner's own folder in it.
    package var path: String
    /// What a group in it can do.
    package var limitsMemory: Bool
    package var limitsProcesses: Bool
  }

  package let hierarchies: [Hierarchy]

  /// Processes in one step, threads counted: above what a parallel build of a large project uses,
  /// and far below what a fork bomb needs to hurt the machine.
  package static let maximumProcesses = 4_096

  package var limitsMemory: Bool { self.hierarchies.contains { $0.limitsMemory } }

  /// For the log: what was found.
  package var summary: String {
    guard !self.hierarchies.isEmpty else { return "no writable cgroup: steps run without limits" }
    return self.hierarchies.map { "\($0.kind) at \($0.path)" }.joined(separator: ", ")
  }

  /// Tries what this system has; `name` keeps two runners on one machine apart.
  package static func probe(name: String) -> Cgroups {
    var hierarchies: [Hierarchy] = []
    var hasMemory = false
    var hasPids = false
    let own = ownPaths()
    for (kind, controller) in [(Hierarchy.Kind.memory, "memory"), (.pids, "pids")] {
      guard let mount = mounts(type: "cgroup").first(where: { $0.options.contains(controller) }),
        let path = own[controller],
        let made = makeFolder(mount.path + (path == "/" ? "" : path), name)
      else { continue }
      if kind == .memory { hasMemory = true } else { hasPids = true }
      hierarchies.append(
        Hierarchy(
          kind: kind, path: made, limitsMemory: kind == .memory, limitsProcesses: kind == .pids))
    }
    if let mount = mounts(type: "cgroup2").first, let path = own[""] {
      let base = mount.path + (path == "/" ? "" : path)
      let available = (try? readFile(base + "/cgroup.controllers")) ?? ""
      let wanted = ["memory", "pids"].filter { available.split(separator: " ").contains($0[...]) }
      if !wanted.isEmpty { enable(wanted, in: base) }
      if let made = makeFolder(base, name) {
        enable(wanted, in: made)
        let enabled = (try? readFile(made + "/cgroup.subtree_control")) ?? ""
        hierarchies.append(
          Hierarchy(
            kind: .v2, path: made, limitsMemory: !hasMemory && enabled.contains("memory"),
            limitsProcesses: !hasPids && enabled.contains("pids")))
      }
    }
    return Cgroups(hierarchies: hierarchies)
  }

  /// A group for one step.
  package func make(_ name: String, memory: ByteCount) -> StepCgroup {
    var folders: [StepCgroup.Folder] = []
    for hierarchy in self.hierarchies {
      let path = hierarchy.path + "/" + name
      guard mkdir(path, 0o755) == 0 || errno == EEXIST else { continue }
      if hierarchy.limitsMemory, memory.bytes > 0 {
        let file = hierarchy.kind == .v2 ? "memory.max" : "memory.limit_in_bytes"
        try? writeFile("\(path)/\(file)", "\(memory.bytes)")
        // Without this a step over its limit swaps instead of ending.
        try? writeFile("\(path)/memory.swap.max", "0")
      }
      if hierarchy.limitsProcesses {
        try? writeFile("\(path)/pids.max", "\(Self.maximumProcesses)")
      }
      guard let procs = try? Descriptor.open("\(path)/cgroup.procs", O_WRONLY) else {
        rmdir(path)
        continue
      }
      folders.append(StepCgroup.Folder(hierarchy: hierarchy, path: path, procs: procs))
    }
    return StepCgroup(folders: folders, memory: memory)
  }

  /// Ends what a former incarnation left in its groups, and removes them.
  package func removeLeftovers() {
    for hierarchy in self.hierarchies {
      for name in (try? listFolder(hierarchy.path)) ?? [] {
        let path = hierarchy.path + "/" + name
        guard isFolder(path) else { continue }
        killAll(in: path)
        rmdir(path)
      }
    }
  }

  /// The runner's own groups go with it.
  package func remove() {
    self.removeLeftovers()
    for hierarchy in self.hierarchies { rmdir(hierarchy.path) }
  }

  // MARK: What the system has

  private static func ownPaths() -> [String: String] {
    var paths: [String: String] = [:]
    for line in ((try? readFile("/proc/self/cgroup")) ?? "").split(separator: "\n") {
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { continue }
      for controller in fields[1].split(separator: ",", omittingEmptySubsequences: false) {
        paths[String(controller)] = String(fields[2])
      }
    }
    return paths
  }

  private static func mounts(type: String) -> [(path: String, options: [String])] {
    ((try? readFile("/proc/self/mounts")) ?? "").split(separator: "\n").compactMap { line in
      let fields = line.split(separator: " ")
      guard fields.count >= 4, fields[2] == type else { return nil }
      return (String(fields[1]), fields[3].split(separator: ",").map(String.init))
    }
  }

  private static func makeFolder(_ base: String, _ name: String) -> String? {
    let path = "\(base)/\(name)"
    return mkdir(path, 0o755) == 0 || errno == EEXIST ? path : nil
  }

  /// Gives the children of `path` these controllers. A group with processes of its own may not:
  /// then the runner, which is one of them, moves into a group beside the steps' first.
  private static func enable(_ controllers: [String], in path: String) {
    let text = controllers.map { "+\($0)" }.joined(separator: " ")
    if (try? writeFile(path + "/cgroup.subtree_control", text)) != nil { return }
    guard let beside = makeFolder(path, "millrace-runner"),
      (try? writeFile(beside + "/cgroup.procs", "0")) != nil
    else { return }
    try? writeFile(path + "/cgroup.subtree_control", text)
  }
}

/// The control group of one step.
package struct StepCgroup: Sendable {
  package struct Folder: Sendable {
    package var hierarchy: Cgroups.Hierarchy
    package var path: String
    package var procs: Descriptor
  }

  package var folders: [Folder]
  package var memory: ByteCount

  /// Whether the kernel killed a process of it for its memory.
  package var ranOutOfMemory: Bool {
    guard self.memory.bytes > 0, let folder = self.memoryFolder else { return false }
    let file = folder.hierarchy.kind == .v2 ? "memory.events" : "memory.oom_control"
    let lines = ((try? readFile("\(folder.path)/\(file)")) ?? "").split(separator: "\n")
    return lines.contains { line in
      let words = line.split(separator: " ")
      return words.count == 2 && words[0] == "oom_kill" && (Int(words[1]) ?? 0) > 0
    }
  }

  /// The most memory it held, page cache included; nil where the system does not say.
  package var peakMemory: ByteCount? {
    guard let folder = self.memoryFolder else { return nil }
    let file = folder.hierarchy.kind == .v2 ? "memory.peak" : "memory.max_usage_in_bytes"
    guard let text = try? readFile("\(folder.path)/\(file)") else { return nil }
    return Int64(text.prefix { $0.isNumber }).map { ByteCount($0) }
  }

  private var memoryFolder: Folder? { self.folders.first { $0.hierarchy.limitsMemory } }

  /// SIGKILL to every process in it, from outside.
  package func kill() {
    for folder in self.folders { killAll(in: folder.path) }
  }

  /// Takes it away; nothing runs in it any more.
  package func remove() {
    for folder in self.folders {
      folder.procs.close()
      // The last process may still be on its way out, for the kernel.
      if rmdir(folder.path) != 0, errno == EBUSY {
        killAll(in: folder.path)
        rmdir(folder.path)
      }
    }
  }
}

/// SIGKILL to all processes of a group, until it has none or they do not go.
private func killAll(in path: String) {
  if (try? writeFile(path + "/cgroup.kill", "1")) != nil { return }
  // A fork may outrun one round; it does not outrun many.
  for _ in 0..<100 {
    let pids = ((try? readFile(path + "/cgroup.procs")) ?? "").split(separator: "\n")
      .compactMap { pid_t($0) }
    if pids.isEmpty { return }
    for pid in pids where pid > 1 { _ = Glibc.kill(pid, SIGKILL) }
    sched_yield()
  }
}
