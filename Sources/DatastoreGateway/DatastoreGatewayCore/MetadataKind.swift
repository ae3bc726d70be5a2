/// A kind of which the store makes entities of what it knows about itself.
package enum MetadataKind: Hashable, Sendable {
  /// An entity for each kind of a namespace.
  case kind
  /// An entity for each namespace of a database, the default one with the id 1.
  case namespace
  /// An entity for each indexed property, below its kind's.
  case property

  package init?(kind: Name) {
    switch kind {
    case Self.kind.kind: self = .kind
    case Self.namespace.kind: self = .namespace
    case Self.property.kind: self = .property
    default: return nil
    }
  }

  package var kind: Name {
    switch self {
    case .kind: "__kind__"
    case .namespace: "__namespace__"
    case .property: "__property__"
    }
  }

  /// The property that tells of what types a property's values are.
  package static let representation: Name = "property_representation"

  /// All entities of this kind, by key.
  func entities<Indexes: EntityIndexes>(
    of partition: PartitionID, on indexes: Indexes
  ) throws(Indexes.Index.Failure) -> [Entity] {
    let prefix =
      self == .namespace
      ? CollectionName.databasePrefix(of: partition) : CollectionName.prefix(of: partition)
    var entities: [Entity] = []
    for collection in try indexes.collections(withPrefix: prefix) {
      guard let (place, kind) = try? collection.parts() else { continue }
      let index = try indexes.index(of: collection)
      // A kind of which all entities were deleted is none.
      var rows = try index.rows(of: .kind, RowRange())
      guard try rows.next() != nil else { continue }
      switch self {
      case .kind:
        let element = PathElement(kind: self.kind, identity: .name(kind))
        entities.append(
          Entity(key: Key(partition: partition, path: [element]), properties: []))
      case .namespace:
        let element = PathElement(
          kind: self.kind,
          identity: place.namespace.isEmpty ? .id(1) : .name(place.namespace))
        let key = Key(partition: partition, path: [element])
        if entities.last?.key != key { entities.append(Entity(key: key, properties: [])) }
      case .property:
        for property in try indexes.properties(of: collection) {
          let types = try Self.types(of: property, on: index)
          if types.isEmpty { continue }
          let path = [
            PathElement(kind: Self.kind.kind, identity: .name(kind)),
            PathElement(kind: self.kind, identity: .name(property)),
          ]
          let list = Value.array(types.map { PropertyContent(.string($0)) })
          entities.append(
            Entity(
              key: Key(partition: partition, path: path),
              properties: [
                EntityProperty(name: Self.representation, content: PropertyContent(list))
              ]))
        }
      }
    }
    return entities
  }

  /// The types of the values that an index holds, each found by looking for its first row.
  private static func types<Index: EntityIndex>(
    of property: Name, on index: Index
  ) throws(Index.Failure) -> [String] {
    var types: [String] = []
    for orderClass in Value.OrderClass.allCases {
      var rows = try index.rows(
        of: .property(property),
        RowRange(
          lower: .value([orderClass.rawValue], isIncluded: true),
          upper: .value([orderClass.rawValue + 1], isIncluded: false)))
      if try rows.next() != nil { types.append(orderClass.representation) }
    }
    return types
  }
}

extension Value.OrderClass {
  /// What `property_representation` calls it.
  fileprivate var representation: String {
    switch self {
    case .null: "NULL"
    case .number: "INT64"
    case .boolean: "BOOLEAN"
    case .bytes: "STRING"
    case .double: "DOUBLE"
    case .geoPoint: "POINT"
    case .key: "REFERENCE"
    }
  }
}
