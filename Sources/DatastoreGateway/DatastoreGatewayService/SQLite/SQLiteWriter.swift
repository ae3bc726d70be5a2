import BuildProtos
import DatastoreGatewayCore
import Domain
import RPCCore

/// The connection that writes. One thread has it.
final class SQLiteWriter: BatchWriter {
  /// A stored entity as a commit needs it.
  private struct Stored {
    var row: Int64
    var version: StoredVersion
    var content: [UInt8]
  }

  let connection: SQLiteConnection
  private var names = SQLiteNames()
  private let policy: Policy
  private let past: SQLitePast
  private let cache: SQLiteCache
  private let clock: @Sendable () -> Timestamp
  private let checkpointer: SQLiteCheckpointer
  /// How long the log is when it begins to be moved.
  private let checkpointPages: Int
  /// How long it was when it was last moved; 0 once it has begun anew.
  private var movedPages = 0
  /// The greatest version that was given.
  private(set) var lastVersion: Int64
  /// For transactions that have queried a collection.
  private var changes: CollectionVersions
  /// What the batch under way has changed.
  private var changedEntities: [EntityAddress] = []

  /// Pages that the writer keeps: most of what it changes again stays in memory.
  private static let cacheKibibytes = 49_152

  init(
    _ configuration: SQLiteStore.Configuration, past: SQLitePast, cache: SQLiteCache,
    clock: @escaping @Sendable () -> Timestamp
  ) throws(StoreFailure) {
    self.connection = try SQLiteConnection(
      path: configuration.path, mode: .durableWrites, lockPatience: configuration.lockPatience)
    self.checkpointPages = configuration.checkpointPages
    self.policy = configuration.policy
    self.past = past
    self.cache = cache
    self.clock = clock
    try self.connection.execute("PRAGMA journal_mode = WAL")
    self.connection.leaveLog()
    self.checkpointer = try SQLiteCheckpointer(
      path: configuration.path, lockPatience: configuration.lockPatience)
    // After a checkpoint the log gives back what it took beyond twice its usual size.
    try self.connection.execute(
      text: "PRAGMA journal_size_limit = \(self.checkpointPages * 4_096 * 2)")
    try self.connection.execute(text: "PRAGMA cache_size = -\(Self.cacheKibibytes)")
    try self.connection.execute("PRAGMA temp_store = MEMORY")
    // What was deleted is overwritten in time; Debian's library would do so at once.
    try self.connection.execute("PRAGMA secure_delete = OFF")
    if let pages = configuration.maximumPages {
      try self.connection.execute(text: "PRAGMA max_page_count = \(pages)")
    }
    try SQLiteSchema.prepare(self.connection)
    self.lastVersion = try self.connection.integer(
      "SELECT value FROM facts WHERE name = 'last_version'")
    // Twice a transaction's life: it is measured by another clock.
    self.changes = CollectionVersions(
      since: self.lastVersion, span: configuration.policy.transactionLife * 2)
    past.opened(at: self.lastVersion)
  }

  func write(_ batch: [WriterWork]) throws(StoreFailure) -> WrittenBatch {
    self.keepLogShort()
    let versionBefore = self.lastVersion
    try self.connection.execute("BEGIN IMMEDIATE")
    var isCommitting = false
    defer { self.changedEntities.removeAll(keepingCapacity: true) }
    do throws(StoreFailure) {
      var outcomes: [WriterOutcome] = []
      outcomes.reserveCapacity(batch.count)
      var hasWrites = false
      for work in batch {
        outcomes.append(try self.apply(work, &hasWrites))
      }
      if hasWrites {
        try self.setFact(
          "UPDATE facts SET value = ? WHERE name = 'last_version'", self.lastVersion)
        self.cache.changing(self.changedEntities, as: self.lastVersion)
        isCommitting = true
        try self.connection.execute("COMMIT")
      } else {
        try self.connection.execute("ROLLBACK")
      }
      return WrittenBatch(outcomes: outcomes, hasWritten: hasWrites)
    } catch {
      var failure = error
      let hasFailedToWrite = self.connection.hasFailedToWrite
      // Some errors have ended the transaction already.
      if self.connection.isInTransaction { try? self.connection.execute("ROLLBACK") }
      self.names.forget()
      // Versions only grow, given or not: readers may have seen the time.
      self.lastVersion = max(versionBefore, self.lastVersion)
      self.past.undone(after: versionBefore)
      // What fails behind the last page of the log fails when the commit is there.
      if isCommitting
        && (failure.kind == .inputOutput || failure.kind == .full && !hasFailedToWrite)
      {
        self.past.lost(upTo: self.lastVersion)
        failure = StoreFailure(
          .outcomeUnknown, "\(failure); whether the commit will be there is not known")
      }
      throw failure
    }
  }

  /// Has the log moved into the file when it is long, most of it beside this thread.
  private func keepLogShort() {
    let pages = self.connection.logPages
    // The disk takes less than is written.
    if pages >= self.checkpointPages * 4 { self.checkpointer.wait() }
    switch self.checkpointer.phase {
    case .moving: break
    case .moved:
      // What fails is tried again when there is more.
      try? self.connection.moveLog()
      self.checkpointer.rest()
      self.movedPages = pages
    case .resting:
      if pages < self.movedPages { self.movedPages = 0 }
      // A log that a reader still needs grows, and is not looked at behind every commit.
      if pages >= max(self.checkpointPages, self.movedPages + self.checkpointPages / 4) {
        self.checkpointer.begin()
      }
    }
  }

  /// - Parameter update: A statement that sets one of the `facts` to its only parameter.
  private func setFact(_ update: StaticString, _ value: Int64) throws(StoreFailure) {
    try self.connection.with(update) { (statement) throws(StoreFailure) in
      statement.bind(1, value)
      _ = try statement.step()
    }
  }

  private func apply(
    _ work: WriterWork, _ hasWrites: inout Bool
  ) throws(StoreFailure) -> WriterOutcome {
    switch work {
    case .commit(let commit): return try self.apply(commit, &hasWrites)
    case .idBlock(let count):
      let first = try self.connection.integer("SELECT value FROM facts WHERE name = 'next_id'")
      try self.setFact("UPDATE facts SET value = ? WHERE name = 'next_id'", first + count)
      hasWrites = true
      return .idBlock(first: first)
    case .reserve(let addresses):
      for address in addresses {
        let collection = try self.names.collectionForWriting(
          address.collection, on: self.connection)
        try self.connection.with("INSERT OR IGNORE INTO reserved_ids VALUES (?, ?)") {
          (statement) throws(StoreFailure) in
          statement.bind(1, collection)
          try statement.bind(2, address.path.bytes)
          _ = try statement.step()
        }
      }
      hasWrites = true
      return .reserved
    case .probe:
      // Another value than is there: SQLite does not write what would change nothing.
      self.lastVersion = max(self.lastVersion + 1, self.clock().microseconds)
      hasWrites = true
      return .probed
    case .settle(let moment):
      self.lastVersion = max(self.lastVersion, moment)
      return .settled
    }
  }

  private func apply(
    _ commit: Commit, _ hasWrites: inout Bool
  ) throws(StoreFailure) -> WriterOutcome {
    if let contention = try self.contention(commit.dependencies) { return .refused(contention) }
    let version = max(self.lastVersion + 1, self.clock().microseconds)
    self.lastVersion = version
    for change in commit.changes where change.isAllocated {
      if let collection = try self.names.collection(
        change.address.collection, on: self.connection),
        try self.connection.isTaken(change.address.path, in: collection)
      {
        return .idTaken
      }
    }
    var stored: [Stored?] = []
    let decision: CommitDecision
    switch try CommitDecision.decide(
      commit, version: version, policy: self.policy, in: self.connection.path,
      stored: { (address) throws(StoreFailure) in
        let found = try self.stored(at: address)
        stored.append(found)
        return found.map { ($0.version, $0.content) }
      })
    {
    case .failure(let refusal): return .refused(refusal)
    case .success(let decided): decision = decided
    }
    // All is decided: from here on only the disk can refuse.
    var answer = decision.answer
    for write in decision.writes {
      hasWrites = true
      self.changedEntities.append(write.address)
      let before = stored[write.entity]
      answer.indexUpdates += try self.carryOut(write, over: before)
      if let before {
        self.past.replaced(
          at: write.address, version: before.version, content: before.content, until: version)
      }
    }
    // Most commits are of one collection.
    var last: CollectionName?
    for write in decision.writes where write.address.collection != last {
      self.changes.changed(write.address.collection, at: version)
      last = write.address.collection
    }
    return .committed(answer)
  }

  /// Whether something that a transaction read has changed.
  private func contention(
    _ dependencies: TransactionTable.Dependencies
  ) throws(StoreFailure) -> GatewayError? {
    for (collection, version) in dependencies.collections
    where self.changes.hasChanged(collection, since: version) {
      let kind = try? collection.parts().kind
      return .contention("kind \(kind ?? "?")")
    }
    for (prefix, version) in dependencies.prefixes {
      if let change = self.changes.change(below: prefix, since: version) {
        let kind = try? change.collection?.parts().kind
        return .contention("kind \(kind ?? "?")")
      }
    }
    for (address, version) in dependencies.entities {
      let current = try self.version(at: address)
      if current != version {
        return .contention("entity \(address.path.text ?? "?")")
      }
    }
    return nil
  }

  /// 0 for no entity.
  private func version(at address: EntityAddress) throws(StoreFailure) -> Int64 {
    guard
      let collection = try self.names.collection(address.collection, on: self.connection)
    else { return 0 }
    return try self.connection.with(
      "SELECT version FROM entities WHERE collection = ? AND path = ?"
    ) { (statement) throws(StoreFailure) -> Int64 in
      statement.bind(1, collection)
      try statement.bind(2, address.path.bytes)
      return try statement.step() ? statement.integer(0) : 0
    }
  }

  private func stored(at address: EntityAddress) throws(StoreFailure) -> Stored? {
    guard
      let collection = try self.names.collection(address.collection, on: self.connection)
    else { return nil }
    return try self.connection.with(
      "SELECT id, version, created, content FROM entities WHERE collection = ? AND path = ?"
    ) { (statement) throws(StoreFailure) -> Stored? in
      statement.bind(1, collection)
      try statement.bind(2, address.path.bytes)
      guard try statement.step() else { return nil }
      return Stored(
        row: statement.integer(0),
        version: StoredVersion(
          version: statement.integer(1),
          createTime: Timestamp(microseconds: statement.integer(2))),
        content: try statement.content(3, in: self.connection))
    }
  }

  /// - Returns: Index rows that were written or removed.
  private func carryOut(
    _ write: CommitDecision.Write, over stored: Stored?
  ) throws(StoreFailure) -> Int {
    let address = write.address
    let collection = try self.names.collectionForWriting(
      address.collection, on: self.connection)
    let old = try stored.map { (stored) throws(StoreFailure) in
      try DatastoreV1.Entity(stored: stored.content, in: self.connection.path)
        .indexEntries(in: self.connection.path)
    }
    guard let content = write.content, let after = write.after else {
      guard let stored else { return 0 }
      try self.connection.with("DELETE FROM entities WHERE id = ?") {
        (statement) throws(StoreFailure) in
        statement.bind(1, stored.row)
        _ = try statement.step()
      }
      return try self.replaceRows(
        of: stored.row, at: address.path, in: collection, old ?? [], by: [])
    }
    let row: Int64
    if let stored {
      row = stored.row
      try self.connection.with(
        "UPDATE entities SET version = ?, created = ?, content = ? WHERE id = ?"
      ) { (statement) throws(StoreFailure) in
        statement.bind(1, after.version)
        statement.bind(2, after.createTime.microseconds)
        try statement.bind(3, StoredContent.sealed(content.bytes))
        statement.bind(4, stored.row)
        _ = try statement.step()
      }
    } else {
      row = try self.connection.with(
        """
        INSERT INTO entities (collection, path, version, created, content)
          VALUES (?, ?, ?, ?, ?)
        """
      ) { (statement) throws(StoreFailure) -> Int64 in
        statement.bind(1, collection)
        try statement.bind(2, address.path.bytes)
        statement.bind(3, after.version)
        statement.bind(4, after.createTime.microseconds)
        try statement.bind(5, StoredContent.sealed(content.bytes))
        _ = try statement.step()
        return self.connection.lastInsertedRow
      }
    }
    return try self.replaceRows(
      of: row, at: address.path, in: collection, old ?? [], by: content.indexEntries)
  }

  /// Writes what differs between two lists of entries, both sorted.
  private func replaceRows(
    of entity: Int64, at path: PathBytes, in collection: Int64, _ old: [IndexEntry],
    by new: [IndexEntry]
  ) throws(StoreFailure) -> Int {
    let (gone, added) = old.differences(to: new)
    for entry in gone {
      let property = try self.names.propertyForWriting(
        entry.property, of: collection, on: self.connection)
      try self.connection.with(
        "DELETE FROM property_rows WHERE property = ? AND value = ? AND path = ?"
      ) { (statement) throws(StoreFailure) in
        statement.bind(1, property)
        try statement.bind(2, entry.value)
        try statement.bind(3, path.bytes)
        _ = try statement.step()
      }
    }
    for entry in added {
      let property = try self.names.propertyForWriting(
        entry.property, of: collection, on: self.connection)
      try self.connection.with("INSERT INTO property_rows VALUES (?, ?, ?, ?, ?)") {
        (statement) throws(StoreFailure) in
        statement.bind(1, property)
        try statement.bind(2, entry.value)
        try statement.bind(3, path.bytes)
        statement.bind(4, entity)
        statement.bind(5, entry.isRepeated ? 1 : 0)
        _ = try statement.step()
      }
    }
    return gone.count + added.count
  }
}
