import Domain
import SchedulerCore

/// A scheduler on a test bench: its store answers at once unless it is told to wait, and every
/// other effect is kept to be looked at.
struct Bench {
  var scheduler: Scheduler
  var store: [BuildID: StoredBuild] = [:]
  var now = Timestamp(microseconds: 1_000_000_000)
  /// Effects but writes and loads, in their order, since the last ``take()``.
  private(set) var effects: [Effect] = []
  /// Writes wait here while ``holdsWrites``.
  private(set) var heldWrites: [(BuildRecord, Int64?)] = []
  var holdsWrites = false
  /// Whether every input is followed by a look at everything.
  var checksInvariants = true
  /// Why the store will never take a record; nil: it does.
  var refuses: @Sendable (BuildRecord) -> String? = { _ in nil }
  private var nextVersion: Int64 = 0
  private var nextLease = 0
  private var nextWaiter: UInt64 = 0

  init(policy: Policy = Policy(), owner: String = "one") {
    self.scheduler = Scheduler(policy: policy, owner: owner)
    self.feed { $0.recoveryFinished(at: $1) }
  }

  /// Feeds an input, commits what it writes, and goes on until nothing follows.
  mutating func feed(_ input: (inout Scheduler, Timestamp) -> [Effect]) {
    var left = input(&self.scheduler, self.now)
    while !left.isEmpty {
      let effect = left.removeFirst()
      switch effect {
      case .write(let record, let base):
        if self.holdsWrites {
          self.heldWrites.append((record, base))
        } else {
          left += self.scheduler.written(record.id, self.write(record, base), at: self.now)
        }
      case .load(let id):
        left += self.scheduler.loaded(id, self.store[id], at: self.now)
      default: self.effects.append(effect)
      }
    }
    guard self.checksInvariants else { return }
    let violations = self.scheduler.violations()
    precondition(violations.isEmpty, violations.joined(separator: "\n"))
  }

  mutating func write(_ record: BuildRecord, _ base: Int64?) -> WriteResult {
    if let why = self.refuses(record) { return .refused(why) }
    guard self.store[record.id]?.version == base else { return .conflict }
    self.nextVersion += 1
    self.store[record.id] = StoredBuild(record: record, version: self.nextVersion)
    return .committed(version: self.nextVersion)
  }

  /// Carries out the writes that were held.
  mutating func release(_ result: ((BuildRecord) -> WriteResult)? = nil) {
    let held = self.heldWrites
    self.heldWrites = []
    for (record, base) in held {
      let outcome = result?(record) ?? self.write(record, base)
      self.feed { $0.written(record.id, outcome, at: $1) }
    }
  }

  mutating func take() -> [Effect] {
    defer { self.effects = [] }
    return self.effects
  }

  // MARK: Shorthand

  mutating func submit(
    _ id: BuildID, project: ProjectID = "p", priority: Int32 = 0, _ pipeline: Pipeline,
    fingerprint: Fingerprint? = nil
  ) -> Waiter {
    self.nextWaiter += 1
    let waiter = Waiter(self.nextWaiter)
    let legs = try! pipeline.expanded(standard: Policy().standardResources)
    self.feed {
      $0.submitted(
        Submission(
          id: id, project: project, pipeline: pipeline, legs: legs, priority: priority,
          fingerprint: fingerprint),
        from: waiter, at: $1)
    }
    return waiter
  }

  mutating func cancel(_ id: BuildID) -> Waiter {
    self.nextWaiter += 1
    let waiter = Waiter(self.nextWaiter)
    self.feed { $0.cancelled(id, reason: "no", from: waiter, at: $1) }
    return waiter
  }

  mutating func retry(_ id: BuildID, _ jobs: [JobID] = []) -> Waiter {
    self.nextWaiter += 1
    let waiter = Waiter(self.nextWaiter)
    self.feed { $0.retried(id, jobs: jobs, from: waiter, at: $1) }
    return waiter
  }

  /// Demands that were sent and neither granted nor withdrawn, by the order of their rank.
  private(set) var open: [Demand] = []

  mutating func grant(
    executor: ExecutorID = "e1", isContended: Bool = false,
    where fits: (Demand) -> Bool = { _ in true }
  ) -> RunOrder? {
    for effect in self.take() {
      switch effect {
      case .demand(let demand):
        self.open.removeAll { $0.id == demand.id }
        self.open.append(demand)
      case .withdraw(let id): self.open.removeAll { $0.id == id }
      default: break
      }
    }
    self.open.sort { $0.rank < $1.rank }
    guard let place = self.open.firstIndex(where: fits) else { return nil }
    let demand = self.open.remove(at: place)
    self.nextLease += 1
    let grant = Grant(
      lease: LeaseID("l\(self.nextLease)"), demand: demand.id, executor: executor,
      address: "\(executor):1", token: FencingToken(Int64(self.nextLease)),
      isContended: isContended)
    self.feed { $0.granted(grant, at: $1) }
    for case .run(let order) in self.effects { return order }
    return nil
  }

  /// The runner accepts an attempt and ends it.
  mutating func end(
    _ attempt: AttemptID, _ outcome: Outcome = .succeeded, message: String = "", from: Int64 = 1,
    isLeaseReusable: Bool = false
  ) {
    let now = self.now
    self.feed {
      $0.received(RunnerEvent(sequence: from, time: now, what: .accepted), of: attempt, at: $1)
    }
    self.feed {
      $0.received(
        RunnerEvent(
          sequence: from + 1, time: now,
          what: .finished(outcome, message: message, usage: nil, isLeaseReusable: isLeaseReusable)),
        of: attempt, at: $1)
    }
  }

  mutating func advance(_ duration: Duration) {
    self.now = self.now + duration
    self.feed { $0.timePassed(at: $1) }
  }

  /// The process dies; another one reads the records.
  mutating func restart(owner: String = "two", policy: Policy = Policy()) {
    self.scheduler = Scheduler(policy: policy, owner: owner)
    self.effects = []
    self.open = []
    self.heldWrites = []
    for stored in self.store.values.sorted(by: { $0.record.id < $1.record.id })
    where stored.record.isActive {
      self.feed { $0.recovered(stored, at: $1) }
    }
    self.feed { $0.recoveryFinished(at: $1) }
  }

  func record(_ id: BuildID) -> BuildRecord { self.store[id]!.record }
}

/// A pipeline of these jobs, each with one step.
func pipeline(_ jobs: Pipeline.Job..., notify: [Pipeline.Notification] = []) -> Pipeline {
  Pipeline(jobs: jobs, notifications: notify)
}

/// A pipeline of one job whose builds run one at a time.
let grouped = Pipeline(concurrency: Pipeline.Concurrency(group: "g"), jobs: [job("a")])

func job(
  _ key: String, needs: [String] = [], legs: [String] = [], failFast: Bool = true,
  parallel: Int? = nil, retry: Pipeline.Retry = Pipeline.Retry(), condition: String = "",
  labels: [String] = [], cpu: String? = nil
) -> Pipeline.Job {
  Pipeline.Job(
    key: key, needs: needs, labels: labels, cpu: cpu,
    matrix: legs.isEmpty
      ? nil : Pipeline.Matrix(axes: [Pipeline.Matrix.Axis(name: "v", values: legs)]),
    failFast: failFast, maximumParallel: parallel, retry: retry, condition: condition,
    steps: [Pipeline.Step(action: .run("true"))])
}

extension [Effect] {
  var answers: [Waiter: Answer] {
    Dictionary(
      self.compactMap {
        if case .answer(let waiter, let answer) = $0 { (waiter, answer) } else { nil }
      },
      uniquingKeysWith: { _, last in last })
  }
  var releases: [LeaseID] {
    self.compactMap { if case .release(let lease) = $0 { lease } else { nil } }
  }
  var runs: [RunOrder] { self.compactMap { if case .run(let order) = $0 { order } else { nil } } }
  var stops: [AttemptID] {
    self.compactMap { if case .stop(let attempt, _, _, _) = $0 { attempt } else { nil } }
  }
  var attaches: [AttemptID] {
    self.compactMap { if case .attach(let attempt, _, _) = $0 { attempt } else { nil } }
  }
  var demands: [Demand] {
    self.compactMap { if case .demand(let demand) = $0 { demand } else { nil } }
  }
}

extension Answer {
  var record: BuildRecord? { if case .build(let record, _) = self { record } else { nil } }
  var isUnavailable: Bool { if case .unavailable = self { true } else { false } }
}
