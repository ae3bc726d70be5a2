import BuildProtos
import DatastoreGatewayCore
import DatastoreGatewayService
import DatastoreGatewayTesting
import Domain
import RPC
import ServiceRuntime
import Testing

/// Gives a test two gateways over what one store holds: over SQLite they share the store itself,
/// over PostgreSQL each has its own.
func withReplicas(
  on kind: StoreKind, _ body: ([TestGateway], TestDatabase?) async throws -> Void
) async throws {
  switch kind {
  case .sqlite:
    try await withGateway(on: kind) { first in
      let second = try await TestGateway(over: first.store)
      try await body([first, second], nil)
      await second.stop()
    }
  case .postgres:
    try await withDatabase { database in
      let first = try await TestGateway(over: database.open())
      let second = try await TestGateway(over: database.open())
      try await body([first, second], database)
      await first.stop()
      await second.stop()
    }
  }
}

@Suite struct Isolation {
  @Test(arguments: StoreKind.all)
  func moneyIsNeitherMadeNorLostByTwoGateways(on store: StoreKind) async throws {
    try await withReplicas(on: store) { gateways, database in
      let accounts: Int64 = 6
      for id in 1...accounts {
        try await gateways[0].put(entity(key("Account", id), ["n": integer(100)]))
      }
      @Sendable func amount(_ result: DatastoreV1.EntityResult?) -> Int64 {
        guard case .integerValue(let number) = result?.entity?.properties["n"]?.valueType else {
          return .min
        }
        return number
      }
      let outcomes = try await withThrowingTaskGroup(of: (done: Int, sums: [Int64]).self) { group in
        for worker in 0..<8 as Range<UInt64> {
          group.addTask {
            let gateway = gateways[Int(worker) % 2]
            var random = SeededGenerator(seed: worker)
            var done = 0
            var sums: [Int64] = []
            for _ in 0..<25 {
              let transaction = try await gateway.begin()
              if Int.random(in: 0..<5, using: &random) == 0 {
                // All accounts, by a query; their sum never changes.
                let all = try await gateway.query(
                  DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: "Account")]),
                  in: transaction)
                sums.append(all.entityResults.map(amount).reduce(0, +))
                _ = await status { _ = try await gateway.commit([], in: transaction) }
                continue
              }
              let from = Int64.random(in: 1...accounts, using: &random)
              let to = from % accounts + 1
              let read = try await gateway.get(
                key("Account", from), key("Account", to), in: transaction)
              let byKey = Dictionary(
                uniqueKeysWithValues: read.found.map { ($0.entity?.key, amount($0)) })
              let code = await status {
                _ = try await gateway.commit(
                  [(from, -1 as Int64), (to, 1)].map { id, change in
                    .of(
                      .update(
                        entity(
                          key("Account", id),
                          ["n": integer((byKey[key("Account", id)] ?? 0) + change)])))
                  }, in: transaction)
              }
              if code == nil { done += 1 } else { #expect(code == .aborted) }
            }
            return (done, sums)
          }
        }
        return try await group.reduce(into: []) { $0.append($1) }
      }
      #expect(outcomes.reduce(0) { $0 + $1.done } > 0)
      #expect(outcomes.flatMap(\.sums).allSatisfy { $0 == 100 * accounts })
      let all = try await gateways[1].query(
        DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: "Account")]))
      #expect(all.entityResults.map(amount).reduce(0, +) == 100 * accounts)
      if let database { #expect(try database.faults() == []) }
    }
  }

  @Test(arguments: StoreKind.all)
  func transactionsOnListsHaveASerialOrder(on store: StoreKind) async throws {
    try await withReplicas(on: store) { gateways, _ in
      let lists = 4
      @Sendable func content(_ result: DatastoreV1.EntityResult) -> [Int64] {
        guard case .arrayValue(let array) = result.entity?.properties["list"]?.valueType else {
          return []
        }
        return array.values.compactMap {
          if case .integerValue(let number) = $0.valueType { number } else { nil }
        }
      }
      let histories = try await withThrowingTaskGroup(of: ListHistory.self) { group in
        for worker in 0..<8 {
          group.addTask {
            var history = ListHistory()
            let gateway = gateways[worker % 2]
            var random = SeededGenerator(seed: UInt64(worker) + 100)
            for round in 0..<30 {
              let transaction = try await gateway.begin()
              var chosen = Array(0..<lists).shuffled(using: &random)
              chosen.removeLast(2)
              let read = try await gateway.client.lookup(
                DatastoreV1.LookupRequest(
                  projectID: project,
                  readOptions: DatastoreV1.ReadOptions(
                    consistencyType: .transaction(transaction)),
                  keys: chosen.map { key("List", Int64($0) + 1) }))
              var seen: [Int: [Int64]] = Dictionary(uniqueKeysWithValues: chosen.map { ($0, []) })
              for result in read.found {
                if case .id(let id) = result.entity?.key?.path.last?.idType {
                  seen[Int(id) - 1] = content(result)
                }
              }
              // To one of the two, or to both.
              let targets = chosen.prefix(Int.random(in: 1...2, using: &random))
              var appends: [Int: Int64] = [:]
              for (number, list) in targets.enumerated() {
                appends[list] = Int64(worker * 1_000 + round * 2 + number + 1)
              }
              let mutations = appends.map { list, element in
                DatastoreV1.Mutation.of(
                  .upsert(
                    entity(
                      key("List", Int64(list) + 1),
                      [
                        "list": DatastoreV1.Value(
                          valueType: .arrayValue(
                            DatastoreV1.ArrayValue(
                              values: ((seen[list] ?? []) + [element]).map(integer))))
                      ])))
              }
              let code = await status {
                _ = try await gateway.commit(mutations, in: transaction)
              }
              if code == nil {
                history.transactions.append(.init(reads: seen, appends: appends))
              } else {
                #expect(code == .aborted)
              }
            }
            return history
          }
        }
        return try await group.reduce(into: []) { $0.append($1) }
      }
      var final: [Int: [Int64]] = [:]
      for list in 0..<lists {
        final[list] = try await gateways[1].get(key("List", Int64(list) + 1)).found.first
          .map(content)
      }
      var judged = ListHistory()
      judged.transactions = histories.flatMap(\.transactions)
      #expect(judged.transactions.count > 20)
      #expect(judged.anomaly(final: final) == nil)
    }
  }

  @Test(arguments: StoreKind.all)
  func aQueryOfOneGatewaySeesWhatAnotherAdds(on store: StoreKind) async throws {
    try await withReplicas(on: store) { gateways, _ in
      try await gateways[0].put(entity(key("K", 1)))
      for isKindless in [false, true] {
        let transaction = try await gateways[0].begin()
        let query = DatastoreV1.Query(
          kind: isKindless ? [] : [DatastoreV1.KindExpression(name: "K")])
        let seen = try await gateways[0].query(query, in: transaction).entityResults.count
        try await gateways[1].put(entity(key("K", 100 + Int64(seen))))
        let code = await status {
          _ = try await gateways[0].commit([.of(.upsert(entity(key("L", 1))))], in: transaction)
        }
        #expect(code == .aborted)
        // What another gateway has answered is seen at once.
        let answer = try await gateways[0].get(key("K", 100 + Int64(seen)))
        #expect(answer.found.count == 1)
      }
    }
  }

  @Test(arguments: StoreKind.all)
  func idsOfTwoGatewaysAreDistinct(on store: StoreKind) async throws {
    try await withReplicas(on: store) { gateways, _ in
      let ids = try await withThrowingTaskGroup(of: [Int64].self) { group in
        for number in 0..<40 {
          group.addTask { try await gateways[number % 2].store.allocateIDs(1_500) }
        }
        return try await group.reduce(into: []) { $0 += $1 }
      }
      #expect(Set(ids).count == 60_000)
    }
  }

  @Test(arguments: StoreKind.all)
  func versionsOfTwoGatewaysOnlyGrow(on store: StoreKind) async throws {
    try await withReplicas(on: store) { gateways, _ in
      var last: Int64 = 0
      for number in 0..<40 as Range<Int64> {
        let result = try await gateways[Int(number) % 2].put(
          entity(key("K", number % 3 + 1), ["n": integer(number)])
        ).mutationResults[0]
        #expect(result.version > last)
        last = result.version
      }
    }
  }
}

@Suite struct ReadOnlyTransactions {
  @Test(arguments: StoreKind.all)
  func allReadsSeeTheMomentOfTheBeginning(on store: StoreKind) async throws {
    try await withReplicas(on: store) { gateways, _ in
      try await gateways[0].put(
        entity(key("K", 1), ["n": integer(1)]), entity(key("K", 2), ["n": integer(1)]))
      let old = try await gateways[0].begin(isReadOnly: true)
      let twin = try await gateways[0].begin(isReadOnly: true)
      func numbers(in transaction: [UInt8]?) async throws -> [DatastoreV1.Value?] {
        let read = try await gateways[0].get(
          key("K", 1), key("K", 2), key("New", 1), in: transaction)
        let query = try await gateways[0].query(
          DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: "K")]), in: transaction)
        return (read.found + query.entityResults).map { $0.entity?.properties["n"] }
      }
      #expect(try await numbers(in: old) == Array(repeating: integer(1), count: 4))
      // Another gateway writes, and again between reads.
      for number in 2...3 as ClosedRange<Int64> {
        try await gateways[1].put(
          entity(key("K", 1), ["n": integer(number)]), entity(key("K", 2), ["n": integer(number)]),
          entity(key("New", 1), ["n": integer(number)]))
        #expect(try await numbers(in: old) == Array(repeating: integer(1), count: 4))
        #expect(try await numbers(in: twin) == Array(repeating: integer(1), count: 4))
      }
      // One that ends takes nothing from the other.
      try await gateways[0].commit([], in: old)
      #expect(try await numbers(in: twin) == Array(repeating: integer(1), count: 4))
      try await gateways[0].commit([], in: twin)
      #expect(try await numbers(in: nil) == Array(repeating: integer(3), count: 5))
      for _ in 0..<40 {
        let transaction = try await gateways[0].begin(isReadOnly: true)
        #expect(try await numbers(in: transaction) == Array(repeating: integer(3), count: 5))
        try await gateways[0].commit([], in: transaction)
      }
    }
  }
}
