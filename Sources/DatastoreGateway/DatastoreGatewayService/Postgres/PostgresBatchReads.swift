import DatastoreGatewayCore
import Domain

/// What a batch has to know of the database before it can be decided.
struct PostgresBatchReads {
  private var changed: [EntityAddress] = []
  private var allocated: [EntityAddress] = []
  /// Depended on, not changed.
  private var read: [EntityAddress] = []
  private var queried: Set<CollectionName> = []
  private var prefixes: Set<[UInt8]> = []
  private var needsIDs = false

  init(_ work: [WriterWork]) {
    var changed: Set<EntityAddress> = []
    var read: Set<EntityAddress> = []
    for work in work {
      switch work {
      case .commit(let commit):
        for change in commit.changes {
          if changed.insert(change.address).inserted { self.changed.append(change.address) }
          if change.isAllocated { self.allocated.append(change.address) }
        }
        read.formUnion(commit.dependencies.entities.keys)
        self.queried.formUnion(commit.dependencies.collections.keys)
        self.prefixes.formUnion(commit.dependencies.prefixes.keys)
      case .idBlock: self.needsIDs = true
      case .reserve, .probe, .settle: break
      }
    }
    self.read = Array(read.subtracting(changed))
  }

  private var collections: Set<CollectionName> {
    var names = self.queried
    for address in self.changed + self.read { names.insert(address.collection) }
    return names
  }

  func knownCollections(_ names: PostgresNames) -> [CollectionName: Int64] {
    var known: [CollectionName: Int64] = [:]
    for name in self.collections { known[name] = names.collection(name) }
    return known
  }

  /// Begins the batch's transaction, locks, and reads: in one go where all names are known.
  ///
  /// - Parameter ids: Of collections; those that turn out to be there are added.
  func read(
    _ connection: PostgresConnection, _ ids: inout [CollectionName: Int64]
  ) throws(StoreFailure) -> PostgresBatch.Facts {
    var first = [PostgresQuery("BEGIN"), .lockedVersion]
    let unknown = self.collections.filter { ids[$0] == nil }
    if !unknown.isEmpty {
      let names = Array(unknown)
      first.append(.collectionNumbers(names))
      let rows = try connection.run(first)
      ids.merge(rows[2].collectionNumbers(of: names)) { $1 }
      return try self.facts(rows[1], try connection.run(self.queries(ids)), ids, connection)
    }
    let rows = try connection.run(first + self.queries(ids))
    return try self.facts(rows[1], Array(rows.dropFirst(2)), ids, connection)
  }

  private func queries(_ ids: [CollectionName: Int64]) -> [PostgresQuery] {
    func arrays(_ addresses: [EntityAddress]) -> [PostgresValue] {
      [
        .integers(addresses.map { ids[$0.collection] ?? 0 }),
        .byteStrings(addresses.map(\.cutPath.stored)),
      ]
    }
    func wanted(_ columns: String, _ table: String) -> String {
      """
      SELECT wanted.number\(columns) FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY
        AS wanted (collection, path, number)
      JOIN \(table) AS found ON found.collection = wanted.collection AND found.path = wanted.path
      """
    }
    var queries: [PostgresQuery] = []
    if !self.changed.isEmpty {
      queries.append(
        PostgresQuery(
          wanted(", found.version, found.created, found.content", "entities"),
          parameters: arrays(self.changed)))
    }
    if !self.read.isEmpty {
      queries.append(
        PostgresQuery(wanted(", found.version", "entities"), parameters: arrays(self.read)))
    }
    if !self.allocated.isEmpty {
      queries.append(
        PostgresQuery(wanted("", "reserved_ids"), parameters: arrays(self.allocated)))
    }
    if !self.queried.isEmpty {
      queries.append(
        PostgresQuery(
          "SELECT collection, version FROM changes WHERE collection = ANY ($1)",
          .integers(self.queried.compactMap { ids[$0] })))
    }
    for prefix in self.prefixes {
      queries.append(
        PostgresQuery(
          """
          SELECT coalesce(max(version), 0) FROM changes JOIN collections ON id = collection
            WHERE name_key >= $1 AND name_key < $2
          """, .bytes(prefix), .bytes(ByteOrder.successor(ofPrefix: prefix) ?? [])))
    }
    if self.needsIDs {
      queries.append(PostgresQuery("SELECT value FROM facts WHERE name = 'next_id'"))
    }
    return queries
  }

  private func facts(
    _ version: PostgresRows, _ answers: [PostgresRows], _ ids: [CollectionName: Int64],
    _ connection: PostgresConnection
  ) throws(StoreFailure) -> PostgresBatch.Facts {
    guard version.count == 1 else {
      throw StoreFailure(.corrupt, "\(connection.address): the greatest version is missing")
    }
    var facts = PostgresBatch.Facts()
    facts.lastVersion = version.integer(0, 0)
    var rest = answers[...]
    if !self.changed.isEmpty, let rows = rest.popFirst() {
      for row in 0..<rows.count {
        let address = self.changed[Int(rows.integer(row, 0)) - 1]
        do throws(StoreFailure) {
          facts.entities[address] = PostgresBatch.Stored(
            version: StoredVersion(
              version: rows.integer(row, 1),
              createTime: Timestamp(microseconds: rows.integer(row, 2))),
            content: try StoredContent.opened(rows.bytes(row, 3), in: "\(connection.address)"))
        } catch {
          facts.damaged[address] = error
        }
      }
    }
    if !self.read.isEmpty, let rows = rest.popFirst() {
      for row in 0..<rows.count {
        facts.versions[self.read[Int(rows.integer(row, 0)) - 1]] = rows.integer(row, 1)
      }
    }
    if !self.allocated.isEmpty, let rows = rest.popFirst() {
      for row in 0..<rows.count {
        facts.reserved.insert(self.allocated[Int(rows.integer(row, 0)) - 1])
      }
    }
    if !self.queried.isEmpty, let rows = rest.popFirst() {
      var versions: [Int64: Int64] = [:]
      for row in 0..<rows.count { versions[rows.integer(row, 0)] = rows.integer(row, 1) }
      for name in self.queried { facts.collections[name] = ids[name].flatMap { versions[$0] } }
    }
    for prefix in self.prefixes {
      if let rows = rest.popFirst() { facts.prefixes[prefix] = rows.integer(0, 0) }
    }
    if self.needsIDs, let rows = rest.popFirst() {
      guard rows.count == 1 else {
        throw StoreFailure(.corrupt, "\(connection.address): the counter of ids is missing")
      }
      facts.nextID = rows.integer(0, 0)
    }
    return facts
  }
}
