import DatastoreGatewayCore
import DequeModule
import Synchronization

/// Moments that read-only transactions read: each is a transaction of the database, on a connection
/// of its own, that stays open as long as somebody needs it. Nothing was written between callers who
/// come at the same version, so they share one.
final class PostgresHolds: Sendable {
  /// A connection that holds a moment; one read at a time has it, and others wait for their turns without a thread.
  final class Hold: Sendable {
    private struct Turns {
      var isTaken = false
      var waiting: Deque<CheckedContinuation<Void, Never>> = []
    }

    private let turns = Mutex(Turns())
    /// For who is known to be alone with it.
    fileprivate let reader: Held<PostgresReader>

    fileprivate init(_ reader: PostgresReader) {
      self.reader = Held(connection: reader)
    }

    /// - Parameter body: Has the connection to itself.
    func inTurn<Answer>(
      _ body: (Held<PostgresReader>) async throws -> Answer
    ) async rethrows -> Answer {
      await withCheckedContinuation { turn in
        let begins = self.turns.withLock { turns in
          defer { turns.isTaken = true }
          if turns.isTaken { turns.waiting.append(turn) }
          return !turns.isTaken
        }
        if begins { turn.resume() }
      }
      defer {
        let next = self.turns.withLock { turns in
          let next = turns.waiting.popFirst()
          if next == nil { turns.isTaken = false }
          return next
        }
        next?.resume()
      }
      return try await body(self.reader)
    }
  }

  private struct Entry {
    var hold: Hold
    var users: Int
    /// When the last one came; nobody needs it longer than a transaction may last after that.
    var taken: ContinuousClock.Instant
  }

  private struct State {
    var entries: [Int64: Entry] = [:]
    var idle: [Hold] = []
    var opening = 0

    var count: Int { self.entries.count + self.opening }
  }

  private let state = Mutex(State())
  private let life: Duration
  private let makeReader: @Sendable () -> PostgresReader

  /// Moments at a time: each is a connection.
  private static let maximumHolds = 16

  /// - Parameter life: How long a transaction may last.
  init(life: Duration, makeReader: @escaping @Sendable () -> PostgresReader) {
    self.life = life
    self.makeReader = makeReader
  }

  /// On a thread that may wait.
  ///
  /// - Returns: The moment, and a connection that is not needed any more, to be given back.
  func hold() throws -> (moment: Int64, spare: Hold?) {
    let hold = try self.state.withLock { state in
      let now = ContinuousClock.now
      for (moment, entry) in state.entries where now - entry.taken > self.life {
        state.entries[moment] = nil
      }
      if state.count >= Self.maximumHolds {
        throw GatewayError.overloaded(
          what: "read-only transactions", limit: "\(Self.maximumHolds) moments",
          retryDelay: .milliseconds(250))
      }
      state.opening += 1
      return state.idle.popLast() ?? Hold(self.makeReader())
    }
    do {
      let moment = try hold.reader.connection.hold()
      let spare = self.state.withLock { state -> Hold? in
        state.opening -= 1
        let now = ContinuousClock.now
        if let known = state.entries[moment] {
          // The other one may have been ended by the server: it has not been asked of late.
          state.entries[moment] = Entry(hold: hold, users: known.users + 1, taken: now)
          return known.hold
        }
        state.entries[moment] = Entry(hold: hold, users: 1, taken: now)
        return nil
      }
      return (moment, spare)
    } catch {
      self.state.withLock { $0.opening -= 1 }
      throw error
    }
  }

  func find(_ moment: Int64) -> Hold? { self.state.withLock { $0.entries[moment]?.hold } }

  /// - Returns: The connection that nobody needs any more; to be given back.
  func released(_ moment: Int64) -> Hold? {
    self.state.withLock { state in
      guard var entry = state.entries[moment] else { return nil }
      entry.users -= 1
      state.entries[moment] = entry.users == 0 ? nil : entry
      return entry.users == 0 ? entry.hold : nil
    }
  }

  /// - Parameter onThread: Runs what may wait.
  func giveBack(
    _ hold: Hold, onThread: (@escaping @Sendable () -> Void) async throws -> Void
  ) async throws {
    try await hold.inTurn { reader in try await onThread { reader.connection.release() } }
    self.state.withLock { $0.idle.append(hold) }
  }
}
