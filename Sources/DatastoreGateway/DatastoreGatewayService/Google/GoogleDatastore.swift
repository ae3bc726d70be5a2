import BuildProtos
import DatastoreGatewayCore
import Logging
import NIOCore
import RPC
import ServiceRuntime
import Synchronization

/// Google Cloud Datastore as the gateway's store: calls are handed on as they are, with the store's
/// project and database in place of the caller's.
///
/// What can be done twice is tried again as Google's page of error codes has it
/// (https://cloud.google.com/datastore/docs/concepts/errors): UNAVAILABLE and RESOURCE_EXHAUSTED with
/// a backoff that grows, and ABORTED for a commit without a transaction. Commits of transactions, and
/// those that would do something else the second time, are made once.
package final class GoogleDatastore: ServedStore {
  package struct Configuration: Sendable {
    package var address: GoogleAddress
    /// Where credentials are looked for.
    package var environment: [String: String] = [:]
    /// Calls under way; one more is refused. Each holds its request and its answer in memory.
    package var maximumCalls = 1_000
    /// How long a call may take whose caller names no deadline: as Google's own clients have it.
    package var timeout = Duration.seconds(60)
    /// Queries that take longer are logged.
    package var slowQuery = Duration.milliseconds(500)

    package init(_ address: GoogleAddress) {
      self.address = address
    }
  }

  let configuration: Configuration
  private let metrics: Metrics
  private let logger: Logger
  private let tokens: AccessTokens?
  /// For what can be done twice, and for what cannot.
  private let repeating: RPCChannel
  private let once: RPCChannel
  private let calls = Atomic(0)

  private static let service = "google.datastore.v1.Datastore"
  /// Google's answers have no bound of their own; one batch of a query stays far below this.
  private static let maximumResponseBytes = 64 << 20
  /// How long a refused call should wait: about one call's time.
  private static let retryDelay = Duration.milliseconds(100)

  /// - Throws: `StoreFailure`: the credentials are none, or the token's server refuses them.
  package init(
    _ configuration: Configuration, metrics: Metrics, logger: Logger, group: any EventLoopGroup
  ) async throws {
    self.configuration = configuration
    self.metrics = metrics
    self.logger = logger
    let address = configuration.address
    var once = RPCChannel.Configuration.toService
    // Google allows a ping in half a minute.
    once.keepalive = Keepalive(interval: .seconds(60), timeout: .seconds(20))
    // One connection to each address of the name: a connection takes a hundred calls at a time.
    once.loadBalancing = .roundRobin
    once.maximumWaitingCalls = configuration.maximumCalls
    if address.isSecure {
      let trustRoots = address.authority.map { ClientTLS.TrustRoots.file($0) } ?? .system
      do throws(TokenSource.Failure) {
        let tokens = AccessTokens(
          TokenSource(
            identity: try .find(
              file: address.credentials, environment: configuration.environment),
            http: HTTPExchange(group: group, trustRoots: trustRoots)))
        self.tokens = tokens
        once.interceptors = [tokens]
      } catch {
        throw StoreFailure(.refused, "\(address): \(error)")
      }
      once.tls = ClientTLS(trustRoots: trustRoots)
    } else {
      self.tokens = nil
    }
    var repeating = once
    repeating.serviceConfig = Self.retries
    do {
      self.once = try RPCChannel(to: address.endpoint, configuration: once, group: group)
      self.repeating = try RPCChannel(to: address.endpoint, configuration: repeating, group: group)
    } catch {
      throw StoreFailure(.other, "\(address): \(error)")
    }
    try await self.checkCredentials()
  }

  /// A key that is refused is told at once; a server that is out of reach may come back.
  private func checkCredentials() async throws {
    do {
      _ = try await self.tokens?.token()
    } catch let error as RPCError where error.code == .unauthenticated {
      await self.close()
      throw StoreFailure(.refused, "\(self.configuration.address): \(error.message)")
    } catch is RPCError {}
  }

  package func close() async {
    await self.once.close()
    await self.repeating.close()
  }

  private static let retries = ServiceConfig(
    methods: [
      MethodConfig(
        names: [.init(service: GoogleDatastore.service)],
        resilience: .retry(
          RetryPolicy(
            maximumAttempts: 5, initialBackoff: .milliseconds(100), maximumBackoff: .seconds(5),
            backoffMultiplier: 2, retryableCodes: [.unavailable, .resourceExhausted]))),
      MethodConfig(
        names: [.init(service: GoogleDatastore.service, method: "Commit")],
        resilience: .retry(
          RetryPolicy(
            maximumAttempts: 5, initialBackoff: .milliseconds(100), maximumBackoff: .seconds(5),
            backoffMultiplier: 2, retryableCodes: [.unavailable, .resourceExhausted, .aborted]))),
    ],
    // A Datastore that is down is not hit five times as hard.
    retryThrottling: RetryThrottling(maximumTokens: 100, tokenRatio: 0.1))

  // MARK: - The store

  package var trouble: StoreFailure? { nil }
  package func probe() async {}
  /// Calls under way are the server's, which waits for them.
  package func drain() async {}

  package func register(_ registry: MetricsRegistry) {
    registry.gauge("millrace_gateway_open_calls", help: "Calls to Google under way.") {
      Double(self.calls.load(ordering: .relaxed))
    }
  }

  // MARK: - Handing on

  /// Makes a call to Google within the bounds.
  private func handOn<Answer>(
    _ method: String, isRepeatable: Bool = true,
    _ body: (DatastoreV1.DatastoreClient, CallOptions) async throws -> Answer
  ) async throws -> Answer {
    try await self.metrics.counted(method) {
      let limit = self.configuration.maximumCalls
      guard self.calls.add(1, ordering: .relaxed).oldValue < limit else {
        self.calls.subtract(1, ordering: .relaxed)
        throw GatewayError.overloaded(
          what: "calls to Google", limit: "\(limit) calls", retryDelay: Self.retryDelay)
      }
      defer { self.calls.subtract(1, ordering: .relaxed) }
      let client = DatastoreV1.DatastoreClient(isRepeatable ? self.repeating : self.once)
      do {
        return try await body(client, self.options)
      } catch let error as RPCError where error.code == .unauthenticated && self.tokens != nil {
        // The token ended before its time. Nothing was done; another one is fetched.
        return try await body(client, self.options)
      }
    }
  }

  /// For what can be done twice, from within the gateway itself.
  var client: DatastoreV1.DatastoreClient { DatastoreV1.DatastoreClient(self.repeating) }

  /// What every call is made with.
  var options: CallOptions {
    let address = self.configuration.address
    // Google's front ends find the database by it.
    let place =
      "project_id=\(address.project.percentEncoded)&database_id=\(address.database.percentEncoded)"
    return CallOptions(
      timeout: self.configuration.timeout, metadata: ["x-goog-request-params": place],
      maximumResponseBytes: Self.maximumResponseBytes)
  }

  /// Puts the store's project and database into a request, and gives the way from the caller's.
  ///
  /// - Throws: The caller names a place that is not this store's: its entities would get among others'.
  private func enter(
    _ project: inout String, _ database: inout String
  ) throws(RPCError) -> ScopeRewriting {
    let address = self.configuration.address
    let to = ScopeRewriting.Scope(project: address.project, database: address.database)
    let from = ScopeRewriting.Scope(project: project, database: database)
    guard from == address.callers ?? to || from == to else {
      throw RPCError(
        .notFound,
        "this gateway serves \((address.callers ?? to).name), not \(from.name)")
    }
    (project, database) = (to.project, to.database)
    return ScopeRewriting(from: from, to: to)
  }

  /// Makes a query, and logs it where it took long.
  private func timed<Answer>(
    _ query: String, _ body: () async throws -> Answer
  ) async throws -> Answer {
    let clock = ContinuousClock()
    let begin = clock.now
    let answer = try await body()
    let duration = clock.now - begin
    if duration > self.configuration.slowQuery {
      self.logger.warning(
        "slow query",
        metadata: ["query": "\(query)", "seconds": "\(duration / .seconds(1))"])
    }
    return answer
  }

  package func lookup(
    _ request: DatastoreV1.LookupRequest, context: ServerContext
  ) async throws -> DatastoreV1.LookupResponse {
    try await self.handOn("Lookup") { client, options in
      var request = request
      let scope = try self.enter(&request.projectID, &request.databaseID)
      if scope.isIdentity { return try await client.lookup(request, options: options) }
      scope.rewrite(&request.keys)
      var response = try await client.lookup(request, options: options)
      let back = scope.reversed
      back.rewrite(&response.found)
      back.rewrite(&response.missing)
      back.rewrite(&response.deferred)
      return response
    }
  }

  package func runQuery(
    _ request: DatastoreV1.RunQueryRequest, context: ServerContext
  ) async throws -> DatastoreV1.RunQueryResponse {
    try await self.handOn("RunQuery") { client, options in
      var request = request
      let scope = try self.enter(&request.projectID, &request.databaseID)
      let text = request.text
      if scope.isIdentity {
        return try await self.timed(text) { try await client.runQuery(request, options: options) }
      }
      scope.rewrite(&request.partitionID)
      switch request.queryType {
      case .query(var query):
        scope.rewrite(&query)
        request.queryType = .query(query)
      case .gqlQuery(var query):
        scope.rewrite(&query)
        request.queryType = .gqlQuery(query)
      case nil: break
      }
      var response = try await self.timed(text) {
        try await client.runQuery(request, options: options)
      }
      let back = scope.reversed
      if response.batch != nil { back.rewrite(&response.batch!.entityResults) }
      if response.query != nil { back.rewrite(&response.query!) }
      return response
    }
  }

  package func runAggregationQuery(
    _ request: DatastoreV1.RunAggregationQueryRequest, context: ServerContext
  ) async throws -> DatastoreV1.RunAggregationQueryResponse {
    try await self.handOn("RunAggregationQuery") { client, options in
      var request = request
      let scope = try self.enter(&request.projectID, &request.databaseID)
      let text = request.text
      if scope.isIdentity {
        return try await self.timed(text) {
          try await client.runAggregationQuery(request, options: options)
        }
      }
      scope.rewrite(&request.partitionID)
      switch request.queryType {
      case .aggregationQuery(var query):
        scope.rewrite(&query)
        request.queryType = .aggregationQuery(query)
      case .gqlQuery(var query):
        scope.rewrite(&query)
        request.queryType = .gqlQuery(query)
      case nil: break
      }
      var response = try await self.timed(text) {
        try await client.runAggregationQuery(request, options: options)
      }
      if response.query != nil { scope.reversed.rewrite(&response.query!) }
      return response
    }
  }

  package func beginTransaction(
    _ request: DatastoreV1.BeginTransactionRequest, context: ServerContext
  ) async throws -> DatastoreV1.BeginTransactionResponse {
    // One that was begun and not heard of ends by itself.
    try await self.handOn("BeginTransaction") { client, options in
      var request = request
      _ = try self.enter(&request.projectID, &request.databaseID)
      return try await client.beginTransaction(request, options: options)
    }
  }

  package func commit(
    _ request: DatastoreV1.CommitRequest, context: ServerContext
  ) async throws -> DatastoreV1.CommitResponse {
    try await self.handOn("Commit", isRepeatable: request.isRepeatable) { client, options in
      var request = request
      let scope = try self.enter(&request.projectID, &request.databaseID)
      if !scope.isIdentity {
        for number in request.mutations.indices { scope.rewrite(&request.mutations[number]) }
      }
      var response = try await client.commit(request, options: options)
      self.metrics.mutations.increment(by: Int64(request.mutations.count))
      if scope.isIdentity { return response }
      let back = scope.reversed
      for number in response.mutationResults.indices {
        if response.mutationResults[number].key != nil {
          back.rewrite(&response.mutationResults[number].key!)
        }
        back.rewrite(&response.mutationResults[number].transformResults)
      }
      return response
    }
  }

  package func rollback(
    _ request: DatastoreV1.RollbackRequest, context: ServerContext
  ) async throws -> DatastoreV1.RollbackResponse {
    try await self.handOn("Rollback", isRepeatable: false) { client, options in
      var request = request
      _ = try self.enter(&request.projectID, &request.databaseID)
      return try await client.rollback(request, options: options)
    }
  }

  package func allocateIds(
    _ request: DatastoreV1.AllocateIdsRequest, context: ServerContext
  ) async throws -> DatastoreV1.AllocateIdsResponse {
    // Ids that were given and not heard of are used by nobody.
    try await self.handOn("AllocateIds") { client, options in
      var request = request
      let scope = try self.enter(&request.projectID, &request.databaseID)
      scope.rewrite(&request.keys)
      var response = try await client.allocateIds(request, options: options)
      scope.reversed.rewrite(&response.keys)
      return response
    }
  }

  package func reserveIds(
    _ request: DatastoreV1.ReserveIdsRequest, context: ServerContext
  ) async throws -> DatastoreV1.ReserveIdsResponse {
    try await self.handOn("ReserveIds") { client, options in
      var request = request
      let scope = try self.enter(&request.projectID, &request.databaseID)
      scope.rewrite(&request.keys)
      return try await client.reserveIds(request, options: options)
    }
  }
}

extension DatastoreV1.RunQueryRequest {
  /// As the log of slow queries names it: what is asked for, without the values; GQL as it was sent.
  fileprivate var text: String {
    switch self.queryType {
    case .query(let query): query.text
    case .gqlQuery(let query): query.queryString
    case nil: "none"
    }
  }
}

extension DatastoreV1.RunAggregationQueryRequest {
  fileprivate var text: String {
    switch self.queryType {
    case .aggregationQuery(let query): "aggregation over \(query.nestedQuery?.text ?? "nothing")"
    case .gqlQuery(let query): query.queryString
    case nil: "none"
    }
  }
}

extension DatastoreV1.Query {
  fileprivate var text: String {
    let orders = self.order.map { $0.property?.name ?? "?" }
    return "kind \(self.kind.map(\.name).joined(separator: ", "))"
      + (self.filter == nil ? "" : ", filtered")
      + (orders.isEmpty ? "" : ", order \(orders.joined(separator: ", "))")
  }
}

extension DatastoreV1.CommitRequest {
  /// Whether it can be done a second time without doing anything else.
  var isRepeatable: Bool {
    self.mode == .nonTransactional && self.mutations.allSatisfy(\.isRepeatable)
  }
}

extension DatastoreV1.Mutation {
  fileprivate var isRepeatable: Bool {
    // After the first time the version is another, and so is what transforms are made of.
    guard self.conflictDetectionStrategy == nil, self.propertyTransforms.isEmpty else {
      return false
    }
    switch self.operation {
    case .upsert(let entity): return entity.key?.path.last?.idType != nil
    case .delete: return true
    case .insert, .update, nil: return false
    }
  }
}
