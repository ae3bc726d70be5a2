import DatastoreGatewayCore
import Domain

/// Entities and queries from a small world of values, so that there are ties, arrays with several
/// matches, types beside each other and properties that are missing.
package struct RandomEntities {
  package var random: SeededGenerator
  package let partition: PartitionID

  static let properties: [Name] = ["a", "b", "c"]

  package init(seed: UInt64, partition: PartitionID = PartitionID(project: "p")) {
    self.random = SeededGenerator(seed: seed)
    self.partition = partition
  }

  package mutating func key(of kind: Name = "K") -> Key {
    var path: [PathElement] = []
    if Int.random(in: 0..<4, using: &self.random) == 0 {
      path.append(
        PathElement(kind: "P", identity: .id(Int64.random(in: 1...2, using: &self.random))))
    }
    let number = Int64.random(in: 1...60, using: &self.random)
    path.append(
      PathElement(
        kind: kind,
        identity: number < 40
          ? .id(number) : .name(Name(number < 50 ? "n\(number)" : "n\0\(number)"))))
    return Key(partition: self.partition, path: path)
  }

  package mutating func entity(of kind: Name = "K") -> Entity {
    let key = self.key(of: kind)
    var properties: [EntityProperty] = []
    for name in Self.properties where Int.random(in: 0..<6, using: &self.random) > 0 {
      properties.append(EntityProperty(name: name, content: self.content()))
    }
    return Entity(key: key, properties: properties)
  }

  private mutating func content() -> PropertyContent {
    switch Int.random(in: 0..<10, using: &self.random) {
    case 0: return PropertyContent(self.scalar(), isIndexed: false)
    case 3:
      let inner = EntityProperty(
        name: "x", content: PropertyContent(self.scalar(), isIndexed: self.isLucky(1, of: 2)))
      return PropertyContent(.entity([inner]))
    case 1, 2:
      return PropertyContent(
        .array(
          (0..<Int.random(in: 0...4, using: &self.random)).map { _ in
            PropertyContent(self.scalar(), isIndexed: Bool.random(using: &self.random))
          }))
    default: return PropertyContent(self.scalar())
    }
  }

  mutating func isLucky(_ wins: Int, of tries: Int) -> Bool {
    Int.random(in: 0..<tries, using: &self.random) < wins
  }

  mutating func scalar() -> Value {
    switch Int.random(in: 0..<12, using: &self.random) {
    case 0: .null
    case 1: .boolean(Bool.random(using: &self.random))
    case 2: .double([-.infinity, -1, -0.0, 0, 2.5, .nan].randomElement(using: &self.random)!)
    case 3: .string(["", "x", "x\0", "y"].randomElement(using: &self.random)!)
    case 4: .blob([[], [120], [0xFF]].randomElement(using: &self.random)!)
    case 5: .timestamp(Timestamp(microseconds: Int64.random(in: -1...3, using: &self.random)))
    case 6:
      .geoPoint(
        latitude: Double(Int.random(in: -1...1, using: &self.random)),
        longitude: Double(Int.random(in: -1...1, using: &self.random)))
    case 7: .key(self.key())
    default: .integer(Int64.random(in: -2...4, using: &self.random))
    }
  }
}
