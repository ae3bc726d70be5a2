import BuildProtos
import DatastoreGatewayCore
import Domain
import Logging
import Synchronization

/// Feeds the table of transactions and the store, and joins what they say.
final class Driver: Sendable {
  let store: any EntityStore
  let policy: Policy
  let clock: @Sendable () -> Timestamp
  private let transactions: Mutex<TransactionTable>
  private let slowQuery: Duration
  private let logger: Logger

  /// Commits that met an allocated id in use are tried with another so often: the ids are from
  /// 2^52, so a second time is rare already.
  private static let allocationAttempts = 8

  /// No commit that was given its version so long ago is still unfinished.
  private static let longestCommit = Duration.seconds(60)

  init(
    store: any EntityStore, policy: Policy, slowQuery: Duration, logger: Logger,
    clock: @escaping @Sendable () -> Timestamp
  ) {
    self.store = store
    self.policy = policy
    self.slowQuery = slowQuery
    self.logger = logger
    self.clock = clock
    self.transactions = Mutex(
      TransactionTable(policy: policy, instance: UInt64.random(in: .min ... .max)))
  }

  // MARK: - Transactions

  var openTransactions: Int { self.transactions.withLock { $0.count } }

  func begin(in scope: EntityCodec.Scope) throws(GatewayError) -> TransactionTable.ID {
    let now = self.clock()
    return try self.transactions.withLock { (table) throws(GatewayError) in
      try table.begun(in: scope.project, scope.database, isReadOnly: false, at: now)
    }
  }

  /// All reads of a read-only transaction see what was there when it began, or at `time`.
  func beginReadOnly(
    at time: Timestamp?, in scope: EntityCodec.Scope
  ) async throws -> TransactionTable.ID {
    let moment: Int64
    if let time {
      moment = try await self.moment(time)
    } else {
      // Those of transactions of which nobody heard again make room for this one's.
      let forgotten = self.transactions.withLock { $0.momentsForgotten(at: self.clock()) }
      for moment in forgotten { self.store.release(moment) }
      moment = try await self.store.hold()
    }
    let now = self.clock()
    do throws(GatewayError) {
      return try self.transactions.withLock { (table) throws(GatewayError) in
        try table.begun(
          in: scope.project, scope.database, isReadOnly: true, reading: moment,
          isHeld: time == nil, at: now)
      }
    } catch {
      if time == nil { self.store.release(moment) }
      throw error
    }
  }

  /// The store's version at a time that a caller names.
  private func moment(_ time: Timestamp) async throws -> Int64 {
    // Versions may run ahead of the clock, and a caller may name one that it was told.
    if time > self.clock() {
      let version = try await self.store.lookup([]).version
      if time.microseconds > version {
        throw GatewayError.invalid("The requested 'read_time' cannot be in the future.")
      }
    }
    return time.microseconds
  }

  /// Ends a transaction for its commit.
  ///
  /// - Parameter writes: Whether the commit changes anything: then it is not ended if it may not.
  func end(
    _ id: TransactionTable.ID, writes: Bool
  ) throws(GatewayError) -> TransactionTable.Ended {
    let now = self.clock()
    let ended = try self.transactions.withLock { (table) throws(GatewayError) in
      if writes { try table.checkWritable(id, at: now) }
      return try table.ended(id, at: now)
    }
    if let moment = ended.heldMoment { self.store.release(moment) }
    return ended
  }

  func rollBack(_ id: TransactionTable.ID) throws(GatewayError) {
    let now = self.clock()
    let ended = try self.transactions.withLock { (table) throws(GatewayError) in
      try table.rolledBack(id, at: now)
    }
    if let moment = ended.heldMoment { self.store.release(moment) }
  }

  /// A commit was refused: its transaction can be committed again, or if it is over rolled back.
  func putBack(_ id: TransactionTable.ID, _ ended: TransactionTable.Ended, isOver: Bool) {
    let now = self.clock()
    self.transactions.withLock { $0.putBack(id, ended, isOver: isOver, at: now) }
  }

  /// What a read sees.
  enum Point: Sendable {
    case present
    case time(Timestamp)
    case transaction(TransactionTable.ID)
  }

  /// Where a read takes place: at a version of the store, or where that is `nil` on what is. What
  /// it finds of that in a transaction is noted.
  private struct Place {
    var moment: Int64?
    var transaction: TransactionTable.ID?
    /// When the read began.
    var begun: Timestamp
  }

  /// Refuses a transaction that is over before anything is read for it.
  private func place(_ point: Point) async throws -> Place {
    let now = self.clock()
    switch point {
    case .present: return Place(begun: now)
    case .time(let time): return Place(moment: try await self.moment(time), begun: now)
    case .transaction(let id):
      let moment = try self.transactions.withLock { (table) throws(GatewayError) in
        try table.used(id, at: now)
      }
      return moment.map { Place(moment: $0, begun: now) } ?? Place(transaction: id, begun: now)
    }
  }

  /// The time that an answer is told to be of: a read at that time finds the same. A commit that was under
  /// way has a version between the one that was seen and now; so it is not now.
  private func readTime(_ place: Place, version: Int64) -> Timestamp {
    let time = Timestamp(microseconds: version)
    return place.moment == nil ? max(place.begun - Self.longestCommit, time) : time
  }

  // MARK: - Calls

  func lookup(
    _ keys: [Key], at point: Point
  ) async throws -> (answer: LookupAnswer, readTime: Timestamp) {
    let place = try await self.place(point)
    let addresses = keys.map(\.address)
    let answer =
      if let moment = place.moment {
        try await self.store.lookup(addresses, at: moment)
      } else {
        try await self.store.lookup(addresses)
      }
    if let transaction = place.transaction {
      let read = zip(addresses, answer.entities).map { address, entity in
        (address, entity?.version.version ?? 0)
      }
      let now = self.clock()
      try self.transactions.withLock { (table) throws(GatewayError) in
        try table.read(read, in: transaction, at: now)
      }
    }
    return (answer, self.readTime(place, version: answer.version))
  }

  func run(
    _ query: ResolvedQuery, at point: Point
  ) async throws -> (answer: QueryAnswer, readTime: Timestamp) {
    let place = try await self.place(point)
    let clock = ContinuousClock()
    let begin = clock.now
    let answer =
      if let moment = place.moment {
        try await self.store.run(query, at: moment)
      } else {
        try await self.store.run(query)
      }
    self.noteSlow(
      query, answer.plan, scanned: answer.scanned, results: answer.results.count,
      clock.now - begin)
    try self.note(query, version: answer.version, in: place.transaction)
    return (answer, self.readTime(place, version: answer.version))
  }

  func run(
    _ aggregation: ResolvedAggregation, at point: Point
  ) async throws -> (answer: AggregationAnswer, readTime: Timestamp) {
    let place = try await self.place(point)
    let clock = ContinuousClock()
    let begin = clock.now
    let answer =
      if let moment = place.moment {
        try await self.store.run(aggregation, at: moment)
      } else {
        try await self.store.run(aggregation)
      }
    self.noteSlow(
      aggregation.query, answer.plan, scanned: answer.scanned, results: 1, clock.now - begin)
    try self.note(aggregation.query, version: answer.version, in: place.transaction)
    return (answer, self.readTime(place, version: answer.version))
  }

  /// What a transaction has seen must not change before it ends.
  private func note(
    _ query: ResolvedQuery, version: Int64, in transaction: TransactionTable.ID?
  ) throws(GatewayError) {
    guard let transaction else { return }
    let now = self.clock()
    try self.transactions.withLock { (table) throws(GatewayError) in
      try table.queried(query.readScope, version: version, in: transaction, at: now)
    }
  }

  private func noteSlow(
    _ query: ResolvedQuery, _ plan: QueryPlan, scanned: Int, results: Int, _ duration: Duration
  ) {
    guard duration > self.slowQuery else { return }
    let kind: String =
      switch query.source {
      case .kind(let collection): (try? collection.parts().kind.text) ?? "?"
      case .everyKind: "every kind"
      case .metadata(let kind, _): kind.kind.text
      case .nothing: "?"
      }
    self.logger.warning(
      "slow query",
      metadata: [
        "kind": "\(kind)", "plan": "\(plan)", "rows": "\(scanned)", "results": "\(results)",
        "seconds": "\(duration / .seconds(1))",
      ])
  }

  /// Makes changes, with ids for the keys that lack one.
  ///
  /// - Returns: And the keys that got one, by the number of their change.
  func commit(
    _ changes: [Mapping.Change], dependencies: TransactionTable.Dependencies
  ) async throws -> (CommitAnswer, [Int: Key]) {
    let incomplete = changes.indices.filter { !changes[$0].key.isComplete }
    for attempt in 1... {
      var allocated: [Int: Key] = [:]
      if !incomplete.isEmpty {
        let ids = try await self.store.allocateIDs(incomplete.count)
        for (number, id) in zip(incomplete, ids) {
          allocated[number] = changes[number].key.completed(by: id)
        }
      }
      var commit = Commit(changes: [], dependencies: dependencies)
      commit.changes.reserveCapacity(changes.count)
      for (number, change) in changes.enumerated() {
        commit.changes.append(
          try Mapping.prepared(
            change, key: allocated[number] ?? change.key, isAllocated: allocated[number] != nil,
            policy: self.policy))
      }
      do {
        return (try await self.store.commit(commit), allocated)
      } catch let error as AllocatedIDTaken {
        if attempt == Self.allocationAttempts { throw error }
      }
    }
    preconditionFailure("unreachable: the loop returns or throws")
  }

  func allocate(_ keys: [Key]) async throws -> [Key] {
    var keys = keys
    var open = Array(keys.indices)
    for attempt in 1... {
      let ids = try await self.store.allocateIDs(open.count)
      for (number, id) in zip(open, ids) { keys[number] = keys[number].completed(by: id) }
      let taken = try await self.store.areTaken(open.map { keys[$0].address })
      open = zip(open, taken).filter(\.1).map(\.0)
      if open.isEmpty { return keys }
      if attempt == Self.allocationAttempts { throw AllocatedIDTaken() }
    }
    preconditionFailure("unreachable: the loop returns or throws")
  }
}

extension Key {
  /// The key with an id in its last element.
  fileprivate func completed(by id: Int64) -> Key {
    var key = self
    key.path[key.path.count - 1].identity = .id(id)
    return key
  }
}
