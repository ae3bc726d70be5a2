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

  package func check(_ partition: PartitionID) throws(GatewayError) {
    if partition.project.isEmpty {
      throw .invalid("The project id is the empty string.")
    }
    try self.check(
      "project id", partition.project, limit: self.policy.maximumProjectBytes)
    try self.check(
      "database id", partition.database, limit: self.policy.maximumProjectBytes)
    try self.check(
      "namespace id", partition.namespace, limit: self.policy.maximumNamespaceBytes)
  }

  private func check(
    _ what: String, _ name: Name, limit: Int
  ) throws(GatewayError) {
    if name.byteCount > limit {
      throw .invalid("The \(what) is \(name.byteCount) bytes, longer than \(limit) bytes.")
    }
    if name.isReserved { throw .invalid("The \(what) \"\(name)\" is reserved.") }
  }

  /// - Parameter allowsReserved: For keys of Datastore's own kinds, such as `__kind__`.
  package func check(
    _ key: Key, _ completeness: Completeness, allowsReserved: Bool = false
  ) throws(GatewayError) {
    try self.check(key.partition)
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
    if !allowsReserved || !element.kind.isReserved {
      try self.check("kind", element.kind, limit: self.policy.maximumNameBytes)
    }
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
      if name.isReserved && !allowsReserved {
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
    try self.check(entity.properties, nesting: 0, isIndexed: true)
  }

  private func check(
    _ properties: [EntityProperty], nesting: Int, isIndexed: Bool
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
      try self.check(property.content, of: name, nesting: nesting, isIndexed: isIndexed)
    }
  }

  private func check(
    _ content: PropertyContent, of property: Name, nesting: Int, isIndexed: Bool
  ) throws(GatewayError) {
    let isIndexed = isIndexed && content.isIndexed
    switch content.value {
    case .array(let elements):
      if !content.isIndexed && !elements.isEmpty {
        throw .invalid("Exclude from indexes cannot be set on a list value")
      }
      for element in elements {
        if case .array = element.value {
          throw .invalid("list_value cannot contain a Value containing another list_value.")
        }
        try self.check(element, of: property, nesting: nesting, isIndexed: isIndexed)
      }
    case .entity(let properties):
      try self.check(properties, nesting: nesting + 1, isIndexed: isIndexed)
    case let value:
      try self.check(scalar: value, of: property, isIndexed: isIndexed)
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
    case .key(let key): return try self.check(key, .complete)
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
