/// The project, database and namespace that an entity is in.
package struct PartitionID: Hashable, Sendable {
  package var project: Name
  /// Empty is the default database.
  package var database: Name
  /// Empty is the default namespace.
  package var namespace: Name

  package init(project: Name, database: Name = "", namespace: Name = "") {
    self.project = project
    self.database = database
    self.namespace = namespace
  }
}

/// One step of a key's path: a kind, and which entity of it.
package struct PathElement: Hashable, Sendable {
  /// Which entity of its kind; ids sort before names.
  package enum Identity: Hashable, Sendable {
    /// None yet: an id is allocated when the entity is written.
    case incomplete
    case id(Int64)
    case name(Name)
  }

  package var kind: Name
  package var identity: Identity

  package init(kind: Name, identity: Identity) {
    self.kind = kind
    self.identity = identity
  }
}

/// Names an entity: its partition, and its path from the root ancestor.
package struct Key: Hashable, Sendable {
  package var partition: PartitionID
  package var path: [PathElement]

  package init(partition: PartitionID, path: [PathElement]) {
    self.partition = partition
    self.path = path
  }

  /// Keys of different projects and databases hardly ever meet.
  package func hash(into hasher: inout Hasher) {
    hasher.combine(self.partition.namespace)
    hasher.combine(self.path)
  }

  /// The kind of the entity that it names. A valid key has a path.
  package var kind: Name { self.path.last?.kind ?? "" }

  package var isComplete: Bool {
    !self.path.contains { $0.identity == .incomplete } && !self.path.isEmpty
  }
}

extension Key: CustomStringConvertible {
  /// `Order:7/Line:"a"`, as messages show it.
  package var description: String {
    self.path.map { element in
      switch element.identity {
      case .incomplete: "\(element.kind):?"
      case .id(let id): "\(element.kind):\(id)"
      case .name(let name): "\(element.kind):\"\(name)\""
      }
    }.joined(separator: "/")
  }
}

/// Where an entity is stored: its kind in its partition, and its path, both in the byte order that
/// indexes use. Two keys are the same exactly if their addresses are.
package struct EntityAddress: Hashable, Sendable {
  package var collection: CollectionName
  package var path: PathBytes

  package init(collection: CollectionName, path: PathBytes) {
    self.collection = collection
    self.path = path
  }
}

/// One kind in one partition, encoded: what rows and indexes are kept by.
package struct CollectionName: Hashable, Sendable {
  package let bytes: [UInt8]

  package init(bytes: [UInt8]) {
    self.bytes = bytes
  }

  package func hash(into hasher: inout Hasher) { self.bytes.hash(whole: &hasher) }
}

/// A key's path, encoded so that bytes compare as keys do, and an ancestor is a prefix.
package struct PathBytes: Hashable, Sendable, Comparable {
  package let bytes: [UInt8]

  /// For messages, as a key in no namespace is told; `nil` for bytes that are no path.
  package var text: String? {
    (try? self.elements()).map { Key(partition: PartitionID(project: ""), path: $0).description }
  }

  package init(bytes: [UInt8]) {
    self.bytes = bytes
  }

  package func hash(into hasher: inout Hasher) { self.bytes.hash(whole: &hasher) }

  package static func < (left: Self, right: Self) -> Bool {
    ByteOrder.precedes(left.bytes, right.bytes)
  }
}

extension [UInt8] {
  /// An array hashes byte by byte, which is dearer than all else that a map does with it.
  func hash(whole hasher: inout Hasher) {
    self.withUnsafeBytes { hasher.combine(bytes: $0) }
    hasher.combine(self.count)
  }
}
