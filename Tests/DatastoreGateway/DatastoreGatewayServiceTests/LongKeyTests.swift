import BuildProtos
import DatastoreGatewayCore
import DatastoreGatewayService
import DatastoreGatewayTesting
import RPC
import Testing

@Suite struct LongKeys {
  private func named(_ name: String, kind: String = "K") -> DatastoreV1.Key {
    DatastoreV1.Key(
      partitionID: DatastoreV1.PartitionId(projectID: project),
      path: [
        DatastoreV1.Key.PathElement(
          kind: "Parent", idType: .name(String(repeating: "p", count: 700))),
        DatastoreV1.Key.PathElement(kind: kind, idType: .name(name)),
      ])
  }

  /// Keys, in order, of which many begin with the same 1,500 bytes.
  private func names() -> [String] {
    let long = String(repeating: "n", count: 1_400)
    return (0..<26).map { long + String(100 + $0) } + ["a", "b", "n", "nz", "z"]
  }

  @Test(arguments: StoreKind.all)
  func entitiesStandInTheOrderOfTheirWholeKeys(on store: StoreKind) async throws {
    try await withGateway(on: store) {
      $0.policy.maximumBatchResults = 7
    } _: { gateway in
      let names = self.names()
      for name in names.shuffled() {
        try await gateway.put(entity(self.named(name), ["v": integer(1), "w": integer(2)]))
      }
      let sorted = names.sorted().map { self.named($0) }
      var query = DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: "K")])
      #expect(try await gateway.queryAll(query).results.map { $0.entity?.key } == sorted)
      query.order = [
        DatastoreV1.PropertyOrder(
          property: DatastoreV1.PropertyReference(name: "__key__"), direction: .descending)
      ]
      #expect(try await gateway.queryAll(query).results.map { $0.entity?.key } == sorted.reversed())
      // From the middle of those that begin the same, among the rows of two values.
      query.filter = Proto.composite(
        .and,
        [
          Proto.filter("v", .equal, .integer(1)), Proto.filter("w", .equal, .integer(2)),
          DatastoreV1.Filter(
            filterType: .propertyFilter(
              DatastoreV1.PropertyFilter(
                property: DatastoreV1.PropertyReference(name: "__key__"), op: .greaterThan,
                value: DatastoreV1.Value(valueType: .keyValue(sorted[12]))))),
        ])
      query.order = []
      #expect(
        try await gateway.queryAll(query).results.map { $0.entity?.key } == Array(sorted[13...]))
      try await gateway.commit(sorted.map { .of(.delete($0)) })
      #expect(try await gateway.queryAll(query).results == [])
    }
  }

  @Test(arguments: StoreKind.all)
  func longValuesStandInTheOrderOfWhatTheyAre(on store: StoreKind) async throws {
    try await withGateway(on: store) {
      $0.policy.maximumBatchResults = 9
    } _: { gateway in
      let names = self.names()
      for (number, name) in names.enumerated().shuffled() {
        let value = DatastoreV1.Value(valueType: .keyValue(self.named(name, kind: "L")))
        try await gateway.put(entity(key("K", Int64(number + 1)), ["to": value]))
      }
      let expected = names.enumerated().sorted { $0.element < $1.element }
        .map { key("K", Int64($0.offset + 1)) }
      func order(
        _ direction: DatastoreV1.PropertyOrder.Direction
      ) -> [DatastoreV1.PropertyOrder] {
        [
          DatastoreV1.PropertyOrder(
            property: DatastoreV1.PropertyReference(name: "to"), direction: direction)
        ]
      }
      var query = DatastoreV1.Query(
        kind: [DatastoreV1.KindExpression(name: "K")], order: order(.ascending))
      #expect(try await gateway.queryAll(query).results.map { $0.entity?.key } == expected)
      query.order = order(.descending)
      #expect(
        try await gateway.queryAll(query).results.map { $0.entity?.key } == expected.reversed())
      let middle = names.sorted()[14]
      query.order = order(.ascending)
      query.filter = DatastoreV1.Filter(
        filterType: .propertyFilter(
          DatastoreV1.PropertyFilter(
            property: DatastoreV1.PropertyReference(name: "to"), op: .lessThan,
            value: DatastoreV1.Value(valueType: .keyValue(self.named(middle, kind: "L"))))))
      #expect(
        try await gateway.queryAll(query).results.map { $0.entity?.key } == Array(expected[..<14]))
      query.filter?.filterType = .propertyFilter(
        DatastoreV1.PropertyFilter(
          property: DatastoreV1.PropertyReference(name: "to"), op: .equal,
          value: DatastoreV1.Value(valueType: .keyValue(self.named(middle, kind: "L")))))
      #expect(try await gateway.queryAll(query).results.map { $0.entity?.key } == [expected[14]])
    }
  }
}
