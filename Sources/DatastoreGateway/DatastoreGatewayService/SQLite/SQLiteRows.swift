import DatastoreGatewayCore

/// A scan of index rows: a statement that is being stepped.
final class SQLiteRows: IndexRows {
  private let connection: SQLiteConnection?
  private var statement: SQLiteStatement?
  private let hasValues: Bool

  /// No rows.
  init() {
    self.connection = nil
    self.statement = nil
    self.hasValues = false
  }

  convenience init(
    _ connection: SQLiteConnection, kind: Int64, _ range: RowRange
  ) throws(StoreFailure) {
    try self.init(connection, Self.kindScan(range), of: kind)
  }

  convenience init(
    _ connection: SQLiteConnection, property: Int64, _ range: RowRange
  ) throws(StoreFailure) {
    try self.init(connection, Self.propertyScan(range), of: property)
  }

  private init(
    _ connection: SQLiteConnection, _ scan: Scan, of index: Int64
  ) throws(StoreFailure) {
    let statement = try connection.take(scan.text)
    self.connection = connection
    self.statement = statement
    self.hasValues = scan.hasValues
    statement.bind(1, index)
    for (number, value) in scan.values.enumerated() {
      try statement.bind(Int32(number) + 2, value)
    }
  }

  /// A scan's statement, and the values of its parameters behind the index' number.
  struct Scan {
    var text: String
    var values: [[UInt8]] = []
    var hasValues: Bool
  }

  static func kindScan(_ range: RowRange) -> Scan {
    var scan = Scan(
      text: "SELECT path, id, 0 FROM entities WHERE collection = ?", hasValues: false)
    Self.add(range.lower, ">", column: "path", &scan.text, &scan.values)
    Self.add(range.upper, "<", column: "path", &scan.text, &scan.values)
    scan.text += range.isReversed ? " ORDER BY path DESC" : " ORDER BY path"
    return scan
  }

  static func propertyScan(_ range: RowRange) -> Scan {
    var scan = Scan(
      text: "SELECT path, entity, repeated, value FROM property_rows WHERE property = ?",
      hasValues: true)
    if let value = range.onlyValue {
      // Rows of one value: they stand by path.
      scan.text += " AND value = ?"
      scan.values.append(value)
      Self.add(range.lower, ">", column: "path", &scan.text, &scan.values)
      Self.add(range.upper, "<", column: "path", &scan.text, &scan.values)
    } else {
      Self.add(range.lower, ">", &scan.text, &scan.values)
      Self.add(range.upper, "<", &scan.text, &scan.values)
    }
    scan.text += range.isReversed ? " ORDER BY value DESC, path DESC" : " ORDER BY value, path"
    return scan
  }

  deinit {
    if let statement = self.statement { self.connection?.giveBack(statement) }
  }

  func next() throws(StoreFailure) -> IndexRow? {
    guard let statement = self.statement else { return nil }
    guard try statement.step() else {
      // Stepped again, it would begin anew.
      self.statement = nil
      self.connection?.giveBack(statement)
      return nil
    }
    return IndexRow(
      value: self.hasValues ? statement.bytes(3) : [],
      path: PathBytes(bytes: statement.bytes(0)), entity: statement.integer(1),
      isRepeated: statement.integer(2) != 0)
  }

  /// A bound on paths; one on values alone bounds no path.
  private static func add(
    _ bound: RowBound, _ sign: String, column: String, _ text: inout String,
    _ values: inout [[UInt8]]
  ) {
    guard case .row(_, let path, let isIncluded) = bound else { return }
    text += " AND \(column) \(sign)\(isIncluded ? "=" : "") ?"
    values.append(path)
  }

  /// A bound on values, and on paths below one of them.
  private static func add(
    _ bound: RowBound, _ sign: String, _ text: inout String, _ values: inout [[UInt8]]
  ) {
    switch bound {
    case .none: break
    case .value(let value, let isIncluded):
      text += " AND value \(sign)\(isIncluded ? "=" : "") ?"
      values.append(value)
    case .row(let value, let path, let isIncluded):
      text += " AND (value, path) \(sign)\(isIncluded ? "=" : "") (?, ?)"
      values.append(value)
      values.append(path)
    }
  }
}
