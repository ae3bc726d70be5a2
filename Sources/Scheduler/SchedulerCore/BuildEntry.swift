import Domain

/// A build at hand, and where its record stands.
struct BuildEntry: Sendable {
  /// What happens when the record is durable.
  enum Deferred: Hashable, Sendable {
    case step(BuildOutput.Step)
    case answer(Waiter, existed: Bool)
  }

  /// What is under way. Most builds, which wait or run, have nothing of it.
  private struct Pending: Sendable {
    @BoxedOptional var inFlight: BuildRecord?
    @BoxedOptional var committed: BuildRecord?
    var failures = 0
    var afterThis: [Deferred] = []
    var afterNext: [Deferred] = []
    var commands: [Scheduler.Command] = []

    init() {
      self._inFlight = BoxedOptional(wrappedValue: nil)
      self._committed = BoxedOptional(wrappedValue: nil)
    }

    var isWriting: Bool { self._inFlight.isThere }

    var isNothing: Bool {
      !self._inFlight.isThere && !self._committed.isThere && self.failures == 0
        && self.afterThis.isEmpty && self.afterNext.isEmpty && self.commands.isEmpty
    }
  }

  // The empty places of a dictionary, of which there may be as many as full ones, have the size of an
  // entry: the order of what follows leaves no gaps in it.
  @Boxed var machine: BuildMachine
  private var pending: Boxed<Pending>?
  /// Of the stored record; nil: there is none yet.
  var version: Int64?
  let partition: Partition
  /// The newest state is not written, or being written.
  var isDirty = false
  /// The newest state shows more than the last revision did.
  var isProgress = false
  /// As they are counted in ``Scheduler/waitingJobs``.
  private(set) var waitingJobs: Int32 = 0
  /// The round whose end was counted.
  var countedRound: Int32?
  /// Its write met another's record, which is being read.
  var isLoading = false
  /// It was read with its partition, and what it waits for is not planned yet.
  var isToResume = false

  init(machine: BuildMachine, version: Int64?) {
    self._machine = Boxed(wrappedValue: machine)
    self.partition = Partition(of: machine.record.project)
    self.version = version
  }

  private mutating func changePending(_ body: (inout Pending) -> Void) {
    var pending = self.pending.take() ?? Boxed(wrappedValue: Pending())
    body(&pending.wrappedValue)
    if !pending.wrappedValue.isNothing { self.pending = pending }
  }

  /// The record that is being written.
  var inFlight: BuildRecord? {
    get { self.pending?.wrappedValue.inFlight }
    set { self.changePending { $0.inFlight = newValue } }
  }

  /// The last committed record, while there is a newer one.
  var committed: BuildRecord? {
    get { self.pending?.wrappedValue.committed }
    set { self.changePending { $0.committed = newValue } }
  }

  /// How often the store did not answer, one time behind the other.
  var failures: Int {
    get { self.pending?.wrappedValue.failures ?? 0 }
    set { self.changePending { $0.failures = newValue } }
  }

  /// For the write that is under way.
  var afterThis: [Deferred] {
    get { self.pending?.wrappedValue.afterThis ?? [] }
    set { self.changePending { $0.afterThis = newValue } }
  }

  /// For the next write.
  var afterNext: [Deferred] {
    get { self.pending?.wrappedValue.afterNext ?? [] }
    set { self.changePending { $0.afterNext = newValue } }
  }

  /// Commands that came while the record was being read.
  var commands: [Scheduler.Command] {
    get { self.pending?.wrappedValue.commands ?? [] }
    set { self.changePending { $0.commands = newValue } }
  }

  var isWriting: Bool { self.pending?.wrappedValue.isWriting ?? false }

  var isClean: Bool { !self.isDirty && !self.isWriting }

  /// What may be shown; nil before the first commit.
  var shown: BuildRecord? {
    self.isClean && self.version != nil ? self.machine.record : self.committed
  }

  // MARK: In place
  //
  // A machine is large, and whoever reads a part of one in a dictionary gets a copy of it first. What
  // happens to each build is therefore done here, where nothing is copied.

  /// Feeds the build; see ``Scheduler/change(_:at:mayDirty:_:_:)``.
  mutating func change(
    mayDirty: Bool, _ policy: Policy,
    _ body: (inout BuildMachine, inout BuildOutput, Policy) -> Void
  ) -> BuildOutput {
    let before = mayDirty && self.isClean && self.version != nil ? self.machine.record : nil
    var out = BuildOutput()
    body(&self.machine, &out, policy)
    if out.isDirty {
      if let before { self.committed = before }
      self.isDirty = true
    }
    if out.isProgress { self.isProgress = true }
    if !out.afterCommit.isEmpty { self.afterNext += out.afterCommit.lazy.map { .step($0) } }
    return out
  }

  /// What is to be done without a commit, because none is due.
  mutating func takeDeferred() -> [Deferred] {
    guard self.isClean, !self.afterNext.isEmpty else { return [] }
    defer { self.afterNext = [] }
    return self.afterNext
  }

  /// How many more jobs wait than were counted.
  mutating func recountWaiting() -> Int {
    let count = self.machine.record.jobs.count { $0.state == .blocked || $0.state == .queued }
    defer { self.waitingJobs = Int32(count) }
    return count - Int(self.waitingJobs)
  }

  /// Where a build that was read comes in among the others that were.
  struct Turn: Comparable {
    let createdAt: Timestamp
    let id: BuildID
    let hasGroup: Bool
    /// In a group what has begun goes first, then what was to begin, then what came first.
    let place: Int

    static func < (left: Self, right: Self) -> Bool {
      (left.createdAt, left.id) < (right.createdAt, right.id)
    }
  }

  var turn: Turn {
    let record = self.machine.record
    let hasBegun = record.state == .running || record.holdsExecutors
    return Turn(
      createdAt: record.createdAt, id: record.id, hasGroup: !record.group.isEmpty,
      place: hasBegun ? 0 : record.jobs.contains { $0.state == .queued } ? 1 : 2)
  }

  /// What is due of a build that nothing more happens to for now.
  enum Due {
    case nothing
    case write(BuildRecord, base: Int64?)
    case show
    case forget
    case idle
  }

  mutating func settle(owner: String) -> Due {
    guard !self.isWriting, !self.isLoading else { return .nothing }
    if !self.isDirty, self.isProgress {
      self.isProgress = false
      if let next = Revision.shown(after: self.machine.record.revision) {
        self.machine.update { $0.revision = next }
        return .show
      }
      self.committed = self.machine.record
      self.isDirty = true
    }
    if self.isDirty {
      let revision = Revision.committed(after: self.machine.record.revision)
      self.machine.update { record in
        record.revision = revision
        record.owner = owner
      }
      self.isDirty = false
      self.isProgress = false
      let record = self.machine.record
      self.changePending { pending in
        pending.afterThis = pending.afterNext
        pending.afterNext = []
        pending.inFlight = record
      }
      return .write(self.machine.record, base: self.version)
    }
    let isDone = !self.machine.record.isActive && self.machine.live.isEmpty && self.version != nil
    return isDone ? .forget : .idle
  }

  /// The write that was under way is durable. Nil if there was none.
  mutating func committed(
    _ version: Int64
  ) -> (record: BuildRecord, isFirst: Bool, deferred: [Deferred], endsRound: Bool)? {
    guard let record = self.inFlight else { return nil }
    let isFirst = self.version == nil
    let isDirty = self.isDirty
    self.version = version
    var deferred: [Deferred] = []
    self.changePending { pending in
      pending.failures = 0
      pending.inFlight = nil
      pending.committed = isDirty ? record : nil
      deferred = pending.afterThis
      pending.afterThis = []
      // Where nothing newer is to be written, what waits for the newest state has it.
      guard !isDirty else { return }
      deferred += pending.afterNext
      pending.afterNext = []
    }
    let endsRound =
      record.state == .finished && record.outcome != nil && record.finishedAt != nil
      && self.countedRound != record.round
    if endsRound { self.countedRound = record.round }
    return (record, isFirst, deferred, endsRound)
  }

  mutating func wake(of attempt: AttemptID, _ policy: Policy) -> Timestamp? {
    self.machine.live[attempt]?.machine.wake(policy)
  }

  var project: ProjectID { mutating get { self.machine.record.project } }
}
