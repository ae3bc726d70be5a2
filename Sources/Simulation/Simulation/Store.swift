import Domain
import SchedulerCore

/// The datastore behind its gateway: records with versions, conditional writes one by one. What it
/// has written outlives every kill.
final class Store: Process {
  struct Write {
    var record: BuildRecord
    var base: Int64?
  }

  /// Records in one page of a scan: few, so that scans and writes meet.
  private static let scanPage = 5

  private(set) var records: [BuildID: StoredBuild] = [:]
  private var lastVersion: Int64 = 0
  /// How long a commit takes.
  var commitTime = Store.usualCommitTime
  static let usualCommitTime: ClosedRange<Duration> = .microseconds(300)...(.milliseconds(6))
  private let bugs: Set<PlantedBug>

  init(bugs: Set<PlantedBug>, in surroundings: Surroundings) {
    self.bugs = bugs
    super.init("store", in: surroundings)
  }

  /// Writes each record whose stored version is still the one it builds on.
  func commit(_ writes: [Write], _ answer: @escaping ([WriteResult]) -> Void) {
    self.after(self.timeline.random.duration(self.commitTime)) {
      answer(writes.map { self.write($0) })
    }
  }

  private func write(_ write: Write) -> WriteResult {
    let id = write.record.id
    let stored = self.records[id]
    guard stored?.version == write.base || self.bugs.contains(.storeIgnoresVersions) else {
      self.note("\(id): a write on \(write.base ?? 0) meets \(stored?.version ?? 0)")
      return .conflict
    }
    self.lastVersion += 1
    let version = self.lastVersion
    if self.bugs.contains(.storeForgets), self.timeline.random.chance(0.02) {
      return .committed(version: version)
    }
    let new = StoredBuild(record: write.record, version: version)
    self.checker.stored(new, over: stored, base: write.base)
    self.records[id] = new
    self.note("\(id): version \(version), \(write.record.digest)")
    return .committed(version: version)
  }

  func load(_ id: BuildID, _ answer: @escaping (StoredBuild?) -> Void) {
    self.after(self.timeline.random.duration(self.commitTime)) { answer(self.records[id]) }
  }

  /// A page of the active records behind one.
  func scanActive(
    behind cursor: BuildID?, _ answer: @escaping (_ page: [StoredBuild], _ isLast: Bool) -> Void
  ) {
    self.after(self.timeline.random.duration(self.commitTime)) {
      let left = self.records.values.filter { stored in
        stored.record.isActive && cursor.map { $0 < stored.record.id } ?? true
      }.sorted { $0.record.id < $1.record.id }
      answer(Array(left.prefix(Self.scanPage)), left.count <= Self.scanPage)
    }
  }
}

extension BuildRecord {
  /// The state of everything in it, in a few words.
  var digest: String {
    let jobs = self.jobs.map { job in
      let attempts = job.attempts.map { attempt in
        "\(attempt.number)@\(attempt.executor)"
          + (attempt.outcome.map { "=\($0)" } ?? "") + (attempt.isHeld ? "*" : "")
      }
      return "\(job.id) \(job.outcome.map { "\($0)" } ?? "\(job.state)")"
        + (attempts.isEmpty ? "" : " [\(attempts.joined(separator: " "))]")
    }
    let notifications = self.notifications.map { "\($0.state)/\($0.attempts)" }
    return
      "revision \(self.revision) by \(self.owner): \(self.outcome.map { "\($0)" } ?? "\(self.state)")"
      + ", round \(self.round); " + jobs.joined(separator: ", ")
      + (notifications.isEmpty ? "" : "; told: " + notifications.joined(separator: " "))
  }
}
