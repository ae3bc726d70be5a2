import DatastoreGatewayCore

/// The bounds of a scan in terms of what is stored: of keys that are cut too wide, so that rows are
/// compared with the range itself, whole, when they have been read.
struct PostgresBounds {
  /// `columns sign values`.
  struct Condition {
    var columns: String
    var sign: String
    var values: [[UInt8]]

    func list(_ add: (PostgresValue) -> String) -> String {
      let names = self.values.map { add(.bytes($0)) }
      return names.count == 1 ? names[0] : "(\(names.joined(separator: ", ")))"
    }
  }

  private let range: RowRange
  private let hasValues: Bool
  private var fixed: [Condition] = []
  private var lower: Condition?
  private var upper: Condition?
  /// Whether the conditions let in rows that are not in the range.
  private var isTooWide = false

  /// Whether all rows have one value.
  var isOneValue: Bool { !self.fixed.isEmpty }

  init(_ range: RowRange, hasValues: Bool) {
    self.range = range
    self.hasValues = hasValues
    if hasValues, let value = range.onlyValue {
      self.fixed = [
        Condition(columns: "value", sign: "=", values: [CutKey(value, .value).stored])
      ]
      self.lower = self.pathCondition(range.lower, isLower: true)
      self.upper = self.pathCondition(range.upper, isLower: false)
    } else if hasValues {
      self.lower = self.valueCondition(range.lower, isLower: true)
      self.upper = self.valueCondition(range.upper, isLower: false)
    } else {
      self.lower = self.pathCondition(range.lower, isLower: true)
      self.upper = self.pathCondition(range.upper, isLower: false)
    }
  }

  /// - Parameter last: Where a scan that is under way stands.
  func conditions(
    after last: (value: [UInt8], path: [UInt8])?, isReversed: Bool
  ) -> [Condition] {
    var lower = self.lower
    var upper = self.upper
    if let last {
      let condition = Condition(
        columns: self.hasValues && !self.isOneValue ? "(value, path)" : "path",
        sign: isReversed ? "<" : ">",
        values: self.hasValues && !self.isOneValue ? [last.value, last.path] : [last.path])
      if isReversed { upper = condition } else { lower = condition }
    }
    return self.fixed + [lower, upper].compactMap { $0 }
  }

  private mutating func pathCondition(_ bound: RowBound, isLower: Bool) -> Condition? {
    guard case .row(_, let path, let isIncluded) = bound else { return nil }
    let (key, isCut) = self.edge(path, .path, isLower: isLower)
    return Condition(
      columns: "path", sign: self.sign(isLower, isIncluded || isCut), values: [key])
  }

  private mutating func valueCondition(_ bound: RowBound, isLower: Bool) -> Condition? {
    switch bound {
    case .none: return nil
    case .value(let value, let isIncluded):
      let (key, isCut) = self.edge(value, .value, isLower: isLower)
      return Condition(
        columns: "value", sign: self.sign(isLower, isIncluded || isCut), values: [key])
    case .row(let value, let path, let isIncluded):
      let (valueKey, isValueCut) = self.edge(value, .value, isLower: isLower)
      if isValueCut {
        return Condition(columns: "value", sign: self.sign(isLower, true), values: [valueKey])
      }
      let (pathKey, isPathCut) = self.edge(path, .path, isLower: isLower)
      return Condition(
        columns: "(value, path)", sign: self.sign(isLower, isIncluded || isPathCut),
        values: [valueKey, pathKey])
    }
  }

  private func sign(_ isLower: Bool, _ isIncluded: Bool) -> String {
    (isLower ? ">" : "<") + (isIncluded ? "=" : "")
  }

  /// A bound as it is stored, or one beyond all that begin the same.
  private mutating func edge(
    _ bytes: [UInt8], _ limit: CutKey.Limit, isLower: Bool
  ) -> (key: [UInt8], isCut: Bool) {
    if bytes.count <= limit.rawValue { return (bytes, false) }
    self.isTooWide = true
    let (lower, upper) = CutKey.bounds(bytes, limit)
    return (isLower ? lower : upper, true)
  }

  /// Whether a row that was read is in the range.
  func contains(_ row: IndexRow) -> Bool {
    if !self.isTooWide { return true }
    return self.isInside(row, self.range.lower, isLower: true)
      && self.isInside(row, self.range.upper, isLower: false)
  }

  private func isInside(_ row: IndexRow, _ bound: RowBound, isLower: Bool) -> Bool {
    func precedes(_ left: [UInt8], _ right: [UInt8]) -> Bool {
      isLower ? ByteOrder.precedes(left, right) : ByteOrder.precedes(right, left)
    }
    switch bound {
    case .none: return true
    case .value(let value, let isIncluded):
      if !self.hasValues { return true }
      return row.value == value ? isIncluded : precedes(value, row.value)
    case .row(let value, let path, let isIncluded):
      if self.hasValues && row.value != value { return precedes(value, row.value) }
      return row.path.bytes == path ? isIncluded : precedes(path, row.path.bytes)
    }
  }
}
