import DatastoreGatewayCore

/// A stored entity as queries look at it, whichever store it is in.
struct IndexedEntity: StoredEntityFacts {
  var stored: StoredEntity

  var byteCount: Int { self.stored.byteCount }

  func entity() throws(StoreFailure) -> Entity {
    try self.stored.entity().core(in: self.stored.place)
  }
}

extension PastEntity<IndexedEntity> {
  init(path: PathBytes, _ stored: StoredEntity) throws(StoreFailure) {
    self.init(
      path: path, stored: IndexedEntity(stored: stored),
      entries: try stored.entity().indexEntries(in: stored.place))
  }
}

extension QueryAnswer {
  /// Runs a query on a store's indexes.
  ///
  /// - Parameter version: That of the moment which the indexes are of; asked for when the query has run.
  init<Indexes: EntityIndexes>(
    _ query: ResolvedQuery, on indexes: Indexes, policy: Policy,
    version: @autoclosure () throws -> Int64, isCancelled: @escaping () -> Bool
  ) throws where Indexes.Index.Stored == IndexedEntity {
    let run = try QueryRun(query, on: indexes, policy: policy, isCancelled: isCancelled)
    let batch = try run.batch()
    if let refusal = batch.refusal { throw refusal }
    self.init(
      results: batch.results.map {
        Result(position: $0.position, stored: $0.stored?.stored, properties: $0.properties)
      },
      skipped: batch.skipped, skippedPosition: batch.skippedPosition,
      endPosition: batch.endPosition, rest: Rest(batch.rest), version: try version(),
      plan: run.plan, scanned: batch.scanned, loaded: batch.loaded)
  }
}

extension AggregationAnswer {
  /// As ``QueryAnswer/init(_:on:policy:version:isCancelled:)``.
  init<Indexes: EntityIndexes>(
    _ aggregation: ResolvedAggregation, on indexes: Indexes, policy: Policy,
    version: @autoclosure () throws -> Int64, isCancelled: @escaping () -> Bool
  ) throws where Indexes.Index.Stored == IndexedEntity {
    let run = try AggregationRun(
      aggregation, on: indexes, policy: policy, isCancelled: isCancelled)
    let result = try run.result()
    if let refusal = result.refusal { throw refusal }
    // Half a sum is no answer.
    if result.wasCancelled { throw CancellationError() }
    self.init(
      values: result.values, version: try version(), plan: run.plan, scanned: result.scanned,
      loaded: result.loaded)
  }
}
