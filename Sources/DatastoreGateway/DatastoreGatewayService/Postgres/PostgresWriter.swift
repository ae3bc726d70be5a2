import DatastoreGatewayCore
import Domain
import Glibc

/// Writes batches of commits over one connection. One thread at a time has it.
///
/// A batch is one transaction. It first locks the row of the greatest version, which every writer of
/// every gateway does and keeps locked until its commit is on the disk: so batches are decided and
/// written one after the other, each one sees all that those before it wrote, and versions grow in
/// the order of commits. Which row is locked, and why that is enough, is in decision 14.
final class PostgresWriter: BatchWriter {
  private let session: PostgresSession
  private let names: PostgresNames
  private let clock: @Sendable () -> Timestamp
  private let patience: Duration
  private let policy: Policy
  /// The fact that holds the version of this writer's last batch: so it finds out what became of one
  /// when the connection was lost before the answer came.
  private let fact: String
  private let past: PostgresPast
  /// Told when the past is to be given room, after a batch was written.
  private let pastIsDue: () -> Void

  /// Facts of writers that have written nothing for so long are removed.
  private static let forgottenAfter = Duration.seconds(7 * 24 * 3_600)

  /// - Parameter patience: How long a batch waits for a server that has gone away.
  init(
    _ address: PostgresAddress, names: PostgresNames, connectPatience: Duration,
    patience: Duration, policy: Policy, past: PostgresPast, pastIsDue: @escaping () -> Void,
    clock: @escaping @Sendable () -> Timestamp
  ) {
    // Who finds a fact of one that keeps no past knows how far back the past is not whole.
    let fact =
      (past.isKept ? "writer3:" : "writer:") + String(UInt64.random(in: .min ... .max), radix: 16)
    self.past = past
    self.pastIsDue = pastIsDue
    self.names = names
    self.clock = clock
    self.patience = patience
    self.policy = policy
    self.fact = fact
    self.session = PostgresSession(address, patience: connectPatience) { _ in names.forget() }
  }

  private var place: String { self.session.address.description }

  /// Connects, waiting for a server that is not there yet, and makes the database a store if it is
  /// new.
  func prepare(within patience: Duration) throws(StoreFailure) {
    try PostgresSchema.prepare(try self.session.connection(within: patience))
  }

  // MARK: - Batches

  func write(_ batch: [WriterWork]) throws(StoreFailure) -> WrittenBatch {
    var mayRetry = true
    while true {
      let attempt = Attempt()
      do throws(StoreFailure) {
        return try self.write(batch, attempt)
      } catch {
        let isLost = !self.session.isConnected
        self.session.rollBack()
        if error.kind == .readOnly, !isLost { self.session.abandon(error) }
        if !isLost { throw error }
        if let version = attempt.committing {
          guard let isThere = self.isCommitted(version) else {
            throw StoreFailure(
              .outcomeUnknown, "\(error); whether the commit will be there is not known")
          }
          if isThere { return WrittenBatch(outcomes: attempt.outcomes, hasWritten: true) }
          guard mayRetry else { throw error }
        } else {
          guard mayRetry, attempt.wasConnected else { throw error }
          _ = try self.session.connection(within: self.patience)
        }
        mayRetry = false
      }
    }
  }

  /// How far one attempt at a batch came.
  private final class Attempt {
    var wasConnected = false
    var outcomes: [WriterOutcome] = []
    /// The version of the batch, when the commit may have gone out.
    var committing: Int64?
  }

  private func write(
    _ work: [WriterWork], _ attempt: Attempt
  ) throws(StoreFailure) -> WrittenBatch {
    attempt.wasConnected = self.session.isConnected
    let connection = try self.session.connection()
    let wanted = PostgresBatchReads(work)
    var ids = wanted.knownCollections(self.names)
    var batch = PostgresBatch(
      try wanted.read(connection, &ids), at: self.place, policy: self.policy, clock: self.clock)
    var outcomes: [WriterOutcome] = []
    outcomes.reserveCapacity(work.count)
    for work in work { outcomes.append(batch.take(work)) }
    guard batch.hasWrites else {
      _ = try connection.run(PostgresQuery("ROLLBACK"))
      self.names.learn(ids, [:])
      return WrittenBatch(outcomes: outcomes, hasWritten: false)
    }
    var writes = PostgresBatchWrites(
      batch, ids: ids, names: self.names, keepsPast: self.past.isKept)
    try writes.number(connection)
    attempt.outcomes = outcomes
    attempt.committing = batch.lastVersion
    _ = try connection.run(
      writes.queries + [
        PostgresQuery(
          """
          INSERT INTO facts VALUES ('last_version', $1), ($2, $1)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value
          """, .integer(batch.lastVersion), .text(self.fact)), PostgresQuery("COMMIT"),
      ])
    self.names.learn(writes.collections, writes.properties)
    let (count, bytes) = batch.replaced
    if self.past.replaced(count, contentBytes: bytes) { self.pastIsDue() }
    return WrittenBatch(outcomes: outcomes, hasWritten: true)
  }

  /// Whether the batch with this version was committed; `nil` if that cannot be found out now.
  private func isCommitted(_ version: Int64) -> Bool? {
    let deadline = ContinuousClock.now + self.patience
    while ContinuousClock.now < deadline {
      do throws(StoreFailure) {
        let connection = try self.session.connection(within: self.patience)
        // The lock is given when the lost connection's transaction is over.
        let rows = try connection.run([
          PostgresQuery("BEGIN"), .lockedVersion,
          PostgresQuery("SELECT value FROM facts WHERE name = $1", .text(self.fact)),
          PostgresQuery("ROLLBACK"),
        ])
        return rows[2].count == 1 && rows[2].integer(0, 0) == version
      } catch {
        self.session.rollBack()
        usleep(100_000)
      }
    }
    return nil
  }

  /// Before anything is written in the present form, older gateways are to know it.
  func upgrade() throws(StoreFailure) {
    try PostgresSchema.upgrade(try self.session.connection())
  }

  /// Removes what writers of the past have left.
  func forgetOldWriters() throws(StoreFailure) {
    let before = (self.clock() - Self.forgottenAfter).microseconds
    let connection = try self.session.connection()
    _ = try connection.run(PostgresPast.rememberOthers)
    _ = try connection.run(
      PostgresQuery(
        "DELETE FROM facts WHERE name ~ '^writer3?:' AND value < $1", .integer(before)))
  }
}

extension PostgresQuery {
  /// Takes the lock of all writers and gives the greatest version.
  static let lockedVersion = PostgresQuery(
    "SELECT value FROM facts WHERE name = 'last_version' FOR NO KEY UPDATE")
}
