import BuildProtos
import DatastoreGatewayCore
import DatastoreGatewayService
import Domain
import RPC
import ServiceRuntime
import Testing

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
  @Test func aReadSeesWhatWasThereAtItsTime() async throws {
    try await withGateway { gateway in
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

  @Test func aReadOnlyTransactionSeesOneMoment() async throws {
    try await withGateway { gateway in
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

  @Test func nothingIsEverWrittenIntoAMomentThatWasRead() async throws {
    let clock = TestClock()
    try await withGateway(clock: clock) { gateway in
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

  @Test func aTimeThatCannotBeReadIsRefused() async throws {
    let clock = TestClock()
    try await withGateway(clock: clock) { gateway in
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

  @Test func whatIsNoLongerKeptIsRefused() async throws {
    try await withGateway { configuration in
      configuration.pastBytes = 2_000
    } _: { gateway in
      let first = try await gateway.put(entity(key("K", 1), ["a": integer(0)]))
        .mutationResults[0].version
      let transaction = try await gateway.beginReadOnly()
      for number in 1...20 as ClosedRange<Int64> {
        try await gateway.put(entity(key("K", 1), ["a": integer(number)]))
      }
      let then = DatastoreV1.ReadOptions.ConsistencyType.readTime(time(first))
      #expect(await status { _ = try await gateway.get(1, then) } == .failedPrecondition)
      #expect(await status { _ = try await gateway.all(then) } == .failedPrecondition)
      #expect(
        await status { _ = try await gateway.all(.transaction(transaction)) }
          == .failedPrecondition)
    }
  }

  @Test func aDrainedGatewayReadsAtATime() async throws {
    try await withGateway { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(1)]))
      let later = Timestamp.now.microseconds
      await gateway.store.drain()
      #expect(try await gateway.value(1, .readTime(time(later))) == integer(1))
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
