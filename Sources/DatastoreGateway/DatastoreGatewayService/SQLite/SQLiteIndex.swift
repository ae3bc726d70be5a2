import DatastoreGatewayCore

/// All collections' indexes at one moment.
struct SQLiteIndexes: EntityIndexes {
  let reader: SQLiteReader

  func index(of collection: CollectionName) throws(StoreFailure) -> SQLiteIndex {
    SQLiteIndex(
      reader: self.reader,
      collection: try self.reader.names.collection(collection, on: self.reader.connection))
  }

  func collections(withPrefix prefix: [UInt8]) throws(StoreFailure) -> [CollectionName] {
    // A prefix ends with a text's end, so there is always a successor.
    let successor = ByteOrder.successor(ofPrefix: prefix) ?? []
    return try self.reader.connection.with(
      "SELECT name FROM collections WHERE name >= ? AND name < ? ORDER BY name"
    ) { (statement) throws(StoreFailure) -> [CollectionName] in
      try statement.bind(1, prefix)
      try statement.bind(2, successor)
      var names: [CollectionName] = []
      while try statement.step() { names.append(CollectionName(bytes: statement.bytes(0))) }
      return names
    }
  }

  func properties(of collection: CollectionName) throws(StoreFailure) -> [Name] {
    guard let id = try self.reader.names.collection(collection, on: self.reader.connection)
    else { return [] }
    return try self.reader.connection.with(
      "SELECT name FROM properties WHERE collection = ? ORDER BY name"
    ) { (statement) throws(StoreFailure) -> [Name] in
      statement.bind(1, id)
      var names: [Name] = []
      while try statement.step() {
        names.append(Name(String(decoding: statement.bytes(0), as: UTF8.self)))
      }
      return names
    }
  }
}

/// One collection's indexes at one moment.
struct SQLiteIndex: VersionedIndex {
  let reader: SQLiteReader
  /// `nil` if nothing was ever stored there.
  let collection: Int64?

  func rows(of index: IndexName, _ range: RowRange) throws(StoreFailure) -> SQLiteRows {
    guard let collection = self.collection else { return SQLiteRows() }
    switch index {
    case .kind:
      return try SQLiteRows(self.reader.connection, kind: collection, range)
    case .property(let name):
      guard
        let property = try self.reader.names.property(
          name, of: collection, on: self.reader.connection)
      else { return SQLiteRows() }
      return try SQLiteRows(self.reader.connection, property: property, range)
    }
  }

  func row(at path: PathBytes) throws(StoreFailure) -> IndexRow? {
    guard let collection = self.collection else { return nil }
    return try self.reader.connection.with(
      "SELECT id FROM entities WHERE collection = ? AND path = ?"
    ) { (statement) throws(StoreFailure) -> IndexRow? in
      statement.bind(1, collection)
      try statement.bind(2, path.bytes)
      guard try statement.step() else { return nil }
      return IndexRow(value: [], path: path, entity: statement.integer(0), isRepeated: false)
    }
  }

  func row(
    of property: Name, value: [UInt8], at path: PathBytes
  ) throws(StoreFailure) -> IndexRow? {
    guard let collection = self.collection,
      let property = try self.reader.names.property(
        property, of: collection, on: self.reader.connection)
    else { return nil }
    return try self.reader.connection.with(
      """
      SELECT entity, repeated FROM property_rows WHERE property = ? AND value = ? AND path = ?
      """
    ) { (statement) throws(StoreFailure) -> IndexRow? in
      statement.bind(1, property)
      try statement.bind(2, value)
      try statement.bind(3, path.bytes)
      guard try statement.step() else { return nil }
      return IndexRow(
        value: value, path: path, entity: statement.integer(0),
        isRepeated: statement.integer(1) != 0)
    }
  }

  func version(of row: IndexRow) throws(StoreFailure) -> Int64 {
    try self.reader.connection.with("SELECT version FROM entities WHERE id = ?") {
      (statement) throws(StoreFailure) -> Int64 in
      statement.bind(1, row.entity)
      guard try statement.step() else { throw self.missing(row) }
      return statement.integer(0)
    }
  }

  private func missing(_ row: IndexRow) -> StoreFailure {
    StoreFailure(
      .corrupt,
      "\(self.reader.connection.path): an index row names entity \(row.entity), which is missing")
  }

  func load(_ row: IndexRow) throws(StoreFailure) -> IndexedEntity {
    let connection = self.reader.connection
    return try connection.with("SELECT version, created, content FROM entities WHERE id = ?") {
      (statement) throws(StoreFailure) -> IndexedEntity in
      statement.bind(1, row.entity)
      guard try statement.step() else { throw self.missing(row) }
      return IndexedEntity(stored: try statement.storedEntity(in: connection))
    }
  }
}
