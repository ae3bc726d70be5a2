import DatastoreGatewayTesting
import Testing

@Suite struct ListHistories {
  private func history(_ transactions: ListHistory.Transaction...) -> ListHistory {
    var history = ListHistory()
    history.transactions = transactions
    return history
  }

  @Test func transactionsOneAfterTheOtherAreFine() {
    let history = self.history(
      .init(reads: [1: [], 2: []], appends: [1: 10]),
      .init(reads: [1: [10], 2: []], appends: [2: 20]),
      .init(reads: [1: [10], 2: [20]], appends: [1: 11]))
    #expect(history.anomaly(final: [1: [10, 11], 2: [20]]) == nil)
  }

  @Test func writeSkewIsFound() {
    let history = self.history(
      .init(reads: [1: [], 2: []], appends: [1: 10]),
      .init(reads: [1: [], 2: []], appends: [2: 20]))
    #expect(history.anomaly(final: [1: [10], 2: [20]])?.contains("circle") ?? false)
  }

  @Test func aLostAppendIsFound() {
    let history = self.history(
      .init(reads: [1: []], appends: [1: 10]), .init(reads: [1: []], appends: [1: 11]))
    #expect(history.anomaly(final: [1: [11]])?.contains("missing") ?? false)
  }

  @Test func aReadOfWhatWasRefusedIsFound() {
    let history = self.history(.init(reads: [1: [9]], appends: [1: 10]))
    #expect(history.anomaly(final: [1: [9, 10]])?.contains("no committed") ?? false)
    #expect(history.anomaly(final: [1: [10]])?.contains("never") ?? false)
  }
}
