import Domain

/// Which attempts hold which leases.
///
/// A lease is one attempt's at a time. The records of an earlier owner may name it for two: the end of the one
/// was not committed when the other had begun under the same lease.
struct HeldLeases: Sendable {
  /// What is known of a lease that was granted here.
  struct Origin: Sendable {
    var grant: Grant
    /// What it was granted for.
    let shape: Shape
    let since: Timestamp
  }

  private struct Holders: Sendable {
    var newest: AttemptID
    var others: [AttemptID] = []
    var origin: Origin?
  }

  private var holders: [LeaseID: Holders] = [:]

  /// Leases that are held.
  var count: Int { self.holders.count }
  var isEmpty: Bool { self.holders.isEmpty }

  /// Each with its attempts, in a fixed order.
  var all: [(lease: LeaseID, attempts: [AttemptID])] {
    self.holders.sorted { $0.key < $1.key }.map { ($0.key, $0.value.others + [$0.value.newest]) }
  }

  /// Whose a lease is; empty: nobody's.
  func attempts(under lease: LeaseID) -> [AttemptID] {
    self.holders[lease].map { $0.others + [$0.newest] } ?? []
  }

  func contains(_ lease: LeaseID) -> Bool { self.holders[lease] != nil }

  func holds(_ attempt: AttemptID, _ lease: LeaseID) -> Bool {
    guard let known = self.holders[lease] else { return false }
    return known.newest == attempt || known.others.contains(attempt)
  }

  mutating func took(_ lease: LeaseID, _ attempt: AttemptID) {
    guard !self.holds(attempt, lease) else { return }
    if let known = self.holders[lease] { self.holders[lease]?.others.append(known.newest) }
    self.holders[lease, default: Holders(newest: attempt)].newest = attempt
  }

  mutating func note(_ origin: Origin) { self.holders[origin.grant.lease]?.origin = origin }

  /// An attempt holds its lease no more.
  ///
  /// - Returns: Whether nobody else does, and what is known of it then.
  mutating func gaveBack(
    _ lease: LeaseID, _ attempt: AttemptID
  ) -> (isFree: Bool, origin: Origin?) {
    guard var known = self.holders[lease] else { return (true, nil) }
    if known.newest != attempt {
      known.others.removeAll { $0 == attempt }
      self.holders[lease] = known
      return (false, nil)
    }
    if let other = known.others.popLast() {
      known.newest = other
      self.holders[lease] = known
      return (false, nil)
    }
    self.holders[lease] = nil
    return (true, known.origin)
  }
}
