import Dispatch
import NIOPosix
import Synchronization

/// Moves the log of a SQLite file into the file (a checkpoint: https://sqlite.org/wal.html) on a thread and a
/// connection of its own, while the writer goes on.
///
/// It never catches up with a writer that does not rest. So it has to move most of the log, and the writer the rest,
/// behind which the log begins anew.
///
/// Once, and only while the log has something that is not in the file yet: until that is moved the writer cannot begin
/// the log anew. A checkpoint that begins when all is moved already, while another connection commits, may lose commits
/// in SQLite before 3.51.3 (https://sqlite.org/wal.html#walresetbug).
final class SQLiteCheckpointer: Sendable {
  enum Phase {
    case resting, moving
    /// The writer has to move what came meanwhile.
    case moved
  }

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

  /// Moves the log as it is now, some of which is not in the file yet.
  func begin() {
    self.state.withLock { $0 = .moving }
    self.thread.submit { state in
      guard state == .active else { return }
      // What fails here, or is held up by a reader, is left to the next time: the log holds all of it.
      try? self.connection.connection.moveLog()
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
