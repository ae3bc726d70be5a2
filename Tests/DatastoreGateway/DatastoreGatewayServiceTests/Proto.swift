import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC

/// The core's values as messages.
enum Proto {
  static func key(_ key: Key) -> DatastoreV1.Key {
    DatastoreV1.Key(
      partitionID: DatastoreV1.PartitionId(
        projectID: key.partition.project.text, namespaceID: key.partition.namespace.text),
      path: key.path.map { element in
        let id: DatastoreV1.Key.PathElement.IdType? =
          switch element.identity {
          case .incomplete: nil
          case .id(let id): .id(id)
          case .name(let name): .name(name.text)
          }
        return DatastoreV1.Key.PathElement(kind: element.kind.text, idType: id)
      })
  }

  static func value(_ value: Value) -> DatastoreV1.Value {
    let type: DatastoreV1.Value.ValueType =
      switch value {
      case .null: .nullValue(.nullValue)
      case .boolean(let flag): .booleanValue(flag)
      case .integer(let number): .integerValue(number)
      case .double(let number): .doubleValue(number)
      case .timestamp(let time):
        // Small times only, as the random ones are.
        .timestampValue(
          time.microseconds < 0
            ? GoogleProtobuf.Timestamp(
              seconds: -1, nanos: Int32(1_000_000 + time.microseconds) * 1_000)
            : GoogleProtobuf.Timestamp(seconds: 0, nanos: Int32(time.microseconds) * 1_000))
      case .key(let key): .keyValue(self.key(key))
      case .string(let text): .stringValue(text)
      case .blob(let bytes): .blobValue(bytes)
      case .geoPoint(let latitude, let longitude):
        .geoPointValue(GoogleType.LatLng(latitude: latitude, longitude: longitude))
      case .entity(let properties):
        .entityValue(DatastoreV1.Entity(properties: self.properties(properties)))
      case .array(let elements):
        .arrayValue(DatastoreV1.ArrayValue(values: elements.map(self.content)))
      }
    return DatastoreV1.Value(valueType: type)
  }

  static func content(_ content: PropertyContent) -> DatastoreV1.Value {
    var value = self.value(content.value)
    value.excludeFromIndexes = !content.isIndexed
    return value
  }

  private static func properties(_ properties: [EntityProperty]) -> [String: DatastoreV1.Value] {
    Dictionary(uniqueKeysWithValues: properties.map { ($0.name.text, self.content($0.content)) })
  }

  static func entity(_ entity: Entity) -> DatastoreV1.Entity {
    DatastoreV1.Entity(
      key: self.key(entity.key), properties: self.properties(entity.properties))
  }

  static func query(_ query: Query) -> DatastoreV1.Query {
    DatastoreV1.Query(
      projection: query.projection.map {
        DatastoreV1.Projection(property: DatastoreV1.PropertyReference(name: $0.text))
      },
      kind: query.kind.map { [DatastoreV1.KindExpression(name: $0.text)] } ?? [],
      filter: query.condition.map(self.filter),
      order: query.orders.map {
        DatastoreV1.PropertyOrder(
          property: DatastoreV1.PropertyReference(name: $0.property.text),
          direction: $0.isDescending ? .descending : .ascending)
      }, distinctOn: query.distinctOn.map { DatastoreV1.PropertyReference(name: $0.text) },
      offset: Int32(query.offset),
      limit: query.limit.map { GoogleProtobuf.Int32Value(value: Int32($0)) })
  }

  static func filter(_ condition: Query.Condition) -> DatastoreV1.Filter {
    switch condition {
    case .filter(let filter):
      self.filter(filter.property, self.operation(filter.comparison), filter.value)
    case .isIn(let property, let values): self.filter(property, .in, self.list(values))
    case .isNotIn(let property, let values): self.filter(property, .notIn, self.list(values))
    case .hasAncestor(let key): self.filter(Query.keyProperty, .hasAncestor, .key(key))
    case .all(let parts): self.composite(.and, parts.map(self.filter))
    case .any(let parts): self.composite(.or, parts.map(self.filter))
    }
  }

  private static func list(_ values: [Value]) -> Value {
    .array(values.map { PropertyContent($0) })
  }

  static func composite(
    _ operation: DatastoreV1.CompositeFilter.Operator, _ filters: [DatastoreV1.Filter]
  ) -> DatastoreV1.Filter {
    DatastoreV1.Filter(
      filterType: .compositeFilter(
        DatastoreV1.CompositeFilter(op: operation, filters: filters)))
  }

  static func filter(
    _ property: Name, _ operation: DatastoreV1.PropertyFilter.Operator, _ value: Value
  ) -> DatastoreV1.Filter {
    DatastoreV1.Filter(
      filterType: .propertyFilter(
        DatastoreV1.PropertyFilter(
          property: DatastoreV1.PropertyReference(name: property.text), op: operation,
          value: self.value(value))))
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
