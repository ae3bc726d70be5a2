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
  let store: any EntityStore
  let address: ListenAddress
  private let server: RPCServer
  private let channel: RPCChannel

  init(
    over store: any EntityStore, policy: Policy = Policy(),
    clock: @escaping @Sendable () -> Timestamp = { .now }
  ) async throws {
    self.store = store
    self.server = RPCServer(
      services: [
        DatastoreGateway.service(
          over: store, policy: policy, metrics: Metrics(MetricsRegistry()), logger: quietLogger,
          clock: clock)
      ])
    self.address = try await self.server.listen(on: try ListenAddress("127.0.0.1:0"))
    self.channel = RPCChannel(to: self.address)
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
  on kind: StoreKind = .sqlite, clock: TestClock? = nil,
  _ change: (inout StoreSettings) -> Void = { _ in }, _ body: (TestGateway) async throws -> Void
) async throws {
  let wall: @Sendable () -> Timestamp = { .now }
  let now = clock?.now ?? wall
  var settings = StoreSettings()
  change(&settings)
  func run(_ store: any EntityStore) async throws {
    let gateway = try await TestGateway(over: store, policy: settings.policy, clock: now)
    do {
      try await body(gateway)
    } catch {
      await gateway.stop()
      throw error
    }
    await gateway.stop()
  }
  switch kind {
  case .sqlite:
    let folder = try TestFolder()
    defer { folder.remove() }
    var configuration = SQLiteStore.Configuration(path: folder.file)
    configuration.readers = settings.readers
    configuration.policy = settings.policy
    configuration.pastBytes = settings.pastBytes
    try await run(
      SQLiteStore(
        configuration, metrics: Metrics(MetricsRegistry()), logger: quietLogger, clock: now))
  case .postgres:
    try await withDatabase { database in
      var configuration = PostgresStore.Configuration(try database.address)
      configuration.readers = settings.readers
      configuration.policy = settings.policy
      configuration.pastBytes = settings.pastBytes
      try await run(
        PostgresStore(
          configuration, metrics: Metrics(MetricsRegistry()), logger: quietLogger, clock: now))
    }
  }
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

  func rollBack(_ transaction: [UInt8]) async throws {
    _ = try await self.client.rollback(
      DatastoreV1.RollbackRequest(projectID: project, transaction: transaction))
  }

  func query(
    _ query: DatastoreV1.Query, in transaction: [UInt8]? = nil, namespace: String = ""
  ) async throws -> DatastoreV1.QueryResultBatch {
    try await self.client.runQuery(
      DatastoreV1.RunQueryRequest(
        projectID: project,
        partitionID: DatastoreV1.PartitionId(projectID: project, namespaceID: namespace),
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
