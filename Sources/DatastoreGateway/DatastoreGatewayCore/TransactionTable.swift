import Domain

/// Optimistic transactions under way: what each one read, so that its commit can be refused if any
/// of that has changed since. Nothing is locked, and a transaction of which nobody hears again
/// costs nobody anything.
///
///     begun --read/queried--> begun --ended--> gone, with what it depends on
///                                |               \-- commit refused, put back --> begun, or over
///                                \-- idle or alive too long --> gone
///     over --rolledBack--> gone
package struct TransactionTable: Sendable {
  /// What a caller holds, and where it was given: elsewhere it means nothing.
  package struct ID: Hashable, Sendable {
    /// How long those are that a table gives.
    package static let byteCount = 16

    package let bytes: [UInt8]
    package let project: Name
    package let database: Name

    package init(bytes: [UInt8], project: Name, database: Name) {
      self.bytes = bytes
      self.project = project
      self.database = database
    }
  }

  /// What a commit depends on.
  package struct Dependencies: Sendable, Hashable {
    /// Each entity that was read, and the version it had; 0 for none.
    package var entities: [EntityAddress: Int64] = [:]
    /// Each collection that was queried, and the store's version at that time.
    package var collections: [CollectionName: Int64] = [:]
    /// The same of all collections whose names begin so.
    package var prefixes: [[UInt8]: Int64] = [:]

    package init() {}

    package var isEmpty: Bool {
      self.entities.isEmpty && self.collections.isEmpty && self.prefixes.isEmpty
    }
  }

  fileprivate struct Transaction: Sendable {
    var isReadOnly: Bool
    /// What all of its reads see; `nil` where each sees what is.
    var moment: Int64?
    /// Whether the store keeps that for it.
    var isHeld: Bool
    var begun: Timestamp
    var lastUsed: Timestamp
    /// Whether its commit met what others had changed: a rollback is all that it can have.
    var isOver = false
    var dependencies = Dependencies()
    /// What its dependencies hold in memory, about.
    var bytes = 0
  }

  /// A transaction that has ended.
  package struct Ended: Sendable {
    fileprivate var transaction: Transaction

    /// What its commit depends on.
    package var dependencies: Dependencies { self.transaction.dependencies }
    package var isReadOnly: Bool { self.transaction.isReadOnly }
    /// What the store has kept for it.
    package var heldMoment: Int64? { self.transaction.isHeld ? self.transaction.moment : nil }
  }

  /// Beside a key's own bytes.
  private static let dependencyBytes = 128
  /// Ended transactions that are kept in the order before they are looked for.
  private static let endedInOrder = 1_024
  /// Between two searches for idle transactions.
  private static let searchInterval = Duration.seconds(1)

  private let policy: Policy
  /// Tells this process' transactions from those of earlier ones.
  private let instance: UInt64
  private var counter: UInt64 = 0
  private var transactions: [ID: Transaction] = [:]
  /// In the order of their beginnings; ended ones go when they come to the front.
  private var order: [ID] = []
  /// Those whose commits were refused, in the order of that: few of them are heard of again.
  private var refused: [ID] = []
  /// Of all transactions' dependencies.
  private var bytes = 0
  private var nextSearch = Timestamp(microseconds: 0)
  /// Moments that forgotten transactions read at.
  private var forgottenMoments: [Int64] = []

  package init(policy: Policy, instance: UInt64) {
    self.policy = policy
    self.instance = instance
  }

  package var count: Int { self.transactions.count }

  /// - Parameters:
  ///   - moment: The store's version that all reads are to see: only where nothing is written.
  ///   - isHeld: Whether the store keeps that for this transaction, to be released when it ends.
  package mutating func begun(
    in project: Name, _ database: Name, isReadOnly: Bool, reading moment: Int64? = nil,
    isHeld: Bool = false, at now: Timestamp
  ) throws(GatewayError) -> ID {
    self.forgetOld(at: now)
    self.makeRoom()
    if self.transactions.count >= self.policy.maximumTransactions {
      throw .overloaded(
        what: "transactions", limit: "\(self.policy.maximumTransactions) open ones",
        retryDelay: .seconds(1))
    }
    self.counter += 1
    var bytes: [UInt8] = []
    for number in [self.instance, self.counter] {
      withUnsafeBytes(of: number.bigEndian) { bytes.append(contentsOf: $0) }
    }
    let id = ID(bytes: bytes, project: project, database: database)
    self.transactions[id] = Transaction(
      isReadOnly: isReadOnly, moment: moment, isHeld: isHeld, begun: now, lastUsed: now)
    self.order.append(id)
    Self.trim(&self.order, to: self.transactions)
    return id
  }

  /// Leaves each one that there is once, when a list is much longer than it need be.
  private static func trim(_ list: inout [ID], to transactions: [ID: Transaction]) {
    guard list.count > 2 * transactions.count + Self.endedInOrder else { return }
    var seen: Set<ID> = []
    list.removeAll { transactions[$0] == nil || !seen.insert($0).inserted }
  }

  /// A transaction is about to read.
  ///
  /// - Returns: The store's version that it reads, where it does not read what is.
  package mutating func used(_ id: ID, at now: Timestamp) throws(GatewayError) -> Int64? {
    let moment = try self.current(id, at: now).moment
    self.transactions[id]?.lastUsed = now
    return moment
  }

  /// A transaction has read entities.
  ///
  /// - Throws: `contention` where one was read before with another version: the commit would be refused, and what
  ///   was read does not fit together.
  package mutating func read(
    _ entities: [(EntityAddress, Int64)], in id: ID, at now: Timestamp
  ) throws(GatewayError) {
    var transaction = try self.current(id, at: now)
    self.transactions[id] = nil
    defer { self.transactions[id] = transaction }
    transaction.lastUsed = now
    for (address, version) in entities {
      if let known = transaction.dependencies.entities[address] {
        if known != version { throw .contention("entity \(address.path.text ?? "?")") }
        continue
      }
      transaction.dependencies.entities[address] = version
      self.count(address.collection.bytes.count + address.path.bytes.count, &transaction)
    }
    self.makeRoom()
    try self.checkBounds(transaction)
  }

  /// A transaction depends on something whose name has so many bytes.
  private mutating func count(_ nameBytes: Int, _ transaction: inout Transaction) {
    transaction.bytes += nameBytes + Self.dependencyBytes
    self.bytes += nameBytes + Self.dependencyBytes
  }

  private func checkBounds(_ transaction: Transaction) throws(GatewayError) {
    let (policy, dependencies) = (self.policy, transaction.dependencies)
    if self.bytes > policy.maximumTransactionBytes {
      throw .overloaded(
        what: "reads of transactions", limit: "\(policy.maximumTransactionBytes >> 20) MiB of keys",
        retryDelay: .seconds(1))
    }
    if dependencies.entities.count > policy.maximumTransactionReads {
      throw .invalid(
        "The transaction has read more than \(policy.maximumTransactionReads) entities.")
    }
    if dependencies.collections.count > policy.maximumTransactionReads {
      throw .invalid(
        "The transaction has queried more than \(policy.maximumTransactionReads) kinds.")
    }
    if dependencies.prefixes.count > policy.maximumTransactionPrefixes {
      throw .invalid(
        "The transaction has queried more than \(policy.maximumTransactionPrefixes) times without "
          + "a kind, in different namespaces or databases.")
    }
  }

  /// A transaction has run a query, when the store was at `version`.
  package mutating func queried(
    _ scope: ReadScope, version: Int64, in id: ID, at now: Timestamp
  ) throws(GatewayError) {
    var transaction = try self.current(id, at: now)
    self.transactions[id] = nil
    defer { self.transactions[id] = transaction }
    transaction.lastUsed = now
    switch scope {
    case .collection(let collection):
      if transaction.dependencies.collections[collection] == nil {
        transaction.dependencies.collections[collection] = version
        self.count(collection.bytes.count, &transaction)
      }
    case .prefix([]): break
    case .prefix(let prefix):
      if transaction.dependencies.prefixes[prefix] == nil {
        transaction.dependencies.prefixes[prefix] = version
        self.count(prefix.count, &transaction)
      }
    }
    self.makeRoom()
    try self.checkBounds(transaction)
  }

  /// A commit that writes is about to end a transaction.
  package mutating func checkWritable(_ id: ID, at now: Timestamp) throws(GatewayError) {
    if try self.current(id, at: now).isReadOnly {
      throw .invalid("Cannot modify entities in a read-only transaction.")
    }
  }

  /// A transaction ends by its commit.
  package mutating func ended(_ id: ID, at now: Timestamp) throws(GatewayError) -> Ended {
    let transaction = try self.current(id, at: now)
    self.remove(id)
    return Ended(transaction: transaction)
  }

  /// A transaction ends without one, or when that was refused.
  package mutating func rolledBack(_ id: ID, at now: Timestamp) throws(GatewayError) -> Ended {
    let transaction = try self.current(id, orOver: true, at: now)
    self.remove(id)
    return Ended(transaction: transaction)
  }

  /// The commit of one that writes was refused: it goes on as if it had not ended.
  ///
  /// - Parameter isOver: Whether it can only be rolled back.
  package mutating func putBack(
    _ id: ID, _ ended: Ended, isOver: Bool = false, at now: Timestamp
  ) {
    guard !ended.isReadOnly, self.transactions[id] == nil else { return }
    var transaction = ended.transaction
    transaction.lastUsed = now
    if isOver {
      transaction.isOver = true
      transaction.dependencies = Dependencies()
      transaction.bytes = 0
    }
    self.transactions[id] = transaction
    self.bytes += transaction.bytes
    self.order.append(id)
    self.refused.append(id)
    Self.trim(&self.order, to: self.transactions)
    Self.trim(&self.refused, to: self.transactions)
  }

  /// Forgets refused ones while there is no room for others, the first of them first.
  private mutating func makeRoom() {
    var passed = 0
    while passed < self.refused.count,
      self.transactions.count >= self.policy.maximumTransactions
        || self.bytes > self.policy.maximumTransactionBytes
    {
      self.forget(self.refused[passed])
      passed += 1
    }
    self.refused.removeFirst(passed)
  }

  private mutating func current(
    _ id: ID, orOver: Bool = false, at now: Timestamp
  ) throws(GatewayError) -> Transaction {
    guard let transaction = self.transactions[id], orOver || !transaction.isOver else {
      throw .unknownTransaction
    }
    if self.isOld(transaction, at: now) {
      self.forget(id)
      throw .unknownTransaction
    }
    return transaction
  }

  @discardableResult
  private mutating func remove(_ id: ID) -> Transaction? {
    let transaction = self.transactions.removeValue(forKey: id)
    self.bytes -= transaction?.bytes ?? 0
    return transaction
  }

  private mutating func forget(_ id: ID) {
    guard let transaction = self.remove(id), transaction.isHeld else { return }
    if let moment = transaction.moment { self.forgottenMoments.append(moment) }
  }

  /// Forgets transactions that are too old, and tells the moments that those read at since the last
  /// time.
  package mutating func momentsForgotten(at now: Timestamp) -> [Int64] {
    self.forgetOld(at: now)
    self.searchIdle(at: now)
    defer { self.forgottenMoments = [] }
    return self.forgottenMoments
  }

  private func isOld(_ transaction: Transaction, at now: Timestamp) -> Bool {
    now - transaction.lastUsed > self.policy.transactionIdle
      || now - transaction.begun > self.policy.transactionLife
  }

  private mutating func forgetOld(at now: Timestamp) {
    var passed = 0
    for id in self.order {
      if let transaction = self.transactions[id] {
        // Those behind it began later.
        guard self.isOld(transaction, at: now) else { break }
        self.forget(id)
      }
      passed += 1
    }
    self.order.removeFirst(passed)
    if self.transactions.count >= self.policy.maximumTransactions { self.searchIdle(at: now) }
  }

  /// Idle ones may stand behind one that is in use. Not searched for more often than it is worth.
  private mutating func searchIdle(at now: Timestamp) {
    if now < self.nextSearch { return }
    self.nextSearch = now + Self.searchInterval
    let old = self.transactions.filter { self.isOld($0.value, at: now) }.map(\.key)
    for id in old { self.forget(id) }
    self.order.removeAll { self.transactions[$0] == nil }
  }
}
