import CPostgres
import DatastoreGatewayCore
import DatastoreGatewayService
import DatastoreGatewayTesting
import Domain
import Glibc
import RPC
import ServiceRuntime
import Synchronization
import Testing

/// The stores that tests of all stores run on.
enum StoreKind: String, Sendable, CustomTestStringConvertible {
  case sqlite, postgres

  /// Those that this machine has.
  static let all: [StoreKind] = {
    if PostgresServer.isInstalled { return [.sqlite, .postgres] }
    print("tests of the PostgreSQL store are skipped: \(PostgresServer.whyNot)")
    return [.sqlite]
  }()

  var testDescription: String { self.rawValue }
}

/// What tests set of a store, whichever it is.
struct StoreSettings: Sendable {
  var policy = Policy()
  var readers = 2
  var pastBytes = 32 << 20
}

/// A database of one test's own, in a server that all tests of this process share.
struct TestDatabase: Sendable {
  let server: PostgresServer
  let name: String

  private static let shared = Mutex<PostgresServer?>(nil)
  private static let numbers = Atomic(0)

  /// Made by the first test that needs it; ended with the process.
  private static func sharedServer() throws -> PostgresServer {
    try self.shared.withLock { server in
      if let server { return server }
      let new = try PostgresServer(options: [
        // Its processes may be killed, the machine is not.
        "fsync=off", "full_page_writes=off", "max_connections=500", "autovacuum=off",
        "shared_buffers=64MB",
      ])
      atexit {
        TestDatabase.shared.withLock {
          $0?.kill()
          $0?.removeFolder()
        }
      }
      server = new
      return new
    }
  }

  init(on server: PostgresServer? = nil) throws {
    self.server = try server ?? Self.sharedServer()
    self.name = "test\(Self.numbers.add(1, ordering: .relaxed).newValue)"
    try self.server.execute("CREATE DATABASE \(self.name)")
  }

  var address: PostgresAddress {
    get throws { try PostgresAddress(self.server.address(of: self.name)) }
  }

  func open(
    _ settings: StoreSettings = StoreSettings(),
    clock: @escaping @Sendable () -> Timestamp = { .now }
  ) throws -> PostgresStore {
    var configuration = PostgresStore.Configuration(try self.address)
    configuration.readers = settings.readers
    configuration.policy = settings.policy
    configuration.pastBytes = settings.pastBytes
    return try PostgresStore(
      configuration, metrics: Metrics(MetricsRegistry()), logger: quietLogger, clock: clock)
  }

  /// Runs a statement as another program would.
  @discardableResult
  func execute(_ statement: String) throws -> [[String]] {
    try self.server.execute(statement, in: self.name)
  }

  func remove() {
    _ = try? self.server.execute("DROP DATABASE \(self.name) WITH (FORCE)")
  }
}

/// Gives a test a database, and removes it. Few tests have one at a time: each statement is another
/// process' work, and all of them at once would keep each other from ending in time.
func withDatabase(_ body: (TestDatabase) async throws -> Void) async throws {
  await Turns.ofDatabases.take()
  do {
    let database = try TestDatabase()
    defer { database.remove() }
    try await body(database)
  } catch {
    await Turns.ofDatabases.giveBack()
    throw error
  }
  await Turns.ofDatabases.giveBack()
}

/// Lets a few in at a time, in their order.
private actor Turns {
  static let ofDatabases = Turns(4)

  private var free: Int
  private var waiting: [CheckedContinuation<Void, Never>] = []

  init(_ count: Int) {
    self.free = count
  }

  func take() async {
    if self.free > 0 {
      self.free -= 1
    } else {
      await withCheckedContinuation { self.waiting.append($0) }
    }
  }

  func giveBack() {
    if self.waiting.isEmpty { self.free += 1 } else { self.waiting.removeFirst().resume() }
  }
}

extension PostgresServer {
  struct StatementError: Error, CustomStringConvertible {
    var description: String
  }

  /// Runs a statement over a connection of its own, waiting for a server that starts.
  ///
  /// - Returns: Rows of columns.
  @discardableResult
  func execute(_ statement: String, in database: String = "postgres") throws -> [[String]] {
    var connection = PQconnectdb(self.address(of: database))
    for _ in 0..<500 where PQstatus(connection) != CONNECTION_OK {
      PQfinish(connection)
      usleep(20_000)
      connection = PQconnectdb(self.address(of: database))
    }
    defer { PQfinish(connection) }
    let result = PQexec(connection, statement)
    defer { PQclear(result) }
    guard [PGRES_COMMAND_OK, PGRES_TUPLES_OK].contains(PQresultStatus(result)) else {
      throw StatementError(description: String(cString: PQerrorMessage(connection)))
    }
    return (0..<PQntuples(result)).map { row in
      (0..<PQnfields(result)).map { String(cString: PQgetvalue(result, row, $0)) }
    }
  }
}
