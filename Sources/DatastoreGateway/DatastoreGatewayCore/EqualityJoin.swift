/// The rows of several equalities with the same path, found by leaping over the others.
struct EqualityJoin<Index: EntityIndex> {
  private let index: Index
  private let equalities: [Conjunction.Equality]
  private let paths: ByteRange
  private let isReversed: Bool
  private var scans: [Index.Rows]
  /// The row that each scan stands at.
  private var heads: [IndexRow?]

  /// - Parameter equalities: One at least.
  init(
    _ equalities: [Conjunction.Equality], _ paths: ByteRange, isReversed: Bool, on index: Index
  ) throws(Index.Failure) {
    self.index = index
    self.equalities = equalities
    self.paths = paths
    self.isReversed = isReversed
    self.scans = []
    self.heads = []
    for equality in equalities {
      self.scans.append(
        try index.rows(
          of: .property(equality.property), RowRange(equality, paths, isReversed: isReversed)))
      self.heads.append(nil)
    }
  }

  /// As ``RowSource/next(_:)``.
  mutating func next(_ progress: QueryProgress) throws(Index.Failure) -> IndexRow? {
    // The first scan leads; the others follow to its path, or move it on to theirs.
    guard let first = try self.scans[0].next(), progress.scannedRow() else { return nil }
    var target = first
    self.heads[0] = first
    var agreed = 1
    var number = 0
    while agreed < self.scans.count {
      number = (number + 1) % self.scans.count
      guard let row = try self.advance(number, to: target.path, progress) else { return nil }
      if row.path == target.path {
        agreed += 1
      } else {
        target = row
        agreed = 1
      }
    }
    return target
  }

  /// Moves a scan to the first row at or beyond a path.
  private mutating func advance(
    _ number: Int, to path: PathBytes, _ progress: QueryProgress
  ) throws(Index.Failure) -> IndexRow? {
    if let head = self.heads[number], !self.isBefore(head.path, path) { return head }
    for _ in 0..<Index.rowsBeforeLeap {
      guard let row = try self.scans[number].next(), progress.scannedRow() else { return nil }
      if !self.isBefore(row.path, path) {
        self.heads[number] = row
        return row
      }
    }
    var paths = self.paths
    paths.narrow(
      self.isReversed ? .lessThanOrEqual : .greaterThanOrEqual, path.bytes)
    let equality = self.equalities[number]
    self.scans[number] = try self.index.rows(
      of: .property(equality.property), RowRange(equality, paths, isReversed: self.isReversed))
    guard let row = try self.scans[number].next(), progress.scannedRow() else { return nil }
    self.heads[number] = row
    return row
  }

  private func isBefore(_ left: PathBytes, _ right: PathBytes) -> Bool {
    self.isReversed ? right < left : left < right
  }
}
