import CPostgres
import Glibc

/// One connection to a PostgreSQL server, in libpq's non-blocking pipeline mode: statements go out
/// together and their answers come back in one go.
///
/// Calls wait with `poll`, on a thread that may. Not for two threads at once: whoever holds it sees
/// to that. After a failure ``isLost`` tells whether it is of any more use.
final class PostgresConnection {
  let address: PostgresAddress
  private let handle: OpaquePointer
  /// The names of the statements that are prepared, by their texts.
  private var prepared: [String: String] = [:]
  /// Statements of which the server keeps what it prepared: each may take a megabyte of it.
  private static let maximumPrepared = 128
  /// Longer ones are seldom asked twice, and take most.
  private static let maximumPreparedBytes = 4_096
  private(set) var isLost = false
  /// Statements that were ever prepared, for their names.
  private var statementCount = 0

  /// What every session of ours needs: plans that follow an index whatever the statistics say, and
  /// an answer that means that the commit is on the disk.
  private static let settings = [
    "SET client_min_messages = warning",
    "SET search_path = \(PostgresSchema.name), pg_catalog",
    "SET enable_seqscan = off", "SET enable_bitmapscan = off",
    "SET enable_hashjoin = off", "SET enable_mergejoin = off",
    "SET plan_cache_mode = force_generic_plan", "SET jit = off",
    "SET statement_timeout = 0",
    // Batches see what was committed before they had the lock.
    "SET default_transaction_isolation = 'read committed'",
    "SET default_transaction_deferrable = off",
    // A gateway that hangs in the middle of a commit must not hold up the others for ever. It decides in the middle:
    // of the largest commits, for seconds.
    "SET idle_in_transaction_session_timeout = '25s'",
    "SET lock_timeout = '30s'",
    // Since version 17.
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'",
    """
    SELECT set_config('synchronous_commit', 'on', false)
      WHERE current_setting('synchronous_commit') IN ('off', 'local')
    """,
  ]

  /// Version 12; older ones are out of support.
  private static let oldestServer: Int32 = 120_000

  /// How long one of several hosts may take, where the address does not say.
  private static let hostPatience = Duration.seconds(2)

  /// Connects to the first of the address' hosts that can be reached and is as the address wants it
  /// (`target_session_attrs`).
  ///
  /// - Parameter patience: How long a server may take to answer.
  convenience init(_ address: PostgresAddress, patience: Duration) throws(StoreFailure) {
    let isOne = address.hosts.count == 1
    let most = address.connectTimeout ?? (isOne ? patience : Self.hostPatience)
    for host in address.hosts.dropLast() {
      do throws(StoreFailure) {
        try self.init(address, host, patience: min(patience, most))
        return
      } catch  where error.kind == .unreachable {
        // The next one, then.
      }
    }
    try self.init(address, address.hosts[address.hosts.count - 1], patience: min(patience, most))
  }

  private init(
    _ address: PostgresAddress, _ host: [PostgresAddress.Parameter], patience: Duration
  ) throws(StoreFailure) {
    self.address = address
    let own = [
      PostgresAddress.Parameter(keyword: "client_encoding", value: "UTF8"),
      PostgresAddress.Parameter(
        keyword: "fallback_application_name", value: "millrace-datastore-gateway"),
    ]
    let words = address.parameters + host + own
    var keywords: [UnsafePointer<CChar>?] = words.map { UnsafePointer(strdup($0.keyword)) }
    var values: [UnsafePointer<CChar>?] = words.map { UnsafePointer(strdup($0.value)) }
    keywords.append(nil)
    values.append(nil)
    defer { for word in keywords + values { free(UnsafeMutablePointer(mutating: word)) } }
    guard let handle = PQconnectStartParams(keywords, values, 0) else {
      throw StoreFailure(.other, "\(address): out of memory")
    }
    self.handle = handle
    // With each error's SQLSTATE, for which there is no other way yet.
    PQsetErrorVerbosity(handle, PQERRORS_VERBOSE)
    try Self.finishConnecting(handle, to: address, until: .now + patience)
    PQsetErrorVerbosity(handle, PQERRORS_DEFAULT)
    PQsetNoticeReceiver(handle, { _, _ in }, nil)
    guard PQserverVersion(handle) >= Self.oldestServer else {
      throw StoreFailure(
        .refused, "\(address): the server is older than version \(Self.oldestServer / 10_000)")
    }
    guard PQsetnonblocking(handle, 1) == 0, PQenterPipelineMode(handle) == 1 else {
      throw StoreFailure(.other, "\(address): \(Self.message(handle))")
    }
    _ = try self.run(Self.settings.map { PostgresQuery($0) }, patience: patience)
  }

  deinit { PQfinish(self.handle) }

  // MARK: - Connecting

  private static func finishConnecting(
    _ handle: OpaquePointer, to address: PostgresAddress, until deadline: ContinuousClock.Instant
  ) throws(StoreFailure) {
    var polling = PGRES_POLLING_WRITING
    while PQstatus(handle) != CONNECTION_BAD {
      switch polling {
      case PGRES_POLLING_OK: return
      case PGRES_POLLING_READING, PGRES_POLLING_WRITING:
        let events = polling == PGRES_POLLING_READING ? POLLIN : POLLOUT
        guard Self.wait(PQsocket(handle), for: events, until: deadline) else {
          throw StoreFailure(.unreachable, "\(address): the server does not answer")
        }
        polling = PQconnectPoll(handle)
      default: break
      }
      if polling == PGRES_POLLING_FAILED { break }
    }
    throw Self.connectFailure(Self.message(handle), address)
  }

  /// libpq gives the error of a connection that was refused as a text only: `FATAL:  28P01: ...`.
  private static func connectFailure(
    _ message: String, _ address: PostgresAddress
  ) -> StoreFailure {
    let parts = message.split(separator: ": ", omittingEmptySubsequences: true)
    for (number, part) in parts.enumerated() {
      let state = part.drop { $0 == " " }
      guard state.utf8.count == 5, number + 1 < parts.count,
        state.utf8.allSatisfy({ (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) }),
        state.contains(where: \.isNumber)
      else { continue }
      let reason = parts[(number + 1)...].joined(separator: ": ")
      return StoreFailure(
        sqlState: String(state), message: reason.split(separator: ";").first.map(String.init) ?? "",
        at: address, during: "connecting")
    }
    // The client's own: nobody listens, or the name is unknown.
    let kind: StoreFailure.Kind = message.contains("password") ? .refused : .unreachable
    return StoreFailure(kind, "\(address): \(message)")
  }

  // MARK: - Statements

  /// Runs statements in their order and gives what each one answers. If one fails, those behind it
  /// are not run; a transaction that was begun is then to be rolled back.
  func run(
    _ queries: [PostgresQuery], patience: Duration = .seconds(60)
  ) throws(StoreFailure) -> [PostgresRows] {
    guard !self.isLost else { throw self.lost("the connection was lost") }
    var exchange = Exchange(answers: [])
    if self.prepared.count > Self.maximumPrepared,
      PQtransactionStatus(self.handle) != PQTRANS_INERROR
    {
      self.prepared = [:]
      try self.sendUnprepared(PostgresQuery("DEALLOCATE ALL"))
      exchange.answers.append(.nothing)
    }
    for query in queries { try self.send(query, &exchange) }
    guard PQpipelineSync(self.handle) == 1 else { throw self.lost(Self.message(self.handle)) }
    let deadline = ContinuousClock.now + patience
    while true {
      let flushed = PQflush(self.handle)
      if flushed < 0 { throw exchange.failure ?? self.lost(Self.message(self.handle)) }
      if try self.receive(&exchange) { break }
      let events = POLLIN | (flushed == 1 ? POLLOUT : 0)
      guard Self.wait(PQsocket(self.handle), for: events, until: deadline) else {
        throw self.lost("the server does not answer")
      }
      if PQconsumeInput(self.handle) != 1 {
        // What it said before it went is in the buffer.
        if try self.receive(&exchange) { break }
        throw exchange.failure ?? self.lost(Self.message(self.handle))
      }
    }
    if let failure = exchange.failure { throw failure }
    return exchange.rows
  }

  func run(_ query: PostgresQuery) throws(StoreFailure) -> PostgresRows {
    try self.run([query])[0]
  }

  /// Ends a transaction, if one is open. A connection on which that fails is lost.
  func rollBack() {
    if self.isLost || PQtransactionStatus(self.handle) == PQTRANS_IDLE { return }
    do throws(StoreFailure) {
      _ = try self.run(PostgresQuery("ROLLBACK"))
    } catch {
      self.isLost = true
    }
  }

  /// What is still to come back.
  private struct Exchange {
    enum Answer {
      case prepared(text: String, name: String)
      case rows(text: String)
      case nothing
    }

    var answers: [Answer]
    var next = 0
    /// Whether the end of the current answer is still to come.
    var isEndDue = false
    var rows: [PostgresRows] = []
    var failure: StoreFailure?
    var newNames: [String: String] = [:]
  }

  private func send(_ query: PostgresQuery, _ exchange: inout Exchange) throws(StoreFailure) {
    if query.text.utf8.count > Self.maximumPreparedBytes {
      try self.sendUnprepared(query)
      exchange.answers.append(.rows(text: query.text))
      return
    }
    let name: String
    if let known = self.prepared[query.text] ?? exchange.newNames[query.text] {
      name = known
    } else {
      self.statementCount += 1
      name = "s\(self.statementCount)"
      let types = query.parameters.map(\.type)
      guard PQsendPrepare(self.handle, name, query.text, Int32(types.count), types) == 1 else {
        throw self.lost(Self.message(self.handle))
      }
      exchange.newNames[query.text] = name
      exchange.answers.append(.prepared(text: query.text, name: name))
    }
    try self.withParameters(of: query) { values, lengths, formats in
      PQsendQueryPrepared(self.handle, name, Int32(lengths.count), values, lengths, formats, 1)
    }
    exchange.answers.append(.rows(text: query.text))
  }

  private func sendUnprepared(_ query: PostgresQuery) throws(StoreFailure) {
    let types = query.parameters.map(\.type)
    try self.withParameters(of: query) { values, lengths, formats in
      PQsendQueryParams(
        self.handle, query.text, Int32(lengths.count), types, values, lengths, formats, 1)
    }
  }

  /// - Parameter send: With the values, their lengths and their formats, as libpq takes them. Answers 1 if it was
  ///   sent.
  private func withParameters(
    of query: PostgresQuery,
    _ send: (_ values: [UnsafePointer<CChar>?], _ lengths: [Int32], _ formats: [Int32]) -> Int32
  ) throws(StoreFailure) {
    var buffer: [UInt8] = []
    var offsets: [Int] = []
    for parameter in query.parameters {
      offsets.append(buffer.count)
      parameter.append(to: &buffer)
    }
    let lengths = offsets.indices.map { number in
      Int32((number + 1 < offsets.count ? offsets[number + 1] : buffer.count) - offsets[number])
    }
    let formats = Array(repeating: Int32(1), count: offsets.count)
    // A null pointer would be NULL; so an empty buffer still needs an address.
    buffer.append(0)
    let isSent = buffer.withUnsafeBytes { bytes in
      let values = offsets.map { offset in
        bytes.baseAddress.map { ($0 + offset).assumingMemoryBound(to: CChar.self) }
      }
      return send(values, lengths, formats)
    }
    guard isSent == 1 else { throw self.lost(Self.message(self.handle)) }
  }

  /// Takes the answers that have arrived.
  ///
  /// - Returns: Whether all have.
  private func receive(_ exchange: inout Exchange) throws(StoreFailure) -> Bool {
    while PQisBusy(self.handle) == 0 {
      guard let result = PQgetResult(self.handle) else {
        if exchange.isEndDue {
          exchange.isEndDue = false
          exchange.next += 1
          continue
        }
        // Nothing has arrived yet.
        return false
      }
      let status = PQresultStatus(result)
      switch status {
      case PGRES_PIPELINE_SYNC:
        PQclear(result)
        return true
      case PGRES_COMMAND_OK, PGRES_TUPLES_OK:
        guard exchange.next < exchange.answers.count else {
          PQclear(result)
          continue
        }
        exchange.isEndDue = true
        switch exchange.answers[exchange.next] {
        case .prepared(let text, let name):
          self.prepared[text] = name
          PQclear(result)
        case .nothing: PQclear(result)
        case .rows: exchange.rows.append(PostgresRows(result))
        }
      case PGRES_PIPELINE_ABORTED:
        exchange.isEndDue = true
        PQclear(result)
      default:
        exchange.isEndDue = true
        if exchange.failure == nil { exchange.failure = self.failure(of: result, exchange) }
        PQclear(result)
        if PQstatus(self.handle) == CONNECTION_BAD {
          self.isLost = true
          throw exchange.failure ?? self.lost(Self.message(self.handle))
        }
      }
    }
    return false
  }

  private func failure(of result: OpaquePointer, _ exchange: Exchange) -> StoreFailure {
    var action = "running a statement"
    if exchange.next < exchange.answers.count {
      switch exchange.answers[exchange.next] {
      case .nothing: break
      case .prepared(let text, _), .rows(let text): action = "running \"\(singleLine(text))\""
      }
    }
    func field(_ code: Character) -> String? {
      PQresultErrorField(result, Int32(code.asciiValue ?? 0)).map { String(cString: $0) }
    }
    // PG_DIAG_SQLSTATE and PG_DIAG_MESSAGE_PRIMARY, which Swift does not see.
    guard let state = field("C"), let message = field("M") else {
      return self.lost(String(cString: PQresultErrorMessage(result)))
    }
    let failure = StoreFailure(
      sqlState: state, message: message, at: self.address, during: action)
    if failure.kind == .unreachable { self.isLost = true }
    return failure
  }

  private func lost(_ message: String) -> StoreFailure {
    self.isLost = true
    return StoreFailure(.unreachable, "\(self.address): \(singleLine(message))")
  }

  private static func message(_ handle: OpaquePointer) -> String {
    singleLine(String(cString: PQerrorMessage(handle)))
  }

  /// - Returns: Whether something can be done before the deadline.
  private static func wait(
    _ socket: Int32, for events: Int32, until deadline: ContinuousClock.Instant
  ) -> Bool {
    var entry = pollfd(fd: socket, events: Int16(events), revents: 0)
    while true {
      let left = ContinuousClock.now.duration(to: deadline)
      let milliseconds = Int32(clamping: Int64(left / .milliseconds(1)) + 1)
      if milliseconds <= 0 { return false }
      let count = poll(&entry, 1, milliseconds)
      if count > 0 { return true }
      // Interrupted by a signal.
      if count < 0 && errno != EINTR { return false }
    }
  }
}
