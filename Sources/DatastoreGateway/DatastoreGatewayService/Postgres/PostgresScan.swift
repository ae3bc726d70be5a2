import DatastoreGatewayCore

/// A scan of index rows, fetched page by page.
///
/// Rows whose keys were cut stand in the order of their digests in the database; here each run of
/// those that begin the same is sorted by what they are whole.
final class PostgresScan: IndexRows {
  /// What is scanned.
  enum Source {
    case kind(collection: Int64)
    /// Rows whose entities have further values too, each in the index of its property.
    case property(Int64, having: [(property: Int64, value: [UInt8])])
  }

  private let index: PostgresIndex?
  private let source: Source
  private let range: RowRange
  private let bounds: PostgresBounds
  /// Fetched and not given yet, the next one last.
  private var page: [IndexRow] = []
  /// The last row that was fetched, as it is stored.
  private var last: (value: [UInt8], path: [UInt8])?
  private var isAtEnd = false
  private var pageRows: Int

  /// Rows of the first page: a screenful of results in one go.
  private static let firstPageRows = 32
  /// Rows of later pages at most: some hundred kilobytes.
  private static let maximumPageRows = 2_048

  /// No rows.
  init() {
    self.index = nil
    self.source = .kind(collection: 0)
    self.range = RowRange()
    self.bounds = PostgresBounds(RowRange(), hasValues: false)
    self.pageRows = 0
    self.isAtEnd = true
  }

  init(_ source: Source, _ range: RowRange, of index: PostgresIndex) {
    self.index = index
    self.source = source
    self.range = range
    var hasValues = false
    // Of the rows that are looked at only some are given.
    var isFiltered = false
    if case .property(_, let others) = source {
      hasValues = true
      isFiltered = !others.isEmpty
    }
    self.bounds = PostgresBounds(range, hasValues: hasValues)
    self.pageRows = isFiltered ? Self.firstPageRows * 8 : Self.firstPageRows
  }

  func next() throws(StoreFailure) -> IndexRow? {
    while true {
      if let row = self.page.popLast() { return row }
      if self.isAtEnd { return nil }
      try self.fetch()
    }
  }

  // MARK: - Pages

  private struct Fetched {
    var row: IndexRow
    /// What all rows have that must be sorted with this one; `nil` where it stands right.
    var run: Run?
  }

  private enum Run: Hashable {
    case values([UInt8])
    case paths(value: [UInt8], [UInt8])
  }

  private func fetch() throws(StoreFailure) {
    var fetched: [Fetched] = []
    repeat {
      try self.fetchPage(&fetched)
    } while !self.isAtEnd && fetched.last?.run != nil
    let rows = self.sorted(fetched).filter { self.bounds.contains($0) }
    self.index?.foundRows(rows)
    self.page = rows.reversed()
  }

  private func fetchPage(_ fetched: inout [Fetched]) throws(StoreFailure) {
    guard let index = self.index else { return }
    let query = Self.query(
      self.source, self.bounds, isReversed: self.range.isReversed, after: self.last,
      limit: self.pageRows)
    let rows = try index.reader.run(query)
    var count = rows.count
    // The last row of a filtered page tells where to go on, and may not be one itself.
    for number in 0..<rows.count {
      let path = rows.bytes(number, 0)
      let value = rows.optionalBytes(number, 2) ?? []
      let longPath = rows.optionalBytes(number, 4)
      let longValue = rows.optionalBytes(number, 3)
      self.last = (value, path)
      count = max(count, Int(rows.integer(number, 5)))
      guard rows.flag(number, 6) else { continue }
      let run: Run? =
        longValue != nil
        ? .values(Array(value.prefix(CutKey.Limit.value.rawValue)))
        : longPath != nil
          ? .paths(value: value, Array(path.prefix(CutKey.Limit.path.rawValue))) : nil
      fetched.append(
        Fetched(
          row: IndexRow(
            value: longValue ?? value, path: PathBytes(bytes: longPath ?? path), entity: 0,
            isRepeated: rows.flag(number, 1)),
          // Rows of one value need no order of values.
          run: self.bounds.isOneValue && longValue != nil
            ? longPath.map { _ in .paths(value: [], Array(path.prefix(CutKey.Limit.path.rawValue)))
            }
            : run))
    }
    if count < self.pageRows { self.isAtEnd = true }
    self.pageRows = min(self.pageRows * 4, Self.maximumPageRows)
  }

  private func sorted(_ fetched: [Fetched]) -> [IndexRow] {
    if !fetched.contains(where: { $0.run != nil }) { return fetched.map(\.row) }
    var rows: [IndexRow] = []
    var begin = 0
    while begin < fetched.count {
      var end = begin + 1
      if let run = fetched[begin].run {
        while end < fetched.count, fetched[end].run == run { end += 1 }
      }
      rows += fetched[begin..<end].map(\.row).sorted { left, right in
        let (first, second) = self.range.isReversed ? (right, left) : (left, right)
        return first.value == second.value
          ? first.path < second.path : ByteOrder.precedes(first.value, second.value)
      }
      begin = end
    }
    return rows
  }

  // MARK: - Statements

  /// The statement that fetches a page: path, repeated, value, long value, long path, number in the
  /// page, whether it is a row of the scan.
  static func query(
    _ source: Source, _ bounds: PostgresBounds, isReversed: Bool,
    after last: (value: [UInt8], path: [UInt8])?, limit: Int
  ) -> PostgresQuery {
    var parameters: [PostgresValue] = []
    func add(_ value: PostgresValue) -> String {
      parameters.append(value)
      return "$\(parameters.count)"
    }
    let order = isReversed ? " DESC" : ""
    switch source {
    case .kind(let collection):
      var text = "SELECT path, false, NULL::bytea, NULL::bytea, long_path, 0::bigint, true "
      text += "FROM entities WHERE collection = \(add(.integer(collection)))"
      for bound in bounds.conditions(after: last, isReversed: isReversed) {
        text += " AND \(bound.columns) \(bound.sign) \(bound.list(add))"
      }
      text += " ORDER BY path\(order) LIMIT \(add(.integer(Int64(limit))))"
      return PostgresQuery(text, parameters: parameters)
    case .property(let property, let others):
      var rows = " FROM property_rows WHERE property = \(add(.integer(property)))"
      for bound in bounds.conditions(after: last, isReversed: isReversed) {
        rows += " AND \(bound.columns) \(bound.sign) \(bound.list(add))"
      }
      rows += " ORDER BY value\(order), path\(order)"
      let count = add(.integer(Int64(limit)))
      rows += " LIMIT \(count)"
      if others.isEmpty {
        return PostgresQuery(
          "SELECT path, repeated, value, long_value, long_path, 0::bigint, true" + rows,
          parameters: parameters)
      }
      // The page is cut before it is filtered, so that a statement's work is bounded.
      var text = """
        SELECT path, repeated, value, long_value, long_path, number, \
        \(others.indices.map { "found\($0).one IS NOT NULL" }.joined(separator: " AND ")) AS fits \
        FROM (SELECT page.*, row_number() OVER () AS number FROM ( \
        SELECT path, repeated, value, long_value, long_path\(rows)) AS page) AS page
        """
      for (number, other) in others.enumerated() {
        text += """
           LEFT JOIN LATERAL (SELECT 1 AS one FROM property_rows AS other \
          WHERE other.property = \(add(.integer(other.property))) \
          AND other.value = \(add(.bytes(other.value))) AND other.path = page.path LIMIT 1) \
          AS found\(number) ON true
          """
      }
      text += " WHERE number = \(count) OR "
      text += others.indices.map { "found\($0).one IS NOT NULL" }.joined(separator: " AND ")
      text += " ORDER BY number"
      return PostgresQuery(text, parameters: parameters)
    }
  }
}
