import BuildProtos
import DatastoreGatewayCore
import DatastoreGatewayService
import DatastoreGatewayTesting
import Domain
import RPC
import Testing

@Suite struct Reads {
  @Test(arguments: StoreKind.all)
  func anEntityIsReadAsItWasWritten(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let inner = DatastoreV1.Entity(properties: ["x": integer(1), "y": integer(2)])
      let written = entity(
        key("K", 1),
        [
          "null": DatastoreV1.Value(valueType: .nullValue(.nullValue)),
          "text": DatastoreV1.Value(valueType: .stringValue("a\0ü"), meaning: 15),
          "zero": DatastoreV1.Value(valueType: .doubleValue(-0.0)),
          "blob": DatastoreV1.Value(valueType: .blobValue([0, 255]), excludeFromIndexes: true),
          "inner": DatastoreV1.Value(valueType: .entityValue(inner)),
          "list": DatastoreV1.Value(
            valueType: .arrayValue(
              DatastoreV1.ArrayValue(values: [
                integer(3), DatastoreV1.Value(valueType: .entityValue(inner)),
              ]))),
        ])
      let version = try await gateway.put(written).mutationResults[0].version
      let answer = try await gateway.get(key("K", 1), key("K", 2), key("K", 1))
      #expect(answer.found.map(\.entity) == [written])
      #expect(answer.found[0].version == version)
      #expect(answer.found[0].createTime == answer.found[0].updateTime)
      #expect(answer.missing.map(\.entity?.key) == [key("K", 2)])
      #expect(answer.missing[0].version >= version)
      #expect(answer.deferred.isEmpty)
    }
  }

  @Test(arguments: StoreKind.all)
  func keysInValuesSayWhereTheyAreAndTimesAreCutToMicroseconds(
    on store: StoreKind
  ) async throws {
    func value(_ type: DatastoreV1.Value.ValueType) -> DatastoreV1.Value {
      DatastoreV1.Value(valueType: type)
    }
    func values(_ key: DatastoreV1.Key, nanos: Int32) -> [String: DatastoreV1.Value] {
      let time = value(.timestampValue(GoogleProtobuf.Timestamp(seconds: -1, nanos: nanos)))
      let inner = DatastoreV1.Entity(properties: ["key": value(.keyValue(key)), "time": time])
      return [
        "key": value(.keyValue(key)), "time": time, "inner": value(.entityValue(inner)),
        "list": value(.arrayValue(DatastoreV1.ArrayValue(values: [time, value(.keyValue(key))]))),
      ]
    }
    try await withGateway(on: store) { gateway in
      let whole = key("Other", 7)
      let without = DatastoreV1.Key(path: whole.path)
      try await gateway.put(entity(key("K", 1), values(without, nanos: 123_456_789)))
      let kept = try await gateway.get(key("K", 1)).found[0].entity
      #expect(kept == entity(key("K", 1), values(whole, nanos: 123_456_000)))
      // What they are in the namespace that they say stays so.
      var elsewhere = without
      elsewhere.partitionID = DatastoreV1.PartitionId(namespaceID: "n")
      try await gateway.put(entity(key("K", 2), values(elsewhere, nanos: 0)))
      elsewhere.partitionID?.projectID = project
      let other = try await gateway.get(key("K", 2)).found[0].entity
      #expect(other == entity(key("K", 2), values(elsewhere, nanos: 0)))
    }
  }

  @Test(arguments: StoreKind.all)
  func fieldsThatTheGatewayDoesNotKnowSurvive(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      // Field 900 with a text, in the entity, in a value and in an inner entity.
      let unknown: [UInt8] = [0xA2, 0x38, 3, 97, 98, 99]
      var inner = try DatastoreV1.Entity(decoding: unknown)
      inner.properties = ["x": integer(1), "y": integer(2)]
      var value = try DatastoreV1.Value(decoding: unknown)
      value.valueType = .entityValue(inner)
      var written = try DatastoreV1.Entity(decoding: unknown)
      written.key = key("K", 1)
      written.properties = ["a": value, "b": integer(2)]
      #expect(!written.unknownFields.isEmpty)
      try await gateway.put(written)
      #expect(try await gateway.get(key("K", 1)).found[0].entity == written)
    }
  }

  @Test(arguments: StoreKind.all)
  func aLookupThatWouldBecomeTooLargeDefersKeys(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      for id in 1...5 as ClosedRange<Int64> {
        try await gateway.put(
          entity(
            key("K", id),
            [
              "blob": DatastoreV1.Value(
                valueType: .blobValue(Array(repeating: 7, count: 1_000_000)),
                excludeFromIndexes: true)
            ]))
      }
      var found: Set<DatastoreV1.Key> = []
      var keys = (1...5).map { key("K", $0) }
      var calls = 0
      while !keys.isEmpty {
        let answer = try await gateway.client.lookup(
          DatastoreV1.LookupRequest(projectID: project, keys: keys))
        #expect(answer.encoded().count < 4 << 20)
        found.formUnion(answer.found.compactMap(\.entity?.key))
        keys = answer.deferred
        calls += 1
      }
      #expect(found.count == 5)
      #expect(calls == 2)

      let (results, batches) = try await gateway.queryAll(
        DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: "K")]))
      #expect(results.count == 5)
      #expect(batches == 2)
    }
  }

  // 16 keys are answered from memory, where the store has such.
  @Test(arguments: StoreKind.all)
  func whatIsInMemoryDefersKeysToo(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let keys = (1...16).map { key("K", $0) }
      for key in keys {
        try await gateway.put(
          entity(
            key,
            [
              "blob": DatastoreV1.Value(
                valueType: .blobValue(Array(repeating: 7, count: 400_000)), excludeFromIndexes: true
              )
            ]))
      }
      for key in keys { _ = try await gateway.get(key) }
      let answer = try await gateway.client.lookup(
        DatastoreV1.LookupRequest(projectID: project, keys: keys))
      #expect(answer.encoded().count < 4 << 20)
      #expect(answer.found.count + answer.deferred.count == 16 && !answer.deferred.isEmpty)
    }
  }

  @Test(arguments: StoreKind.all)
  func projectionsCountWithTheirCursors(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let long = String(repeating: "x", count: 1_400)
      let properties = ["a", "b", "c"]
      for id in 1...500 as ClosedRange<Int64> {
        let value = DatastoreV1.Value(valueType: .stringValue(long))
        try await gateway.put(
          entity(key("K", id), Dictionary(uniqueKeysWithValues: properties.map { ($0, value) })))
      }
      let batch = try await gateway.query(
        DatastoreV1.Query(
          projection: properties.map { .init(property: .init(name: $0)) },
          kind: [DatastoreV1.KindExpression(name: "K")]))
      #expect(batch.encoded().count < 4 << 20)
      #expect(batch.moreResults == .notFinished)
    }
  }

  // A product of arrays has no end; an index of Datastore's would not take the entity.
  @Test(arguments: StoreKind.all)
  func aProjectionOfTooManyCombinationsIsRefused(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      func list(_ count: Int64) -> DatastoreV1.Value {
        DatastoreV1.Value(valueType: .arrayValue(.init(values: (0..<count).map { integer($0) })))
      }
      try await gateway.put(
        entity(key("K", 1), ["a": list(1_000), "b": list(1_000), "c": list(2)]))
      func query(_ properties: String...) -> DatastoreV1.Query {
        DatastoreV1.Query(
          projection: properties.map { .init(property: .init(name: $0)) },
          kind: [DatastoreV1.KindExpression(name: "K")])
      }
      let code = await status { _ = try await gateway.query(query("a", "b")) }
      #expect(code == .invalidArgument)
      #expect(try await gateway.queryAll(query("a", "c")).results.count == 2_000)
    }
  }

  // It would be kept under another key than it has.
  @Test func aKeyThatNamesItsProjectNamesItsDatabaseToo() async throws {
    try await withGateway(on: .sqlite) { gateway in
      let entity = entity(key("K", 1), ["a": integer(1)])
      let code = await status {
        _ = try await gateway.client.commit(
          DatastoreV1.CommitRequest(
            projectID: project, databaseID: "second", mode: .nonTransactional,
            mutations: [.init(operation: .upsert(entity))]))
      }
      #expect(code == .invalidArgument)
    }
  }

  @Test(arguments: StoreKind.all)
  func namespacesAreApart(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(entity(key("K", 1, namespace: "n"), ["a": integer(1)]))
      #expect(try await gateway.get(key("K", 1)).found == [])
      #expect(try await gateway.get(key("K", 1, namespace: "n")).found.count == 1)
      let query = DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: "K")])
      #expect(try await gateway.query(query).entityResults == [])
    }
  }
}

@Suite struct Writes {
  @Test(arguments: StoreKind.all)
  func aCommitIsWhollyThereOrNotAtAll(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let code = await status {
        _ = try await gateway.commit(
          .of(.upsert(entity(key("K", 1)))), .of(.update(entity(key("K", 2)))))
      }
      #expect(code == .notFound)
      let answer = try await gateway.get(key("K", 1))
      #expect(answer.found == [])
    }
  }

  @Test(arguments: StoreKind.all)
  func eachRefusalHasItsCode(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let version = try await gateway.put(entity(key("K", 1), ["a": integer(1)]))
        .mutationResults[0].version
      let changed = entity(key("K", 1), ["a": integer(2)])
      #expect(
        await status { _ = try await gateway.commit(.of(.insert(changed))) } == .alreadyExists)
      #expect(
        await status { _ = try await gateway.commit(.of(.update(entity(key("K", 9))))) }
          == .notFound)
      #expect(
        await status {
          _ = try await gateway.commit(.of(.update(changed), base: version - 1, isStrict: true))
        } == .failedPrecondition)
      #expect(
        await status { _ = try await gateway.put(changed, changed) } == .invalidArgument)
      let kept = try await gateway.commit(.of(.update(changed), base: version - 1))
      #expect(kept.mutationResults[0].conflictDetected)
      #expect(kept.mutationResults[0].version == version)
      let done = try await gateway.commit(.of(.update(changed), base: version, isStrict: true))
      #expect(done.mutationResults[0].version > version)
      #expect(!done.mutationResults[0].conflictDetected)
    }
  }

  @Test(arguments: StoreKind.all)
  func anUpsertThatChangesNothingKeepsTheVersion(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let properties = Dictionary(
        uniqueKeysWithValues: (0..<20).map { ("p\($0)", integer($0)) })
      let first = try await gateway.put(entity(key("K", 1), properties))
      // The same in another order of the map.
      let second = try await gateway.put(
        entity(key("K", 1), Dictionary(uniqueKeysWithValues: properties.reversed())))
      #expect(second.mutationResults[0].version == first.mutationResults[0].version)
      #expect(second.indexUpdates == 0)
      #expect(first.indexUpdates == 20)
    }
  }

  @Test(arguments: StoreKind.all)
  func versionsGrowThoughTheClockGoesBack(on store: StoreKind) async throws {
    let clock = TestClock()
    try await withGateway(on: store, clock: clock) { gateway in
      var last: Int64 = 0
      for (number, step) in [0, 1_000, -500_000, 0, -1, 10].enumerated() {
        clock.move(by: .microseconds(step))
        let result = try await gateway.put(
          entity(key("K", Int64(number % 2 + 1)), ["a": integer(Int64(number))])
        )
        .mutationResults[0]
        #expect(result.version > last)
        last = result.version
      }
    }
  }

  @Test(arguments: StoreKind.all)
  func manyCallersCommitAtOnceEachByItself(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await withThrowingTaskGroup(of: Bool.self) { group in
        for number in 0..<400 as Range<Int64> {
          group.addTask {
            // Every fourth one is refused: what it wants to update is not there.
            let first = entity(key("K", number + 1), ["a": integer(number)])
            let second = entity(key("L", number + 1))
            do {
              try await gateway.commit(
                .of(.insert(first)),
                number % 4 == 0 ? .of(.update(second)) : .of(.insert(second)))
              return true
            } catch let error as RPCError where error.code == .notFound {
              return false
            }
          }
        }
        var count = 0
        for try await isCommitted in group where isCommitted { count += 1 }
        #expect(count == 300)
      }
      for kind in ["K", "L"] {
        let (results, _) = try await gateway.queryAll(
          DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: kind)]))
        #expect(results.count == 300)
        #expect(Set(results.map(\.version)).count == 300)
      }
    }
  }

  @Test(arguments: StoreKind.all)
  func anIncrementLoopLosesNothing(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(entity(key("K", 1), ["n": integer(0)]))
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<8 {
          group.addTask {
            for _ in 0..<10 {
              while true {
                let read = try await gateway.get(key("K", 1)).found[0]
                guard case .integerValue(let number) = read.entity?.properties["n"]?.valueType
                else { throw RPCError(.internalError, "no number") }
                let code = await status {
                  _ = try await gateway.commit(
                    .of(
                      .update(entity(key("K", 1), ["n": integer(number + 1)])),
                      base: read.version, isStrict: true))
                }
                if code == nil { break }
                #expect(code == .failedPrecondition)
              }
            }
          }
        }
        try await group.waitForAll()
      }
      let last = try await gateway.get(key("K", 1)).found[0].entity
      #expect(last?.properties["n"] == integer(80))
    }
  }

  @Test(arguments: StoreKind.all)
  func aDrainedGatewayTakesNoCommitsButReads(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(entity(key("K", 1)))
      await gateway.store.drain()
      #expect(await status { _ = try await gateway.put(entity(key("K", 2))) } == .unavailable)
      #expect(try await gateway.get(key("K", 1)).found.count == 1)
    }
  }
}

@Suite struct AllocatedIDs {
  @Test(arguments: StoreKind.all)
  func anIncompleteKeyGetsAnID(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let answer = try await gateway.commit(
        .of(.insert(entity(incompleteKey("K"), ["a": integer(1)]))),
        .of(.upsert(entity(key("K", 7)))), .of(.upsert(entity(incompleteKey("K")))))
      let keys = answer.mutationResults.map(\.key)
      let first = try #require(keys[0])
      let third = try #require(keys[2])
      #expect(keys[1] == nil)
      #expect(first != third)
      #expect(try await gateway.get(first).found[0].entity?.properties["a"] == integer(1))
      #expect(try await gateway.get(third).found[0].entity?.key == third)
    }
  }

  @Test(arguments: StoreKind.all)
  func allocatedIDsAreDistinctForMany(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let ids = try await withThrowingTaskGroup(of: [DatastoreV1.Key].self) { group in
        for _ in 0..<30 {
          group.addTask {
            try await gateway.client.allocateIds(
              DatastoreV1.AllocateIdsRequest(
                projectID: project, keys: Array(repeating: incompleteKey("K"), count: 500))
            ).keys
          }
        }
        return try await group.reduce(into: Set<DatastoreV1.Key>()) { $0.formUnion($1) }
      }
      #expect(ids.count == 15_000)
    }
  }

  @Test(arguments: StoreKind.all)
  func idsThatAreReservedOrInUseAreNotGiven(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let next = (0..<4).map { IDSequence.id(at: $0) }
      _ = try await gateway.client.reserveIds(
        DatastoreV1.ReserveIdsRequest(projectID: project, keys: [key("K", next[0])]))
      try await gateway.put(entity(key("K", next[1]), ["a": integer(5)]))
      let allocated = try await gateway.client.allocateIds(
        DatastoreV1.AllocateIdsRequest(projectID: project, keys: [incompleteKey("K")]))
      #expect(allocated.keys == [key("K", next[2])])

      try await gateway.put(entity(key("K", next[3])))
      let inserted = try await gateway.put(entity(incompleteKey("K"), ["a": integer(6)]))
      #expect(inserted.mutationResults[0].key == key("K", IDSequence.id(at: 4)))
      #expect(
        try await gateway.get(key("K", next[1])).found[0].entity?.properties["a"] == integer(5))
    }
  }
}

@Suite struct OptimisticTransactions {
  @Test(arguments: StoreKind.all)
  func aTransactionCommitsWhatItReadUnchanged(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(1)]))
      let transaction = try await gateway.begin()
      _ = try await gateway.get(key("K", 1), key("K", 2), in: transaction)
      try await gateway.commit(
        [
          .of(.update(entity(key("K", 1), ["a": integer(2)]))),
          .of(.insert(entity(key("K", 2)))), .of(.delete(key("K", 2))),
        ], in: transaction)
      #expect(try await gateway.get(key("K", 1)).found[0].entity?.properties["a"] == integer(2))
      #expect(try await gateway.get(key("K", 2)).found == [])
      #expect(
        await status { _ = try await gateway.commit([], in: transaction) } == .invalidArgument)
    }
  }

  @Test(arguments: ["changed", "deleted", "created", "query"], StoreKind.all)
  func aTransactionWhoseReadsChangedIsAborted(how: String, on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(1)]))
      let transaction = try await gateway.begin()
      let query = DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: "K")])
      if how == "query" {
        _ = try await gateway.query(query, in: transaction)
      } else {
        _ = try await gateway.get(key("K", 1), key("K", 2), in: transaction)
      }
      switch how {
      case "changed": try await gateway.put(entity(key("K", 1), ["a": integer(2)]))
      case "deleted": try await gateway.commit(.of(.delete(key("K", 1))))
      default: try await gateway.put(entity(key("K", 2)))
      }
      let code = await status {
        _ = try await gateway.commit([.of(.upsert(entity(key("L", 1))))], in: transaction)
      }
      #expect(code == .aborted)
      #expect(try await gateway.get(key("L", 1)).found == [])
    }
  }

  @Test(arguments: StoreKind.all)
  func moneyIsNeitherMadeNorLost(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let accounts: Int64 = 5
      for id in 1...accounts {
        try await gateway.put(entity(key("Account", id), ["n": integer(100)]))
      }
      func amount(_ result: DatastoreV1.EntityResult?) -> Int64 {
        guard case .integerValue(let number) = result?.entity?.properties["n"]?.valueType else {
          return .min
        }
        return number
      }
      let aborted = try await withThrowingTaskGroup(of: Int.self) { group in
        for worker in 0..<6 as Range<UInt64> {
          group.addTask {
            var random = SeededGenerator(seed: worker)
            var aborted = 0
            for _ in 0..<25 {
              let from = Int64.random(in: 1...accounts, using: &random)
              let to = from % accounts + 1
              let transaction = try await gateway.begin()
              let read = try await gateway.get(
                key("Account", from), key("Account", to), in: transaction)
              let byKey = Dictionary(
                uniqueKeysWithValues: read.found.map { ($0.entity?.key, amount($0)) })
              let code = await status {
                _ = try await gateway.commit(
                  [
                    .of(
                      .update(
                        entity(
                          key("Account", from),
                          ["n": integer((byKey[key("Account", from)] ?? 0) - 1)]))),
                    .of(
                      .update(
                        entity(
                          key("Account", to),
                          ["n": integer((byKey[key("Account", to)] ?? 0) + 1)]))),
                  ], in: transaction)
              }
              if code == .aborted { aborted += 1 } else { #expect(code == nil) }
            }
            return aborted
          }
        }
        return try await group.reduce(0, +)
      }
      let (results, _) = try await gateway.queryAll(
        DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: "Account")]))
      #expect(results.map(amount).reduce(0, +) == 100 * accounts)
      #expect(aborted < 6 * 25)
    }
  }

  @Test(arguments: StoreKind.all)
  func aReadOnlyTransactionChangesNothing(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let transaction = try await gateway.begin(isReadOnly: true)
      _ = try await gateway.get(key("K", 1), in: transaction)
      try await gateway.commit([], in: transaction)
      let other = try await gateway.begin(isReadOnly: true)
      let code = await status {
        _ = try await gateway.commit([.of(.upsert(entity(key("K", 1))))], in: other)
      }
      #expect(code == .invalidArgument)
      _ = try await gateway.get(key("K", 1), in: other)
      try await gateway.rollBack(other)
    }
  }

  @Test(
    arguments: [
      (.update(entity(key("K", 9))), 0, .notFound),
      (.insert(entity(key("K", 1))), 0, .alreadyExists),
      (.upsert(entity(key("K", 1))), 1, .failedPrecondition),
      (.upsert(entity(key("K", 1))), .max, .invalidArgument),
      (.upsert(entity(key("K", 1), ["__a__": integer(1)])), 0, .invalidArgument),
    ] as [(DatastoreV1.Mutation.Operation, Int64, StatusCode)], StoreKind.all)
  func aTransactionOutlivesACommitThatIsRefused(
    refused: (operation: DatastoreV1.Mutation.Operation, base: Int64, code: StatusCode),
    on store: StoreKind
  ) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(1)]))
      var mutation = DatastoreV1.Mutation(operation: refused.operation)
      if refused.base > 0 {
        mutation.conflictDetectionStrategy = .baseVersion(refused.base)
        mutation.conflictResolutionStrategy = .fail
      }
      for isRolledBack in [false, true] {
        let transaction = try await gateway.begin()
        let code = await status { try await gateway.commit([mutation], in: transaction) }
        #expect(code == refused.code)
        _ = try await gateway.get(key("K", 1), in: transaction)
        if isRolledBack {
          try await gateway.rollBack(transaction)
        } else {
          try await gateway.commit([.of(.upsert(entity(key("L", 1))))], in: transaction)
        }
      }
    }
  }

  @Test(arguments: StoreKind.all)
  func aTransactionWithConflictsCanOnlyBeRolledBack(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let transaction = try await gateway.begin()
      _ = try await gateway.get(key("K", 1), in: transaction)
      try await gateway.put(entity(key("K", 1)))
      #expect(await status { _ = try await gateway.commit([], in: transaction) } == .aborted)
      #expect(
        await status { _ = try await gateway.commit([], in: transaction) } == .invalidArgument)
      try await gateway.rollBack(transaction)
      #expect(await status { try await gateway.rollBack(transaction) } == .invalidArgument)
    }
  }

  @Test(arguments: StoreKind.all)
  func aRolledBackOrIdleTransactionIsOver(on store: StoreKind) async throws {
    let clock = TestClock()
    try await withGateway(on: store, clock: clock) { gateway in
      let transaction = try await gateway.begin()
      try await gateway.rollBack(transaction)
      #expect(
        await status { _ = try await gateway.get(key("K", 1), in: transaction) }
          == .invalidArgument)
      let idle = try await gateway.begin()
      clock.move(by: .seconds(61))
      #expect(await status { _ = try await gateway.commit([], in: idle) } == .invalidArgument)
    }
  }

  @Test(arguments: StoreKind.all)
  func aTransactionIsUnknownInAnotherProjectOrDatabase(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let transaction = try await gateway.begin()
      for (project, database) in [("another", ""), (project, "another")] {
        let options = DatastoreV1.ReadOptions(consistencyType: .transaction(transaction))
        let read = await status {
          _ = try await gateway.client.lookup(
            DatastoreV1.LookupRequest(
              projectID: project, databaseID: database, readOptions: options))
        }
        let committed = await status {
          _ = try await gateway.client.commit(
            DatastoreV1.CommitRequest(
              projectID: project, databaseID: database, mode: .transactional,
              transactionSelector: .transaction(transaction)))
        }
        #expect([read, committed] == [.invalidArgument, .invalidArgument])
      }
      try await gateway.commit([], in: transaction)
    }
  }

  @Test(arguments: StoreKind.all)
  func aReadCanBeginATransaction(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(1)]))
      let answer = try await gateway.client.lookup(
        DatastoreV1.LookupRequest(
          projectID: project,
          readOptions: DatastoreV1.ReadOptions(consistencyType: .newTransaction(.init())),
          keys: [key("K", 1)]))
      #expect(!answer.transaction.isEmpty)
      try await gateway.put(entity(key("K", 1), ["a": integer(2)]))
      #expect(
        await status { _ = try await gateway.commit([], in: answer.transaction) } == .aborted)
    }
  }
}
