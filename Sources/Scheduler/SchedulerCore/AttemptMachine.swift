import Domain

/// One attempt, from its lease to the moment when its executor is free of it.
///
/// ```
/// recording --committed--> calling <--> paused          (a stream is open, or will be again)
///                             |            |
///                             +--verdict---+--> over    (the runner is free of it)
///                             |            |
///                             +---stop-----+--> stopping --> over
/// ```
///
/// The owner feeds it what it hears and carries out the ``Step`` that comes back; times come in
/// with every input, and ``wake`` says when the machine wants ``timePassed(at:)``.
struct AttemptMachine: Sendable {
  /// What the owner is to do.
  enum Step: Hashable, Sendable {
    case nothing
    /// Open a stream that starts the attempt.
    case run
    /// Open a stream of the events behind this one.
    case attach(after: Int64)
    /// Ask the runner to stop it, and open a stream to hear of its end.
    case stop(thenAttachAfter: Int64)
    /// It is decided how it ended; the machine is over.
    case ended(Verdict)
    /// What was to stop has stopped, or is given up; the machine is over.
    case stopped
  }

  /// How an attempt ended that was not stopped from here.
  enum Verdict: Hashable, Sendable {
    case finished(Outcome, message: String)
    /// The executor or the attempt on it is gone.
    case lost(String)
    /// The runner never took it: it did not begin. With `mayRun` it might have, unheard.
    case notStarted(String, mayRun: Bool)
    case invalid(String)
  }

  private enum State: Hashable, Sendable {
    /// Its record is not committed: the runner must not hear of it.
    case recording
    /// A stream is open, or being opened.
    case calling(failures: Int)
    /// No stream; the next call is due at this time.
    case paused(until: Timestamp, failures: Int)
    case over
  }

  let lease: LeaseID
  let executor: ExecutorID
  let address: String
  let token: FencingToken
  /// For how many attempts the lease was used before; of no interest for one that was recovered, whose runner has it.
  let leaseUse: Int32
  let resources: Resources
  private var state: State
  /// The runner has said that it took it.
  private var isTaken: Bool
  private(set) var lastSequence: Int64 = 0
  /// Since when the runner cannot be reached.
  private var unreachableSince: Timestamp?
  /// When it should have ended by itself.
  private let deadline: Timestamp
  /// Somebody has seen that it is overdue; what follows takes a commit.
  private var isKnownOverdue = false
  /// Set once it is to stop: when that began.
  private var stoppingSince: Timestamp?
  /// Why it does not count as succeeded, whatever its runner says.
  private var flaw: String?

  /// A new attempt, whose record is being written.
  static func recording(
    _ grant: Grant, resources: Resources, deadline: Timestamp
  ) -> Self {
    Self(
      lease: grant.lease, executor: grant.executor, address: grant.address, token: grant.token,
      leaseUse: grant.use, resources: resources, state: .recording, isTaken: false,
      deadline: deadline)
  }

  /// An attempt that stands in a record that was read: the runner may or may not have it.
  static func recovered(
    lease: LeaseID, executor: ExecutorID, address: String, token: FencingToken,
    resources: Resources, deadline: Timestamp, stoppingSince: Timestamp?
  ) -> Self {
    var machine = Self(
      lease: lease, executor: executor, address: address, token: token, leaseUse: 0,
      resources: resources, state: .calling(failures: 0), isTaken: true, deadline: deadline)
    machine.stoppingSince = stoppingSince
    return machine
  }

  private init(
    lease: LeaseID, executor: ExecutorID, address: String, token: FencingToken, leaseUse: Int32,
    resources: Resources, state: State, isTaken: Bool, deadline: Timestamp
  ) {
    self.lease = lease
    self.executor = executor
    self.address = address
    self.token = token
    self.leaseUse = leaseUse
    self.resources = resources
    self.state = state
    self.isTaken = isTaken
    self.deadline = deadline
  }

  var isOver: Bool { self.state == .over }
  var isStopping: Bool { self.stoppingSince != nil }
  /// Whether the runner may know of it.
  var isRecorded: Bool { self.state != .recording }
  /// Whether its runner has it, as far as was heard, or it is to stop: another owner finds it there.
  var isWithRunner: Bool { self.isRecorded && (self.isTaken || self.isStopping) }

  /// When it wants to be told that time has passed; nil: only news can move it.
  func wake(_ policy: Policy) -> Timestamp? {
    switch self.state {
    case .over, .recording: nil
    case .paused(let until, _): until
    case .calling:
      self.stoppingSince.map { $0 + policy.stopLimit }
        ?? (self.isKnownOverdue ? nil : self.deadline)
    }
  }

  // MARK: Inputs

  /// Its record is durable.
  mutating func committed() -> Step {
    guard self.state == .recording else { return .nothing }
    self.state = .calling(failures: 0)
    return .run
  }

  /// An event of the attempt arrived. Answers whether it is the next one: a repeated one is a
  /// harmless race between two streams.
  mutating func isNext(_ sequence: Int64) -> Bool {
    guard self.state != .over, self.state != .recording, sequence == self.lastSequence + 1 else {
      return false
    }
    self.lastSequence = sequence
    self.isTaken = true
    self.unreachableSince = nil
    self.state = .calling(failures: 0)
    return true
  }

  /// Not all that it did could be recorded. The first reason stands.
  mutating func cannotSucceed(_ why: String) { self.flaw = self.flaw ?? why }

  /// The last event said how it ended.
  mutating func finished(_ outcome: Outcome, message: String) -> Step {
    let wasStopping = self.isStopping
    self.state = .over
    if wasStopping { return .stopped }
    if let flaw = self.flaw, outcome == .succeeded {
      return .ended(.finished(.failed, message: flaw))
    }
    return .ended(.finished(outcome, message: message.limited(toBytes: Self.messageBytes)))
  }

  /// Of a runner's words on an attempt: they are part of the build's record.
  private static let messageBytes = 2_000

  /// The stream ended before the last event.
  mutating func streamEnded(_ end: StreamEnd, at now: Timestamp, _ policy: Policy) -> Step {
    guard case .calling(let earlier) = self.state else { return .nothing }
    let failures = earlier + 1
    if self.isStopping {
      switch end {
      // What it does not know it does not run.
      case .notFound, .refused, .invalid: return self.over(.stopped)
      case .unreachable:
        self.state = .paused(
          until: now + policy.stopBackoff.delay(after: failures), failures: failures)
        return .nothing
      }
    }
    switch end {
    case .notFound where self.isTaken:
      return self.over(
        .ended(.lost("executor \(self.executor) no longer knows the attempt")))
    case .refused(let why) where self.isTaken:
      return self.over(.ended(.lost("executor \(self.executor) gave it up: \(why)")))
    case .refused(let why):
      return self.over(
        .ended(.notStarted("executor \(self.executor) refused it: \(why)", mayRun: false)))
    case .invalid(let why):
      return self.over(.ended(.invalid(why)))
    case .notFound, .unreachable:
      let why = if case .unreachable(let text) = end { text } else { "it does not know it" }
      if !self.isTaken, failures >= policy.maximumStartFailures {
        return self.over(
          .ended(
            .notStarted(
              "executor \(self.executor) did not take it in \(failures) calls: \(why)",
              mayRun: true)))
      }
      let since = self.unreachableSince ?? now
      if self.isTaken, now - since >= policy.unreachableLimit {
        return self.over(
          .ended(.lost("executor \(self.executor) could not be reached: \(why)")))
      }
      self.unreachableSince = since
      self.state = .paused(
        until: now + policy.callBackoff.delay(after: failures), failures: failures)
      return .nothing
    }
  }

  /// The allocator says that its lease is over.
  mutating func leaseLost(_ loss: LeaseLoss, _ message: String) -> Step {
    switch self.state {
    case .over: return .nothing
    case .recording:
      return self.over(.ended(.notStarted(message, mayRun: false)))
    case .calling, .paused:
      // Its runner lives, and is the one to say: the job may have ended while nobody listened.
      if loss == .expired { return .nothing }
      return self.over(self.isStopping ? .stopped : .ended(.lost(message)))
    }
  }

  /// Nobody wants it any more. To be called when that is committed.
  mutating func stop(at now: Timestamp) -> Step {
    guard self.stoppingSince == nil, self.state != .over else { return .nothing }
    self.stoppingSince = now
    if case .recording = self.state { return self.over(.stopped) }
    self.state = .calling(failures: 0)
    return .stop(thenAttachAfter: self.lastSequence)
  }

  mutating func timePassed(at now: Timestamp, _ policy: Policy) -> Step {
    if let since = self.stoppingSince, self.state != .over, now >= since + policy.stopLimit {
      return self.over(.stopped)
    }
    switch self.state {
    case .paused(let until, let failures) where now >= until:
      self.state = .calling(failures: failures)
      if self.isStopping { return .stop(thenAttachAfter: self.lastSequence) }
      return self.isTaken ? .attach(after: self.lastSequence) : .run
    case .calling, .paused, .recording, .over: return .nothing
    }
  }

  /// Whether it runs longer than it may: it is to be stopped. Said once.
  mutating func becameOverdue(at now: Timestamp) -> Bool {
    guard self.state != .over, !self.isStopping, !self.isKnownOverdue, now >= self.deadline else {
      return false
    }
    self.isKnownOverdue = true
    return true
  }

  /// Nothing more is to come of it.
  private mutating func over(_ step: Step) -> Step {
    self.state = .over
    return step
  }
}
