import Domain

/// Attempts that got their leases from attempts that had ended, until those ends are durable: before that no runner
/// hears of them. Else a scheduler that takes over might give the lease back, when the one is over by all that it can
/// read and another's runs.
struct LeaseHandovers: Sendable {
  struct Handover: Sendable {
    let build: BuildID
    let attempt: AttemptID
    /// All else is done: the attempt begins when the earlier one's end is durable.
    var isDue = false
  }

  private var handovers: [AttemptID: Handover] = [:]
  private var successors: [BuildID: [AttemptID]] = [:]

  var attempts: some Sequence<AttemptID> { self.handovers.keys }

  /// Where an attempt has its lease from; nil: nothing holds it up.
  subscript(_ attempt: AttemptID) -> Handover? { self.handovers[attempt] }

  mutating func add(_ attempt: AttemptID, behind earlier: AttemptID, of build: BuildID) {
    self.handovers[attempt] = Handover(build: build, attempt: earlier)
    self.successors[build, default: []].append(attempt)
  }

  mutating func becameDue(_ attempt: AttemptID) { self.handovers[attempt]?.isDue = true }

  mutating func remove(_ attempt: AttemptID) {
    if self.handovers.isEmpty { return }
    guard let handover = self.handovers.removeValue(forKey: attempt) else { return }
    self.successors[handover.build]?.removeAll { $0 == attempt }
    if self.successors[handover.build]?.isEmpty ?? false { self.successors[handover.build] = nil }
  }

  /// Attempts that wait for ends of this build's.
  func attempts(behind build: BuildID) -> [AttemptID] { self.successors[build] ?? [] }
}
