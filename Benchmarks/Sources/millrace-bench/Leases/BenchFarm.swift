import BuildProtos
import Synchronization

/// Executors that hold what they are leased, and say so.
final class BenchFarm: Sendable {
  static let slots = 4
  private static let cpuMillis: Int64 = 4_000
  private static let memoryBytes: Int64 = 8 << 30
  private static let warmProjects = 3

  private struct Executor {
    var held: [String: AllocatorV1.HeldLease] = [:]
    var used = (cpuMillis: Int64(0), memoryBytes: Int64(0), slots: Int32(0))
    /// Last used last.
    var projects: [String] = []
  }

  private let executors: Mutex<[Executor]>
  private let names: [String: Int]

  init(count: Int) {
    self.executors = Mutex(Array(repeating: Executor(), count: count))
    self.names = Dictionary(uniqueKeysWithValues: (0..<count).map { (Self.name($0), $0) })
  }

  private static func name(_ index: Int) -> String { "executor-\(100_000 + index)" }

  /// Takes a lease up; false: it does not fit beside what is held, so a share was leased twice.
  func take(_ lease: AllocatorV1.Lease, of project: String) -> Bool {
    guard let index = self.names[lease.executorID], let asked = lease.resources else {
      return false
    }
    return self.executors.withLock { executors in
      executors[index].used.cpuMillis += asked.cpuMillis
      executors[index].used.memoryBytes += asked.memoryBytes
      executors[index].used.slots += asked.slots
      executors[index].held[lease.id] = AllocatorV1.HeldLease(
        leaseID: lease.id, requestID: lease.requestID, fencingToken: lease.fencingToken,
        resources: asked, project: project)
      executors[index].projects.removeAll { $0 == project }
      executors[index].projects.append(project)
      if executors[index].projects.count > Self.warmProjects {
        executors[index].projects.removeFirst()
      }
      let used = executors[index].used
      return used.cpuMillis <= Self.cpuMillis && used.memoryBytes <= Self.memoryBytes
        && used.slots <= Self.slots
    }
  }

  /// Ends a lease's job.
  func end(_ lease: String, on executor: String) {
    guard let index = self.names[executor] else { return }
    self.executors.withLock { executors in
      guard let held = executors[index].held.removeValue(forKey: lease)?.resources else { return }
      executors[index].used.cpuMillis -= held.cpuMillis
      executors[index].used.memoryBytes -= held.memoryBytes
      executors[index].used.slots -= held.slots
    }
  }

  func heartbeat(of index: Int) -> AllocatorV1.HeartbeatRequest {
    let (held, projects) = self.executors.withLock { executors in
      (Array(executors[index].held.values), executors[index].projects)
    }
    return AllocatorV1.HeartbeatRequest(
      executorID: Self.name(index), incarnation: "1", address: "10.0.0.1:\(10_000 + index)",
      labels: index.isMultiple(of: 2) ? ["linux", "x86_64", "gpu"] : ["linux", "x86_64"],
      capacity: TypesV1.Resources(
        cpuMillis: Self.cpuMillis, memoryBytes: Self.memoryBytes, slots: Int32(Self.slots)),
      leases: held, warmProjects: projects.reversed())
  }
}
