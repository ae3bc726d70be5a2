import DatastoreGatewayCore
import Domain

/// The statements that carry out what a batch has come to: one for each table and kind of change,
/// with arrays.
struct PostgresBatchWrites {
  private let batch: PostgresBatch
  private let changes: [PostgresBatch.Change]
  private let names: PostgresNames
  private let keepsPast: Bool
  /// Numbers that the batch uses; known to all when it is committed.
  private(set) var collections: [CollectionName: Int64]
  private(set) var properties: [PostgresNames.Property: Int64] = [:]

  init(
    _ batch: PostgresBatch, ids: [CollectionName: Int64], names: PostgresNames, keepsPast: Bool
  ) {
    self.batch = batch
    self.changes = batch.changes
    self.collections = ids
    self.names = names
    self.keepsPast = keepsPast
  }

  // MARK: - Numbers

  /// Gives numbers to collections and properties that have none, in the batch's transaction.
  mutating func number(_ connection: PostgresConnection) throws(StoreFailure) {
    try self.numberCollections(connection)
    try self.numberProperties(connection)
  }

  private mutating func numberCollections(
    _ connection: PostgresConnection
  ) throws(StoreFailure) {
    var unknown: Set<CollectionName> = []
    for name in self.batch.changed.keys where self.collections[name] == nil {
      unknown.insert(name)
    }
    for address in self.batch.reservations where self.collections[address.collection] == nil {
      if let id = self.names.collection(address.collection) {
        self.collections[address.collection] = id
      } else {
        unknown.insert(address.collection)
      }
    }
    if unknown.isEmpty { return }
    let names = Array(unknown)
    // Under the lock nobody else makes the same ones.
    let rows = try connection.run([
      PostgresQuery(
        """
        INSERT INTO collections (name_key, name) SELECT * FROM unnest($1::bytea[], $2::bytea[])
          ON CONFLICT DO NOTHING
        """, .byteStrings(names.map(\.cutName.stored)), .byteStrings(names.map(\.bytes))),
      .collectionNumbers(names),
    ])
    self.collections.merge(rows[1].collectionNumbers(of: names)) { $1 }
  }

  private mutating func numberProperties(
    _ connection: PostgresConnection
  ) throws(StoreFailure) {
    var unknown: Set<PostgresNames.Property> = []
    for change in self.changes {
      guard let collection = self.collections[change.address.collection] else { continue }
      let (gone, new) = change.entries
      for entry in gone + new {
        let property = PostgresNames.Property(collection: collection, name: entry.property)
        if self.properties[property] != nil { continue }
        if let id = self.names.property(entry.property, of: collection) {
          self.properties[property] = id
        } else {
          unknown.insert(property)
        }
      }
    }
    if unknown.isEmpty { return }
    let wanted = Array(unknown)
    let collections = PostgresValue.integers(wanted.map(\.collection))
    let keys = PostgresValue.byteStrings(wanted.map(\.name.cutName.stored))
    let rows = try connection.run([
      PostgresQuery(
        """
        INSERT INTO properties (collection, name_key, name)
          SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) ON CONFLICT DO NOTHING
        """, collections, keys, .byteStrings(wanted.map { Array($0.name.text.utf8) })),
      PostgresQuery(
        """
        SELECT wanted.number, properties.id
        FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY
          AS wanted (collection, name_key, number)
        JOIN properties ON properties.collection = wanted.collection
          AND properties.name_key = wanted.name_key
        """, collections, keys),
    ])
    for row in 0..<rows[1].count {
      self.properties[wanted[Int(rows[1].integer(row, 0)) - 1]] = rows[1].integer(row, 1)
    }
  }

  // MARK: - Statements

  /// Columns of the entities that are written.
  private struct EntityColumns {
    var collections: [Int64] = []
    var paths: [[UInt8]?] = []
    var longPaths: [[UInt8]?] = []
    var versions: [Int64] = []
    var created: [Int64] = []
    var contents: [[UInt8]?] = []

    mutating func add(_ stored: PostgresBatch.Stored, _ key: CutKey, in collection: Int64) {
      self.collections.append(collection)
      self.paths.append(key.stored)
      self.longPaths.append(key.whole)
      self.versions.append(stored.version.version)
      self.created.append(stored.version.createTime.microseconds)
      self.contents.append(StoredContent.sealed(stored.content))
    }
  }

  /// Columns of index rows.
  private struct RowColumns {
    var properties: [Int64] = []
    var values: [[UInt8]?] = []
    var paths: [[UInt8]?] = []
    var longValues: [[UInt8]?] = []
    var longPaths: [[UInt8]?] = []
    var repeated: [Bool] = []

    mutating func add(_ entry: IndexEntry, _ path: CutKey, of property: Int64) {
      let value = CutKey(entry.value, .value)
      self.properties.append(property)
      self.values.append(value.stored)
      self.paths.append(path.stored)
      self.longValues.append(value.whole)
      self.longPaths.append(path.whole)
      self.repeated.append(entry.isRepeated)
    }
  }

  /// All that is written, but for the greatest version.
  var queries: [PostgresQuery] {
    var inserted = EntityColumns()
    var updated = EntityColumns()
    var deleted = (collections: [Int64](), paths: [[UInt8]?]())
    var gone = RowColumns()
    var new = RowColumns()
    for change in self.changes {
      let collection = self.number(of: change.address.collection)
      let path = change.address.cutPath
      switch (change.before, change.after) {
      case (nil, let after?): inserted.add(after, path, in: collection)
      case (_?, let after?): updated.add(after, path, in: collection)
      case (_, nil):
        deleted.collections.append(collection)
        deleted.paths.append(path.stored)
      }
      let entries = change.entries
      for entry in entries.gone {
        gone.add(entry, path, of: self.number(of: entry.property, in: collection))
      }
      for entry in entries.new {
        new.add(entry, path, of: self.number(of: entry.property, in: collection))
      }
    }
    // Copied before it is overwritten.
    var queries = self.keepsPast ? self.pastQueries : []
    if !gone.properties.isEmpty {
      queries.append(
        PostgresQuery(
          """
          DELETE FROM property_rows AS old
            USING unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS gone (property, value, path)
            WHERE old.property = gone.property AND old.value = gone.value AND old.path = gone.path
          """, .integers(gone.properties), .byteStrings(gone.values), .byteStrings(gone.paths)))
    }
    if !deleted.paths.isEmpty {
      queries.append(
        PostgresQuery(
          """
          DELETE FROM entities AS old USING unnest($1::bigint[], $2::bytea[]) AS gone (collection, path)
            WHERE old.collection = gone.collection AND old.path = gone.path
          """, .integers(deleted.collections), .byteStrings(deleted.paths)))
    }
    if !updated.paths.isEmpty {
      queries.append(
        PostgresQuery(
          """
          UPDATE entities AS old SET version = new.version, created = new.created,
              content = new.content
            FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bytea[])
              AS new (collection, path, version, created, content)
            WHERE old.collection = new.collection AND old.path = new.path
          """, .integers(updated.collections), .byteStrings(updated.paths),
          .integers(updated.versions), .integers(updated.created), .byteStrings(updated.contents)))
    }
    if !inserted.paths.isEmpty {
      queries.append(
        PostgresQuery(
          """
          INSERT INTO entities (collection, path, long_path, version, created, content)
            SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[],
              $6::bytea[])
          """, .integers(inserted.collections), .byteStrings(inserted.paths),
          .byteStrings(inserted.longPaths), .integers(inserted.versions),
          .integers(inserted.created), .byteStrings(inserted.contents)))
    }
    if !new.properties.isEmpty {
      queries.append(
        PostgresQuery(
          """
          INSERT INTO property_rows (property, value, path, long_value, long_path, repeated)
            SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[],
              $6::boolean[])
          """, .integers(new.properties), .byteStrings(new.values), .byteStrings(new.paths),
          .byteStrings(new.longValues), .byteStrings(new.longPaths), .flags(new.repeated)))
    }
    return queries + self.otherQueries
  }

  /// What keeps what the entities were. A row that is there already is of a moment that was lost.
  private var pastQueries: [PostgresQuery] {
    if self.batch.changed.isEmpty { return [] }
    var queries = [PostgresPast.begins(at: self.batch.versionBefore)]
    let replaced = self.changes.filter { $0.before != nil }
    if !replaced.isEmpty {
      queries.append(
        PostgresQuery(
          """
          INSERT INTO past (collection, path, long_path, version, until, created, content)
            SELECT old.collection, old.path, old.long_path, old.version, gone.until, old.created,
              old.content
            FROM unnest($1::bigint[], $2::bytea[], $3::bigint[]) AS gone (collection, path, until)
            JOIN entities AS old ON old.collection = gone.collection AND old.path = gone.path
            ON CONFLICT DO NOTHING
          """, .integers(replaced.map { self.number(of: $0.address.collection) }),
          .byteStrings(replaced.map(\.address.cutPath.stored)), .integers(replaced.map(\.until))))
    }
    if !self.batch.passing.isEmpty {
      var passing = EntityColumns()
      for past in self.batch.passing {
        passing.add(
          past.stored, past.address.cutPath, in: self.number(of: past.address.collection))
      }
      queries.append(
        PostgresQuery(
          """
          INSERT INTO past (collection, path, long_path, version, until, created, content)
            SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[],
              $6::bigint[], $7::bytea[])
            ON CONFLICT DO NOTHING
          """, .integers(passing.collections), .byteStrings(passing.paths),
          .byteStrings(passing.longPaths), .integers(passing.versions),
          .integers(self.batch.passing.map(\.until)), .integers(passing.created),
          .byteStrings(passing.contents)))
    }
    return queries
  }

  private var otherQueries: [PostgresQuery] {
    var queries: [PostgresQuery] = []
    if !self.batch.changed.isEmpty {
      let changed = self.batch.changed.map { (self.number(of: $0.key), $0.value) }
      queries.append(
        PostgresQuery(
          """
          INSERT INTO changes SELECT * FROM unnest($1::bigint[], $2::bigint[])
            ON CONFLICT (collection) DO UPDATE SET version = excluded.version
          """, .integers(changed.map(\.0)), .integers(changed.map(\.1))))
    }
    if !self.batch.reservations.isEmpty {
      queries.append(
        PostgresQuery(
          """
          INSERT INTO reserved_ids SELECT * FROM unnest($1::bigint[], $2::bytea[])
            ON CONFLICT DO NOTHING
          """, .integers(self.batch.reservations.map { self.number(of: $0.collection) }),
          .byteStrings(self.batch.reservations.map(\.cutPath.stored))))
    }
    if self.batch.hasNewIDs {
      queries.append(
        PostgresQuery(
          "UPDATE facts SET value = $1 WHERE name = 'next_id'", .integer(self.batch.nextID)))
    }
    return queries
  }

  private func number(of collection: CollectionName) -> Int64 {
    guard let number = self.collections[collection] else {
      preconditionFailure("A collection that is written to has no number")
    }
    return number
  }

  private func number(of property: Name, in collection: Int64) -> Int64 {
    let property = PostgresNames.Property(collection: collection, name: property)
    guard let number = self.properties[property] else {
      preconditionFailure("A property that is written has no number")
    }
    return number
  }
}
