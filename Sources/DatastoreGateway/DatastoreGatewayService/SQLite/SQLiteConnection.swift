import CSQLite
import Glibc

/// One connection to a database file, with the statements that were prepared on it.
///
/// Not for two threads at once: whoever holds it sees to that.
final class SQLiteConnection {
  enum Mode {
    case readWrite
    /// Synchronises its log with each commit, and writes it in large pieces (``SQLiteLogFiles``).
    case durableWrites
    /// Reads only; the file must exist.
    case readOnly
  }

  let path: String
  private let handle: OpaquePointer
  /// Pages that the log had behind this connection's last commit; 0 unless ``leaveLog()`` was called.
  private(set) var logPages = 0
  /// Prepared and at rest; one that is stepped is not among them.
  private var idle: [String: [SQLiteStatement]] = [:]
  /// Those of texts that stand in the code, by where they stand: a text's hash would cost more
  /// than what most of them do. The one of a text that is in use is among them.
  private var fixed: [UnsafePointer<UInt8>: SQLiteStatement] = [:]

  /// Statements of one text that are kept when they come to rest: joins of a few scans of one form
  /// are common, more are not worth the memory.
  private static let idleStatementsPerText = 4

  /// Counting memory takes a lock that all connections share, at each allocation.
  private static let isConfigured = csqlite_count_no_memory() == SQLITE_OK

  init(path: String, mode: Mode, lockPatience: Duration) throws(StoreFailure) {
    _ = Self.isConfigured
    var handle: OpaquePointer?
    var name = path
    var access = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE
    if mode == .readOnly {
      access = SQLITE_OPEN_READONLY
      if Self.isImmutable(path) {
        name = Self.immutableName(path)
        access |= SQLITE_OPEN_URI
      }
    }
    let files = mode == .durableWrites && SQLiteLogFiles.isRegistered ? SQLiteLogFiles.name : nil
    let code = sqlite3_open_v2(name, &handle, access | SQLITE_OPEN_NOMUTEX, files)
    guard let handle else {
      throw StoreFailure(.other, "\(path): SQLite could not be opened: out of memory")
    }
    guard code == SQLITE_OK else {
      let failure = Self.failure(handle, path: path, during: "opening it")
      sqlite3_close_v2(handle)
      throw failure
    }
    self.path = path
    self.handle = handle
    sqlite3_extended_result_codes(handle, 1)
    sqlite3_busy_timeout(handle, Int32(clamping: Int64(lockPatience / .milliseconds(1))))
    guard mode == .durableWrites else { return }
    SQLiteLogFiles.forgetWhatIsUndone(on: handle)
    try self.execute("PRAGMA synchronous = FULL")
  }

  /// Whether SQLite has to be told that nobody writes to a file: to read one it would make its log and the
  /// log's index, which this file system does not let it (https://sqlite.org/wal.html#readonly). One with a
  /// log but without its index cannot be read there.
  private static func isImmutable(_ path: String) -> Bool {
    var system = statvfs()
    guard statvfs(path, &system) == 0, system.f_flag & UInt(ST_RDONLY) != 0,
      access("\(path)-shm", F_OK) != 0
    else { return false }
    var log = stat()
    return stat("\(path)-wal", &log) != 0 || log.st_size == 0
  }

  /// https://sqlite.org/uri.html
  private static func immutableName(_ path: String) -> String {
    let plain = Set("/-._~".utf8)
    let escaped = path.utf8.map { byte in
      let character = Unicode.Scalar(byte)
      let isPlain =
        character.isASCII && character.properties.isAlphabetic
        || (0x30...0x39).contains(byte) || plain.contains(byte)
      return isPlain
        ? String(character) : "%" + String(byte >> 4, radix: 16) + String(byte & 15, radix: 16)
    }
    return "file:\(escaped.joined())?immutable=1"
  }

  deinit {
    self.idle.removeAll()
    self.fixed.removeAll()
    // Statements that are still held are finalized later; then it closes.
    sqlite3_close_v2(self.handle)
  }

  /// A statement, prepared or again at rest. It comes back by ``giveBack(_:)``.
  func take(_ text: String) throws(StoreFailure) -> SQLiteStatement {
    if let statement = self.idle[text]?.popLast() { return statement }
    return try self.prepare(text)
  }

  private func prepare(_ text: String) throws(StoreFailure) -> SQLiteStatement {
    var handle: OpaquePointer?
    let flags = UInt32(SQLITE_PREPARE_PERSISTENT)
    guard sqlite3_prepare_v3(self.handle, text, -1, flags, &handle, nil) == SQLITE_OK,
      let handle
    else { throw self.failure(during: "preparing \"\(text)\"") }
    return SQLiteStatement(handle, text: text, connection: self)
  }

  func giveBack(_ statement: SQLiteStatement) {
    statement.reset()
    let idle = self.idle[statement.text, default: []].count
    if idle < Self.idleStatementsPerText {
      self.idle[statement.text, default: []].append(statement)
    }
  }

  /// Runs a statement once with what `body` binds and reads.
  func with<Result>(
    _ text: StaticString, _ body: (SQLiteStatement) throws(StoreFailure) -> Result
  ) throws(StoreFailure) -> Result {
    let statement: SQLiteStatement
    if let kept = self.fixed[text.utf8Start], !kept.isInUse {
      statement = kept
    } else {
      // None yet, or `body` runs the same one: then the later one is kept.
      statement = try self.prepare("\(text)")
      self.fixed[text.utf8Start] = statement
    }
    statement.isInUse = true
    defer {
      statement.reset()
      statement.isInUse = false
    }
    return try body(statement)
  }

  /// Runs a statement without values and rows.
  func execute(_ text: StaticString) throws(StoreFailure) {
    try self.with(text) { (statement) throws(StoreFailure) in
      while try statement.step() {}
    }
  }

  /// As ``execute(_:)``, with a text that is put together: such are not kept.
  func execute(text: String) throws(StoreFailure) {
    let statement = try self.prepare(text)
    while try statement.step() {}
  }

  /// The first column of the only row.
  func integer(_ text: StaticString) throws(StoreFailure) -> Int64 {
    try self.with(text) { (statement) throws(StoreFailure) in
      guard try statement.step() else {
        throw StoreFailure(.corrupt, "\(self.path): \"\(text)\" has no row")
      }
      return statement.integer(0)
    }
  }

  /// Commits of this connection move the log no more, however long it is.
  func leaveLog() {
    sqlite3_wal_hook(
      self.handle,
      { context, _, _, pages in
        Unmanaged<SQLiteConnection>.fromOpaque(context!).takeUnretainedValue().logPages = Int(pages)
        return SQLITE_OK
      }, Unmanaged.passUnretained(self).toOpaque())
  }

  /// Moves the log into the file, as far as no reader needs what is there.
  func moveLog() throws(StoreFailure) { try self.execute("PRAGMA wal_checkpoint(PASSIVE)") }

  var lastInsertedRow: Int64 { sqlite3_last_insert_rowid(self.handle) }
  var isInTransaction: Bool { sqlite3_get_autocommit(self.handle) == 0 }

  /// Whether the last error is that something could not be written to the log: before a commit's last page is
  /// there.
  var hasFailedToWrite: Bool {
    [SQLITE_FULL, Self.failedWrite].contains(sqlite3_extended_errcode(self.handle))
  }

  /// SQLITE_IOERR_WRITE, a macro that Swift does not see.
  static let failedWrite = SQLITE_IOERR | 3 << 8

  /// The error that the last call on this connection left.
  func failure(during action: String) -> StoreFailure {
    Self.failure(self.handle, path: self.path, during: action)
  }

  /// SQLITE_IOERR_FSYNC and SQLITE_IOERR_DIR_FSYNC, macros that Swift does not see.
  private static let failedSynchronisations = [SQLITE_IOERR | 4 << 8, SQLITE_IOERR | 5 << 8]

  private static func failure(
    _ handle: OpaquePointer, path: String, during action: String
  ) -> StoreFailure {
    let code = sqlite3_extended_errcode(handle)
    let kind: StoreFailure.Kind =
      switch code & 0xFF {
      case SQLITE_FULL: .full
      case SQLITE_READONLY, SQLITE_PERM: .readOnly
      case SQLITE_BUSY, SQLITE_LOCKED: .locked
      case SQLITE_CORRUPT, SQLITE_NOTADB: .corrupt
      case SQLITE_IOERR: .inputOutput
      case SQLITE_CANTOPEN: .inputOutput
      default: .other
      }
    var text = "\(path): \(String(cString: sqlite3_errmsg(handle))) (SQLite \(code)"
    let number = sqlite3_system_errno(handle)
    if number != 0, kind != .corrupt { text += ", \(String(cString: strerror(number)))" }
    text += ") while \(action)"
    // A full disk shows itself as a failed write too. What a failed synchronisation leaves is not known, and the
    // number may be of an earlier failure.
    guard kind == .inputOutput, !Self.failedSynchronisations.contains(code) else {
      return StoreFailure(kind, text)
    }
    return StoreFailure(
      number == ENOSPC || number == EDQUOT ? .full : number == EROFS ? .readOnly : kind, text)
  }
}

/// A prepared statement. It holds its connection's promise: one thread at a time.
final class SQLiteStatement {
  let text: String
  /// Whether it is being run: one of a fixed text stays where it is found.
  fileprivate var isInUse = false
  private let handle: OpaquePointer
  private unowned let connection: SQLiteConnection

  fileprivate init(_ handle: OpaquePointer, text: String, connection: SQLiteConnection) {
    self.handle = handle
    self.text = text
    self.connection = connection
  }

  deinit { sqlite3_finalize(self.handle) }

  /// Binds the value of the parameter with this number, from 1.
  func bind(_ index: Int32, _ value: Int64) {
    let code = sqlite3_bind_int64(self.handle, index, value)
    precondition(code == SQLITE_OK, "\"\(self.text)\" has no parameter \(index)")
  }

  func bind(_ index: Int32, _ bytes: [UInt8]) throws(StoreFailure) {
    let code = bytes.withUnsafeBytes {
      csqlite_bind_copy(self.handle, index, $0.baseAddress, UInt64($0.count))
    }
    // Beside a wrong index, memory or the largest size of a value.
    guard code == SQLITE_OK else { throw self.connection.failure(during: "binding values") }
  }

  /// Goes to the next row, or does what the statement does.
  ///
  /// - Returns: Whether there is a row.
  func step() throws(StoreFailure) -> Bool {
    switch sqlite3_step(self.handle) {
    case SQLITE_ROW: return true
    case SQLITE_DONE: return false
    default:
      throw self.connection.failure(during: "running \"\(self.text)\"")
    }
  }

  func integer(_ column: Int32) -> Int64 { sqlite3_column_int64(self.handle, column) }

  func bytes(_ column: Int32) -> [UInt8] { self.withBytes(column) { Array($0) } }

  /// - Parameter body: With what is valid during the call only.
  func withBytes<Result, Failure: Error>(
    _ column: Int32, _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    guard let start = sqlite3_column_blob(self.handle, column) else {
      return try body(UnsafeRawBufferPointer(start: nil, count: 0))
    }
    let count = Int(sqlite3_column_bytes(self.handle, column))
    return try body(UnsafeRawBufferPointer(start: start, count: count))
  }

  /// Puts it to rest, so that it can be run again and holds no lock.
  func reset() {
    sqlite3_reset(self.handle)
    sqlite3_clear_bindings(self.handle)
  }
}
