import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC
import ServiceRuntime
import Testing

@testable import DatastoreGatewayService

private func time(_ microseconds: Int64) -> GoogleProtobuf.Timestamp {
  GoogleProtobuf.Timestamp(
    seconds: microseconds / 1_000_000, nanos: Int32(microseconds % 1_000_000) * 1_000)
}

private let allOfK = DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: "K")])

extension TestGateway {
  fileprivate func get(
    _ id: Int64, _ consistency: DatastoreV1.ReadOptions.ConsistencyType
  ) async throws -> DatastoreV1.LookupResponse {
    try await self.client.lookup(
      DatastoreV1.LookupRequest(
        projectID: project,
        readOptions: DatastoreV1.ReadOptions(consistencyType: consistency),
        keys: [key("K", id)]))
  }

  fileprivate func value(
    _ id: Int64, _ consistency: DatastoreV1.ReadOptions.ConsistencyType
  ) async throws -> DatastoreV1.Value? {
    try await self.get(id, consistency).found.first?.entity?.properties["a"]
  }

  /// Ids and values of the kind `K`, by id.
  fileprivate func all(
    _ consistency: DatastoreV1.ReadOptions.ConsistencyType
  ) async throws -> [DatastoreV1.Value?] {
    try await self.client.runQuery(
      DatastoreV1.RunQueryRequest(
        projectID: project,
        readOptions: DatastoreV1.ReadOptions(consistencyType: consistency),
        queryType: .query(allOfK))
    ).batch?.entityResults.map { $0.entity?.properties["a"] } ?? []
  }

  fileprivate func beginReadOnly(
    at microseconds: Int64? = nil
  ) async throws -> [UInt8] {
    try await self.client.beginTransaction(
      DatastoreV1.BeginTransactionRequest(
        projectID: project,
        transactionOptions: DatastoreV1.TransactionOptions(
          mode: .readOnly(
            DatastoreV1.TransactionOptions.ReadOnly(readTime: microseconds.map(time)))))
    ).transaction
  }
}

@Suite struct ThePast {
  /// More than a gateway has connections for.
  @Test(arguments: StoreKind.all) func manyReadOnlyTransactionsEachSeeTheirMoment(
    on kind: StoreKind
  ) async throws {
    try await withGateway(on: kind) { gateway in
      var transactions: [[UInt8]] = []
      for number in 0..<40 as Range<Int64> {
        try await gateway.put(entity(key("K", 1), ["a": integer(number)]))
        transactions.append(try await gateway.beginReadOnly())
      }
      try await gateway.put(entity(key("K", 1), ["a": integer(-1)]))
      for (number, transaction) in transactions.enumerated() {
        let seen = try await gateway.value(1, .transaction(transaction))
        #expect(seen == integer(Int64(number)))
      }
    }
  }

  @Test(arguments: StoreKind.all) func aReadSeesWhatWasThereAtItsTime(
    on kind: StoreKind
  ) async throws {
    try await withGateway(on: kind) { gateway in
      try await gateway.put(
        entity(key("K", 1), ["a": integer(1)]), entity(key("K", 2), ["a": integer(2)]))
      let moment = try await gateway.get(key("K", 1)).found[0].version
      try await gateway.commit(
        .of(.update(entity(key("K", 1), ["a": integer(10)]))), .of(.delete(key("K", 2))),
        .of(.insert(entity(key("K", 3), ["a": integer(3)]))))
      let then = DatastoreV1.ReadOptions.ConsistencyType.readTime(time(moment))
      #expect(try await gateway.value(1, then) == integer(1))
      #expect(try await gateway.value(2, then) == integer(2))
      #expect(try await gateway.value(3, then) == nil)
      let answer = try await gateway.get(1, then)
      #expect(answer.readTime == time(moment))
      #expect(answer.found[0].version == moment)
      #expect(try await gateway.all(then) == [integer(1), integer(2)])
      let now = DatastoreV1.ReadOptions.ConsistencyType.readConsistency(.strong)
      #expect(try await gateway.all(now) == [integer(10), integer(3)])

      let counted = try await gateway.client.runAggregationQuery(
        DatastoreV1.RunAggregationQueryRequest(
          projectID: project, readOptions: DatastoreV1.ReadOptions(consistencyType: then),
          queryType: .aggregationQuery(
            DatastoreV1.AggregationQuery(
              nestedQuery: allOfK,
              aggregations: [
                DatastoreV1.AggregationQuery.Aggregation(
                  operator: .sum(
                    DatastoreV1.AggregationQuery.Aggregation.Sum(
                      property: DatastoreV1.PropertyReference(name: "a"))), alias: "s")
              ]))))
      #expect(
        counted.batch?.aggregationResults.first?.aggregateProperties["s"] == integer(3))
    }
  }

  @Test(arguments: StoreKind.all) func aReadOnlyTransactionSeesOneMoment(
    on kind: StoreKind
  ) async throws {
    try await withGateway(on: kind) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(1)]))
      let moment = try await gateway.get(key("K", 1)).found[0].version
      let transaction = try await gateway.beginReadOnly()
      try await gateway.put(
        entity(key("K", 1), ["a": integer(2)]), entity(key("K", 2), ["a": integer(2)]))
      #expect(try await gateway.value(1, .transaction(transaction)) == integer(1))
      #expect(try await gateway.value(2, .transaction(transaction)) == nil)
      #expect(try await gateway.all(.transaction(transaction)) == [integer(1)])
      try await gateway.put(entity(key("K", 1), ["a": integer(3)]))
      #expect(try await gateway.value(1, .transaction(transaction)) == integer(1))
      // What it read has changed, and that is nothing to it.
      try await gateway.commit([], in: transaction)

      let past = try await gateway.beginReadOnly(at: moment)
      #expect(try await gateway.all(.transaction(past)) == [integer(1)])
    }
  }

  /// While others write, and when nobody has for a long time.
  @Test(arguments: StoreKind.all) func theTimeOfAnAnswerIsThatOfWhatItFound(
    on kind: StoreKind
  ) async throws {
    try await withGateway(on: kind) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(0)]))
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
          for number in 1...200 {
            try await gateway.put(entity(key("K", 1), ["a": integer(Int64(number))]))
          }
        }
        for _ in 0..<4 {
          group.addTask {
            for _ in 0..<100 {
              let answer = try await gateway.get(key("K", 1))
              let found = answer.found[0].entity?.properties["a"]
              let readTime = try #require(answer.readTime)
              #expect(try await gateway.value(1, .readTime(readTime)) == found)
            }
          }
        }
        try await group.waitForAll()
      }
    }
    let clock = TestClock()
    try await withGateway(on: kind, clock: clock) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(0)]))
      clock.move(by: .seconds(600))
      let answer = try await gateway.get(key("K", 1))
      #expect(answer.readTime == time((clock.now() - .seconds(60)).microseconds))
    }
  }

  @Test(arguments: StoreKind.all) func nothingIsEverWrittenIntoAMomentThatWasRead(
    on kind: StoreKind
  ) async throws {
    let clock = TestClock()
    try await withGateway(on: kind, clock: clock) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(1)]))
      clock.move(by: .seconds(1))
      let moment = clock.now().microseconds
      let now = DatastoreV1.ReadOptions.ConsistencyType.readTime(time(moment))
      #expect(try await gateway.value(1, now) == integer(1))
      // The clock goes back, and gives the commit an earlier time.
      clock.move(by: .milliseconds(-500))
      let version = try await gateway.put(entity(key("K", 1), ["a": integer(2)]))
        .mutationResults[0].version
      #expect(version > moment)
      clock.move(by: .seconds(1))
      #expect(try await gateway.value(1, now) == integer(1))
    }
  }

  @Test(arguments: StoreKind.all) func aTimeThatCannotBeReadIsRefused(
    on kind: StoreKind
  ) async throws {
    let clock = TestClock()
    try await withGateway(on: kind, clock: clock) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(1)]))
      let now = clock.now().microseconds
      func code(_ time: GoogleProtobuf.Timestamp) async -> StatusCode? {
        await status { _ = try await gateway.get(1, .readTime(time)) }
      }
      #expect(await code(time(now + 1_000_000)) == .invalidArgument)
      #expect(
        await code(GoogleProtobuf.Timestamp(seconds: now / 1_000_000, nanos: 1))
          == .invalidArgument)
      #expect(await code(GoogleProtobuf.Timestamp()) == .invalidArgument)
      #expect(
        await status { _ = try await gateway.beginReadOnly(at: now + 1_000_000) }
          == .invalidArgument)
    }
  }

  @Test(.timeLimit(.minutes(2)), arguments: StoreKind.all) func whatIsNoLongerKeptIsRefused(
    on kind: StoreKind
  ) async throws {
    try await withGateway(on: kind) { configuration in
      configuration.pastBytes = 2_000
    } _: { gateway in
      let first = try await gateway.put(entity(key("K", 1), ["a": integer(0)]))
        .mutationResults[0].version
      try await gateway.put(entity(key("K", 2)))
      let transaction = try await gateway.beginReadOnly()
      let then = DatastoreV1.ReadOptions.ConsistencyType.readTime(time(first))
      var number: Int64 = 0
      // PostgreSQL's is given room beside the writes.
      repeat {
        number += 1
        try await gateway.put(entity(key("K", 1), ["a": integer(number)]))
      } while await status { _ = try await gateway.get(1, then) } != .failedPrecondition
      #expect(number > 2)
      #expect(await status { _ = try await gateway.all(then) } == .failedPrecondition)
      // The database keeps what a transaction of its own sees.
      #expect(
        await status { _ = try await gateway.all(.transaction(transaction)) }
          == (kind == .sqlite ? .failedPrecondition : nil))
      let last = try await gateway.get(key("K", 1)).found[0].version
      try await gateway.put(entity(key("K", 1), ["a": integer(-1)]))
      #expect(try await gateway.value(1, .readTime(time(last))) == integer(number))
    }
  }

  @Test(arguments: StoreKind.all) func aDrainedGatewayReadsAtATime(
    on kind: StoreKind
  ) async throws {
    try await withGateway(on: kind) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(1)]))
      let later = Timestamp.now.microseconds
      await gateway.store.drain()
      #expect(try await gateway.value(1, .readTime(time(later))) == integer(1))
    }
  }

  /// Many at once, so that commits of one entity meet in one batch of the writer's.
  @Test(arguments: StoreKind.all) func eachCommitLeavesAMoment(
    on kind: StoreKind
  ) async throws {
    try await withGateway(on: kind) { gateway in
      try await gateway.put(entity(key("K", 9), ["a": integer(9)]))
      let moments = try await withThrowingTaskGroup(of: (Int64, Int64, Int64?).self) { group in
        for number in 0..<30 as Range<Int64> {
          group.addTask {
            let id = number % 3 + 1
            // Each fifth one is a deletion.
            let value = number % 5 == 4 ? nil : number
            let answer = try await gateway.commit(
              value.map { .of(.upsert(entity(key("K", id), ["a": integer($0)]))) }
                ?? .of(.delete(key("K", id))))
            return (answer.mutationResults[0].version, id, value)
          }
        }
        return try await group.reduce(into: []) { $0.append($1) }
      }.sorted { $0.0 < $1.0 }
      var content: [Int64: Int64] = [9: 9]
      for (number, moment) in moments.enumerated() {
        content[moment.1] = moment.2
        // What deletes nothing may have the version of what is there.
        if number + 1 < moments.count, moments[number + 1].0 == moment.0 { continue }
        let then = DatastoreV1.ReadOptions.ConsistencyType.readTime(time(moment.0))
        let expected = content.sorted { $0.key < $1.key }.map { integer($0.value) }
        #expect(try await gateway.all(then) == expected)
        #expect(try await gateway.value(moment.1, then) == moment.2.map(integer))
        let above = try await gateway.client.runQuery(
          DatastoreV1.RunQueryRequest(
            projectID: project,
            readOptions: DatastoreV1.ReadOptions(consistencyType: then),
            queryType: .query(
              DatastoreV1.Query(
                kind: [DatastoreV1.KindExpression(name: "K")],
                filter: DatastoreV1.Filter(
                  filterType: .propertyFilter(
                    DatastoreV1.PropertyFilter(
                      property: DatastoreV1.PropertyReference(name: "a"),
                      op: .greaterThan, value: integer(8))))))))
        #expect(
          above.batch?.entityResults.map { $0.entity?.properties["a"] }
            == content.values.filter { $0 > 8 }.sorted().map(integer))
      }
    }
  }
}

@Suite(needsServer) struct ThePastInADatabase {
  private typealias Moment = DatastoreV1.ReadOptions.ConsistencyType

  private func then(_ version: Int64) -> Moment { .readTime(time(version)) }

  private func withGateways(
    over stores: [PostgresStore], clock: @escaping @Sendable () -> Timestamp = { .now },
    _ body: ([TestGateway]) async throws -> Void
  ) async throws {
    var gateways: [TestGateway] = []
    for store in stores { gateways.append(try await TestGateway(over: store, clock: clock)) }
    do {
      try await body(gateways)
    } catch {
      for gateway in gateways { await gateway.stop() }
      throw error
    }
    for gateway in gateways { await gateway.stop() }
  }

  @Test func gatewaysHaveOnePast() async throws {
    try await withDatabase { database in
      let clock = TestClock()
      let slow = TestClock()
      slow.move(by: .seconds(-10))
      let stores = [try database.open(clock: clock.now), try database.open(clock: slow.now)]
      try await self.withGateways(over: stores, clock: clock.now) { gateways in
        let first = try await gateways[1].put(entity(key("K", 1), ["a": integer(1)]))
          .mutationResults[0].version
        try await gateways[1].put(entity(key("K", 1), ["a": integer(2)]))
        #expect(try await gateways[0].value(1, self.then(first)) == integer(1))
        // Nor does one whose clock is behind write into a moment that another has read.
        clock.move(by: .seconds(1))
        let now = self.then(clock.now().microseconds)
        #expect(try await gateways[0].value(1, now) == integer(2))
        try await gateways[1].put(entity(key("K", 1), ["a": integer(3)]))
        #expect(try await gateways[0].value(1, now) == integer(2))
        #expect(try await gateways[1].all(now) == [integer(2)])
      }
    }
  }

  /// Tables that are not logged are empty after a crash.
  @Test func aCrashOfTheServerForgetsThePastAndNothingElse() async throws {
    try await withDatabase { database in
      try await self.withGateways(over: [try database.open()]) { gateways in
        var versions: [Int64] = []
        for number in 1...2 as ClosedRange<Int64> {
          let answer = try await gateways[0].put(entity(key("K", 1), ["a": integer(number)]))
          versions.append(answer.mutationResults[0].version)
        }
        #expect(try await gateways[0].value(1, self.then(versions[0])) == integer(1))
        try database.execute(
          "TRUNCATE \(PostgresSchema.name).past, \(PostgresSchema.name).past_begin")
        #expect(
          await status { _ = try await gateways[0].value(1, self.then(versions[0])) }
            == .failedPrecondition)
        #expect(try await gateways[0].value(1, self.then(versions[1])) == integer(2))
        try await gateways[0].put(entity(key("K", 1), ["a": integer(3)]))
        #expect(try await gateways[0].value(1, self.then(versions[1])) == integer(2))
        #expect(
          await status { _ = try await gateways[0].value(1, self.then(versions[0])) }
            == .failedPrecondition)
      }
    }
  }

  @Test func whatAWriterReplacedThatKeepsNoPastIsNotRead() async throws {
    try await withDatabase { database in
      var without = StoreSettings()
      without.pastBytes = 0
      let stores = [try database.open(), try database.open(without)]
      try await self.withGateways(over: stores) { gateways in
        let first = try await gateways[0].put(entity(key("K", 1), ["a": integer(1)]))
          .mutationResults[0].version
        let second = try await gateways[1].put(entity(key("K", 1), ["a": integer(2)]))
          .mutationResults[0].version
        try await gateways[0].put(entity(key("K", 1), ["a": integer(3)]))
        #expect(
          await status { _ = try await gateways[1].value(1, self.then(first)) }
            == .failedPrecondition)
        #expect(try await gateways[1].value(1, self.then(second)) == integer(2))
      }
    }
  }

  @Test func aStoreOfAnOlderFormKeepsItsPastFromNowOn() async throws {
    try await withDatabase { database in
      var first: Int64 = 0
      try await self.withGateways(over: [try database.open()]) { gateways in
        first = try await gateways[0].put(entity(key("K", 1), ["a": integer(1)]))
          .mutationResults[0].version
      }
      try database.execute(
        """
        DROP TABLE \(PostgresSchema.name).past, \(PostgresSchema.name).past_begin;
        UPDATE \(PostgresSchema.name).facts SET value = 2 WHERE name = 'schema_version'
        """)
      try await self.withGateways(over: [try database.open()]) { gateways in
        try await gateways[0].put(entity(key("K", 1), ["a": integer(2)]))
        // Opening probes, with a version of its own.
        #expect(
          await status { _ = try await gateways[0].value(1, self.then(first - 1)) }
            == .failedPrecondition)
        let second = try await gateways[0].get(key("K", 1)).found[0].version
        try await gateways[0].put(entity(key("K", 1), ["a": integer(3)]))
        #expect(try await gateways[0].value(1, self.then(second)) == integer(2))
      }
    }
  }
}

@Suite struct TransactionRequests {
  @Test func whatContradictsItselfIsRefused() async throws {
    try await withGateway { gateway in
      typealias Selector = DatastoreV1.CommitRequest.TransactionSelector
      let change = DatastoreV1.Mutation.of(.upsert(entity(key("K", 1))))
      func code(
        _ mode: DatastoreV1.CommitRequest.Mode, _ selector: Selector?
      ) async -> StatusCode? {
        await status {
          _ = try await gateway.client.commit(
            DatastoreV1.CommitRequest(
              projectID: project, mode: mode, transactionSelector: selector,
              mutations: [change]))
        }
      }
      let transaction = try await gateway.begin()
      #expect(await code(.nonTransactional, .transaction(transaction)) == .invalidArgument)
      #expect(await code(.transactional, nil) == .invalidArgument)
      #expect(await code(.transactional, .transaction([])) == .invalidArgument)
      #expect(await code(.transactional, .transaction([1, 2, 3])) == .invalidArgument)
      #expect(
        await code(
          .transactional,
          .singleUseTransaction(DatastoreV1.TransactionOptions(mode: .readOnly(.init()))))
          == .invalidArgument)
      #expect(await code(.transactional, .singleUseTransaction(.init())) == nil)
      #expect(
        await status {
          _ = try await gateway.client.rollback(DatastoreV1.RollbackRequest(projectID: project))
        } == .invalidArgument)
    }
  }

  @Test func aTransactionMayNameTheOneItTriesAgain() async throws {
    try await withGateway { gateway in
      func begin(after previous: [UInt8]) async throws -> [UInt8] {
        try await gateway.client.beginTransaction(
          DatastoreV1.BeginTransactionRequest(
            projectID: project,
            transactionOptions: DatastoreV1.TransactionOptions(
              mode: .readWrite(
                DatastoreV1.TransactionOptions.ReadWrite(previousTransaction: previous))))
        ).transaction
      }
      let first = try await gateway.begin()
      let second = try await begin(after: first)
      #expect(second != first)
      try await gateway.commit([.of(.upsert(entity(key("K", 1))))], in: second)
      #expect(await status { _ = try await begin(after: [1, 2]) } == .invalidArgument)
    }
  }
}
