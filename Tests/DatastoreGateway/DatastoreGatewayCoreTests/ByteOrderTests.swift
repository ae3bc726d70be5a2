import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

@Suite struct ByteOrders {
  @Test func valuesOfAllTypesSortAsTheirBytes() throws {
    for (left, first) in valuesInOrder.enumerated() {
      for (right, second) in valuesInOrder.enumerated() {
        let firstBytes = try #require(first.orderedBytes)
        let secondBytes = try #require(second.orderedBytes)
        #expect(
          ByteOrder.precedes(firstBytes, secondBytes) == (left < right), "\(first) and \(second)")
        #expect((firstBytes == secondBytes) == (left == right), "\(first) and \(second)")
      }
    }
  }

  @Test func valuesOfOneClassAreEqualWhateverTheirTypes() {
    #expect(
      Value.integer(5).orderedBytes == Value.timestamp(Timestamp(microseconds: 5)).orderedBytes)
    #expect(Value.string("é").orderedBytes == Value.blob([0xC3, 0xA9]).orderedBytes)
    #expect(Value.double(.nan).orderedBytes == Value.double(-.nan).orderedBytes)
  }

  @Test(arguments: 0..<20)
  func randomNumbersSortAsTheirBytes(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    for _ in 0..<1_000 {
      let (left, right) = (
        Int64(bitPattern: random.next()) >> Int64.random(in: 0..<63, using: &random),
        Int64(bitPattern: random.next()) >> Int64.random(in: 0..<63, using: &random)
      )
      let integers = (
        try #require(Value.integer(left).orderedBytes),
        try #require(Value.integer(right).orderedBytes)
      )
      #expect(ByteOrder.precedes(integers.0, integers.1) == (left < right), "\(left), \(right)")
      let (first, second) = (
        Double(bitPattern: random.next()), Double(bitPattern: random.next())
      )
      if first.isNaN || second.isNaN { continue }
      let doubles = (
        try #require(Value.double(first).orderedBytes),
        try #require(Value.double(second).orderedBytes)
      )
      #expect(ByteOrder.precedes(doubles.0, doubles.1) == (first < second), "\(first), \(second)")
    }
  }

  @Test func entitiesAndArraysHaveNoPlace() {
    #expect(Value.entity([]).orderedBytes == nil)
    #expect(Value.array([]).orderedBytes == nil)
  }

  @Test func keysSortAsTheirPaths() {
    for (left, first) in keysInOrder.enumerated() {
      for (right, second) in keysInOrder.enumerated() {
        #expect((first.pathBytes < second.pathBytes) == (left < right), "\(first) and \(second)")
      }
    }
  }

  @Test func aPathIsReadBack() throws {
    for key in keysInOrder {
      #expect(try key.pathBytes.elements() == key.path)
    }
  }

  @Test func aCollectionIsReadBack() throws {
    let partition = PartitionID(project: "a\0b", database: "", namespace: "ü")
    let parts = try CollectionName(partition: partition, kind: "K\0").parts()
    #expect(parts.partition == partition)
    #expect(parts.kind == "K\0")
  }

  @Test(arguments: [
    [1], [1, 65], [1, 65, 0], [1, 65, 0, 3], [1, 65, 0, 1, 0], [2], [1, 0xFF, 0],
  ])
  func aDamagedPathIsToldApart(bytes: [UInt8]) {
    #expect(throws: ByteOrderError.self) { try PathBytes(bytes: bytes).elements() }
  }

  @Test func equivalentTextsAreDifferentNames() {
    let (one, two) = (Name("\u{E9}"), Name("e\u{301}"))
    #expect(one.text == two.text)
    #expect(one != two)
    #expect(Set([one, two]).count == 2)
    #expect(key(("A", .name(one))).address != key(("A", .name(two))).address)
  }

  @Test(
    arguments: [("__a__", true), ("____", true), ("___", false), ("__a", false), ("a__", false)])
  func namesInUnderscoresAreReserved(text: String, isReserved: Bool) {
    #expect(Name(text).isReserved == isReserved)
  }
}

@Suite struct IndexEntries {
  @Test func eachIndexedValueHasARow() {
    let entity = Entity(
      key: key(1),
      properties: [
        EntityProperty(name: "b", content: PropertyContent(.integer(1))),
        EntityProperty(name: "a", content: PropertyContent(.string("x"))),
        EntityProperty(name: "c", content: PropertyContent(.string("y"), isIndexed: false)),
      ])
    #expect(
      entity.indexEntries == [
        IndexEntry(property: "a", value: [0x40, 120]),
        IndexEntry(property: "b", value: Value.integer(1).orderedBytes!),
      ])
  }

  @Test func elementsOfArraysAreDistinctSortedAndMarked() {
    let entity = entity(key(1), [("t", array(.integer(3), .integer(1), .integer(3)))])
    #expect(
      entity.indexEntries == [
        IndexEntry(property: "t", value: Value.integer(1).orderedBytes!, isRepeated: true),
        IndexEntry(property: "t", value: Value.integer(3).orderedBytes!, isRepeated: true),
      ])
  }

  @Test func anArrayOfOneValueIsNotRepeated() {
    let entity = entity(key(1), [("t", array(.integer(3), .integer(3)))])
    #expect(entity.indexEntries.map(\.isRepeated) == [false])
  }

  @Test func anEmptyArrayIsFoundAsNull() {
    #expect(
      entity(key(1), [("t", .array([]))]).indexEntries == [
        IndexEntry(property: "t", value: Value.null.orderedBytes!)
      ])
  }

  @Test func propertiesOfInnerEntitiesAreIndexedByDottedNames() {
    let inner = Value.entity([
      EntityProperty(name: "x", content: PropertyContent(.integer(1))),
      EntityProperty(name: "y", content: PropertyContent(.integer(2), isIndexed: false)),
      EntityProperty(name: "z", content: PropertyContent(array(.integer(3)))),
    ])
    #expect(
      entity(key(1), [("e", inner)]).indexEntries.map { "\($0.property)" } == ["e.x", "e.z"])
    let hidden = Entity(
      key: key(1),
      properties: [EntityProperty(name: "e", content: PropertyContent(inner, isIndexed: false))])
    #expect(hidden.indexEntries.isEmpty)
  }
}
