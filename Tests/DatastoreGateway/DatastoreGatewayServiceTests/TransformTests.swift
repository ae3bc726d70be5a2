import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC
import Testing

private typealias Value = DatastoreV1.Value
private typealias Transform = DatastoreV1.PropertyTransform.TransformType

private func double(_ number: Double) -> DatastoreV1.Value {
  Value(valueType: .doubleValue(number))
}

private func list(_ values: DatastoreV1.Value...) -> DatastoreV1.Value {
  Value(valueType: .arrayValue(DatastoreV1.ArrayValue(values: values)))
}

private func text(_ text: String) -> DatastoreV1.Value { Value(valueType: .stringValue(text)) }

private func elements(_ values: DatastoreV1.Value...) -> DatastoreV1.ArrayValue {
  DatastoreV1.ArrayValue(values: values)
}

private let null = Value(valueType: .nullValue(.nullValue))

/// What Google's Firestore emulator in datastore mode answered to the same.
@Suite struct PropertyTransforms {
  struct Case: Sendable, CustomTestStringConvertible {
    var before: DatastoreV1.Value?
    var transform: DatastoreV1.PropertyTransform.TransformType
    var after: DatastoreV1.Value

    init(
      _ before: DatastoreV1.Value?, _ transform: DatastoreV1.PropertyTransform.TransformType,
      _ after: DatastoreV1.Value
    ) {
      self.before = before
      self.transform = transform
      self.after = after
    }

    var testDescription: String {
      "\(self.before?.valueType.map { "\($0)" } ?? "nothing"), \(self.transform)"
    }
  }

  static let numbers = [
    Case(integer(1), .increment(integer(5)), integer(6)),
    Case(integer(1), .increment(double(0.5)), double(1.5)),
    Case(double(1.5), .increment(integer(2)), double(3.5)),
    Case(nil, .increment(integer(2)), integer(2)),
    Case(text("x"), .increment(integer(2)), integer(2)),
    Case(list(integer(1)), .increment(integer(2)), integer(2)),
    Case(integer(1), .increment(integer(.max)), integer(.max)),
    Case(integer(-5), .increment(integer(.min)), integer(.min)),
    Case(integer(1), .maximum(integer(5)), integer(5)),
    Case(integer(1), .maximum(integer(-5)), integer(1)),
    Case(integer(1), .maximum(double(1)), integer(1)),
    Case(double(1), .maximum(integer(1)), double(1)),
    Case(double(1.5), .maximum(integer(2)), integer(2)),
    Case(nil, .maximum(integer(2)), integer(2)),
    Case(text("x"), .minimum(integer(2)), integer(2)),
    Case(integer(1), .minimum(integer(-5)), integer(-5)),
    Case(integer(-5), .minimum(integer(1)), integer(-5)),
    Case(integer(1), .minimum(double(0.5)), double(0.5)),
    // No double holds either of them.
    Case(integer(.max - 1), .maximum(integer(.max)), integer(.max)),
    Case(integer(.max), .maximum(double(0x1p63)), double(0x1p63)),
    Case(integer(.min), .minimum(double(-0x1p63)), integer(.min)),
  ]

  static let arrays = [
    Case(
      list(integer(1), integer(2), integer(2)),
      .appendMissingElements(elements(integer(2), integer(3), integer(3), text("x"))),
      list(integer(1), integer(2), integer(2), integer(3), text("x"))),
    Case(
      list(integer(1), integer(2)), .appendMissingElements(elements(double(2), double(1))),
      list(integer(1), integer(2))),
    Case(
      nil, .appendMissingElements(elements(integer(2), integer(2), integer(3))),
      list(integer(2), integer(3))),
    Case(integer(1), .appendMissingElements(elements(integer(2))), list(integer(2))),
    Case(list(null), .appendMissingElements(elements(null, text(""))), list(null, text(""))),
    Case(
      list(integer(1), integer(2), integer(2)), .removeAllFromArray(elements(double(2))),
      list(integer(1))),
    Case(nil, .removeAllFromArray(elements(integer(2))), list()),
    Case(integer(1), .removeAllFromArray(elements(integer(2))), list()),
    Case(
      list(integer(1), integer(2)), .removeAllFromArray(elements(integer(1), integer(2))), list()),
  ]

  /// The property afterwards, and the answer.
  private func applied(
    _ example: Case, to gateway: TestGateway
  ) async throws -> (DatastoreV1.Value?, [DatastoreV1.Value]) {
    var properties = ["other": integer(0)]
    properties["a"] = example.before
    try await gateway.put(entity(key("K", 1), properties))
    let answer = try await gateway.commit(
      DatastoreV1.Mutation(
        operation: .update(entity(key("K", 1))), propertyMask: DatastoreV1.PropertyMask(),
        propertyTransforms: [
          DatastoreV1.PropertyTransform(property: "a", transformType: example.transform)
        ]))
    let after = try await gateway.get(key("K", 1)).found[0].entity?.properties ?? [:]
    #expect(after["other"] == integer(0))
    return (after["a"], answer.mutationResults[0].transformResults)
  }

  @Test(arguments: StoreKind.all)
  func whatIsTooMuchIsRefused(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      func commit(_ paths: [String]) async -> StatusCode? {
        await status {
          _ = try await gateway.commit(
            DatastoreV1.Mutation(
              operation: .upsert(entity(key("K", 1))),
              propertyTransforms: paths.map {
                DatastoreV1.PropertyTransform(
                  property: $0, transformType: .setToServerValue(.requestTime))
              }))
        }
      }
      #expect(await commit((0...500).map { "p\($0)" }) == .invalidArgument)
      let deep = Array(repeating: "a", count: 50_000).joined(separator: ".")
      #expect(await commit([deep]) == .invalidArgument)
      #expect(await commit((0..<500).map { "p\($0)" }) == nil)
    }
  }

  @Test(arguments: numbers, StoreKind.all)
  func aNumberIsReckonedFromWhatIsStored(example: Case, on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let (value, results) = try await self.applied(example, to: gateway)
      #expect(value == example.after)
      #expect(results == [example.after])
    }
  }

  @Test(arguments: arrays, StoreKind.all)
  func anArrayGetsAndLosesElements(example: Case, on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let (value, results) = try await self.applied(example, to: gateway)
      #expect(value == example.after)
      #expect(results == [null])
    }
  }

  @Test(arguments: StoreKind.all)
  func notANumberWins(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      for example in [
        Case(double(.nan), .maximum(integer(1)), null),
        Case(double(.nan), .increment(integer(1)), null),
        Case(integer(1), .minimum(double(.nan)), null),
        Case(integer(1), .maximum(double(.nan)), null),
      ] {
        let (value, _) = try await self.applied(example, to: gateway)
        guard case .doubleValue(let number) = value?.valueType else {
          Issue.record("no double after \(example.testDescription)")
          continue
        }
        #expect(number.isNaN)
      }
    }
  }

  @Test func theTimeOfTheCommitHasMilliseconds() async throws {
    let clock = TestClock()
    clock.move(by: .microseconds(123_456))
    try await withGateway(clock: clock) { gateway in
      let answer = try await gateway.commit(
        DatastoreV1.Mutation(
          operation: .insert(entity(key("K", 1))),
          propertyTransforms: [
            DatastoreV1.PropertyTransform(
              property: "e.t", transformType: .setToServerValue(.requestTime))
          ]))
      let expected = Value(
        valueType: .timestampValue(
          GoogleProtobuf.Timestamp(
            seconds: answer.commitTime?.seconds ?? 0, nanos: 123_000_000)))
      #expect(answer.mutationResults[0].transformResults == [expected])
      #expect(
        try await gateway.get(key("K", 1)).found[0].entity?.properties["e"]
          == Value(
            valueType: .entityValue(DatastoreV1.Entity(properties: ["t": expected]))))
    }
  }

  @Test(arguments: StoreKind.all)
  func withoutAMaskTransformsComeAfterTheWholeEntity(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await gateway.put(entity(key("K", 1), ["a": integer(1), "b": integer(1)]))
      let answer = try await gateway.commit(
        DatastoreV1.Mutation(
          operation: .upsert(entity(key("K", 1), ["a": integer(50)])),
          propertyTransforms: [
            DatastoreV1.PropertyTransform(property: "a", transformType: .increment(integer(2))),
            DatastoreV1.PropertyTransform(property: "a", transformType: .increment(integer(3))),
          ]))
      #expect(answer.mutationResults[0].transformResults == [integer(52), integer(55)])
      #expect(
        try await gateway.get(key("K", 1)).found[0].entity?.properties == ["a": integer(55)])
    }
  }

  @Test(arguments: StoreKind.all)
  func incrementsOfManyCallersAddUp(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<50 {
          group.addTask {
            try await gateway.commit(
              DatastoreV1.Mutation(
                operation: .upsert(entity(key("K", 1))),
                propertyMask: DatastoreV1.PropertyMask(),
                propertyTransforms: [
                  DatastoreV1.PropertyTransform(
                    property: "n", transformType: .increment(integer(1)))
                ]))
          }
        }
        try await group.waitForAll()
      }
      #expect(
        try await gateway.get(key("K", 1)).found[0].entity?.properties == ["n": integer(50)])
    }
  }

  @Test(arguments: StoreKind.all)
  func whatIsNoTransformIsRefused(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let impossible: [DatastoreV1.PropertyTransform] = [
        DatastoreV1.PropertyTransform(property: "a"),
        DatastoreV1.PropertyTransform(property: "", transformType: .increment(integer(1))),
        DatastoreV1.PropertyTransform(
          property: "__key__", transformType: .increment(integer(1))),
        DatastoreV1.PropertyTransform(property: "a", transformType: .increment(text("x"))),
        DatastoreV1.PropertyTransform(property: "a", transformType: .maximum(Value())),
        DatastoreV1.PropertyTransform(
          property: "a", transformType: .setToServerValue(.unspecified)),
        // An array in an array, found when all is reckoned.
        DatastoreV1.PropertyTransform(
          property: "a", transformType: .appendMissingElements(elements(list()))),
      ]
      let nested = await status {
        try await gateway.commit(
          DatastoreV1.Mutation(
            operation: .upsert(entity(key("K", 1))),
            propertyTransforms: [
              DatastoreV1.PropertyTransform(
                property: "a.x", transformType: .increment(integer(1))),
              DatastoreV1.PropertyTransform(
                property: "a", transformType: .increment(integer(1))),
            ]))
      }
      #expect(nested == .invalidArgument)
      for transform in impossible {
        let code = await status {
          try await gateway.commit(
            DatastoreV1.Mutation(
              operation: .upsert(entity(key("K", 1))), propertyTransforms: [transform]))
        }
        #expect(code == .invalidArgument, "\(transform)")
      }
      let found = try await gateway.get(key("K", 1)).found
      #expect(found == [])
      let code = await status {
        try await gateway.commit(
          DatastoreV1.Mutation(
            operation: .delete(key("K", 1)),
            propertyTransforms: [
              DatastoreV1.PropertyTransform(
                property: "a", transformType: .increment(integer(1)))
            ]))
      }
      #expect(code == .invalidArgument)
    }
  }

  @Test(arguments: StoreKind.all)
  func aStrategyNeedsSomethingToDetect(on store: StoreKind) async throws {
    try await withGateway(on: store) { gateway in
      let code = await status {
        try await gateway.commit(.of(.upsert(entity(key("K", 1))), isStrict: true))
      }
      #expect(code == .invalidArgument)
    }
  }
}
