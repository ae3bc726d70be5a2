import BuildProtos
import CSQLite
import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Glibc
import RPC
import ServiceRuntime
import Testing

@testable import DatastoreGatewayService

private func open(
  _ folder: TestFolder, _ change: (inout SQLiteStore.Configuration) -> Void = { _ in }
) throws -> SQLiteStore {
  var configuration = SQLiteStore.Configuration(path: folder.file)
  configuration.readers = 2
  configuration.lockPatience = .milliseconds(20)
  change(&configuration)
  return try SQLiteStore(
    configuration, metrics: Metrics(MetricsRegistry()), logger: quietLogger)
}

private func change(
  _ proto: DatastoreV1.Entity, _ operation: Mutation.Operation = .upsert
) throws -> Commit.Change {
  let scope = try EntityCodec.Scope(project: project, database: "")
  let key = try EntityCodec.key(proto.key ?? DatastoreV1.Key(), in: scope)
  return Commit.Change(
    mutation: Mutation(operation, key), address: key.address,
    content: EntityCodec.canonicalBytes(proto),
    indexEntries: try EntityCodec.entity(proto, key: key).indexEntries)
}

private func put(_ proto: DatastoreV1.Entity) throws -> Commit {
  Commit(changes: [try change(proto)])
}

private func blob(_ count: Int, _ seed: UInt8) -> DatastoreV1.Value {
  DatastoreV1.Value(
    valueType: .blobValue(Array(repeating: seed, count: count)), excludeFromIndexes: true)
}

private func address(_ id: Int64) throws -> EntityAddress {
  try EntityCodec.key(key("K", id), in: EntityCodec.Scope(project: project, database: "")).address
}

/// Another process' connection.
private func raw(_ folder: TestFolder) throws -> SQLiteConnection {
  try SQLiteConnection(path: folder.file, mode: .readWrite, lockPatience: .milliseconds(20))
}

private func withFolder(_ body: (TestFolder) async throws -> Void) async throws {
  let folder = try TestFolder()
  defer { folder.remove() }
  try await body(folder)
}

@Suite struct Stores {
  @Test func whatWasAnsweredIsThereAfterwards() async throws {
    try await withFolder { folder in
      var last: Int64 = 0
      for round in 1...3 as ClosedRange<Int64> {
        let store = try open(folder)
        let answer = try await store.commit(put(entity(key("K", round), ["a": integer(round)])))
        #expect(answer.version > last)
        last = answer.version
        let found = try await store.lookup((1...round).map { try address($0) })
        #expect(
          try found.entities.map { try $0?.entity().properties["a"] }
            == (1...round).map { integer($0) })
        await store.drain()
      }
    }
  }

  @Test func idsAreNotGivenAgainAfterARestart() async throws {
    try await withFolder { folder in
      let first = try await open(folder).allocateIDs(100)
      let second = try await open(folder).allocateIDs(IDSequence.blockCount.asInt + 5)
      #expect(Set(first).isDisjoint(with: second))
      #expect(Set(second).count == IDSequence.blockCount.asInt + 5)
    }
  }

  @Test func commitsThatWaitTogetherAreWrittenTogether() async throws {
    try await withFolder { folder in
      let registry = MetricsRegistry()
      var configuration = SQLiteStore.Configuration(path: folder.file)
      configuration.lockPatience = .seconds(30)
      let store = try SQLiteStore(
        configuration, metrics: Metrics(registry), logger: quietLogger)
      // While another process holds the file, commits gather behind the first.
      let other = try raw(folder)
      try other.execute("BEGIN IMMEDIATE")
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { _ = try await store.commit(put(entity(key("K", 1)))) }
        await store.writer.reaches { !$0.isIdle && $0.queuedCommits == 0 }
        for id in 2...50 as ClosedRange<Int64> {
          group.addTask { _ = try await store.commit(put(entity(key("K", id)))) }
        }
        await store.writer.reaches { $0.queuedCommits == 49 }
        try other.execute("ROLLBACK")
        try await group.waitForAll()
      }
      #expect(Metrics(registry).batchSize.count == 2)
      let found = try await store.lookup((1...50).map { try address($0) })
      #expect(found.entities.allSatisfy { $0 != nil })
    }
  }

  @Test func theLogStaysShortWhileTheWriterNeverRests() async throws {
    try await withFolder { folder in
      let pages = 64
      let store = try open(folder) { $0.checkpointPages = pages }
      @Sendable func write(_ ids: Range<Int64>) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
          for id in ids {
            group.addTask {
              _ = try await store.commit(put(entity(key("K", id), ["b": blob(4_000, 1)])))
            }
            if id % 8 == 0 { try await group.waitForAll() }
          }
          try await group.waitForAll()
        }
      }
      func logBytes() throws -> Int {
        var status = stat()
        try #require(stat("\(folder.file)-wal", &status) == 0)
        return Int(status.st_size)
      }
      try await write(1..<1_000)
      #expect(try logBytes() < 6 * pages * 4_096)

      // What a reader needs stays.
      let reader = try raw(folder)
      try reader.execute("BEGIN")
      _ = try reader.integer("SELECT count(*) FROM entities")
      try await write(1_000..<1_400)
      #expect(try logBytes() > 6 * pages * 4_096)
      try reader.execute("ROLLBACK")
      try await write(1_400..<1_600)
      #expect(try logBytes() < 6 * pages * 4_096)
      let found = try await store.lookup((1..<1_600).map { try address($0) })
      #expect(found.entities.allSatisfy { $0 != nil })
    }
  }

  @Test func beyondItsQueueTheStorePushesBack() async throws {
    try await withFolder { folder in
      let store = try open(folder) {
        $0.limits.queuedCommits = 3
        $0.lockPatience = .seconds(30)
      }
      let other = try raw(folder)
      try other.execute("BEGIN IMMEDIATE")
      async let first = store.commit(put(entity(key("K", 1))))
      await store.writer.reaches { !$0.isIdle && $0.queuedCommits == 0 }
      try await withThrowingTaskGroup(of: Bool.self) { group in
        for id in 2...10 as ClosedRange<Int64> {
          group.addTask {
            do {
              _ = try await store.commit(put(entity(key("K", id))))
              return true
            } catch GatewayError.overloaded(_, _, let delay) {
              #expect(delay >= .milliseconds(10))
              return false
            }
          }
        }
        var refused = 0
        // One is being written, three wait; the others are told at once.
        while refused < 6, let isCommitted = try await group.next() {
          #expect(!isCommitted)
          refused += 1
        }
        try other.execute("ROLLBACK")
        for try await isCommitted in group { #expect(isCommitted) }
      }
      _ = try await first
    }
  }

  @Test(arguments: 0..<5)
  func indexesHoldWhatEntitiesHave(seed: UInt64) async throws {
    try await withFolder { folder in
      let store = try open(folder)
      var world = RandomEntities(seed: seed)
      var expected: [Key: Entity] = [:]
      for _ in 0..<200 {
        let entity = world.entity()
        var commit = try put(Proto.entity(entity))
        if Bool.random(using: &world.random) {
          expected[entity.key] = entity
        } else {
          commit.changes[0].mutation.operation = .delete
          expected[entity.key] = nil
        }
        _ = try await store.commit(commit)
      }
      await store.drain()
      let rows = try raw(folder)
      #expect(try rows.integer("SELECT COUNT(*) FROM entities") == Int64(expected.count))
      #expect(
        try rows.integer("SELECT COUNT(*) FROM property_rows")
          == Int64(expected.values.reduce(0) { $0 + $1.indexEntries.count }))
      #expect(
        try rows.integer(
          """
          SELECT COUNT(*) FROM property_rows LEFT JOIN entities ON entities.id = entity
            WHERE entities.path IS NOT property_rows.path
          """) == 0)
      #expect(try rows.integer("SELECT COUNT(*) FROM pragma_integrity_check") == 1)
    }
  }

  @Test func scansFollowTheirIndexesAndNeverSort() async throws {
    try await withFolder { folder in
      let store = try open(folder)
      _ = try await store.commit(put(entity(key("K", 1), ["a": integer(1)])))
      let connection = try raw(folder)
      let bounds: [RowBound] = [
        .none, .value([1], isIncluded: true), .value([1], isIncluded: false),
        .row(value: [1], path: [1], isIncluded: true),
        .row(value: [1], path: [1], isIncluded: false),
        .row(value: [2], path: [1], isIncluded: false),
      ]
      for lower in bounds {
        for upper in bounds {
          for isReversed in [false, true] {
            let range = RowRange(lower: lower, upper: upper, isReversed: isReversed)
            for text in [
              SQLiteRows.propertyScan(range).text, SQLiteRows.kindScan(range).text,
            ] {
              let statement = try connection.take("EXPLAIN QUERY PLAN " + text)
              defer { connection.giveBack(statement) }
              while try statement.step() {
                let line = String(decoding: statement.bytes(3), as: UTF8.self)
                #expect(line.hasPrefix("SEARCH"), "\(text): \(line)")
                #expect(!line.contains("TEMP B-TREE"), "\(text): \(line)")
              }
            }
          }
        }
      }
    }
  }
}

@Suite struct StoresInTrouble {
  @Test func aFullStoreLosesNothingAndGoesOnWhenThereIsRoom() async throws {
    try await withFolder { folder in
      let store = try open(folder) { $0.maximumPages = 200 }
      var answered: [Int64] = []
      var failure: StoreFailure?
      for id in 1...100 as ClosedRange<Int64> {
        do {
          _ = try await store.commit(put(entity(key("K", id), ["b": blob(20_000, 1)])))
          answered.append(id)
        } catch let error as StoreFailure {
          failure = error
          break
        }
      }
      #expect(failure?.kind == .full)
      #expect(failure?.description.contains(folder.file) ?? false)
      #expect(store.trouble?.kind == .full)
      #expect(answered.count > 10)
      let found = try await store.lookup(answered.prefix(20).map { try address($0) })
      #expect(found.entities.allSatisfy { $0 != nil })
      // What is stored already needs no write, and says nothing of the disk.
      _ = try await store.commit(put(entity(key("K", 1), ["b": blob(20_000, 1)])))
      #expect(store.trouble?.kind == .full)
      // Small ones still fit, though a large one beside them does not.
      try await withThrowingTaskGroup(of: Bool.self) { group in
        for id in 1_000...1_005 as ClosedRange<Int64> {
          group.addTask {
            do {
              _ = try await store.commit(
                put(entity(key("S", id), id == 1_003 ? ["b": blob(500_000, 2)] : [:])))
              return true
            } catch let error as StoreFailure where error.kind == .full {
              return false
            }
          }
        }
        var committed = 0
        for try await isCommitted in group where isCommitted { committed += 1 }
        #expect(committed == 5)
      }
      for id in answered {
        var commit = try put(entity(key("K", id)))
        commit.changes[0].mutation.operation = .delete
        _ = try await store.commit(commit)
      }
      _ = try await store.commit(put(entity(key("K", 500), ["b": blob(20_000, 3)])))
      #expect(store.trouble == nil)
    }
  }

  @Test func whileTheFileCannotBeWrittenReadsGoOnAndWritesSayWhy() async throws {
    try await withFolder { folder in
      var configuration = SQLiteStore.Configuration(path: folder.file)
      configuration.readers = 1
      let past = SQLitePast(maximumBytes: 1 << 20, maximumAge: .seconds(60))
      let cache = SQLiteCache(maximumBytes: 1 << 20, file: folder.file)
      let inner = try SQLiteWriter(configuration, past: past, cache: cache, clock: { .now })
      let connection = Held(connection: inner.connection)
      let writer = GroupWriter(
        inner, limits: StoreLimits(), trouble: nil, metrics: Metrics(MetricsRegistry()),
        logger: quietLogger)
      _ = try await writer.commit(put(entity(key("K", 1))))
      let reader = try SQLiteReader(configuration, past: past, cache: cache)
      // What SQLite answers to each write on a file system that has become read-only.
      try connection.connection.execute("PRAGMA query_only = ON")
      for id in 2...3 as ClosedRange<Int64> {
        let error = await #expect(throws: StoreFailure.self) {
          _ = try await writer.commit(put(entity(key("K", id))))
        }
        #expect(error?.kind == .readOnly)
        #expect(error?.description.hasPrefix("\(folder.file): attempt to write a readonly") == true)
      }
      #expect(writer.trouble?.kind == .readOnly)
      await writer.probe()
      #expect(writer.trouble?.kind == .readOnly)
      #expect(
        try reader.lookup([address(1), address(2)]).entities.map { $0 != nil } == [true, false])
      try connection.connection.execute("PRAGMA query_only = OFF")
      await writer.probe()
      #expect(writer.trouble == nil)
      _ = try await writer.commit(put(entity(key("K", 2))))
      #expect(try reader.lookup([address(2)]).entities[0] != nil)
    }
  }

  @Test func aFileThatAnotherProcessHoldsIsReadAndNotWritten() async throws {
    try await withFolder { folder in
      let store = try open(folder)
      _ = try await store.commit(put(entity(key("K", 1))))
      let other = try raw(folder)
      try other.execute("BEGIN IMMEDIATE")
      let error = await #expect(throws: StoreFailure.self) {
        _ = try await store.commit(put(entity(key("K", 2))))
      }
      #expect(error?.kind == .locked)
      #expect(try await store.lookup([address(1)]).entities[0] != nil)
      #expect(throws: StoreFailure.self) { _ = try open(folder) }
      try other.execute("ROLLBACK")
      await store.probe()
      #expect(store.trouble == nil)
      _ = try await store.commit(put(entity(key("K", 2))))
    }
  }

  private func startFailure(_ folder: TestFolder) -> StoreFailure? {
    do {
      _ = try open(folder)
      return nil
    } catch {
      return error as? StoreFailure
    }
  }

  @Test func aFileThatIsNoDatabaseIsTold() async throws {
    try await withFolder { folder in
      let bytes = Array("this is a text, and none of ours. ".utf8)
      let file = try #require(fopen(folder.file, "w"))
      for _ in 0..<100 { fwrite(bytes, 1, bytes.count, file) }
      fclose(file)
      let failure = self.startFailure(folder)
      #expect(failure?.kind == .corrupt)
      #expect(failure?.description.contains(folder.file) ?? false)
    }
  }

  @Test func anotherProgramsDatabaseStaysAsItIs() async throws {
    try await withFolder { folder in
      let other = try raw(folder)
      try other.execute("CREATE TABLE other (x)")
      #expect(self.startFailure(folder)?.kind == .corrupt)
      #expect(try other.integer("SELECT COUNT(*) FROM sqlite_schema") == 1)
    }
  }

  @Test func aNewerStoreIsRefused() async throws {
    try await withFolder { folder in
      _ = try open(folder)
      try raw(folder).execute("PRAGMA user_version = 3")
      let failure = self.startFailure(folder)
      #expect(failure?.description.contains("form 3") ?? false)
    }
  }

  @Test func aMissingFolderIsTold() async throws {
    let failure = #expect(throws: StoreFailure.self) {
      _ = try SQLiteStore(
        SQLiteStore.Configuration(path: "/nonexistent/x.sqlite"),
        metrics: Metrics(MetricsRegistry()), logger: quietLogger)
    }
    #expect(failure?.description.contains("/nonexistent/x.sqlite") ?? false)
  }

  @Test func whatWasLookedUpIsInMemoryUntilItChanges() async throws {
    try await withFolder { folder in
      let store = try open(folder)
      for id in 1...2 as ClosedRange<Int64> {
        _ = try await store.commit(put(entity(key("K", id), ["n": integer(1)])))
      }
      let addresses = try (1...3).map { try address($0) }
      let first = try await store.lookup(addresses)
      #expect(first.entities.map { $0 != nil } == [true, true, false])
      // Behind the store's back.
      try raw(folder).execute(
        "UPDATE entities SET content = (SELECT content FROM entities WHERE id = 1) WHERE id = 2")
      let second = try await store.lookup(addresses)
      #expect(second.entities.map { $0?.content } == first.entities.map { $0?.content })
      #expect(second.version == first.version)
      // What changes and what comes to be is read anew, and the rest stays.
      var deletion = try put(entity(key("K", 1)))
      deletion.changes[0].mutation.operation = .delete
      _ = try await store.commit(deletion)
      _ = try await store.commit(put(entity(key("K", 3))))
      let third = try await store.lookup(addresses)
      #expect(third.entities.map { $0 != nil } == [false, true, true])
      #expect(third.version > second.version)
      // A lookup of nothing asks for the version.
      #expect(try await store.lookup([]).version == third.version)
    }
  }

  @Test func aStatementOfOneTextIsUsedAgain() async throws {
    try await withFolder { folder in
      let connection = try raw(folder)
      let first = try connection.take("SELECT 1")
      // While it is in use there is a second one.
      let second = try connection.take("SELECT 1")
      #expect(first !== second)
      connection.giveBack(first)
      #expect(try connection.take("SELECT 1") === first)
    }
  }

  @Test func aDamagedEntityIsToldWithItsFile() async throws {
    try await withFolder { folder in
      let store = try open(folder)
      _ = try await store.commit(put(entity(key("K", 1), ["a": integer(1)])))
      _ = try await store.commit(put(entity(key("K", 2), ["a": integer(1)])))
      try raw(folder).execute("UPDATE entities SET content = x'FFFF' WHERE id = 1")
      let error = await #expect(throws: StoreFailure.self) {
        _ = try await store.lookup([address(1)])
      }
      #expect(error?.kind == .corrupt)
      #expect(error?.description.contains(folder.file) ?? false)
      #expect(try await store.lookup([address(2)]).entities[0] != nil)
    }
  }
}

@Suite struct StoredBytes {
  @Test func equalEntitiesHaveEqualBytes() throws {
    var random = SeededGenerator(seed: 3)
    let names = (0..<40).map { "p\($0)" }
    func made() -> DatastoreV1.Entity {
      var inner = DatastoreV1.Entity()
      for name in names.shuffled(using: &random) { inner.properties[name] = integer(1) }
      var made = entity(key("K", 1))
      for name in names.shuffled(using: &random) { made.properties[name] = integer(2) }
      made.properties["e"] = DatastoreV1.Value(valueType: .entityValue(inner), meaning: 20)
      made.properties["l"] = DatastoreV1.Value(
        valueType: .arrayValue(
          DatastoreV1.ArrayValue(values: [
            DatastoreV1.Value(valueType: .entityValue(inner)), integer(4),
          ])))
      return made
    }
    let one = made()
    let bytes = EntityCodec.canonicalBytes(one)
    #expect(try DatastoreV1.Entity(decoding: bytes) == one)
    for _ in 0..<20 { #expect(EntityCodec.canonicalBytes(made()) == bytes) }
  }

  @Test func timesAreKeptInMicrosecondsBothWays() throws {
    for microseconds in [-1, 0, 1, -1_000_000, 999_999, 1_700_000_000_123_456] as [Int64] {
      let time = Timestamp(microseconds: microseconds)
      let proto = EntityCodec.proto(time)
      #expect((0..<1_000_000_000).contains(proto.nanos))
      #expect(try EntityCodec.timestamp(proto, of: "t") == time)
    }
    #expect(throws: GatewayError.self) {
      try EntityCodec.timestamp(
        GoogleProtobuf.Timestamp(seconds: 253_402_300_800, nanos: 0), of: "t")
    }
  }
}

extension Int64 {
  fileprivate var asInt: Int { Int(self) }
}

@Suite struct Checks {
  /// Two entities with three index rows, in a store that is closed again; then `damage`.
  private func check(_ damage: String? = nil) async throws -> StoreCheck.Report {
    let folder = try TestFolder()
    defer { folder.remove() }
    let store = try open(folder)
    _ = try await store.commit(put(entity(key("K", 1), ["a": integer(1), "b": integer(2)])))
    _ = try await store.commit(put(entity(key("K", 2), ["a": integer(3)])))
    if let damage { try raw(folder).execute(text: damage) }
    let report = try StoreCheck.run(SQLiteSnapshot(path: folder.file))
    await store.drain()
    return report
  }

  @Test func aStoreThatIsWholeHasNoFault() async throws {
    let report = try await self.check()
    #expect(report.isWhole)
    #expect(report.faults.isEmpty)
    #expect(report.entities == 2)
    #expect(report.indexRows == 3)
  }

  @Test(arguments: [
    ("DELETE FROM property_rows WHERE entity = 2", "the index of a has no right row for K:2"),
    ("UPDATE property_rows SET repeated = 1 WHERE entity = 2", "no right row for K:2"),
    (
      "INSERT INTO property_rows SELECT property, x'00', path, entity, 0 FROM property_rows"
        + " WHERE entity = 2", "the index of a has a row for entity 2, which has no such value"
    ),
    ("DELETE FROM entities WHERE id = 2", "the index of a has a row for entity 2"),
    (
      "UPDATE entities SET content = x'ff' WHERE id = 2", "entity 2: a stored entity cannot be read"
    ),
    (
      "UPDATE entities SET path = x'0102' WHERE id = 2",
      "entity 2 is stored under another key than its own, K:2"
    ),
    ("UPDATE entities SET version = version + 1000000000 WHERE id = 2", "beyond the last one"),
    ("UPDATE entities SET created = version + 1 WHERE id = 2", "behind its own"),
  ])
  func eachFaultIsNamed(damage: String, words: String) async throws {
    let report = try await self.check(damage)
    #expect(!report.isWhole)
    #expect(report.faults.contains { $0.contains(words) }, "\(report.faults)")
  }

  @Test func whatIsNoStoreIsNotChecked() async throws {
    try await withFolder { folder in
      #expect(throws: StoreFailure.self) { try StoreCheck.run(SQLiteSnapshot(path: folder.file)) }
      try raw(folder).execute("CREATE TABLE other (x)")
      let failure = #expect(throws: StoreFailure.self) {
        try StoreCheck.run(SQLiteSnapshot(path: folder.file))
      }
      #expect(failure?.description.contains("another program") == true)
    }
  }
}
