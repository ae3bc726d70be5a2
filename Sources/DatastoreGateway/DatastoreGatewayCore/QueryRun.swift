/// Results of a query, as many as go into one answer.
package struct QueryBatch<Stored> {
  /// One result.
  package struct Result {
    package var position: Position
    /// The entity; `nil` where only its key or some of its properties were asked for.
    package var stored: Stored?
    /// What was projected, or all that there is of an entity that is not stored.
    package var properties: [EntityProperty] = []
  }

  /// Whether there is more.
  package enum Rest: Hashable, Sendable {
    /// The answer is full: ask again from the cursor.
    case notFinished
    case afterLimit
    case afterCursor
    case nothing
  }

  package var results: [Result] = []
  package var skipped = 0
  /// The last result that was left out for the offset.
  package var skippedPosition: Position?
  /// Where to go on; `nil` where nothing was passed.
  package var endPosition: Position?
  package var rest = Rest.nothing
  /// Index rows that were looked at.
  package var scanned = 0
  /// Entities that were read.
  package var loaded = 0
  /// Why this is no answer.
  package var refusal: GatewayError?
}

/// Runs a query over a store's indexes.
package struct QueryRun<Indexes: EntityIndexes> {
  package typealias Index = Indexes.Index
  package typealias Batch = QueryBatch<Index.Stored>
  package typealias Failure = Index.Failure

  private let query: ResolvedQuery
  package let plan: QueryPlan
  private let indexes: Indexes
  private let policy: Policy
  private let isCancelled: () -> Bool

  /// - Parameter isCancelled: Asked now and then; the batch then ends early.
  package init(
    _ query: ResolvedQuery, on indexes: Indexes, policy: Policy,
    isCancelled: @escaping () -> Bool = { false }
  ) throws(Index.Failure) {
    self.isCancelled = isCancelled
    self.query = query
    self.indexes = indexes
    self.policy = policy
    self.plan = try QueryPlan(query, on: indexes, policy: policy)
  }

  /// The next results.
  package func batch() throws(Index.Failure) -> Batch {
    var batch = Batch()
    batch.endPosition = self.query.includesStart ? nil : self.query.start
    if self.query.limit == 0 && self.query.offset == 0 {
      batch.rest = .afterLimit
      return batch
    }
    if case .metadata(let kind, let partition) = self.query.source {
      try self.fill(&batch, with: kind, of: partition)
      return batch
    }
    // More cannot be in the batch, one being left to tell whether there are more.
    let wanted =
      min(self.query.offset, self.policy.maximumBatchResults)
      + min(self.query.limit ?? .max, self.policy.maximumBatchResults) + 1
    var results = try MergedResults(
      self.query, self.plan.parts, on: self.indexes, policy: self.policy, wanted: wanted,
      isCancelled: self.isCancelled)
    let partitionBytes = self.partitionBytes
    var bytes = 0
    while let (candidate, stream) = try results.next() {
      guard self.takes(candidate.position, &batch, bytes: bytes) else { break }
      if batch.skippedPosition == candidate.position { continue }
      var result = Batch.Result(position: candidate.position)
      switch self.query.form {
      case .key: break
      case .entity:
        let stored = try results.stored(candidate, of: stream)
        bytes += stored.byteCount
        result.stored = stored
      case .projection(let names):
        result.properties = self.projected(names, at: candidate.position)
        bytes += zip(names, candidate.position.values).reduce(0) {
          $0 + $1.0.byteCount + $1.1.count + 16
        }
      }
      // The key and what surrounds a result; and its cursor, which has values and key once more.
      bytes += 2 * candidate.position.path.bytes.count + partitionBytes + 64
      bytes += candidate.position.values.reduce(0) { $0 + $1.count + 8 }
      batch.results.append(result)
    }
    batch.scanned = results.progress.scanned
    batch.loaded = results.progress.loaded
    batch.refusal = results.progress.refusal
    if batch.rest == .nothing && results.wasCut {
      batch.rest = .notFinished
      // What was passed over has the same values as a result that was given.
      if let passed = results.lastPassed,
        batch.endPosition.map({ self.query.precedes($0, passed) }) ?? true
      {
        batch.endPosition = passed
      }
    }
    self.end(&batch)
    return batch
  }

  /// Counts a result for the offset, or lets it in; `false` where the batch ends before it.
  private func takes(_ position: Position, _ batch: inout Batch, bytes: Int) -> Bool {
    if batch.skipped < self.query.offset {
      batch.skipped += 1
      batch.skippedPosition = position
    } else if let limit = self.query.limit, batch.results.count >= limit {
      batch.rest = .afterLimit
      return false
    } else if batch.results.count >= self.policy.maximumBatchResults
      || bytes >= self.policy.maximumBatchBytes
    {
      batch.rest = .notFinished
      return false
    }
    batch.endPosition = position
    return true
  }

  /// What tells where each result's key is.
  private var partitionBytes: Int {
    switch self.query.source {
    case .kind(let collection): collection.bytes.count
    case .everyKind(let partition), .metadata(_, let partition):
      CollectionName.prefix(of: partition).count
    case .nothing: 0
    }
  }

  private func end(_ batch: inout Batch) {
    if batch.rest == .nothing && self.query.end != nil { batch.rest = .afterCursor }
  }

  /// The properties of a projection; each has the value that stands in the result's position, as an
  /// index knows it.
  private func projected(_ names: [Name], at position: Position) -> [EntityProperty] {
    let properties = self.query.positionProperties
    return names.compactMap { name in
      guard let number = properties.firstIndex(of: name),
        let value = try? Value(ordered: position.values[number])
      else { return nil }
      return EntityProperty(name: name, content: PropertyContent(value))
    }
  }

  /// Entities between two looks at whether anybody still waits.
  private static var entitiesBetweenLooks: Int { 64 }

  private func fill(
    _ batch: inout Batch, with kind: MetadataKind, of partition: PartitionID
  ) throws(Index.Failure) {
    var wasCancelled = false
    var looks = 0
    try kind.forEach(of: partition, on: self.indexes) { path in
      looks += 1
      if looks % Self.entitiesBetweenLooks == 0, self.isCancelled() { wasCancelled = true }
      return wasCancelled
        || self.query.terms.contains { $0.paths.contains(path.bytes) }
          && self.query.isBetweenCursors(Position(values: [], path: path))
    } _: { entity in
      if wasCancelled { return false }
      batch.scanned += 1
      let position = Position(values: [], path: entity.key.pathBytes)
      guard self.takes(position, &batch, bytes: 0) else { return false }
      if batch.skippedPosition == position { return true }
      batch.results.append(
        Batch.Result(
          position: position, properties: self.query.form == .key ? [] : entity.properties))
      return true
    }
    if wasCancelled { batch.rest = .notFinished }
    self.end(&batch)
  }
}
