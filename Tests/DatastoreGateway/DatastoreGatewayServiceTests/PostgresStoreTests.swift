import BuildProtos
import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Glibc
import RPC
import ServiceRuntime
import Testing

@testable import DatastoreGatewayService

let needsServer = ConditionTrait.enabled(
  if: PostgresServer.isInstalled, Comment(rawValue: PostgresServer.whyNot))

@Suite(needsServer) struct PostgresStores {
  @Test func gatewaysThatStartTogetherMakeOneStore() async throws {
    try await withDatabase { database in
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<6 as Range<Int64> {
          group.addTask {
            let store = try database.open()
            _ = try await store.commit(
              CommitSamples.put(entity(key("K", number + 1), ["a": integer(number)])))
          }
        }
        try await group.waitForAll()
      }
      #expect(
        try database.execute("SELECT count(*) FROM \(PostgresSchema.name).entities") == [["6"]])
      #expect(
        try database.execute("SELECT count(*) FROM \(PostgresSchema.name).collections") == [["1"]])
    }
  }

  @Test func whatWasAnsweredIsThereAfterwards() async throws {
    try await withDatabase { database in
      var last: Int64 = 0
      for round in 1...3 as ClosedRange<Int64> {
        let store = try database.open()
        let answer = try await store.commit(
          CommitSamples.put(entity(key("K", round), ["a": integer(round)])))
        #expect(answer.version > last)
        last = answer.version
        let found = try await store.lookup(
          (1...round).map { try CommitSamples.address(key("K", $0)) })
        #expect(
          try found.entities.map { try $0?.entity().properties["a"] }
            == (1...round).map { integer($0) })
        #expect(found.version == last)
        await store.drain()
      }
    }
  }

  @Test func commitsThatWaitTogetherAreWrittenTogether() async throws {
    try await withDatabase { database in
      let registry = MetricsRegistry()
      let store = try PostgresStore(
        PostgresStore.Configuration(database.address), metrics: Metrics(registry),
        logger: quietLogger)
      // While another has the lock of all writers, commits gather behind the first.
      let other = try PostgresConnection(database.address, patience: .seconds(10))
      _ = try other.run([
        PostgresQuery("SET idle_in_transaction_session_timeout = 0"), PostgresQuery("BEGIN"),
        .lockedVersion,
      ])
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { _ = try await store.commit(CommitSamples.put(entity(key("K", 1)))) }
        await store.writer.reaches { !$0.isIdle && $0.queuedCommits == 0 }
        for id in 2...50 as ClosedRange<Int64> {
          group.addTask { _ = try await store.commit(CommitSamples.put(entity(key("K", id)))) }
        }
        await store.writer.reaches { $0.queuedCommits == 49 }
        _ = try other.run(PostgresQuery("ROLLBACK"))
        try await group.waitForAll()
      }
      #expect(Metrics(registry).batchSize.count == 2)
      let found = try await store.lookup(
        (1...50).map { try CommitSamples.address(key("K", $0)) })
      #expect(found.entities.allSatisfy { $0 != nil })
    }
  }

  @Test(arguments: 0..<4)
  func indexesHoldWhatEntitiesHave(seed: UInt64) async throws {
    try await withDatabase { database in
      let stores = [try database.open(), try database.open()]
      var world = RandomEntities(seed: seed)
      var expected: Set<Key> = []
      for round in 0..<60 {
        var commit = Commit(changes: [])
        // The same entity may change several times in one commit.
        for _ in 0..<3 {
          let entity = world.entity()
          if Bool.random(using: &world.random) {
            expected.insert(entity.key)
            commit.changes.append(try CommitSamples.change(Proto.entity(entity)))
          } else {
            expected.remove(entity.key)
            commit.changes.append(try CommitSamples.change(Proto.entity(entity), .delete))
          }
        }
        _ = try await stores[round % 2].commit(commit)
      }
      #expect(
        try database.execute("SELECT count(*) FROM \(PostgresSchema.name).entities")
          == [["\(expected.count)"]])
      #expect(try database.faults() == [])
    }
  }

  @Test func scansFollowTheirIndexesAndNeverSort() async throws {
    try await withDatabase { database in
      let store = try database.open()
      _ = try await store.commit(CommitSamples.put(entity(key("K", 1), ["a": integer(1)])))
      let connection = try PostgresConnection(database.address, patience: .seconds(10))
      let bounds: [RowBound] = [
        .none, .value([1], isIncluded: true), .value([1], isIncluded: false),
        .row(value: [1], path: [1], isIncluded: true),
        .row(value: [1], path: [1], isIncluded: false),
        .row(value: [2], path: [1], isIncluded: false),
      ]
      let sources: [(source: PostgresScan.Source, hasValues: Bool)] = [
        (.kind(collection: 1), false), (.property(1, having: []), true),
        (.property(1, having: [(2, [1]), (3, [2])]), true),
      ]
      for (source, hasValues) in sources {
        for lower in bounds {
          for upper in bounds {
            for isReversed in [false, true] {
              let range = RowRange(lower: lower, upper: upper, isReversed: isReversed)
              for last in [nil, (value: [1] as [UInt8], path: [3] as [UInt8])] {
                var query = PostgresScan.query(
                  source, PostgresBounds(range, hasValues: hasValues), isReversed: isReversed,
                  after: last, limit: 100)
                query.text = "EXPLAIN \(query.text)"
                let rows = try connection.run(query)
                let plan = (0..<rows.count).map { rows.text($0, 0) }
                #expect(!plan.contains { $0.contains("Seq Scan") }, "\(plan)")
                // Only a page's filtered rows are put in order once more, above its limit.
                let sort = plan.firstIndex { $0.contains("Sort") }
                let limit = plan.firstIndex { $0.contains("Limit") }
                #expect(sort == nil || sort! < limit ?? 0, "\(plan)")
              }
            }
          }
        }
      }
    }
  }
}

@Suite(needsServer) struct PostgresStoresInTrouble {
  private func startFailure(_ address: String) throws -> StoreFailure? {
    var configuration = PostgresStore.Configuration(try PostgresAddress(address))
    configuration.patience = .zero
    do throws(StoreFailure) {
      _ = try PostgresStore(
        configuration, metrics: Metrics(MetricsRegistry()), logger: quietLogger)
      return nil
    } catch {
      return error
    }
  }

  @Test func aServerThatIsNotThereIsTold() throws {
    let failure = try self.startFailure("postgresql://u:secret@/d?host=/nonexistent")
    #expect(failure?.kind == .unreachable)
    #expect(failure?.description.contains("/nonexistent") ?? false)
    #expect(!(failure?.description.contains("secret") ?? true))
  }

  @Test func aWrongPasswordAndAMissingDatabaseAreTold() async throws {
    try await withDatabase { database in
      // Several tests may make the user.
      _ = try? database.execute(
        "CREATE ROLE \(PostgresServer.guardedUser) LOGIN PASSWORD 'right'")
      let wrong = try self.startFailure(
        "postgresql://\(PostgresServer.guardedUser):wrong@/\(database.name)"
          + "?host=\(database.server.folder)")
      #expect(wrong?.kind == .refused)
      #expect(wrong?.description.contains("28P01") ?? false, "\(wrong as Any)")
      let missing = try self.startFailure(database.server.address(of: "nothing"))
      #expect(missing?.kind == .refused)
      #expect(missing?.description.contains("does not exist") ?? false, "\(missing as Any)")
    }
  }

  @Test func anotherProgramsSchemaStaysAsItIs() async throws {
    try await withDatabase { database in
      try database.execute("CREATE SCHEMA \(PostgresSchema.name)")
      try database.execute("CREATE TABLE \(PostgresSchema.name).other (x int)")
      let failure = try self.startFailure(database.server.address(of: database.name))
      #expect(failure?.kind == .corrupt)
      #expect(try database.execute("SELECT * FROM \(PostgresSchema.name).other") == [])
    }
  }

  @Test func aNewerStoreIsRefused() async throws {
    try await withDatabase { database in
      _ = try database.open()
      try database.execute(
        "UPDATE \(PostgresSchema.name).facts SET value = 4 WHERE name = 'schema_version'")
      let failure = try self.startFailure(database.server.address(of: database.name))
      #expect(failure?.description.contains("form 4") ?? false)
    }
  }

  @Test func aReadOnlyDatabaseIsReadAndNotWritten() async throws {
    try await withDatabase { database in
      _ = try await database.open().commit(CommitSamples.put(entity(key("K", 1))))
      try database.execute(
        "ALTER DATABASE \(database.name) SET default_transaction_read_only = on")
      let store = try database.open()
      #expect(store.trouble?.kind == .readOnly)
      let error = await #expect(throws: StoreFailure.self) {
        _ = try await store.commit(CommitSamples.put(entity(key("K", 2))))
      }
      #expect(error?.kind == .readOnly)
      #expect(try await store.lookup([CommitSamples.address(key("K", 1))]).entities[0] != nil)
      try database.server.execute(
        "ALTER DATABASE \(database.name) RESET default_transaction_read_only")
      // A session has what was set when it began; the gateway's next one has what is set now.
      let clock = ContinuousClock()
      let deadline = clock.now + .seconds(10)
      while store.trouble != nil, clock.now < deadline {
        await store.probe()
        try await Task.sleep(for: .milliseconds(20))
      }
      #expect(store.trouble == nil)
      _ = try await store.commit(CommitSamples.put(entity(key("K", 2))))
    }
  }

  /// Else a batch would see the store as it was before the one that it waited for.
  @Test func whateverIsolationTheDatabaseHasCommitsOfTwoGatewaysDoNotFail() async throws {
    try await withDatabase { database in
      _ = try database.open()
      try database.server.execute(
        "ALTER DATABASE \(database.name) SET default_transaction_isolation = 'serializable'")
      let stores = [try database.open(), try database.open()]
      try await withThrowingTaskGroup(of: Void.self) { group in
        for (number, store) in stores.enumerated() {
          group.addTask {
            for id in 1...60 as ClosedRange<Int64> {
              let commit = try CommitSamples.put(entity(key("K", Int64(number) * 1_000 + id)))
              _ = try await store.commit(commit)
            }
          }
        }
        try await group.waitForAll()
      }
    }
  }

  /// Nobody answers at the first host, as behind a machine that has died.
  @Test func aHostThatDoesNotAnswerLeavesTheOthers() async throws {
    try await withDatabase { database in
      _ = try database.open()
      let deaf = try #require(DeafHost())
      let address = try PostgresAddress(
        "postgresql://millrace@/\(database.name)?host=127.0.0.1,\(database.server.folder)"
          + "&port=\(deaf.port),5432&connect_timeout=1")
      let connection = try PostgresConnection(address, patience: .seconds(20))
      let rows = try connection.run(PostgresQuery("SELECT 1::bigint"))
      #expect(rows.integer(0, 0) == 1)
    }
  }

  @Test func eachHostHasItsPort() throws {
    func places(_ text: String) throws -> [[String]] {
      try PostgresAddress(text).hosts.map { $0.map { "\($0.keyword)=\($0.value)" } }
    }
    #expect(try places("postgresql://u@h1,h2/db") == [["host=h1"], ["host=h2"]])
    #expect(try places("postgresql://u@h1:1,h2/db") == [["host=h1", "port=1"], ["host=h2"]])
    #expect(
      try places("postgresql://u@/db?host=h1,h2&port=7") == [
        ["host=h1", "port=7"], ["host=h2", "port=7"],
      ])
    #expect(try places("postgresql://u@/db") == [[]])
    let named = try PostgresAddress("postgresql://u:p%40@h1,h2/db?connect_timeout=3")
    #expect(named.connectTimeout == .seconds(3))
    #expect(
      Set(named.parameters.map { "\($0.keyword)=\($0.value)" })
        .isSuperset(of: ["user=u", "password=p@", "dbname=db"]))
  }

  @Test func statementsOfManyFormsAreNotKeptForEver() async throws {
    try await withDatabase { database in
      _ = try database.open()
      let connection = try PostgresConnection(try database.address, patience: .seconds(20))
      for number in 0..<300 {
        let rows = try connection.run([
          PostgresQuery("BEGIN"), PostgresQuery("SELECT \(number)::bigint + $1", .integer(1)),
          PostgresQuery("COMMIT"),
        ])
        #expect(rows[1].integer(0, 0) == Int64(number) + 1)
      }
      let long = String(repeating: " ", count: 5_000)
      #expect(try connection.run(PostgresQuery("SELECT\(long)$1", .integer(7))).integer(0, 0) == 7)
      let kept = try connection.run(PostgresQuery("SELECT count(*) FROM pg_prepared_statements"))
      #expect(kept.integer(0, 0) < 200)
    }
  }

  @Test func aPasswordIsInNoMessage() {
    for text in [
      "postgresql://u:Secr%tZ@h/db", "postgresql://u:Sec/ret@h/db", "postgresql://u:a@Secret@h/d",
    ] {
      let failure = #expect(throws: StoreFailure.self) { try PostgresAddress(text) }
      #expect(failure.map { !$0.description.contains("Sec") } ?? false)
    }
  }

  @Test func aFullDiskLosesNothingAndWritesGoOnWhenThereIsRoom() async throws {
    try await withDatabase { database in
      let store = try database.open()
      _ = try await store.commit(CommitSamples.put(entity(key("K", 1), ["a": integer(1)])))
      let schema = PostgresSchema.name
      // What the server says when its disk is full, for some entities only.
      try database.execute(
        """
        CREATE FUNCTION \(schema).refuse_large() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF octet_length(NEW.content) > 100000 THEN
            RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
          END IF;
          RETURN NEW;
        END $$;
        CREATE TRIGGER refuse_large BEFORE INSERT OR UPDATE ON \(schema).entities
          FOR EACH ROW EXECUTE FUNCTION \(schema).refuse_large()
        """)
      let blob = DatastoreV1.Value(
        valueType: .blobValue(Array(repeating: 1, count: 200_000)), excludeFromIndexes: true)
      // Small ones still fit, though a large one beside them does not.
      try await withThrowingTaskGroup(of: Bool.self) { group in
        for id in 10..<20 as Range<Int64> {
          group.addTask {
            do {
              _ = try await store.commit(
                CommitSamples.put(entity(key("K", id), id == 13 ? ["b": blob] : [:])))
              return true
            } catch let error as StoreFailure where error.kind == .full {
              #expect(error.description.contains("53100"))
              return false
            }
          }
        }
        var committed = 0
        for try await isCommitted in group where isCommitted { committed += 1 }
        #expect(committed == 9)
      }
      #expect(try database.faults() == [])
      try database.execute("DROP TRIGGER refuse_large ON \(schema).entities")
      _ = try await store.commit(CommitSamples.put(entity(key("K", 13), ["b": blob])))
      #expect(store.trouble == nil)
    }
  }

  @Test func aServerWithoutFreeConnectionsIsTold() async throws {
    try await withDatabase { database in
      let user = "few_\(database.name)"
      try database.execute("CREATE ROLE \(user) LOGIN CONNECTION LIMIT 1")
      try database.execute("GRANT ALL ON DATABASE \(database.name) TO \(user)")
      let store = try PostgresStore(
        PostgresStore.Configuration(
          PostgresAddress(database.server.address(of: database.name, user: user))),
        metrics: Metrics(MetricsRegistry()), logger: quietLogger)
      // The writer has the only one.
      let error = await #expect(throws: StoreFailure.self) {
        _ = try await store.lookup([CommitSamples.address(key("K", 1))])
      }
      #expect(error?.kind == .tooManyConnections)
      #expect(error?.description.contains("53300") ?? false)
      _ = try await store.commit(CommitSamples.put(entity(key("K", 1))))
    }
  }

  @Test func aDamagedEntityHurtsOnlyItsOwnCallers() async throws {
    try await withDatabase { database in
      let store = try database.open()
      for id in 1...2 as ClosedRange<Int64> {
        _ = try await store.commit(CommitSamples.put(entity(key("K", id), ["a": integer(1)])))
      }
      let path = try CommitSamples.address(key("K", 1)).path.bytes
        .map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
      try database.execute(
        "UPDATE \(PostgresSchema.name).entities SET content = '\\xFFFF' WHERE path = '\\x\(path)'")
      let error = await #expect(throws: StoreFailure.self) {
        _ = try await store.lookup([CommitSamples.address(key("K", 1))])
      }
      #expect(error?.kind == .corrupt)
      #expect(error?.description.contains(database.name) ?? false)
      let write = await #expect(throws: StoreFailure.self) {
        _ = try await store.commit(CommitSamples.put(entity(key("K", 1))))
      }
      #expect(write?.kind == .corrupt)
      _ = try await store.commit(CommitSamples.put(entity(key("K", 2), ["a": integer(2)])))
      #expect(try await store.lookup([CommitSamples.address(key("K", 2))]).entities[0] != nil)
    }
  }

  @Test func aLostConnectionIsMadeAgain() async throws {
    try await withDatabase { database in
      let store = try database.open()
      _ = try await store.commit(CommitSamples.put(entity(key("K", 1))))
      for id in 2...4 as ClosedRange<Int64> {
        _ = try await store.lookup([CommitSamples.address(key("K", 1))])
        try database.server.execute(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '\(database.name)'"
        )
        _ = try await store.commit(CommitSamples.put(entity(key("K", id))))
        let found = try await store.lookup([CommitSamples.address(key("K", id))])
        #expect(found.entities[0] != nil)
      }
    }
  }
}

/// A port at which connections are taken and nothing is ever answered.
private final class DeafHost {
  let port: UInt16
  private let descriptor: Int32

  init?() {
    self.descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let descriptor = self.descriptor
    let isListening = withUnsafeMutableBytes(of: &address) { bytes in
      let pointer = bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self)
      return bind(descriptor, pointer, length) == 0 && listen(descriptor, 8) == 0
        && getsockname(descriptor, pointer, &length) == 0
    }
    self.port = address.sin_port.bigEndian
    if !isListening { return nil }
  }

  deinit { close(self.descriptor) }
}
