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

  /// Gives the entities of this kind by key, until `body` wants no more.
  ///
  /// - Parameter isWanted: Asked of each path before anything is looked for.
  func forEach<Indexes: EntityIndexes>(
    of partition: PartitionID, on indexes: Indexes, where isWanted: (PathBytes) -> Bool,
    _ body: (Entity) -> Bool
  ) throws(Indexes.Index.Failure) {
    let prefix =
      self == .namespace
      ? CollectionName.databasePrefix(of: partition) : CollectionName.prefix(of: partition)
    var last: Key?
    for collection in try indexes.collections(withPrefix: prefix) {
      guard let (place, kind) = try? collection.parts() else { continue }
      switch self {
      case .kind:
        let key = Key(
          partition: partition, path: [PathElement(kind: self.kind, identity: .name(kind))])
        guard isWanted(key.pathBytes), try Self.hasEntities(collection, on: indexes) else {
          continue
        }
        guard body(Entity(key: key, properties: [])) else { return }
      case .namespace:
        let identity: PathElement.Identity =
          place.namespace.isEmpty ? .id(1) : .name(place.namespace)
        let key = Key(
          partition: partition, path: [PathElement(kind: self.kind, identity: identity)])
        guard key != last, isWanted(key.pathBytes),
          try Self.hasEntities(collection, on: indexes)
        else { continue }
        last = key
        guard body(Entity(key: key, properties: [])) else { return }
      case .property:
        guard try Self.hasEntities(collection, on: indexes) else { continue }
        let index = try indexes.index(of: collection)
        for property in try indexes.properties(of: collection) {
          let key = Key(
            partition: partition,
            path: [
              PathElement(kind: Self.kind.kind, identity: .name(kind)),
              PathElement(kind: self.kind, identity: .name(property)),
            ])
          guard isWanted(key.pathBytes) else { continue }
          let types = try Self.types(of: property, on: index)
          if types.isEmpty { continue }
          let list = Value.array(types.map { PropertyContent(.string($0)) })
          let representation = EntityProperty(
            name: Self.representation, content: PropertyContent(list))
          guard body(Entity(key: key, properties: [representation])) else { return }
        }
      }
    }
  }

  /// A kind of which all entities were deleted is none.
  private static func hasEntities<Indexes: EntityIndexes>(
    _ collection: CollectionName, on indexes: Indexes
  ) throws(Indexes.Index.Failure) -> Bool {
    var rows = try indexes.index(of: collection).rows(of: .kind, RowRange())
    return try rows.next() != nil
  }

  /// The types of the values that an index holds, by the alphabet; each is found by looking for its
  /// first row.
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
    return types.sorted()
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
