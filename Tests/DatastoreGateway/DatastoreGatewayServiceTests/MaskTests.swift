import BuildProtos
import DatastoreGatewayCore
import RPC
import Testing

private func inner(_ properties: [String: DatastoreV1.Value]) -> DatastoreV1.Value {
  DatastoreV1.Value(valueType: .entityValue(DatastoreV1.Entity(properties: properties)))
}

private func mask(_ paths: [String]) -> DatastoreV1.PropertyMask {
  DatastoreV1.PropertyMask(paths: paths)
}

private let stored = [
  "a": integer(1), "b": integer(2), "e": inner(["x": integer(1), "y": integer(2)]),
]

/// What Google's Firestore emulator in datastore mode answered to the same.
@Suite struct PropertyMasks {
  struct Case: Sendable, CustomTestStringConvertible {
    var paths: [String]
    var sent: [String: DatastoreV1.Value]
    /// What differs from what was stored; `nil` is removed.
    var changes: [String: DatastoreV1.Value?]

    var testDescription: String { self.paths.joined(separator: " ") }
  }

  static let cases = [
    Case(paths: ["a"], sent: ["a": integer(10), "c": integer(3)], changes: ["a": integer(10)]),
    Case(paths: ["b"], sent: ["a": integer(10)], changes: ["b": nil]),
    Case(
      paths: ["e.x"], sent: ["e": inner(["x": integer(9), "z": integer(8)])],
      changes: ["e": inner(["x": integer(9), "y": integer(2)])]),
    Case(
      paths: ["e.x"], sent: ["e": inner(["z": integer(8)])],
      changes: ["e": inner(["y": integer(2)])]),
    Case(paths: ["e.x"], sent: [:], changes: ["e": inner(["y": integer(2)])]),
    Case(
      paths: ["a.x"], sent: ["a": inner(["x": integer(8)])],
      changes: ["a": inner(["x": integer(8)])]),
    Case(
      paths: ["q.x.y"],
      sent: ["q": inner(["x": inner(["y": integer(1), "z": integer(2)])])],
      changes: ["q": inner(["x": inner(["y": integer(1)])])]),
    Case(paths: ["q.x"], sent: [:], changes: [:]),
    Case(paths: ["b.c"], sent: ["a": integer(3)], changes: [:]),
    Case(
      paths: ["e", "e.x"], sent: ["e": inner(["x": integer(5), "w": integer(6)])],
      changes: ["e": inner(["x": integer(5), "w": integer(6)])]),
    Case(paths: [], sent: ["a": integer(3)], changes: [:]),
    Case(paths: ["__key__"], sent: ["a": integer(3)], changes: [:]),
    Case(paths: ["`a.b`"], sent: ["a.b": integer(3)], changes: ["a.b": integer(3)]),
  ]

  @Test(arguments: cases, StoreKind.all)
  func aMutationWritesWhatItsMaskNames(example: Case, on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let first = try await gateway.put(entity(key("K", 1), stored)).mutationResults[0]
      let answer = try await gateway.commit(
        DatastoreV1.Mutation(
          operation: .update(entity(key("K", 1), example.sent)),
          propertyMask: mask(example.paths)))
      var expected = stored
      for (name, value) in example.changes { expected[name] = value }
      let found = try await gateway.get(key("K", 1)).found[0]
      #expect(found.entity?.properties == expected)
      // What changes nothing leaves the version.
      #expect((answer.mutationResults[0].version == first.version) == example.changes.isEmpty)
    }
  }

  @Test(arguments: StoreKind.all)
  func aNewEntityHasWhatTheMaskNames(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let properties = ["a": integer(1), "b": integer(2)]
      try await gateway.commit(
        DatastoreV1.Mutation(
          operation: .insert(entity(key("K", 1), properties)), propertyMask: mask(["a"])),
        DatastoreV1.Mutation(
          operation: .upsert(entity(key("K", 2), properties)), propertyMask: mask(["b"])))
      let found = try await gateway.get(key("K", 1), key("K", 2)).found
      #expect(
        found.map(\.entity?.properties) == [["a": integer(1)], ["b": integer(2)]])
      // Indexes have what was written, not what was sent.
      let query = DatastoreV1.Query(
        kind: [DatastoreV1.KindExpression(name: "K")],
        order: [
          DatastoreV1.PropertyOrder(property: DatastoreV1.PropertyReference(name: "b"))
        ])
      #expect(try await gateway.query(query).entityResults.map(\.entity?.key) == [key("K", 2)])
      // A deletion takes no notice.
      try await gateway.commit(
        DatastoreV1.Mutation(operation: .delete(key("K", 1)), propertyMask: mask(["a"])))
      #expect(try await gateway.get(key("K", 1)).found == [])
    }
  }

  @Test(arguments: StoreKind.all)
  func mutationsOfOneEntityBuildOnEachOther(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let answer = try await gateway.commit(
        [
          .of(.insert(entity(key("K", 1), ["a": integer(1), "z": integer(0)]))),
          DatastoreV1.Mutation(
            operation: .update(entity(key("K", 1), ["a": integer(2)])),
            propertyMask: mask(["a"])),
          DatastoreV1.Mutation(
            operation: .upsert(entity(key("K", 1), ["b": integer(3)])),
            propertyMask: mask(["b"]),
            propertyTransforms: [
              DatastoreV1.PropertyTransform(
                property: "a", transformType: .increment(integer(5)))
            ]),
        ], in: try await gateway.begin())
      #expect(answer.mutationResults[2].transformResults == [integer(7)])
      #expect(
        try await gateway.get(key("K", 1)).found[0].entity?.properties
          == ["a": integer(7), "b": integer(3), "z": integer(0)])
      let again = try await gateway.commit(
        [
          .of(.delete(key("K", 1))),
          DatastoreV1.Mutation(
            operation: .insert(entity(key("K", 1), ["a": integer(2), "b": integer(2)])),
            propertyMask: mask(["a"])),
        ], in: try await gateway.begin())
      #expect(again.mutationResults.count == 2)
      #expect(
        try await gateway.get(key("K", 1)).found[0].entity?.properties == ["a": integer(2)])
    }
  }

  static let reads: [([String], Set<String>)] = [
    (["a"], ["a"]), (["e.x"], ["e"]), (["e.zz"], []), (["__key__"], []), ([], []),
    (["zz"], []), (["`a`", "b"], ["a", "b"]),
  ]

  @Test(arguments: reads)
  func aReadGivesWhatItsMaskNames(paths: [String], names: Set<String>) async throws {
    try await withGateway { gateway in
      try await gateway.put(entity(key("K", 1), stored))
      let found = try await gateway.client.lookup(
        DatastoreV1.LookupRequest(
          projectID: project, keys: [key("K", 1)], propertyMask: mask(paths))
      ).found[0]
      #expect(found.entity?.key == key("K", 1))
      #expect(Set(found.entity?.properties.keys ?? [:].keys) == names)
      if paths == ["e.x"] {
        #expect(found.entity?.properties["e"] == inner(["x": integer(1)]))
      }
      let queried = try await gateway.client.runQuery(
        DatastoreV1.RunQueryRequest(
          projectID: project,
          queryType: .query(
            DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: "K")])),
          propertyMask: mask(paths))
      ).batch?.entityResults[0]
      #expect(queried?.entity == found.entity)
    }
  }

  @Test(arguments: ["", "a..b", "a b", "__x__"])
  func aMaskThatNamesNothingPossibleIsRefused(path: String) async throws {
    try await withGateway { gateway in
      let codes = [
        await status {
          _ = try await gateway.client.lookup(
            DatastoreV1.LookupRequest(
              projectID: project, keys: [key("K", 1)], propertyMask: mask([path])))
        },
        await status {
          try await gateway.commit(
            DatastoreV1.Mutation(
              operation: .upsert(entity(key("K", 1))), propertyMask: mask([path])))
        },
      ]
      #expect(codes == [.invalidArgument, .invalidArgument])
    }
  }

  @Test func pathsAreCountedBeforeTheyAreRead() async throws {
    try await withGateway { policy in
      policy.policy.maximumMaskPaths = 3
      policy.policy.maximumCommitMaskPaths = 5
    } _: { gateway in
      func commit(_ counts: Int...) async -> StatusCode? {
        await status {
          try await gateway.commit(
            counts.enumerated().map { number, count in
              DatastoreV1.Mutation(
                operation: .upsert(entity(key("K", Int64(number + 1)))),
                propertyMask: mask((0..<count).map { "p\($0)" }))
            }, in: try await gateway.begin())
        }
      }
      let codes = [await commit(3, 2), await commit(4), await commit(3, 3)]
      #expect(codes == [nil, .invalidArgument, .invalidArgument])
    }
  }

  @Test(arguments: StoreKind.all)
  func aProjectionHasNoMask(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let code = await status {
        _ = try await gateway.client.runQuery(
          DatastoreV1.RunQueryRequest(
            projectID: project,
            queryType: .query(
              DatastoreV1.Query(
                projection: [
                  DatastoreV1.Projection(property: DatastoreV1.PropertyReference(name: "b"))
                ], kind: [DatastoreV1.KindExpression(name: "K")])),
            propertyMask: mask(["a"])))
      }
      #expect(code == .invalidArgument)
    }
  }
}
