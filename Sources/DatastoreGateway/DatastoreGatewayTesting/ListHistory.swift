/// What committed transactions on lists that only grow saw and did: enough to tell whether there is
/// an order in which they could have run one after the other.
///
/// Each element is appended once, so a list's content tells which transactions wrote before, and the
/// final content in which order.
package struct ListHistory: Sendable {
  /// One committed transaction.
  package struct Transaction: Sendable {
    /// What it saw in each list that it read.
    package var reads: [Int: [Int64]]
    /// What it appended, to lists that it had read.
    package var appends: [Int: Int64]

    package init(reads: [Int: [Int64]], appends: [Int: Int64]) {
      self.reads = reads
      self.appends = appends
    }
  }

  package var transactions: [Transaction] = []

  package init() {}

  /// What no serial order explains; `nil` if one explains all.
  ///
  /// - Parameter final: All lists in the end.
  package func anomaly(final: [Int: [Int64]]) -> String? {
    var writers: [Int64: Int] = [:]
    for (number, transaction) in self.transactions.enumerated() {
      for element in transaction.appends.values { writers[element] = number }
    }
    for (list, content) in final {
      if Set(content).count < content.count { return "list \(list) has an element twice" }
      for element in content where writers[element] == nil {
        return "list \(list) has \(element), of no committed transaction"
      }
    }
    var later: [Set<Int>] = Array(repeating: [], count: self.transactions.count)
    func add(_ first: Int?, before second: Int?) {
      if let first, let second, first != second { later[first].insert(second) }
    }
    for (number, transaction) in self.transactions.enumerated() {
      for (list, element) in transaction.appends
      where !(final[list] ?? []).contains(element) {
        return "\(element) of a committed transaction is missing from list \(list)"
      }
      for (list, seen) in transaction.reads {
        let content = final[list] ?? []
        guard content.starts(with: seen) else { return "list \(list) was never \(seen)" }
        // Behind the writer of the last element it saw, before that of the next.
        add(seen.last.flatMap { writers[$0] }, before: number)
        if seen.count < content.count { add(number, before: writers[content[seen.count]]) }
      }
    }
    for content in final.values {
      for (first, second) in zip(content, content.dropFirst()) {
        add(writers[first], before: writers[second])
      }
    }
    return Self.hasCycle(later) ? "transactions that precede each other in a circle" : nil
  }

  private static func hasCycle(_ later: [Set<Int>]) -> Bool {
    var open = Array(repeating: 0, count: later.count)
    for targets in later { for target in targets { open[target] += 1 } }
    var ready = open.indices.filter { open[$0] == 0 }
    var done = 0
    while let next = ready.popLast() {
      done += 1
      for target in later[next] {
        open[target] -= 1
        if open[target] == 0 { ready.append(target) }
      }
    }
    return done < later.count
  }
}
