import Domain
import HeapModule

/// What waits longest, whatever its shape.
extension ReadyQueue {
  /// Since when the work waits that waits longest.
  mutating func oldestWait() -> Timestamp? {
    self.dropArrivals()
    return self.arrivals.min?.since
  }

  /// The work that waits longest, with why it waits, if it came before then.
  mutating func oldest(
    before time: Timestamp
  ) -> (ticket: Ticket, work: Work, reason: String)? {
    self.dropArrivals()
    guard let first = self.arrivals.min, first.since <= time,
      let place = self.places[first.ticket]
    else { return nil }
    return (first.ticket, first.work, self.reason(for: place.shape, of: place.project))
  }

  mutating func dropArrivals() {
    while let first = self.arrivals.min, self.places[first.ticket] == nil {
      self.arrivals.removeMin()
    }
  }

  /// Some of what waits, with its work: from the `first`th on, in an order that hardly changes; nothing beyond its end.
  func waiting(from first: Int, atMost count: Int) -> [(ticket: Ticket, work: Work)]? {
    let arrivals = self.arrivals.unordered.dropFirst(first).prefix(count)
    if arrivals.isEmpty { return nil }
    return arrivals.lazy.filter { self.places[$0.ticket] != nil }.map { ($0.ticket, $0.work) }
  }
}
