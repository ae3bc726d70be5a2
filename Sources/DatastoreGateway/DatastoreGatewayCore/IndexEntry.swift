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

  package func hash(into hasher: inout Hasher) {
    hasher.combine(self.property)
    self.value.hash(whole: &hasher)
  }
}

extension [IndexEntry] {
  /// What differs between an entity's entries before and after a change; both are sorted, and give
  /// what goes and what comes in the same order.
  package func differences(to after: Self) -> (gone: Self, new: Self) {
    var (gone, new): (Self, Self) = ([], [])
    var index = 0
    for entry in self {
      while index < after.count, after[index].precedes(entry) {
        new.append(after[index])
        index += 1
      }
      if index < after.count, after[index] == entry {
        index += 1
      } else {
        gone.append(entry)
      }
    }
    new += after[index...]
    return (gone, new)
  }
}

extension IndexEntry {
  /// The order of an entity's entries.
  fileprivate func precedes(_ other: IndexEntry) -> Bool {
    self.property == other.property
      ? ByteOrder.precedes(self.value, other.value) : self.property < other.property
  }
}

extension Entity {
  /// All rows that indexes hold of this entity: each once, by property and value.
  package var indexEntries: [IndexEntry] {
    var entries: [IndexEntry] = []
    entries.reserveCapacity(self.properties.count)
    self.forEachIndexed { name, value in
      if let bytes = value.orderedBytes {
        entries.append(IndexEntry(property: name, value: bytes))
      }
    }
    return Self.distinct(entries)
  }

  /// The value of a property at one of its index rows.
  package func indexedValue(of property: Name, at bytes: [UInt8]) -> Value? {
    var found: Value?
    self.forEachIndexed { name, value in
      if found == nil, name == property, value.orderedBytes == bytes { found = value }
    }
    return found
  }

  /// Each value that has an index row, with the name that the row has.
  func forEachIndexed(_ body: (Name, Value) -> Void) {
    for property in self.properties { Self.visit(property.content, as: property.name, body) }
  }

  private static func visit(
    _ content: PropertyContent, as name: Name, _ body: (Name, Value) -> Void
  ) {
    guard content.isIndexed else { return }
    switch content.value {
    // Google's Datastore emulator finds an empty array where it finds null, Firestore's nowhere.
    case .array(let elements) where elements.isEmpty: body(name, .null)
    case .array(let elements):
      for element in elements { Self.visit(element, as: name, body) }
    case .entity(let properties):
      for property in properties {
        Self.visit(property.content, as: Name("\(name).\(property.name)"), body)
      }
    case let value: body(name, value)
    }
  }

  private static func distinct(_ entries: [IndexEntry]) -> [IndexEntry] {
    if entries.count < 2 { return entries }
    let sorted = entries.sorted { $0.precedes($1) }
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
