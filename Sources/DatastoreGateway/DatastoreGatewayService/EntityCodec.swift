import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC
import RPCCore

/// Entities and keys of `google.datastore.v1` to the core's values, and to the bytes that are
/// stored.
enum EntityCodec {
  /// The partition that a request's keys are in where they do not say.
  struct Scope: Sendable, Hashable {
    var project: Name
    var database: Name

    init(project: String, database: String) throws(GatewayError) {
      self.project = Name(project)
      self.database = Name(database)
      if project.isEmpty { throw .invalid("The project id is the empty string.") }
    }
  }

  // MARK: - Keys

  static func partition(
    _ partition: DatastoreV1.PartitionId?, in scope: Scope
  ) throws(GatewayError) -> PartitionID {
    let partition = partition ?? DatastoreV1.PartitionId()
    if !partition.projectID.isEmpty && Name(partition.projectID) != scope.project {
      throw .invalid(
        "mismatched databases within request: project \"\(partition.projectID)\" and project "
          + "\"\(scope.project)\"")
    }
    // One that names a project says by nothing that it means the default database.
    let namesDatabase = !partition.databaseID.isEmpty || !partition.projectID.isEmpty
    if namesDatabase && Name(partition.databaseID) != scope.database {
      throw .invalid(
        "mismatched databases within request: \"\(partition.databaseID)\" and "
          + "\"\(scope.database)\"")
    }
    return PartitionID(
      project: scope.project, database: scope.database,
      namespace: Name(partition.namespaceID))
  }

  static func key(_ key: DatastoreV1.Key, in scope: Scope) throws(GatewayError) -> Key {
    Key(partition: try self.partition(key.partitionID, in: scope), path: self.path(key.path))
  }

  private static func path(_ path: [DatastoreV1.Key.PathElement]) -> [PathElement] {
    path.map { element in
      let identity: PathElement.Identity =
        switch element.idType {
        case .id(let id): .id(id)
        case .name(let name): .name(Name(name))
        case nil: .incomplete
        }
      return PathElement(kind: Name(element.kind), identity: identity)
    }
  }

  static func proto(_ key: Key) -> DatastoreV1.Key {
    DatastoreV1.Key(
      partitionID: DatastoreV1.PartitionId(
        projectID: key.partition.project.text, databaseID: key.partition.database.text,
        namespaceID: key.partition.namespace.text),
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

  // MARK: - Values

  /// - Parameter key: The entity's, already read.
  static func entity(
    _ entity: DatastoreV1.Entity, key: Key
  ) throws(GatewayError) -> Entity {
    let scope = key.partition
    return Entity(key: key, properties: try self.properties(entity, scope))
  }

  private static func properties(
    _ entity: DatastoreV1.Entity, _ scope: PartitionID
  ) throws(GatewayError) -> [EntityProperty] {
    var properties: [EntityProperty] = []
    properties.reserveCapacity(entity.properties.count)
    for (name, value) in entity.properties {
      properties.append(
        EntityProperty(name: Name(name), content: try self.content(value, of: name, scope)))
    }
    return properties
  }

  private static func content(
    _ value: DatastoreV1.Value, of property: String, _ scope: PartitionID
  ) throws(GatewayError) -> PropertyContent {
    PropertyContent(
      try self.value(value, of: property, scope), isIndexed: !value.excludeFromIndexes)
  }

  /// - Parameters:
  ///   - property: Named in messages.
  ///   - scope: Where keys are that do not say.
  static func value(
    _ value: DatastoreV1.Value, of property: String, _ scope: PartitionID
  ) throws(GatewayError) -> Value {
    switch value.valueType {
    case nil: throw .invalid("The value \"\(property)\" does not contain a value.")
    case .nullValue: return .null
    case .booleanValue(let flag): return .boolean(flag)
    case .integerValue(let number): return .integer(number)
    case .doubleValue(let number): return .double(number)
    case .timestampValue(let time): return .timestamp(try self.timestamp(time, of: property))
    case .keyValue(let key):
      let partition = key.partitionID ?? DatastoreV1.PartitionId()
      return .key(
        Key(
          partition: PartitionID(
            project: partition.projectID.isEmpty ? scope.project : Name(partition.projectID),
            database: partition.projectID.isEmpty ? scope.database : Name(partition.databaseID),
            namespace: Name(partition.namespaceID)),
          path: self.path(key.path)))
    case .stringValue(let text): return .string(text)
    case .blobValue(let bytes): return .blob(bytes)
    case .geoPointValue(let point):
      return .geoPoint(latitude: point.latitude, longitude: point.longitude)
    case .entityValue(let entity): return .entity(try self.properties(entity, scope))
    case .arrayValue(let array):
      var elements: [PropertyContent] = []
      elements.reserveCapacity(array.values.count)
      for element in array.values {
        elements.append(try self.content(element, of: property, scope))
      }
      return .array(elements)
    }
  }

  /// From 0001-01-01 to 9999-12-31, as `google.protobuf.Timestamp` has it.
  private static let seconds: ClosedRange<Int64> = -62_135_596_800...253_402_300_799

  static func timestamp(
    _ time: GoogleProtobuf.Timestamp, of property: String
  ) throws(GatewayError) -> Timestamp {
    guard self.seconds.contains(time.seconds), (0..<1_000_000_000).contains(time.nanos) else {
      throw .invalid(
        "The timestamp \"\(property)\" (\(time.seconds) s, \(time.nanos) ns) is outside the years "
          + "1 to 9999.")
    }
    return Timestamp(microseconds: time.seconds * 1_000_000 + Int64(time.nanos / 1_000))
  }

  static func proto(_ time: Timestamp) -> GoogleProtobuf.Timestamp {
    var (seconds, rest) = time.microseconds.quotientAndRemainder(dividingBy: 1_000_000)
    if rest < 0 { (seconds, rest) = (seconds - 1, rest + 1_000_000) }
    return GoogleProtobuf.Timestamp(seconds: seconds, nanos: Int32(rest * 1_000))
  }

  static func proto(_ value: Value) -> DatastoreV1.Value {
    let type: DatastoreV1.Value.ValueType =
      switch value {
      case .null: .nullValue(.nullValue)
      case .boolean(let flag): .booleanValue(flag)
      case .integer(let number): .integerValue(number)
      case .double(let number): .doubleValue(number)
      case .timestamp(let time): .timestampValue(self.proto(time))
      case .key(let key): .keyValue(self.proto(key))
      case .string(let text): .stringValue(text)
      case .blob(let bytes): .blobValue(bytes)
      case .geoPoint(let latitude, let longitude):
        .geoPointValue(GoogleType.LatLng(latitude: latitude, longitude: longitude))
      case .entity(let properties):
        .entityValue(
          DatastoreV1.Entity(
            properties: Dictionary(
              properties.map { ($0.name.text, self.proto($0.content)) },
              uniquingKeysWith: { $1 })))
      case .array(let elements):
        .arrayValue(DatastoreV1.ArrayValue(values: elements.map { self.proto($0) }))
      }
    return DatastoreV1.Value(valueType: type)
  }

  private static func proto(_ content: PropertyContent) -> DatastoreV1.Value {
    var proto = self.proto(content.value)
    proto.excludeFromIndexes = !content.isIndexed
    return proto
  }

  // MARK: - As it is stored

  /// An entity with values as Datastore keeps them: keys say where they are, and times are cut to the
  /// microsecond.
  static func settled(
    _ entity: DatastoreV1.Entity, in scope: PartitionID
  ) -> DatastoreV1.Entity {
    guard entity.properties.values.contains(where: self.isUnsettled) else { return entity }
    var settled = entity
    for (name, value) in entity.properties where self.isUnsettled(value) {
      settled.properties[name] = self.settled(value, in: scope)
    }
    return settled
  }

  private static func isUnsettled(_ value: DatastoreV1.Value) -> Bool {
    switch value.valueType {
    case .keyValue(let key): key.partitionID?.projectID.isEmpty ?? true
    case .timestampValue(let time): time.nanos % 1_000 != 0
    case .entityValue(let entity): entity.properties.values.contains(where: self.isUnsettled)
    case .arrayValue(let array): array.values.contains(where: self.isUnsettled)
    default: false
    }
  }

  private static func settled(
    _ value: DatastoreV1.Value, in scope: PartitionID
  ) -> DatastoreV1.Value {
    var settled = value
    switch value.valueType {
    case .keyValue(var key) where self.isUnsettled(value):
      var partition = key.partitionID ?? DatastoreV1.PartitionId()
      partition.projectID = scope.project.text
      partition.databaseID = scope.database.text
      key.partitionID = partition
      settled.valueType = .keyValue(key)
    case .timestampValue(var time):
      time.nanos -= time.nanos % 1_000
      settled.valueType = .timestampValue(time)
    case .entityValue(let entity):
      settled.valueType = .entityValue(self.settled(entity, in: scope))
    case .arrayValue(var array):
      array.values = array.values.map { self.settled($0, in: scope) }
      settled.valueType = .arrayValue(array)
    default: break
    }
    return settled
  }

  // MARK: - Stored bytes

  /// An entity's encoding with properties ordered by name, in entities inside it too: so equal
  /// entities have equal bytes. Everything else, unknown fields among it, is as it was sent.
  static func canonicalBytes(_ entity: DatastoreV1.Entity) -> [UInt8] {
    if entity.properties.count <= 1, !entity.properties.values.contains(where: self.hasEntity) {
      return entity.encoded()
    }
    var rest = entity
    rest.properties = [:]
    var bytes = rest.encoded()
    if !entity.properties.values.contains(where: self.hasEntity) {
      self.append(
        entries: DatastoreV1.Entity(properties: entity.properties).encoded(), to: &bytes)
      return bytes
    }
    let names = entity.properties.keys.map { Name($0) }.sorted()
    for name in names {
      guard let value = entity.properties[name.text] else { continue }
      // An entry of the map is a message of its own: key 1, value 2.
      var entry: [UInt8] = []
      self.append(field: 1, Array(name.text.utf8), to: &entry)
      self.append(field: 2, self.canonicalBytes(value), to: &entry)
      self.append(field: 3, entry, to: &bytes)
    }
    return bytes
  }

  /// - Parameter entries: The encoding of an entity that has properties and nothing else, as the
  ///   encoder here writes it: field 3 again and again, each a message with the name before the value.
  private static func append(entries: [UInt8], to bytes: inout [UInt8]) {
    var places: [(name: Range<Int>, whole: Range<Int>)] = []
    var place = 0
    /// Where the content of the field is of which the tag is next.
    func content() -> Range<Int> {
      place += 1
      var (count, shift) = (0, 0)
      while entries[place] >= 0x80 {
        count |= Int(entries[place] & 0x7f) << shift
        shift += 7
        place += 1
      }
      count |= Int(entries[place]) << shift
      place += 1
      return place..<place + count
    }
    while place < entries.count {
      let start = place
      let entry = content()
      let hasName = !entry.isEmpty && entries[place] == 1 << 3 | 2
      let name = hasName ? content() : place..<place
      places.append((name, start..<entry.upperBound))
      place = entry.upperBound
    }
    entries.withUnsafeBufferPointer { entries in
      places.sort {
        UnsafeBufferPointer(rebasing: entries[$0.name])
          .lexicographicallyPrecedes(UnsafeBufferPointer(rebasing: entries[$1.name]))
      }
      bytes.reserveCapacity(bytes.count + entries.count)
      for place in places {
        bytes.append(contentsOf: UnsafeBufferPointer(rebasing: entries[place.whole]))
      }
    }
  }

  private static func canonicalBytes(_ value: DatastoreV1.Value) -> [UInt8] {
    guard self.hasEntity(value) else { return value.encoded() }
    var rest = value
    rest.valueType = nil
    var bytes = rest.encoded()
    switch value.valueType {
    case .entityValue(let entity):
      self.append(field: 6, self.canonicalBytes(entity), to: &bytes)
    case .arrayValue(let array):
      var others = array
      others.values = []
      var inner = others.encoded()
      for element in array.values {
        self.append(field: 1, self.canonicalBytes(element), to: &inner)
      }
      self.append(field: 9, inner, to: &bytes)
    default: return value.encoded()
    }
    return bytes
  }

  private static func hasEntity(_ value: DatastoreV1.Value) -> Bool {
    switch value.valueType {
    case .entityValue: true
    case .arrayValue(let array): array.values.contains(where: self.hasEntity)
    default: false
    }
  }

  private static func append(field: UInt8, _ content: [UInt8], to bytes: inout [UInt8]) {
    bytes.append(field << 3 | 2)
    var count = content.count
    while count >= 0x80 {
      bytes.append(UInt8(truncatingIfNeeded: count) | 0x80)
      count >>= 7
    }
    bytes.append(UInt8(truncatingIfNeeded: count))
    bytes.append(contentsOf: content)
  }
}
