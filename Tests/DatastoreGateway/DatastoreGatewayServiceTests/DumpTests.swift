import BuildProtos
import DatastoreGatewayCore
import Glibc
import RPC
import ServiceRuntime
import Testing

@testable import DatastoreGatewayService

/// A store of one test's own, and what a dump of it reads.
private struct Place: Sendable {
  var store: any EntityStore
  var snapshot: @Sendable () throws -> any StoreSnapshot
}

private func withPlace(_ kind: StoreKind, _ body: (Place) async throws -> Void) async throws {
  switch kind {
  case .sqlite:
    let folder = try TestFolder()
    defer { folder.remove() }
    let store = try SQLiteStore(
      SQLiteStore.Configuration(path: folder.file), metrics: Metrics(MetricsRegistry()),
      logger: quietLogger)
    try await body(Place(store: store) { try SQLiteSnapshot(path: folder.file) })
  case .postgres:
    try await withDatabase { database in
      try await body(
        Place(store: try database.open()) { try PostgresSnapshot(try database.address) })
    }
  }
}

private func withFile(_ body: (String) async throws -> Void) async throws {
  let folder = try TestFolder()
  let path = "\(folder.path)/dump"
  defer {
    unlink(path)
    folder.remove()
  }
  try await body(path)
}

private func dump(_ place: Place, to path: String) throws {
  let snapshot = try place.snapshot()
  let writer = try DumpWriter(
    to: path, DumpRecord.Header(version: snapshot.version, nextID: try snapshot.nextID()))
  try snapshot.write(to: writer) {}
  try writer.end()
}

private func load(_ path: String, into place: Place) async throws {
  try await DumpLoad(.entities(place.store)).run(try DumpReader(from: path)) {}
}

/// Puts a byte of a file right or wrong.
private func flip(_ path: String, at offset: Int) {
  let file = open(path, O_RDWR)
  defer { close(file) }
  var byte: UInt8 = 0
  pread(file, &byte, 1, off_t(offset))
  byte ^= 0x10
  pwrite(file, &byte, 1, off_t(offset))
}

@Suite struct Dumps {
  private static let pairs = StoreKind.all.flatMap { from in StoreKind.all.map { (from, $0) } }
  private static let count: Int64 = 1_200

  /// Of two partitions, with everything that a store must keep.
  private static func entities() throws -> [DatastoreV1.Entity] {
    var entities = (1...Self.count).map { id in
      entity(
        key(id % 3 == 0 ? "A" : "B", id, namespace: id % 2 == 0 ? "n" : ""),
        ["n": integer(id), "k": DatastoreV1.Value(valueType: .keyValue(key("A", id)))])
    }
    // A field that no gateway knows: number 200, the bytes "new".
    let unknown: [UInt8] = [0xC2, 0x0C, 3] + Array("new".utf8)
    entities[0] = try DatastoreV1.Entity(decoding: entities[0].encoded() + unknown)
    return entities
  }

  private func fill(_ place: Place) async throws {
    for begin in stride(from: 0, to: Int(Self.count), by: 400) {
      let part = try Self.entities()[begin..<(begin + 400)]
      _ = try await place.store.commit(
        Commit(changes: try part.map { try CommitSamples.change($0) }))
    }
    try await place.store.reserve([CommitSamples.address(key("R", 7))])
  }

  private func found(_ place: Place) async throws -> [StoredEntity?] {
    var found: [StoredEntity?] = []
    let addresses = try Self.entities().map { try CommitSamples.address($0.key ?? key("?", 1)) }
    while found.count < addresses.count {
      found += try await place.store.lookup(Array(addresses[found.count...].prefix(500))).entities
    }
    return found
  }

  @Test(arguments: Self.pairs)
  fileprivate func aStoreIsMovedWholeAndAgainWithoutAChange(
    from: StoreKind, to: StoreKind
  ) async throws {
    try await withFile { path in
      var given: [Int64] = []
      try await withPlace(from) { source in
        try await self.fill(source)
        given = try await source.store.allocateIDs(50)
        try dump(source, to: path)
      }
      try await withPlace(to) { target in
        try await load(path, into: target)
        let first = try await self.found(target)
        #expect(try first.map { try $0?.entity() } == Self.entities().map { $0 })
        let unknown = try #require(try first[0]?.entity().encoded())
        #expect(unknown.count > 0 && unknown.contains(Array("new".utf8)))
        #expect(try StoreCheck.run(target.snapshot()).faults == [])
        let reserved = try await target.store.areTaken([
          CommitSamples.address(key("R", 7)), CommitSamples.address(key("R", 8)),
        ])
        #expect(reserved == [true, false])
        try await load(path, into: target)
        let second = try await self.found(target)
        #expect(second.map { $0?.version } == first.map { $0?.version })
        // No id that the old store gave is given again.
        let ids = try await target.store.allocateIDs(200)
        #expect(Set(ids).isDisjoint(with: given))
      }
    }
  }

  @Test func aDumpIsOfOneMoment() async throws {
    try await withPlace(.sqlite) { source in
      try await self.fill(source)
      let snapshot = try source.snapshot()
      _ = try await source.store.commit(CommitSamples.put(entity(key("A", 9_999))))
      var count = 0
      try snapshot.forEachEntity { _ in count += 1 }
      #expect(count == Self.count)
    }
  }

  @Test(arguments: ["cut", "flipped", "none", "more"])
  func aDumpThatIsNotWholeIsRefused(damage: String) async throws {
    try await withFile { path in
      try await withPlace(.sqlite) { source in
        try await self.fill(source)
        try dump(source, to: path)
      }
      var status = stat()
      stat(path, &status)
      let size = Int(status.st_size)
      let words: String
      switch damage {
      case "cut":
        truncate(path, off_t(size - 20))
        words = "cut off"
      case "flipped":
        // In the first entity, behind the header.
        flip(path, at: 67)
        words = "the dump is damaged"
      case "none":
        flip(path, at: 0)
        words = "is no dump"
      default:
        truncate(path, off_t(size + 1))
        words = "behind the end"
      }
      let failure = #expect(throws: DumpFailure.self) {
        let reader = try DumpReader(from: path)
        while try reader.next() != nil {}
      }
      #expect(failure?.description.contains(words) == true, "\(failure?.description ?? "")")
    }
  }

  @Test func aDumpOfANewerGatewayIsRefused() throws {
    let header = DumpRecord.header(DumpRecord.Header(version: 1, nextID: 2))
    var payload = Array(header.encoded.dropFirst(DumpRecord.headBytes))
    #expect(try DumpRecord(payload: payload) == header)
    payload[8] = 9
    #expect(throws: DumpRecord.Mistake.self) { try DumpRecord(payload: payload) }
    payload[0] = 77
    #expect(throws: DumpRecord.Mistake.self) { try DumpRecord(payload: payload) }
  }

  @Test func aDamagedEntityStopsADump() async throws {
    let folder = try TestFolder()
    defer { folder.remove() }
    let store = try SQLiteStore(
      SQLiteStore.Configuration(path: folder.file), metrics: Metrics(MetricsRegistry()),
      logger: quietLogger)
    _ = try await store.commit(CommitSamples.put(entity(key("K", 1))))
    try SQLiteConnection(path: folder.file, mode: .readWrite, lockPatience: .seconds(5))
      .execute(
        "UPDATE entities SET content = CAST(substr(content, 1, length(content) - 1) || x'00' AS BLOB)"
      )
    try await withFile { path in
      let failure = #expect(throws: DumpFailure.self) {
        try dump(Place(store: store) { try SQLiteSnapshot(path: folder.file) }, to: path)
      }
      #expect(failure?.description.contains("checksum is wrong") == true)
      // There is no dump that looks like one.
      #expect(access(path, F_OK) != 0)
      unlink(path + ".part")
    }
  }
}

@Suite struct StoredContents {
  @Test func aFlippedBitIsNoticed() throws {
    let content = entity(key("K", 1), ["n": integer(1)]).encoded()
    let sealed = StoredContent.sealed(content)
    #expect(try StoredContent.opened(sealed, in: "here") == content)
    for number in sealed.indices.dropFirst() {
      var damaged = sealed
      damaged[number] ^= 1
      #expect(throws: StoreFailure.self) { try StoredContent.opened(damaged, in: "here") }
    }
    var newer = sealed
    newer[0] = 2
    let failure = #expect(throws: StoreFailure.self) {
      try StoredContent.opened(newer, in: "here")
    }
    #expect(failure?.description.contains("form 2") == true)
  }

  @Test func whatOlderGatewaysWroteIsRead() throws {
    let content = entity(key("K", 1), ["n": integer(1)]).encoded()
    #expect(try StoredContent.opened(content, in: "here") == content)
  }

  /// A store as the gateway before checksums left it.
  @Test(arguments: StoreKind.all)
  func anOlderStoreIsReadAndBecomesAPresentOne(on kind: StoreKind) async throws {
    let address = try CommitSamples.address(key("K", 1))
    let old = entity(key("K", 1), ["n": integer(1)])
    func check(_ open: () throws -> any EntityStore, _ version: () throws -> Int64) async throws {
      let store = try open()
      #expect(try version() == (kind == .sqlite ? 2 : PostgresSchema.version))
      #expect(try await store.lookup([address]).entities[0]?.entity() == old)
      // The same again changes nothing, another is written in the present form.
      let before = try await store.lookup([address]).entities[0]?.version
      _ = try await store.commit(CommitSamples.put(old))
      #expect(try await store.lookup([address]).entities[0]?.version == before)
      _ = try await store.commit(CommitSamples.put(entity(key("K", 1), ["n": integer(2)])))
      #expect(
        try await store.lookup([address]).entities[0]?.entity().properties == ["n": integer(2)])
      await store.drain()
    }
    let content = EntityCodec.canonicalBytes(old)
    let hexadecimal = content.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }
      .joined()
    switch kind {
    case .sqlite:
      let folder = try TestFolder()
      defer { folder.remove() }
      func open() throws -> any EntityStore {
        try SQLiteStore(
          SQLiteStore.Configuration(path: folder.file), metrics: Metrics(MetricsRegistry()),
          logger: quietLogger)
      }
      let first = try open()
      _ = try await first.commit(CommitSamples.put(old))
      await first.drain()
      let raw = try SQLiteConnection(
        path: folder.file, mode: .readWrite, lockPatience: .seconds(5))
      try raw.execute(text: "UPDATE entities SET content = x'\(hexadecimal)'")
      try raw.execute("PRAGMA user_version = 1")
      try await check(open) { try raw.integer("PRAGMA user_version") }
      #expect(try StoreCheck.run(SQLiteSnapshot(path: folder.file)).faults == [])
    case .postgres:
      try await withDatabase { database in
        let schema = PostgresSchema.name
        let first = try database.open()
        _ = try await first.commit(CommitSamples.put(old))
        try database.execute("UPDATE \(schema).entities SET content = '\\x\(hexadecimal)'")
        try database.execute(
          """
          DROP TABLE \(schema).past, \(schema).past_begin;
          UPDATE \(schema).facts SET value = 1 WHERE name = 'schema_version'
          """)
        try await check({ try database.open() }) {
          let rows = try database.execute(
            "SELECT value FROM \(schema).facts WHERE name = 'schema_version'")
          return Int64(rows[0][0]) ?? 0
        }
        #expect(try database.faults() == [])
      }
    }
  }
}
