import Domain
import SchedulerCore

/// The datastore behind its gateway: records with versions, conditional writes one by one, the
/// schedulers' sessions, and the table of who owns what. What it has written outlives every kill.
final class Store: Process {
  struct Write {
    var record: BuildRecord
    var base: Int64?
  }

  /// What became of something that holds only while a session exists.
  enum End<Value> {
    case done(Value)
    /// What it was built on is no more; nothing was written.
    case conflict
    /// There is no session of the writer's; nothing was written.
    case fenced
  }

  /// Records in one page of a scan: few, so that scans and writes meet.
  private static let scanPage = 5

  private(set) var records: [BuildID: StoredBuild] = [:]
  private(set) var sessions: [ReplicaID: Membership.Sighting] = [:]
  /// Those that have left: see ``leave(_:_:)``.
  private var departed: Set<ReplicaID> = []
  private(set) var table = PartitionTable()
  private var tableVersion: Int64 = 0
  private var lastVersion: Int64 = 0
  /// How long a commit takes.
  var commitTime = Store.usualCommitTime
  static let usualCommitTime: ClosedRange<Duration> = .microseconds(300)...(.milliseconds(6))
  private let bugs: Set<PlantedBug>

  init(bugs: Set<PlantedBug>, in surroundings: Surroundings) {
    self.bugs = bugs
    super.init("store", in: surroundings)
  }

  private func newVersion() -> Int64 {
    self.lastVersion += 1
    return self.lastVersion
  }

  /// Does something when a commit or a read has taken its time.
  private func soon(_ body: @escaping () -> Void) {
    self.after(self.timeline.random.duration(self.commitTime), body)
  }

  // MARK: Builds

  /// Writes each record whose stored version is still the one it builds on.
  func commit(
    _ writes: [Write], as session: ReplicaID, _ answer: @escaping (End<[WriteResult]>) -> Void
  ) {
    self.soon {
      guard self.isThere(session) else { return answer(.fenced) }
      answer(.done(writes.map { self.write($0, as: session) }))
    }
  }

  private func isThere(_ session: ReplicaID) -> Bool {
    self.sessions[session] != nil || self.bugs.contains(.storeIgnoresSessions)
  }

  private func write(_ write: Write, as session: ReplicaID) -> WriteResult {
    let id = write.record.id
    let stored = self.records[id]
    guard stored?.version == write.base || self.bugs.contains(.storeIgnoresVersions) else {
      self.note("\(id): a write on \(write.base ?? 0) meets \(stored?.version ?? 0)")
      return .conflict
    }
    let version = self.newVersion()
    if self.bugs.contains(.storeForgets), self.timeline.random.chance(0.02) {
      return .committed(version: version)
    }
    let new = StoredBuild(record: write.record, version: version)
    self.checker.stored(new, base: write.base, by: session)
    self.records[id] = new
    self.note("\(id): version \(version), \(write.record.digest)")
    return .committed(version: version)
  }

  func load(_ id: BuildID, _ answer: @escaping (StoredBuild?) -> Void) {
    self.soon { answer(self.records[id]) }
  }

  /// A page of a partition's active records behind one; nil: of all partitions.
  func scanActive(
    of partition: Partition?, behind cursor: BuildID?,
    _ answer: @escaping (_ page: [StoredBuild], _ isLast: Bool) -> Void
  ) {
    self.soon {
      let left = self.records.values.filter { stored in
        stored.record.isActive && cursor.map { $0 < stored.record.id } ?? true
          && partition.map { $0 == Partition(of: stored.record.project) } ?? true
      }.sorted { $0.record.id < $1.record.id }
      answer(Array(left.prefix(Self.scanPage)), left.count <= Self.scanPage)
    }
  }

  // MARK: Schedulers

  /// - Parameter base: The table's version.
  func join(
    _ replica: Membership.Replica, base: Int64, _ answer: @escaping (End<Int64>) -> Void
  ) {
    self.soon {
      guard base == self.tableVersion else { return answer(.conflict) }
      if base == 0 { self.tableVersion = self.newVersion() }
      self.sessions[replica.id] = Membership.Sighting(replica: replica, version: self.newVersion())
      answer(.done(self.lastVersion))
    }
  }

  func renew(_ replica: Membership.Replica, _ answer: @escaping (End<Int64>) -> Void) {
    self.soon {
      guard self.sessions[replica.id] != nil else { return answer(.fenced) }
      self.sessions[replica.id] = Membership.Sighting(replica: replica, version: self.newVersion())
      answer(.done(self.lastVersion))
    }
  }

  func leave(_ session: ReplicaID, _ answer: @escaping (End<Int64>) -> Void) {
    self.soon {
      self.sessions[session] = nil
      self.departed.insert(session)
      answer(.done(self.newVersion()))
    }
  }

  func change(
    _ change: Membership.Change, as session: ReplicaID, _ answer: @escaping (End<Int64>) -> Void
  ) {
    self.soon {
      guard self.sessions[session] != nil else { return answer(.fenced) }
      guard change.base == self.tableVersion,
        change.removed.allSatisfy({ self.sessions[$0.replica.id]?.version == $0.version })
      else { return answer(.conflict) }
      for sighting in change.removed {
        self.note("session \(sighting.replica.id) is removed by \(session)")
        self.sessions[sighting.replica.id] = nil
      }
      if let successor = change.successor {
        self.note("session \(session) goes on as \(successor.id)")
        self.sessions[session] = nil
        self.sessions[successor.id] = Membership.Sighting(
          replica: successor, version: self.newVersion())
      }
      self.tableVersion = self.newVersion()
      // A copy of its first message may come behind its last: nobody speaks for that session.
      self.checker.changed(
        change.table, by: session, sessions: Set(self.sessions.keys).subtracting(self.departed))
      self.table = change.table
      answer(.done(self.tableVersion))
    }
  }

  func readTable(_ answer: @escaping (PartitionTable, Int64) -> Void) {
    self.soon { answer(self.table, self.tableVersion) }
  }

  func readSessions(_ answer: @escaping ([Membership.Sighting]) -> Void) {
    self.soon { answer(self.sessions.values.sorted { $0.replica.id < $1.replica.id }) }
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
