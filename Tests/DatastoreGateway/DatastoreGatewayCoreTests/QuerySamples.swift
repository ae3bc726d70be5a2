import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

typealias Filter = Query.Filter
typealias Order = Query.Order

/// Of the kind `K`, with filters that hold together.
func query(
  _ filters: [Query.Filter] = [], _ orders: [Query.Order] = [], ancestor: Key? = nil
) -> Query {
  var parts = filters.map { Query.Condition.filter($0) }
  if let ancestor { parts.append(.hasAncestor(ancestor)) }
  return query(parts.isEmpty ? nil : .all(parts), orders)
}

func query(_ condition: Query.Condition?, _ orders: [Query.Order] = []) -> Query {
  Query(partition: partition, kind: "K", condition: condition, orders: orders)
}

func query(
  projecting projection: [Name], distinctOn: [Name] = [], _ condition: Query.Condition? = nil,
  _ orders: [Query.Order] = []
) -> Query {
  Query(
    partition: partition, kind: "K", condition: condition, orders: orders,
    projection: projection, distinctOn: distinctOn)
}

/// One result as tests compare it.
struct Found: Equatable, CustomStringConvertible {
  var key: Key
  /// What orders it.
  var position: [[UInt8]?]
  /// The projected values, in byte order.
  var values: [[UInt8]?]

  var description: String { "\(self.key)\(self.values)" }
}

/// All results, read in batches of which each goes on from the cursor of the one before.
func found(
  _ query: Query, on entities: [Entity], policy: Policy = Policy()
) throws -> [Found] {
  try found(query, on: MemoryIndexes(entities), policy: policy)
}

func found<Indexes: EntityIndexes>(
  _ query: Query, on indexes: Indexes, policy: Policy
) throws -> [Found] where Indexes.Index.Failure == Never {
  var query = query
  var found: [Found] = []
  while true {
    let resolved = try ResolvedQuery(query, policy: policy)
    let batch = QueryRun(resolved, on: indexes, policy: policy).batch()
    for result in batch.results {
      let key = Key(partition: query.partition, path: try result.position.path.elements())
      found.append(
        Found(
          key: key, position: result.position.values,
          values: result.properties.map { $0.content.value.orderedBytes }))
    }
    query.offset -= batch.skipped
    query.limit? -= batch.results.count
    guard batch.rest == .notFinished else { return found }
    query.start = resolved.cursor(after: try #require(batch.endPosition))
  }
}

func run(_ query: Query, on entities: [Entity], policy: Policy = Policy()) throws -> [Key] {
  try found(query, on: entities, policy: policy).map(\.key)
}

func expected(_ query: Query, on entities: [Entity]) -> [Found] {
  ReferenceQuery.results(of: query, in: entities).map {
    Found(
      key: $0.key, position: $0.place.map(\.orderedBytes),
      values: $0.values.map(\.orderedBytes))
  }
}

func ids(_ keys: [Key]) -> [Int64] {
  keys.compactMap { if case .id(let id)? = $0.path.last?.identity { id } else { nil } }
}
