/// Checks of what callers send, each with the sentence that they are answered.
package struct Validation: Sendable {
  package let policy: Policy

  package init(policy: Policy) {
    self.policy = policy
  }

  /// What a key may be in a place where it stands.
  package enum Completeness: Sendable {
    case complete
    /// The last element may lack its id.
    case mayBeIncomplete
    case incomplete
  }

  /// - Parameter allowsReserved: Where nothing is written: Datastore's own names may be asked for.
  package func check(_ partition: PartitionID, allowsReserved: Bool) throws(GatewayError) {
    if partition.project.isEmpty {
      throw .invalid("The project id is the empty string.")
    }
    try self.check(
      "project id", partition.project, limit: self.policy.maximumProjectBytes,
      allowsReserved: allowsReserved)
    try self.check(
      "database id", partition.database, limit: self.policy.maximumProjectBytes,
      allowsReserved: allowsReserved)
    guard partition.database.text.utf8.allSatisfy(Self.isInDatabaseID) else {
      throw .invalid("\"\(partition.database)\" is an invalid database id.")
    }
    try self.check(
      "namespace id", partition.namespace, limit: self.policy.maximumNamespaceBytes,
      allowsReserved: allowsReserved)
    guard partition.namespace.text.utf8.allSatisfy(Self.isInNamespaceID) else {
      throw .invalid("Illegal string \"\(partition.namespace)\" in namespace id.")
    }
  }

  private static func isInDatabaseID(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
      UInt8(ascii: "-"):
      true
    default: false
    }
  }

  /// `[0-9A-Za-z._-]`, as Datastore documents it.
  private static func isInNamespaceID(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "."), UInt8(ascii: "_"): true
    default: self.isInDatabaseID(byte)
    }
  }

  private func check(
    _ what: String, _ name: Name, limit: Int, allowsReserved: Bool
  ) throws(GatewayError) {
    if name.byteCount > limit {
      throw .invalid("The \(what) is \(name.byteCount) bytes, longer than \(limit) bytes.")
    }
    if name.isReserved, !allowsReserved {
      throw .invalid("The \(what) \"\(name)\" is reserved.")
    }
  }

  /// - Parameter allowsReserved: Where it is only asked for, or a value: Datastore has names of its own
  ///   (`__kind__`, `__Stat_Total__`), under which nobody else may write.
  package func check(
    _ key: Key, _ completeness: Completeness, allowsReserved: Bool = false
  ) throws(GatewayError) {
    try self.check(key.partition, allowsReserved: allowsReserved)
    guard let last = key.path.last else { throw .invalid("Key path is empty.") }
    if key.path.count > self.policy.maximumPathElements {
      throw .invalid(
        "Key path has \(key.path.count) elements, more than \(self.policy.maximumPathElements).")
    }
    var bytes = 0
    for element in key.path {
      try self.check(element, allowsReserved: allowsReserved)
      bytes += element.byteCount
    }
    if bytes > self.policy.maximumKeyBytes {
      throw .invalid("The key is \(bytes) bytes, longer than \(self.policy.maximumKeyBytes) bytes.")
    }
    if key.path.dropLast().contains(where: { $0.identity == .incomplete }) {
      throw .invalid("Key path element must not be incomplete: [\(key)]")
    }
    switch (completeness, last.identity) {
    case (.complete, .incomplete):
      throw .invalid("Key path element must not be incomplete: [\(key)]")
    case (.incomplete, .id), (.incomplete, .name):
      throw .invalid("Key path element must not be complete: [\(key)]")
    default: break
    }
  }

  private func check(
    _ element: PathElement, allowsReserved: Bool
  ) throws(GatewayError) {
    if element.kind.isEmpty { throw .invalid("The kind is the empty string.") }
    try self.check(
      "kind", element.kind, limit: self.policy.maximumNameBytes, allowsReserved: allowsReserved)
    switch element.identity {
    case .incomplete: break
    case .id(0): throw .invalid("Key path id is invalid. Must not be zero.")
    case .id: break
    case .name(let name):
      if name.isEmpty { throw .invalid("The key path element name is the empty string.") }
      if name.byteCount > self.policy.maximumNameBytes {
        throw .invalid(
          "The key path element name is longer than \(self.policy.maximumNameBytes) bytes.")
      }
      // Four underscores have nothing between them: as a name, Google's servers take them.
      if name.isReserved && name != "____" && !allowsReserved {
        throw .invalid("The key path element name \"\(name)\" is reserved.")
      }
    }
  }

  package func check(_ entity: Entity, encodedBytes: Int) throws(GatewayError) {
    try self.check(entity.key, .mayBeIncomplete)
    if encodedBytes > self.policy.maximumEntityBytes {
      throw .invalid(
        "The entity \(entity.key) is \(encodedBytes) bytes, longer than "
          + "\(self.policy.maximumEntityBytes) bytes.")
    }
    try self.check(entity.properties, nesting: 0)
  }

  private func check(
    _ properties: [EntityProperty], nesting: Int
  ) throws(GatewayError) {
    if nesting > self.policy.maximumNesting {
      throw .invalid("Entities are nested deeper than \(self.policy.maximumNesting) levels.")
    }
    for property in properties {
      let name = property.name
      if name.isEmpty { throw .invalid("The property.name is the empty string.") }
      if name.byteCount > self.policy.maximumNameBytes {
        throw .invalid("The property.name is longer than \(self.policy.maximumNameBytes) bytes.")
      }
      if name.isReserved { throw .invalid("The property.name \"\(name)\" is reserved.") }
      try self.check(property.content, of: name, nesting: nesting)
    }
  }

  private func check(
    _ content: PropertyContent, of property: Name, nesting: Int
  ) throws(GatewayError) {
    switch content.value {
    case .array(let elements):
      if !content.isIndexed {
        throw .invalid("Exclude from indexes cannot be set on a list value")
      }
      for element in elements {
        if case .array = element.value {
          throw .invalid("list_value cannot contain a Value containing another list_value.")
        }
        try self.check(element, of: property, nesting: nesting)
      }
    case .entity(let properties):
      try self.check(properties, nesting: nesting + 1)
    case let value:
      // Its own word counts, whatever surrounds it: so Google's servers have it.
      try self.check(scalar: value, of: property, isIndexed: content.isIndexed)
    }
  }

  private func check(
    scalar value: Value, of property: Name, isIndexed: Bool
  ) throws(GatewayError) {
    let limit =
      isIndexed ? self.policy.maximumIndexedValueBytes : self.policy.maximumUnindexedValueBytes
    let count: Int
    switch value {
    case .string(let text): count = text.utf8.count
    case .blob(let bytes): count = bytes.count
    case .geoPoint(let latitude, let longitude):
      guard (-90.0...90.0).contains(latitude) else {
        throw .invalid("Geo point latitude outside permitted range -90.0 to 90.0.")
      }
      guard (-180.0...180.0).contains(longitude) else {
        throw .invalid("Geo point longitude outside permitted range -180.0 to 180.0.")
      }
      return
    case .key(let key): return try self.check(key, .complete, allowsReserved: true)
    default: return
    }
    if count > limit {
      throw .invalid("The value of property \"\(property)\" is longer than \(limit) bytes.")
    }
  }

  /// What indexes would hold of one entity.
  package func check(indexEntries count: Int, of key: Key) throws(GatewayError) {
    if count > self.policy.maximumIndexEntries {
      throw .invalid(
        "The entity \(key) has \(count) index entries, more than "
          + "\(self.policy.maximumIndexEntries).")
    }
  }

  /// How many properties a query has for what an index is needed for.
  package func check(orders: Int, projected: Int, distinct: Int) throws(GatewayError) {
    let limit = self.policy.maximumIndexProperties
    for (what, count) in [
      ("orders", orders), ("projected properties", projected), ("distinct on properties", distinct),
    ] where count > limit {
      throw .invalid("The query has \(count) \(what), more than \(limit).")
    }
  }

  /// How many numbers are made of a query's results.
  package func check(aggregations count: Int) throws(GatewayError) {
    if count == 0 { throw .invalid("Aggregations can not be empty.") }
    if count > self.policy.maximumAggregations {
      throw .invalid(
        "The maximum number of aggregations allowed in an aggregation query is "
          + "\(self.policy.maximumAggregations). Received: \(count)")
    }
  }

  /// The value of a query's filter.
  package func check(
    filterValue value: Value, of property: Name
  ) throws(GatewayError) {
    switch value {
    case .array: throw .invalid("A list value is not allowed")
    case .entity: throw .invalid("An entity value is not allowed")
    default: try self.check(scalar: value, of: property, isIndexed: true)
    }
  }
}

extension PathElement {
  /// Its share of a key's size.
  var byteCount: Int {
    switch self.identity {
    case .incomplete: self.kind.byteCount
    case .id: self.kind.byteCount + 8
    case .name(let name): self.kind.byteCount + name.byteCount
    }
  }
}
