import BuildProtos
import RPC
import RPCCore
import RPCProtobuf
import Testing

/// Bytes that nobody meant to send: whatever they are, decoding answers with a message or an
/// error, and a message that came of them goes out and comes back.
///
/// The same bytes in every run; `rounds` is a number for each type.
@Suite struct FuzzTests {
  private static let rounds = 12_000

  /// A field that no message here has.
  private static let unknown: [UInt8] = [0xc0, 0x3e, 0x01]

  /// xorshift64*: small, and the same everywhere.
  private struct Dice {
    private var state: UInt64

    init(_ seed: UInt64) {
      self.state = seed
    }

    mutating func next() -> UInt64 {
      self.state ^= self.state >> 12
      self.state ^= self.state << 25
      self.state ^= self.state >> 27
      return self.state &* 2_685_821_657_736_338_717
    }

    mutating func roll(_ sides: Int) -> Int { Int(self.next() >> 33) % sides }
  }

  /// One of the things that go wrong with bytes.
  private func mutate(_ bytes: inout [UInt8], _ corpus: [[UInt8]], _ dice: inout Dice) {
    let interesting: [UInt8] = [0, 1, 0x0b, 0x0c, 0x7f, 0x80, 0xff, 0x12, 0x22, 0xa3, 0x06]
    guard !bytes.isEmpty else {
      bytes = [UInt8(truncatingIfNeeded: dice.next())]
      return
    }
    let position = dice.roll(bytes.count)
    switch dice.roll(8) {
    case 0: bytes[position] = UInt8(truncatingIfNeeded: dice.next())
    case 1: bytes[position] ^= 1 << UInt8(dice.roll(8))
    case 2: bytes[position] = interesting[dice.roll(interesting.count)]
    case 3: bytes.removeSubrange(position..<min(bytes.count, position + 1 + dice.roll(4)))
    case 4: bytes.insert(interesting[dice.roll(interesting.count)], at: position)
    case 5: bytes.removeLast(bytes.count - position)
    case 6:
      let other = corpus[dice.roll(corpus.count)]
      bytes.insert(contentsOf: other.prefix(dice.roll(other.count + 1)), at: position)
    default:
      // The whole thing inside itself.
      let inside = Array(bytes.prefix(127))
      bytes.insert(
        contentsOf: [UInt8(dice.roll(16) << 3 | 2), UInt8(inside.count)] + inside, at: 0)
    }
    if bytes.count > 4_096 { bytes.removeLast(bytes.count - 4_096) }
  }

  private func fuzz<M: ProtobufMessage>(_ type: M.Type, seed: UInt64, _ corpus: [[UInt8]]) {
    var dice = Dice(seed)
    var accepted = 0
    for _ in 0..<Self.rounds {
      var bytes = corpus[dice.roll(corpus.count)]
      for _ in 0...dice.roll(4) { self.mutate(&bytes, corpus, &dice) }
      do throws(MessageDecodingError) {
        let message = try M(decoding: bytes)
        let encoding = message.encoded()
        let again = try M(decoding: encoding).encoded()
        // Maps come in any order: as many bytes, and of each the same number.
        if again.count != encoding.count || self.sum(again) != self.sum(encoding) {
          Issue.record("\(M.messageName) changes from \(encoding) to \(again), made from \(bytes)")
        }
        // A field that nobody knows sends the same bytes the long way round.
        var slow = try M(decoding: bytes + Self.unknown)
        if message.unknownFields.isEmpty {
          slow.unknownFields = UnknownFields()
          let other = slow.encoded()
          if other.count != encoding.count || self.sum(other) != self.sum(encoding) {
            Issue.record("\(M.messageName) is \(encoding) or \(other), made from \(bytes)")
          }
        }
        accepted += 1
      } catch {
        if error.name.isEmpty { Issue.record("no name for \(bytes)") }
      }
    }
    // Otherwise the corpus is no corpus of this type.
    #expect(accepted > Self.rounds / 20 && accepted < Self.rounds)
  }

  private func sum(_ bytes: [UInt8]) -> Int {
    bytes.withUnsafeBufferPointer { $0.reduce(0) { $0 &+ Int($1) &* Int($1) } }
  }

  private static let trees: [[UInt8]] = [
    Vectors.tree,
    EverythingV1.Tree(left: .init(right: .init(label: "r")), other: .next(.init(label: "n")))
      .encoded(),
    EverythingV1.Tree(children: [.init(), .init(named: ["k": .init()])]).encoded(),
  ]

  private static let everything: [[UInt8]] = [
    Vectors.scalars, Vectors.repeated, Vectors.present, Vectors.maps, Vectors.choice, Vectors.json,
  ]

  private static let entities: [[UInt8]] = {
    let key = DatastoreV1.Key(
      partitionID: .init(projectID: "p"), path: [.init(kind: "Build", idType: .name("b1"))])
    let entity = DatastoreV1.Entity(
      key: key,
      properties: [
        "project": .init(valueType: .stringValue("x"), excludeFromIndexes: true),
        "list": .init(
          valueType: .arrayValue(
            .init(values: [.init(valueType: .integerValue(-1)), .init(valueType: .keyValue(key))]))),
      ])
    let query = DatastoreV1.RunQueryRequest(
      projectID: "millrace",
      queryType: .query(
        .init(
          kind: [.init(name: "Build")],
          filter: .init(
            filterType: .compositeFilter(
              .init(
                op: .and,
                filters: [
                  .init(
                    filterType: .propertyFilter(
                      .init(property: .init(name: "a"), op: .equal, value: .init())))
                ]))),
          limit: .init(value: 5))))
    return [
      entity.encoded(), query.encoded(),
      DatastoreV1.CommitRequest(
        mutations: [
          .init(operation: .upsert(entity), conflictDetectionStrategy: .baseVersion(3))
        ]
      ).encoded(),
    ]
  }()

  @Test func everythingSurvivesAnything() {
    self.fuzz(EverythingV1.Everything.self, seed: 1, Self.everything)
  }

  @Test func treesSurviveAnything() {
    self.fuzz(EverythingV1.Tree.self, seed: 2, Self.trees)
  }

  @Test func chainsSurviveAnything() {
    self.fuzz(
      EverythingV1.Chain.self, seed: 3, [[0x0a, 0x00], [0x0a, 0x02, 0x0a, 0x00]] + Self.trees)
  }

  @Test func wordsSurviveAnything() {
    self.fuzz(EverythingV1.Words.self, seed: 4, [Vectors.words])
  }

  @Test func jsonSurvivesAnything() {
    let json = GoogleProtobuf.Value(
      kind: .structValue(
        .init(fields: [
          "a": .init(kind: .listValue(.init(values: [.init(kind: .numberValue(1))]))),
          "b": .init(kind: .stringValue("ß")),
        ])))
    self.fuzz(GoogleProtobuf.Value.self, seed: 5, [json.encoded()])
  }

  @Test func commitsSurviveAnything() {
    self.fuzz(DatastoreV1.CommitRequest.self, seed: 6, Self.entities)
  }

  @Test func queriesSurviveAnything() {
    self.fuzz(DatastoreV1.RunQueryRequest.self, seed: 7, Self.entities)
  }

  @Test func entitiesSurviveAnything() {
    self.fuzz(DatastoreV1.Entity.self, seed: 8, Self.entities)
  }

  @Test func buildsSurviveAnything() {
    let build = SchedulerV1.Build(
      id: "b", state: .running, createdAt: .init(seconds: 1),
      jobs: [
        .init(
          id: "j", needs: ["a"],
          attempts: [
            .init(number: 1, steps: [.init(index: 0, id: "s", usage: .init(cpuMicros: 4))])
          ],
          matrix: ["os": "linux"])
      ], source: .init(origin: .archive(.init(hash: "ff", sizeBytes: 3))))
    self.fuzz(SchedulerV1.Build.self, seed: 9, [build.encoded()])
  }
}
