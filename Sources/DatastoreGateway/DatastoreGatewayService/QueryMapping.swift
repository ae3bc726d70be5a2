import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC

/// Queries of `google.datastore.v1` to the core's, and batches of results back.
enum QueryMapping {
  /// - Throws: `unsupported` with the name of whatever the gateway does not do.
  static func query(
    _ proto: DatastoreV1.Query, partition: PartitionID
  ) throws(GatewayError) -> Query {
    if proto.kind.count > 1 { throw .invalid("At most one kind is allowed.") }
    if proto.findNearest != nil { throw .unsupported("find_nearest") }
    if !proto.distinctOn.isEmpty { throw .unsupported("distinct_on") }
    var query = Query(partition: partition, kind: Name(proto.kind.first?.name ?? ""))
    let projection = proto.projection.map { $0.property?.name ?? "" }
    if projection == [Query.keyProperty.text] {
      query.isKeysOnly = true
    } else if !projection.isEmpty {
      throw .unsupported("a projection on \(projection.joined(separator: ", "))")
    }
    if let filter = proto.filter { try self.add(filter, to: &query) }
    for order in proto.order {
      let isDescending: Bool
      switch order.direction {
      case .unspecified, .ascending: isDescending = false
      case .descending: isDescending = true
      case .unrecognized(let number): throw .invalid("order direction \(number) is unknown")
      }
      query.orders.append(
        Query.Order(Name(order.property?.name ?? ""), isDescending: isDescending))
    }
    query.offset = Int(proto.offset)
    query.limit = proto.limit.map { Int($0.value) }
    query.start = proto.startCursor
    query.end = proto.endCursor
    return query
  }

  /// Filters may be nested as deep as messages; what is below them counts, not their depth.
  private static func add(
    _ filter: DatastoreV1.Filter, to query: inout Query
  ) throws(GatewayError) {
    switch filter.filterType {
    case nil: throw .invalid("A filter has neither a composite nor a property filter.")
    case .compositeFilter(let composite):
      switch composite.op {
      case .and: break
      case .or: throw .unsupported("an OR of filters")
      case .unspecified: throw .invalid("A composite filter has no operator.")
      case .unrecognized(let number):
        throw .invalid("composite filter operator \(number) is unknown")
      }
      if composite.filters.isEmpty { throw .invalid("A composite filter has no filters.") }
      for filter in composite.filters { try self.add(filter, to: &query) }
    case .propertyFilter(let filter): try self.add(filter, to: &query)
    }
  }

  private static func add(
    _ filter: DatastoreV1.PropertyFilter, to query: inout Query
  ) throws(GatewayError) {
    let property = Name(filter.property?.name ?? "")
    let value = try EntityCodec.value(
      filter.value ?? DatastoreV1.Value(), of: property.text, query.partition)
    let comparison: Query.Comparison
    switch filter.op {
    case .equal: comparison = .equal
    case .lessThan: comparison = .lessThan
    case .lessThanOrEqual: comparison = .lessThanOrEqual
    case .greaterThan: comparison = .greaterThan
    case .greaterThanOrEqual: comparison = .greaterThanOrEqual
    case .hasAncestor:
      guard property == Query.keyProperty, case .key(let key) = value else {
        throw .invalid("HAS_ANCESTOR compares __key__ with a key.")
      }
      if let other = query.ancestor, other != key {
        throw .invalid("At most one ancestor is allowed.")
      }
      query.ancestor = key
      return
    case .in: throw .unsupported("the operator IN")
    case .notIn: throw .unsupported("the operator NOT_IN")
    case .notEqual: throw .unsupported("the operator NOT_EQUAL")
    case .unspecified: throw .invalid("The filter of property \"\(property)\" has no operator.")
    case .unrecognized(let number):
      throw .invalid("filter operator \(number) of property \"\(property)\" is unknown")
    }
    query.filters.append(Query.Filter(property, comparison, value))
  }

  static func proto(
    _ answer: QueryAnswer, to query: ResolvedQuery, partition: PartitionID, now: Timestamp
  ) throws -> DatastoreV1.QueryResultBatch {
    DatastoreV1.QueryResultBatch(
      skippedResults: Int32(clamping: answer.skipped),
      skippedCursor: answer.skippedPosition.map { query.cursor(after: $0) } ?? [],
      entityResultType: query.isKeysOnly ? .keyOnly : .full,
      entityResults: try answer.results.map { result in
        let cursor = query.cursor(after: result.position)
        guard !query.isKeysOnly, let stored = result.stored else {
          let key = Key(partition: partition, path: try result.position.path.elements())
          var keyOnly = Mapping.result(onlyKey: key)
          keyOnly.cursor = cursor
          return keyOnly
        }
        return Mapping.result(stored, cursor: cursor)
      },
      endCursor: answer.endPosition.map { query.cursor(after: $0) } ?? [],
      moreResults: self.proto(answer.rest),
      readTime: EntityCodec.proto(max(now, Timestamp(microseconds: answer.version))))
  }

  private static func proto(
    _ rest: QueryBatch<StoredEntity>.Rest
  ) -> DatastoreV1.QueryResultBatch.MoreResultsType {
    switch rest {
    case .notFinished: .notFinished
    case .afterLimit: .moreResultsAfterLimit
    case .afterCursor: .moreResultsAfterCursor
    case .nothing: .noMoreResults
    }
  }
}
