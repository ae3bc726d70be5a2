import Domain

/// What one pool consists of, as one look at the table found it: enough to say why a demand waits,
/// and whether it will ever be met. Its size goes with the kinds of executors, not their number.
package struct PoolSurvey: Hashable, Sendable {
  /// Executors that are alike.
  package struct Group: Hashable, Sendable {
    package enum State: Hashable, Sendable, CaseIterable {
      case ready
      /// Silent for longer than it should be.
      case suspect
      case draining
    }

    /// Sorted, each once.
    package var labels: [String]
    package var capacity: Resources
    package var state: State
    package var count: Int

    package init(labels: [String], capacity: Resources, state: State = .ready, count: Int) {
      self.labels = labels
      self.capacity = capacity
      self.state = state
      self.count = count
    }

    func hasLabels(of shape: Shape) -> Bool { shape.labels.allSatisfy(self.labels.contains) }
    func fits(_ shape: Shape) -> Bool { self.capacity.fits(shape.resources) }
  }

  /// When the look was taken, by the table's clock.
  package var time: Timestamp
  /// Since when the pool has had a live executor without a break.
  package var liveSince: Timestamp?
  package var groups: [Group]
  /// Kinds of executors that left not long ago.
  package var departed: [Group]

  package init(
    time: Timestamp, liveSince: Timestamp?, groups: [Group], departed: [Group] = []
  ) {
    self.time = time
    self.liveSince = liveSince
    self.groups = groups
    self.departed = departed
  }
}

/// What a look at a pool says of a shape that found no room.
package enum Verdict: Hashable, Sendable {
  /// It may yet be met; why it waits.
  case waits(String)
  /// No executor that is known could ever meet it; why not.
  case impossible(String)

  package var reason: String {
    switch self {
    case .waits(let reason), .impossible(let reason): reason
    }
  }
}

extension PoolSurvey {
  /// Why a demand of that shape has no lease, and whether it ever can have one.
  package func verdict(on shape: Shape, policy: Policy) -> Verdict {
    let total = Self.count(self.groups)
    guard total > 0, let liveSince = self.liveSince else {
      return .waits("pool \(shape.pool) has no executors")
    }
    let labelled = self.groups.filter { $0.hasLabels(of: shape) }
    let fitting = labelled.filter { $0.fits(shape) }
    if !fitting.isEmpty { return .waits(Self.occupied(fitting)) }

    let reason =
      labelled.isEmpty
      ? self.missingLabels(of: shape, among: total) : Self.tooSmall(labelled, for: shape)
    if self.departed.contains(where: { $0.hasLabels(of: shape) && $0.fits(shape) }) {
      return .waits("\(reason); one that did was here until a short while ago")
    }
    if self.time - liveSince < policy.unsatisfiableAfter {
      return .waits(
        "\(reason) yet; the pool has had executors for less than "
          + "\(Words.seconds(policy.unsatisfiableAfter))")
    }
    return .impossible(reason)
  }

  private func missingLabels(of shape: Shape, among total: Int) -> String {
    // Labels that nobody has are the answer; if each has its executors, only together they do not.
    let missing = shape.labels.filter { label in
      !self.groups.contains { $0.labels.contains(label) }
    }
    let named = missing.isEmpty ? shape.labels : missing
    let together = missing.isEmpty ? " together" : ""
    let word = named.count == 1 ? "label" : "labels"
    let what = "needs \(word) \(named.joined(separator: ", "))\(together)"
    let none = "0 of \(Words.executors(total)) \(total == 1 ? "matches" : "match")"
    let without = Self.count(self.groups.filter { $0.fits(shape) })
    guard without < total else { return "\(what): \(none)" }
    // The label alone would not do on all of them.
    let needs = shape.resources
    return "\(what) and \(Words.cpu(needs.cpuMillis)) and \(Words.memory(needs.memory)) of memory: "
      + "\(none); \(without) \(without == 1 ? "matches" : "match") without the \(word)"
  }

  private static func tooSmall(_ groups: [Group], for shape: Shape) -> String {
    let count = Self.count(groups)
    let needs = shape.resources
    let most = Resources(
      cpuMillis: groups.map(\.capacity.cpuMillis).max() ?? 0,
      memory: groups.map(\.capacity.memory).max() ?? ByteCount(0),
      slots: groups.map(\.capacity.slots).max() ?? 0)
    var wishes: [String] = []
    var limits: [String] = []
    if needs.cpuMillis > most.cpuMillis {
      wishes.append(Words.cpu(needs.cpuMillis))
      limits.append(Words.cpu(most.cpuMillis))
    }
    if needs.memory > most.memory {
      wishes.append("\(Words.memory(needs.memory)) of memory")
      limits.append(Words.memory(most.memory))
    }
    if needs.slots > most.slots {
      wishes.append("\(needs.slots) slots")
      limits.append("\(most.slots)")
    }
    let who = "\(Words.executors(count)) \(count == 1 ? "matches" : "match")"
    if wishes.isEmpty {
      // Each alone would do, but no executor has all of it.
      return "needs \(Words.cpu(needs.cpuMillis)) and \(Words.memory(needs.memory)) of memory "
        + "together: none of \(who) has both"
    }
    return "needs \(wishes.joined(separator: " and ")): \(who), with at most "
      + limits.joined(separator: " and ")
  }

  /// "2 executors match, both full": some could meet it, at another time.
  private static func occupied(_ groups: [Group]) -> String {
    let total = Self.count(groups)
    let suspect = Self.count(groups.filter { $0.state == .suspect })
    let draining = Self.count(groups.filter { $0.state == .draining })
    let full = total - suspect - draining
    let head = "\(Words.executors(total)) \(total == 1 ? "matches" : "match")"
    var kinds: [(count: Int, word: String)] = [(full, "full"), (draining, "draining")]
    kinds.append((suspect, "not heard from"))
    kinds.removeAll { $0.count == 0 }
    if kinds.count == 1 {
      let all = total == 1 ? "" : total == 2 ? "both " : "all "
      return total == 1 ? "\(head), and is \(kinds[0].word)" : "\(head), \(all)\(kinds[0].word)"
    }
    return head + ": " + kinds.map { "\($0.count) \($0.word)" }.joined(separator: ", ")
  }

  private static func count(_ groups: [Group]) -> Int {
    groups.reduce(0) { $0 + $1.count }
  }
}
