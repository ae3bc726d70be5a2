/// An index that tells when the entity of a row was last written.
package protocol VersionedIndex: EntityIndex {
  /// The version of a row's entity.
  func version(of row: IndexRow) throws(Failure) -> Int64
}

/// An entity as it was at a moment, though it is something else now.
package struct PastEntity<Stored: StoredEntityFacts>: Sendable where Stored: Sendable {
  package var path: PathBytes
  package var stored: Stored
  package var entries: [IndexEntry]

  package init(path: PathBytes, stored: Stored, entries: [IndexEntry]) {
    self.path = path
    self.stored = stored
    self.entries = entries
  }
}

/// A collection's indexes as they were at a moment: the rows of entities that were not written
/// since, and between them those of the others as they were.
package struct PastIndex<Base: VersionedIndex>: EntityIndex where Base.Stored: Sendable {
  package struct Rows: IndexRows {
    fileprivate let base: Base
    fileprivate let moment: Int64
    fileprivate let isReversed: Bool
    fileprivate var rows: Base.Rows
    fileprivate var nextRow: IndexRow?
    /// The next one last.
    fileprivate var past: [IndexRow]

    package mutating func next() throws(Base.Failure) -> IndexRow? {
      if self.nextRow == nil { self.nextRow = try self.nextUnchanged() }
      guard let row = self.nextRow else { return self.past.popLast() }
      if let past = self.past.last, (row.precedes(past)) == self.isReversed {
        return self.past.popLast()
      }
      self.nextRow = nil
      return row
    }

    private mutating func nextUnchanged() throws(Base.Failure) -> IndexRow? {
      while let row = try self.rows.next() {
        if try self.base.version(of: row) <= self.moment { return row }
      }
      return nil
    }
  }

  private let base: Base
  private let moment: Int64
  private let past: [PastEntity<Base.Stored>]

  /// - Parameter past: What was something else at the moment than it is in `base`.
  package init(_ base: Base, moment: Int64, past: [PastEntity<Base.Stored>]) {
    self.base = base
    self.moment = moment
    self.past = past
  }

  package func rows(
    of index: IndexName, _ range: RowRange
  ) throws(Base.Failure) -> Rows {
    var rows: [IndexRow] = []
    for (number, entity) in self.past.enumerated() {
      switch index {
      case .kind:
        rows.append(self.row(number, value: [], isRepeated: false))
      case .property(let name):
        for entry in entity.entries where entry.property == name {
          rows.append(self.row(number, value: entry.value, isRepeated: entry.isRepeated))
        }
      }
    }
    rows.removeAll { !range.contains($0) }
    rows.sort { range.isReversed ? $0.precedes($1) : $1.precedes($0) }
    return Rows(
      base: self.base, moment: self.moment, isReversed: range.isReversed,
      rows: try self.base.rows(of: index, range), past: rows)
  }

  /// Names of past entities are negative: no store's are.
  private func row(_ number: Int, value: [UInt8], isRepeated: Bool) -> IndexRow {
    IndexRow(
      value: value, path: self.past[number].path, entity: -1 - Int64(number),
      isRepeated: isRepeated)
  }

  package func row(at path: PathBytes) throws(Base.Failure) -> IndexRow? {
    if let number = self.past.firstIndex(where: { $0.path == path }) {
      return self.row(number, value: [], isRepeated: false)
    }
    return try self.unchanged(self.base.row(at: path))
  }

  package func row(
    of property: Name, value: [UInt8], at path: PathBytes
  ) throws(Base.Failure) -> IndexRow? {
    if let number = self.past.firstIndex(where: { $0.path == path }) {
      let entry = self.past[number].entries.first {
        $0.property == property && $0.value == value
      }
      return entry.map { self.row(number, value: value, isRepeated: $0.isRepeated) }
    }
    return try self.unchanged(self.base.row(of: property, value: value, at: path))
  }

  private func unchanged(_ row: IndexRow?) throws(Base.Failure) -> IndexRow? {
    guard let row, try self.base.version(of: row) <= self.moment else { return nil }
    return row
  }

  package func load(_ row: IndexRow) throws(Base.Failure) -> Base.Stored {
    row.entity < 0 ? self.past[Int(-1 - row.entity)].stored : try self.base.load(row)
  }
}

/// All collections' indexes as they were at a moment.
package struct PastIndexes<Base: EntityIndexes>: EntityIndexes
where Base.Index: VersionedIndex, Base.Index.Stored: Sendable {
  private let base: Base
  private let moment: Int64
  private let past: (CollectionName) throws(Base.Index.Failure) -> [PastEntity<Base.Index.Stored>]

  /// - Parameter past: The entities of a collection that were something else at the moment than
  ///   they are in `base`.
  package init(
    _ base: Base, moment: Int64,
    past:
      @escaping (CollectionName) throws(Base.Index.Failure) -> [PastEntity<
        Base.Index.Stored
      >]
  ) {
    self.base = base
    self.moment = moment
    self.past = past
  }

  package func index(
    of collection: CollectionName
  ) throws(Base.Index.Failure) -> PastIndex<Base.Index> {
    PastIndex(
      try self.base.index(of: collection), moment: self.moment, past: try self.past(collection))
  }

  package func collections(
    withPrefix prefix: [UInt8]
  ) throws(Base.Index.Failure) -> [CollectionName] {
    try self.base.collections(withPrefix: prefix)
  }

  package func properties(
    of collection: CollectionName
  ) throws(Base.Index.Failure) -> [Name] {
    try self.base.properties(of: collection)
  }
}

extension IndexRow {
  /// By value, then path.
  fileprivate func precedes(_ other: IndexRow) -> Bool {
    self.value == other.value
      ? self.path < other.path : ByteOrder.precedes(self.value, other.value)
  }
}

extension RowRange {
  fileprivate func contains(_ row: IndexRow) -> Bool {
    Self.isAbove(row, self.lower) && Self.isBelow(row, self.upper)
  }

  private static func isAbove(_ row: IndexRow, _ bound: RowBound) -> Bool {
    switch bound {
    case .none: true
    case .value(let value, let isIncluded):
      row.value == value ? isIncluded : ByteOrder.precedes(value, row.value)
    case .row(let value, let path, let isIncluded):
      row.value == value
        ? isIncluded && row.path.bytes == path || ByteOrder.precedes(path, row.path.bytes)
        : ByteOrder.precedes(value, row.value)
    }
  }

  private static func isBelow(_ row: IndexRow, _ bound: RowBound) -> Bool {
    switch bound {
    case .none: true
    case .value(let value, let isIncluded):
      row.value == value ? isIncluded : ByteOrder.precedes(row.value, value)
    case .row(let value, let path, let isIncluded):
      row.value == value
        ? isIncluded && row.path.bytes == path || ByteOrder.precedes(row.path.bytes, path)
        : ByteOrder.precedes(row.value, value)
    }
  }
}
