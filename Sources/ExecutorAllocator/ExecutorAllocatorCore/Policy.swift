import Domain

/// Every number that the allocator decides by, and what is checked against them.
package struct Policy: Hashable, Sendable {
  /// An executor silent for longer gets no new leases.
  package var suspectAfter = Duration.seconds(3)
  /// An executor silent for longer is lost, with all its leases.
  package var lostAfter = Duration.seconds(5)
  /// How often runners report: several times within `suspectAfter`, so that one lost call is none.
  package var heartbeatInterval = Duration.seconds(1)
  /// How long a granted lease waits for the runner's first heartbeat with it, and a lease that the
  /// runner no longer holds for its release.
  package var grantExpiry = Duration.seconds(10)
  /// How long a pool must have had a live executor before a demand may be called unsatisfiable: in
  /// a farm that starts, or whose Redis was emptied, the others have to report first.
  package var unsatisfiableAfter = Duration.seconds(60)
  /// How long an executor that is gone still counts as "could be": restarting the machine of the only one
  /// with a label must not fail the builds that wait for it.
  package var departedMemory = Duration.seconds(600)

  /// How far a runner's token may be ahead of the table's clock and of every token it knows: as far
  /// as the clock of a table before this one may have been. Tokens count microseconds, so this
  /// leaves those to come all the room there is.
  package var tokenLead = Duration.seconds(86_400)

  /// How often overdue leases and silent executors are looked for.
  package var sweepInterval = Duration.milliseconds(500)
  /// When nobody has swept for longer, the table was out of reach or empty: silence then says
  /// nothing about executors, and they get `lostAfter` from the first sweep on to report.
  package var sweepGap = Duration.seconds(2)
  /// How often waiting demand is tried again without a sign of room: another replica may have made
  /// some.
  package var retryInterval = Duration.seconds(1)
  /// A demand that has found no room for longer, while others did, has an executor kept free for it:
  /// small jobs must not starve a large one. Longer than a usual wait, for it costs capacity.
  package var reserveAfter = Duration.seconds(10)
  /// How long that lasts without the demand being tried again: several times the retry interval.
  package var reservationExpiry = Duration.seconds(3)
  /// How often the executors' leases are summed up, for how many executors there should be.
  package var usageInterval = Duration.seconds(5)
  /// How long what an allocator said of its demand counts for others: several times as long as until
  /// it says so again.
  package var demandMemory = Duration.seconds(16)
  /// An executor where a pool has none to go by: what our own manifests give one.
  package var standardExecutor = Resources(cpuMillis: 4_000, memory: .gibibytes(8), slots: 4)
  /// How often the reasons of waiting are looked at again.
  package var surveyInterval = Duration.seconds(1)
  /// How often, at least, each lease that schedulers count on is looked up: whoever ended it may have been
  /// another replica. They have their turns spread over this time; as many as 100,000 of them, if Redis
  /// answers within a millisecond.
  package var checkInterval = Duration.seconds(1)

  /// Open demand of all streams: two days of a farm's builds; each costs some hundred bytes.
  package var maximumOpenDemand = 100_000
  /// Leases watched for all streams: more than a farm of 10,000 executors has.
  package var maximumWatchedLeases = 200_000
  /// Demands in one run of the acquire script. It starts at the smaller one and doubles while all
  /// are granted: Redis does nothing else meanwhile (about 0.1 ms each), and beyond the first that
  /// finds no room the rest is in vain.
  package var smallestBatch = 4
  package var largestBatch = 16
  /// Leases in one run of the check script, for the same reason (some 3 µs each).
  package var checkBatch = 100
  /// Reasons sent for one shape in one round: the first in line; the others learn theirs later.
  package var maximumExplained = 256

  package init() {}

  /// Texts that become parts of keys, and what is too much of them.
  package enum Limit {
    package static let nameBytes = 512
    package static let avoided = 32
    package static let warmProjects = 64
    /// Leases of one executor: far more slots than any machine runs.
    package static let heldLeases = 4_096
    /// 2^29 thousandths: half a million CPUs. With ``Domain/Resources/maximumMemory``
    /// it keeps the index' scores exact.
    package static let cpuMillis: Int64 = 1 << 29
    package static let slots: Int32 = 1 << 20
    /// The table counts in doubles, exact up to here. Tokens are about microseconds since 1970, and
    /// ``Policy/tokenLead`` keeps them there.
    package static let token: Int64 = 1 << 53
  }

  /// Numbers that do not go together: the setting that is wrong, and why.
  package struct Contradiction: Hashable, Sendable {
    package var setting: String
    package var reason: String

    package init(setting: String, reason: String) {
      self.setting = setting
      self.reason = reason
    }
  }

  /// The first contradiction, or nil.
  package var contradiction: Contradiction? {
    let interval = "heartbeat-interval (\(Words.seconds(self.heartbeatInterval)))"
    if self.heartbeatInterval <= .zero {
      return Contradiction(setting: "heartbeat-interval", reason: "it must be above 0")
    }
    if self.suspectAfter <= self.heartbeatInterval {
      return Contradiction(setting: "suspect-after", reason: "it must be above \(interval)")
    }
    if self.lostAfter < self.suspectAfter {
      return Contradiction(
        setting: "lost-after",
        reason: "it must not be below suspect-after (\(Words.seconds(self.suspectAfter)))")
    }
    if self.grantExpiry < self.heartbeatInterval * 2 {
      return Contradiction(
        setting: "lease-grant-expiry", reason: "it must be at least twice \(interval)")
    }
    return nil
  }

  // MARK: What callers may say

  /// What is wrong with a heartbeat, or nil.
  package func mistake(in heartbeat: Heartbeat) -> String? {
    Self.mistake(inName: heartbeat.executor.rawValue, of: "executor_id")
      ?? Self.mistake(inName: heartbeat.incarnation, of: "incarnation")
      ?? Self.mistake(inName: heartbeat.address, of: "address")
      ?? Self.mistake(inPool: heartbeat.pool) ?? Self.mistake(inLabels: heartbeat.labels)
      ?? Self.mistake(in: heartbeat.capacity, of: "capacity", minimumSlots: 1)
      ?? Self.mistake(in: heartbeat.newestToken, of: "newest_fencing_token", from: 0)
      ?? Self.mistake(inListsOf: heartbeat)
  }

  private static func mistake(inListsOf heartbeat: Heartbeat) -> String? {
    Self.tooMany(heartbeat.held.count, Limit.heldLeases, "leases")
      ?? Self.tooMany(heartbeat.warmProjects.count, Limit.warmProjects, "warm_projects")
      ?? Self.first(heartbeat.warmProjects) {
        Self.mistake(inName: $0.rawValue, of: "warm_projects")
      }
      ?? Self.first(heartbeat.held) { Self.mistake(in: $0) }
  }

  private static func mistake(in held: Heartbeat.Held) -> String? {
    Self.mistake(inName: held.lease.rawValue, of: "leases.lease_id")
      ?? Self.mistake(inName: held.request.rawValue, of: "leases.request_id")
      ?? Self.mistake(in: held.resources, of: "leases.resources", minimumSlots: 0)
      ?? Self.mistake(in: held.token, of: "leases.fencing_token", from: 1)
  }

  /// What is wrong with a demand, or nil.
  package func mistake(in demand: Demand) -> String? {
    Self.mistake(inName: demand.request.rawValue, of: "request_id")
      ?? Self.mistake(inName: demand.project.rawValue, of: "project")
      ?? Self.mistake(inPool: demand.shape.pool) ?? Self.mistake(inLabels: demand.shape.labels)
      ?? Self.mistake(in: demand.shape.resources, of: "resources", minimumSlots: 1)
      ?? Self.tooMany(demand.shape.avoid.count, Limit.avoided, "avoid_executor_ids")
      ?? Self.first(demand.shape.avoid) {
        Self.mistake(inName: $0.rawValue, of: "avoid_executor_ids")
      }
  }

  /// What is wrong with an id, or nil.
  package static func mistake(inName name: String, of field: String) -> String? {
    if name.isEmpty { return "\(field) is empty" }
    if name.utf8.count > Limit.nameBytes {
      return "\(field) has \(name.utf8.count) bytes, more than \(Limit.nameBytes)"
    }
    // Control characters separate the parts of keys and values in the table.
    if name.utf8.contains(where: { $0 < 0x20 || $0 == 0x7f }) {
      return "\(field) holds a control character"
    }
    return nil
  }

  private static func mistake(inPool pool: PoolName) -> String? {
    if let mistake = Self.mistake(inName: pool.rawValue, of: "pool") { return mistake }
    let isPlain = pool.rawValue.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"),
        UInt8(ascii: "."):
        true
      default: false
      }
    }
    return isPlain
      ? nil : "pool \"\(pool)\" holds something other than letters, digits, \"-\", \"_\", \".\""
  }

  private static func mistake(inLabels labels: [String]) -> String? {
    Self.tooMany(labels.count, ExecutorLabel.maximumCount, "labels")
      ?? Self.first(labels) { label in
        if let mistake = Self.mistake(inName: label, of: "a label") { return mistake }
        let (bytes, limit) = (label.utf8.count, ExecutorLabel.maximumBytes)
        if bytes > limit { return "label \"\(label)\" has \(bytes) bytes, more than \(limit)" }
        // No pipeline could ask for it; and "*" is what the table calls all executors by.
        return ExecutorLabel.isLabel(label)
          ? nil : "label \"\(label)\" holds something other than letters, digits and -_.=/:"
      }
  }

  private static func mistake(
    in resources: Resources, of field: String, minimumSlots: Int32
  ) -> String? {
    if !(0...Limit.cpuMillis).contains(resources.cpuMillis) {
      return "\(field).cpu_millis is \(resources.cpuMillis), not from 0 to \(Limit.cpuMillis)"
    }
    let memory = Resources.maximumMemory.bytes
    if !(0...memory).contains(resources.memory.bytes) {
      return "\(field).memory_bytes is \(resources.memory.bytes), not from 0 to \(memory)"
    }
    if !(minimumSlots...Limit.slots).contains(resources.slots) {
      return "\(field).slots is \(resources.slots), not from \(minimumSlots) to \(Limit.slots)"
    }
    return nil
  }

  private static func mistake(
    in token: FencingToken, of field: String, from least: Int64
  ) -> String? {
    (least...Limit.token).contains(token.rawValue)
      ? nil : "\(field) is \(token), not from \(least) to \(Limit.token)"
  }

  private static func tooMany(_ count: Int, _ limit: Int, _ field: String) -> String? {
    count > limit ? "\(field) has \(count) entries, more than \(limit)" : nil
  }

  private static func first<Element>(
    _ elements: [Element], _ mistake: (Element) -> String?
  ) -> String? {
    for element in elements {
      if let found = mistake(element) { return found }
    }
    return nil
  }
}
