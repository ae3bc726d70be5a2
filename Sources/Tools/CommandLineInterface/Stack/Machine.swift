import Glibc

/// What this machine has, for local runners to share.
package struct Machine: Hashable, Sendable {
  package var processors: Int
  package var memoryBytes: Int64

  /// A runner offers no less, however many there are: what a job gets that asks for nothing.
  private static let leastCPUMillis = 1_000
  private static let leastMemoryBytes: Int64 = 1 << 30

  package init(processors: Int, memoryBytes: Int64) {
    self.processors = processors
    self.memoryBytes = memoryBytes
  }

  package static var current: Machine {
    Machine(
      processors: max(1, sysconf(CInt(_SC_NPROCESSORS_ONLN))),
      memoryBytes: Int64(sysconf(CInt(_SC_PHYS_PAGES))) * Int64(sysconf(CInt(_SC_PAGESIZE))))
  }

  /// The flags with which each of several runners offers its share; none for a single one, which
  /// offers all there is by itself.
  package func flags(ofEachOf runners: Int) -> [String] {
    guard runners > 1 else { return [] }
    // Quarters of a CPU, rounded down.
    let millis = max(Self.leastCPUMillis, self.processors * 4 / runners * 250)
    // As a single runner does, they leave a tenth to others.
    let offered = self.memoryBytes / 10 * 9
    let memory = max(min(Self.leastMemoryBytes, offered), offered / Int64(runners))
    let fraction = ["", ".25", ".5", ".75"][millis % 1_000 / 250]
    return [
      "--cpu", "\(millis / 1_000)\(fraction)", "--memory", "\(memory)",
      "--slots", "\((millis + 999) / 1_000)",
    ]
  }
}
