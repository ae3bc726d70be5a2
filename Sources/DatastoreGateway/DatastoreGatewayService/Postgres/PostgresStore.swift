import DatastoreGatewayCore
import Domain
import Logging
import RPC
import ServiceRuntime

/// Entities in a PostgreSQL database, which several gateways may share: one thread writes many
/// callers' commits at a time, a few threads read; each has a connection of its own.
///
/// A commit is answered when the server has it on its disk. Reads see every answered commit,
/// whichever gateway answered it.
package final class PostgresStore: GroupWrittenStore {
  /// What can be set of it.
  package struct Configuration: Sendable {
    package var address: PostgresAddress
    package var readers = 4
    package var limits = StoreLimits()
    package var policy = Policy()
    /// How long the server may take to let one connection in.
    package var connectPatience = Duration.seconds(5)
    /// How long a batch of commits waits for a server that has gone away to come back, and a gateway
    /// that starts for one that is not there yet.
    package var patience = Duration.seconds(15)
    /// What entities were before they were changed is kept in the database, so much of it and so
    /// long. All gateways over it should agree.
    package var pastBytes = 32 << 20
    package var pastAge = Duration.seconds(3_600)

    package init(_ address: PostgresAddress) {
      self.address = address
    }
  }

  package let writer: GroupWriter
  package var isShared: Bool { true }
  private let readers: ReaderPool<PostgresReader>
  private let holds: PostgresHolds
  private let past: PostgresPast
  private let lookups: SharedLookups<PostgresReader>

  /// Keys of a lookup that others share a statement with: two entities of the greatest size are
  /// below what one answer may hold.
  private static let sharedLookupKeys = 2
  /// Lookups in one statement: at most 64 MiB.
  private static let sharedLookups = 32

  /// Connects, and makes the database a store if it is new.
  ///
  /// - Throws: `StoreFailure` with one clear line. A full disk or a server that only reads is no error
  ///   here: what is stored can be read, and ``trouble`` tells it.
  package init(
    _ configuration: Configuration, metrics: Metrics, logger: Logger,
    clock: @escaping @Sendable () -> Timestamp = { .now }
  ) throws(StoreFailure) {
    let names = PostgresNames()
    let past = PostgresPast(
      PostgresSession(configuration.address, patience: configuration.connectPatience),
      maximumBytes: configuration.pastBytes, maximumAge: configuration.pastAge, logger: logger,
      clock: clock)
    let readers = ReaderPool(
      (0..<configuration.readers).map { _ in
        PostgresReader(
          PostgresSession(configuration.address, patience: configuration.connectPatience),
          names: names, policy: configuration.policy)
      }, limit: configuration.limits.queuedReads)
    let writer = PostgresWriter(
      configuration.address, names: names, connectPatience: configuration.connectPatience,
      patience: configuration.patience, policy: configuration.policy, past: past,
      pastIsDue: { readers.submit { past.makeRoom() } }, clock: clock)
    try writer.prepare(within: configuration.patience)
    var trouble: StoreFailure?
    do throws(StoreFailure) {
      try writer.upgrade()
      _ = try writer.write([.probe])
      try writer.forgetOldWriters()
    } catch  where error.kind == .full || error.kind == .readOnly {
      trouble = error
    }
    self.writer = GroupWriter(
      writer, limits: configuration.limits, trouble: trouble, metrics: metrics, logger: logger)
    self.readers = readers
    self.past = past
    self.lookups = SharedLookups(
      self.readers, threads: configuration.readers, batchCount: Self.sharedLookups)
    self.holds = PostgresHolds(life: configuration.policy.transactionLife) {
      PostgresReader(
        PostgresSession(configuration.address, patience: configuration.connectPatience),
        names: names, policy: configuration.policy)
    }
  }

  package var pastBytes: Int { self.past.bytes }
  package var cachedBytes: Int? { nil }
  package var queuedReads: Int { self.readers.openReads }

  // MARK: - Reading

  package func lookup(_ addresses: [EntityAddress]) async throws -> LookupAnswer {
    if addresses.count > Self.sharedLookupKeys {
      return try await self.readers.read { reader in try reader.lookup([addresses])[0] }
    }
    return try await self.lookups.lookup(addresses)
  }

  // MARK: - The past

  package func hold() async throws -> Int64 {
    do {
      let (moment, spare) = try await self.readers.onThread { try self.holds.hold() }
      if let spare { self.giveBack(spare) }
      return moment
    } catch GatewayError.overloaded where self.past.isKept {
      // Then it reads what is kept of the past, as one does that names a time.
      return try await self.lookup([]).version
    }
  }

  package func release(_ moment: Int64) {
    if let hold = self.holds.released(moment) { self.giveBack(hold) }
  }

  private func giveBack(_ hold: PostgresHolds.Hold) {
    // A connection that cannot be given back is closed.
    Task { try? await self.holds.giveBack(hold) { try await self.readers.onThread($0) } }
  }

  /// What reads at a moment that is held.
  private static func reader(
    _ held: Held<PostgresReader>, at moment: Int64
  ) throws(StoreFailure) -> PostgresReader {
    let reader = held.connection
    guard reader.holds(moment) else {
      throw StoreFailure(.unreachable, "\(reader.place): what a transaction reads is held no more")
    }
    return reader
  }

  package func lookup(
    _ addresses: [EntityAddress], at moment: Int64
  ) async throws -> LookupAnswer {
    if let hold = self.holds.find(moment) {
      return try await hold.inTurn { held in
        try await self.readers.onThread {
          try Self.reader(held, at: moment).lookup([addresses])[0]
        }
      }
    }
    return try await self.settled(moment) { isSettled in
      try await self.readers.read { try $0.lookup(addresses, at: moment, isSettled: isSettled) }
    }
  }

  package func run(_ query: ResolvedQuery, at moment: Int64) async throws -> QueryAnswer {
    if let hold = self.holds.find(moment) {
      return try await hold.inTurn { held in
        try await self.readers.scanOnThread { isCancelled in
          try Self.reader(held, at: moment).run(query, isCancelled: isCancelled)
        }
      }
    }
    return try await self.settled(moment) { isSettled in
      try await self.readers.scan {
        try $0.run(query, at: moment, isSettled: isSettled, isCancelled: $1)
      }
    }
  }

  package func run(
    _ aggregation: ResolvedAggregation, at moment: Int64
  ) async throws -> AggregationAnswer {
    if let hold = self.holds.find(moment) {
      return try await hold.inTurn { held in
        try await self.readers.scanOnThread { isCancelled in
          try Self.reader(held, at: moment).run(aggregation, isCancelled: isCancelled)
        }
      }
    }
    return try await self.settled(moment) { isSettled in
      try await self.readers.scan {
        try $0.run(aggregation, at: moment, isSettled: isSettled, isCancelled: $1)
      }
    }
  }

  package func areTaken(_ addresses: [EntityAddress]) async throws -> [Bool] {
    try await self.readers.read { reader in try reader.areTaken(addresses) }
  }

  package func run(_ query: ResolvedQuery) async throws -> QueryAnswer {
    try await self.readers.scan { try $0.run(query, isCancelled: $1) }
  }

  package func run(_ aggregation: ResolvedAggregation) async throws -> AggregationAnswer {
    try await self.readers.scan { try $0.run(aggregation, isCancelled: $1) }
  }

  package func plan(_ query: ResolvedQuery) async throws -> QueryPlan {
    try await self.readers.read { reader in try reader.plan(query) }
  }
}
