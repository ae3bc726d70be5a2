import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

/// Entities of two kinds; each key once.
private func entities(_ world: inout RandomEntities, upTo count: Int) -> [Entity] {
  var byKey: [Key: Entity] = [:]
  for _ in 0..<count {
    let entity = world.entity(of: Int.random(in: 0..<8, using: &world.random) == 0 ? "L" : "K")
    byKey[entity.key] = entity
  }
  return byKey.values.sorted { $0.key.pathBytes < $1.key.pathBytes }
}

/// A query that is not refused.
private func query(_ world: inout RandomEntities) -> Query {
  while true {
    let query = world.query()
    if (try? ResolvedQuery(query, policy: Policy())) != nil { return query }
  }
}

@Suite struct RandomQueryTests {
  @Test(arguments: 0..<200)
  func resultsAreThoseOfTheDefinition(seed: UInt64) throws {
    var world = RandomEntities(seed: seed)
    let entities = entities(&world, upTo: Int.random(in: 0...90, using: &world.random))
    for _ in 0..<20 {
      let query = query(&world)
      var policy = Policy()
      // Small bounds, so that batches end in the middle and all plans come about.
      policy.maximumBatchResults = Int.random(in: 1...6, using: &world.random)
      policy.sortedInMemoryRows = [0, 3, 1_000].randomElement(using: &world.random)!
      policy.probesInVain = [1, 3, 4_000].randomElement(using: &world.random)!
      policy.sortedAfterProbing = [2, 50_000].randomElement(using: &world.random)!
      let expected = expected(query, on: entities)
      #expect(try found(query, on: entities, policy: policy) == expected, "\(query)")

      var part = query
      part.offset = Int.random(in: 0...8, using: &world.random)
      part.limit = Int.random(in: 0...8, using: &world.random)
      #expect(
        try found(part, on: entities, policy: policy)
          == Array(expected.dropFirst(part.offset).prefix(part.limit ?? 0)), "\(part)")
    }
  }

  @Test(arguments: 0..<100)
  func cursorsGoOnWhereTheyWereWhateverIsWritten(seed: UInt64) throws {
    var world = RandomEntities(seed: seed)
    let before = entities(&world, upTo: 60)
    var query = query(&world)
    // Which result stands for others depends on what is there.
    query.distinctOn = []
    var first = query
    first.limit = 4
    let resolved = try ResolvedQuery(first, policy: Policy())
    let batch = QueryRun(resolved, on: MemoryIndexes(before), policy: Policy()).batch()
    guard let position = batch.endPosition else { return }
    // Half of the entities go, the one at the cursor among them.
    let after = before.filter {
      $0.key.pathBytes != position.path && Bool.random(using: &world.random)
    }
    var second = query
    second.start = resolved.cursor(after: position)
    let passed = Array(expected(query, on: before).prefix(batch.results.count))
    #expect(
      try found(second, on: after)
        == expected(query, on: after).filter { !passed.contains($0) }, "\(query)")
    // And up to a cursor.
    var upTo = query
    upTo.end = resolved.cursor(after: position)
    #expect(
      try found(upTo, on: after)
        == expected(query, on: after).filter { passed.contains($0) }, "\(query)")
  }

  @Test(arguments: 0..<100)
  func cursorsTurnRoundWithTheOrder(seed: UInt64) throws {
    var world = RandomEntities(seed: seed)
    // Of several values an entity stands at one in one direction, and at another in the other.
    let entities = entities(&world, upTo: 60).filter { entity in
      !entity.indexEntries.contains(where: \.isRepeated)
    }
    for _ in 0..<10 {
      var query = query(&world)
      query.distinctOn = []
      if query.orders.isEmpty { query.orders = [Query.Order(Query.keyProperty)] }
      var back = query
      back.orders = query.orders.map { Query.Order($0.property, isDescending: !$0.isDescending) }
      var first = query
      first.limit = Int.random(in: 1...8, using: &world.random)
      guard let resolved = try? ResolvedQuery(first, policy: Policy()), resolved.trailing.isEmpty,
        (try? ResolvedQuery(back, policy: Policy())) != nil
      else { continue }
      let batch = QueryRun(resolved, on: MemoryIndexes(entities), policy: Policy()).batch()
      guard let position = batch.endPosition else { continue }
      let all = expected(query, on: entities)
      let passed = all.prefix(batch.results.count)
      var policy = Policy()
      policy.maximumBatchResults = Int.random(in: 1...6, using: &world.random)
      policy.sortedInMemoryRows = [0, 3, 1_000].randomElement(using: &world.random)!
      back.start = resolved.cursor(after: position)
      #expect(try found(back, on: entities, policy: policy) == passed.reversed(), "\(back)")
      (back.start, back.end) = ([], back.start)
      #expect(
        try found(back, on: entities, policy: policy)
          == all.dropFirst(passed.count).reversed(), "\(back)")
    }
  }

  /// Of a group another result comes first then, and the cursor has the same groups on its sides.
  @Test(arguments: 0..<100)
  func cursorsOfGroupsTurnRoundWithTheOrder(seed: UInt64) throws {
    var world = RandomEntities(seed: seed)
    let entities = entities(&world, upTo: 60)
    for _ in 0..<20 {
      var query = query(&world)
      if query.distinctOn.isEmpty { continue }
      if query.orders.isEmpty { query.orders = query.distinctOn.map { Query.Order($0) } }
      var back = query
      back.orders = query.orders.map { Query.Order($0.property, isDescending: !$0.isDescending) }
      query.limit = Int.random(in: 1...6, using: &world.random)
      guard let resolved = try? ResolvedQuery(query, policy: Policy()), resolved.trailing.isEmpty
      else { continue }
      let batch = QueryRun(resolved, on: MemoryIndexes(entities), policy: Policy()).batch()
      guard let last = batch.results.last?.position else { continue }
      let all = expected(back, on: entities)
      var policy = Policy()
      policy.maximumBatchResults = Int.random(in: 1...6, using: &world.random)
      policy.sortedInMemoryRows = [0, 3, 1_000].randomElement(using: &world.random)!
      back.start = resolved.cursor(after: last)
      #expect(
        try found(back, on: entities, policy: policy) == all.suffix(batch.results.count), "\(back)")
      (back.start, back.end) = ([], back.start)
      #expect(
        try found(back, on: entities, policy: policy) == all.dropLast(batch.results.count),
        "\(back)")
    }
  }

  @Test(arguments: 0..<100)
  func thePastIsFoundAsItWas(seed: UInt64) throws {
    var world = RandomEntities(seed: seed)
    let before = entities(&world, upTo: 60)
    let moment: Int64 = 10
    // Some entities stay; others are changed or removed, and new ones come.
    var now: [Key: Entity] = [:]
    var versions: [Key: Int64] = [:]
    var past: [CollectionName: [PastEntity<MemoryIndex.Stored>]] = [:]
    for entity in before {
      if Bool.random(using: &world.random) {
        now[entity.key] = entity
        versions[entity.key] = moment
        continue
      }
      past[entity.key.collection, default: []].append(
        PastEntity(
          path: entity.key.pathBytes, stored: MemoryIndex.Stored(content: entity),
          entries: entity.indexEntries))
    }
    for entity in entities(&world, upTo: 40) where now[entity.key] == nil {
      now[entity.key] = entity
      versions[entity.key] = moment + 1
    }
    let current = now.values.sorted { $0.key.pathBytes < $1.key.pathBytes }
    let indexes = PastIndexes(
      MemoryIndexes(current, versions: versions), moment: moment
    ) { (collection) throws(Never) in past[collection] ?? [] }
    for _ in 0..<20 {
      let query = query(&world)
      var policy = Policy()
      policy.maximumBatchResults = Int.random(in: 1...6, using: &world.random)
      policy.sortedInMemoryRows = [0, 3, 1_000].randomElement(using: &world.random)!
      let found = try found(query, on: indexes, policy: policy)
      #expect(found == expected(query, on: before), "\(query)")
    }
  }

  @Test(arguments: 0..<60)
  func aggregationsAreOfAllResults(seed: UInt64) throws {
    var world = RandomEntities(seed: seed)
    let entities = entities(&world, upTo: 70)
    for _ in 0..<10 {
      var query = query(&world)
      query.projection.removeAll { $0 == Query.keyProperty }
      if !query.projection.isEmpty && !query.projection.contains("a") {
        query.projection.append("a")
      }
      if Bool.random(using: &world.random) {
        query.offset = Int.random(in: 0...5, using: &world.random)
        query.limit = Int.random(in: 0...20, using: &world.random)
      }
      guard
        let resolved = try? ResolvedAggregation(
          AggregationQuery(
            query: query,
            aggregations: [
              .init(.count(upTo: nil)), .init(.count(upTo: 3)), .init(.sum("a")),
              .init(.average("a")),
            ]), policy: Policy())
      else { continue }
      let fixed = resolved.query.terms.map { $0.fixedValue(of: "a") }
      if query.projection.isEmpty && query.kind != nil && fixed.contains(nil) {
        query.projection = ["a"]
      }
      let order = resolved.query.orders.firstIndex { $0.property == "a" }
      let results = ReferenceQuery.results(of: query, in: entities).dropFirst(query.offset)
        .prefix(query.limit ?? .max)
      let numbers = results.flatMap { result in
        if let place = query.projection.firstIndex(of: "a") {
          return [result.values[place].number].compactMap(\.self)
        }
        if let order { return [result.place[order].number].compactMap(\.self) }
        return result.entity.indexEntries.filter {
          $0.property == "a" && (fixed.count != 1 || fixed[0] == nil || $0.value == fixed[0])
        }
        .compactMap { result.entity.indexedValue(of: "a", at: $0.value)?.number }
      }
      let values = AggregationRun(resolved, on: MemoryIndexes(entities), policy: Policy())
        .result().values
      #expect(values[0].number == Double(results.count), "\(query)")
      #expect(values[1].number == Double(min(3, results.count)), "\(query)")
      let sum = numbers.reduce(0, +)
      #expect(values[2].number.map { $0 == sum || $0.isNaN && sum.isNaN } ?? false, "\(query)")
      if numbers.isEmpty {
        if case .null = values[3] {} else { Issue.record("\(values[3])") }
      } else {
        let average = sum / Double(numbers.count)
        #expect(
          values[3].number.map { $0 == average || $0.isNaN && average.isNaN } ?? false, "\(query)")
      }
    }
  }
}

extension Value {
  /// `nil` for what is no number.
  fileprivate var number: Double? {
    switch self {
    case .integer(let number): Double(number)
    // In an index it is its microseconds.
    case .timestamp(let time): Double(time.microseconds)
    case .double(let number): number
    default: nil
    }
  }
}
