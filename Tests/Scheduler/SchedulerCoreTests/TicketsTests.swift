import Testing

@testable import SchedulerCore

/// Any order of changes comes to what a dictionary comes to.
@Test
func ticketsAreKeptByItem() {
  var generator = SplitMix64(state: 7)
  var tickets = Tickets()
  var truth: [Work.Item: Ticket] = [:]
  for step in 1...2_000 as ClosedRange<UInt64> {
    let number = Int.random(in: 0..<3, using: &generator)
    let item: Work.Item = Bool.random(using: &generator) ? .job(number) : .notification(number)
    let ticket = Bool.random(using: &generator) ? step : nil
    tickets[item] = ticket
    truth[item] = ticket
    #expect(Dictionary(uniqueKeysWithValues: tickets.all.map { ($0.item, $0.ticket) }) == truth)
    #expect(Set(tickets.values) == Set(truth.values))
    for (item, ticket) in truth { #expect(tickets[item] == ticket) }
  }
}
