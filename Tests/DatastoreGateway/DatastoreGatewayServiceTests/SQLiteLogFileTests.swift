import DatastoreGatewayTesting
import Glibc
import Testing

@testable import DatastoreGatewayService

@Suite struct SQLiteLogFileTests {
  /// The writer's settings, and a cache that a few rows fill: what does not fit is in the log before the commit.
  private static func writer(_ path: String) throws -> SQLiteConnection {
    let writer = try SQLiteConnection(
      path: path, mode: .durableWrites, lockPatience: .milliseconds(20))
    try writer.execute("PRAGMA journal_mode = WAL")
    try writer.execute("PRAGMA cache_size = 10")
    writer.leaveLog()
    return writer
  }

  private static func insert(_ count: Int64, of size: Int, into connection: SQLiteConnection) throws
  {
    for number in 0..<count {
      try connection.with("INSERT INTO blobs (content) VALUES (?)") {
        (statement) throws(StoreFailure) in
        try statement.bind(1, [UInt8](repeating: UInt8(number % 251), count: size))
        _ = try statement.step()
      }
    }
  }

  private static let sum: StaticString =
    "SELECT count(*) * 1000000 + coalesce(sum(length(content)), 0) FROM blobs"

  /// What another process finds if this one dies now: the files as the system has them.
  private static func afterDeath(_ path: String) throws -> Int64 {
    let copy = "\(path)-copy"
    for end in ["", "-wal"] {
      let file = try #require(fopen("\(path)\(end)", "r"))
      defer { fclose(file) }
      let other = try #require(fopen("\(copy)\(end)", "w"))
      defer { fclose(other) }
      var bytes = [UInt8](repeating: 0, count: 1 << 16)
      while true {
        let count = fread(&bytes, 1, bytes.count, file)
        if count == 0 { break }
        #expect(fwrite(bytes, 1, count, other) == count)
      }
    }
    let found = try SQLiteConnection(path: copy, mode: .readWrite, lockPatience: .zero)
    #expect(
      try found.integer("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'")
        == 1)
    return try found.integer(Self.sum)
  }

  @Test(arguments: [(3, 100), (500, 900), (40, 300_000)] as [(Int64, Int)])
  func whatIsCommittedIsInTheFileAndWhatIsUndoneIsNot(count: Int64, size: Int) throws {
    let folder = try TestFolder()
    defer { folder.remove() }
    let writer = try Self.writer(folder.file)
    try writer.execute("CREATE TABLE blobs (id INTEGER PRIMARY KEY, content BLOB)")
    let reader = try SQLiteConnection(path: folder.file, mode: .readOnly, lockPatience: .zero)
    let once = count * 1_000_000 + count * Int64(size)

    try writer.execute("BEGIN IMMEDIATE")
    try Self.insert(count, of: size, into: writer)
    #expect(try writer.integer(Self.sum) == once)
    #expect(try reader.integer(Self.sum) == 0)
    #expect(try Self.afterDeath(folder.file) == 0)
    try writer.execute("COMMIT")
    #expect(try reader.integer(Self.sum) == once)
    #expect(try Self.afterDeath(folder.file) == once)

    try writer.execute("BEGIN IMMEDIATE")
    try Self.insert(2 * count, of: size, into: writer)
    #expect(try writer.integer(Self.sum) == 3 * once)
    try writer.execute("ROLLBACK")
    #expect(try Self.afterDeath(folder.file) == once)

    // Where the log begins anew, too.
    try writer.moveLog()
    try writer.execute("BEGIN IMMEDIATE")
    try Self.insert(count, of: size, into: writer)
    try writer.execute("COMMIT")
    #expect(try reader.integer(Self.sum) == 2 * once)
    #expect(try Self.afterDeath(folder.file) == 2 * once)
  }

  @Test(arguments: [3, 40, 500] as [Int64])
  func whatIsUndoneNeverOverwritesWhatAnotherProcessCommits(count: Int64) throws {
    let folder = try TestFolder()
    defer { folder.remove() }
    let writer = try Self.writer(folder.file)
    try writer.execute("CREATE TABLE blobs (id INTEGER PRIMARY KEY, content BLOB)")
    // As the `sqlite3` shell of somebody who looks after the store.
    let other = try SQLiteConnection(path: folder.file, mode: .readWrite, lockPatience: .zero)
    let size = 5_000
    // All is in the file: nothing that is undone has to be read from the log.
    try writer.moveLog()

    try writer.execute("BEGIN IMMEDIATE")
    try Self.insert(count, of: size, into: writer)
    try writer.execute("ROLLBACK")
    try other.execute("BEGIN IMMEDIATE")
    try Self.insert(2 * count, of: size, into: other)
    try other.execute("COMMIT")
    try writer.execute("BEGIN IMMEDIATE")
    try Self.insert(1, of: size, into: writer)
    try writer.execute("COMMIT")

    let inserted = 2 * count + 1
    #expect(try Self.afterDeath(folder.file) == inserted * 1_000_000 + inserted * Int64(size))
  }
}
