import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC

/// Queries of `google.datastore.v1` to the core's.
enum QueryMapping {
  /// - Throws: `unsupported` with the name of whatever the gateway does not do.
  static func query(
    _ proto: DatastoreV1.Query, partition: PartitionID, policy: Policy
  ) throws(GatewayError) -> Query {
    if proto.kind.count > 1 {
      throw .invalid("At most one kind is allowed. The query has \(proto.kind.count).")
    }
    if proto.findNearest != nil { throw .unsupported("find_nearest") }
    try Validation(policy: policy).check(
      orders: proto.order.count, projected: proto.projection.count,
      distinct: proto.distinctOn.count)
    var query = Query(partition: partition, kind: proto.kind.first.map { Name($0.name) })
    query.projection = proto.projection.map { Name($0.property?.name ?? "") }
    query.distinctOn = proto.distinctOn.map { Name($0.name) }
    if let filter = proto.filter {
      var filters = 0
      query.condition = try self.condition(
        filter, partition, depth: policy.maximumConditionDepth, count: &filters, policy)
    }
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

  /// - Parameter count: Of all filters so far, composite ones among them.
  private static func condition(
    _ filter: DatastoreV1.Filter, _ partition: PartitionID, depth: Int, count: inout Int,
    _ policy: Policy
  ) throws(GatewayError) -> Query.Condition {
    if depth == 0 { throw .invalid("Filters are nested too deep.") }
    count += 1
    if count > policy.maximumFilters + policy.maximumComposites {
      throw .invalid("The query has more than \(policy.maximumFilters) filters.")
    }
    switch filter.filterType {
    case nil: throw .invalid("A filter has neither a composite nor a property filter.")
    case .compositeFilter(let composite):
      var parts: [Query.Condition] = []
      for filter in composite.filters {
        parts.append(
          try self.condition(filter, partition, depth: depth - 1, count: &count, policy))
      }
      switch composite.op {
      case .and: return .all(parts)
      case .or: return .any(parts)
      case .unspecified: throw .invalid("A composite filter has no operator.")
      case .unrecognized(let number):
        throw .invalid("composite filter operator \(number) is unknown")
      }
    case .propertyFilter(let filter): return try self.condition(filter, partition)
    }
  }

  private static func condition(
    _ filter: DatastoreV1.PropertyFilter, _ partition: PartitionID
  ) throws(GatewayError) -> Query.Condition {
    let property = Name(filter.property?.name ?? "")
    let value = try EntityCodec.value(
      filter.value ?? DatastoreV1.Value(), of: property.text, partition)
    func list(_ name: String) throws(GatewayError) -> [Value] {
      guard case .array(let elements) = value else {
        throw .invalid(
          "\(name) requires an ArrayValue. The value of property \"\(property)\" is of type "
            + "\(value.typeName).")
      }
      return elements.map(\.value)
    }
    let comparison: Query.Comparison
    switch filter.op {
    case .equal: comparison = .equal
    case .notEqual: comparison = .notEqual
    case .lessThan: comparison = .lessThan
    case .lessThanOrEqual: comparison = .lessThanOrEqual
    case .greaterThan: comparison = .greaterThan
    case .greaterThanOrEqual: comparison = .greaterThanOrEqual
    case .hasAncestor:
      if property != Query.keyProperty {
        throw .invalid("HAS_ANCESTOR on \"\(property)\": property must be __key__")
      }
      guard case .key(let key) = value else {
        throw .invalid("HAS_ANCESTOR requires a key value, not one of type \(value.typeName)")
      }
      return .hasAncestor(key)
    case .in: return .isIn(property, try list("IN"))
    case .notIn: return .isNotIn(property, try list("NOT_IN"))
    case .unspecified: throw .invalid("The filter of property \"\(property)\" has no operator.")
    case .unrecognized(let number):
      throw .invalid("filter operator \(number) of property \"\(property)\" is unknown")
    }
    return .filter(Query.Filter(property, comparison, value))
  }

  // MARK: - Aggregations

  static func aggregation(
    _ proto: DatastoreV1.AggregationQuery, partition: PartitionID, policy: Policy
  ) throws(GatewayError) -> AggregationQuery {
    guard let nested = proto.nestedQuery else {
      throw .invalid("The aggregation query has no nested query.")
    }
    try Validation(policy: policy).check(aggregations: proto.aggregations.count)
    var aggregations: [AggregationQuery.Aggregation] = []
    for aggregation in proto.aggregations {
      let operation: AggregationQuery.Operation
      switch aggregation.operator {
      case .count(let count): operation = .count(upTo: count.upTo?.value)
      case .sum(let sum): operation = .sum(Name(sum.property?.name ?? ""))
      case .avg(let average): operation = .average(Name(average.property?.name ?? ""))
      case nil: throw .invalid("Operator field in Aggregation is not set.")
      }
      aggregations.append(
        AggregationQuery.Aggregation(operation, alias: Name(aggregation.alias)))
    }
    return AggregationQuery(
      query: try self.query(nested, partition: partition, policy: policy),
      aggregations: aggregations)
  }

  // MARK: - GQL

  static func statement(
    _ gql: DatastoreV1.GqlQuery, partition: PartitionID, policy: Policy
  ) throws(GatewayError) -> GQLParser.Statement {
    let count = gql.namedBindings.count + gql.positionalBindings.count
    if count > policy.maximumGQLBindings {
      throw .invalid(
        "The GQL query has \(count) parameters, more than \(policy.maximumGQLBindings).")
    }
    var bindings = GQLBindings()
    for (name, parameter) in gql.namedBindings {
      bindings.named[Name(name)] = try self.binding(parameter, of: "@\(name)", partition)
    }
    for (number, parameter) in gql.positionalBindings.enumerated() {
      bindings.positional.append(try self.binding(parameter, of: "@\(number + 1)", partition))
    }
    return try GQLParser.statement(
      gql.queryString, allowsLiterals: gql.allowLiterals, bindings: bindings,
      partition: partition, policy: policy)
  }

  private static func binding(
    _ parameter: DatastoreV1.GqlQueryParameter, of name: String, _ partition: PartitionID
  ) throws(GatewayError) -> GQLBindings.Binding {
    switch parameter.parameterType {
    case .value(let value): .value(try EntityCodec.value(value, of: name, partition))
    case .cursor(let cursor): .cursor(cursor)
    case nil: throw .invalid("The GQL query parameter \(name) has neither a value nor a cursor.")
    }
  }
}
