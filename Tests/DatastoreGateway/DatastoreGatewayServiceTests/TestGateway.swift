import BuildProtos
import DatastoreGatewayCore
import DatastoreGatewayService
import Domain
import Glibc
import Logging
import NIOPosix
import RPC
import ServiceRuntime
import Synchronization

/// A folder of one test's own.
struct TestFolder: Sendable {
  let path: String

  init() throws {
    var template = Array("/tmp/millrace-gateway-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw RPCError(.internalError, "no folder in /tmp") }
    self.path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  var file: String { "\(self.path)/\(DatastoreGateway.fileName)" }

  func remove() {
    for suffix in ["", "-wal", "-shm"] { unlink(self.file + suffix) }
    rmdir(self.path)
  }
}

/// A clock that a test moves.
final class TestClock: Sendable {
  private let time = Mutex(Timestamp(microseconds: 1_700_000_000_000_000))

  var now: @Sendable () -> Timestamp { { self.time.withLock { $0 } } }

  func move(by duration: Duration) { self.time.withLock { $0 = $0 + duration } }
}

/// The gateway's calls over a store of one test's own, behind a real server and client.
struct TestGateway: Sendable {
  let client: DatastoreV1.DatastoreClient
  let store: SQLiteStore
  let registry: MetricsRegistry
  private let server: RPCServer
  private let channel: RPCChannel

  init(_ configuration: SQLiteStore.Configuration, clock: TestClock? = nil) async throws {
    let wall: @Sendable () -> Timestamp = { .now }
    let now = clock?.now ?? wall
    self.registry = MetricsRegistry()
    let metrics = Metrics(self.registry)
    self.store = try SQLiteStore(
      configuration, metrics: metrics, logger: quietLogger, clock: now)
    self.server = RPCServer(
      services: [
        DatastoreGateway.service(
          over: self.store, policy: configuration.policy, metrics: metrics, logger: quietLogger,
          clock: now)
      ])
    let address = try await self.server.listen(on: try ListenAddress("127.0.0.1:0"))
    self.channel = RPCChannel(to: address)
    self.client = DatastoreV1.DatastoreClient(self.channel)
  }

  func stop() async {
    await self.channel.close()
    await self.server.shutdown(grace: .zero)
  }
}

let quietLogger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

/// Gives a test a gateway over a new store, and removes both.
func withGateway(
  clock: TestClock? = nil, _ change: (inout SQLiteStore.Configuration) -> Void = { _ in },
  _ body: (TestGateway) async throws -> Void
) async throws {
  let folder = try TestFolder()
  defer { folder.remove() }
  var configuration = SQLiteStore.Configuration(path: folder.file)
  configuration.readers = 2
  change(&configuration)
  let gateway = try await TestGateway(configuration, clock: clock)
  do {
    try await body(gateway)
  } catch {
    await gateway.stop()
    throw error
  }
  await gateway.stop()
}

/// The status with which a call fails; `nil` if it does not.
func status(_ body: () async throws -> Void) async -> StatusCode? {
  do {
    try await body()
    return nil
  } catch let error as RPCError {
    return error.code
  } catch {
    return .unknown
  }
}

// MARK: - Requests

let project = "p"

func key(_ kind: String, _ id: Int64, namespace: String = "") -> DatastoreV1.Key {
  DatastoreV1.Key(
    partitionID: DatastoreV1.PartitionId(projectID: project, namespaceID: namespace),
    path: [DatastoreV1.Key.PathElement(kind: kind, idType: .id(id))])
}

func incompleteKey(_ kind: String) -> DatastoreV1.Key {
  DatastoreV1.Key(
    partitionID: DatastoreV1.PartitionId(projectID: project),
    path: [DatastoreV1.Key.PathElement(kind: kind)])
}

func integer(_ number: Int64) -> DatastoreV1.Value {
  DatastoreV1.Value(valueType: .integerValue(number))
}

func entity(
  _ key: DatastoreV1.Key, _ properties: [String: DatastoreV1.Value] = [:]
) -> DatastoreV1.Entity {
  DatastoreV1.Entity(key: key, properties: properties)
}

extension DatastoreV1.Mutation {
  static func of(
    _ operation: Operation, base: Int64? = nil, isStrict: Bool = false
  ) -> Self {
    Self(
      operation: operation, conflictDetectionStrategy: base.map { .baseVersion($0) },
      conflictResolutionStrategy: isStrict ? .fail : .strategyUnspecified)
  }
}

extension TestGateway {
  @discardableResult
  func commit(
    _ mutations: DatastoreV1.Mutation...
  ) async throws -> DatastoreV1.CommitResponse {
    try await self.commit(mutations)
  }

  @discardableResult
  func commit(
    _ mutations: [DatastoreV1.Mutation], in transaction: [UInt8]? = nil
  ) async throws -> DatastoreV1.CommitResponse {
    try await self.client.commit(
      DatastoreV1.CommitRequest(
        projectID: project, mode: transaction == nil ? .nonTransactional : .transactional,
        transactionSelector: transaction.map { .transaction($0) }, mutations: mutations))
  }

  @discardableResult
  func put(_ entities: DatastoreV1.Entity...) async throws -> DatastoreV1.CommitResponse {
    try await self.commit(entities.map { .of(.upsert($0)) })
  }

  func get(
    _ keys: DatastoreV1.Key..., in transaction: [UInt8]? = nil
  ) async throws -> DatastoreV1.LookupResponse {
    try await self.client.lookup(
      DatastoreV1.LookupRequest(
        projectID: project,
        readOptions: transaction.map {
          DatastoreV1.ReadOptions(consistencyType: .transaction($0))
        }, keys: keys))
  }

  func begin(isReadOnly: Bool = false) async throws -> [UInt8] {
    try await self.client.beginTransaction(
      DatastoreV1.BeginTransactionRequest(
        projectID: project,
        transactionOptions: isReadOnly
          ? DatastoreV1.TransactionOptions(mode: .readOnly(.init())) : nil)
    ).transaction
  }

  func query(
    _ query: DatastoreV1.Query, in transaction: [UInt8]? = nil
  ) async throws -> DatastoreV1.QueryResultBatch {
    try await self.client.runQuery(
      DatastoreV1.RunQueryRequest(
        projectID: project, partitionID: DatastoreV1.PartitionId(projectID: project),
        readOptions: transaction.map {
          DatastoreV1.ReadOptions(consistencyType: .transaction($0))
        }, queryType: .query(query))
    ).batch ?? DatastoreV1.QueryResultBatch()
  }

  /// All results, as Google's clients get them.
  func queryAll(
    _ query: DatastoreV1.Query
  ) async throws -> (results: [DatastoreV1.EntityResult], batches: Int) {
    var query = query
    var results: [DatastoreV1.EntityResult] = []
    var batches = 0
    while true {
      let batch = try await self.query(query)
      batches += 1
      results += batch.entityResults
      guard batch.moreResults == .notFinished else { return (results, batches) }
      query.startCursor = batch.endCursor
      query.offset -= batch.skippedResults
      if let limit = query.limit {
        query.limit = GoogleProtobuf.Int32Value(
          value: limit.value - Int32(batch.entityResults.count))
      }
    }
  }
}

// MARK: - From the core's values

enum Proto {
  static func key(_ key: Key) -> DatastoreV1.Key {
    DatastoreV1.Key(
      partitionID: DatastoreV1.PartitionId(
        projectID: key.partition.project.text, namespaceID: key.partition.namespace.text),
      path: key.path.map { element in
        let id: DatastoreV1.Key.PathElement.IdType? =
          switch element.identity {
          case .incomplete: nil
          case .id(let id): .id(id)
          case .name(let name): .name(name.text)
          }
        return DatastoreV1.Key.PathElement(kind: element.kind.text, idType: id)
      })
  }

  static func value(_ value: Value) -> DatastoreV1.Value {
    let type: DatastoreV1.Value.ValueType =
      switch value {
      case .null: .nullValue(.nullValue)
      case .boolean(let flag): .booleanValue(flag)
      case .integer(let number): .integerValue(number)
      case .double(let number): .doubleValue(number)
      case .timestamp(let time):
        // Small times only, as the random ones are.
        .timestampValue(
          time.microseconds < 0
            ? GoogleProtobuf.Timestamp(
              seconds: -1, nanos: Int32(1_000_000 + time.microseconds) * 1_000)
            : GoogleProtobuf.Timestamp(seconds: 0, nanos: Int32(time.microseconds) * 1_000))
      case .key(let key): .keyValue(self.key(key))
      case .string(let text): .stringValue(text)
      case .blob(let bytes): .blobValue(bytes)
      case .geoPoint(let latitude, let longitude):
        .geoPointValue(GoogleType.LatLng(latitude: latitude, longitude: longitude))
      case .entity(let properties):
        .entityValue(DatastoreV1.Entity(properties: self.properties(properties)))
      case .array(let elements):
        .arrayValue(DatastoreV1.ArrayValue(values: elements.map(self.content)))
      }
    return DatastoreV1.Value(valueType: type)
  }

  static func content(_ content: PropertyContent) -> DatastoreV1.Value {
    var value = self.value(content.value)
    value.excludeFromIndexes = !content.isIndexed
    return value
  }

  private static func properties(_ properties: [EntityProperty]) -> [String: DatastoreV1.Value] {
    Dictionary(uniqueKeysWithValues: properties.map { ($0.name.text, self.content($0.content)) })
  }

  static func entity(_ entity: Entity) -> DatastoreV1.Entity {
    DatastoreV1.Entity(
      key: self.key(entity.key), properties: self.properties(entity.properties))
  }

  static func query(_ query: Query) -> DatastoreV1.Query {
    var filters = query.filters.map { filter in
      self.filter(filter.property, self.operation(filter.comparison), filter.value)
    }
    if let ancestor = query.ancestor {
      filters.append(self.filter(Query.keyProperty, .hasAncestor, .key(ancestor)))
    }
    return DatastoreV1.Query(
      projection: query.isKeysOnly
        ? [DatastoreV1.Projection(property: DatastoreV1.PropertyReference(name: "__key__"))] : [],
      kind: [DatastoreV1.KindExpression(name: query.kind.text)],
      filter: filters.isEmpty
        ? nil
        : DatastoreV1.Filter(
          filterType: .compositeFilter(
            DatastoreV1.CompositeFilter(op: .and, filters: filters))),
      order: query.orders.map {
        DatastoreV1.PropertyOrder(
          property: DatastoreV1.PropertyReference(name: $0.property.text),
          direction: $0.isDescending ? .descending : .ascending)
      }, offset: Int32(query.offset),
      limit: query.limit.map { GoogleProtobuf.Int32Value(value: Int32($0)) })
  }

  static func filter(
    _ property: Name, _ operation: DatastoreV1.PropertyFilter.Operator, _ value: Value
  ) -> DatastoreV1.Filter {
    DatastoreV1.Filter(
      filterType: .propertyFilter(
        DatastoreV1.PropertyFilter(
          property: DatastoreV1.PropertyReference(name: property.text), op: operation,
          value: self.value(value))))
  }

  private static func operation(
    _ comparison: Query.Comparison
  ) -> DatastoreV1.PropertyFilter.Operator {
    switch comparison {
    case .equal: .equal
    case .lessThan: .lessThan
    case .lessThanOrEqual: .lessThanOrEqual
    case .greaterThan: .greaterThan
    case .greaterThanOrEqual: .greaterThanOrEqual
    }
  }
}
