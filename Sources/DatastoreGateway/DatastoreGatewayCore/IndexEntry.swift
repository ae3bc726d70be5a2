/// One row of a property's index: that an entity has this value.
package struct IndexEntry: Hashable, Sendable {
  package var property: Name
  /// The value in byte order (``Value/orderedBytes``).
  package var value: [UInt8]
  /// Whether the entity has further values of this property: then it has several rows, and a query
  /// must give it at one of them only.
  package var isRepeated: Bool

  package init(property: Name, value: [UInt8], isRepeated: Bool = false) {
    self.property = property
    self.value = value
    self.isRepeated = isRepeated
  }
}

extension Entity {
  /// All rows that indexes hold of this entity: each once, by property and value.
  package var indexEntries: [IndexEntry] {
    var entries: [IndexEntry] = []
    entries.reserveCapacity(self.properties.count)
    for property in self.properties {
      Self.add(property.content, as: property.name, to: &entries)
    }
    return Self.distinct(entries)
  }

  private static func add(
    _ content: PropertyContent, as name: Name, to entries: inout [IndexEntry]
  ) {
    guard content.isIndexed else { return }
    switch content.value {
    // Google's servers find an empty array where they find null.
    case .array(let elements) where elements.isEmpty:
      Self.add(PropertyContent(.null), as: name, to: &entries)
    case .array(let elements):
      for element in elements { Self.add(element, as: name, to: &entries) }
    case .entity(let properties):
      for property in properties {
        Self.add(property.content, as: Name("\(name).\(property.name)"), to: &entries)
      }
    case let value:
      if let bytes = value.orderedBytes {
        entries.append(IndexEntry(property: name, value: bytes))
      }
    }
  }

  private static func distinct(_ entries: [IndexEntry]) -> [IndexEntry] {
    if entries.count < 2 { return entries }
    let sorted = entries.sorted {
      $0.property == $1.property
        ? ByteOrder.precedes($0.value, $1.value) : $0.property < $1.property
    }
    var distinct: [IndexEntry] = []
    distinct.reserveCapacity(sorted.count)
    for entry in sorted {
      guard let last = distinct.last, last.property == entry.property else {
        distinct.append(entry)
        continue
      }
      if last.value == entry.value { continue }
      distinct[distinct.count - 1].isRepeated = true
      distinct.append(IndexEntry(property: entry.property, value: entry.value, isRepeated: true))
    }
    return distinct
  }
}
