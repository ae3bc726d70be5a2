import Domain

/// What follows from an input to a build.
struct BuildOutput: Sendable {
  enum Step: Hashable, Sendable {
    /// Work waits for an executor, if it still does when this is carried out.
    case enqueue(Work.Item)
    case dequeue(Work.Item)
    /// An attempt holds a lease from now on.
    case took(AttemptID, LeaseID, Charge)
    /// An attempt's executor is free of it.
    case gaveBack(AttemptID, LeaseID, Charge, isReusable: Bool = false)
    /// The attempt's record is committed, or need not be: the runner may hear of it.
    case start(AttemptID)
    /// The attempt is to be stopped, its end being committed.
    case end(AttemptID, Outcome, reason: String)
    case run(AttemptID)
    case attach(AttemptID, address: String, after: Int64)
    case detach(AttemptID)
    case stop(AttemptID, address: String, Outcome, reason: String)
    /// Work waits for an executor after a delay.
    case remind(Work.Item, after: Duration)
  }

  /// What a lease is charged to, beside its project.
  struct Charge: Hashable, Sendable {
    var resources: Resources
    /// Nil for a notification, which no limit counts.
    var pool: String?
  }

  var now: [Step] = []
  var afterCommit: [Step] = []
  /// The record must be written.
  var isDirty = false
  /// Something is to be shown that need not be written.
  var isProgress = false
  /// Notifications that were given up.
  var deadNotifications = 0
  /// Attempts whose wake may be another now.
  var touched: [AttemptID] = []
}

/// How the jobs of a build stand to each other; does not change over its life.
struct BuildGraph: Sendable {
  /// For each plan, its legs among the build's jobs.
  let legs: [Range<Int>]
  let needs: [[Int]]
  let dependents: [[Int]]

  /// Of most builds: one job, once. They share its arrays.
  private static let single = Self(legs: [0..<1], needs: [[]], dependents: [[]])

  private init(legs: [Range<Int>], needs: [[Int]], dependents: [[Int]]) {
    (self.legs, self.needs, self.dependents) = (legs, needs, dependents)
  }

  init(_ record: BuildRecord) {
    let plans = record.pipeline.jobs
    guard plans.count > 1 || record.jobs.count > 1 else {
      self = .single
      return
    }
    var legs = Array(repeating: 0..<0, count: plans.count)
    for (index, job) in record.jobs.enumerated() {
      let range = legs[job.leg.plan]
      legs[job.leg.plan] = (range.isEmpty ? index : range.lowerBound)..<(index + 1)
    }
    self.legs = legs
    let places = Dictionary(
      plans.enumerated().map { ($1.key, $0) }, uniquingKeysWith: { first, _ in first })
    let needs = plans.map { $0.needs.compactMap { places[$0] } }
    var dependents = Array(repeating: [Int](), count: plans.count)
    for (plan, needed) in needs.enumerated() {
      for other in needed { dependents[other].append(plan) }
    }
    self.needs = needs
    self.dependents = dependents
  }

  /// Everything that a plan stands on, however far down.
  func ancestors(of plan: Int) -> Set<Int> {
    var found: Set<Int> = []
    var left = self.needs[plan]
    while let next = left.popLast() {
      if found.insert(next).inserted { left += self.needs[next] }
    }
    return found
  }
}
