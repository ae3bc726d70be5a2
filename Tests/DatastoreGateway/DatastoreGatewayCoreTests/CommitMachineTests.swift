import DatastoreGatewayCore
import Domain
import Testing

private let now: Int64 = 1_000
private let old = StoredVersion(version: 7, createTime: Timestamp(microseconds: 3))

/// Decides mutations of which each has its content as a number; the stored content is 0.
private struct World {
  var stored: [Key: StoredVersion] = [:]
  var machine = CommitMachine(version: now)
  var contents: [Int] = []

  mutating func add(_ mutation: Mutation, content: Int = 1) -> GatewayError? {
    self.contents.append(content)
    let contents = self.contents
    return self.machine.add(
      mutation, at: mutation.key.address, stored: { self.stored[mutation.key] },
      isSame: { before in
        switch before {
        case .nothing: false
        case .stored: content == 0
        case .mutation(let earlier): contents[earlier] == content
        }
      })
  }
}

@Suite struct Commits {
  struct Case: Sendable, CustomTestStringConvertible {
    var mutation: Mutation
    var isStored: Bool
    var content = 1
    /// Version answered, conflict told, and whether something is written.
    var expected: (Int64, Bool, Bool)?
    var error: GatewayError?

    var testDescription: String { "\(self.mutation.operation) \(self.mutation.base)" }
  }

  static let cases: [Case] = [
    Case(mutation: Mutation(.insert, key(1)), isStored: false, expected: (now, false, true)),
    Case(mutation: Mutation(.insert, key(1)), isStored: true, error: .alreadyExists(key(1))),
    Case(mutation: Mutation(.update, key(1)), isStored: true, expected: (now, false, true)),
    Case(mutation: Mutation(.update, key(1)), isStored: false, error: .notFound(key(1))),
    Case(mutation: Mutation(.upsert, key(1)), isStored: false, expected: (now, false, true)),
    Case(mutation: Mutation(.upsert, key(1)), isStored: true, expected: (now, false, true)),
    Case(mutation: Mutation(.delete, key(1)), isStored: true, expected: (now, false, true)),
    Case(mutation: Mutation(.delete, key(1)), isStored: false, expected: (now, false, false)),
    // Nothing changes: the version stays.
    Case(
      mutation: Mutation(.upsert, key(1)), isStored: true, content: 0, expected: (7, false, false)),
    Case(
      mutation: Mutation(.update, key(1)), isStored: true, content: 0, expected: (7, false, false)),
    // A base version that is the stored one.
    Case(
      mutation: Mutation(.update, key(1), base: .version(7), resolution: .fail), isStored: true,
      expected: (now, false, true)),
    Case(
      mutation: Mutation(.upsert, key(1), base: .version(0), resolution: .fail), isStored: false,
      expected: (now, false, true)),
    Case(
      mutation: Mutation(
        .delete, key(1), base: .updateTime(Timestamp(microseconds: 7)), resolution: .fail),
      isStored: true, expected: (now, false, true)),
    // One that is not: kept, and told.
    Case(
      mutation: Mutation(.update, key(1), base: .version(6)), isStored: true,
      expected: (7, true, false)),
    Case(
      mutation: Mutation(.delete, key(1), base: .version(6)), isStored: true,
      expected: (7, true, false)),
    Case(
      mutation: Mutation(.upsert, key(1), base: .version(5)), isStored: false,
      expected: (0, true, false)),
    // Or refused.
    Case(
      mutation: Mutation(.update, key(1), base: .version(6), resolution: .fail), isStored: true,
      error: .conflict(key(1), stored: 7, required: 6)),
    Case(
      mutation: Mutation(.upsert, key(1), base: .version(5), resolution: .fail), isStored: false,
      error: .conflict(key(1), stored: 0, required: 5)),
    Case(
      mutation: Mutation(.delete, key(1), base: .version(5), resolution: .fail), isStored: false,
      error: .conflict(key(1), stored: 0, required: 5)),
    Case(
      mutation: Mutation(
        .upsert, key(1), base: .updateTime(Timestamp(microseconds: 6)), resolution: .fail),
      isStored: true, error: .conflict(key(1), stored: 7, required: 6)),
    // What exists or not comes before its version.
    Case(
      mutation: Mutation(.update, key(1), base: .version(6), resolution: .fail), isStored: false,
      error: .notFound(key(1))),
  ]

  @Test(arguments: Commits.cases)
  func eachMutationHasOneAnswer(example: Case) {
    var world = World(stored: example.isStored ? [key(1): old] : [:])
    let error = world.add(example.mutation, content: example.content)
    #expect(error == example.error)
    guard let expected = example.expected else { return }
    let result = world.machine.results[0]
    #expect(result.version == expected.0)
    #expect(result.conflictDetected == expected.1)
    #expect(world.machine.writes.isEmpty == !expected.2)
  }

  @Test(
    arguments: [.update, .upsert, .delete] as [Mutation.Operation],
    [.version(8), .updateTime(Timestamp(microseconds: 8))] as [Mutation.Base])
  func aVersionToComeIsAMistake(operation: Mutation.Operation, base: Mutation.Base) {
    for resolution in [.keepStored, .fail] as [Mutation.Resolution] {
      var world = World(stored: [key(1): old])
      let error = world.add(Mutation(operation, key(1), base: base, resolution: resolution))
      guard case .invalid(let message) = error else {
        Issue.record("\(String(describing: error))")
        continue
      }
      #expect(message.contains("greater than the stored version"))
    }
  }

  @Test func anInsertHasNoTime() {
    let time = Timestamp(microseconds: 7)
    #expect(throws: GatewayError.self) {
      try Mutation(.insert, key(1), base: .updateTime(time)).check()
    }
  }

  @Test func anUpdateKeepsTheTimeOfCreation() {
    var world = World(stored: [key(1): old])
    #expect(world.add(Mutation(.update, key(1))) == nil)
    let after = StoredVersion(version: now, createTime: old.createTime)
    #expect(
      world.machine.results[0]
        == CommitMachine.Result(
          version: now, createTime: old.createTime, updateTime: Timestamp(microseconds: now),
          conflictDetected: false))
    #expect(
      world.machine.writes.map(\.write) == [
        .init(content: 0, after: after, wasStored: true, entity: 0)
      ])
  }

  @Test func mutationsOfOneEntitySeeEachOther() {
    var world = World()
    #expect(world.add(Mutation(.insert, key(1)), content: 1) == nil)
    #expect(world.add(Mutation(.update, key(1)), content: 2) == nil)
    #expect(world.add(Mutation(.delete, key(1))) == nil)
    #expect(world.add(Mutation(.insert, key(1)), content: 3) == nil)
    #expect(world.add(Mutation(.insert, key(1)), content: 4) == .alreadyExists(key(1)))
    #expect(world.machine.writes.map(\.write.content) == [3])
  }

  @Test func anEntityThatComesAndGoesIsNotWritten() {
    var world = World()
    #expect(world.add(Mutation(.insert, key(1))) == nil)
    #expect(world.add(Mutation(.delete, key(1))) == nil)
    #expect(world.machine.writes.isEmpty)
  }

  @Test func aRepeatedContentIsNoChange() {
    var world = World()
    #expect(world.add(Mutation(.insert, key(1)), content: 5) == nil)
    #expect(world.add(Mutation(.upsert, key(1)), content: 5) == nil)
    #expect(world.machine.results.map(\.version) == [now, now])
    #expect(world.machine.writes.map(\.write.content) == [0])
  }

  @Test func anEntityPutBackAfterADeleteIsANewOne() {
    var world = World(stored: [key(1): old])
    #expect(world.add(Mutation(.delete, key(1))) == nil)
    #expect(world.add(Mutation(.upsert, key(1)), content: 0) == nil)
    #expect(world.machine.results[1].createTime == Timestamp(microseconds: now))
    #expect(world.machine.writes.map(\.write.wasStored) == [true])
  }

  @Test func writesComeInTheOrderOfTheirEntities() {
    var world = World()
    for id in [5, 3, 9, 1] as [Int64] { #expect(world.add(Mutation(.upsert, key(id))) == nil) }
    #expect(
      world.machine.writes.map(\.address) == [key(5), key(3), key(9), key(1)].map(\.address))
  }

  @Test(
    arguments: [
      Mutation(.insert, key(1), base: .version(1)), Mutation(.update, key(1), base: .version(0)),
      Mutation(.upsert, key(1), base: .version(-1)),
    ])
  func whatContradictsItselfIsRefused(mutation: Mutation) {
    #expect(throws: GatewayError.self) { try mutation.check() }
  }
}

@Suite struct IDs {
  @Test func noIDComesTwiceAndAllAreInRange() {
    var seen: Set<Int64> = []
    var sequence = IDSequence()
    #expect(sequence.take() == nil)
    for block in [0, 1 << 40, (1 << 52) - 100_000] as [Int64] {
      sequence.blockStored(from: block, count: 100_000)
      #expect(sequence.remaining == 100_000)
      while let id = sequence.take() {
        #expect(id >= 1 << 52 && id < 1 << 53)
        seen.insert(id)
      }
    }
    #expect(seen.count == 300_000)
  }

  @Test func neighboursAreFarApart() {
    let ids = (0..<100).map { IDSequence.id(at: $0) }.sorted()
    let gaps = zip(ids, ids.dropFirst()).map { $1 - $0 }
    #expect(gaps.allSatisfy { $0 > 1_000_000 })
  }
}
