import Glibc

/// The CPU time and memory of a stack's processes, up to a moment.
struct StackUsage: Sendable {
  /// A process, or what it used between two moments.
  struct Process: Sendable {
    var name: String
    var pid: pid_t
    var cpuTime: Duration
    /// Of its descendants, those that live and those that have ended.
    var childrenCPUTime: Duration
    /// Since it was started.
    var peakMemory: Int64?
    /// It is another process than at the earlier moment.
    var isRestarted = false
  }

  /// Those of the stack, then `millrace up` and this process.
  var processes: [Process]

  static let up = "millrace up"
  static let client = "millrace-bench"

  static func now(of stack: StackFile) -> StackUsage {
    let tree = ProcessTree()
    var processes = stack.processes.map { process in
      Process(
        name: process.name, pid: process.pid,
        cpuTime: tree.statuses[process.pid]?.cpuTime ?? .zero,
        childrenCPUTime: tree.childrenCPUTime(of: process.pid),
        peakMemory: ProcessStatus.peakMemory(of: process.pid))
    }
    // Their children are the processes above.
    for (name, pid) in [(Self.up, stack.pid), (Self.client, getpid())] {
      processes.append(
        Process(
          name: name, pid: pid, cpuTime: tree.statuses[pid]?.cpuTime ?? .zero,
          childrenCPUTime: .zero, peakMemory: ProcessStatus.peakMemory(of: pid)))
    }
    return StackUsage(processes: processes)
  }

  /// What was used since an earlier moment. Of a process that was restarted in between, only what
  /// the new one used is known.
  func since(_ earlier: StackUsage) -> StackUsage {
    StackUsage(
      processes: self.processes.map { process in
        var used = process
        if let before = earlier.processes.first(where: { $0.pid == process.pid }) {
          used.cpuTime -= before.cpuTime
          used.childrenCPUTime -= before.childrenCPUTime
        } else {
          used.isRestarted = true
        }
        return used
      })
  }
}

/// The processes of this machine, and which of them started which.
private struct ProcessTree {
  let statuses: [pid_t: ProcessStatus]
  private let children: [pid_t: [pid_t]]

  init() {
    let all = ProcessStatus.all
    self.statuses = Dictionary(all.map { ($0.pid, $0) }) { first, _ in first }
    self.children = Dictionary(grouping: all, by: \.parent).mapValues { $0.map(\.pid) }
  }

  func childrenCPUTime(of pid: pid_t) -> Duration {
    var time = self.statuses[pid]?.endedChildrenCPUTime ?? .zero
    for child in self.children[pid] ?? [] {
      time += (self.statuses[child]?.cpuTime ?? .zero) + self.childrenCPUTime(of: child)
    }
    return time
  }
}
