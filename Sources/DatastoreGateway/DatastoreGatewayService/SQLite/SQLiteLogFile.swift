import CSQLite
import Glibc

/// A virtual file system of SQLite (https://sqlite.org/vfs.html) that writes logs in large pieces.
///
/// SQLite writes each page of a commit with two system calls, its head and its content. Here they are gathered, and
/// written before anybody could miss them: before the log is synchronised, and before anything of it is read. Of a
/// long commit the disk gets the first pieces while the others are made.
///
/// For a connection that synchronises its log with each commit, which it does before others can see the commit.
enum SQLiteLogFiles {
  /// What a connection is opened with.
  static let name = "millrace-log"

  /// Whether SQLite knows it; once for all connections.
  static let isRegistered = Self.register()

  private static func register() -> Bool {
    guard let system = sqlite3_vfs_find(nil) else { return false }
    let files = UnsafeMutablePointer<sqlite3_vfs>.allocate(capacity: 1)
    files.initialize(to: system.pointee)
    files.pointee.pNext = nil
    files.pointee.zName = UnsafePointer(strdup(Self.name))
    // Handed on to ``open``.
    files.pointee.pAppData = UnsafeMutableRawPointer(system)
    files.pointee.szOsFile += Int32(MemoryLayout<SQLiteLogFile>.stride)
    files.pointee.xOpen = { files, path, file, flags, opened in
      guard let files, let file else { return SQLITE_MISUSE }
      let system = files.pointee.pAppData.assumingMemoryBound(to: sqlite3_vfs.self)
      guard flags & SQLITE_OPEN_WAL != 0 else {
        return system.pointee.xOpen(system, path, file, flags, opened)
      }
      return SQLiteLogFile.open(UnsafeMutableRawPointer(file), path, flags, opened, in: system)
    }
    return sqlite3_vfs_register(files, 0) == SQLITE_OK
  }

  /// Has a connection give up what it gathered for a transaction when that is undone.
  ///
  /// Part of one that does not fit into the cache is written early. Written after the transaction it would overwrite
  /// what another process has committed there meanwhile.
  static func forgetWhatIsUndone(on connection: OpaquePointer) {
    sqlite3_rollback_hook(
      connection,
      { connection in
        var log: UnsafeMutablePointer<sqlite3_file>?
        let code = sqlite3_file_control(
          OpaquePointer(connection), "main", SQLITE_FCNTL_JOURNAL_POINTER, &log)
        if code == SQLITE_OK { SQLiteLogFile.forget(log) }
      }, UnsafeMutableRawPointer(connection))
  }
}

/// A log that is open, in memory that SQLite gives for it; the system's file follows in the same.
private struct SQLiteLogFile {
  /// The system's files take less than 128 KiB in one go (`os_unix.c`).
  private static let capacity = 31 * 4_096

  /// First, for this is a `sqlite3_file`.
  private var base: sqlite3_file
  private let system: UnsafeMutablePointer<sqlite3_file>
  private let gathered: UnsafeMutableRawPointer
  /// Where in the file `gathered` begins.
  private var start: sqlite3_int64 = 0
  private var count = 0
  /// Of the same file, or -1: SQLite does not tell its own.
  private let descriptor: Int32

  static func open(
    _ memory: UnsafeMutableRawPointer, _ path: UnsafePointer<CChar>?, _ flags: Int32,
    _ opened: UnsafeMutablePointer<Int32>?, in files: UnsafeMutablePointer<sqlite3_vfs>
  ) -> Int32 {
    let system = (memory + MemoryLayout<Self>.stride).assumingMemoryBound(to: sqlite3_file.self)
    let code = files.pointee.xOpen(files, path, system, flags, opened)
    guard code == SQLITE_OK else {
      // SQLite closes what has methods, also when it could not be opened.
      if let methods = system.pointee.pMethods { _ = methods.pointee.xClose(system) }
      memory.assumingMemoryBound(to: sqlite3_file.self).pointee.pMethods = nil
      return code
    }
    memory.initializeMemory(
      as: Self.self,
      to: Self(
        base: sqlite3_file(pMethods: Self.methods), system: system,
        gathered: .allocate(byteCount: Self.capacity, alignment: 4_096),
        descriptor: path.map { Glibc.open($0, O_RDONLY | O_CLOEXEC) } ?? -1))
    return SQLITE_OK
  }

  private var methods: sqlite3_io_methods { self.system.pointee.pMethods.pointee }

  private mutating func write(
    _ bytes: UnsafeRawPointer, _ byteCount: Int, at offset: sqlite3_int64
  ) -> Int32 {
    precondition(
      byteCount <= Self.capacity, "SQLite writes \(byteCount) bytes, more than a page has")
    let isFull = self.count + byteCount > Self.capacity
    if isFull || offset != self.start + Int64(self.count) {
      let code = self.flush(goesOn: isFull)
      guard code == SQLITE_OK else { return code }
      self.start = offset
    }
    (self.gathered + self.count).copyMemory(from: bytes, byteCount: byteCount)
    self.count += byteCount
    return SQLITE_OK
  }

  /// What cannot be written is given up: then SQLite undoes the commit, as it does when it writes itself.
  ///
  /// - Parameter goesOn: More of the commit follows; the disk may begin with this.
  private mutating func flush(goesOn: Bool = false) -> Int32 {
    guard self.count > 0 else { return SQLITE_OK }
    let (start, count) = (self.start, self.count)
    self.start += Int64(count)
    self.count = 0
    let code = self.methods.xWrite(self.system, self.gathered, Int32(count), start)
    // A hint: what fails here fails again when the log is synchronised.
    if goesOn && code == SQLITE_OK {
      _ = csqlite_begin_writing(self.descriptor, start, Int64(count))
    }
    return code
  }

  /// - Parameter file: What SQLite calls a connection's journal; of another file system if that is not a log.
  static func forget(_ file: UnsafeMutablePointer<sqlite3_file>?) {
    guard let file, file.pointee.pMethods == Self.methods else { return }
    _ = Self.with(file) { log in
      log.count = 0
      return SQLITE_OK
    }
  }

  /// Does something with the system's file that needs what was gathered to be in it.
  private static func flushed(
    _ file: UnsafeMutablePointer<sqlite3_file>?,
    _ body: (sqlite3_io_methods, UnsafeMutablePointer<sqlite3_file>) -> Int32
  ) -> Int32 {
    Self.with(file) { log in
      let code = log.flush()
      return code == SQLITE_OK ? body(log.methods, log.system) : code
    }
  }

  /// As ``flushed(_:_:)``, for what is no writing: there SQLite takes a full disk for the end of a statement, and what
  /// is lost here may be of earlier ones. Any other error ends the transaction.
  private static func flushedToRead(
    _ file: UnsafeMutablePointer<sqlite3_file>?,
    _ body: (sqlite3_io_methods, UnsafeMutablePointer<sqlite3_file>) -> Int32
  ) -> Int32 {
    let code = Self.flushed(file, body)
    return code == SQLITE_FULL ? SQLiteConnection.failedWrite : code
  }

  private static func with(
    _ file: UnsafeMutablePointer<sqlite3_file>?, _ body: (inout Self) -> Int32
  ) -> Int32 {
    guard let file else { return SQLITE_MISUSE }
    return body(&UnsafeMutableRawPointer(file).assumingMemoryBound(to: Self.self).pointee)
  }

  /// Version 1: a log is locked by its database's file, and not mapped.
  nonisolated(unsafe) private static let methods: UnsafePointer<sqlite3_io_methods> = {
    var methods = sqlite3_io_methods()
    methods.iVersion = 1
    methods.xClose = { file in
      Self.with(file) { log in
        // What is still gathered was not committed: nobody wants it.
        log.gathered.deallocate()
        if log.descriptor >= 0 { Glibc.close(log.descriptor) }
        return log.methods.xClose(log.system)
      }
    }
    methods.xRead = { file, bytes, count, offset in
      Self.flushedToRead(file) { $0.xRead($1, bytes, count, offset) }
    }
    methods.xWrite = { file, bytes, count, offset in
      guard let bytes else { return SQLITE_MISUSE }
      return Self.with(file) { $0.write(bytes, Int(count), at: offset) }
    }
    methods.xTruncate = { file, size in Self.flushed(file) { $0.xTruncate($1, size) } }
    methods.xSync = { file, flags in Self.flushed(file) { $0.xSync($1, flags) } }
    methods.xFileSize = { file, size in Self.flushedToRead(file) { $0.xFileSize($1, size) } }
    methods.xLock = { file, lock in Self.with(file) { $0.methods.xLock($0.system, lock) } }
    methods.xUnlock = { file, lock in Self.with(file) { $0.methods.xUnlock($0.system, lock) } }
    methods.xCheckReservedLock = { file, isReserved in
      Self.with(file) { $0.methods.xCheckReservedLock($0.system, isReserved) }
    }
    methods.xFileControl = { file, operation, argument in
      Self.with(file) { $0.methods.xFileControl($0.system, operation, argument) }
    }
    methods.xSectorSize = { file in Self.with(file) { $0.methods.xSectorSize($0.system) } }
    methods.xDeviceCharacteristics = { file in
      Self.with(file) { $0.methods.xDeviceCharacteristics($0.system) }
    }
    let pointer = UnsafeMutablePointer<sqlite3_io_methods>.allocate(capacity: 1)
    pointer.initialize(to: methods)
    return UnsafePointer(pointer)
  }()
}
