import DequeModule
import Domain

/// Leases that schedulers count on: each is looked up from time to time, and its end is told.
extension StateMachine {
  mutating func claimed(_ stream: StreamID, _ held: HeldByScheduler) {
    guard self.state.streams[stream] != nil else { return }
    if let mistake = Policy.mistake(inName: held.lease.rawValue, of: "lease_id") {
      self.refuse(stream, .invalid(mistake))
      return
    }
    self.watch(held, for: stream, isClaim: true)
    guard self.state.watches[held.lease]?.stream == stream else { return }
    // Once the table is there, all are looked up.
    guard self.state.table == .connected else { return }
    self.state.claims.append(held.lease)
    self.checkNext()
  }

  mutating func watch(_ held: HeldByScheduler, for stream: StreamID, isClaim: Bool) {
    if let before = self.state.watches[held.lease] {
      self.state.streams[before.stream]?.leases.remove(held.lease)
    } else if self.state.watches.count >= self.policy.maximumWatchedLeases {
      self.refuse(stream, .tooManyLeases(limit: self.policy.maximumWatchedLeases))
      return
    }
    self.state.lastWatch += 1
    let number = self.state.lastWatch
    self.state.watches[held.lease] = State.Watch(
      held: held, stream: stream, isClaim: isClaim, number: number)
    self.state.streams[stream]?.leases.insert(held.lease)
    // While nothing is looked up, those that are over do not come up.
    if self.state.turns.count > 2 * self.state.watches.count + Self.turnsInVain {
      self.state.turns = Deque(self.state.turns.filter { self.watch(of: $0) != nil })
      self.state.dueTurns = min(self.state.dueTurns, self.state.turns.count)
    }
    self.state.turns.append(State.Turn(lease: held.lease, number: number))
  }

  mutating func unwatch(_ lease: LeaseID) {
    guard let watch = self.state.watches.removeValue(forKey: lease) else { return }
    self.state.streams[watch.stream]?.leases.remove(lease)
  }

  mutating func leasesEnded(_ ended: [EndedLease]) {
    for lease in ended {
      guard let watch = self.state.watches[lease.id] else { continue }
      self.unwatch(lease.id)
      // Whoever released it knows; it may have been another replica that was told.
      if lease.cause == .released && !watch.isClaim { continue }
      var lease = lease
      // The scheduler's own name for it: a runner that brought the lease back may use another.
      lease.request = watch.held.request
      self.effects.append(.send(watch.stream, .lost(lease)))
    }
  }

  /// Turns of watches that are over are dropped when there are so many more than there are watches.
  static let turnsInVain = 1_000

  /// Nil: it is over.
  func watch(of turn: State.Turn) -> State.Watch? {
    self.state.watches[turn.lease].flatMap { $0.number == turn.number ? $0 : nil }
  }

  /// Looks up the leases whose turn has come since the last time.
  mutating func checkDue(at now: Timestamp) {
    let interval = self.policy.checkInterval
    var elapsed = interval
    if let last = self.state.lastCheck, !Self.isDue(last, interval, now) { elapsed = now - last }
    self.state.lastCheck = now
    let count = Int64(self.state.turns.count)
    let due = (count * elapsed.microseconds + interval.microseconds - 1) / interval.microseconds
    // What is not through yet is no more than one turn of each.
    self.state.dueTurns = min(self.state.dueTurns + Int(due), self.state.turns.count)
    self.checkNext()
  }

  /// First what was brought up, then whose turn it is.
  mutating func checkNext() {
    guard self.state.table == .connected, self.state.checking == nil else { return }
    var batch: [State.Watch] = []
    while batch.count < self.policy.checkBatch, let lease = self.state.claims.popFirst() {
      if let watch = self.state.watches[lease] { batch.append(watch) }
    }
    while batch.count < self.policy.checkBatch, self.state.dueTurns > 0,
      let turn = self.state.turns.popFirst()
    {
      self.state.dueTurns -= 1
      guard let watch = self.watch(of: turn) else { continue }
      self.state.turns.append(turn)
      batch.append(watch)
    }
    guard !batch.isEmpty else { return }
    self.state.checking = batch
    self.effects.append(.check(batch.map(\.held)))
  }

  mutating func checked(_ standings: [LeaseStanding]) {
    guard let asked = self.state.checking else {
      preconditionFailure("an answer to a check that was not asked for")
    }
    precondition(asked.count == standings.count)
    self.state.checking = nil
    for (watch, standing) in zip(asked, standings) {
      let held = watch.held
      switch standing {
      case .held:
        // Not what another scheduler has brought up meanwhile.
        if watch.isClaim, self.state.watches[held.lease]?.number == watch.number {
          self.state.watches[held.lease]?.isClaim = false
        }
      case .unknownYet: break  // Its turn comes again.
      case .ended(let cause, let message):
        self.leasesEnded([
          EndedLease(
            id: held.lease, request: held.request, executor: held.executor, cause: cause,
            message: message)
        ])
      }
    }
    self.checkNext()
  }
}
