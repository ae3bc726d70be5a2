import Domain
import SchedulerCore

/// A scheduler's place among its replicas, as `SchedulerService.Replicas` and the driver's part for
/// partitions have it: carries out what ``Membership`` decides, one step after the other.
extension SchedulerProcess {
  private static let sessionTimeout = Duration.seconds(1)
  private static let recoveryBackoff = Backoff(first: .milliseconds(100), limit: .seconds(2))

  /// Of a clock that only grows.
  private var elapsed: Duration { self.uptime - Timeline.beginning }

  /// Whether what is in memory may be shown.
  var isTrusted: Bool { self.memory.membership.trustedFor.map { self.elapsed < $0 } ?? false }

  func serves(_ partition: Partition) -> Bool {
    self.isUp && self.memory.membership.isReady
      && self.memory.membership.owner(of: partition) == .here
  }

  // MARK: The steps

  /// Takes the next step, if none is under way.
  func turn() {
    guard !self.memory.hasLeft else { return }
    // What a step tells of may lead here again, before it is carried out.
    guard !self.memory.isStepping else {
      self.memory.hasNews = true
      return
    }
    self.memory.isStepping = true
    var step = Membership.Step.look
    repeat {
      self.memory.hasNews = false
      step = self.memory.membership.next(at: self.elapsed)
      self.settle()
    } while self.memory.hasNews && !self.memory.membership.hasLeft
    if self.memory.membership.hasLeft {
      self.memory.hasLeft = true
      return self.kill()
    }
    self.memory.turns += 1
    let turn = self.memory.turns
    if case .wait(let until) = step {
      self.memory.isStepping = false
      return self.after(min(until - self.elapsed, .seconds(60))) {
        if self.memory.turns == turn { self.turn() }
      }
    }
    self.carryOut(step) {
      self.memory.isStepping = false
      self.turn()
    }
  }

  private func carryOut(_ step: Membership.Step, _ done: @escaping () -> Void) {
    let begin = self.elapsed
    let session = self.memory.membership.me.id
    let store = self.parts.store
    // Fenced meanwhile, as another write has shown: what came of the step is another's.
    func isCurrent() -> Bool { self.memory.membership.me.id == session }
    switch step {
    case .wait: done()
    case .join(let replica):
      self.join(replica) { end in
        if case .done? = end {
          self.note("takes part as \(session)")
          self.memory.membership.joined(begunAt: begin)
          self.memory.session = session
        } else {
          self.memory.membership.joinFailed(at: self.elapsed)
        }
        done()
      }
    case .renew(let replica):
      self.ask("a renewal") {
        store.renew(replica, $0)
      } then: { end in
        guard isCurrent() else { return done() }
        switch end {
        case .done?: self.memory.membership.renewed(begunAt: begin)
        case .fenced?: self.fenced(session)
        case .conflict?, nil: self.memory.membership.renewalFailed(at: self.elapsed)
        }
        done()
      }
    case .look:
      self.look { view in
        guard isCurrent() else { return done() }
        if let view {
          self.memory.membership.looked(view, begunAt: begin, endedAt: self.elapsed)
        } else {
          self.memory.membership.lookFailed(at: self.elapsed)
        }
        done()
      }
    case .change(let change):
      self.ask("a change of owners") {
        store.change(change, as: session, $0)
      } then: { end in
        guard isCurrent() else { return done() }
        switch end {
        case .done(let version)?:
          self.memory.membership.changed(
            change, version: version, begunAt: begin, at: self.elapsed)
          if change.successor != nil { self.memory.session = self.memory.membership.me.id }
        case .fenced?: self.fenced(session)
        case .conflict?, nil: self.memory.membership.changeFailed(at: self.elapsed)
        }
        done()
      }
    case .leave(let session):
      self.ask("its leave") {
        store.leave(session, $0)
      } then: { _ in
        self.memory.membership.left()
        done()
      }
    }
  }

  private func join(
    _ replica: Membership.Replica, then: @escaping (Store.End<Int64>?) -> Void
  ) {
    self.readTable { found in
      guard let (_, version) = found else { return then(nil) }
      self.ask("a session", { self.parts.store.join(replica, base: version, $0) }, then: then)
    }
  }

  private func ask(
    _ what: String, _ serve: @escaping (@escaping (Store.End<Int64>) -> Void) -> Void,
    then: @escaping (Store.End<Int64>?) -> Void
  ) {
    self.network.call(
      what, from: self, to: self.parts.store, timeout: Self.sessionTimeout, serve
    ) { (result: Result<Store.End<Int64>, CallFailure>) in
      then(try? result.get())
    }
  }

  /// The table first: see ``Membership/View``.
  private func look(_ then: @escaping (Membership.View?) -> Void) {
    self.readTable { found in
      guard let (table, version) = found else { return then(nil) }
      self.network.call(
        "the sessions", from: self, to: self.parts.store, timeout: Self.sessionTimeout
      ) { answer in
        self.parts.store.readSessions(answer)
      } then: { (result: Result<[Membership.Sighting], CallFailure>) in
        then(
          (try? result.get()).map {
            Membership.View(table: table, version: version, replicas: $0)
          })
      }
    }
  }

  private func readTable(_ then: @escaping ((PartitionTable, Int64)?) -> Void) {
    self.network.call(
      "the table", from: self, to: self.parts.store, timeout: Self.sessionTimeout
    ) { answer in
      self.parts.store.readTable { answer(($0, $1)) }
    } then: { (result: Result<(PartitionTable, Int64), CallFailure>) in
      then(try? result.get())
    }
  }

  /// A commit met no session.
  func fenced(_ session: ReplicaID) {
    guard self.memory.membership.isInside, self.memory.membership.me.id == session else { return }
    self.memory.lastSession += 1
    let next = Self.session(self.name, self.life, self.memory.lastSession)
    if self.memory.membership.fenced(as: next, at: self.elapsed) {
      self.note("others have given it up")
      self.settle()
    }
    self.turn()
  }

  /// Tells what came of an input.
  private func settle() {
    for event in self.memory.membership.takeEvents() { self.happened(event) }
    let trusted = self.memory.membership.trustedFor.map {
      self.timeline.now + self.clock.stretched($0 - self.elapsed)
    }
    let owned = Partition.all.filter { self.memory.membership.owner(of: $0) == .here }
    self.checker.speaks(self, for: Set(owned), until: trusted)
  }

  // MARK: Partitions

  private func happened(_ event: Membership.Event) {
    switch event {
    case .take(let partitions, let first):
      self.note("takes \(partitions.count) partitions")
      for partition in partitions { self.memory.generations[partition.number] += 1 }
      self.feed { core, _ in
        core.partitionsTaken(partitions)
        return []
      }
      self.recover(partitions, first: first, as: self.memory.generations, failures: 0)
    case .close(let partitions):
      self.note("closes \(partitions.count) partitions")
      self.memory.isClosing = true
      self.feed { $0.partitionsClosing(partitions, at: $1) }
    case .drop(let partitions):
      self.note("drops \(partitions.count) partitions")
      for partition in partitions { self.memory.generations[partition.number] += 1 }
      self.feed { $0.partitionsLost(partitions, at: $1) }
    }
  }

  func findClosed() {
    let closed = self.memory.core.closedPartitions()
    for partition in closed { self.memory.generations[partition.number] += 1 }
    self.memory.isClosing = self.memory.core.isClosing
    guard !closed.isEmpty else { return }
    for partition in closed.sorted() { self.memory.membership.closed(partition, at: self.elapsed) }
    self.settle()
    self.turn()
  }

  /// Partitions among these that are still as they were taken.
  private func current(_ partitions: Set<Partition>, as generations: [Int]) -> Set<Partition> {
    partitions.filter { self.memory.generations[$0.number] == generations[$0.number] }
  }

  /// Those that never had an owner are read together.
  private func recover(
    _ partitions: Set<Partition>, first: Set<Partition>, as generations: [Int], failures: Int
  ) {
    let left = self.current(partitions, as: generations)
    guard let next = left.min() else { return }
    let isTogether = !left.isDisjoint(with: first)
    self.read(isTogether ? nil : next, behind: nil) { isRead in
      guard isRead else {
        return self.after(Self.recoveryBackoff.delay(after: failures + 1)) {
          self.recover(left, first: first, as: generations, failures: failures + 1)
        }
      }
      let loaded = self.current(isTogether ? left : [next], as: generations)
      self.feed { $0.recoveryFinished(of: loaded, at: $1) }
      for partition in loaded.sorted() {
        self.memory.membership.loaded(partition, at: self.elapsed)
      }
      self.settle()
      self.turn()
      self.recover(
        left.subtracting(isTogether ? left : [next]), first: first, as: generations, failures: 0)
    }
  }

  private func read(
    _ partition: Partition?, behind cursor: BuildID?, _ then: @escaping (_ isRead: Bool) -> Void
  ) {
    self.scan(partition, behind: cursor) { page, isLast in
      guard let page else { return then(false) }
      for stored in page { self.feed { $0.recovered(stored, at: $1) } }
      if isLast { then(true) } else { self.read(partition, behind: page.last?.record.id, then) }
    }
  }

  /// Gives away what it owns, and is gone when that is done.
  func leave() {
    self.memory.membership.leave(at: self.elapsed)
    self.settle()
    self.turn()
  }

  // MARK: Calls

  /// Any scheduler answers any call: what is another's is passed on to it, once.
  func answer(_ call: Call, isForwarded: Bool = false, _ answer: @escaping (Answer) -> Void) {
    if case .submit(let submission) = call {
      return self.pass(on: call, submission.project, isForwarded: isForwarded, answer)
    }
    if Partition.all.allSatisfy({ self.memory.membership.owner(of: $0) == .here }) {
      return self.answerHere(call, answer)
    }
    if let project = self.memory.core.project(of: call.build) {
      return self.pass(on: call, project, isForwarded: isForwarded, answer)
    }
    self.lookUp(call.build) { found in
      guard case .build(let record, _) = found else { return answer(found) }
      self.pass(on: call, record.project, isForwarded: isForwarded, answer)
    }
  }

  private func pass(
    on call: Call, _ project: ProjectID, isForwarded: Bool, _ answer: @escaping (Answer) -> Void
  ) {
    switch self.memory.membership.owner(of: Partition(of: project)) {
    case .here: self.answerHere(call, answer)
    case .nobody: answer(.unavailable("its partition has no owner just now"))
    case .at(let address):
      guard !isForwarded, let owner = self.parts.scheduler(address) else {
        return answer(.unavailable("schedulers do not agree on whose it is"))
      }
      self.network.call(
        "a call passed on", from: self, to: owner, timeout: Self.storeTimeout
      ) { back in
        owner.answer(call, isForwarded: true, back)
      } then: { (result: Result<Answer, CallFailure>) in
        switch result {
        case .success(let its): answer(its)
        case .failure(let failure): answer(.unavailable("\(failure)"))
        }
      }
    }
  }
}
