import DatastoreGatewayCore
import Domain
import Testing

private let validation = Validation(policy: Policy())

private func nested(_ depth: Int) -> Value {
  (1..<depth).reduce(Value.integer(1)) { inner, _ in
    .entity([EntityProperty(name: "x", content: PropertyContent(inner))])
  }
}

private func text(_ count: Int) -> String { String(repeating: "x", count: count) }

@Suite struct Validations {
  struct Case: Sendable, CustomTestStringConvertible {
    var what: String
    var entity: Entity
    var isValid: Bool

    var testDescription: String { self.what }

    init(_ what: String, _ key: Key, _ properties: [(Name, Value)] = [], isValid: Bool = false) {
      self.init(what, DatastoreGatewayCoreTests.entity(key, properties), isValid: isValid)
    }

    init(_ what: String, _ entity: Entity, isValid: Bool = false) {
      self.what = what
      self.entity = entity
      self.isValid = isValid
    }
  }

  static let cases: [Case] = [
    Case("plain", key(1), [("a", .integer(1))], isValid: true),
    Case("negative id", key(-1), isValid: true),
    Case("incomplete", key(("K", .incomplete)), isValid: true),
    Case("id 0", key(0)),
    Case("no path", key()),
    Case("empty kind", key(("", .id(1)))),
    Case("reserved kind", key(("__k__", .id(1)))),
    Case("empty name", key(("K", .name("")))),
    Case("reserved name", key(("K", .name("__n__")))),
    Case("name of underscores", key(("K", .name("____"))), isValid: true),
    Case("name of more underscores", key(("K", .name("_____")))),
    Case("long kind", key((Name(text(1_500)), .id(1))), isValid: true),
    Case("longer kind", key((Name(text(1_501)), .id(1)))),
    Case("long name", key(("K", .name(Name(text(1_500))))), isValid: true),
    Case("longer name", key(("K", .name(Name(text(1_501)))))),
    Case("incomplete ancestor", key(("K", .incomplete), ("K", .id(1)))),
    Case(
      "long key",
      Key(
        partition: partition,
        path: (0..<5).map { _ in PathElement(kind: "K", identity: .name(Name(text(1_300)))) })),
    Case(
      "deep key",
      Key(
        partition: partition,
        path: (0..<101).map { _ in PathElement(kind: "K", identity: .id(1)) })),
    Case("no project", Key(partition: PartitionID(project: ""), path: key(1).path)),
    Case(
      "reserved namespace",
      Key(partition: PartitionID(project: "p", namespace: "__n__"), path: key(1).path)),
    Case(
      "namespace of all that may be in it",
      Key(partition: PartitionID(project: "p", namespace: "aZ09._-"), path: key(1).path),
      isValid: true),
    Case(
      "namespace with a blank",
      Key(partition: PartitionID(project: "p", namespace: "a b"), path: key(1).path)),
    Case(
      "namespace beyond ASCII",
      Key(partition: PartitionID(project: "p", namespace: "é"), path: key(1).path)),
    Case(
      "database with a capital",
      Key(partition: PartitionID(project: "p", database: "D"), path: key(1).path)),
    Case("empty property", key(1), [("", .integer(1))]),
    Case("reserved property", key(1), [("__p__", .integer(1))]),
    Case("long property", key(1), [(Name(text(1_501)), .integer(1))]),
    Case("long indexed string", key(1), [("a", .string(text(1_500)))], isValid: true),
    Case("longer indexed string", key(1), [("a", .string(text(1_501)))]),
    Case("longer indexed blob", key(1), [("a", .blob(Array(repeating: 0, count: 1_501)))]),
    Case("longer string in an array", key(1), [("a", array(.string(text(1_501))))]),
    Case(
      "longer unindexed string",
      Entity(
        key: key(1),
        properties: [
          EntityProperty(
            name: "a", content: PropertyContent(.string(text(900_000)), isIndexed: false))
        ]), isValid: true),
    Case(
      "far too long unindexed string",
      Entity(
        key: key(1),
        properties: [
          EntityProperty(
            name: "a", content: PropertyContent(.string(text(1_048_488)), isIndexed: false))
        ])),
    Case(
      "longer string in an unindexed entity",
      Entity(
        key: key(1),
        properties: [
          EntityProperty(
            name: "a",
            content: PropertyContent(
              .entity([
                EntityProperty(
                  name: "b", content: PropertyContent(.string(text(2_000)), isIndexed: false))
              ]), isIndexed: false))
        ]), isValid: true),
    Case(
      "longer indexed string in an unindexed entity",
      Entity(
        key: key(1),
        properties: [
          EntityProperty(
            name: "a",
            content: PropertyContent(
              .entity([
                EntityProperty(name: "b", content: PropertyContent(.string(text(2_000))))
              ]), isIndexed: false))
        ])),
    Case(
      "reserved key as value", key(1), [("a", .key(key(("__kind__", .name("K")))))], isValid: true),
    Case("array in array", key(1), [("a", array(array(.integer(1))))]),
    Case(
      "unindexed array",
      Entity(
        key: key(1),
        properties: [
          EntityProperty(
            name: "a", content: PropertyContent(array(.integer(1)), isIndexed: false))
        ])),
    Case(
      "unindexed empty array",
      Entity(
        key: key(1),
        properties: [
          EntityProperty(name: "a", content: PropertyContent(array(), isIndexed: false))
        ])),
    Case("latitude", key(1), [("a", .geoPoint(latitude: 90.1, longitude: 0))]),
    Case("longitude", key(1), [("a", .geoPoint(latitude: 0, longitude: -180.1))]),
    Case("NaN as latitude", key(1), [("a", .geoPoint(latitude: .nan, longitude: 0))]),
    Case("incomplete key as value", key(1), [("a", .key(key(("K", .incomplete))))]),
    // The innermost is no entity: Google's emulators take 20 entities in one another.
    Case("20 levels", key(1), [("a", nested(21))], isValid: true),
    Case("21 levels", key(1), [("a", nested(22))]),
  ]

  @Test(arguments: Validations.cases)
  func anEntityIsTakenOrRefused(example: Case) {
    let error: GatewayError? = {
      do throws(GatewayError) {
        try validation.check(example.entity, encodedBytes: 100)
        return nil
      } catch {
        return error
      }
    }()
    #expect((error == nil) == example.isValid, "\(example.what): \(String(describing: error))")
    if let error {
      guard case .invalid = error else {
        Issue.record("\(error) is no error of the request")
        return
      }
    }
  }

  @Test func anEntityHasALargestSize() throws {
    let entity = entity(key(1), [])
    try validation.check(entity, encodedBytes: 1_048_572)
    #expect(throws: GatewayError.self) { try validation.check(entity, encodedBytes: 1_048_573) }
    try validation.check(indexEntries: 20_000, of: key(1))
    #expect(throws: GatewayError.self) { try validation.check(indexEntries: 20_001, of: key(1)) }
  }

  @Test func aMessageLosesItsMiddle() {
    let digits = String(repeating: "5", count: 5 << 20)
    let told = "\(GatewayError.invalid("Encountered \"\(digits)\" at line 1, column 7."))"
    #expect(told.hasPrefix("Encountered \"555"))
    #expect(told.hasSuffix("555\" at line 1, column 7."))
    #expect(told.unicodeScalars.count == 501)
    let long = String(repeating: "é", count: 500)
    #expect("\(GatewayError.invalid(long))" == long)
  }

  @Test func someKeysMustBeCompleteAndSomeMustNot() throws {
    let incomplete = key(("K", .incomplete))
    try validation.check(key(1), .complete)
    try validation.check(incomplete, .mayBeIncomplete)
    try validation.check(incomplete, .incomplete)
    #expect(throws: GatewayError.invalid("Key path element must not be incomplete: [K:?]")) {
      try validation.check(incomplete, .complete)
    }
    #expect(throws: GatewayError.invalid("Key path element must not be complete: [K:1]")) {
      try validation.check(key(1), .incomplete)
    }
  }
}
