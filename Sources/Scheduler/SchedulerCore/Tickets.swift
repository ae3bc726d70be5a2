/// Where the work of one build stands in the ready queue. Most builds have one piece of work that waits, which
/// takes no memory of its own: a million of them do.
struct Tickets: Sendable {
  private var one: (item: Work.Item, ticket: Ticket)?
  private var others: [Work.Item: Ticket] = [:]

  subscript(_ item: Work.Item) -> Ticket? {
    get {
      if let one = self.one, one.item == item { return one.ticket }
      return self.others[item]
    }
    set {
      if self.one?.item == item {
        self.one = newValue.map { (item, $0) }
      } else if let newValue, self.one == nil, self.others[item] == nil {
        self.one = (item, newValue)
      } else if newValue != nil || !self.others.isEmpty {
        self.others[item] = newValue
        if self.others.isEmpty { self.others = [:] }
      }
    }
  }

  /// Each with its ticket, in no order.
  var all: [(item: Work.Item, ticket: Ticket)] {
    (self.one.map { [$0] } ?? []) + self.others.map { ($0.key, $0.value) }
  }

  var values: [Ticket] { self.all.map(\.ticket) }
}
