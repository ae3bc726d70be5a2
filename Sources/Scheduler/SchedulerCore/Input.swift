import Domain

/// Who waits for an answer: chosen by the shell, handed back with the answer.
package struct Waiter: Hashable, Sendable, Comparable {
  package let rawValue: UInt64

  package init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }

  package static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

/// A build that somebody wants.
package struct Submission: Sendable {
  /// Made of the project and the idempotency key: the same submission has the same id.
  package var id: BuildID
  package var project: ProjectID
  package var pipeline: Pipeline
  /// From ``Domain/Pipeline/expanded(standard:environment:)``.
  package var legs: [Pipeline.Leg]
  package var source: Source?
  package var environment: [String: String]
  package var priority: Int32
  package var annotations: [String: String]
  /// Of what was asked for. Nil: unknown.
  package var fingerprint: Fingerprint?

  /// What a build's priority can be: more steps than anyone tells apart, and few enough that a
  /// demand's rank stays exact in a `double`.
  package static let priorities: ClosedRange<Int32> = -1_000...1_000

  package init(
    id: BuildID, project: ProjectID, pipeline: Pipeline, legs: [Pipeline.Leg],
    source: Source? = nil, environment: [String: String] = [:], priority: Int32 = 0,
    annotations: [String: String] = [:], fingerprint: Fingerprint? = nil
  ) {
    self.id = id
    self.project = project
    self.pipeline = pipeline
    self.legs = legs
    self.source = source
    self.environment = environment
    self.priority = priority
    self.annotations = annotations
    self.fingerprint = fingerprint
  }
}

/// A record as the store has it.
package struct StoredBuild: Hashable, Sendable {
  package var record: BuildRecord
  package var version: Int64
  /// An earlier version of the program wrote it, in a way in which the next owner would not find
  /// it: it is to be written anew.
  package var isOutdated: Bool

  package init(record: BuildRecord, version: Int64, isOutdated: Bool = false) {
    self.record = record
    self.version = version
    self.isOutdated = isOutdated
  }
}

/// What became of a write.
package enum WriteResult: Hashable, Sendable {
  case committed(version: Int64)
  /// The record is not as it was thought to be; nothing was written.
  case conflict
  /// Nobody knows whether it was written; why.
  case unknown(String)
  /// The store will never take it; why.
  case refused(String)
}

/// A lease as it was granted.
package struct Grant: Hashable, Sendable {
  package var lease: LeaseID
  package var demand: DemandID
  package var executor: ExecutorID
  package var address: String
  package var token: FencingToken
  /// For how many attempts it was used before.
  package var use: Int32 = 0
  /// Others waited for room in its pool.
  package var isContended: Bool

  package init(
    lease: LeaseID, demand: DemandID, executor: ExecutorID, address: String, token: FencingToken,
    isContended: Bool = false
  ) {
    self.isContended = isContended
    self.lease = lease
    self.demand = demand
    self.executor = executor
    self.address = address
    self.token = token
  }
}

/// Why a lease is over before its release.
package enum LeaseLoss: Hashable, Sendable {
  /// Its executor is gone, or came back as another process.
  case executorGone
  /// Its executor lives and holds no job under it: one that ended meanwhile, or never came.
  case expired
}

/// Something that a runner tells of an attempt.
package struct RunnerEvent: Hashable, Sendable {
  package enum What: Hashable, Sendable {
    case accepted
    case step(StepRecord)
    case artifact(Artifact)
    /// The last one.
    ///
    /// - Parameter isLeaseReusable: Its runner would take another attempt under its lease.
    case finished(Outcome, message: String, usage: Usage?, isLeaseReusable: Bool = false)
  }

  /// From 1, without a gap.
  package var sequence: Int64
  package var time: Timestamp
  package var what: What

  package init(sequence: Int64, time: Timestamp, what: What) {
    self.sequence = sequence
    self.time = time
    self.what = what
  }
}

/// Why a stream of events ended before its last event.
package enum StreamEnd: Hashable, Sendable {
  /// The runner does not know the attempt.
  case notFound
  /// The runner will not take it: its token is stale, or there is no room.
  case refused(String)
  /// The runner cannot take it, and no other could: the order itself is wrong.
  case invalid(String)
  /// The runner cannot be reached, or drains; why.
  case unreachable(String)
}
