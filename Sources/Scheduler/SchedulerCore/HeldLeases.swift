import Domain

/// Which attempts hold which leases.
///
/// A lease is one attempt's at a time. The records of an earlier owner may name it for two: the end of the one
/// was not committed when the next had its record. The next was never begun then.
struct HeldLeases: Sendable {
  /// What is known of a lease that was granted here.
  struct Origin: Sendable {
    var grant: Grant
    /// What it was granted for.
    let shape: Shape
    let since: Timestamp
  }

  /// What is to become of a lease that an attempt holds no more.
  enum Disposal: Sendable {
    /// Another attempt holds it.
    case none
    case release
    /// The next job of its shape may have it.
    case reuse(Origin)
  }

  private struct Holders: Sendable {
    var attempts: [AttemptID]
    var origin: Origin?
  }

  private var holders: [LeaseID: Holders] = [:]

  /// Leases that are held.
  var count: Int { self.holders.count }

  /// Each with its attempts, in a fixed order.
  var all: [(lease: LeaseID, attempts: [AttemptID])] {
    self.holders.sorted { $0.key < $1.key }.map { ($0.key, $0.value.attempts) }
  }

  /// Whose a lease is; empty: nobody's.
  func attempts(under lease: LeaseID) -> [AttemptID] { self.holders[lease]?.attempts ?? [] }

  mutating func took(_ lease: LeaseID, _ attempt: AttemptID) {
    guard !self.attempts(under: lease).contains(attempt) else { return }
    self.holders[lease, default: Holders(attempts: [])].attempts.append(attempt)
  }

  mutating func note(_ origin: Origin) { self.holders[origin.grant.lease]?.origin = origin }

  /// A lease is over, though somebody may go on under it: nobody is to have it next.
  mutating func ended(_ lease: LeaseID) { self.holders[lease]?.origin = nil }

  mutating func gaveBack(_ lease: LeaseID, _ attempt: AttemptID, isReusable: Bool) -> Disposal {
    guard var known = self.holders.removeValue(forKey: lease) else { return .release }
    known.attempts.removeAll { $0 == attempt }
    guard known.attempts.isEmpty else {
      self.holders[lease] = known
      return .none
    }
    return isReusable ? known.origin.map { .reuse($0) } ?? .release : .release
  }
}
