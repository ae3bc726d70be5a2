import DatastoreGatewayCore

/// Indexes of one collection in sorted arrays.
package struct MemoryIndex: VersionedIndex {
  package typealias Failure = Never

  package struct Rows: IndexRows {
    fileprivate var rows: ArraySlice<IndexRow>
    fileprivate var isReversed: Bool

    package mutating func next() -> IndexRow? {
      self.isReversed ? self.rows.popLast() : self.rows.popFirst()
    }
  }

  package struct Stored: StoredEntityFacts, Sendable {
    package var content: Entity

    package init(content: Entity) {
      self.content = content
    }

    package var byteCount: Int { 10 }
    package func entity() -> Entity { self.content }
  }

  private var entities: [Entity]
  private let versions: [PathBytes: Int64]
  private var kind: [IndexRow] = []
  private var properties: [Name: [IndexRow]] = [:]

  /// - Parameters:
  ///   - entities: Of one collection, each key once.
  ///   - versions: 0 where there is none.
  package init(_ entities: [Entity], versions: [PathBytes: Int64] = [:]) {
    self.entities = entities
    self.versions = versions
    for (number, entity) in entities.enumerated() {
      let path = entity.key.pathBytes
      self.kind.append(
        IndexRow(value: [], path: path, entity: Int64(number), isRepeated: false))
      for entry in entity.indexEntries {
        self.properties[entry.property, default: []].append(
          IndexRow(
            value: entry.value, path: path, entity: Int64(number), isRepeated: entry.isRepeated))
      }
    }
    self.kind.sort(by: Self.precedes)
    for name in Array(self.properties.keys) { self.properties[name]?.sort(by: Self.precedes) }
  }

  private static func precedes(_ left: IndexRow, _ right: IndexRow) -> Bool {
    left.value == right.value
      ? left.path < right.path : ByteOrder.precedes(left.value, right.value)
  }

  /// The properties that have rows, by name.
  package var propertyNames: [Name] { self.properties.keys.sorted() }

  package func rows(of index: IndexName, _ range: RowRange) -> Rows {
    let rows =
      switch index {
      case .kind: self.kind
      case .property(let name): self.properties[name] ?? []
      }
    let inside = rows.filter {
      Self.isAbove($0, range.lower) && Self.isBelow($0, range.upper)
    }
    return Rows(rows: inside[...], isReversed: range.isReversed)
  }

  private static func isAbove(_ row: IndexRow, _ bound: RowBound) -> Bool {
    switch bound {
    case .none: true
    case .value(let value, let isIncluded):
      ByteOrder.precedes(value, row.value) || isIncluded && row.value == value
    case .row(let value, let path, let isIncluded):
      ByteOrder.precedes(value, row.value)
        || row.value == value
          && (ByteOrder.precedes(path, row.path.bytes) || isIncluded && row.path.bytes == path)
    }
  }

  private static func isBelow(_ row: IndexRow, _ bound: RowBound) -> Bool {
    switch bound {
    case .none: true
    case .value(let value, let isIncluded):
      ByteOrder.precedes(row.value, value) || isIncluded && row.value == value
    case .row(let value, let path, let isIncluded):
      ByteOrder.precedes(row.value, value)
        || row.value == value
          && (ByteOrder.precedes(row.path.bytes, path) || isIncluded && row.path.bytes == path)
    }
  }

  package func row(at path: PathBytes) -> IndexRow? { self.kind.first { $0.path == path } }

  package func row(of property: Name, value: [UInt8], at path: PathBytes) -> IndexRow? {
    self.properties[property]?.first { $0.value == value && $0.path == path }
  }

  package func version(of row: IndexRow) -> Int64 { self.versions[row.path] ?? 0 }

  package func load(_ row: IndexRow) -> Stored { Stored(content: self.entities[Int(row.entity)]) }
}

/// Indexes of all collections: a store without a disk.
package struct MemoryIndexes: EntityIndexes {
  private var collections: [CollectionName: MemoryIndex] = [:]

  /// - Parameters:
  ///   - entities: Each key once.
  ///   - versions: Of entities by key; 0 where there is none.
  package init(_ entities: [Entity], versions: [Key: Int64] = [:]) {
    let groups = Dictionary(grouping: entities, by: \.key.collection)
    self.collections = groups.mapValues { entities in
      MemoryIndex(
        entities,
        versions: Dictionary(
          uniqueKeysWithValues: entities.map { ($0.key.pathBytes, versions[$0.key] ?? 0) }))
    }
  }

  package func index(of collection: CollectionName) -> MemoryIndex {
    self.collections[collection] ?? MemoryIndex([])
  }

  package func collections(withPrefix prefix: [UInt8]) -> [CollectionName] {
    self.collections.keys.filter { $0.bytes.starts(with: prefix) }
      .sorted { ByteOrder.precedes($0.bytes, $1.bytes) }
  }

  package func properties(of collection: CollectionName) -> [Name] {
    self.index(of: collection).propertyNames
  }
}
