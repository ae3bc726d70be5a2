import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC

/// What queries found, as messages.
enum ResultMapping {
  /// Marks a value that was read from an index.
  private static let indexMeaning: Int32 = 18

  static func proto(
    _ answer: QueryAnswer, to query: ResolvedQuery, partition: PartitionID,
    mask: PropertyMask?, readTime: Timestamp
  ) throws -> DatastoreV1.QueryResultBatch {
    DatastoreV1.QueryResultBatch(
      skippedResults: Int32(clamping: answer.skipped),
      skippedCursor: answer.skippedPosition.map { query.cursor(after: $0) } ?? [],
      entityResultType: self.type(query.form),
      entityResults: try answer.results.map { result in
        let cursor = query.cursor(after: result.position)
        guard let stored = result.stored else {
          let key = Key(partition: partition, path: try result.position.path.elements())
          var proto = Mapping.result(onlyKey: key)
          proto.cursor = cursor
          proto.entity?.properties = self.properties(result.properties, of: query.form)
          return proto
        }
        return try Mapping.result(stored, cursor: cursor, mask: mask)
      },
      endCursor: answer.endPosition.map { query.cursor(after: $0) } ?? query.startCursor,
      moreResults: self.proto(answer.rest),
      readTime: EntityCodec.proto(readTime))
  }

  static func proto(
    _ answer: AggregationAnswer, to aggregation: ResolvedAggregation, readTime: Timestamp
  ) -> DatastoreV1.AggregationResultBatch {
    var properties: [String: DatastoreV1.Value] = [:]
    for (aggregation, value) in zip(aggregation.aggregations, answer.values) {
      properties[aggregation.alias.text] = EntityCodec.proto(value)
    }
    return DatastoreV1.AggregationResultBatch(
      aggregationResults: [DatastoreV1.AggregationResult(aggregateProperties: properties)],
      moreResults: .noMoreResults, readTime: EntityCodec.proto(readTime))
  }

  private static func type(_ form: ResolvedQuery.Form) -> DatastoreV1.EntityResult.ResultType {
    switch form {
    case .entity: .full
    case .key: .keyOnly
    case .projection: .projection
    }
  }

  private static func proto(
    _ rest: QueryAnswer.Rest
  ) -> DatastoreV1.QueryResultBatch.MoreResultsType {
    switch rest {
    case .notFinished: .notFinished
    case .afterLimit: .moreResultsAfterLimit
    case .afterCursor: .moreResultsAfterCursor
    case .nothing: .noMoreResults
    }
  }

  private static func properties(
    _ properties: [EntityProperty], of form: ResolvedQuery.Form
  ) -> [String: DatastoreV1.Value] {
    var protos: [String: DatastoreV1.Value] = [:]
    for property in properties {
      if case .projection = form {
        var proto = EntityCodec.proto(self.indexed(property.content.value))
        proto.meaning = self.indexMeaning
        protos[property.name.text] = proto
      } else {
        protos[property.name.text] = EntityCodec.proto(property.content.value)
      }
    }
    return protos
  }

  /// As Google's indexes know a value: times are integers, and blobs are texts where they can be.
  private static func indexed(_ value: Value) -> Value {
    switch value {
    case .timestamp(let time): .integer(time.microseconds)
    case .blob(let bytes): String(validating: bytes, as: UTF8.self).map { .string($0) } ?? value
    default: value
    }
  }

  // MARK: - Explaining

  static func summary(
    _ plan: QueryPlan, of query: ResolvedQuery
  ) -> DatastoreV1.PlanSummary {
    DatastoreV1.PlanSummary(
      indexesUsed: plan.indexUses(of: query).map { use in
        self.fields(["properties": use.properties, "query_scope": use.scope])
      })
  }

  /// Index rows that count as one read where they are only counted or summed.
  static let rowsInOneRead = 1_000

  static func stats(
    results: Int, reads: Int, scanned: Int, loaded: Int, duration: Duration
  ) -> DatastoreV1.ExecutionStats {
    let (seconds, attoseconds) = duration.components
    return DatastoreV1.ExecutionStats(
      resultsReturned: Int64(results),
      executionDuration: GoogleProtobuf.Duration(
        seconds: seconds, nanos: Int32(attoseconds / 1_000_000_000)),
      // A query that reads nothing counts as one read.
      readOperations: Int64(max(1, reads)),
      debugStats: self.debugStats(reads: max(1, reads), scanned: scanned, loaded: loaded))
  }

  /// Nothing is billed here: the details are what the same would be charged for.
  private static func debugStats(
    reads: Int, scanned: Int, loaded: Int
  ) -> GoogleProtobuf.Struct {
    var stats = self.fields([
      "documents_scanned": "\(loaded)", "index_entries_scanned": "\(scanned)",
    ])
    let details = self.fields(["read_operations": "\(reads)"])
    stats.fields["billing_details"] = GoogleProtobuf.Value(kind: .structValue(details))
    return stats
  }

  private static func fields(_ texts: [String: String]) -> GoogleProtobuf.Struct {
    GoogleProtobuf.Struct(
      fields: texts.mapValues { GoogleProtobuf.Value(kind: .stringValue($0)) })
  }
}
