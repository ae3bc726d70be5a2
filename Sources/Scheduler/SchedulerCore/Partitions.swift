import DequeModule
import Domain

extension Scheduler {
  // MARK: Taking

  /// Partitions are this scheduler's from now on: their records are to be read.
  package mutating func partitionsTaken(_ partitions: Set<Partition>) {
    for partition in partitions { self.partitions[partition] = .loading }
  }

  /// A record that is active was read.
  package mutating func recovered(_ stored: StoredBuild, at now: Timestamp) -> [Effect] {
    guard self.partitions[Partition(of: stored.record.project)] == .loading,
      self.builds[stored.record.id] == nil
    else { return [] }
    var effects: [Effect] = []
    self.adopt(stored, at: now, &effects)
    effects += self.queue.changes()
    return effects
  }

  /// Every active record of these partitions was read: what waits is queued, and submissions are
  /// taken.
  package mutating func recoveryFinished(
    of partitions: Set<Partition> = Set(Partition.all), at now: Timestamp
  ) -> [Effect] {
    let loaded = partitions.filter { self.partitions[$0] == .loading }
    guard !loaded.isEmpty else { return [] }
    for partition in loaded { self.partitions[partition] = .serving }
    self.countPartitions()
    var effects: [Effect] = []
    // One that was let go of and read again is there twice.
    let read = Set(loaded.flatMap { self.loadingBuilds.removeValue(forKey: $0) ?? [] })
    let turns = read.compactMap { self.builds[$0]?.turn }.sorted()
    let grouped = turns.filter(\.hasGroup)
    let records = grouped.compactMap { self.builds[$0.id]?.machine.record }
    for place in 0...2 {
      for turn in grouped where turn.place == place { self.joinGroup(turn.id) }
    }
    // Of groups all at once: before anything of an earlier one begins, a newer one may take its place.
    for turn in grouped {
      self.change(turn.id, at: now, &effects) { $0.resume(at: now, $2, &$1) }
    }
    self.supersedeEarlier(of: records, at: now, &effects)
    for turn in turns where !turn.hasGroup {
      self.builds[turn.id]?.isToResume = true
      self.resuming.append(turn.id)
    }
    self.resumeSome(at: now, &effects)
    if !self.partitions.values.contains(.loading) { self.forgetPipelines() }
    effects += self.queue.changes()
    return effects
  }

  /// Jobs whose builds go on at a time, about: all else waits meanwhile, the session with the store too.
  private static let resumedJobs = 2_000

  /// Lets some of the builds that were read go on.
  mutating func resumeSome(at now: Timestamp, _ effects: inout [Effect]) {
    var left = Self.resumedJobs
    while left > 0, let id = self.resuming.popFirst() {
      // Perhaps it was given away, and read again: then it is there once more.
      guard let index = self.builds.index(forKey: id), self.builds.values[index].isToResume,
        self.partitions[self.builds.values[index].partition] == .serving
      else { continue }
      self.builds.values[index].isToResume = false
      left -= self.builds.values[index].machine.record.jobs.count
      self.change(id, at: now, &effects) { $0.resume(at: now, $2, &$1) }
    }
  }

  // MARK: Giving away

  /// Partitions go to another owner: their builds begin nothing, and each is let go of as soon as
  /// nothing of it is under way. ``closedPartitions()`` tells when that is all.
  package mutating func partitionsClosing(
    _ partitions: Set<Partition>, at now: Timestamp
  ) -> [Effect] {
    let closing = partitions.filter { self.partitions[$0] != nil }
    guard !closing.isEmpty else { return [] }
    for partition in closing { self.partitions[partition] = .closing }
    self.countPartitions()
    var effects: [Effect] = []
    for id in self.builds(in: closing) {
      for ticket in self.builds[id]?.machine.tickets.values ?? [] { self.queue.remove(ticket) }
      self.builds[id]?.machine.tickets = Tickets()
      self.settle(id, at: now, &effects)
    }
    effects += self.queue.changes()
    return effects
  }

  /// Partitions that were to be closed and have no build at hand any more; each is told once.
  package mutating func closedPartitions() -> Set<Partition> {
    let closed = self.partitions.filter { partition, stage in
      stage == .closing && self.partitionBuilds[partition.number] == 0
    }
    for partition in closed.keys { self.forget(partition) }
    return Set(closed.keys)
  }

  /// Whether a partition waits to be told of by ``closedPartitions()``.
  package var isClosing: Bool { self.partitions.values.contains(.closing) }

  /// Partitions are another's: what is at hand of them is void. Runners keep what they run.
  package mutating func partitionsLost(
    _ partitions: Set<Partition>, at now: Timestamp
  ) -> [Effect] {
    let lost = partitions.filter { self.partitions[$0] != nil }
    guard !lost.isEmpty else { return [] }
    var effects: [Effect] = []
    for id in self.builds(in: lost) {
      self.answerAll(id, Self.moved, &effects)
      self.drop(id, keepingPlace: true, at: now, &effects)
      effects.append(.moved(id))
    }
    for partition in lost { self.forget(partition) }
    self.countPartitions()
    effects += self.queue.changes()
    return effects
  }

  private mutating func countPartitions() {
    self.queue.owns(partitions: self.partitions.values.count { $0 == .serving })
  }

  private mutating func forget(_ partition: Partition) {
    self.partitions[partition] = nil
    self.loadingBuilds[partition] = nil
    for key in self.groups.keys where Partition(of: key.project) == partition {
      self.groups[key] = nil
    }
  }

  private func builds(in partitions: Set<Partition>) -> [BuildID] {
    self.builds.lazy.filter { partitions.contains($0.value.partition) }.map(\.key).sorted()
  }

  /// Lets go of a build of a partition that is being closed, if nothing of it is under way.
  mutating func letGo(_ id: BuildID, at now: Timestamp, _ effects: inout [Effect]) {
    guard let entry = self.builds[id], entry.isClean, !entry.isLoading, entry.version != nil,
      entry.commands.isEmpty,
      entry.machine.live.values.allSatisfy({ $0.machine.isWithRunner })
    else { return }
    self.drop(id, keepingPlace: true, isDurable: true, at: now, &effects)
    effects.append(.moved(id))
  }

  // MARK: Whose a build is

  func isServing(_ project: ProjectID) -> Bool {
    self.partitions[Partition(of: project)] == .serving
  }

  /// Why nothing can be done for a project here; nil: it can.
  func refusal(for project: ProjectID) -> Answer? {
    switch self.partitions[Partition(of: project)] {
    case .serving: nil
    case .loading: .unavailable("the scheduler is still reading its records")
    case .closing, nil: Self.moved
    }
  }

  /// The same for a build; one that is not at hand is judged when its record has been read.
  func refusal(for build: BuildID) -> Answer? {
    if let entry = self.builds[build] {
      return self.refusal(for: entry.machine.record.project)
    }
    if self.partitions.values.contains(.serving) { return nil }
    return self.partitions.values.contains(.loading)
      ? .unavailable("the scheduler is still reading its records") : Self.moved
  }

  static var moved: Answer { .unavailable("the build goes to another scheduler; try again") }
}
