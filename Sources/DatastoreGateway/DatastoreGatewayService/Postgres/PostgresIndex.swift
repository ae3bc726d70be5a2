import BuildProtos
import DatastoreGatewayCore

/// All collections' indexes at one moment.
struct PostgresIndexes: EntityIndexes {
  let reader: PostgresReader

  func index(of collection: CollectionName) throws(StoreFailure) -> PostgresIndex {
    PostgresIndex(
      reader: self.reader, collection: try self.reader.collections([collection])[collection])
  }

  func collections(withPrefix prefix: [UInt8]) throws(StoreFailure) -> [CollectionName] {
    // A prefix ends with a text's end, so there is always a successor; and it is too short to be cut.
    let successor = ByteOrder.successor(ofPrefix: prefix) ?? []
    let rows = try self.reader.run(
      PostgresQuery(
        "SELECT name FROM collections WHERE name_key >= $1 AND name_key < $2", .bytes(prefix),
        .bytes(successor)))
    return (0..<rows.count).map { CollectionName(bytes: rows.bytes($0, 0)) }
      .sorted { ByteOrder.precedes($0.bytes, $1.bytes) }
  }

  func properties(of collection: CollectionName) throws(StoreFailure) -> [Name] {
    guard let id = try self.reader.collections([collection])[collection] else { return [] }
    let rows = try self.reader.run(
      PostgresQuery("SELECT name FROM properties WHERE collection = $1", .integer(id)))
    return (0..<rows.count).map { Name(rows.text($0, 0)) }.sorted()
  }
}

/// One collection's indexes at one moment.
///
/// Rows come in pages, and where one of a page is read as an entity, those that follow it are read
/// with it: they are what a query asks for next.
final class PostgresIndex: VersionedIndex {
  static let filtersScans = true
  /// A page of rows costs one journey, however many there are.
  static let rowsBeforeLeap = 512

  let reader: PostgresReader
  /// `nil` if nothing was ever stored there.
  let collection: Int64?
  /// The rows of the page that was fetched last, and where each path stands among them.
  private var page: [IndexRow] = []
  private var places: [PathBytes: Int] = [:]
  private var loaded: [PathBytes: IndexedEntity] = [:]
  /// Of the page's entities that were loaded, also of those that were given.
  private var versions: [PathBytes: Int64] = [:]
  private var loadCount: Int

  /// Entities that are read in one go, first and at most; and their bytes.
  private static let firstLoadCount = 32
  private static let maximumLoadCount = 512
  private static let maximumLoadBytes: Int64 = 4 << 20

  init(reader: PostgresReader, collection: Int64?) {
    self.reader = reader
    self.collection = collection
    self.loadCount = Self.firstLoadCount
  }

  // MARK: - Rows

  func rows(of index: IndexName, _ range: RowRange) throws(StoreFailure) -> PostgresScan {
    guard let collection = self.collection else { return PostgresScan() }
    switch index {
    case .kind: return PostgresScan(.kind(collection: collection), range, of: self)
    case .property(let name):
      guard let property = try self.reader.property(name, of: collection) else {
        return PostgresScan()
      }
      return PostgresScan(.property(property, having: []), range, of: self)
    }
  }

  func rows(
    of property: Name, _ range: RowRange, having others: [Conjunction.Equality]
  ) throws(StoreFailure) -> PostgresScan {
    guard let collection = self.collection,
      let property = try self.reader.property(property, of: collection)
    else { return PostgresScan() }
    var filters: [(property: Int64, value: [UInt8])] = []
    for other in others {
      guard let number = try self.reader.property(other.property, of: collection) else {
        return PostgresScan()
      }
      filters.append((number, CutKey(other.value, .value).stored))
    }
    return PostgresScan(.property(property, having: filters), range, of: self)
  }

  func count(
    _ equality: Conjunction.Equality, upTo limit: Int
  ) throws(StoreFailure) -> Int {
    guard let collection = self.collection,
      let property = try self.reader.property(equality.property, of: collection)
    else { return 0 }
    let rows = try self.reader.run(
      PostgresQuery(
        """
        SELECT count(*) FROM (
          SELECT 1 FROM property_rows WHERE property = $1 AND value = $2 LIMIT $3) AS found
        """, .integer(property), .bytes(CutKey(equality.value, .value).stored),
        .integer(Int64(limit))))
    return Int(rows.integer(0, 0))
  }

  func row(at path: PathBytes) throws(StoreFailure) -> IndexRow? {
    guard let collection = self.collection else { return nil }
    let rows = try self.reader.run(
      PostgresQuery(
        "SELECT 1::bigint FROM entities WHERE collection = $1 AND path = $2", .integer(collection),
        .bytes(CutKey(path.bytes, .path).stored)))
    return rows.count == 0 ? nil : IndexRow(value: [], path: path, entity: 0, isRepeated: false)
  }

  func row(
    of property: Name, value: [UInt8], at path: PathBytes
  ) throws(StoreFailure) -> IndexRow? {
    guard let collection = self.collection,
      let property = try self.reader.property(property, of: collection)
    else { return nil }
    let rows = try self.reader.run(
      PostgresQuery(
        "SELECT repeated FROM property_rows WHERE property = $1 AND value = $2 AND path = $3",
        .integer(property), .bytes(CutKey(value, .value).stored),
        .bytes(CutKey(path.bytes, .path).stored)))
    if rows.count == 0 { return nil }
    return IndexRow(value: value, path: path, entity: 0, isRepeated: rows.flag(0, 0))
  }

  // MARK: - Entities

  /// A scan has fetched a page.
  func foundRows(_ rows: [IndexRow]) {
    self.page = rows
    self.places.removeAll(keepingCapacity: true)
    self.versions.removeAll(keepingCapacity: true)
  }

  /// Who asks for the version asks for the entity next, mostly.
  func version(of row: IndexRow) throws(StoreFailure) -> Int64 {
    if self.versions[row.path] == nil { try self.load(from: row) }
    guard let version = self.versions[row.path] else { throw self.missing }
    return version
  }

  func load(_ row: IndexRow) throws(StoreFailure) -> IndexedEntity {
    if let stored = self.loaded.removeValue(forKey: row.path) { return stored }
    try self.load(from: row)
    guard let stored = self.loaded.removeValue(forKey: row.path) else { throw self.missing }
    return stored
  }

  private var missing: StoreFailure {
    StoreFailure(
      .corrupt, "\(self.reader.place): an index row names an entity that is missing")
  }

  /// Loads a row's entity, and those that are asked for next.
  private func load(from row: IndexRow) throws(StoreFailure) {
    let paths = self.pathsToLoad(from: row)
    self.loaded.removeAll(keepingCapacity: true)
    let rows = try self.reader.run(
      PostgresQuery(
        """
        SELECT number, version, created, content FROM (
          SELECT wanted.number, entities.version, entities.created, entities.content,
            octet_length(entities.content)::bigint AS size,
            (sum(octet_length(entities.content)) OVER (ORDER BY wanted.number))::bigint AS total
          FROM unnest($2::bytea[]) WITH ORDINALITY AS wanted (path, number)
          JOIN entities ON entities.collection = $1 AND entities.path = wanted.path) AS found
        WHERE total - size < $3
        """, .integer(self.collection ?? 0),
        .byteStrings(paths.map { CutKey($0.bytes, .path).stored }),
        .integer(Self.maximumLoadBytes)))
    for number in 0..<rows.count {
      let stored = try StoredEntity(
        rows.bytes(number, 3), version: rows.integer(number, 1), created: rows.integer(number, 2),
        in: self.reader.place)
      let path = paths[Int(rows.integer(number, 0)) - 1]
      self.versions[path] = stored.version.version
      self.loaded[path] = IndexedEntity(stored: stored)
    }
  }

  /// A row's path, and those of the rows behind it.
  private func pathsToLoad(from row: IndexRow) -> [PathBytes] {
    if self.places.isEmpty {
      for (number, row) in self.page.enumerated() { self.places[row.path] = number }
    }
    guard let begin = self.places[row.path] else { return [row.path] }
    var seen: Set<PathBytes> = []
    var paths: [PathBytes] = []
    for row in self.page[begin...].prefix(self.loadCount)
    where seen.insert(row.path).inserted {
      paths.append(row.path)
    }
    self.loadCount = min(self.loadCount * 4, Self.maximumLoadCount)
    return paths
  }
}
