import BuildProtos
import DatastoreGatewayCore
import DatastoreGatewayService
import DatastoreGatewayTesting
import Domain
import RPC
import Testing

private func kind(_ name: String) -> [DatastoreV1.KindExpression] {
  [DatastoreV1.KindExpression(name: name)]
}

private func gql(_ text: String) -> DatastoreV1.GqlQuery {
  DatastoreV1.GqlQuery(queryString: text, allowLiterals: true)
}

/// A value as a projection gives it.
private func indexed(_ value: Value) -> DatastoreV1.Value {
  var proto: DatastoreV1.Value
  switch value {
  case .timestamp(let time): proto = integer(time.microseconds)
  case .blob(let bytes):
    proto = Proto.value(String(validating: bytes, as: UTF8.self).map { .string($0) } ?? value)
  default: proto = Proto.value(value)
  }
  proto.meaning = 18
  return proto
}

@Suite struct QueriesThroughTheService {
  /// Fewer where each statement goes to another process.
  private static let randomCases: [(seed: UInt64, store: StoreKind)] = StoreKind.all.flatMap {
    store in
    (0..<(store == .sqlite ? 12 : 4)).map { ($0, store) }
  }

  @Test(arguments: randomCases)
  func queriesFindWhatTheDefinitionSays(seed: UInt64, on store: StoreKind) async throws {
    try await withGateway(on: store) { configuration in
      configuration.policy.maximumBatchResults = Int(seed % 4) * 3 + 2
      configuration.policy.sortedInMemoryRows = seed % 2 == 0 ? 3 : 1_000
    } _: { gateway in
      var world = RandomEntities(seed: seed)
      var byKey: [Key: Entity] = [:]
      // Entities come, change and go, and the indexes with them.
      for round in 0..<30 {
        var mutations: [DatastoreV1.Mutation] = []
        var touched: Set<Key> = []
        for _ in 0..<6 {
          let entity = world.entity(of: round % 8 == 0 ? "L" : "K")
          guard touched.insert(entity.key).inserted else { continue }
          if Int.random(in: 0..<4, using: &world.random) == 0 {
            byKey[entity.key] = nil
            mutations.append(.of(.delete(Proto.key(entity.key))))
          } else {
            byKey[entity.key] = entity
            mutations.append(.of(.upsert(Proto.entity(entity))))
          }
        }
        try await gateway.commit(mutations)
      }
      let entities = Array(byKey.values)
      for _ in 0..<80 {
        var query = world.query()
        guard (try? ResolvedQuery(query, policy: Policy())) != nil else { continue }
        if Bool.random(using: &world.random) {
          query.offset = Int.random(in: 0...5, using: &world.random)
          query.limit = Int.random(in: 1...9, using: &world.random)
        }
        let expected = ReferenceQuery.results(of: query, in: entities)
          .dropFirst(query.offset).prefix(query.limit ?? .max)
        let (results, _) = try await gateway.queryAll(Proto.query(query))
        #expect(results.compactMap(\.entity?.key) == expected.map { Proto.key($0.key) }, "\(query)")
        for (result, expected) in zip(results, expected) {
          let properties = result.entity?.properties ?? [:]
          let projected = query.projection.filter { $0 != Query.keyProperty }
          if query.isKeysOnly {
            #expect(properties.isEmpty)
          } else if projected.isEmpty {
            #expect(properties.keys == Proto.entity(expected.entity).properties.keys)
          } else {
            let wanted = zip(projected, expected.values).map { ($0.text, indexed($1).encoded()) }
            #expect(
              properties.mapValues { $0.encoded() }
                == Dictionary(wanted, uniquingKeysWith: { $1 }), "\(query)")
          }
        }
      }
    }
  }

  @Test(arguments: StoreKind.all)
  func everyKindIsFoundByKey(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(entity(key("B", 2)), entity(key("A", 1)), entity(key("B", 1)))
      try await gateway.put(entity(key("A", 7, namespace: "n")), entity(key("C", 1)))
      try await gateway.commit(.of(.delete(key("C", 1))))
      let batch = try await gateway.query(DatastoreV1.Query())
      #expect(batch.entityResults.map(\.entity?.key) == [key("A", 1), key("B", 1), key("B", 2)])
      let kinds = try await gateway.query(DatastoreV1.Query(kind: kind("__kind__")))
      #expect(
        kinds.entityResults.map(\.entity?.key?.path.last?.idType) == [.name("A"), .name("B")])
      let namespaces = try await gateway.query(DatastoreV1.Query(kind: kind("__namespace__")))
      #expect(
        namespaces.entityResults.map(\.entity?.key?.path.last?.idType) == [.id(1), .name("n")])
      #expect(
        try await gateway.query(DatastoreV1.Query(kind: kind("__Stat_Total__"))).entityResults
          == [])
    }
  }

  @Test(arguments: StoreKind.all)
  func propertiesAreToldWithTheirTypes(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(
        entity(
          key("K", 1),
          ["a": integer(1), "b": Proto.value(.array([.init(.string("x")), .init(.null)]))]),
        entity(key("K", 2), ["a": Proto.value(.double(0))]), entity(key("L", 1), ["c": integer(1)]))
      var query = DatastoreV1.Query(kind: kind("__property__"))
      func found() async throws -> [String: DatastoreV1.Value?] {
        let results = try await gateway.query(query).entityResults
        return Dictionary(
          results.map { result in
            let names = result.entity?.key?.path.map { element in
              if case .name(let name) = element.idType { name } else { "?" }
            }
            return (
              names?.joined(separator: ".") ?? "",
              result.entity?.properties["property_representation"]
            )
          }, uniquingKeysWith: { $1 })
      }
      func types(_ types: String...) -> DatastoreV1.Value {
        Proto.value(.array(types.map { PropertyContent(.string($0)) }))
      }
      #expect(
        try await found() == [
          "K.a": types("DOUBLE", "INT64"), "K.b": types("NULL", "STRING"), "L.c": types("INT64"),
        ])
      query.filter = Proto.filter(
        .hasAncestor(
          Key(
            partition: PartitionID(project: "p"),
            path: [PathElement(kind: "__kind__", identity: .name("L"))])))
      #expect(try await found().keys.sorted() == ["L.c"])
      query.projection = [
        DatastoreV1.Projection(property: DatastoreV1.PropertyReference(name: "__key__"))
      ]
      #expect(try await found() == ["L.c": nil])
    }
  }

  @Test(arguments: StoreKind.all)
  func aMaskLeavesOutProperties(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let inner = DatastoreV1.Value(
        valueType: .entityValue(DatastoreV1.Entity(properties: ["x": integer(1), "y": integer(2)])))
      try await gateway.put(entity(key("K", 1), ["a": integer(1), "b": integer(2), "e": inner]))
      let response = try await gateway.client.runQuery(
        DatastoreV1.RunQueryRequest(
          projectID: project, queryType: .query(DatastoreV1.Query(kind: kind("K"))),
          propertyMask: DatastoreV1.PropertyMask(paths: ["a", "e.y", "z"])))
      let properties = response.batch?.entityResults[0].entity?.properties
      #expect(properties?.keys.sorted() == ["a", "e"])
      guard case .entityValue(let part) = properties?["e"]?.valueType else {
        Issue.record("no entity")
        return
      }
      #expect(part.properties == ["y": integer(2)])
    }
  }

  @Test(arguments: StoreKind.all)
  func aTransactionThatQueriedEveryKindSeesThemUnchanged(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(entity(key("K", 1)))
      for other in [key("New", 1), key("K", 1, namespace: "n")] {
        let transaction = try await gateway.begin()
        _ = try await gateway.query(DatastoreV1.Query(), in: transaction)
        try await gateway.put(entity(other))
        let code = await status {
          _ = try await gateway.commit([.of(.upsert(entity(key("L", 1))))], in: transaction)
        }
        let isSeen = other.partitionID?.namespaceID == ""
        #expect(code == (isSeen ? .aborted : nil))
      }
    }
  }

  @Test(arguments: StoreKind.all)
  func aQueryIsExplained(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      for id in 1...5 as ClosedRange<Int64> {
        try await gateway.put(entity(key("K", id), ["a": integer(id)]))
      }
      var request = DatastoreV1.RunQueryRequest(
        projectID: project, queryType: .gqlQuery(gql("SELECT * FROM K WHERE a > 2")),
        explainOptions: DatastoreV1.ExplainOptions(analyze: false))
      let planned = try await gateway.client.runQuery(request)
      #expect(planned.batch == nil)
      #expect(planned.explainMetrics?.executionStats == nil)
      let index = planned.explainMetrics?.planSummary?.indexesUsed.first?.fields
      #expect(index?["properties"]?.kind == .stringValue("(a ASC, __name__ ASC)"))
      #expect(index?["query_scope"]?.kind == .stringValue("Collection group"))
      request.explainOptions?.analyze = true
      let run = try await gateway.client.runQuery(request)
      #expect(run.batch?.entityResults.count == 3)
      let stats = run.explainMetrics?.executionStats
      #expect(stats?.resultsReturned == 3)
      #expect(stats?.readOperations == 3)
      #expect(stats?.debugStats?.fields["index_entries_scanned"]?.kind == .stringValue("3"))
    }
  }

  @Test(
    arguments: ["two kinds", "IN without an array", "no operator", "find_nearest", "nothing"],
    StoreKind.all)
  func whatCannotBeAskedIsRefused(what: String, on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      var query = DatastoreV1.Query(kind: kind("K"))
      switch what {
      case "two kinds": query.kind += kind("L")
      case "IN without an array": query.filter = Proto.filter("a", .in, .integer(1))
      case "no operator": query.filter = Proto.filter("a", .unspecified, .integer(1))
      case "find_nearest": query.findNearest = DatastoreV1.FindNearest()
      default: break
      }
      let request = DatastoreV1.RunQueryRequest(
        projectID: project, queryType: what == "nothing" ? nil : .query(query))
      let code = await status { _ = try await gateway.client.runQuery(request) }
      #expect(code == (what == "find_nearest" ? .unimplemented : .invalidArgument))
    }
  }
}

@Suite struct WorkOfQueries {
  /// The numbers that explain tells of a query over 2,500 entities.
  private func stats(
    _ gateway: TestGateway, _ query: DatastoreV1.Query
  ) async throws -> (scanned: Int, loaded: Int, results: Int) {
    let response = try await gateway.client.runQuery(
      DatastoreV1.RunQueryRequest(
        projectID: project, queryType: .query(query),
        explainOptions: DatastoreV1.ExplainOptions(analyze: true)))
    return try Self.numbers(response.explainMetrics)
  }

  private func stats(
    _ gateway: TestGateway, _ gql: String
  ) async throws -> (scanned: Int, loaded: Int, results: Int) {
    let response = try await gateway.client.runAggregationQuery(
      DatastoreV1.RunAggregationQueryRequest(
        projectID: project,
        queryType: .gqlQuery(DatastoreV1.GqlQuery(queryString: gql, allowLiterals: true)),
        explainOptions: DatastoreV1.ExplainOptions(analyze: true)))
    return try Self.numbers(response.explainMetrics)
  }

  private static func numbers(
    _ metrics: DatastoreV1.ExplainMetrics?
  ) throws -> (scanned: Int, loaded: Int, results: Int) {
    let stats = try #require(metrics?.executionStats)
    func number(_ name: String) throws -> Int {
      guard case .stringValue(let text) = stats.debugStats?.fields[name]?.kind else { return -1 }
      return try #require(Int(text))
    }
    return (
      try number("index_entries_scanned"), try number("documents_scanned"),
      Int(stats.resultsReturned)
    )
  }

  @Test(arguments: StoreKind.all)
  func noQueryThatAnIndexServesScansTheKind(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      // Of each value more than are read and sorted.
      for begin in stride(from: 0, to: 2_500 as Int64, by: 500) {
        try await gateway.commit(
          (begin..<(begin + 500)).map {
            .of(
              .upsert(
                entity(key("K", $0 + 1), ["n": integer($0), "m": integer($0 % 2)])))
          })
      }
      for gql in ["SELECT SUM(n) FROM K", "SELECT AVG(n) FROM K WHERE m = 1"] {
        let sum = try await self.stats(gateway, gql)
        #expect(sum.loaded == 0, "\(gql)")
        #expect(sum.results == 1)
      }
      let count = try await self.stats(gateway, "SELECT COUNT(*) FROM K WHERE n < 10")
      #expect(count.scanned == 10 && count.loaded == 0)
      var distinct = DatastoreV1.Query(kind: kind("K"))
      distinct.projection = [
        DatastoreV1.Projection(property: DatastoreV1.PropertyReference(name: "m"))
      ]
      distinct.distinctOn = [DatastoreV1.PropertyReference(name: "m")]
      let values = try await self.stats(gateway, distinct)
      #expect(values.results == 2 && values.loaded == 0)
      // A few rows of each value, or over PostgreSQL a page of them.
      #expect(values.scanned < (store == .sqlite ? 40 : 1_400), "\(values)")
      var byKey = DatastoreV1.Query(kind: kind("K"))
      byKey.filter = Proto.filter("n", .lessThan, .integer(5))
      byKey.order = [
        DatastoreV1.PropertyOrder(
          property: DatastoreV1.PropertyReference(name: "__key__"), direction: .descending)
      ]
      let few = try await self.stats(gateway, byKey)
      #expect(few.results == 5 && few.scanned == 5 && few.loaded == 5)
      // Each row of the order is looked up among the equality's: what that costs is told.
      var probed = DatastoreV1.Query(kind: kind("K"))
      probed.filter = Proto.filter("m", .equal, .integer(0))
      probed.order = [
        DatastoreV1.PropertyOrder(
          property: DatastoreV1.PropertyReference(name: "n"), direction: .descending)
      ]
      probed.limit = GoogleProtobuf.Int32Value(value: 10)
      let every = try await self.stats(gateway, probed)
      #expect(every.results == 10 && every.scanned >= (store == .sqlite ? 20 : 10), "\(every)")
      // The few that an ancestor has are read, not all that the order has.
      var child = key("K", 1)
      child.path.append(DatastoreV1.Key.PathElement(kind: "K", idType: .id(7)))
      try await gateway.put(entity(child, ["n": integer(-1)]))
      var family = DatastoreV1.Query(kind: kind("K"))
      family.filter = DatastoreV1.Filter(
        filterType: .propertyFilter(
          DatastoreV1.PropertyFilter(
            property: DatastoreV1.PropertyReference(name: "__key__"), op: .hasAncestor,
            value: DatastoreV1.Value(valueType: .keyValue(key("K", 1))))))
      family.order = [
        DatastoreV1.PropertyOrder(
          property: DatastoreV1.PropertyReference(name: "n"), direction: .ascending)
      ]
      let children = try await self.stats(gateway, family)
      #expect(children.results == 2 && children.scanned == 2, "\(children)")
      let anything = try await self.stats(
        gateway,
        DatastoreV1.Query(limit: GoogleProtobuf.Int32Value(value: 3)))
      #expect(anything.results == 3 && anything.scanned <= 4)
    }
  }
}

@Suite struct GQLAndAggregationsThroughTheService {
  @Test(arguments: StoreKind.all)
  func aTextIsRunAndItsQueryTold(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      for id in 1...5 as ClosedRange<Int64> {
        try await gateway.put(entity(key("K", id), ["a": integer(id), "b": integer(id % 2)]))
      }
      let response = try await gateway.client.runQuery(
        DatastoreV1.RunQueryRequest(
          projectID: project,
          queryType: .gqlQuery(
            DatastoreV1.GqlQuery(
              queryString: "SELECT a FROM K WHERE b = @1 AND a >= @low ORDER BY a DESC LIMIT @2",
              namedBindings: [
                "low": DatastoreV1.GqlQueryParameter(parameterType: .value(integer(2)))
              ],
              positionalBindings: [
                DatastoreV1.GqlQueryParameter(parameterType: .value(integer(1))),
                DatastoreV1.GqlQueryParameter(parameterType: .value(integer(1))),
              ]))))
      #expect(response.batch?.entityResults.map(\.entity?.key) == [key("K", 5)])
      #expect(response.batch?.moreResults == .moreResultsAfterLimit)
      // The query that is told gives the same.
      let again = try await gateway.query(try #require(response.query))
      #expect(again.entityResults == response.batch?.entityResults)
    }
  }

  @Test(arguments: StoreKind.all)
  func resultsAreCountedAndSummed(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      for id in 1...5 as ClosedRange<Int64> {
        try await gateway.put(entity(key("K", id), ["a": integer(id)]))
      }
      let response = try await gateway.client.runAggregationQuery(
        DatastoreV1.RunAggregationQueryRequest(
          projectID: project,
          queryType: .gqlQuery(
            gql("SELECT COUNT(*), COUNT_UP_TO(2) AS few, SUM(a) AS s, AVG(a) FROM K WHERE a > 1"))))
      let result = try #require(response.batch?.aggregationResults.first)
      #expect(
        result.aggregateProperties == [
          "property_1": integer(4), "few": integer(2), "s": integer(14),
          "property_2": Proto.value(.double(3.5)),
        ])
      #expect(response.batch?.moreResults == .noMoreResults)
      let again = try await gateway.client.runAggregationQuery(
        DatastoreV1.RunAggregationQueryRequest(
          projectID: project,
          queryType: .aggregationQuery(try #require(response.query))))
      #expect(again.batch?.aggregationResults == response.batch?.aggregationResults)
    }
  }

  @Test(arguments: StoreKind.all)
  func aTransactionThatCountedIsAbortedIfTheNumberChanged(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let transaction = try await gateway.begin()
      _ = try await gateway.client.runAggregationQuery(
        DatastoreV1.RunAggregationQueryRequest(
          projectID: project,
          readOptions: DatastoreV1.ReadOptions(consistencyType: .transaction(transaction)),
          queryType: .gqlQuery(gql("SELECT COUNT(*) FROM K"))))
      try await gateway.put(entity(key("K", 1)))
      let code = await status {
        _ = try await gateway.commit([.of(.upsert(entity(key("L", 1))))], in: transaction)
      }
      #expect(code == .aborted)
    }
  }

  @Test(arguments: StoreKind.all)
  func whatIsNoQueryIsRefused(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let wrong = await #expect(throws: RPCError.self) {
        _ = try await gateway.client.runQuery(
          DatastoreV1.RunQueryRequest(
            projectID: project, queryType: .gqlQuery(gql("SELECT * FROM K WHERE a ! 1"))))
      }
      #expect(wrong?.code == .invalidArgument)
      #expect(wrong?.message.contains("line 1, column 25") ?? false)
      #expect(
        await status {
          _ = try await gateway.client.runQuery(
            DatastoreV1.RunQueryRequest(
              projectID: project, queryType: .gqlQuery(gql("SELECT COUNT(*) FROM K"))))
        } == .invalidArgument)
      #expect(
        await status {
          _ = try await gateway.client.runAggregationQuery(
            DatastoreV1.RunAggregationQueryRequest(
              projectID: project, queryType: .gqlQuery(gql("SELECT * FROM K"))))
        } == .invalidArgument)
    }
  }
}
