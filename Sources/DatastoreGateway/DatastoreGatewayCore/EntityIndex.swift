/// One row of an index: an entity's path, below one of its values where the index is a property's.
package struct IndexRow: Hashable, Sendable {
  /// Empty in the index of a kind.
  package var value: [UInt8]
  package var path: PathBytes
  /// The store's own name for the entity.
  package var entity: Int64
  /// As ``IndexEntry/isRepeated``.
  package var isRepeated: Bool

  package init(value: [UInt8], path: PathBytes, entity: Int64, isRepeated: Bool) {
    self.value = value
    self.path = path
    self.entity = entity
    self.isRepeated = isRepeated
  }
}

/// Where a scan of rows begins or ends; rows are ordered by value, then path.
package enum RowBound: Hashable, Sendable {
  case none
  /// All rows of a value, in or out.
  case value([UInt8], isIncluded: Bool)
  case row(value: [UInt8], path: [UInt8], isIncluded: Bool)
}

/// Which rows of an index a scan gives, and from which end.
package struct RowRange: Hashable, Sendable {
  package var lower: RowBound
  package var upper: RowBound
  package var isReversed: Bool

  package init(lower: RowBound = .none, upper: RowBound = .none, isReversed: Bool = false) {
    self.lower = lower
    self.upper = upper
    self.isReversed = isReversed
  }
}

extension RowRange {
  /// The value that all rows of the range have, if its bounds say so.
  package var onlyValue: [UInt8]? {
    func value(_ bound: RowBound) -> [UInt8]? {
      switch bound {
      case .value(let value, isIncluded: true), .row(let value, _, _): value
      case .none, .value(_, isIncluded: false): nil
      }
    }
    guard let lower = value(self.lower), lower == value(self.upper) else { return nil }
    return lower
  }
}

/// Which index of a collection is scanned.
package enum IndexName: Hashable, Sendable {
  /// Every entity of the kind.
  case kind
  case property(Name)
}

/// A store's indexes of all collections, as they are at one moment: what a query runs on.
///
/// Calls block; they are made on a thread that may.
package protocol EntityIndexes {
  associatedtype Index: EntityIndex

  func index(of collection: CollectionName) throws(Index.Failure) -> Index
  /// The collections whose names begin so, by name; some may be empty by now.
  func collections(withPrefix prefix: [UInt8]) throws(Index.Failure) -> [CollectionName]
  /// The properties of a collection that were ever indexed, by name.
  func properties(of collection: CollectionName) throws(Index.Failure) -> [Name]
}

/// A store's indexes of one collection, as they are at one moment.
package protocol EntityIndex {
  associatedtype Failure: Error
  associatedtype Rows: IndexRows where Rows.Failure == Failure
  /// An entity as it is stored.
  associatedtype Stored: StoredEntityFacts where Stored.Failure == Failure

  func rows(of index: IndexName, _ range: RowRange) throws(Failure) -> Rows
  /// The row of a kind's index with this path.
  func row(at path: PathBytes) throws(Failure) -> IndexRow?
  /// The row of a property's index with this value and path.
  func row(of property: Name, value: [UInt8], at path: PathBytes) throws(Failure) -> IndexRow?
  func load(_ row: IndexRow) throws(Failure) -> Stored

  /// Whether the index itself leaves out rows whose entities lack values: for a store to which each
  /// probe would be a journey.
  static var filtersScans: Bool { get }
  /// As ``rows(of:_:)``, those alone whose entities have all of these values; asked only of an index
  /// that filters scans.
  func rows(
    of property: Name, _ range: RowRange, having others: [Conjunction.Equality]
  ) throws(Failure) -> Rows
  /// How many rows an equality has, counted up to the limit only.
  func count(_ equality: Conjunction.Equality, upTo limit: Int) throws(Failure) -> Int
  /// Rows of one value that a scan passes over before it is opened again behind them: opening costs
  /// about as much.
  static var rowsBeforeLeap: Int { get }
}

extension EntityIndex {
  package static var filtersScans: Bool { false }
  package static var rowsBeforeLeap: Int { 8 }

  package func rows(
    of property: Name, _ range: RowRange, having others: [Conjunction.Equality]
  ) throws(Failure) -> Rows {
    preconditionFailure("This index filters no scans")
  }

  package func count(
    _ equality: Conjunction.Equality, upTo limit: Int
  ) throws(Failure) -> Int {
    var rows = try self.rows(of: .property(equality.property), RowRange(equality))
    return try rows.count(upTo: limit)
  }

  /// How many entities have paths in a range, counted up to the limit only.
  func count(_ paths: ByteRange, upTo limit: Int) throws(Failure) -> Int {
    var rows = try self.rows(of: .kind, RowRange(ofKind: paths))
    return try rows.count(upTo: limit)
  }

  /// How many rows a range has, counted up to the limit only.
  func count(_ range: Conjunction.Range, upTo limit: Int) throws(Failure) -> Int {
    var count = 0
    for part in range.values.parts {
      var rows = try self.rows(of: .property(range.property), RowRange(part))
      count += try rows.count(upTo: limit - count)
    }
    return count
  }
}

/// A scan under way.
package protocol IndexRows {
  associatedtype Failure: Error
  mutating func next() throws(Failure) -> IndexRow?
}

extension IndexRows {
  /// How many rows follow, counted up to the limit only.
  mutating func count(upTo limit: Int) throws(Failure) -> Int {
    var count = 0
    while count < limit, try self.next() != nil { count += 1 }
    return count
  }
}

/// What a query asks of a stored entity.
package protocol StoredEntityFacts {
  associatedtype Failure: Error
  var byteCount: Int { get }
  func entity() throws(Failure) -> Entity
}
