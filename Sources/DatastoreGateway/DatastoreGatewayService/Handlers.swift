import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC
import ServiceRuntime

/// Google's Datastore API: translates, and asks the driver.
struct Handlers: ServedStore {
  let driver: Driver
  let metrics: Metrics

  init(driver: Driver, metrics: Metrics) {
    self.driver = driver
    self.metrics = metrics
  }

  // MARK: - The store

  var trouble: StoreFailure? { self.driver.store.trouble }
  func probe() async { await self.driver.store.probe() }
  func drain() async { await self.driver.store.drain() }

  func register(_ registry: MetricsRegistry) {
    let (driver, store) = (self.driver, self.driver.store)
    registry.gauge("millrace_gateway_queued_commits", help: "Commits that wait to be written.") {
      Double(store.queuedCommits)
    }
    registry.gauge(
      "millrace_gateway_open_reads", help: "Lookups and queries that run or wait for a thread."
    ) { Double(store.queuedReads) }
    registry.gauge("millrace_gateway_open_transactions", help: "Transactions under way.") {
      Double(driver.openTransactions)
    }
    registry.gauge(
      "millrace_gateway_writable", help: "1 while the store takes writes, 0 while it refuses them."
    ) { store.trouble == nil ? 1 : 0 }
    registry.gauge(
      "millrace_gateway_past_bytes", help: "What is kept of what entities were."
    ) { Double(store.pastBytes) }
    if store.cachedBytes != nil {
      registry.gauge(
        "millrace_gateway_cached_bytes", help: "Memory that holds what lookups found."
      ) { Double(store.cachedBytes ?? 0) }
    }
  }

  // MARK: - Requests

  func scope(
    _ project: String, _ database: String
  ) throws(GatewayError) -> EntityCodec.Scope {
    try EntityCodec.Scope(project: project, database: database)
  }

  // MARK: - Reading

  func lookup(
    _ request: DatastoreV1.LookupRequest, context: ServerContext
  ) async throws -> DatastoreV1.LookupResponse {
    try await self.metrics.counted("Lookup") {
      let scope = try self.scope(request.projectID, request.databaseID)
      if request.keys.count > self.driver.policy.maximumLookupKeys {
        throw GatewayError.invalid(
          "Lookup of \(request.keys.count) keys, more than "
            + "\(self.driver.policy.maximumLookupKeys).")
      }
      let validation = Validation(policy: self.driver.policy)
      var keys: [Key] = []
      var seen: Set<Key> = []
      for proto in request.keys {
        let key = try EntityCodec.key(proto, in: scope)
        try validation.check(key, .complete, allowsReserved: true)
        if request.keys.count == 1 || seen.insert(key).inserted { keys.append(key) }
      }
      let mask = try self.mask(request.propertyMask)
      let ((answer, readTime), begun) = try await self.reading(request.readOptions, in: scope) {
        try await self.driver.lookup(keys, at: $0)
      }
      var response = DatastoreV1.LookupResponse(
        transaction: begun?.bytes ?? [], readTime: EntityCodec.proto(readTime))
      for (key, stored) in zip(keys, answer.entities) {
        if let stored {
          response.found.append(try Mapping.result(stored, mask: mask))
        } else {
          response.missing.append(Mapping.result(onlyKey: key, version: answer.version))
        }
      }
      response.deferred = keys.dropFirst(answer.count).map(EntityCodec.proto)
      return response
    }
  }

  func mask(_ proto: DatastoreV1.PropertyMask?) throws(GatewayError) -> PropertyMask? {
    guard let proto else { return nil }
    return try PropertyMask(proto, policy: self.driver.policy)
  }

  /// Reads as the options say.
  ///
  /// - Returns: And the transaction that was begun if the read asks for one. When the read fails, nobody learns
  ///   of that: it ends then.
  func reading<Answer>(
    _ options: DatastoreV1.ReadOptions?, in scope: EntityCodec.Scope,
    _ body: (Driver.Point) async throws -> Answer
  ) async throws -> (answer: Answer, begun: TransactionTable.ID?) {
    let (point, begun) = try await self.point(options, in: scope)
    do {
      return (try await body(point), begun)
    } catch {
      if let begun { try? self.driver.rollBack(begun) }
      throw error
    }
  }

  /// What a read sees, and the transaction that was begun if the read asks for one.
  private func point(
    _ options: DatastoreV1.ReadOptions?, in scope: EntityCodec.Scope
  ) async throws -> (point: Driver.Point, begun: TransactionTable.ID?) {
    switch options?.consistencyType {
    case nil: return (.present, nil)
    case .readConsistency(let consistency):
      switch consistency {
      // Every read here is strong, which an eventual one may be.
      case .unspecified, .strong, .eventual: return (.present, nil)
      case .unrecognized(let number):
        throw GatewayError.invalid("read_consistency \(number) is unknown")
      }
    case .transaction(let bytes):
      return (.transaction(try self.transaction(bytes, in: scope)), nil)
    case .newTransaction(let options):
      let begun = try await self.begin(options, in: scope)
      return (.transaction(begun), begun)
    case .readTime(let time): return (.time(try self.time(time)), nil)
    }
  }

  private func time(_ proto: GoogleProtobuf.Timestamp) throws(GatewayError) -> Timestamp {
    let time = try EntityCodec.timestamp(proto, of: "read_time")
    if proto.nanos % 1_000 != 0 {
      throw .invalid("timestamp cannot have more than microseconds precision")
    }
    if time.microseconds <= 0 { throw .invalid("Only timestamps past epoch are supported.") }
    return time
  }

  private func transaction(
    _ bytes: [UInt8], in scope: EntityCodec.Scope
  ) throws(GatewayError) -> TransactionTable.ID {
    if bytes.isEmpty { throw .invalid("a transaction cannot be the empty string.") }
    return TransactionTable.ID(bytes: bytes, project: scope.project, database: scope.database)
  }

  // MARK: - Transactions

  private func begin(
    _ options: DatastoreV1.TransactionOptions?, in scope: EntityCodec.Scope
  ) async throws -> TransactionTable.ID {
    switch options?.mode {
    case nil: return try self.driver.begin(in: scope)
    case .readWrite(let options):
      // Nothing is done for the transaction that is tried again: none waits for another here.
      let previous = options.previousTransaction
      if !previous.isEmpty && previous.count != TransactionTable.ID.byteCount {
        throw GatewayError.invalid("Invalid transaction.")
      }
      return try self.driver.begin(in: scope)
    case .readOnly(let options):
      return try await self.driver.beginReadOnly(
        at: try options.readTime.map { (time) throws(GatewayError) in try self.time(time) },
        in: scope)
    }
  }

  func beginTransaction(
    _ request: DatastoreV1.BeginTransactionRequest, context: ServerContext
  ) async throws -> DatastoreV1.BeginTransactionResponse {
    try await self.metrics.counted("BeginTransaction") {
      let scope = try self.scope(request.projectID, request.databaseID)
      return DatastoreV1.BeginTransactionResponse(
        transaction: try await self.begin(request.transactionOptions, in: scope).bytes)
    }
  }

  func rollback(
    _ request: DatastoreV1.RollbackRequest, context: ServerContext
  ) async throws -> DatastoreV1.RollbackResponse {
    try await self.metrics.counted("Rollback") {
      let scope = try self.scope(request.projectID, request.databaseID)
      if request.transaction.isEmpty { throw GatewayError.invalid("transaction required") }
      try self.driver.rollBack(self.transaction(request.transaction, in: scope))
      return DatastoreV1.RollbackResponse()
    }
  }

  // MARK: - Writing

  func commit(
    _ request: DatastoreV1.CommitRequest, context: ServerContext
  ) async throws -> DatastoreV1.CommitResponse {
    try await self.metrics.counted("Commit") {
      let scope = try self.scope(request.projectID, request.databaseID)
      if request.mutations.count > self.driver.policy.maximumMutations {
        throw GatewayError.invalid(
          "Commit of \(request.mutations.count) mutations, more than "
            + "\(self.driver.policy.maximumMutations).")
      }
      try self.checkMasks(of: request.mutations)
      var changes: [Mapping.Change] = []
      changes.reserveCapacity(request.mutations.count)
      for mutation in request.mutations {
        changes.append(
          try Mapping.change(mutation, in: scope, policy: self.driver.policy))
      }
      let transaction = try self.ended(by: request, in: scope, changes)
      // What a read-only one read was true when it was read; nothing depends on it any more.
      let dependencies =
        transaction.flatMap { $0.ended.isReadOnly ? nil : $0.ended.dependencies }
        ?? TransactionTable.Dependencies()
      if changes.isEmpty && dependencies.isEmpty { return DatastoreV1.CommitResponse() }
      let (answer, allocated): (CommitAnswer, [Int: Key])
      do {
        (answer, allocated) = try await self.driver.commit(changes, dependencies: dependencies)
      } catch {
        if let transaction, let isOver = Mapping.isTransactionOver(after: error) {
          self.driver.putBack(transaction.id, transaction.ended, isOver: isOver)
        }
        throw error
      }
      self.metrics.mutations.increment(by: Int64(changes.count))
      return Mapping.proto(answer, allocated: allocated)
    }
  }

  private func checkMasks(of mutations: [DatastoreV1.Mutation]) throws(GatewayError) {
    let limit = self.driver.policy.maximumCommitMaskPaths
    let count = mutations.reduce(0) { $0 + ($1.propertyMask?.paths.count ?? 0) }
    if count > limit {
      throw .invalid("The property masks of the commit have \(count) paths, more than \(limit).")
    }
  }

  /// Ends the commit's transaction, if it has one.
  private func ended(
    by request: DatastoreV1.CommitRequest, in scope: EntityCodec.Scope, _ changes: [Mapping.Change]
  ) throws(GatewayError) -> (id: TransactionTable.ID, ended: TransactionTable.Ended)? {
    switch (request.mode, request.transactionSelector) {
    case (.unrecognized(let number), _): throw .invalid("commit mode \(number) is unknown")
    case (.nonTransactional, nil):
      if changes.count == 1 { return nil }
      var seen: Set<Key> = []
      seen.reserveCapacity(changes.count)
      for change in changes where change.key.isComplete && !seen.insert(change.key).inserted {
        throw .invalid(
          "A non-transactional commit may not contain multiple mutations affecting the same "
            + "entity. (\(change.key))")
      }
      return nil
    case (.nonTransactional, _):
      throw .invalid("A non-transactional commit must not name a transaction.")
    case (.unspecified, nil), (.transactional, nil):
      throw .invalid("transactional commit requires a transaction")
    case (.unspecified, .transaction(let bytes)), (.transactional, .transaction(let bytes)):
      let id = try self.transaction(bytes, in: scope)
      return (id, try self.driver.end(id, writes: !changes.isEmpty))
    case (.unspecified, .singleUseTransaction(let options)),
      (.transactional, .singleUseTransaction(let options)):
      if case .readOnly = options.mode {
        throw .invalid("single_use_transaction in a commit request must be READ_WRITE.")
      }
      return nil
    }
  }

  // MARK: - Ids

  func allocateIds(
    _ request: DatastoreV1.AllocateIdsRequest, context: ServerContext
  ) async throws -> DatastoreV1.AllocateIdsResponse {
    try await self.metrics.counted("AllocateIds") {
      let keys = try self.keys(request.keys, request.projectID, request.databaseID, .incomplete)
      return DatastoreV1.AllocateIdsResponse(
        keys: try await self.driver.allocate(keys).map(EntityCodec.proto))
    }
  }

  func reserveIds(
    _ request: DatastoreV1.ReserveIdsRequest, context: ServerContext
  ) async throws -> DatastoreV1.ReserveIdsResponse {
    try await self.metrics.counted("ReserveIds") {
      let keys = try self.keys(request.keys, request.projectID, request.databaseID, .complete)
      if !keys.isEmpty { try await self.driver.store.reserve(keys.map(\.address)) }
      return DatastoreV1.ReserveIdsResponse()
    }
  }

  private func keys(
    _ keys: [DatastoreV1.Key], _ project: String, _ database: String,
    _ completeness: Validation.Completeness
  ) throws(GatewayError) -> [Key] {
    let scope = try self.scope(project, database)
    if keys.count > self.driver.policy.maximumLookupKeys {
      throw .invalid(
        "The request has \(keys.count) keys, more than \(self.driver.policy.maximumLookupKeys).")
    }
    let validation = Validation(policy: self.driver.policy)
    var result: [Key] = []
    for proto in keys {
      let key = try EntityCodec.key(proto, in: scope)
      try validation.check(key, completeness)
      result.append(key)
    }
    return result
  }
}
