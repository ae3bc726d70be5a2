import Dispatch
import NIOPosix
import Synchronization

/// Moves the log of a SQLite file into the file (a checkpoint: https://sqlite.org/wal.html) on a thread and a
/// connection of its own, while the writer goes on.
///
/// It never catches up with a writer that does not rest. So it has to move most of the log, and the writer the rest,
/// behind which the log begins anew.
final class SQLiteCheckpointer: Sendable {
  enum Phase {
    case resting, moving
    /// The writer has to move what came meanwhile.
    case moved
  }

  /// Each moves what came while the one before it did: the last leaves the writer little.
  private static let passes = 3

  private let connection: Held<SQLiteConnection>
  private let thread = NIOThreadPool(numberOfThreads: 1)
  private let state = Mutex(Phase.resting)

  init(path: String, lockPatience: Duration) throws(StoreFailure) {
    self.connection = Held(
      connection: try SQLiteConnection(path: path, mode: .readWrite, lockPatience: lockPatience))
    try self.connection.connection.execute("PRAGMA synchronous = FULL")
    self.thread.start()
  }

  deinit { self.thread.shutdownGracefully { _ in } }

  var phase: Phase { self.state.withLock { $0 } }

  /// Moves the log as it is now.
  func begin() {
    self.state.withLock { $0 = .moving }
    self.thread.submit { state in
      guard state == .active else { return }
      // What fails here, or is held up by a reader, is left to the next time: the log holds all of it.
      for _ in 0..<Self.passes { try? self.connection.connection.moveLog() }
      self.state.withLock { $0 = .moved }
    }
  }

  /// Waits for what is being moved.
  func wait() {
    let isDone = DispatchSemaphore(value: 0)
    self.thread.submit { _ in isDone.signal() }
    isDone.wait()
  }

  /// The writer has moved the rest.
  func rest() { self.state.withLock { $0 = .resting } }
}
