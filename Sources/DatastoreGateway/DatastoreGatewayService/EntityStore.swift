import BuildProtos
import DatastoreGatewayCore
import Domain

/// Where entities are kept. One interface for every store that the gateway can stand on.
///
/// Calls are answered from threads or connections of the store's own; none blocks an event loop.
/// They throw `GatewayError` for what the request and the stored entities decide, and
/// `StoreFailure` for what ails the store.
package protocol EntityStore: Sendable {
  /// What is stored under each address, all as of one moment.
  func lookup(_ addresses: [EntityAddress]) async throws -> LookupAnswer
  /// The next results of a query.
  func run(_ query: ResolvedQuery) async throws -> QueryAnswer
  /// Numbers made of all results of a query.
  func run(_ aggregation: ResolvedAggregation) async throws -> AggregationAnswer
  /// What is kept of what entities were.
  var pastBytes: Int { get }
  /// Memory that holds what lookups found; `nil` of a store that others write to as well.
  var cachedBytes: Int? { get }
  /// What was stored when `moment` was the store's version.
  ///
  /// - Throws: `GatewayError.past` where that is not kept.
  func lookup(_ addresses: [EntityAddress], at moment: Int64) async throws -> LookupAnswer
  func run(_ query: ResolvedQuery, at moment: Int64) async throws -> QueryAnswer
  func run(_ aggregation: ResolvedAggregation, at moment: Int64) async throws -> AggregationAnswer
  /// Keeps what is stored now readable, for the reads of one read-only transaction: until it is
  /// released, or nobody has read it for as long as a transaction may be idle. A store that keeps
  /// its past in memory promises no more than for any other moment.
  ///
  /// - Returns: The moment.
  func hold() async throws -> Int64
  /// Lets go of a moment; of one that is not held it does nothing.
  func release(_ moment: Int64)
  /// How a query would be carried out.
  func plan(_ query: ResolvedQuery) async throws -> QueryPlan
  /// Makes all of a commit's changes, or none; answers when they are durable.
  func commit(_ commit: Commit) async throws -> CommitAnswer
  /// Ids that were never given before and never will be again.
  func allocateIDs(_ count: Int) async throws -> [Int64]
  /// Moves the counter of ids, so that it is at `place` at least: what stands before it is never
  /// given.
  func skipIDs(below place: Int64) async throws
  /// Keeps the ids of these keys from ever being allocated.
  func reserve(_ addresses: [EntityAddress]) async throws
  /// Which of these keys are in use or reserved, so that an id must not be given again.
  func areTaken(_ addresses: [EntityAddress]) async throws -> [Bool]
  /// Takes no more commits; returns when those that wait are answered.
  func drain() async
  /// Why writes fail, if they do. Reads may work all the same.
  var trouble: StoreFailure? { get }
  /// Tries whether the store takes writes; ``trouble`` tells.
  func probe() async
  /// Commits that wait, and reads that run or wait.
  var queuedCommits: Int { get }
  var queuedReads: Int { get }
}

/// An entity as a store gives it: as it was written, or the store would have said so. Whoever only
/// passes it on need not decode it.
package struct StoredEntity: Sendable {
  /// `google.datastore.v1.Entity`, encoded.
  package var content: [UInt8]
  package var version: StoredVersion
  /// The store; named in failures.
  package var place: String

  package var byteCount: Int { self.content.count }

  package func entity() throws(StoreFailure) -> DatastoreV1.Entity {
    try DatastoreV1.Entity(stored: self.content, in: self.place)
  }
}

/// What a lookup found.
package struct LookupAnswer: Sendable {
  /// For each address, in the order of the addresses; `nil` where there is no entity.
  package var entities: [StoredEntity?]
  /// How many of the addresses were looked up: the answer would have become too large for more.
  package var count: Int
  /// The store's version at that moment.
  package var version: Int64
}

/// What a query found.
package struct QueryAnswer: Sendable {
  package struct Result: Sendable {
    package var position: Position
    /// `nil` where only the key or some properties were asked for.
    package var stored: StoredEntity?
    /// What was projected, or all that there is of an entity that is not stored.
    package var properties: [EntityProperty]
  }

  /// Whether there is more.
  package enum Rest: Hashable, Sendable {
    case notFinished, afterLimit, afterCursor, nothing

    package init<Stored>(_ rest: QueryBatch<Stored>.Rest) {
      switch rest {
      case .notFinished: self = .notFinished
      case .afterLimit: self = .afterLimit
      case .afterCursor: self = .afterCursor
      case .nothing: self = .nothing
      }
    }
  }

  package var results: [Result]
  package var skipped: Int
  package var skippedPosition: Position?
  package var endPosition: Position?
  package var rest: Rest
  /// The store's version at that moment.
  package var version: Int64
  /// For the log of slow queries, and for callers that want it explained.
  package var plan: QueryPlan
  package var scanned: Int
  package var loaded: Int
}

/// What an aggregation came to.
package struct AggregationAnswer: Sendable {
  /// For each aggregation, in their order.
  package var values: [Value]
  /// The store's version at that moment.
  package var version: Int64
  package var plan: QueryPlan
  package var scanned: Int
  package var loaded: Int
}

/// One caller's changes.
package struct Commit: Sendable {
  /// One change, with what is to be stored.
  package struct Change: Sendable {
    package var mutation: Mutation
    package var address: EntityAddress
    /// The entity's encoding; empty for a deletion.
    package var content: [UInt8]
    package var indexEntries: [IndexEntry]
    /// Where what is to be stored depends on what is; then there are no index entries yet, and the
    /// content is what the caller sent.
    package var edit: EntityEdit?
    /// Whether the key's id was allocated for this commit: then nothing may have it.
    package var isAllocated: Bool

    package init(
      mutation: Mutation, address: EntityAddress, content: [UInt8] = [],
      indexEntries: [IndexEntry] = [], edit: EntityEdit? = nil, isAllocated: Bool = false
    ) {
      self.mutation = mutation
      self.address = address
      self.content = content
      self.indexEntries = indexEntries
      self.edit = edit
      self.isAllocated = isAllocated
    }
  }

  package var changes: [Change]
  /// What must still be as it was read.
  package var dependencies: TransactionTable.Dependencies

  package init(
    changes: [Change],
    dependencies: TransactionTable.Dependencies = TransactionTable.Dependencies()
  ) {
    self.changes = changes
    self.dependencies = dependencies
  }

  /// What it holds in memory while it waits, about.
  package var byteCount: Int {
    self.changes.reduce(256) { $0 + $1.content.count + $1.address.path.bytes.count + 256 }
  }
}

/// What became of a commit.
package struct CommitAnswer: Sendable {
  package var results: [CommitMachine.Result]
  /// Index rows that were written or removed.
  package var indexUpdates: Int
  /// The commit's version, which is its time.
  package var version: Int64
  /// The answers to a change's transforms, by its number.
  package var transformResults: [Int: [DatastoreV1.Value]] = [:]
}

/// An allocated id turned out to be in use: the commit was refused, and may be tried with another.
struct AllocatedIDTaken: Error {}
