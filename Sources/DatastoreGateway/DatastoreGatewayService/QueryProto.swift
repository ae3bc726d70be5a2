import BuildProtos
import DatastoreGatewayCore
import RPC

/// The core's queries as messages: what a GQL text came to.
enum QueryProto {
  static func query(_ query: Query) -> DatastoreV1.Query {
    DatastoreV1.Query(
      projection: query.projection.map {
        DatastoreV1.Projection(property: self.reference($0))
      },
      kind: query.kind.map { [DatastoreV1.KindExpression(name: $0.text)] } ?? [],
      filter: query.condition.map(self.filter),
      order: query.orders.map {
        DatastoreV1.PropertyOrder(
          property: self.reference($0.property),
          direction: $0.isDescending ? .descending : .ascending)
      },
      distinctOn: query.distinctOn.map(self.reference), startCursor: query.start,
      endCursor: query.end, offset: Int32(clamping: query.offset),
      limit: query.limit.map { GoogleProtobuf.Int32Value(value: Int32(clamping: $0)) })
  }

  static func aggregation(_ aggregation: AggregationQuery) -> DatastoreV1.AggregationQuery {
    DatastoreV1.AggregationQuery(
      nestedQuery: self.query(aggregation.query),
      aggregations: aggregation.aggregations.map { aggregation in
        typealias Proto = DatastoreV1.AggregationQuery.Aggregation
        let operation: Proto.Operator =
          switch aggregation.operation {
          case .count(let limit):
            .count(Proto.Count(upTo: limit.map { GoogleProtobuf.Int64Value(value: $0) }))
          case .sum(let property): .sum(Proto.Sum(property: self.reference(property)))
          case .average(let property): .avg(Proto.Avg(property: self.reference(property)))
          }
        return Proto(operator: operation, alias: aggregation.alias.text)
      })
  }

  private static func reference(_ name: Name) -> DatastoreV1.PropertyReference {
    DatastoreV1.PropertyReference(name: name.text)
  }

  private static func filter(_ condition: Query.Condition) -> DatastoreV1.Filter {
    switch condition {
    case .filter(let filter):
      self.filter(filter.property, self.operation(filter.comparison), filter.value)
    case .isIn(let property, let values): self.filter(property, .in, self.list(values))
    case .isNotIn(let property, let values): self.filter(property, .notIn, self.list(values))
    case .hasAncestor(let key): self.filter(Query.keyProperty, .hasAncestor, .key(key))
    case .all(let parts): self.composite(.and, parts)
    case .any(let parts): self.composite(.or, parts)
    }
  }

  private static func list(_ values: [Value]) -> Value {
    .array(values.map { PropertyContent($0) })
  }

  private static func composite(
    _ operation: DatastoreV1.CompositeFilter.Operator, _ parts: [Query.Condition]
  ) -> DatastoreV1.Filter {
    DatastoreV1.Filter(
      filterType: .compositeFilter(
        DatastoreV1.CompositeFilter(op: operation, filters: parts.map(self.filter))))
  }

  private static func filter(
    _ property: Name, _ operation: DatastoreV1.PropertyFilter.Operator, _ value: Value
  ) -> DatastoreV1.Filter {
    DatastoreV1.Filter(
      filterType: .propertyFilter(
        DatastoreV1.PropertyFilter(
          property: self.reference(property), op: operation, value: EntityCodec.proto(value))))
  }

  private static func operation(
    _ comparison: Query.Comparison
  ) -> DatastoreV1.PropertyFilter.Operator {
    switch comparison {
    case .equal: .equal
    case .notEqual: .notEqual
    case .lessThan: .lessThan
    case .lessThanOrEqual: .lessThanOrEqual
    case .greaterThan: .greaterThan
    case .greaterThanOrEqual: .greaterThanOrEqual
    }
  }
}
